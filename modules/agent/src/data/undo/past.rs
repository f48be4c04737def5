//! What the records of the last syncs say after an undo: where it took something back, both machines have nothing in common.
//!
//! Without that the next sync would bring the undone state over in one direction, and lose what the other machine holds. The
//! record of this machine alone is written: the newest one counts, so it is a second younger than it was.

use std::time::Duration;

use pc_switcher_contract::{BytePath, PairRecord, SnapshotSet, UtcStamp};

use crate::linux::snapshots::PAIRS;
use crate::linux::state::StateDir;
use crate::proto::{AgentError, UndoLine, UndoWord};

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
        if record.stamp < pre.stamp && record.session != pre.session {
            continue;
        }
        let record = without(record, &undone);
        let bytes = serde_json::to_vec_pretty(&record)
            .map_err(|error| AgentError::failed(format!("the record `{key}` cannot be written: {error}")))?;
        state.put(&key, Some(&bytes))?;
    }
    Ok(())
}

/// Returns the record without a common past at these paths, whichever machine is the source next time.
fn without(mut record: PairRecord, paths: &[&BytePath]) -> PairRecord {
    for list in [&mut record.unsettled, &mut record.unsent] {
        list.extend(paths.iter().map(|path| (*path).clone()));
        list.sort();
        list.dedup();
    }
    let later = record.stamp.timestamp().checked_add(Duration::from_secs(1));
    record.stamp = later.map_or(record.stamp, UtcStamp::new);
    record
}
