//! Which rollbacks have to be confirmed: pure.

use pc_switcher_agent::proto::{RollbackLook, TrialFor};

use crate::config::{DeadmanMode, RollbackConfig};

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Asked {
    /// It holds for good: whoever goes back leaves something that is known to be broken.
    ForGood,
    /// As the config says, with the seconds within which it has to be confirmed.
    AsConfigured(DeadmanMode, u64),
    /// It holds for one start unless it is confirmed.
    OneStart,
}

impl Asked {
    pub(super) fn of(config: &RollbackConfig, boot_once: bool) -> Self {
        match boot_once {
            true => Asked::OneStart,
            false => Asked::AsConfigured(config.deadman, config.restart_limit),
        }
    }

    /// Returns why a rollback would have to be confirmed on a machine that was looked at, but nobody there would look after it.
    pub(super) fn unattended(self, look: &RollbackLook) -> Option<&str> {
        look.unattended.as_deref().filter(|_| self.wanted(look).is_some())
    }

    /// Returns for how long a rollback holds that nobody confirms, on a machine that was looked at.
    pub(super) fn trial(self, look: &RollbackLook) -> Option<TrialFor> {
        self.wanted(look).filter(|_| look.unattended.is_none())
    }

    /// Returns what keeps it from working.
    pub(super) fn problem(self, look: &RollbackLook) -> Option<String> {
        let why = self.unattended(look).filter(|_| self == Asked::OneStart)?;
        Some(format!("{why}, so nobody would go back after one start; mend that, or leave out `--boot-once`"))
    }

    fn wanted(self, look: &RollbackLook) -> Option<TrialFor> {
        match self {
            Asked::ForGood => None,
            Asked::OneStart => Some(TrialFor::OneStart),
            Asked::AsConfigured(mode, seconds) => {
                let is_wanted = match mode {
                    DeadmanMode::Auto => look.is_vital,
                    DeadmanMode::Always => true,
                    DeadmanMode::Off => false,
                };
                is_wanted.then_some(TrialFor::Seconds(seconds))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(is_vital: bool) -> RollbackLook {
        RollbackLook { is_vital, ..RollbackLook::default() }
    }

    #[test]
    fn what_starts_a_machine_has_to_be_confirmed_unless_the_config_says_otherwise() {
        let asked = |mode| Asked::AsConfigured(mode, 600);
        let seconds = Some(TrialFor::Seconds(600));
        for (mode, system, home) in [
            (DeadmanMode::Auto, seconds, None),
            (DeadmanMode::Always, seconds, seconds),
            (DeadmanMode::Off, None, None),
        ] {
            assert_eq!(asked(mode).trial(&look(true)), system, "{mode:?}");
            assert_eq!(asked(mode).trial(&look(false)), home, "{mode:?}");
        }
        assert_eq!(Asked::ForGood.trial(&look(true)), None);
        assert_eq!(Asked::OneStart.trial(&look(false)), Some(TrialFor::OneStart));
    }

    #[test]
    fn where_nobody_would_look_after_it_it_holds_for_good_and_one_start_is_refused() {
        let lost = RollbackLook { unattended: Some("there is no unit".into()), ..look(true) };
        let asked = Asked::AsConfigured(DeadmanMode::Auto, 600);
        assert_eq!((asked.trial(&lost), asked.unattended(&lost)), (None, Some("there is no unit")));
        assert_eq!((asked.problem(&lost), asked.unattended(&look(true))), (None, None));
        let home = RollbackLook { is_vital: false, ..lost.clone() };
        assert_eq!(asked.unattended(&home), None, "nobody has to look after it");
        assert!(Asked::OneStart.problem(&lost).unwrap().starts_with("there is no unit, so nobody"));
        assert_eq!(Asked::OneStart.problem(&look(true)), None);
    }
}
