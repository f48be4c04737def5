//! Steps and contents that come from trees of this machine: nothing travels, files are clones.

use std::os::fd::OwnedFd;

use pc_switcher_contract::BytePath;

use super::journal::{self, Record};
use super::stage::Stager;
use crate::data::delta;
use crate::proto::{AgentError, Op};
use crate::server::Call;

/// Steps in one record of the journal.
const STEPS: usize = 4096;

/// What one part gets.
pub(in crate::data) struct Share {
    /// Its steps, in the order in which they are committed.
    pub(in crate::data) ops: Vec<Op>,
    /// The contents that its steps want, with the path of each below `from`.
    pub(in crate::data) clones: Vec<(u32, BytePath)>,
    /// The same root in a tree that nobody changes.
    pub(in crate::data) from: OwnedFd,
}

/// Stages all shares; the first belongs to the first part.
pub(super) fn stage(
    shares: &[Share],
    stager: &mut Stager<'_>,
    journal: &mut journal::Writer,
    call: &Call,
) -> Result<(), AgentError> {
    for (part, share) in (0_u16..).zip(shares) {
        for ops in share.ops.chunks(STEPS) {
            let record = Record::Ops { first: stager.ops(), part, ops: ops.to_vec() };
            journal.append(&record).map_err(|error| AgentError::io("journal", &error))?;
            ops.iter().try_for_each(|op| stager.step(part.into(), op.clone()))?;
        }
        for (content, path) in &share.clones {
            if call.is_cancelled() {
                return Err(AgentError::cancelled());
            }
            let from = delta::open_file(&share.from, path)
                .map_err(|error| AgentError::io(format!("old version of `{path}`"), &error.into()))?;
            stager.clone_of(*content, &from)?;
        }
    }
    Ok(())
}
