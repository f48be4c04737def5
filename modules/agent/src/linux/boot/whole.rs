//! Whether a tree says when its start is healthy: one that does not would look as if each start failed.

use std::fs;
use std::path::Path;

use crate::linux::install::BIN;

/// The unit that each start of a protected machine has.
pub const UNIT: &str = "/etc/systemd/system/pc-switcher-boot.service";
/// Looks whether a start is healthy.
pub const GOOD_SERVICE: &str = "/etc/systemd/system/pc-switcher-good.service";
/// Starts that.
pub const GOOD_TIMER: &str = "/etc/systemd/system/pc-switcher-good.timer";
/// What it works with.
pub const CONFIG: &str = "/etc/pc-switcher/config.toml";

/// The links by which a start has the two units, wherever they lead to from here.
const WANTED: [&str; 2] = [
    "/etc/systemd/system/multi-user.target.wants/pc-switcher-boot.service",
    "/etc/systemd/system/timers.target.wants/pc-switcher-good.timer",
];

/// Files without which it does not work; a unit that is masked is none.
const FILES: [&str; 5] = [BIN, UNIT, GOOD_SERVICE, GOOD_TIMER, CONFIG];

/// Returns what a tree lacks to say when its start is healthy; `None` if it is all there, or the tree is so broken that it cannot be
/// told: such a one is to be gone back from.
pub(super) fn lacks(root: &Path) -> Option<&'static str> {
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    let is_whole = at("/etc/passwd").exists()
        && ["/sbin/init", "/usr/sbin/init", "/usr/lib/systemd/systemd"].iter().any(|init| at(init).exists())
        && at("/etc/systemd/system").is_dir();
    if !is_whole {
        return None;
    }
    let mut links = WANTED.into_iter().filter(|path| fs::symlink_metadata(at(path)).is_err());
    let mut files = FILES.into_iter().filter(|path| !at(path).is_file());
    links.next().or_else(|| files.next())
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn put(root: &Path, path: &str) {
        let path = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    #[test]
    fn a_tree_that_does_not_say_when_it_is_healthy_is_not_counted_unless_it_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert_eq!(lacks(root), None, "nothing is there, the unit neither");
        for path in ["etc/passwd", "sbin/init", "etc/systemd/system/other.service"] {
            put(root, path);
        }
        assert_eq!(lacks(root), Some(WANTED[0]));
        for path in FILES {
            put(root, path);
        }
        for wanted in WANTED {
            assert_eq!(lacks(root), Some(wanted));
            let wanted = root.join(wanted.trim_start_matches('/'));
            fs::create_dir_all(wanted.parent().unwrap()).unwrap();
            symlink("/leads/nowhere/from/here", wanted).unwrap();
        }
        assert_eq!(lacks(root), None);
        for path in FILES {
            let at = root.join(path.trim_start_matches('/'));
            fs::remove_file(&at).unwrap();
            assert_eq!(lacks(root), Some(path));
            symlink("/dev/null", &at).unwrap();
            assert_eq!(lacks(root), Some(path), "masked");
            fs::remove_file(&at).unwrap();
            put(root, path);
        }
        fs::remove_file(root.join("sbin/init")).unwrap();
        fs::remove_file(root.join(BIN.trim_start_matches('/'))).unwrap();
        assert_eq!(lacks(root), None, "what starts no more is gone back from, whatever else it lacks");
    }
}
