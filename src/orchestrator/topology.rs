//! Judges by facts whether this sync follows from the last ones: pure.
//!
//! With a valid record of the pair, any order is silent: A→B→A and A→B→B alike. No record means a first sync; another
//! machine that wrote to the target in between is out of order. What people changed on the target is found later, per path.
//!
//! A run that is cut off between the two halves of the record leaves the newer one on one machine alone. It is as true as
//! two of them, as long as both sets that it names are there untouched; a machine that was restored has lost its end.

use pc_switcher_contract::{Gate, GateKind, Hostname, PairRecord};

/// Why the two machines count as strangers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stranger {
    /// Neither has a record of the other.
    NoRecord,
    /// The records of both differ: one of them was restored or lost a sync.
    Differ,
    /// A machine lost its end: the text says why.
    Broken(String),
}

impl Stranger {
    /// Says why, a fragment.
    pub fn explain(&self, one: &Hostname, other: &Hostname) -> String {
        match self {
            Stranger::NoRecord => format!("{one} and {other} have never been synced with each other"),
            Stranger::Differ => {
                format!(
                    "{one} and {other} remember different last syncs: one of them went back or was restored"
                )
            }
            Stranger::Broken(why) => format!("the last sync of {one} and {other} cannot be used: {why}"),
        }
    }
}

/// What is known of the two machines' past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Past {
    /// They have a record; it is valid if both sets that it names are there.
    Known {
        /// The record.
        record: Box<PairRecord>,
        /// Whether both machines have it.
        by_both: bool,
    },
    /// They do not.
    Stranger(Stranger),
}

/// Compares both machines' records of each other. The newer one counts, and never the older: what came after it is unknown. Those of
/// one sync count together: either machine may have gone back behind it, or taken back a part of it.
pub fn past(on_source: Option<PairRecord>, on_target: Option<PairRecord>) -> Past {
    let by_both = on_source == on_target;
    let newest = match (on_source, on_target) {
        (Some(one), Some(other)) if one.session == other.session => Some(joined(one, other)),
        (one, other) => [one, other].into_iter().flatten().max_by_key(|record| record.stamp),
    };
    match newest {
        None => Past::Stranger(Stranger::NoRecord),
        Some(record) if record.format == PairRecord::NOTHING => {
            Past::Stranger(Stranger::Broken("one of them went back behind it".into()))
        }
        Some(record) if record.format != PairRecord::FORMAT => {
            let (its, ours) = (record.format, PairRecord::FORMAT);
            Past::Stranger(Stranger::Broken(format!(
                "its record has format {its}, and this program knows {ours}"
            )))
        }
        Some(record) => Past::Known { record: Box::new(record), by_both },
    }
}

/// Joins two records of one sync.
fn joined(one: PairRecord, other: PairRecord) -> PairRecord {
    if one.format != other.format {
        return if other.format == PairRecord::FORMAT { one } else { other };
    }
    let (mut newer, older) = if other.stamp >= one.stamp { (other, one) } else { (one, other) };
    for (list, more) in [(&mut newer.unsettled, older.unsettled), (&mut newer.unsent, older.unsent)] {
        list.extend(more);
        list.sort();
        list.dedup();
    }
    newer
}

/// Returns the gate of a first sync. `overwrites` says per module what it overwrites.
pub fn first_sync(source: &Hostname, target: &Hostname, why: &Stranger, overwrites: &[String]) -> Gate {
    let mut findings = vec![why.explain(source, target)];
    findings.extend(overwrites.iter().cloned());
    let consequence = format!(
        "{target} becomes like {source}; what {target} alone has in these places stays in its pre-sync snapshots only, and \
         where there are none in `.pc-switcher` until the next sync"
    );
    Gate { kind: GateKind::FirstSync, summary: None, findings, consequence }
}

/// Returns the gate of a sync after another machine wrote to the target. `others` are the target's records with other
/// machines.
pub fn out_of_order(
    source: &Hostname,
    target: &Hostname,
    pair: &PairRecord,
    others: &[PairRecord],
) -> Option<Gate> {
    let later: Vec<String> = others
        .iter()
        .filter(|other| other.target.hostname.same_machine(target) && is_later(target, other, pair))
        .filter(|other| !other.source.hostname.same_machine(source))
        .map(|other| {
            format!(
                "{} was synced to {target} on {}, after {source}",
                other.source.hostname,
                other.stamp.timestamp()
            )
        })
        .collect();
    (!later.is_empty()).then(|| Gate {
        kind: GateKind::OutOfOrder,
        summary: None,
        findings: later,
        consequence: format!("what came to {target} from there is overwritten where it conflicts"),
    })
}

