//! Which sets stay and which go: pure. What it means for people is told in docs/snapshots.md.
//!
//! The sets of one session are one unit: its pre set without its post set, or the other way round, is half a way back.
//! Which session is newer is told by the transactions of the disk, which neither a clock that is set nor two syncs in one second
//! can confuse; a store is one file system.
//! Sets that were taken before an undo, a rollback or a guarded command are judged by the same rules, each kind among itself: none
//! pushes another out.
//! Buckets are those of the UTC calendar, and as many of them count as there are sessions in: a clock that runs ahead, or a
//! machine that was off for months, drops nothing for that.

use std::collections::BTreeMap;
use std::fmt;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use pc_switcher_agent::proto::{GoodBy, Need, StoredSet};
use pc_switcher_contract::{SessionId, SetId, SnapshotKind, UtcStamp};

use crate::keep::{Keep, Rule};

/// For so long the sets of a sync that changed nothing stay.
pub const ATTEMPT_AGE: SignedDuration = SignedDuration::from_hours(24);

/// Why a set stays or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Somebody asked that it stays.
    Pinned,
    /// Somebody asked that no tool removes it.
    PinnedHard,
    /// It is a state that is known to be good, marked in this way.
    Good(GoodBy),
    /// Somebody works with it.
    InUse,
    /// The machine cannot do without it.
    Needed(Need),
    /// Somebody took it: only people remove it.
    NoSync,
    /// Whoever took it said that it stays until then.
    Until(UtcStamp),
    /// Whoever took it said that it need not stay for longer.
    Ended(UtcStamp),
    /// Its stamp lies in the future, so one of the clocks is wrong.
    Future,
    /// This rule of `keep` or `keep_min` keeps it.
    Rule(Rule),
    /// It is of the newest session.
    Newest,
    /// It is the newest of its kind.
    NewestOfKind,
    /// Some of what lies with it is on a disk or volume that is not attached: it goes when that is back.
    NotAttached,
    /// Its sync changed nothing here, less than a day ago.
    Attempt,
    /// Its sync changed nothing here, so it is no way back.
    Idle,
    /// No rule keeps it.
    Beyond,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Pinned => f.write_str("pinned"),
            Reason::PinnedHard => f.write_str("pinned hard"),
            Reason::Good(GoodBy::Hand) => f.write_str("the last known good one"),
            Reason::Good(by) => write!(f, "known to be good, marked {by}"),
            Reason::InUse => f.write_str("in use"),
            Reason::Needed(need) => need.fmt(f),
            Reason::NoSync => f.write_str("not taken by a sync"),
            Reason::Until(stamp) => write!(f, "to stay until {} UTC", minute(*stamp)),
            Reason::Ended(stamp) => write!(f, "to stay only until {} UTC", minute(*stamp)),
            Reason::Future => f.write_str("dated in the future"),
            Reason::Rule(rule) => write!(f, "kept by `{rule}`"),
            Reason::Newest => f.write_str("the newest session"),
            Reason::NewestOfKind => f.write_str("the newest of its kind"),
            Reason::NotAttached => f.write_str("not attached, goes when that is back"),
            Reason::Attempt => f.write_str("its sync changed nothing here, less than a day ago"),
            Reason::Idle => f.write_str("its sync changed nothing here"),
            Reason::Beyond => f.write_str("no rule keeps it"),
        }
    }
}

fn minute(stamp: UtcStamp) -> impl fmt::Display {
    stamp.timestamp().to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M").to_string()
}

/// What becomes of one set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The set.
    pub id: SetId,
    /// Whether it stays.
    pub stays: bool,
    /// Why.
    pub reason: Reason,
}

/// Whose sets are judged among themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pool {
    Syncs,
    /// Of what we took by ourselves.
    Of(SnapshotKind),
    ByHand,
}

impl Pool {
    const JUDGED: [Pool; 5] = [
        Pool::Syncs,
        Pool::Of(SnapshotKind::PreRollback),
        Pool::Of(SnapshotKind::AutoUpdate),
        Pool::Of(SnapshotKind::AutoBoot),
        Pool::Of(SnapshotKind::Scheduled),
    ];

    fn of(stored: &StoredSet) -> Self {
        match stored.set.kind {
            SnapshotKind::PreSync | SnapshotKind::PostSync => Pool::Syncs,
            SnapshotKind::Manual | SnapshotKind::Session => Pool::ByHand,
            kind => Pool::Of(kind),
        }
    }
}

/// The sets of one session.
struct Unit<'a> {
    sets: Vec<&'a StoredSet>,
    /// When the first of them was taken.
    stamp: Timestamp,
    /// In which transaction of the disk, 0 if it has no members.
    transaction: u64,
    guard: Option<Reason>,
    /// Until when it was to stay, if that is over.
    ended: Option<UtcStamp>,
    /// What took it.
    pool: Pool,
    /// Whether the session changed something on this machine, or came to its end.
    counts: bool,
}

