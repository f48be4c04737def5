//! A rollback on trial: the machine takes it back by itself unless somebody confirms it.

use serde::{Deserialize, Serialize};

use pc_switcher_contract::UtcStamp;

use super::{Fallback, RollbackLook, RollbackPhase, RollbackState, Waits};

/// For how long a rollback holds that nobody confirms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrialFor {
    /// So many seconds of the first start with it.
    Seconds(u64),
    /// The first start with it.
    OneStart,
}

/// A trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// For how long it holds.
    pub holds: TrialFor,
    /// When its time began to run; none before the machine works on the new trees.
    #[serde(default)]
    pub began: Option<TrialBegan>,
    /// That the machine took it back by itself.
    #[serde(default)]
    pub returned: Option<Returned>,
    /// Why it could not be taken back when that was tried last, if so.
    #[serde(default)]
    pub failed: Option<String>,
}

/// The time of a trial that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialBegan {
    /// The boot in which it began.
    pub boot_id: String,
    /// When it is over, in milliseconds since that boot.
    pub until_ms: u64,
    /// Whether that boot found some of the new trees and some of those from before: the next one finds all of the new ones, and its
    /// time begins anew then.
    #[serde(default)]
    pub is_partly: bool,
}

/// A rollback that a machine took back by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Returned {
    /// When.
    pub at: UtcStamp,
    /// Why.
    pub why: String,
}

impl Trial {
    /// Makes one whose time does not run yet.
    pub fn new(holds: TrialFor) -> Self {
        Self { holds, began: None, returned: None, failed: None }
    }

    /// Whether its time runs in a start that found only some of the new trees.
    pub fn is_partly(&self) -> bool {
        self.began.as_ref().is_some_and(|began| began.is_partly)
    }

    /// Says what the machine waits for, with the seconds that are left if its time runs.
    pub fn explain(&self, left_seconds: Option<u64>) -> String {
        if let Some(why) = &self.failed {
            return format!(
                "it is not confirmed, and the trees from before could not be put back so far: {why}; it is tried again and \
                 again, unless `pc-switcher rollback confirm` comes before"
            );
        }
        match (self.holds, left_seconds) {
            (TrialFor::OneStart, _) => {
                "it holds for one start: the one after it finds the trees from before, unless \
                 `pc-switcher rollback confirm` comes in between"
                    .into()
            }
            (TrialFor::Seconds(limit), Some(left)) if self.is_partly() => format!(
                "the power was cut while the trees were put in place, so only some of them are in use; {} are left to start it anew, \
                 and to confirm it within {} of that (`pc-switcher rollback confirm`): after that the trees from before are put back \
                 by themselves, for the next start",
                time(left),
                time(limit)
            ),
            (TrialFor::Seconds(_), Some(left)) => format!(
                "{} are left to confirm it (`pc-switcher rollback confirm`): after that, or after a restart before it, the \
                 trees from before are put back by themselves, for the next start",
                time(left)
            ),
            (TrialFor::Seconds(limit), None) => format!(
                "confirm it within {} of that restart (`pc-switcher rollback confirm`): after that, or after one more restart \
                 before it, the trees from before are put back by themselves, for the next start",
                time(limit)
            ),
        }
    }
}

/// Returns seconds in words.
pub(crate) fn time(seconds: u64) -> String {
    if seconds >= 60 && seconds.is_multiple_of(60) {
        format!("{} min", seconds / 60)
    } else {
        format!("{seconds} s")
    }
}

impl RollbackState {
    /// Returns the trial of a rollback that waits to be confirmed, or to be taken back.
    pub fn on_trial(&self) -> Option<&Trial> {
        self.trial.as_ref().filter(|_| self.phase == RollbackPhase::Done)
    }

    /// Whether the trees from before are put back by the machine itself if nobody confirms it: it is on trial, or they are half
    /// back.
    pub fn goes_back(&self) -> bool {
        self.on_trial().is_some() || self.phase == RollbackPhase::Cancelling
    }

    /// Says that the machine took it back by itself, and why; `None` if it did not.
    pub fn explain_returned(&self) -> Option<String> {
        let is_back = matches!(self.phase, RollbackPhase::Cancelling | RollbackPhase::Cancelled);
        let Returned { at, why } = self.trial.as_ref()?.returned.as_ref().filter(|_| is_back)?;
        let names: Vec<String> = self.members.iter().map(|member| format!("`{}`", member.name)).collect();
        Some(format!(
            "rollback {} of {} was taken back by this machine itself at {at}, since {why}",
            self.session,
            names.join(", ")
        ))
    }

