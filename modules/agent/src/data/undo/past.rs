//! What the records of the last syncs say after an undo: where it took something back, both machines have nothing in common.
//!
//! Without that the next sync would bring the undone state over in one direction, and lose what the other machine holds. The
//! record of this machine alone is written: the newest one counts, so it is a second younger than it was. Where both machines took
//! something back, the next sync joins their records.

use std::time::Duration;

use pc_switcher_contract::{BytePath, PairRecord, SnapshotMember, SnapshotSet, UtcStamp};

use crate::frame::MAX_BODY;
use crate::linux::snapshots::PAIRS;
use crate::linux::state::StateDir;
use crate::proto::{AgentError, UndoLine, UndoWord};

/// A record with more bytes says nothing at all, and the next sync asks as for strangers: it has to fit into one message.
const MOST: usize = MAX_BODY / 2;

/// Notes in every record since the sync of a pre set which paths are taken back.
///
/// # Errors
/// If a record cannot be read or written: without it the next sync could lose something.
pub(super) fn forget(state: &StateDir, pre: &SnapshotSet, lines: &[UndoLine]) -> Result<(), AgentError> {
    let undone = lines.iter().filter(|line| matches!(line.word, UndoWord::Undone(_)));
    let undone: Vec<&BytePath> = undone.map(|line| &line.path).collect();
    for key in state.list(PAIRS)? {
        let Some(bytes) = state.get(&key)? else { continue };
        let record: PairRecord = serde_json::from_slice(&bytes)
            .map_err(|error| AgentError::failed(format!("the record `{key}` cannot be read: {error}")))?;
        if is_older(&record, pre) {
            continue;
        }
        let record = without(record, &undone);
        let bytes = serde_json::to_vec_pretty(&record)
            .map_err(|error| AgentError::failed(format!("the record `{key}` cannot be written: {error}")))?;
        state.put(&key, Some(&bytes))?;
    }
    Ok(())
}

/// Whether this machine's end of a record was taken before the set, by transactions: clocks are set back.
fn is_older(record: &PairRecord, pre: &SnapshotSet) -> bool {
    let ends = [&record.source, &record.target].into_iter().filter_map(|end| end.set.as_ref());
    let before = |member: &SnapshotMember| {
        let same = pre.members.iter().find(|other| other.source_uuid == member.source_uuid)?;
        Some(member.otransid < same.otransid)
    };
    let mut known = ends.flat_map(|set| &set.members).filter_map(before).peekable();
    known.peek().is_some() && known.all(|is_before| is_before)
}

/// Returns the record without a common past at these paths, whichever machine is the source next time.
fn without(mut record: PairRecord, paths: &[&BytePath]) -> PairRecord {
    for list in [&mut record.unsettled, &mut record.unsent] {
        list.extend(paths.iter().map(|path| (*path).clone()));
        list.sort();
        list.dedup();
    }
    if serde_json::to_vec_pretty(&record).is_ok_and(|bytes| bytes.len() > MOST) {
        record.format = PairRecord::NOTHING;
        for list in [&mut record.unsettled, &mut record.unsent, &mut record.apart, &mut record.alien] {
            list.clear();
        }
        record.lacking.clear();
    }
    let later = record.stamp.timestamp().checked_add(Duration::from_secs(1));
    record.stamp = later.map_or(record.stamp, UtcStamp::new);
    record
}

#[cfg(test)]
mod tests {
    use pc_switcher_contract::{PairEnd, SnapshotKind};

    use super::*;

    fn set(stamp: &str, transaction: u64) -> SnapshotSet {
        SnapshotSet {
            hostname: "desk".parse().unwrap(),
            kind: SnapshotKind::PreSync,
            stamp: stamp.parse().unwrap(),
            session: "0a1b2c3d".parse().unwrap(),
            consistent: true,
            members: vec![SnapshotMember {
                name: format!("@home-presync-{stamp}-0a1b2c3d").parse().unwrap(),
                path: "/.snapshots/x".into(),
                uuid: "1".into(),
                source_uuid: "home".into(),
                id: 300,
                otransid: transaction,
                ctransid: transaction,
                first_taken: None,
                apart: None,
            }],
        }
    }

    fn record(own: Option<SnapshotSet>) -> PairRecord {
        let end = |name: &str, set| PairEnd {
            hostname: name.parse().unwrap(),
            machine_id: name.into(),
            set,
            manifests: Vec::new(),
        };
        PairRecord {
            format: PairRecord::FORMAT,
            session: "feedbeef".parse().unwrap(),
            stamp: "20251115T120000Z".parse().unwrap(),
            source: end("tower", None),
            target: end("desk", own),
            rule_hash: String::new(),
            unsettled: Vec::new(),
            unsent: Vec::new(),
            apart: Vec::new(),
            alien: Vec::new(),
            lacking: Vec::new(),
            parts: Vec::new(),
        }
    }

    #[test]
    fn what_is_taken_back_is_named_on_both_sides_and_too_much_of_it_leaves_no_past() {
        let paths: Vec<BytePath> =
            (0..20_000).map(|at| format!("/home/{at:0>100}").as_str().into()).collect();
        let names: Vec<&BytePath> = paths.iter().collect();
        let some = without(record(None), &names[..5000]);
        assert_eq!((some.unsettled.len(), some.unsent.len(), some.format), (5000, 5000, PairRecord::FORMAT));
        assert_eq!(some.stamp, "20251115T120001Z".parse().unwrap());
        let none = without(some, &names);
        assert_eq!((none.unsettled.len(), none.unsent.len(), none.format), (0, 0, PairRecord::NOTHING));
        let apart = PairRecord { apart: paths.clone(), ..record(None) };
        let none = without(apart, &names[..1]);
        assert!(none.format == PairRecord::NOTHING && serde_json::to_vec_pretty(&none).unwrap().len() < MOST);
    }

    #[test]
    fn a_record_is_older_by_its_transaction_whatever_the_clock_said() {
        let pre = set("20251116T120000Z", 500);
        assert!(is_older(&record(Some(set("20251117T120000Z", 400))), &pre), "the clock was ahead then");
        assert!(!is_older(&record(Some(set("20251114T120000Z", 600))), &pre), "the clock was behind then");
        assert!(!is_older(&record(None), &pre), "what cannot be told is taken to be concerned");
    }
}
