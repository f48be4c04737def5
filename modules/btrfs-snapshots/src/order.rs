//! In which order sessions go where space is short: pure.
//!
//! First those that no rule of `keep` keeps, by what took them (facts/archive-loop.md A43), then those that `keep_min` can spare,
//! the one that holds the most first. What any rule of `keep_min`, a pin or a mark keeps is never among them.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use pc_switcher_agent::proto::{Gain, SpaceReport};
use pc_switcher_contract::{SessionId, SetId, SnapshotKind, Threshold};

use crate::retention::Verdict;

/// A session that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub session: SessionId,
    /// What only its sets hold, in bytes of data.
    pub data_bytes: u64,
}

/// Returns the sessions that may go, the first first. `judged` is by `keep`, `to_spare` by `keep_min` alone.
pub fn order(judged: &[Verdict], to_spare: &[Verdict], gains: &[Gain]) -> Vec<Candidate> {
    let mut sessions: BTreeMap<&SessionId, Vec<&Verdict>> = BTreeMap::new();
    for verdict in to_spare {
        sessions.entry(&verdict.id.session).or_default().push(verdict);
    }
    sessions.retain(|_, verdicts| verdicts.iter().all(|verdict| !verdict.stays));
    let is_kept = |id: &SetId| judged.iter().any(|verdict| verdict.id == *id && verdict.stays);
    let candidate = |(session, verdicts): (&SessionId, Vec<&Verdict>)| {
        let gain = gains.iter().find(|gain| gain.session == *session);
        let data_bytes = gain.map_or(0, |gain| gain.data_bytes);
        let is_kept = verdicts.iter().any(|verdict| is_kept(&verdict.id));
        let rank = verdicts.iter().map(|verdict| rank(verdict.id.kind)).max().filter(|_| !is_kept);
        let first = verdicts.iter().map(|verdict| verdict.id.clone()).min();
        ((is_kept, rank, Reverse(data_bytes), first), Candidate { session: session.clone(), data_bytes })
    };
    let mut found: Vec<_> = sessions.into_iter().map(candidate).collect();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found.into_iter().map(|(_, candidate)| candidate).collect()
}

/// A session that would go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub session: SessionId,
    /// Its sets that would go, oldest first.
    pub sets: Vec<SetId>,
    /// What only its sets hold, in bytes of data.
    pub data_bytes: u64,
    /// Whether a rule of `keep` keeps it, and only want of space would have it go.
    pub is_kept: bool,
}

/// What would go for so much space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preview {
    /// So much is to be available, in bytes.
    pub wanted_bytes: u64,
    /// What is available now, in bytes.
    pub available_bytes: u64,
    /// The sessions that would go, in their order.
    pub steps: Vec<Step>,
    /// Whether that is enough, by what each of them holds by itself.
    pub is_enough: bool,
}

impl Preview {
    /// Returns what would be available afterwards at least: what two sessions hold together comes free on top of it.
    pub fn afterwards_bytes(&self) -> u64 {
        let freed = self.steps.iter().fold(0u64, |sum, step| sum.saturating_add(step.data_bytes));
        self.available_bytes.saturating_add(freed)
    }
}

/// Returns what would go: all that no rule of `keep` keeps, then in the order of [`order`] until there is enough.
pub fn preview(
    report: &SpaceReport,
    wanted: Threshold,
    judged: &[Verdict],
    to_spare: &[Verdict],
    gains: &[Gain],
) -> Preview {
    let gain = |session: &SessionId| {
        gains.iter().find(|gain| gain.session == *session).map_or(0, |gain| gain.data_bytes)
    };
    let mut going: BTreeMap<&SessionId, Vec<SetId>> = BTreeMap::new();
    for verdict in judged.iter().filter(|verdict| !verdict.stays) {
        going.entry(&verdict.id.session).or_default().push(verdict.id.clone());
    }
    let is_whole = |session: &SessionId| {
        judged.iter().filter(|verdict| verdict.id.session == *session).all(|verdict| !verdict.stays)
    };
    let unkept = going.into_iter().map(|(session, sets)| Step {
        session: session.clone(),
        sets,
        data_bytes: if is_whole(session) { gain(session) } else { 0 },
        is_kept: false,
    });
    let mut steps: Vec<Step> = unkept.collect();
    steps.sort_by(|a, b| a.sets.cmp(&b.sets));
    let missing = missing(report, wanted);
    let mut held = steps.iter().fold(0u64, |sum, step| sum.saturating_add(step.data_bytes));
    for next in order(judged, to_spare, gains) {
        let is_known = steps.iter().any(|step| step.session == next.session);
        if is_known || missing.is_none_or(|missing| held >= missing) {
            continue;
        }
        let of_it = to_spare.iter().filter(|verdict| verdict.id.session == next.session);
        held = held.saturating_add(next.data_bytes);
        steps.push(Step {
            sets: of_it.map(|verdict| verdict.id.clone()).collect(),
            session: next.session,
            data_bytes: next.data_bytes,
            is_kept: true,
        });
    }
    Preview {
        wanted_bytes: wanted.bytes_of(report.size_bytes),
        available_bytes: report.available_bytes,
        steps,
        is_enough: missing.is_some_and(|missing| held >= missing),
    }
}

/// How early sets of a kind go: ways back last.
fn rank(kind: SnapshotKind) -> u8 {
    match kind {
        SnapshotKind::Session => 0,
        SnapshotKind::Manual | SnapshotKind::Scheduled => 1,
        SnapshotKind::AutoUpdate | SnapshotKind::AutoBoot => 2,
        SnapshotKind::PreSync | SnapshotKind::PostSync => 3,
        SnapshotKind::PreRollback => 4,
    }
}

/// Returns how much is missing; `None` if the numbers cannot be true, or no removal could ever be enough: then nothing may go.
pub fn missing(report: &SpaceReport, wanted: Threshold) -> Option<u64> {
    let wanted = wanted.bytes_of(report.size_bytes);
    let is_credible = report.size_bytes > 0 && report.available_bytes <= report.size_bytes;
    (is_credible && wanted <= report.size_bytes).then(|| wanted.saturating_sub(report.available_bytes))
}

/// Less than this may be lost among what everybody else writes meanwhile.
const NOTICEABLE: u64 = 16 << 20;

/// What was to come free since the file system was looked at last with an answer.
#[derive(Debug)]
pub struct Expected {
    data_bytes: u64,
    since: SpaceReport,
}

impl Expected {
    /// Expects nothing yet.
    pub fn since(report: &SpaceReport) -> Self {
        Self { data_bytes: 0, since: report.clone() }
    }

    /// Adds what a session held that went.
    pub fn add(&mut self, data_bytes: u64) {
        self.data_bytes = self.data_bytes.saturating_add(data_bytes);
    }

    /// Whether nothing came free though much was to: then the numbers are old or somebody else fills the disk, and to go on would
    /// remove one set after the other for nothing.
    pub fn is_in_vain(&mut self, now: &SpaceReport) -> bool {
        if self.data_bytes < NOTICEABLE {
            return false;
        }
        let roomy = |report: &SpaceReport| report.data_free_bytes.saturating_add(report.unallocated_bytes);
        let is_in_vain =
            now.available_bytes <= self.since.available_bytes && roomy(now) <= roomy(&self.since);
        *self = Self::since(now);
        is_in_vain
    }
}

#[cfg(test)]
mod tests;