    /// Says that the machine went back to the last known good state by itself, and why; `None` if it did not.
    pub fn explain_fallback(&self) -> Option<String> {
        let is_there = matches!(self.phase, RollbackPhase::Committed | RollbackPhase::Done);
        let Fallback { at, starts, .. } = self.fallback.as_ref().filter(|_| is_there)?;
        let names: Vec<String> = self.members.iter().map(|member| format!("`{}`", member.name)).collect();
        Some(format!(
            "this machine went back to set {} of {} by itself at {at}, since {starts} starts in a row did not come to a healthy \
             end (rollback {})",
            self.to,
            names.join(", "),
            self.session
        ))
    }

    /// Says what the machine did by itself about a rollback; `None` if it did nothing.
    pub fn explain_by_itself(&self) -> Option<String> {
        self.explain_returned().or_else(|| self.explain_fallback())
    }
}

impl RollbackLook {
    /// Has all that it was checked for wait for the restart: with that the time of a trial begins.
    pub fn wait_for_trial(&mut self) {
        for way in self.ways.iter_mut().filter(|way| way.waits.is_none()) {
            way.waits = Some(Waits::For("it is on trial, which begins with the restart".into()));
        }
    }

    /// Whether the machine took a rollback back by itself and works on its trees still: then it can be put in place again.
    pub fn may_come_again(&self) -> bool {
        let state = self.state.as_ref().filter(|state| state.phase == RollbackPhase::Cancelled);
        state.is_some_and(|state| state.explain_returned().is_some()) && !self.in_use.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_waits_for_is_said_before_the_restart_after_it_and_when_it_fails() {
        let mut trial = Trial::new(TrialFor::Seconds(600));
        assert!(trial.explain(None).starts_with("confirm it within 10 min of that restart"));
        assert!(trial.explain(Some(61)).starts_with("61 s are left to confirm it"));
        trial.began = Some(TrialBegan { boot_id: "one".into(), until_ms: 1, is_partly: true });
        let partly = trial.explain(Some(61));
        assert!(
            partly.contains("61 s are left to start it anew") && partly.contains("within 10 min of that"),
            "{partly}"
        );
        trial.failed = Some("the disk is full".into());
        assert!(trial.explain(Some(61)).contains("could not be put back so far: the disk is full"));
        assert!(Trial::new(TrialFor::OneStart).explain(None).starts_with("it holds for one start"));
    }

    #[test]
    fn a_journal_of_before_there_were_trials_has_none() {
        let text = r#"{"session": "abc12345", "stamp": "20251115T120000Z", "to": "20251115T120000Z-0a1b2c3d-presync",
            "phase": "done", "members": [], "records": []}"#;
        let mut state: RollbackState = serde_json::from_str(text).unwrap();
        assert_eq!((state.on_trial(), state.explain_returned()), (None, None));
        state.trial = Some(Trial {
            returned: Some(Returned { at: state.stamp, why: "nobody confirmed it within 120 s".into() }),
            ..Trial::new(TrialFor::Seconds(120))
        });
        state.phase = RollbackPhase::Cancelled;
        assert_eq!(state.on_trial(), None);
        assert!(state.explain_returned().unwrap().ends_with("since nobody confirmed it within 120 s"));
        let written = serde_json::to_vec(&state).unwrap();
        assert_eq!(serde_json::from_slice::<RollbackState>(&written).unwrap(), state);
        assert_eq!(state.explain_by_itself(), state.explain_returned());
    }

    #[test]
    fn a_fallback_is_told_while_it_stands_and_no_longer() {
        let text = r#"{"session": "abc12345", "stamp": "20251115T120000Z", "to": "20251115T110000Z-0a1b2c3d-autoboot",
            "phase": "done", "members": [], "records": [], "fallback": {"at": "20251115T120000Z", "starts": 3, "boot_id": "1"}}"#;
        let mut state: RollbackState = serde_json::from_str(text).unwrap();
        let said = state.explain_by_itself().unwrap();
        assert!(said.contains("since 3 starts in a row did not come to a healthy end"), "{said}");
        state.phase = RollbackPhase::Cancelled;
        assert_eq!(state.explain_by_itself(), None);
    }
}
