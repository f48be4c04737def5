//! Which of a machine's own snapshots stay in a vault: pure.
//!
//! A backup is a session of the `keep` language. What others wrote is never judged, and without rules everything stays.

use std::path::Path;

use jiff::Timestamp;
use pc_switcher_contract::keep::{Keep, Rule};
use serde::{Serialize, Serializer};

use crate::engine::REPAIRED;
use crate::format::{Id, Snapshot};

/// What all our snapshots are tagged with.
const OURS: &str = "pc-switcher";
/// What those of ours are tagged with that are without something that should be in them.
pub(super) const PARTIAL: &str = "partial";
/// What says which machine's they are, before its id.
const HOST: &str = "host=";

/// Why a snapshot stays or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Another machine or program wrote it.
    Foreign,
    /// No rules are set.
    NoRules,
    /// Somebody gave it this tag.
    Tagged(String),
    /// Its time lies in the future, so a clock was wrong.
    Future,
    /// This rule of `keep` keeps it.
    Rule(Rule),
    /// It is the newest one.
    Newest,
    /// This rule of `keep_min` keeps it, whatever the others say.
    Least(Rule),
    /// It is the last one from before most of a directory was lost.
    BeforeLoss,
    /// It is the last one of a directory that no later one has.
    LastOf(String),
    /// No rule keeps it.
    Beyond,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::Foreign => f.write_str("of another machine or program"),
            Reason::NoRules => f.write_str("no `keep` is set"),
            Reason::Tagged(tag) => write!(f, "tagged `{tag}`"),
            Reason::Future => f.write_str("dated in the future"),
            Reason::Rule(rule) => write!(f, "kept by `{rule}`"),
            Reason::Newest => f.write_str("the newest one"),
            Reason::Least(rule) => write!(f, "kept by `{rule}` of `keep_min`"),
            Reason::BeforeLoss => f.write_str("the last one before many files were gone or changed"),
            Reason::LastOf(path) => write!(f, "the last one of {path}"),
            Reason::Beyond => f.write_str("no rule keeps it"),
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What becomes of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The snapshot.
    pub snapshot: Id,
    /// When it was taken.
    pub time: String,
    /// Whether it stays.
    pub stays: bool,
    /// Why.
    pub reason: Reason,
}

/// Returns the tags of a snapshot of this machine.
pub(super) fn tags(host_id: &str) -> Vec<String> {
    vec![OURS.into(), format!("{HOST}{host_id}")]
}

/// Whether a snapshot of ours is without something that should be in it.
pub fn is_partial(snapshot: &Snapshot) -> bool {
    host_of(snapshot).is_some() && snapshot.tags.iter().any(|tag| tag == PARTIAL)
}

/// Returns the id of the machine that wrote a snapshot, if we did.
pub(super) fn host_of(snapshot: &Snapshot) -> Option<&str> {
    let is_ours = snapshot.tags.iter().any(|tag| tag == OURS);
    snapshot.tags.iter().find_map(|tag| tag.strip_prefix(HOST)).filter(|_| is_ours)
}

/// Whether a machine wrote a snapshot.
pub(super) fn is_of(snapshot: &Snapshot, host_id: &str) -> bool {
    host_of(snapshot) == Some(host_id)
}

