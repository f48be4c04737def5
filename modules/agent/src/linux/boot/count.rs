//! The count of starts, in a file of fixed size beside the snapshots: no rollback reaches it. On a disk that is full to the last block
//! writing it may fail all the same, since btrfs copies what it writes.
//!
//! It is written in place. What is there in another form than this program writes it says nothing: it leads to no fallback, and
//! is written anew.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::linux::state::write_file;
use crate::proto::{BootCount, Counted};

/// The size of the file.
const SIZE: usize = 256;

/// The first line: another form has another one.
const HEAD: &str = "pc-switcher boot-count 1";

/// Where the count of a snapshot directory is.
pub(super) fn path(snapshot_dir: &Path) -> PathBuf {
    snapshot_dir.join(".pc-switcher/boot-count")
}

/// Reads it.
pub(super) fn read(snapshot_dir: &Path) -> io::Result<Counted> {
    match std::fs::read(path(snapshot_dir)) {
        Ok(bytes) => Ok(parse(&bytes).map_or(Counted::Garbled, Counted::So)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Counted::Off),
        Err(error) => Err(error),
    }
}

/// Writes it in place, durably. It must be there.
pub(super) fn write(snapshot_dir: &Path, count: &BootCount) -> io::Result<()> {
    let file = File::options().write(true).custom_flags(libc::O_NOFOLLOW).open(path(snapshot_dir))?;
    file.write_all_at(&encode(count), 0)?;
    file.set_len(SIZE as u64)?;
    file.sync_all()
}

/// Makes it, durably; what was counted stays.
pub(super) fn make(snapshot_dir: &Path) -> io::Result<()> {
    match read(snapshot_dir)? {
        Counted::So(_) => Ok(()),
        Counted::Off | Counted::Garbled => {
            let path = path(snapshot_dir);
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            write_file(&path, &encode(&BootCount::default()))
        }
    }
}

/// Removes it.
pub(super) fn remove(snapshot_dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(path(snapshot_dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn encode(count: &BootCount) -> Vec<u8> {
    let went = count.went_to.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    let boot = if count.boot_id.is_empty() { "-" } else { &count.boot_id };
    let said = format!("{HEAD}\nstarts {}\nboot {boot}\nwent-to {went}\n", count.starts);
    let digest = blake3::hash(said.as_bytes()).to_hex();
    let mut bytes = format!("{said}digest {}\n", &digest[..32]).into_bytes();
    bytes.resize(SIZE, b'\n');
    bytes
}

fn parse(bytes: &[u8]) -> Option<BootCount> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    lines.next().filter(|line| *line == HEAD)?;
    let mut value = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix(' ');
    let starts = value("starts")?.parse().ok()?;
    let boot_id = value("boot")?.to_owned();
    let went_to = match value("went-to")? {
        "-" => None,
        set => Some(set.parse().ok()?),
    };
    let count = BootCount { starts, boot_id: if boot_id == "-" { String::new() } else { boot_id }, went_to };
    // Whatever else differs, the digest included, was not written by us.
    (encode(&count) == bytes).then_some(count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(starts: u32) -> BootCount {
        let went_to = Some("20251115T120000Z-0a1b2c3d-prerollback".parse().unwrap());
        BootCount { starts, boot_id: "f".repeat(36), went_to }
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
        assert_eq!(std::fs::metadata(path(dir.path())).unwrap().len(), 256);
        std::fs::write(path(dir.path()), "x".repeat(1000)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Counted::Garbled);
        write(dir.path(), &count(1)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Counted::So(count(1)));
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Counted::Off);
    }

    proptest! {
        #[test]
        fn a_count_that_is_torn_anywhere_says_nothing(
            (old, new) in (0_u32..50, 0_u32..50),
            cut in 0_usize..=SIZE,
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
