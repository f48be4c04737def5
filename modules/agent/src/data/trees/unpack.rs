//! Makes a plain tree of an archive, or of a part of it, so that it can be read as any other.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, OFlags, ftruncate};
use rustix::io::{Errno, pwrite};

use pc_switcher_contract::BytePath;

use super::build::Builder;
use super::item::{Item, What};
use super::roll::{Damaged, read_inventory};
use crate::data::content::ContentHash;
use crate::data::open;
use crate::data::seen::Seen;

/// Bytes that are unpacked at once; a stretch of nothing but zeros becomes a hole.
pub(super) const STRETCH: usize = 64 << 10;

/// Another archive that it is to be compared with.
pub(crate) struct Other<'a> {
    /// As it lies.
    pub(crate) raw: &'a OwnedFd,
    /// What was unpacked of it, if that was first.
    pub(crate) stood: Option<&'a OwnedFd>,
}

/// Whether a tree has a file at a path.
///
/// # Errors
/// If that may not be seen.
pub(crate) fn is_file(root: &OwnedFd, path: &BytePath) -> Result<bool, Errno> {
    match open::beneath(root, path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        opened => Ok(Seen::of(opened?)?.file_type() == FileType::RegularFile),
    }
}

/// Whether both archives have one inode at a path.
fn is_one(archive: &OwnedFd, other: &OwnedFd, path: &BytePath) -> bool {
    let seen = |root: &OwnedFd| {
        open::beneath(root, path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW).and_then(Seen::of)
    };
    let number = |seen: Seen| (seen.device(), seen.ino());
    seen(archive).ok().map(number).is_some_and(|one| seen(other).ok().map(number) == Some(one))
}

/// Unpacks what an archive holds below `only` (all of it if that is empty), with the directories above, into an empty
/// directory. A file that `other` has as the same inode gets its metadata and size, and no content.
///
/// # Errors
/// If the archive or its list is damaged, or the disk is full.
pub(crate) fn unpack(
    (archive, list): (&OwnedFd, &Path),
    only: &BytePath,
    other: Option<&Other<'_>>,
    root: &OwnedFd,
    stop: &dyn Fn() -> bool,
) -> io::Result<()> {
    let mut builder = Builder::new(root, false);
    // By the first name of a file: the one that was made.
    let mut made: HashMap<BytePath, BytePath> = HashMap::new();
    read_inventory(list, |item| {
        if stop() {
            return Err(Errno::CANCELED.into());
        }
        let is_way = item.what == What::Dir && only.is_within(&item.path);
        if !is_way && !item.path.is_within(only) {
            return Ok(());
        }
        let Item { path, what, meta, .. } = item;
        match what {
            What::Dir => builder.dir(&path, &meta)?,
            What::Symlink(target) => builder.symlink(&path, &target, &meta)?,
            What::Fifo => builder.fifo(&path, &meta)?,
            What::Device(is_block, major, minor) => builder.device(&path, (is_block, major, minor), &meta)?,
            What::Link(ref first) if made.contains_key(first) => builder.link(&path, &made[first])?,
            What::File(size, _) if other.is_some_and(|other| is_one(archive, other.raw, &path)) => {
                let above = path.parent().unwrap_or_default();
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                match other.and_then(|other| other.stood) {
                    Some(stood) => {
                        let dir = open::beneath(stood, above.as_bytes(), flags)?;
                        builder.link_from(&path, (&dir, path.name()))?;
                    }
                    None => {
                        let copy = builder.file(&path)?;
                        ftruncate(&copy, size)?;
                        builder.close(&path, &copy, &meta)?;
                    }
                }
                made.insert(path.clone(), path);
            }
            // Of a link the first name is not wanted: the content is that of this one as well.
            What::Link(_) | What::File(..) => {
                let source = open::beneath_for_reading(archive, path.as_bytes(), OFlags::NOFOLLOW)?;
                let copy = builder.file(&path)?;
                let (size, digest) = content(&source, &copy).map_err(|error| {
                    Damaged(format!("`{path}` in the archive cannot be unpacked: {error}"))
                })?;
                builder.close(&path, &copy, &meta)?;
                let first = match what {
                    What::File(known, right) if (known, right) != (size, digest) => {
                        return Err(Damaged(format!("`{path}` in the archive is not what was kept")).into());
                    }
                    What::Link(first) => first,
                    _ => path.clone(),
                };
                made.insert(first, path);
            }
        }
        Ok(())
    })?;
    builder.finish().map_err(|(_, error)| error)?;
    Ok(())
}

/// Unpacks one file; returns its size and digest.
fn content(source: &OwnedFd, copy: &OwnedFd) -> io::Result<(u64, [u8; 32])> {
    let mut from = zstd::Decoder::new(File::from(source.try_clone()?))?;
    write_all(copy, &mut from)
}

/// Writes all that comes, with holes for zeros.
pub(super) fn write_all(copy: &OwnedFd, from: &mut dyn Read) -> io::Result<(u64, [u8; 32])> {
    let (mut hash, mut at, mut buffer) = (ContentHash::new(), 0_u64, vec![0; STRETCH]);
    loop {
        let n = fill(from, &mut buffer)?;
        if n == 0 {
            ftruncate(copy, at)?;
            return Ok((at, hash.finish(at)));
        }
        hash.add(at, &buffer[..n]);
        if buffer[..n].iter().any(|byte| *byte != 0) {
            put(copy, &buffer[..n], at)?;
        }
        at += n as u64;
    }
}

pub(super) fn put(copy: &OwnedFd, data: &[u8], at: u64) -> Result<(), Errno> {
    let mut written = 0;
    while written < data.len() {
        written += pwrite(copy, &data[written..], at + written as u64)?;
    }
    Ok(())
}

fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads a packed file to its end; returns its size and digest.
pub(super) fn digest_of(source: &OwnedFd, stop: &dyn Fn() -> bool) -> io::Result<(u64, [u8; 32])> {
    let mut from = zstd::Decoder::new(File::from(source.try_clone()?))?;
    let (mut hash, mut at, mut buffer) = (ContentHash::new(), 0_u64, vec![0; STRETCH]);
    loop {
        if stop() {
            return Err(Errno::CANCELED.into());
        }
        let n = fill(&mut from, &mut buffer)?;
        if n == 0 {
            return Ok((at, hash.finish(at)));
        }
        hash.add(at, &buffer[..n]);
        at += n as u64;
    }
}
