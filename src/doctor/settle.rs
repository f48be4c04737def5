//! Brings syncs that were cut off to their end: the one thing that a doctor does, and only where nobody else is at work.

use pc_switcher_agent::data::apply::{PENDING, RESULTS};
use pc_switcher_agent::proto::{LockReply, LockRequest, Patience, Redone, decode};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{Hostname, ModuleError, Role, SessionId};

/// What became of syncs that were cut off on one machine.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// How each was brought to its end, now or before; the next sync says so too.
    pub(super) redone: Vec<Redone>,
    /// Whether a sync is under way: then nothing was done.
    pub(super) is_busy: bool,
}

/// Finishes what was committed and drops what was not, under the machine's lock, if there is anything. The lock is free
/// again when the agent ends. A run that left its mark (`is_marked`) may be under way, which the lock tells.
///
/// # Errors
/// If the agent does not answer.
pub(super) async fn settle(
    agent: &Agent,
    from: &Hostname,
    user: &str,
    is_marked: bool,
) -> Result<Settled, ModuleError> {
    if !is_marked && agent.state_list(PENDING).await?.is_empty() {
        return Ok(Settled { redone: told_later(agent).await?, is_busy: false });
    }
    let session = SessionId::from_uuid(uuid::Uuid::new_v4());
    let request =
        LockRequest { session, role: Role::Target, from: from.clone(), user: format!("{user}, doctor") };
    match agent.lock(request).await? {
        LockReply::Busy(_) => Ok(Settled { redone: Vec::new(), is_busy: true }),
        LockReply::Held => Ok(Settled { redone: agent.redo(Patience::TryAgainLater).await?, is_busy: false }),
    }
}

/// Reads what a boot or an earlier look did, as far as no sync has said it.
async fn told_later(agent: &Agent) -> Result<Vec<Redone>, ModuleError> {
    let mut redone = Vec::new();
    for key in agent.state_list(RESULTS).await? {
        let bytes = agent.state_get(key).await?;
        redone.extend(bytes.and_then(|bytes| decode(&bytes).ok()));
    }
    Ok(redone)
}
