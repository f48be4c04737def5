//! Openings for fuzzers into what reads journals and steps. Nothing else may use them.

use pc_switcher_contract::BytePath;

use super::entry::Entry;
use super::journal::Reader;
use super::planner::Planner;
use super::redo::follow;
use crate::proto::{Op, decode};

/// Reads a journal as a redo does. Returns how many steps are to be done, `None` if it was never committed.
///
/// # Errors
/// If a step is refused.
pub fn journal(bytes: &[u8], parts: usize) -> Result<Option<usize>, String> {
    let journal = follow(Reader(bytes), parts).map_err(|error| error.message)?;
    Ok(journal.map(|journal| journal.steps.len()))
}

/// Returns where steps would build something in staging, relative to it.
///
/// # Errors
/// If a step is refused.
pub fn places(part: usize, parts: usize, ops: Vec<Op>) -> Result<Vec<BytePath>, String> {
    let mut planner = Planner::new(parts);
    let mut places = Vec::new();
    for op in ops {
        places.extend(planner.step(part, op).map_err(|error| error.message)?.map(|new| new.at));
    }
    places.extend(planner.links.into_iter().map(|(_, _, staged)| staged));
    Ok(places)
}

/// Whether these bytes are an entry of a session that is under way.
pub fn is_entry(bytes: &[u8]) -> bool {
    decode::<Entry>(bytes).is_ok()
}
