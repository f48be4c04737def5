//! When a sync is taken back: pure.
//!
//! While somebody holds the machine's lock a sync is worked on, and no time runs. It begins when the sync asks to be confirmed,
//! or is over without that. After a restart nobody can confirm what was going on before it.

use std::time::Duration;

use pc_switcher_contract::SessionId;

use crate::proto::{Armed, DeadmanState};

/// How often whoever waits looks around.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// How often a sync is looked at that is being worked on.
const ATTENDED: Duration = Duration::from_secs(1);

/// Where a machine stands in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::linux) struct Now {
    /// This boot.
    pub(in crate::linux) boot_id: String,
    /// Since when, sleep included.
    pub(in crate::linux) since_boot_ms: u64,
}

/// What is to be done about one that is armed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its time does not run yet.
    Open,
    /// There is so much time left.
    Wait(Duration),
    /// The sync is taken back, for this reason.
    Heal(String),
}

/// Judges one that is armed.
pub(super) fn judge(armed: &Armed, now: &Now) -> Verdict {
    if armed.boot_id != now.boot_id {
        return Verdict::Heal("the machine was started anew before anybody had confirmed it".into());
    }
    let limit_seconds = armed.wish.limit_seconds;
    match armed.until_ms {
        None => Verdict::Open,
        Some(until_ms) if now.since_boot_ms >= until_ms => {
            Verdict::Heal(format!("nobody confirmed it within {limit_seconds} s"))
        }
        Some(until_ms) => Verdict::Wait(Duration::from_millis(until_ms - now.since_boot_ms)),
    }
}

/// Lets the time run from now on.
pub(super) fn begin(armed: &mut Armed, now: &Now) {
    armed.until_ms = Some(now.since_boot_ms.saturating_add(armed.wish.limit_seconds.saturating_mul(1000)));
}

/// What a watcher does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// There is nothing to watch any more.
    End,
    /// It looks again after this time.
    Look(Duration),
    /// It lets the time run.
    Begin,
    /// It takes the sync back, for this reason.
    Heal(String),
}

/// Returns what the watcher of a sync does next. Whoever has the machine's lock sees to it: the sync itself, or one that came
/// after it.
pub(super) fn step(state: &DeadmanState, session: &SessionId, now: &Now, is_locked: bool) -> Step {
    match state.armed.as_ref().filter(|armed| armed.wish.session == *session) {
        None => Step::End,
        Some(_) if is_locked => Step::Look(ATTENDED),
        Some(armed) => match judge(armed, now) {
            Verdict::Open => Step::Begin,
            Verdict::Wait(time) => Step::Look(time.min(TICK)),
            Verdict::Heal(why) => Step::Heal(why),
        },
    }
}

/// How long is waited after a first try that failed, and after many.
const AGAIN: Duration = Duration::from_secs(5);
const AGAIN_AT_MOST: Duration = Duration::from_secs(300);

/// Returns after how long it is tried again what failed so often: what keeps it from working may take time to go, and a machine
/// that is stuck is not to be kept busy.
pub(super) fn again(failures: u32) -> Duration {
    AGAIN.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(AGAIN_AT_MOST)
}

#[cfg(test)]
mod tests {
    use pc_switcher_contract::{SnapshotKind, SnapshotSet};
    use proptest::prelude::*;

    use super::*;
    use crate::proto::DeadmanWish;

    fn armed(until_ms: Option<u64>) -> Armed {
        let pre = SnapshotSet {
            hostname: "desk".parse().unwrap(),
            kind: SnapshotKind::PreSync,
            stamp: "20251115T120000Z".parse().unwrap(),
            session: "abc12345".parse().unwrap(),
            consistent: true,
            members: Vec::new(),
        };
        let wish = DeadmanWish {
            session: "abc12345".parse().unwrap(),
            from: "laptop".parse().unwrap(),
            limit_seconds: 120,
            pre,
        };
        Armed { wish, boot_id: "one".into(), until_ms, failed: None }
    }

    fn at(boot_id: &str, since_boot_ms: u64) -> Now {
        Now { boot_id: boot_id.into(), since_boot_ms }
    }

    fn next(armed: Option<Armed>, now: &Now, is_locked: bool) -> Step {
        let state = DeadmanState { armed, healed: Vec::new() };
        step(&state, &"abc12345".parse().unwrap(), now, is_locked)
    }

    #[test]
    fn while_a_sync_is_worked_on_no_time_runs_and_afterwards_it_does() {
        let mut one = armed(None);
        assert_eq!(next(Some(one.clone()), &at("one", 5_000_000), true), Step::Look(ATTENDED));
        assert_eq!(next(Some(one.clone()), &at("one", 5_000_000), false), Step::Begin);
        begin(&mut one, &at("one", 5_000_000));
        assert_eq!(judge(&one, &at("one", 5_000_000)), Verdict::Wait(Duration::from_secs(120)));
        assert_eq!(next(Some(one.clone()), &at("one", 5_119_000), false), Step::Look(TICK));
        assert_eq!(
            next(Some(one.clone()), &at("one", 5_119_900), false),
            Step::Look(Duration::from_millis(100))
        );
        assert_eq!(
            next(Some(one.clone()), &at("one", 5_120_000), false),
            Step::Heal("nobody confirmed it within 120 s".into())
        );
        assert_eq!(
            next(Some(one), &at("one", 5_120_000), true),
            Step::Look(ATTENDED),
            "whoever works there does it"
        );
    }

    #[test]
    fn what_is_confirmed_or_of_another_sync_is_not_watched_any_more() {
        assert_eq!(next(None, &at("one", 1), false), Step::End);
        let mut other = armed(Some(0));
        other.wish.session = "ffffffff".parse().unwrap();
        assert_eq!(next(Some(other), &at("one", 1), false), Step::End);
    }

    #[test]
    fn after_a_restart_it_is_taken_back_whatever_the_clock_says() {
        for until_ms in [None, Some(0), Some(u64::MAX)] {
            let verdict = judge(&armed(until_ms), &at("two", 10));
            assert!(matches!(&verdict, Verdict::Heal(why) if why.contains("started anew")), "{verdict:?}");
        }
    }

    #[test]
    fn what_fails_is_tried_again_ever_more_slowly_and_never_given_up() {
        let seconds: Vec<u64> = (1..=8).map(|failures| again(failures).as_secs()).collect();
        assert_eq!(seconds, [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(again(u32::MAX), AGAIN_AT_MOST);
    }

    proptest! {
        #[test]
        fn in_one_boot_it_is_taken_back_exactly_when_its_time_is_over(begun in 0_u64..1 << 40, later in 0_u64..400_000) {
            let mut one = armed(None);
            begin(&mut one, &at("one", begun));
            let is_over = matches!(judge(&one, &at("one", begun + later)), Verdict::Heal(_));
            prop_assert_eq!(is_over, later >= 120_000);
        }
    }
}
