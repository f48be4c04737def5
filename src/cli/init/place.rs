//! A place of their own for the snapshots: which commands make it, and running them.
//!
//! What is shown is what is run, word for word. Each command can be given again after it was cut off. Nothing is mounted for longer than
//! its command takes but the directory itself, and `/etc/fstab` names only what was just mounted: it is replaced as a whole.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use pc_switcher_agent::linux::btrfs::{Btrfs, KernelBtrfs};
use pc_switcher_agent::linux::mounts::Mounts;
use pc_switcher_contract::BytePath;

use crate::cli::config::is_top_level;
use crate::doctor::{fstab_field, quoted};

/// The inode of the root of each btrfs subvolume.
const SUBVOLUME_ROOT: u64 = 256;

/// The directory that our own records lie in.
const OWN: &str = ".pc-switcher";

/// What is to be done for the snapshots.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing: they have a place, or lie on no btrfs.
    Fine,
    /// Nothing that we could do.
    Taken(String),
    /// These commands.
    Make(Making),
}

/// How a place is made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Making {
    /// The commands, each with its words.
    pub(super) commands: Vec<Vec<String>>,
    /// Where what lay in the directory is afterwards.
    pub(super) aside: Option<PathBuf>,
}

/// What became of the commands.
#[derive(Debug)]
pub(super) struct Made {
    /// How many were done.
    pub(super) done: usize,
    /// Why the next one was not.
    pub(super) failed: Option<String>,
}

/// Looks what the directory of snapshots lacks, as far as it can be seen without root.
pub(super) fn look(dir: &Path, mounts: &Mounts) -> Place {
    if is_top_level(dir, mounts) {
        return Place::Fine;
    }
    let nearest = dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let Ok(uuid) = KernelBtrfs.fs_uuid(nearest) else { return Place::Fine };
    let shown = dir.display();
    let is_mount = mounts.visible().any(|mount| mount.point.as_path() == dir);
    let found = dir.symlink_metadata();
    match &found {
        Ok(_) if is_mount => {
            return Place::Taken(format!("`{shown}` is mounted, and is no top-level subvolume of its own"));
        }
        Ok(meta) if !meta.is_dir() => return Place::Taken(format!("`{shown}` is no directory")),
        Ok(meta) if meta.ino() == SUBVOLUME_ROOT || holds_others(dir) => {
            return Place::Taken(format!(
                "`{shown}` holds something that is not of pc-switcher, as snapshots of another tool; name another directory as `snapshot_dir` \
                 in [btrfs-snapshots]"
            ));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Place::Taken(format!("`{shown}` cannot be looked at: {error}"));
        }
        _ => {}
    }
    Place::Make(making(dir, &uuid.dashed(), found.is_ok()))
}

/// Whether something lies there that is not ours; what may not be read is.
fn holds_others(dir: &Path) -> bool {
    let entries: Vec<_> = dir.read_dir().into_iter().flatten().flatten().collect();
    !entries.is_empty() && !dir.join(OWN).is_dir()
}

/// Returns the commands that make a place on this file system.
fn making(dir: &Path, uuid: &str, is_there: bool) -> Making {
    let quote = |path: &Path| quoted(&BytePath::from(path));
    let (name, entry) = (quote(dir), fstab_field(&dir.to_string_lossy()));
    let aside = PathBuf::from(format!("{}-before", dir.display()));
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let shell = |script: String| words(&["sh", "-c", &script]);
    let mut commands = vec![words(&[
        "unshare",
        "--mount",
        "sh",
        "-c",
        &format!(
            "mount -t btrfs -o subvolid=5 UUID={uuid} /mnt && {{ test -d /mnt/@snapshots || btrfs subvolume create /mnt/@snapshots; }} && \
             chmod 700 /mnt/@snapshots"
        ),
    ])];
    if is_there {
        commands.push(shell(format!("rmdir {name} 2>/dev/null || mv -T {name} {}", quote(&aside))));
    }
    commands.push(words(&["mkdir", "-p", "-m", "700", &dir.to_string_lossy()]));
    commands.push(shell(format!(
        "mount -t btrfs -o subvol=@snapshots UUID={uuid} {name} && f=$(readlink -f /etc/fstab) && {{ cp -p $f $f.new && \
         {{ sed -e '$a\\' $f; printf '%s\\n' 'UUID={uuid} {entry} btrfs subvol=@snapshots 0 0'; }} >$f.new && sync $f.new && \
         mv -T $f.new $f || {{ rm -f $f.new; umount {name}; exit 1; }}; }}"
    )));
    Making { commands, aside: is_there.then_some(aside) }
}

