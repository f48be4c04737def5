//! Whether a tree says when its start is healthy: one that does not would look as if each start failed.

use std::fs;
use std::path::Path;

use pc_switcher_contract::BytePath;

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

/// Returns why a start of this tree never says that it is healthy, though it may well be: then it is not counted.
pub(super) fn never_says(root: &Path, snapshot_dir: &BytePath) -> Option<String> {
    if let Some(missing) = lacks(root) {
        return Some(format!(
            "what is started does not say when it is healthy, since `{missing}` is not there"
        ));
    }
    if UPDATES.iter().any(|path| fs::symlink_metadata(root.join(path.trim_start_matches('/'))).is_ok()) {
        return Some("it only installs updates, and starts the machine anew then".into());
    }
    let text = fs::read_to_string(root.join("etc/fstab")).unwrap_or_default();
    let has_unit = || {
        mount_unit(snapshot_dir).is_some_and(|unit| {
            ["etc", "run", "usr/lib"]
                .iter()
                .any(|dir| root.join(dir).join("systemd/system").join(&unit).exists())
        })
    };
    // One that mounts no `/` is broken, and its start fails as one that fails.
    (mounts(&text, &BytePath::from("/")) && !mounts_below_root(&text, snapshot_dir) && !has_unit()).then(
        || format!("what is started does not mount `{snapshot_dir}`, where it would say that it is healthy"),
    )
}

/// By these systemd starts a machine for updates alone (systemd.offline-updates(7)).
const UPDATES: [&str; 2] = ["/system-update", "/etc/system-update"];

/// Whether a table of file systems has something mounted there by itself.
fn mounts(fstab: &str, point: &BytePath) -> bool {
    points(fstab).any(|found| found == *point)
}

/// Whether it has something mounted that holds a path, other than `/`.
fn mounts_below_root(fstab: &str, path: &BytePath) -> bool {
    points(fstab).any(|point| point != BytePath::from("/") && path.is_within(&point))
}

fn points(fstab: &str) -> impl Iterator<Item = BytePath> {
    let lines = fstab.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_by_hand =
            words.get(3).is_some_and(|options| options.split(',').any(|option| option == "noauto"));
        words.get(1).filter(|_| !is_by_hand).map(|point| BytePath::from(*point))
    })
}

/// The name of the unit by which systemd mounts something there; only of plain names (systemd-escape(1)).
fn mount_unit(point: &BytePath) -> Option<String> {
    let text = std::str::from_utf8(point.as_bytes()).ok()?.trim_matches('/').to_owned();
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"./_:".contains(&byte));
    let text = match text.strip_prefix('.') {
        Some(rest) => format!("\\x2e{rest}"),
        None => text,
    };
    (is_plain && !text.is_empty()).then(|| format!("{}.mount", text.replace('/', "-")))
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn put(root: &Path, path: &str) {
        put_text(root, path, "");
    }

    fn put_text(root: &Path, path: &str, text: &str) {
        let path = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_start_that_cannot_say_that_it_is_healthy_is_not_counted() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for path in ["etc/passwd", "sbin/init"].into_iter().chain(FILES).chain(WANTED) {
            put(root, path);
        }
        let why = |snapshot_dir: &str| never_says(root, &snapshot_dir.into());
        assert_eq!(why("/.snapshots"), None, "nobody knows what such a machine mounts");
        put_text(
            root,
            "etc/fstab",
            "UUID=1 / btrfs subvol=@ 0 0\nUUID=1 /.snapshots btrfs subvol=@snapshots 0 0\n",
        );
        assert_eq!(why("/.snapshots"), None);
        assert_eq!(why("/.snapshots/mine"), None);
        assert!(why("/mnt/snapshots").unwrap().contains("does not mount `/mnt/snapshots`"));
        put(root, "etc/systemd/system/mnt-snapshots.mount");
        assert_eq!(why("/mnt/snapshots"), None);
        put_text(
            root,
            "etc/fstab",
            "UUID=1 / btrfs subvol=@ 0 0\nUUID=1 /.snapshots btrfs noauto,subvol=@snapshots 0 0\n",
        );
        assert!(why("/.snapshots").unwrap().contains("does not mount `/.snapshots`"));
        put(root, "usr/lib/systemd/system/\\x2esnapshots.mount");
        assert_eq!(why("/.snapshots"), None);
        put_text(root, "etc/fstab", "garbled");
        assert_eq!(why("/mnt/other"), None, "a start that fails is counted");
        std::os::unix::fs::symlink("/var/lib/system-update", root.join("system-update")).unwrap();
        assert!(why("/.snapshots").unwrap().contains("installs updates"));
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
