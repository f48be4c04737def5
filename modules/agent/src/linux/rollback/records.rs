//! What a machine remembers of its last syncs does not hold for a tree that was taken back: the next sync must ask.
//!
//! A record of another format counts for nothing, and the newest record counts: so one that is a second younger and says
//! nothing makes both machines strangers, whatever the other machine remembers.

use std::time::Duration;

use pc_switcher_contract::{PairRecord, UtcStamp};

use crate::linux::snapshots::PAIRS;
use crate::linux::state::StateDir;
use crate::proto::AgentError;

/// Returns all records as they are: key and content.
pub(super) fn read(state: &StateDir) -> Result<Vec<(String, String)>, AgentError> {
    let mut all = Vec::new();
    for key in state.list(PAIRS)? {
        if let Some(bytes) = state.get(&key)? {
            all.push((key, String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    Ok(all)
}

/// Makes strangers of this machine and those of the records.
pub(super) fn forget(state: &StateDir, records: &[(String, String)]) -> Result<(), AgentError> {
    for (key, text) in records {
        if let Some(forgotten) = forgotten(text) {
            state.put(key, Some(&forgotten))?;
        }
    }
    Ok(())
}

/// Returns what `records` become when the trees from before are put back: where a sync came since, what it left holds for them
/// no more than what was before.
///
/// # Errors
/// If the machine state cannot be read.
pub(super) fn at_the_end(
    state: &StateDir,
    records: &[(String, String)],
) -> Result<Vec<(String, String)>, AgentError> {
    let mut all = Vec::new();
    for (key, now) in read(state)? {
        let then = records.iter().find(|(known, _)| *known == key).map(|(_, text)| text);
        let text = match then {
            Some(then) if forgotten(then).as_deref() == Some(now.as_bytes()) => then.clone(),
            _ => match forgotten(&now) {
                Some(nothing) => String::from_utf8_lossy(&nothing).into_owned(),
                None => continue,
            },
        };
        all.push((key, text));
    }
    Ok(all)
}

/// Takes that back, where no sync came since, and makes strangers where one came before the trees were put back.
pub(super) fn remember(state: &StateDir, records: &[(String, String)]) -> Result<(), AgentError> {
    for (key, text) in records {
        let now = state.get(key)?;
        if now == forgotten(text) || is_nothing_younger(text, now.as_deref()) {
            state.put(key, Some(text.as_bytes()))?;
        }
    }
    Ok(())
}

fn is_nothing_younger(text: &str, now: Option<&[u8]>) -> bool {
    let Some(record) =
        serde_json::from_str::<PairRecord>(text).ok().filter(|it| it.format == PairRecord::NOTHING)
    else {
        return false;
    };
    let now = now.and_then(|now| serde_json::from_slice::<PairRecord>(now).ok());
    now.is_none_or(|now| now.stamp < record.stamp)
}

fn forgotten(text: &str) -> Option<Vec<u8>> {
    let mut record: PairRecord = serde_json::from_str(text).ok()?;
    record.format = PairRecord::NOTHING;
    let later = record.stamp.timestamp().checked_add(Duration::from_secs(1)).ok()?;
    record.stamp = UtcStamp::new(later);
    serde_json::to_vec_pretty(&record).ok()
}
