//! What a guard notes of itself while its command runs and is judged: if it dies before that, the machine can say so.

use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{ExecError, SetId, SubvolumeName};
use serde::{Deserialize, Serialize};

use crate::history::ProcessTag;

/// The key of the machine's state.
pub(in crate::cli) const KEY: &str = "guard";

/// A guard that has not judged its command yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli) struct Open {
    /// What runs.
    command: String,
    /// What is gone back to.
    pub(in crate::cli) set: SetId,
    /// In which subvolumes.
    subvolumes: Vec<SubvolumeName>,
    /// The guard.
    process: Option<ProcessTag>,
}

impl Open {
    /// Makes the note of this process.
    pub(super) fn new(command: &str, set: &SetId, subvolumes: &[SubvolumeName]) -> Self {
        Self {
            command: command.to_owned(),
            set: set.clone(),
            subvolumes: subvolumes.to_vec(),
            // Without a tag it counts as dead, and is asked about.
            process: ProcessTag::current().ok(),
        }
    }

    /// Reads a note. What cannot be read says nothing.
    pub(in crate::cli) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Returns the note that a machine has.
    ///
    /// # Errors
    /// If its agent does not answer.
    pub(in crate::cli) async fn of(agent: &Agent) -> Result<Option<Self>, ExecError> {
        Ok(agent.state_get(KEY).await?.as_deref().and_then(Self::read))
    }

    /// Writes the note down, durably.
    ///
    /// # Errors
    /// If the machine does not let us.
    pub(in crate::cli) async fn put(&self, agent: &Agent) -> Result<(), ExecError> {
        let bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        agent.state_put(KEY, Some(bytes)).await
    }

    /// Takes the note away: the command is judged, or a person did it.
    ///
    /// # Errors
    /// If the machine does not let us.
    pub(in crate::cli) async fn forget(agent: &Agent) -> Result<(), ExecError> {
        agent.state_put(KEY, None).await
    }

    /// Says what it was that keeps its state.
    pub(in crate::cli) fn stays(&self) -> String {
        format!("what `{}` did stays", self.command)
    }

    /// Says that it runs.
    pub(in crate::cli) fn runs(&self) -> String {
        format!("`{}` runs under `guard`, which may have to go back to set {}", self.command, self.set)
    }

    /// Says that the guard died before it had judged, and what can be done; `None` if it lives.
    pub(in crate::cli) fn explain(&self) -> Option<String> {
        if self.process.as_ref().is_some_and(ProcessTag::is_alive) {
            return None;
        }
        let subvolumes: String = self.subvolumes.iter().map(|name| format!(" --subvol {name}")).collect();
        let Self { command, set, .. } = self;
        Some(format!(
            "`guard` was cut off before it had looked whether the machine works after `{command}`: \
             `pc-switcher rollback {set}{subvolumes}` goes back to before it, `pc-switcher rollback confirm` leaves it as it is"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_that_is_gone_is_told_of_with_both_ways_out_and_one_that_lives_is_not() {
        let set = "20251115T120000Z-abc12345-autoupdate".parse().unwrap();
        let living = Open::new("apt full-upgrade", &set, &["@".parse().unwrap()]);
        assert_eq!(living.explain(), None);
        let process = living.process.clone().map(|tag| ProcessTag { boot_id: "another".into(), ..tag });
        let dead = Open { process, ..living };
        let said = dead.explain().unwrap();
        assert!(said.contains("after `apt full-upgrade`"), "{said}");
        assert!(
            said.contains("`pc-switcher rollback 20251115T120000Z-abc12345-autoupdate --subvol @`"),
            "{said}"
        );
        assert_eq!(Open::read(&serde_json::to_vec(&dead).unwrap()), Some(dead));
        assert_eq!(Open::read(b"{"), None);
    }
}
