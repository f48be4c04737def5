//! How much room a run takes, and whether the host has it.

use std::path::Path;

use pc_switcher_testkit::{
    lab::cache_dir,
    seed::{FullHome, Image},
};

use super::{Outcome, case::Scene};

/// Base tree and logs of one machine.
const MACHINE: u64 = 2 << 30;
/// What snapshots keep of what changed meanwhile, in parts of the whole.
const CHANGES: u64 = 10;
/// What `[disk]` wants free on a machine, on top of a fifth.
const RESERVE: u64 = 12 << 30;
/// A machine's disk has at least so much; it is sparse on the host.
const LEAST_DISK: u64 = 40 << 30;
const GB: u64 = 1_000_000_000;

/// Bytes that a run takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// On the laptop: every home, each kept for the rounds to come.
    pub laptop: u64,
    /// On the desk: every tool's copy of the largest home.
    pub desk: u64,
}

impl Needs {
    /// Returns what these homes take, given how many tools copy each.
    pub fn of(scenes: &[(Scene, u64, usize)]) -> Self {
        let laptop = scenes.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
        let desk = scenes.iter().map(|(_, bytes, copies)| bytes * *copies as u64).max().unwrap_or(0);
        Self { laptop: laptop + laptop / CHANGES, desk: desk + desk / CHANGES }
    }

    /// Returns what the host's disk has to have.
    pub fn host_bytes(&self) -> u64 {
        self.laptop + self.desk + 2 * MACHINE
    }

    /// Returns the size of each machine's disk.
    pub fn disk_bytes(&self) -> u64 {
        let most = self.laptop.max(self.desk) + MACHINE;
        (most + most / 2 + RESERVE).max(LEAST_DISK).next_multiple_of(1 << 30)
    }

    /// Says what is to be done if the host has only so much.
    pub fn refuse(&self, free_bytes: u64, place: &Path) -> Option<String> {
        (self.host_bytes() > free_bytes).then(|| {
            format!(
                "this takes {} GB of disk and `{}` has {} GB free: fewer `--files` or `--peers`, a smaller `--image`, \
                 one case with `--only`, or another place by `PC_SWITCHER_LAB_CACHE`",
                self.host_bytes().div_ceil(GB),
                place.display(),
                free_bytes / GB
            )
        })
    }
}

/// Returns what a home takes.
pub fn bytes_of(scene: Scene, home: &FullHome, image: &Image) -> u64 {
    match scene {
        Scene::Home | Scene::Tiny => home.disk_bytes(),
        Scene::Image => image.bytes(),
    }
}

/// Returns where the machines' disks lie, as far as it exists, and what is free there.
pub fn free() -> Outcome<(std::path::PathBuf, u64)> {
    let cache = cache_dir();
    let place = cache.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/")).to_owned();
    let stat = rustix::fs::statvfs(&place)?;
    Ok((place, stat.f_bavail * stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_add_up_on_the_laptop_and_copies_of_the_largest_on_the_desk() {
        let needs = Needs::of(&[(Scene::Home, 2 * GB, 4), (Scene::Image, 4 * GB, 3)]);
        assert_eq!(needs, Needs { laptop: 6_600_000_000, desk: 13_200_000_000 });
        assert_eq!(Needs::of(&[]), Needs { laptop: 0, desk: 0 });
    }

    #[test]
    fn too_little_room_is_said_with_what_to_do() {
        let needs = Needs { laptop: 10 * GB, desk: 20 * GB };
        assert_eq!(needs.refuse(40 * GB, Path::new("/var")), None);
        let said = needs.refuse(30 * GB, Path::new("/var")).unwrap();
        assert!(
            said.contains("35 GB") && said.contains("`/var` has 30 GB") && said.contains("--files"),
            "{said}"
        );
    }

    #[test]
    fn a_machines_disk_keeps_free_what_a_sync_wants() {
        let needs = Needs { laptop: 10 * GB, desk: 90 * GB };
        let disk = needs.disk_bytes();
        assert!(disk - needs.desk > disk / 5 + 10 * GB);
        assert_eq!(Needs::of(&[]).disk_bytes(), LEAST_DISK);
    }
}
