//! Snapshots that a boot does not wait for (`nofail`): the journal of a rollback lies among them.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use pc_switcher_contract::BytePath;

use super::inside;
use super::journal::Journal;
use crate::linux::mounts::{Mounts, unescape};
use crate::linux::state::StateDir;
use crate::proto::AgentError;

/// For so many seconds they are waited for: longer than systemd waits for a disk.
const LIMIT: &str = "120";

/// Has the snapshots mounted that a rollback is noted to be beside, if the machine mounts them by itself and has not done so yet. What
/// fails is told by whoever looks for the journal then.
pub(crate) fn wait_for_snapshots(state: &StateDir) {
    let (Ok(dir), Ok(mounts)) = (Journal::of(state).snapshot_dir(), Mounts::read()) else { return };
    let table = table(Path::new("/")).unwrap_or_default();
    let Some(point) = missing(&table, &dir, &mounts, By::Itself) else { return };
    // The boot has asked for it already, so nothing more is mounted than without us; only now it is waited for.
    let _ = Command::new("timeout")
        .args([LIMIT, "systemctl", "start"])
        .arg(point.as_path())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// Returns where the file system of a directory is to be mounted in the system with this root, by whomever, if it is not.
///
/// # Errors
/// If that cannot be read.
pub fn unmounted(root: &Path, dir: &BytePath) -> Result<Option<BytePath>, AgentError> {
    let table = table(root).map_err(|error| AgentError::io("cannot read `/etc/fstab`", &error))?;
    Ok(missing(&table, dir, &Mounts::read()?, By::Anybody))
}

/// Returns what a system mounts, line by line as in `/etc/fstab`.
fn table(root: &Path) -> io::Result<String> {
    let fstab = match fs::read(root.join("etc/fstab")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other?,
    };
    let units = inside::mount_units(&root.join("etc/systemd/system"));
    Ok(format!("{}\n{units}", String::from_utf8_lossy(&fstab)))
}

/// Whose mounts count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Those that the machine makes without being told.
    Itself,
    /// Also those that somebody has to ask for.
    Anybody,
}

/// Returns where the file system of a directory is mounted by a table, if it is not.
fn missing(table: &str, dir: &BytePath, mounts: &Mounts, by: By) -> Option<BytePath> {
    let lines = table.lines().filter(|line| !line.trim_start().starts_with('#'));
    let points = lines.filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_by_hand = words.get(3).is_some_and(|options| options.split(',').any(|word| word == "noauto"));
        let point = words.get(1)?;
        let point = BytePath::new(unescape(
            if *point == "/" { point } else { point.trim_end_matches('/') }.as_bytes(),
        ));
        Some(point).filter(|_| !is_by_hand || by == By::Anybody)
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
        assert_eq!(missing(table, &dir, &without, By::Itself), Some("/.snapshots".into()));
        assert_eq!(
            missing(table, &"/.snapshots/deep".into(), &without, By::Itself),
            Some("/.snapshots".into())
        );
        assert_eq!(missing(table, &dir, &with, By::Itself), None);
        assert_eq!(missing(table, &"/snapshots".into(), &without, By::Itself), None, "they lie in `/`");
        for line in [table.replace("UUID=x /.", "#UUID=x /."), table.replace("nofail", "noauto")] {
            assert_eq!(missing(&line, &dir, &without, By::Itself), None, "nobody mounts them: {line}");
        }
        let by_hand = table.replace("nofail", "noauto");
        assert_eq!(missing(&by_hand, &dir, &without, By::Anybody), Some("/.snapshots".into()));
        let slash = "UUID=x /records/ ext4 nofail 0 0\n";
        for dir in ["/records", "/records/deep"] {
            assert_eq!(missing(slash, &dir.into(), &without, By::Itself), Some("/records".into()));
        }
        let blank = "UUID=x /my\\040disk ext4 nofail 0 0\n";
        assert_eq!(missing(blank, &"/my disk/snaps".into(), &without, By::Itself), Some("/my disk".into()));
    }
}
