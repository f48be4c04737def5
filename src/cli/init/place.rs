//! A place of their own for the snapshots: which commands make it, and running them.
//!
//! What is shown is what is run, word for word. Each command can be given again after it was cut off. Nothing is mounted for longer than
//! its command takes but the directory itself, and `/etc/fstab` names only what was just mounted: it is replaced as a whole.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use pc_switcher_agent::linux::btrfs::{Btrfs, KernelBtrfs};
use pc_switcher_agent::linux::mounts::Mounts;
use pc_switcher_agent::linux::rollback;
use pc_switcher_contract::{BytePath, SnapshotName};

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Making {
    /// The commands, each with its words.
    pub(super) commands: Vec<Vec<String>>,
    /// Where what lay in the directory is afterwards.
    pub(super) aside: PathBuf,
}

/// What became of the commands.
#[derive(Debug)]
pub(super) struct Made {
    /// How many were done.
    pub(super) done: usize,
    /// Why the next one was not.
    pub(super) failed: Option<String>,
}

/// Looks what the directory of snapshots lacks in the system with this root, as far as it can be seen without being root.
pub(super) fn look(dir: &Path, mounts: &Mounts, root: &Path) -> Place {
    if is_top_level(dir, mounts) {
        return Place::Fine;
    }
    // A disk that is late (`nofail`), or is mounted by hand: it holds the snapshots, and one point has one line.
    match rollback::unmounted(root, &BytePath::from(dir)) {
        Ok(None) => {}
        Ok(Some(point)) => {
            let point = quoted(&point);
            return Place::Taken(format!(
                "{point} is to be mounted by `/etc/fstab` or a unit of systemd, and is not: `sudo mount {point}` (`sudo systemctl start {point}` \
                 for a unit)"
            ));
        }
        Err(error) => return Place::Taken(error.to_string()),
    }
    // One that only root may look into lies where what is above it does, unless something is mounted there.
    let uuid =
        dir.ancestors().filter(|path| path.is_dir()).find_map(|path| match KernelBtrfs.fs_uuid(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            other => Some(other),
        });
    let Some(Ok(uuid)) = uuid else { return Place::Fine };
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

/// What the names of our snapshots look like to a shell.
const OURS: &str = "*-*-????????T??????Z-????????";

/// Whether something lies there that is not ours. In a directory that only root may read the command that moves it looks for itself.
fn holds_others(dir: &Path) -> bool {
    let is_ours =
        |name: &OsStr| name == OWN || name.to_str().is_some_and(|name| name.parse::<SnapshotName>().is_ok());
    dir.read_dir().into_iter().flatten().flatten().any(|entry| !is_ours(&entry.file_name()))
}

/// Returns the commands that make a place on this file system.
fn making(dir: &Path, uuid: &str, is_there: bool) -> Making {
    let quote = |path: &Path| quoted(&BytePath::from(path));
    let (name, entry) = (quote(dir), fstab_field(&dir.to_string_lossy()));
    let aside = PathBuf::from(format!("{}-before", dir.display()));
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let shell = |script: String| words(&["sh", "-c", &script]);
    let line = format!("UUID={uuid} {entry} btrfs subvol=@snapshots 0 0");
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
        // Other tools would look for what is theirs in vain.
        commands.push(shell(format!(
            "o=$(find {name} -mindepth 1 -maxdepth 1 ! -name {OWN} ! -name '{OURS}' -print -quit) && \
             {{ test -z \"$o\" || {{ echo \"$o is not of pc-switcher: name another snapshot_dir\" >&2; exit 1; }}; }} && \
             {{ rmdir {name} 2>/dev/null || mv -T {name} {}; }}",
            quote(&aside)
        )));
    }
    commands.push(words(&["mkdir", "-p", "-m", "700", &dir.to_string_lossy()]));
    // All that the status of the braces tells is their last command: each has to be done for the next.
    let script = format!(
        "f=$(readlink -f /etc/fstab) && {{ test -z \"$(ls -A {name})\" || {{ echo {name} is not empty any more >&2; exit 1; }}; }} && \
         mount -t btrfs -o subvol=@snapshots UUID={uuid} {name} && {{ cp -p \"$f\" \"$f.new\" && \
         {{ sed -e '$a\\' \"$f\" && printf '%s\\n' \"$1\"; }} >\"$f.new\" && sync \"$f.new\" && mv -T \"$f.new\" \"$f\" || \
         {{ rm -f \"$f.new\"; umount {name}; exit 1; }}; }}"
    );
    commands.push(words(&["sh", "-c", &script, "sh", &line]));
    Making { commands, aside }
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
        assert_eq!(made.aside, Path::new("/my snaps-before"));
        let made = making(Path::new("/.snapshots"), "aaaa", false);
        assert_eq!(made.commands.len(), 3);
        assert_eq!(
            made.aside,
            Path::new("/.snapshots-before"),
            "of a run that was cut off after it was moved"
        );
    }

    #[test]
    fn a_place_that_is_not_on_btrfs_or_not_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = Mounts::default();
        let snaps = dir.path().join("snaps");
        let is_btrfs = KernelBtrfs.fs_uuid(dir.path()).is_ok();
        assert_eq!(matches!(look(&snaps, &mounts, dir.path()), Place::Make(_)), is_btrfs);
        std::fs::create_dir(&snaps).unwrap();
        std::fs::create_dir(snaps.join(OWN)).unwrap();
        std::fs::create_dir(snaps.join("@home-presync-20251115T120000Z-abc12345")).unwrap();
        assert!(!holds_others(&snaps));
        std::fs::create_dir(snaps.join("1")).unwrap();
        assert!(holds_others(&snaps));
        // As root does it, where nobody else may look.
        let script = &making(&snaps, "aaaa", true).commands[1][2];
        let moves = || Command::new("sh").args(["-c", script]).output().unwrap();
        let refused = moves();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("snaps/1 is not of pc-switcher"), "{said}");
        std::fs::remove_dir(snaps.join("1")).unwrap();
        assert!(moves().status.success());
        assert!(!snaps.exists() && dir.path().join("snaps-before").join(OWN).is_dir());
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

    #[test]
    fn what_is_to_be_mounted_there_and_is_not_gets_no_second_line() {
        let root = tempfile::tempdir().unwrap();
        let table = root.path().join("etc/fstab");
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let snaps = root.path().join("my snaps");
        let looked = |line: &str| {
            std::fs::write(&table, line).unwrap();
            look(&snaps, &Mounts::default(), root.path())
        };
        let point = fstab_field(&snaps.to_string_lossy());
        for options in ["subvol=@snapshots,nofail", "noauto"] {
            let Place::Taken(why) = looked(&format!("UUID=x {point} btrfs {options} 0 0\n")) else {
                panic!("it is made")
            };
            assert!(why.contains(&format!("`sudo mount '{}'`", snaps.display())), "{why}");
        }
        assert!(!matches!(looked("UUID=x /elsewhere btrfs nofail 0 0\n"), Place::Taken(_)));
    }

    /// Has the table of a directory gain its line as the last command does, with nothing mounted and these programs first in the path;
    /// returns whether it was done, the table, and what was unmounted.
    fn append(dir: &Path, snaps: &str, before: &str, programs: &[(&str, &str)]) -> (bool, String, String) {
        use std::os::unix::fs::PermissionsExt as _;

        let (table, bin, unmounted) = (dir.join("fstab"), dir.join("bin"), dir.join("unmounted"));
        let _ = std::fs::remove_dir_all(&bin);
        std::fs::create_dir(&bin).unwrap();
        std::fs::write(&unmounted, "").unwrap();
        let note = format!("printf %s \"$1\" >{}", unmounted.display());
        for (name, text) in [("mount", "exit 0"), ("umount", note.as_str())].iter().chain(programs) {
            std::fs::write(bin.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::write(&table, before).unwrap();
        let mut words = making(Path::new(snaps), "aaaa", false).commands.pop().unwrap();
        words[2] = words[2].replace("/etc/fstab", &table.to_string_lossy());
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        // As it is shown: what somebody pastes is the same.
        let shown = shown(&words).strip_prefix("sudo ").unwrap().to_owned();
        let done =
            Command::new("sh").args(["-c", &shown]).env("PATH", path).current_dir(dir).status().unwrap();
        assert!(!dir.join("fstab.new").exists());
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        (done.success(), read(&table), read(&unmounted))
    }

    #[test]
    fn the_table_keeps_each_of_its_lines_and_gains_one() {
        let dir = tempfile::tempdir().unwrap();
        let line = "UUID=aaaa /.snap\\040shots btrfs subvol=@snapshots 0 0\n";
        for (before, after) in [("one\ntwo\n", "one\ntwo\n"), ("one\ntwo", "one\ntwo\n"), ("", "")] {
            let (done, table, unmounted) = append(dir.path(), "/.snap shots", before, &[]);
            assert_eq!(
                (done, table, unmounted),
                (true, format!("{after}{line}"), String::new()),
                "{before:?}"
            );
        }
    }

    #[test]
    fn a_table_that_cannot_be_read_to_its_end_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let programs = ["sed", "sync", "mv"].map(|name| (name, "head -c 2 \"$3\" 2>/dev/null; exit 4"));
        for program in programs {
            let snaps = dir.path().join("snaps").to_string_lossy().into_owned();
            let (done, table, unmounted) = append(dir.path(), &snaps, "one\ntwo\n", &[program]);
            let wanted = (false, "one\ntwo\n", snaps.as_str());
            assert_eq!((done, table.as_str(), unmounted.as_str()), wanted, "{program:?}");
        }
    }

    #[test]
    fn what_somebody_put_there_meanwhile_is_not_hidden_under_a_mount() {
        let dir = tempfile::tempdir().unwrap();
        let snaps = dir.path().join("snaps");
        std::fs::create_dir_all(snaps.join(OWN)).unwrap();
        let (done, table, _) = append(dir.path(), &snaps.to_string_lossy(), "one\n", &[]);
        assert_eq!((done, table.as_str()), (false, "one\n"));
    }

    #[test]
    fn a_quote_in_the_path_is_text_and_no_command() {
        let dir = tempfile::tempdir().unwrap();
        let (done, table, _) = append(dir.path(), "/a'; touch out; '", "one\n", &[]);
        assert!(done && !dir.path().join("out").exists(), "{table}");
        assert_eq!(table, "one\nUUID=aaaa /a';\\040touch\\040out;\\040' btrfs subvol=@snapshots 0 0\n");
    }
}