/// Judges all snapshots of a vault, which come the oldest first. `losses` are when many files were found gone.
pub(super) fn judge(
    snapshots: &[(Id, Snapshot)],
    host_id: &str,
    now: Timestamp,
    keep: Option<&Keep>,
    keep_min: Option<&Keep>,
    losses: &[Timestamp],
) -> Vec<Verdict> {
    let time = |index: usize| snapshots[index].1.time.parse::<Timestamp>().unwrap_or(Timestamp::MAX);
    let own = |index: &usize| is_of(&snapshots[*index].1, host_id);
    let newest_first: Vec<usize> =
        (0..snapshots.len()).rev().filter(own).filter(|index| time(*index) <= now).collect();
    let stamps: Vec<Timestamp> = newest_first.iter().map(|index| time(*index)).collect();
    let kept_by = |keep: Option<&Keep>| {
        let mut kept: Vec<Option<Rule>> = vec![None; snapshots.len()];
        for rule in keep.into_iter().flat_map(Keep::rules) {
            for index in rule.chosen(&stamps, now) {
                kept[newest_first[index]].get_or_insert(*rule);
            }
        }
        kept
    };
    let before_loss = |index: usize| {
        let last = |loss: &Timestamp| newest_first.iter().find(|other| time(**other) < *loss);
        losses.iter().any(|loss| last(loss) == Some(&index))
    };
    let (kept, least) = (kept_by(keep), kept_by(keep_min));
    let own_tags = tags(host_id);
    let reason = |index: usize| {
        let snapshot = &snapshots[index].1;
        if !own(&index) {
            return Reason::Foreign;
        }
        // A backup says that something is missing, and a repair gives a tag to what it writes anew; nobody asked to keep that.
        let is_given = |tag: &String| {
            own_tags.contains(tag) || tag == PARTIAL || snapshot.original.is_some() && tag == REPAIRED
        };
        if let Some(tag) = snapshot.tags.iter().find(|tag| !is_given(tag)) {
            return Reason::Tagged(tag.clone());
        }
        let later =
            || newest_first.iter().take_while(|other| **other != index).map(|other| &snapshots[*other].1);
        match kept[index] {
            _ if time(index) > now => Reason::Future,
            Some(rule) => Reason::Rule(rule),
            None if later().next().is_none() => Reason::Newest,
            None if keep.is_none() => Reason::NoRules,
            None if least[index].is_some() => least[index].map_or(Reason::Beyond, Reason::Least),
            None if before_loss(index) => Reason::BeforeLoss,
            None => {
                let is_later = |path: &&String| {
                    later().any(|other| other.paths.iter().any(|held| Path::new(path).starts_with(held)))
                };
                let last = snapshot.paths.iter().find(|path| !is_later(path));
                last.map_or(Reason::Beyond, |path| Reason::LastOf(path.clone()))
            }
        }
    };
    let verdict = |index: usize| {
        let reason = reason(index);
        let (snapshot, time) = (snapshots[index].0, snapshots[index].1.time.clone());
        Verdict { snapshot, time, stays: reason != Reason::Beyond, reason }
    };
    (0..snapshots.len()).map(verdict).collect()
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;

    const OWN: &str = "7f3c0000-0000-4000-8000-000000000000";

    fn snapshot(hour: i64, paths: &[&str]) -> (Id, Snapshot) {
        let made = Snapshot {
            time: (Timestamp::UNIX_EPOCH + hour.hours()).to_string(),
            parent: None,
            tree: Id::default(),
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            hostname: "laptop".into(),
            username: String::new(),
            uid: 0,
            gid: 0,
            tags: tags(OWN),
            original: None,
            program_version: String::new(),
        };
        (Id::of(&hour.to_le_bytes()), made)
    }

    fn reasons(snapshots: &[(Id, Snapshot)], hour: i64, keep: Option<&str>) -> Vec<String> {
        let keep: Option<Keep> = keep.map(|text| text.parse().unwrap());
        reasons_with(snapshots, hour, keep.as_ref(), None)
    }

    fn reasons_with(
        snapshots: &[(Id, Snapshot)],
        hour: i64,
        keep: Option<&Keep>,
        keep_min: Option<&Keep>,
    ) -> Vec<String> {
        let now = Timestamp::UNIX_EPOCH + hour.hours();
        let verdicts = judge(snapshots, OWN, now, keep, keep_min, &[]);
        verdicts.iter().map(|verdict| verdict.reason.to_string()).collect()
    }

    #[test]
    fn rules_keep_what_they_name_and_the_newest_always_stays() {
        let all: Vec<_> = [0, 1, 26, 50].map(|hour| snapshot(hour, &["/docs"])).into();
        assert_eq!(
            reasons(&all, 60, Some("last 1 session, 2d")),
            ["no rule keeps it", "no rule keeps it", "kept by `2d`", "kept by `last 1 session`"]
        );
        assert_eq!(reasons(&all, 6000, Some("all 1h"))[2..], ["no rule keeps it", "the newest one"]);
        assert_eq!(reasons(&all, 60, None)[2..], ["no `keep` is set", "the newest one"]);
    }

    #[test]
    fn keep_min_keeps_what_the_other_rules_would_let_go() {
        let all: Vec<_> = [0, 1, 26, 50].map(|hour| snapshot(hour, &["/docs"])).into();
        let (keep, least): (Keep, Keep) = ("all 1h".parse().unwrap(), "last 3 sessions".parse().unwrap());
        assert_eq!(
            reasons_with(&all, 6000, Some(&keep), Some(&least)),
            [
                "no rule keeps it",
                "kept by `last 3 sessions` of `keep_min`",
                "kept by `last 3 sessions` of `keep_min`",
                "the newest one"
            ]
        );
        assert_eq!(reasons_with(&all, 60, None, Some(&least))[2], "no `keep` is set");
    }

    #[test]
    fn the_last_one_before_a_loss_stays() {
        let all: Vec<_> = [0, 1, 2, 3].map(|hour| snapshot(hour, &["/docs"])).into();
        let keep: Keep = "last 1 session".parse().unwrap();
        let at = |hour: i64| Timestamp::UNIX_EPOCH + hour.hours();
        let stay = |losses: &[Timestamp]| -> Vec<bool> {
            let verdicts = judge(&all, OWN, at(60), Some(&keep), None, losses);
            verdicts.iter().map(|verdict| verdict.stays).collect()
        };
        assert_eq!(stay(&[]), [false, false, false, true]);
        // The backup that found it writes its snapshot then or a little later.
        assert_eq!(stay(&[at(2)]), [false, true, false, true]);
        assert_eq!(stay(&[at(0), at(1) + 1.minute()]), [false, true, false, true]);
    }

    #[test]
    fn what_others_wrote_or_tagged_and_what_no_later_one_has_stays() {
        let mut all: Vec<_> = [0, 1, 2, 3].map(|hour| snapshot(hour, &["/docs"])).into();
        all[0].1.tags.push("tax".into());
        all[1].1.paths.push("/old".into());
        all[2].1.tags = tags("another");
        let mut theirs = snapshot(4, &["/docs"]);
        theirs.1.tags.clear();
        all.push(theirs);
        all.push(snapshot(900, &["/"]));
        let foreign = "of another machine or program";
        assert_eq!(
            reasons(&all, 60, Some("last 1 session")),
            [
                "tagged `tax`",
                "the last one of /old",
                foreign,
                "kept by `last 1 session`",
                foreign,
                "dated in the future"
            ]
        );
        let later = reasons(&all, 901, Some("last 1 session"));
        assert_eq!(later[1], "no rule keeps it", "`/` has `/old`");
    }

    #[test]
    fn what_is_partial_goes_by_the_rules_like_what_is_whole() {
        let mut all: Vec<_> = [0, 1, 2].map(|hour| snapshot(hour, &["/docs"])).into();
        all[0].1.tags.push(PARTIAL.into());
        all[1].1.tags.extend([PARTIAL.into(), "tax".into()]);
        assert_eq!(
            reasons(&all, 60, Some("last 1 session")),
            ["no rule keeps it", "tagged `tax`", "kept by `last 1 session`"]
        );
    }

    #[test]
    fn what_a_repair_wrote_anew_goes_by_the_rules_like_what_it_was() {
        let mut all: Vec<_> = [0, 1, 2].map(|hour| snapshot(hour, &["/docs"])).into();
        for (_, one) in &mut all {
            one.tags.push("repaired".into());
        }
        all[0].1.original = Some(Id::default());
        all[1].1.original = Some(Id::default());
        all[1].1.tags.push("tax".into());
        assert_eq!(
            reasons(&all, 60, Some("all 1h")),
            ["no rule keeps it", "tagged `tax`", "tagged `repaired`"],
            "the last one got the tag from somebody"
        );
    }
}
