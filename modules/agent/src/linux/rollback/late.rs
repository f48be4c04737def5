//! Snapshots that a boot does not wait for (`nofail`): the journal of a rollback lies among them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use pc_switcher_contract::BytePath;

use super::inside;
use super::journal::Journal;
use crate::linux::mounts::Mounts;
use crate::linux::state::StateDir;

/// For so many seconds they are waited for: longer than systemd waits for a disk.
const LIMIT: &str = "120";

/// Has the snapshots mounted that a rollback is noted to be beside, if the machine mounts them by itself and has not done so yet. What
/// fails is told by whoever looks for the journal then.
pub(crate) fn wait_for_snapshots(state: &StateDir) {
    let (Ok(dir), Ok(mounts)) = (Journal::of(state).snapshot_dir(), Mounts::read()) else { return };
    let mut table = String::from_utf8_lossy(&fs::read("/etc/fstab").unwrap_or_default()).into_owned();
    table.push('\n');
    table.push_str(&inside::mount_units(Path::new("/etc/systemd/system")));
    let Some(point) = missing(&table, &dir, &mounts) else { return };
    // The boot has asked for it already, so nothing more is mounted than without us; only now it is waited for.
    let _ = Command::new("timeout")
        .args([LIMIT, "systemctl", "start"])
        .arg(point.as_path())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// Returns where the file system of a directory is mounted by a table, if it is not.
fn missing(table: &str, dir: &BytePath, mounts: &Mounts) -> Option<BytePath> {
    let lines = table.lines().filter(|line| !line.trim_start().starts_with('#'));
    let points = lines.filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_by_hand = words.get(3).is_some_and(|options| options.split(',').any(|word| word == "noauto"));
        Some(BytePath::from(*words.get(1)?)).filter(|_| !is_by_hand)
    });
    let holding = points.filter(|point| *point != BytePath::from("/") && dir.is_within(point));
    let point = holding.max_by_key(|point| point.as_bytes().len())?;
    let is_there = mounts.holding(&point).is_some_and(|mount| mount.point == point);
    (!is_there).then_some(point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_that_are_to_be_mounted_and_are_not_are_waited_for_and_nothing_else() {
        let root = b"20 1 0:30 /@ / rw - btrfs /dev/vda2 rw\n".as_slice();
        let with = [root, b"21 20 0:30 /@snapshots /.snapshots rw - btrfs /dev/vda2 rw\n"].concat();
        let (without, with) = (Mounts::parse(root), Mounts::parse(&with));
        let table = "UUID=x / btrfs subvol=@ 0 0\nUUID=x /.snapshots btrfs subvol=@snapshots,nofail 0 0\n";
        let dir = "/.snapshots".into();
        assert_eq!(missing(table, &dir, &without), Some("/.snapshots".into()));
        assert_eq!(missing(table, &"/.snapshots/deep".into(), &without), Some("/.snapshots".into()));
        assert_eq!(missing(table, &dir, &with), None);
        assert_eq!(missing(table, &"/snapshots".into(), &without), None, "they lie in `/`");
        for line in [table.replace("UUID=x /.", "#UUID=x /."), table.replace("nofail", "noauto")] {
            assert_eq!(missing(&line, &dir, &without), None, "nobody mounts them: {line}");
        }
    }
}