/// Writes a command as people type it.
pub(super) fn shown(command: &[String]) -> String {
    let words: Vec<String> = command.iter().map(|word| quoted(&BytePath::from(word.as_str()))).collect();
    format!("sudo {}", words.join(" "))
}

/// Runs the commands one after the other, until one fails; each is said when it is done.
pub(super) fn run(
    making: &Making,
    is_root: bool,
    said: &mut dyn Write,
    start: &mut dyn FnMut(&mut Command) -> io::Result<ExitStatus>,
) -> io::Result<Made> {
    for (done, words) in making.commands.iter().enumerate() {
        let mut command = if is_root { Command::new(&words[0]) } else { Command::new("sudo") };
        command.args(&words[usize::from(is_root)..]).stdout(Stdio::null());
        let failed = match start(&mut command) {
            Ok(status) if status.success() => None,
            Ok(status) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if failed.is_some() {
            return Ok(Made { done, failed });
        }
        writeln!(said, "done: {}", shown(words))?;
    }
    Ok(Made { done: making.commands.len(), failed: None })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn text(making: &Making) -> Vec<String> {
        making.commands.iter().map(|command| shown(command)).collect()
    }

    #[test]
    fn what_is_there_is_moved_aside_and_all_is_one_word_for_a_shell() {
        let made = making(Path::new("/my snaps"), "aaaa", true);
        let text = text(&made);
        assert_eq!(text.len(), 4, "{text:#?}");
        assert!(
            text[0].starts_with("sudo unshare --mount sh -c 'mount -t btrfs -o subvolid=5 UUID=aaaa /mnt"),
            "{text:?}"
        );
        assert!(made.commands[1][2].contains("mv -T '/my snaps' '/my snaps-before'"), "{made:?}");
        assert_eq!(text[2], "sudo mkdir -p -m 700 '/my snaps'");
        assert_eq!(made.aside.as_deref(), Some(Path::new("/my snaps-before")));
        let made = making(Path::new("/.snapshots"), "aaaa", false);
        assert_eq!((made.commands.len(), made.aside), (3, None));
    }

    #[test]
    fn a_place_that_is_not_on_btrfs_or_not_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = Mounts::default();
        let snaps = dir.path().join("snaps");
        let is_btrfs = KernelBtrfs.fs_uuid(dir.path()).is_ok();
        assert_eq!(matches!(look(&snaps, &mounts), Place::Make(_)), is_btrfs);
        std::fs::create_dir(&snaps).unwrap();
        std::fs::create_dir(snaps.join("1")).unwrap();
        assert!(holds_others(&snaps));
        std::fs::create_dir(snaps.join(OWN)).unwrap();
        assert!(!holds_others(&snaps));
    }

    #[test]
    fn a_command_that_fails_ends_it_and_what_was_done_is_said() {
        let made = making(Path::new("/.snapshots"), "aaaa", false);
        let mut said = Vec::new();
        let mut left = 1;
        let mut start = |command: &mut Command| {
            assert_eq!(command.get_program(), "sudo");
            left -= 1;
            Ok(ExitStatus::from_raw(if left < 0 { 256 } else { 0 }))
        };
        let ended = run(&made, false, &mut said, &mut start).unwrap();
        assert_eq!((ended.done, ended.failed.as_deref()), (1, Some("exit status: 1")));
        let said = String::from_utf8(said).unwrap();
        assert_eq!(said, format!("done: {}\n", shown(&made.commands[0])));
    }

    /// Has the table of a directory gain its line as the last command does, with nothing mounted.
    fn append(dir: &Path, before: &str) -> String {
        let table = dir.join("fstab");
        std::fs::write(&table, before).unwrap();
        let made = making(Path::new("/.snap shots"), "aaaa", false);
        let script = made.commands[2][2].replace("/etc/fstab", &table.to_string_lossy());
        let (_, rest) = script.split_once(" && ").unwrap();
        assert!(Command::new("sh").args(["-c", rest]).status().unwrap().success(), "{rest}");
        assert!(!dir.join("fstab.new").exists());
        std::fs::read_to_string(&table).unwrap()
    }

    #[test]
    fn the_table_keeps_each_of_its_lines_and_gains_one() {
        let dir = tempfile::tempdir().unwrap();
        let line = "UUID=aaaa /.snap\\040shots btrfs subvol=@snapshots 0 0\n";
        assert_eq!(append(dir.path(), "one\ntwo\n"), format!("one\ntwo\n{line}"));
        assert_eq!(
            append(dir.path(), "one\ntwo"),
            format!("one\ntwo\n{line}"),
            "its last line was not ended"
        );
        assert_eq!(append(dir.path(), ""), line);
    }
}
