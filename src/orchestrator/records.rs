//! Pair records and intents: what both machines remember, kept by their agents.

use pc_switcher_agent::linux::snapshots::{ATTEMPTS, PAIRS};
use pc_switcher_agent::proto::MachineFacts;
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{
    Attempt, Hostname, Manifest, ModuleError, PairRecord, ProvenFile, ProvenList, SessionId,
};
use serde::{Deserialize, Serialize};

/// The key of the intent record.
const INTENT: &str = "intent.json";
/// So many attempts are remembered.
const KEPT_ATTEMPTS: usize = 8;

/// Written before the first change and removed at the end: one that is found belongs to a run that died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The session.
    pub session: SessionId,
    /// The machine that was the source.
    pub source: Hostname,
    /// The machine that was the target.
    pub target: Hostname,
    /// When it began, ISO 8601 UTC.
    pub started: String,
}

impl Intent {
    /// Returns what a person should know about the run that left this.
    pub fn explain(&self) -> String {
        format!(
            "the sync {} from {} to {}, begun {}, did not end: every file on {} is its old or its new version, and the \
             pre-sync snapshots of that session are there",
            self.session, self.source, self.target, self.started, self.target
        )
    }
}

fn key(below: &str, machine_id: &str) -> String {
    let plain: String = machine_id.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{below}{}.json", plain.to_ascii_lowercase())
}

fn pair_key(machine_id: &str) -> String {
    key(PAIRS, machine_id)
}

/// Reads the intent that a dead run left on a machine.
///
/// # Errors
/// If the agent cannot read its state.
pub async fn read_intent(agent: &Agent) -> Result<Option<Intent>, ModuleError> {
    let bytes = agent.state_get(INTENT).await?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Writes the intent, durably.
///
/// # Errors
/// If the agent cannot write its state.
pub async fn write_intent(agent: &Agent, intent: &Intent) -> Result<(), ModuleError> {
    Ok(agent.state_put(INTENT, Some(serde_json::to_vec_pretty(intent).unwrap_or_default())).await?)
}

/// Removes the intent.
///
/// # Errors
/// If the agent cannot write its state.
pub async fn clear_intent(agent: &Agent) -> Result<(), ModuleError> {
    Ok(agent.state_put(INTENT, None).await?)
}

/// Reads a machine's record of its last sync with `other`; the inner error says why it cannot be read.
///
/// # Errors
/// If the agent cannot read its state.
pub async fn read_pair(
    agent: &Agent,
    other: &MachineFacts,
) -> Result<Option<Result<PairRecord, String>>, ModuleError> {
    let bytes = agent.state_get(pair_key(&other.machine_id)).await?;
    Ok(bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string())))
}

/// Reads a machine's records of all its last syncs.
///
/// # Errors
/// If the agent cannot read its state.
pub async fn read_pairs(agent: &Agent) -> Result<Vec<PairRecord>, ModuleError> {
    let mut records = Vec::new();
    for key in agent.state_list(PAIRS).await? {
        let bytes = agent.state_get(key).await?;
        records.extend(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()));
    }
    Ok(records)
}

/// Writes the record of this sync on both machines: the target first, so that a source that has one never lies.
///
/// # Errors
/// If an agent cannot write its state.
pub async fn write_pair(source: &Agent, target: &Agent, record: &PairRecord) -> Result<(), ModuleError> {
    let bytes = serde_json::to_vec_pretty(record).unwrap_or_default();
    target.state_put(pair_key(&record.source.machine_id), Some(bytes.clone())).await?;
    source.state_put(pair_key(&record.target.machine_id), Some(bytes)).await?;
    Ok(())
}

/// Reads what a machine keeps of the files that were proven to be the same on `other` when a record was written.
///
/// # Errors
/// If the agent cannot read its state.
pub async fn read_proven(
    agent: &Agent,
    other: &MachineFacts,
    record: &PairRecord,
) -> Result<Vec<ProvenFile>, ModuleError> {
    let bytes = agent.state_get(key(ProvenList::KEYS, &other.machine_id)).await?;
    let list = bytes.and_then(|bytes| ProvenList::read(&bytes, record));
    Ok(list.map(|list| list.files).unwrap_or_default())
}

/// Writes on both machines which files were proven to be the same when a record was written.
///
/// # Errors
/// If an agent cannot write its state.
pub async fn write_proven(
    source: &Agent,
    target: &Agent,
    record: &PairRecord,
    files: Vec<ProvenFile>,
) -> Result<(), ModuleError> {
    let list = ProvenList::new(record, files);
    let bytes = (!list.files.is_empty()).then(|| list.to_bytes());
    let put = |agent: &Agent, other: &str| {
        let (agent, key, bytes) = (agent.clone(), key(ProvenList::KEYS, other), bytes.clone());
        async move { agent.state_put(key, bytes).await }
    };
    tokio::try_join!(put(target, &record.source.machine_id), put(source, &record.target.machine_id))?;
    Ok(())
}

/// Removes the manifests that no record and no attempt of a machine names any more.
///
/// # Errors
/// If the agent cannot read or write its state.
pub async fn prune_manifests(agent: &Agent) -> Result<(), ModuleError> {
    let keys = agent.state_list(Manifest::KEYS).await?;
    if keys.is_empty() {
        return Ok(());
    }
    let mut sessions: Vec<SessionId> =
        read_pairs(agent).await?.into_iter().map(|record| record.session).collect();
    for key in agent.state_list(ATTEMPTS).await? {
        let bytes = agent.state_get(key).await?;
        let attempts: Vec<Attempt> =
            bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        sessions.extend(attempts.into_iter().map(|attempt| attempt.session));
    }
    let is_named = |key: &String| {
        sessions.iter().any(|session| key.starts_with(&format!("{}{session}-", Manifest::KEYS)))
    };
    for key in keys.into_iter().filter(|key| !is_named(key)) {
        agent.state_put(key, None).await?;
    }
    Ok(())
}

/// Reads from the source which syncs with `target` came after the one that `last` records, and still have their sets. What these syncs wrote on the target is nobody's own work.
///
/// # Errors
/// If the agent cannot read its state.
pub async fn read_attempts(
    source: &Agent,
    target: &MachineFacts,
    last: &PairRecord,
) -> Result<Vec<Attempt>, ModuleError> {
    let bytes = source.state_get(key(ATTEMPTS, &target.machine_id)).await?;
    let all: Vec<Attempt> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let mut attempts = Vec::new();
    let is_later = |attempt: &Attempt| attempt.session != last.session && attempt.stamp >= last.stamp;
    for mut attempt in all.into_iter().filter(is_later) {
        if let Some(set) = attempt.set.take()
            && source.check_set(set.clone()).await?.is_ok()
        {
            attempt.set = Some(set);
        }
        attempts.push(attempt);
    }
    Ok(attempts)
}

/// Remembers on the source, before anything is written on the target, what a sync brings over.
///
/// # Errors
/// If the agent cannot write its state.
pub async fn write_attempts(
    source: &Agent,
    target: &MachineFacts,
    attempts: &[Attempt],
) -> Result<(), ModuleError> {
    let newest = &attempts[attempts.len().saturating_sub(KEPT_ATTEMPTS)..];
    let bytes = serde_json::to_vec_pretty(newest).unwrap_or_default();
    Ok(source.state_put(key(ATTEMPTS, &target.machine_id), Some(bytes)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_id_cannot_leave_its_directory() {
        assert_eq!(pair_key("../Etc/passwd"), "pairs/etcpasswd.json");
    }
}
