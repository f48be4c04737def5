//! The verdict over a run: pure.

use pc_switcher_contract::{Ending, ErrorKind, ModuleResult};

use crate::cli::Exit;

/// All that decides how a run ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether the user asked to stop.
    pub abort_requested: bool,
    /// Every sort of failure that was met.
    pub failures: Vec<ErrorKind>,
    /// Whether an ERROR was logged.
    pub has_errors: bool,
    /// What became of the modules.
    pub results: Vec<ModuleResult>,
}

/// Returns how the run ended and its exit code. If several codes apply the order of the documents decides.
pub fn verdict(facts: &Facts) -> (Ending, Exit) {
    let mut exits: Vec<Exit> = facts.failures.iter().copied().map(Exit::of).collect();
    if facts.abort_requested {
        exits.push(Exit::Aborted);
    }
    if facts.has_errors || facts.results.contains(&ModuleResult::Failed) {
        exits.push(Exit::Failed);
    }
    let exit = Exit::gravest(exits);
    let ending = match exit {
        Exit::Completed => Ending::Completed,
        Exit::Aborted => Ending::Aborted,
        _ => Ending::Failed,
    };
    (ending, exit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pc_switcher_contract::GateKind;
    use proptest::prelude::*;

    #[test]
    fn no_exception_is_not_success() {
        let failed = Facts { results: vec![ModuleResult::Success, ModuleResult::Failed], ..Facts::default() };
        assert_eq!(verdict(&failed), (Ending::Failed, Exit::Failed));
        let logged = Facts { has_errors: true, ..Facts::default() };
        assert_eq!(verdict(&logged), (Ending::Failed, Exit::Failed));
        assert_eq!(verdict(&Facts::default()), (Ending::Completed, Exit::Completed));
    }

    #[test]
    fn the_user_s_stop_wins_over_every_failure() {
        let facts = Facts { abort_requested: true, failures: vec![ErrorKind::DiskSpace], ..Facts::default() };
        assert_eq!(verdict(&facts), (Ending::Aborted, Exit::Aborted));
        let gate = Facts {
            failures: vec![ErrorKind::Failed, ErrorKind::Refused(GateKind::FirstSync)],
            ..Facts::default()
        };
        assert_eq!(verdict(&gate), (Ending::Failed, Exit::Refused));
    }

    proptest! {
        #[test]
        fn completed_means_nothing_went_wrong(abort: bool, errors: bool, kinds in proptest::collection::vec(0_u8..5, 0..4)) {
            let kind = |n: &u8| [ErrorKind::Failed, ErrorKind::DiskSpace, ErrorKind::Busy, ErrorKind::Invalid, ErrorKind::Unreachable][*n as usize];
            let failures: Vec<ErrorKind> = kinds.iter().map(kind).collect();
            let clean = !abort && !errors && failures.is_empty();
            let facts = Facts { abort_requested: abort, failures, has_errors: errors, results: vec![] };
            let (ending, exit) = verdict(&facts);
            prop_assert_eq!(ending == Ending::Completed, clean);
            prop_assert_eq!(exit.code() == 0, clean);
        }
    }
}
