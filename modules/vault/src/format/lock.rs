//! Lock files: who works in a repository, and whether alone.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// After this time a lock that was not renewed may mean nothing any more.
pub const STALE: SignedDuration = SignedDuration::from_mins(30);
/// How often a lock is renewed.
pub const RENEW: Duration = Duration::from_secs(5 * 60);
/// Within this time whoever lives has renewed a lock, and written it.
pub const RENEWED: Duration = Duration::from_secs(6 * 60);

/// Where a process runs: only there its number says which one it is. Names of machines are not enough, since two may have the same.
/// Empty where nobody knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// What tells the machine from others.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub machine_id: String,
    /// What tells this run of its kernel from the others.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot_id: String,
    /// What tells the processes that it sees from those of other containers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pid_namespace: String,
}

impl Origin {
    /// Whether it says enough to look for a process. Not every system has an id; no two runs of a kernel share theirs.
    fn is_known(&self) -> bool {
        !self.boot_id.is_empty() && !self.pid_namespace.is_empty()
    }
}

/// A lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// When it was written, RFC 3339.
    pub time: String,
    /// Whether nobody else may work.
    pub exclusive: bool,
    /// The machine.
    #[serde(default)]
    pub hostname: String,
    /// The user.
    #[serde(default)]
    pub username: String,
    /// The process.
    #[serde(default)]
    pub pid: u32,
    /// The user, as a number.
    #[serde(default)]
    pub uid: u32,
    /// The group.
    #[serde(default)]
    pub gid: u32,
    /// Where the process runs; restic's locks do not say it, and it reads past it.
    #[serde(flatten)]
    pub origin: Origin,
}

/// Who looks at a lock.
#[derive(Debug, Clone, Copy)]
pub struct Looker<'w> {
    /// The machine's name: a copy of it that was given another one is another machine.
    pub hostname: &'w str,
    /// Where it looks from.
    pub origin: &'w Origin,
}

/// What a lock says of its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// It may work.
    Lives,
    /// It is gone for sure.
    Gone,
    /// It was not heard of for long, by clocks that may differ: whether it is gone shows if it renews nothing while it is watched.
    Silent,
}

impl Lock {
    /// Says what is known of the holder here and now. A lock of the future is not old: some clock is wrong, and nobody knows which.
    pub fn holder(&self, now: Timestamp, looker: Looker<'_>, is_alive: impl Fn(u32) -> bool) -> Holder {
        let here = looker.origin;
        let written_at = self.time.parse::<Timestamp>();
        let age = written_at.as_ref().map(|at| now.duration_since(*at));
        let is_older = |than: SignedDuration| age.as_ref().is_ok_and(|age| *age > than);
        let is_known = self.origin.is_known() && here.is_known();
        let renewed = SignedDuration::try_from(RENEWED).unwrap_or(STALE);
        let is_named_so = self.hostname == looker.hostname;
        if is_known && is_named_so && self.origin == *here {
            return match is_alive(self.pid) {
                false => Holder::Gone,
                // The number may be that of another process by now, and a container that is started anew looks like the one before it.
                true if is_older(STALE) => Holder::Silent,
                true => Holder::Lives,
            };
        }
        // What ran before this machine started anew renews nothing, so it need not be left alone for as long as others. A copy of this
        // machine shares its id and maybe its name, and its clock may be slow: whether it is one shows when it is watched.
        let is_of_here = is_known
            && is_named_so
            && !here.machine_id.is_empty()
            && self.origin.machine_id == here.machine_id;
        let is_other_run = is_of_here && self.origin.boot_id != here.boot_id;
        if is_other_run && is_older(renewed) {
            return Holder::Silent;
        }
        // Of restic's locks the name of the machine is all there is: the time must say the same.
        let is_of_restic = self.origin == Origin::default() && is_named_so;
        match is_older(STALE) {
            true if is_of_restic && !is_alive(self.pid) => Holder::Gone,
            true => Holder::Silent,
            false => Holder::Lives,
        }
    }
}

