//! What a crash or a bad disk may leave of our own records. The first byte chooses the record.

use pc_switcher::orchestrator::records::Intent;
use pc_switcher_agent::data::apply::fuzzing::{is_entry, journal};
use pc_switcher_agent::proto::Redone;
use pc_switcher_contract::{PairRecord, SnapshotSet};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::frames::one;
use super::memory::peak;

/// A journal's longest record, and the room for what its steps become.
const JOURNAL: usize = 32 << 20;

/// Reads the bytes as one of our records.
pub fn run(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 6 {
        0 => {
            let (_, held) = peak(|| journal(body, 2));
            assert!(held <= JOURNAL + 64 * body.len(), "{held} bytes were held for {}", body.len());
        }
        1 => drop(is_entry(body)),
        2 => drop(one::<Redone>(body)),
        3 => text::<PairRecord>(body),
        4 => text::<Vec<SnapshotSet>>(body),
        _ => text::<Intent>(body),
    }
}

/// A record in JSON that is read is the same when it is written and read again.
fn text<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(body: &[u8]) {
    let Ok(record) = serde_json::from_slice::<T>(body) else { return };
    let written = serde_json::to_vec_pretty(&record).unwrap_or_default();
    let again = serde_json::from_slice::<T>(&written).map_err(|error| error.to_string());
    assert_eq!(again.as_ref(), Ok(&record));
}
