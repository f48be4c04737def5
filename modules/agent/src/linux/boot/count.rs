//! The count of starts, in a file of fixed size beside the snapshots: no rollback reaches it.
//!
//! It is written in place, in a block of its own that btrfs does not copy: that takes no data space of a disk that is full. It may
//! take metadata, which can be used up as well. What cannot be written says something that is not so any more; whoever would say
//! that all is well removes the file then, and what is not there leads nowhere.
//!
//! What is there in another form than this program writes it says nothing: it leads to no fallback, and is written anew.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::linux::state::sync_dir;
use crate::proto::{BootCount, Counted};

/// The size of the file: a block, since less would lie among the metadata, which is copied.
const SIZE: usize = 4096;

/// The first line: another form has another one.
const HEAD: &str = "pc-switcher boot-count 3";

/// Where the count of a snapshot directory is.
pub(super) fn path(snapshot_dir: &Path) -> PathBuf {
    snapshot_dir.join(".pc-switcher/boot-count")
}

/// Reads it.
pub(super) fn read(snapshot_dir: &Path) -> io::Result<Counted> {
    match fs::read(path(snapshot_dir)) {
        Ok(bytes) => Ok(parse(&bytes).map_or(Counted::Garbled, Counted::So)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Counted::Off),
        Err(error) => Err(error),
    }
}

/// Writes it in place, durably. It must be there.
pub(super) fn write(snapshot_dir: &Path, count: &BootCount) -> io::Result<()> {
    let file = File::options().write(true).custom_flags(libc::O_NOFOLLOW).open(path(snapshot_dir))?;
    file.write_all_at(&encode(count), 0)?;
    if file.metadata()?.len() != SIZE as u64 {
        file.set_len(SIZE as u64)?;
    }
    file.sync_all()
}

/// Writes what is better than what is there. Where that cannot be, the file goes, and with it what it said.
///
/// # Errors
/// If it can be neither written nor removed.
pub(super) fn write_or_remove(snapshot_dir: &Path, count: &BootCount) -> io::Result<()> {
    write(snapshot_dir, count).or_else(|error| remove(snapshot_dir).map_err(|_| error))
}

/// Makes it, durably; what was counted stays.
pub(super) fn make(snapshot_dir: &Path) -> io::Result<()> {
    if let Counted::So(_) = read(snapshot_dir)? {
        return Ok(());
    }
    let path = path(snapshot_dir);
    let temp = path.with_file_name(".boot-count~");
    let dir = path.parent().unwrap_or(snapshot_dir);
    fs::create_dir_all(dir)?;
    let made = || {
        remove_file(&temp)?;
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temp)?;
        // Only of an empty file; elsewhere than on btrfs there is no such thing, and no need of it.
        if let Ok(flags) = ioctl_getflags(&file) {
            let _ = ioctl_setflags(&file, flags | IFlags::NOCOW);
        }
        file.write_all(&encode(&BootCount::default()))?;
        file.sync_all()?;
        fs::rename(&temp, &path)?;
        sync_dir(dir)
    };
    made().inspect_err(|_| {
        let _ = remove_file(&temp);
    })
}