impl<'a> Unit<'a> {
    fn new(sets: Vec<&'a StoredSet>, now: Timestamp) -> Self {
        let stamps = || sets.iter().map(|stored| stored.set.stamp.timestamp());
        let is_future = stamps().any(|stamp| stamp > now);
        let guard = sets.iter().find_map(|stored| guard(stored, now)).or(is_future.then_some(Reason::Future));
        let counts = |stored: &&StoredSet| {
            stored.has_steps
                || stored.set.kind == SnapshotKind::PostSync
                || matches!(Pool::of(stored), Pool::Of(_))
        };
        // A session of several kinds is a sync's.
        let pool = Pool::JUDGED.into_iter().find(|pool| sets.iter().any(|stored| Pool::of(stored) == *pool));
        Self {
            stamp: stamps().min().unwrap_or(now),
            transaction: sets.iter().map(|stored| stored.set.transaction()).min().unwrap_or_default(),
            counts: !is_future && sets.iter().any(counts),
            ended: sets.iter().find_map(|stored| stored.words.until),
            pool: pool.unwrap_or(Pool::ByHand),
            guard,
            sets,
        }
    }
}

/// What keeps a set whatever the rules say.
fn guard(stored: &StoredSet, now: Timestamp) -> Option<Reason> {
    if stored.pinned {
        return Some(if stored.is_pinned_hard() { Reason::PinnedHard } else { Reason::Pinned });
    }
    if stored.words.good {
        return Some(Reason::Good(stored.words.good_by));
    }
    if let Some(need) = stored.needs.first() {
        return Some(Reason::Needed(need.clone()));
    }
    match (stored.in_use, stored.words.until, Pool::of(stored)) {
        (true, ..) => Some(Reason::InUse),
        (_, Some(until), _) if until.timestamp() > now => Some(Reason::Until(until)),
        (_, None, Pool::ByHand) => Some(Reason::NoSync),
        (_, Some(_), _) | (_, None, Pool::Syncs | Pool::Of(_)) => None,
    }
}

/// Judges all sets of one machine, oldest first. `keep_min` keeps as `keep` does; it is what stays even where space is short.
pub fn judge(sets: &[StoredSet], now: Timestamp, keep: &Keep, keep_min: &Keep) -> Vec<Verdict> {
    let mut sessions: BTreeMap<&SessionId, Vec<&StoredSet>> = BTreeMap::new();
    for stored in sets {
        sessions.entry(&stored.set.session).or_default().push(stored);
    }
    let mut units: Vec<Unit<'_>> = sessions.into_values().map(|sets| Unit::new(sets, now)).collect();
    // Newest first, always in the same order.
    units.sort_by(|a, b| {
        let by_time = || b.stamp.cmp(&a.stamp).then_with(|| b.sets[0].set.id().cmp(&a.sets[0].set.id()));
        b.transaction.cmp(&a.transaction).then_with(by_time)
    });
    let mut kept: Vec<Option<Rule>> = vec![None; units.len()];
    for pool in Pool::JUDGED {
        let counts = |index: &usize| units[*index].counts && units[*index].pool == pool;
        let counting: Vec<usize> = (0..units.len()).filter(counts).collect();
        let stamps: Vec<Timestamp> = counting.iter().map(|index| units[*index].stamp).collect();
        for rule in keep.rules().iter().chain(keep_min.rules()) {
            for index in rule.chosen(&stamps, now) {
                kept[counting[index]].get_or_insert(*rule);
            }
        }
    }
    let mut verdicts = Vec::new();
    let is_newest = |index: usize| {
        let is_of_it =
            |unit: &Unit<'_>| unit.pool == units[index].pool && !matches!(unit.guard, Some(Reason::Future));
        units[index].pool != Pool::ByHand && units.iter().position(is_of_it) == Some(index)
    };
    for (index, unit) in units.iter().enumerate() {
        let rule = kept[index];
        let is_fresh = now.duration_since(unit.stamp) < ATTEMPT_AGE;
        let (stays, reason) = match (&unit.guard, rule) {
            (Some(guard), _) => (true, guard.clone()),
            (None, None) if let Some(until) = unit.ended => (false, Reason::Ended(until)),
            (None, Some(rule)) => (true, Reason::Rule(rule)),
            (None, None) if is_newest(index) => match unit.pool {
                Pool::Syncs => (true, Reason::Newest),
                _ => (true, Reason::NewestOfKind),
            },
            (None, None) if unit.counts => (false, Reason::Beyond),
            (None, None) if is_fresh => (true, Reason::Attempt),
            (None, None) => (false, Reason::Idle),
        };
        // The agent would let it stay, all of it or the half that is on that disk.
        let (stays, reason) = match stays || unit.sets.iter().all(|stored| stored.away.is_empty()) {
            true => (stays, reason),
            false => (true, Reason::NotAttached),
        };
        let verdict = |stored: &&StoredSet| Verdict { id: stored.set.id(), stays, reason: reason.clone() };
        verdicts.extend(unit.sets.iter().map(verdict));
    }
    verdicts.sort_by(|a, b| a.id.cmp(&b.id));
    verdicts
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod year_tests;
