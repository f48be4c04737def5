//! Lock files: who works in a repository, and whether alone.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// After this time a lock that was not renewed means nothing.
pub const STALE: SignedDuration = SignedDuration::from_mins(30);
/// How often a lock is renewed.
pub const RENEW: Duration = Duration::from_secs(5 * 60);

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
}

impl Lock {
    /// Whether its holder is gone: too old, or a process of this machine that no longer runs. One of the future is not old: some clock
    /// is wrong, and nobody knows which.
    pub fn is_stale(&self, now: Timestamp, hostname: &str, is_alive: impl Fn(u32) -> bool) -> bool {
        let age = self.time.parse::<Timestamp>().map(|at| now.duration_since(at));
        let expired = age.is_ok_and(|age| age > STALE);
        expired || self.hostname == hostname && !is_alive(self.pid)
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

    #[test]
    fn a_lock_is_stale_when_it_is_old_or_its_process_on_this_machine_is_gone() {
        let lock = |time: &str, hostname: &str| Lock {
            time: time.into(),
            exclusive: true,
            hostname: hostname.into(),
            username: "alice".into(),
            pid: 42,
            uid: 0,
            gid: 0,
        };
        let now: Timestamp = "2026-01-02T12:00:00Z".parse().unwrap();
        let (fresh, old) = ("2026-01-02T12:50:00+01:00", "2026-01-02T11:20:00Z");
        assert!(!lock(fresh, "laptop").is_stale(now, "laptop", |_| true));
        assert!(lock(fresh, "laptop").is_stale(now, "laptop", |_| false));
        assert!(
            !lock(fresh, "desk").is_stale(now, "laptop", |_| false),
            "its process cannot be seen from here"
        );
        assert!(lock(old, "desk").is_stale(now, "laptop", |_| true));
        let ahead = "2026-01-02T13:00:00Z";
        assert!(!lock(ahead, "desk").is_stale(now, "laptop", |_| true), "its clock is ahead, it lives");
        assert!(lock(ahead, "laptop").is_stale(now, "laptop", |_| false));
    }
}