/// Removes it, durably.
pub(super) fn remove(snapshot_dir: &Path) -> io::Result<()> {
    let path = path(snapshot_dir);
    remove_file(&path)?;
    match sync_dir(path.parent().unwrap_or(snapshot_dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns a text as a word, which an empty one is none of.
fn word(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn encode(count: &BootCount) -> Vec<u8> {
    let BootCount { starts, boot_id, red, trees, begun, proven, went_to } = count;
    let went = went_to.as_ref().map(ToString::to_string).unwrap_or_default();
    let red = if *red { "yes" } else { "no" };
    let (boot, trees, went) = (word(boot_id), word(trees), word(&went));
    let said = format!(
        "{HEAD}\nstarts {starts}\nboot {boot}\nred {red}\ntrees {trees}\nbegun {begun}\nproven {proven}\n\
         went-to {went}\n"
    );
    let digest = blake3::hash(said.as_bytes()).to_hex();
    let mut bytes = format!("{said}digest {}\n", &digest[..32]).into_bytes();
    bytes.resize(SIZE, b'\n');
    bytes
}

fn parse(bytes: &[u8]) -> Option<BootCount> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    lines.next().filter(|line| *line == HEAD)?;
    let mut value = |key: &str| Some(lines.next()?.strip_prefix(key)?.strip_prefix(' ')?.to_owned());
    let unword = |text: String| if text == "-" { String::new() } else { text };
    let starts = value("starts")?.parse().ok()?;
    let boot_id = unword(value("boot")?);
    let red = value("red")? == "yes";
    let trees = unword(value("trees")?);
    let begun = value("begun")?.parse().ok()?;
    let proven = value("proven")?.parse().ok()?;
    let went_to = match value("went-to")?.as_str() {
        "-" => None,
        set => Some(set.parse().ok()?),
    };
    let count = BootCount { starts, boot_id, red, trees, begun, proven, went_to };
    // Whatever else differs, the digest included, was not written by us.
    (encode(&count) == bytes).then_some(count)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;
    use crate::linux::btrfs::image::Image;

    fn count(starts: u32) -> BootCount {
        let went_to = Some("20251115T120000Z-0a1b2c3d-prerollback".parse().unwrap());
        let (boot_id, trees) = ("f".repeat(36), "e".repeat(32));
        BootCount { starts, boot_id, red: true, trees, begun: u64::MAX, proven: u64::MAX, went_to }
    }

    #[test]
    fn a_count_comes_back_is_written_in_place_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), Counted::Off);
        assert!(write(dir.path(), &count(1)).is_err(), "what is off is not switched on by a start");
        make(dir.path()).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Counted::So(BootCount::default()));
        write(dir.path(), &count(u32::MAX)).unwrap();
        make(dir.path()).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Counted::So(count(u32::MAX)), "what was counted stays");
        let found = fs::metadata(path(dir.path())).unwrap();
        assert_eq!((found.len(), found.permissions().mode() & 0o777), (4096, 0o600));
        fs::write(path(dir.path()), "x".repeat(10_000)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Counted::Garbled);
        write(dir.path(), &count(1)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Counted::So(count(1)));
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Counted::Off);
        let names = fs::read_dir(dir.path().join(".pc-switcher")).unwrap().count();
        assert_eq!(names, 0, "nothing is left of its making");
    }

    #[test]
    fn what_cannot_be_written_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        // In the place of the file is something that no write reaches.
        fs::create_dir(dir.path().join(".pc-switcher")).unwrap();
        std::os::unix::fs::symlink("/nowhere", path(dir.path())).unwrap();
        assert!(write(dir.path(), &count(0)).is_err());
        write_or_remove(dir.path(), &count(0)).unwrap();
        assert!(fs::symlink_metadata(path(dir.path())).is_err());
    }

    /// Fills a directory with files of `size` until there is no room for one more.
    fn fill(dir: &Path, size: usize) -> usize {
        fs::create_dir_all(dir).unwrap();
        let bytes = vec![b'x'; size];
        for number in 0.. {
            let write = || {
                let mut file = File::create_new(dir.join(format!("{size}-{number}")))?;
                file.write_all(&bytes)?;
                file.sync_all()
            };
            if write().is_err() {
                return number;
            }
        }
        unreachable!("no disk holds so much")
    }

    #[test]
    fn on_a_disk_that_is_full_a_healthy_start_never_leaves_a_count_that_says_otherwise() {
        let Some(image) = Image::make(120) else { return };
        let dir = image.top().join("snaps");
        make(&dir).unwrap();
        write(&dir, &count(2)).unwrap();
        let fills = [fill(&image.top().join("large"), 1 << 20), fill(&image.top().join("blocks"), 4096)];
        // What fits into the metadata.
        let small = fill(&image.top().join("small"), 1000);
        eprintln!("{fills:?} files of data and {small} of metadata fit");
        for starts in 3..10 {
            // A start may find room that the next one does not.
            let before = write(&dir, &count(starts));
            write_or_remove(&dir, &BootCount::default()).unwrap();
            let found = read(&dir).unwrap();
            eprintln!("{before:?} {found:?}");
            assert!([Counted::Off, Counted::So(BootCount::default())].contains(&found), "{found:?}");
        }
    }

    #[test]
    fn on_a_disk_without_data_space_it_is_written_all_the_same() {
        let Some(image) = Image::make(120) else { return };
        let dir = image.top().join("snaps");
        make(&dir).unwrap();
        fill(&image.top().join("large"), 1 << 20);
        fill(&image.top().join("blocks"), 4096);
        for starts in 1..200 {
            write(&dir, &count(starts)).unwrap();
            assert_eq!(read(&dir).unwrap(), Counted::So(count(starts)));
        }
    }

    proptest! {
        #[test]
        fn a_count_that_is_torn_anywhere_says_nothing(
            (old, new) in (0_u32..50, 0_u32..50),
            cut in prop_oneof![0_usize..=300, 0_usize..=SIZE],
        ) {
            let (old, new) = (count(old), BootCount { starts: new, ..BootCount::default() });
            let mut torn = encode(&new)[..cut].to_vec();
            torn.extend_from_slice(&encode(&old)[cut..]);
            prop_assert!([None, Some(old), Some(new)].contains(&parse(&torn)));
        }

        #[test]
        fn no_bytes_make_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(parse(&bytes), None);
        }
    }
}