/// Whether the target came by `other` after `pair`: by its own count of transactions, if both hold one subvolume of it, since the
/// clocks of other machines say little.
fn is_later(target: &Hostname, other: &PairRecord, pair: &PairRecord) -> bool {
    let end = [&pair.target, &pair.source].into_iter().find(|end| end.hostname.same_machine(target));
    let same = end.and_then(|end| {
        let (theirs, ours) = other.target.set.as_ref().zip(end.set.as_ref())?;
        theirs.members.iter().find_map(|other| {
            let twin = ours.members.iter().find(|member| member.source_uuid == other.source_uuid)?;
            Some(other.otransid > twin.otransid)
        })
    });
    same.unwrap_or(other.stamp > pair.stamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pc_switcher_contract::{BytePath, PairEnd, SnapshotKind, SnapshotSet};

    fn end(name: &str) -> PairEnd {
        let hostname: Hostname = name.parse().unwrap();
        let set = SnapshotSet {
            hostname: hostname.clone(),
            kind: SnapshotKind::PreSync,
            stamp: "20251115T120000Z".parse().unwrap(),
            session: "abc12345".parse().unwrap(),
            consistent: true,
            members: vec![],
        };
        PairEnd { hostname, machine_id: name.into(), set: Some(set), manifests: Vec::new() }
    }

    fn record(source: &str, target: &str, stamp: &str) -> PairRecord {
        PairRecord {
            format: PairRecord::FORMAT,
            session: "abc12345".parse().unwrap(),
            stamp: stamp.parse().unwrap(),
            source: end(source),
            target: end(target),
            rule_hash: "r".into(),
            unsettled: Vec::new(),
            unsent: Vec::new(),
            apart: Vec::new(),
            alien: Vec::new(),
            lacking: Vec::new(),
            parts: Vec::new(),
        }
    }

    #[test]
    fn the_newest_record_counts_wherever_it_is() {
        let one = record("laptop", "desk", "20251115T120000Z");
        let two = record("desk", "laptop", "20251116T120000Z");
        let known = |record: &PairRecord, by_both| Past::Known { record: Box::new(record.clone()), by_both };
        assert_eq!(past(Some(one.clone()), Some(one.clone())), known(&one, true));
        let two = PairRecord { session: "abc12346".parse().unwrap(), ..two };
        assert_eq!(past(Some(one.clone()), Some(two.clone())), known(&two, false));
        assert_eq!(past(Some(two.clone()), Some(one.clone())), known(&two, false));
        assert_eq!(past(None, Some(one.clone())), known(&one, false));
        assert_eq!(past(None, None), Past::Stranger(Stranger::NoRecord));
        let strange = PairRecord { format: 0, ..two };
        assert!(matches!(past(Some(one), Some(strange)), Past::Stranger(Stranger::Broken(_))));
    }

    #[test]
    fn what_either_machine_took_back_of_one_sync_counts_whoever_did_more_of_it() {
        let taken_back = |stamp: &str, paths: &[&str]| {
            let paths: Vec<BytePath> = paths.iter().map(|path| (*path).into()).collect();
            PairRecord { unsettled: paths.clone(), unsent: paths, ..record("laptop", "desk", stamp) }
        };
        let one = taken_back("20251115T120001Z", &["/home/f", "/home/g"]);
        for stamp in ["20251115T120001Z", "20251115T120002Z"] {
            let other = taken_back(stamp, &["/home/g", "/home/h"]);
            for (here, there) in [(&one, &other), (&other, &one)] {
                let Past::Known { record, by_both: false } = past(Some(here.clone()), Some(there.clone()))
                else {
                    panic!("they have a past");
                };
                let all = ["/home/f", "/home/g", "/home/h"].map(BytePath::from);
                assert_eq!((record.unsettled, record.unsent), (all.to_vec(), all.to_vec()));
            }
            let nothing = PairRecord { format: PairRecord::NOTHING, ..other };
            for (here, there) in [(&one, &nothing), (&nothing, &one)] {
                assert!(
                    matches!(past(Some(here.clone()), Some(there.clone())), Past::Stranger(_)),
                    "{stamp}"
                );
            }
        }
    }

    #[test]
    fn a_record_of_another_format_is_no_past() {
        let mut old = record("laptop", "desk", "20251115T120000Z");
        old.format = 0;
        assert!(matches!(past(Some(old.clone()), Some(old)), Past::Stranger(_)));
    }

    #[test]
    fn only_a_later_write_to_the_target_is_out_of_order() {
        let (laptop, desk) = ("laptop".parse().unwrap(), "desk".parse().unwrap());
        let pair = record("laptop", "desk", "20251115T120000Z");
        let judge = |others: &[PairRecord]| out_of_order(&laptop, &desk, &pair, others).map(|gate| gate.kind);
        assert_eq!(judge(&[]), None);
        assert_eq!(judge(&[record("tower", "desk", "20251114T120000Z")]), None);
        assert_eq!(judge(&[record("desk", "tower", "20251116T120000Z")]), None);
        assert_eq!(judge(&[record("tower", "Desk", "20251116T120000Z")]), Some(GateKind::OutOfOrder));
    }

    #[test]
    fn a_clock_that_lies_does_not_change_what_came_later() {
        let (laptop, desk) = ("laptop".parse().unwrap(), "desk".parse().unwrap());
        let at = |source: &str, stamp: &str, otransid: u64| {
            let mut record = record(source, "desk", stamp);
            let member = pc_switcher_contract::SnapshotMember {
                name: "@home-postsync-20251115T120000Z-abc12345".parse().unwrap(),
                path: "/.snapshots/x".into(),
                uuid: otransid.to_string(),
                source_uuid: "home".into(),
                id: otransid,
                otransid,
                ctransid: otransid,
                first_taken: None,
                apart: None,
            };
            record.target.set.as_mut().unwrap().members.push(member);
            record
        };
        let pair = at("laptop", "20251115T120000Z", 100);
        let judge = |other: PairRecord| out_of_order(&laptop, &desk, &pair, &[other]).is_some();
        assert!(judge(at("tower", "20251113T120000Z", 101)), "two days behind, and later");
        assert!(!judge(at("tower", "20351113T120000Z", 99)), "years ahead, and earlier");
    }
}
