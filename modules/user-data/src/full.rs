//! A disk of the target that is full: which, what holds now, and what to do.

use std::collections::HashSet;

use pc_switcher_contract::{BytePath, ErrorKind, ExecError, Hostname, ModuleError};

use crate::transfer::Load;

/// Where a run writes.
pub(crate) struct Places {
    hostname: Hostname,
    /// One root on each file system.
    roots: Vec<BytePath>,
}

impl Places {
    /// Those of these plans.
    pub(crate) fn of(hostname: &Hostname, loads: &[Load]) -> Self {
        let mut seen = HashSet::new();
        let first = loads.iter().filter(|load| seen.insert(load.part.target.fs_uuid.as_str()));
        let roots = first.map(|load| load.part.root.clone()).collect();
        Self { hostname: hostname.clone(), roots }
    }

    /// That of one path.
    pub(crate) fn at(hostname: &Hostname, root: &BytePath) -> Self {
        Self { hostname: hostname.clone(), roots: vec![root.clone()] }
    }

    /// Turns an error of the agent into the end of the run; `so_far` says what holds if the disk is full.
    pub(crate) fn ended(&self, error: impl Into<ModuleError>, so_far: &str) -> ModuleError {
        let error = error.into();
        match error.kind {
            ErrorKind::DiskSpace => error.hint(so_far).hint(self.remedy()),
            _ => error,
        }
    }

    /// Turns an error from before the commit into the end of the run.
    pub(crate) fn ended_early(&self, error: ExecError) -> ModuleError {
        let so_far =
            format!("nothing of it was changed on {}, and what was staged is removed", self.hostname);
        self.ended(error, &so_far)
    }

    fn remedy(&self) -> String {
        let roots: Vec<String> = self.roots.iter().map(|root| format!("`{root}`")).collect();
        let lies = if roots.len() == 1 { "lies" } else { "lie" };
        format!(
            "free space on {}, where {} {lies}: `pc-switcher space` says how much there is, `pc-switcher snapshots list` which sets \
             hold some, `pc-switcher snapshots prune` removes those that no rule keeps; then sync again",
            self.hostname,
            roots.join(" or ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_with_its_place_and_other_errors_as_they_are() {
        let places = Places::at(&"desk".parse().unwrap(), &"/home".into());
        let full = ExecError::NoSpace { hostname: "desk".into(), what: "staging of `/home/a/f`".into() };
        let ended = places.ended_early(full);
        assert_eq!(ended.message, "desk: staging of `/home/a/f`: no space left on the disk");
        assert_eq!((ended.kind, ended.hints.len()), (ErrorKind::DiskSpace, 2));
        assert!(ended.hints[0].contains("nothing of it was changed on desk"));
        assert!(ended.hints[1].contains("free space on desk, where `/home` lies"));
        let lost = ExecError::Transport { hostname: "desk".into(), why: "gone".into() };
        let ended = places.ended_early(lost);
        assert_eq!((ended.kind, ended.hints.len()), (ErrorKind::Unreachable, 0));
    }
}