impl std::fmt::Display for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = if self.exclusive { "exclusively " } else { "" };
        write!(
            f,
            "{how}by process {} of {} on `{}` since {}",
            self.pid, self.username, self.hostname, self.time
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T12:00:00Z";
    const FRESH: &str = "2026-01-02T12:58:00+01:00";
    const LATE: &str = "2026-01-02T11:50:00Z";
    const OLD: &str = "2026-01-02T11:20:00Z";
    const AHEAD: &str = "2026-01-02T13:00:00Z";

    fn origin(machine: &str, boot: &str, processes: &str) -> Origin {
        let [machine_id, boot_id, pid_namespace] = [machine, boot, processes].map(str::to_owned);
        Origin { machine_id, boot_id, pid_namespace }
    }

    /// What is said on `laptop`, the machine `m` in its run `b`, of a lock of a host of this name.
    fn holder(time: &str, hostname: &str, origin: &Origin, is_alive: bool) -> Holder {
        let lock = Lock {
            time: time.into(),
            exclusive: true,
            hostname: hostname.into(),
            username: "alice".into(),
            pid: 42,
            uid: 0,
            gid: 0,
            origin: origin.clone(),
        };
        lock.holder(NOW.parse().unwrap(), looker(&self::origin("m", "b", "p")), |_| is_alive)
    }

    fn looker(origin: &Origin) -> Looker<'_> {
        Looker { hostname: "laptop", origin }
    }

    #[test]
    fn a_process_is_looked_for_only_where_its_number_means_something() {
        let here = origin("m", "b", "p");
        for (time, alive) in
            [(FRESH, Holder::Lives), (LATE, Holder::Lives), (OLD, Holder::Silent), (AHEAD, Holder::Lives)]
        {
            assert_eq!(
                holder(time, "laptop", &here, true),
                alive,
                "{time}: its number may be another process's"
            );
            assert_eq!(holder(time, "laptop", &here, false), Holder::Gone, "{time}: whatever the clock says");
        }
        for elsewhere in [origin("other", "b", "p"), origin("m", "b", "other"), origin("other", "c", "p")] {
            assert_eq!(holder(FRESH, "laptop", &elsewhere, false), Holder::Lives, "{elsewhere:?}");
            assert_eq!(holder(OLD, "laptop", &elsewhere, false), Holder::Silent, "{elsewhere:?}");
            assert_eq!(holder(AHEAD, "laptop", &elsewhere, false), Holder::Lives, "{elsewhere:?}");
        }
    }

    #[test]
    fn what_ran_before_a_start_is_watched_once_somebody_who_lives_would_have_renewed_it() {
        let before = origin("m", "earlier", "p");
        assert_eq!(holder(FRESH, "laptop", &before, false), Holder::Lives, "a copy of this machine may live");
        assert_eq!(holder(LATE, "laptop", &before, false), Holder::Silent);
        assert_eq!(holder(OLD, "laptop", &before, false), Holder::Silent, "a copy may live by a slow clock");
        assert_eq!(holder(LATE, "laptop", &origin("other", "earlier", "p"), false), Holder::Lives);
        assert_eq!(holder(LATE, "laptop", &origin("", "earlier", "p"), false), Holder::Lives);
    }

    #[test]
    fn a_lock_of_a_copy_of_this_machine_is_not_that_of_one_of_its_own_dead_processes() {
        let (here, before) = (origin("m", "b", "p"), origin("m", "earlier", "p"));
        // A copy that was made while it ran shares even its run.
        for copy in [&here, &before] {
            assert_eq!(holder(FRESH, "copy", copy, false), Holder::Lives, "{copy:?}");
            assert_eq!(holder(OLD, "copy", copy, false), Holder::Silent, "{copy:?}: its clock may be slow");
        }
    }

    #[test]
    fn of_a_lock_of_restic_both_the_process_and_the_time_must_say_it() {
        let unknown = Origin::default();
        assert_eq!(holder(FRESH, "laptop", &unknown, false), Holder::Lives, "another machine of that name");
        assert_eq!(holder(OLD, "laptop", &unknown, false), Holder::Gone);
        assert_eq!(holder(OLD, "laptop", &unknown, true), Holder::Silent);
        assert_eq!(holder(OLD, "desk", &unknown, false), Holder::Silent);
        assert_eq!(holder(AHEAD, "desk", &unknown, false), Holder::Lives);
    }

    #[test]
    fn where_a_process_runs_is_no_part_of_a_lock_that_does_not_know_it() {
        let text = r#"{"time":"t","exclusive":false,"hostname":"h","username":"u","pid":1,"uid":2,"gid":3}"#;
        let lock: Lock = serde_json::from_str(text).unwrap();
        assert_eq!(lock.origin, Origin::default());
        assert_eq!(serde_json::to_string(&lock).unwrap(), text);
        let told = Lock { origin: origin("m", "b", "p"), ..lock };
        let text = serde_json::to_string(&told).unwrap();
        assert!(text.contains(r#""gid":3,"machine_id":"m","boot_id":"b","pid_namespace":"p"}"#), "{text}");
        assert_eq!(serde_json::from_str::<Lock>(&text).unwrap(), told);
    }
}
