//! A tree as frames of a stream, and back: any tree that is read-only, and into an empty directory of ours.
//!
//! The stream is read by whoever gets it, perhaps on another machine, and trusted with nothing: a name has no `/`, `.` or
//! `..` to lead anywhere, what it stands in was made here as a directory, and a further name of a file is one of a file of
//! this very tree (facts G39).

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, ftruncate, readlinkat};
use rustix::io::{Errno, pread};

use pc_switcher_contract::BytePath;

use super::build::Builder;
use super::item::{Item, Live, What, meta_with};
use super::roll::{Damaged, ITEM, Inventory, RollReader, RollWriter};
use super::unpack::put;
use crate::data::apply::odd_meta;
use crate::data::apply::remove::list;
use crate::data::content::ContentHash;
use crate::data::seen::Seen;
use crate::data::{extents, open};
use crate::proto::{decode, encode};

/// Bytes of content in one frame.
const STRETCH: usize = 256 << 10;
/// A piece of the content of the file before: the offset as eight bytes, then the bytes.
const DATA: u8 = 2;
/// The end of a file: its size as eight bytes, and the digest of its content.
const CLOSE: u8 = 3;
/// The end of a tree.
const LAST: u8 = 4;
/// The inode number of what stands in a snapshot for a subvolume inside.
const STAND_IN: u64 = 2;

type Failed = (BytePath, io::Error);

/// Writes a tree that nobody changes.
///
/// # Errors
/// The path that could not be read, or written; and why.
pub(crate) fn send_tree<W: Write>(
    root: &OwnedFd,
    roll: &mut RollWriter<W>,
    stop: &dyn Fn() -> bool,
) -> Result<(), Failed> {
    let mut sender = Sender { root, roll, links: HashMap::new(), buffer: vec![0; STRETCH], stop };
    let top = BytePath::default();
    sender.item(&top).map_err(|error| (top.clone(), error))?;
    let mut todo = vec![top];
    while let Some(at) = todo.pop() {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let names = open::beneath_for_reading(root, at.as_bytes(), flags).and_then(list);
        let mut names = names.map_err(|error| (at.clone(), error.into()))?;
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (name, _) in names {
            let path = at.join(name.to_bytes());
            if sender.item(&path).map_err(|error| (path.clone(), error))? {
                todo.push(path);
            }
        }
    }
    sender.roll.frame(LAST, &[]).map_err(|error| (BytePath::default(), error))
}

struct Sender<'a, W: Write> {
    root: &'a OwnedFd,
    roll: &'a mut RollWriter<W>,
    links: HashMap<u64, BytePath>,
    buffer: Vec<u8>,
    stop: &'a dyn Fn() -> bool,
}

impl<W: Write> Sender<'_, W> {
    /// Writes one name; whether it is a directory.
    fn item(&mut self, path: &BytePath) -> io::Result<bool> {
        if (self.stop)() {
            return Err(Errno::CANCELED.into());
        }
        let fd = match open::beneath(self.root, path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW) {
            // A subvolume inside, which the snapshot does not hold.
            Err(Errno::XDEV) => return Ok(false),
            opened => opened?,
        };
        let seen = Seen::of(&fd)?;
        let kind = seen.file_type();
        if !path.is_empty() && kind == FileType::Directory && seen.ino() == STAND_IN {
            return Ok(false);
        }
        let meta = meta_with(&seen, &fd)?;
        let first = self.links.get(&seen.ino()).filter(|_| seen.nlink() > 1 && kind == FileType::RegularFile);
        let what = match (kind, first) {
            (_, Some(first)) => What::Link(first.clone()),
            (FileType::Directory, _) => What::Dir,
            (FileType::RegularFile, _) => What::File(seen.size(), [0; 32]),
            (FileType::Symlink, _) => {
                What::Symlink(BytePath::new(readlinkat(&fd, c"", Vec::new())?.into_bytes()))
            }
            (FileType::Fifo, _) => What::Fifo,
            (FileType::BlockDevice | FileType::CharacterDevice, _) => {
                let (major, minor) = seen.stands_for();
                What::Device(kind == FileType::BlockDevice, major, minor)
            }
            _ => return Ok(false),
        };
        let is_file = matches!(what, What::File(..));
        let item = Item { path: path.clone(), what, meta, live: Live::default() };
        self.roll.frame(ITEM, &encode(&item))?;
        if is_file {
            self.content(path)?;
            if seen.nlink() > 1 {
                self.links.insert(seen.ino(), path.clone());
            }
        }
        Ok(kind == FileType::Directory)
    }

    fn content(&mut self, path: &BytePath) -> io::Result<()> {
        let file = open::beneath_for_reading(self.root, path.as_bytes(), OFlags::NOFOLLOW)?;
        let size = Seen::of(&file)?.size();
        let (mut hash, mut at) = (ContentHash::new(), 0);
        let mut body = Vec::with_capacity(STRETCH + 8);
        while let Some((mut start, end)) = extents::next(&file, at, size)? {
            while start < end {
                if (self.stop)() {
                    return Err(Errno::CANCELED.into());
                }
                let want = STRETCH.min((end - start) as usize);
                let n = match pread(&file, &mut self.buffer[..want], start) {
                    Err(Errno::INTR) => continue,
                    read => read?,
                };
                if n == 0 {
                    return Err(io::Error::other("it became shorter while it was read"));
                }
                hash.add(start, &self.buffer[..n]);
                body.clear();
                body.extend_from_slice(&start.to_le_bytes());
                body.extend_from_slice(&self.buffer[..n]);
                self.roll.frame(DATA, &body)?;
                start += n as u64;
            }
            at = end;
        }
        open::forget(&file);
        let digest = hash.finish(size);
        self.roll.frame(CLOSE, &[&size.to_le_bytes()[..], &digest].concat())
    }
}

/// What a tree of a stream came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Came {
    /// Files, directories and others.
    pub(crate) entries: u64,
    /// Bytes of content.
    pub(crate) bytes: u64,
}

/// Makes a tree in an empty directory of what comes, and the list of it.
///
/// # Errors
/// If it is not whole, not what such a tree can be, or cannot be written.
pub(crate) fn read_tree<R: Read>(
    roll: &mut RollReader<R>,
    root: &OwnedFd,
    inventory: &mut Inventory,
    stop: &dyn Fn() -> bool,
) -> io::Result<(Came, Vec<String>)> {
    let mut builder = Builder::new(root, true);
    let mut came = Came::default();
    // The kinds of all names: whether they are directories.
    let mut known: HashMap<BytePath, bool> = HashMap::new();
    let bad = |path: &BytePath, why: &str| io::Error::from(Damaged(format!("`{path}` in it {why}")));
    loop {
        if stop() {
            return Err(Errno::CANCELED.into());
        }
        let (kind, body) = roll.next()?.ok_or_else(|| Damaged("it ends within a tree".into()))?;
        if kind == LAST {
            break;
        }
        let item: Item = match (kind, decode(&body)) {
            (ITEM, Ok(item)) => item,
            _ => return Err(Damaged("a name in it cannot be read".into()).into()),
        };
        // What was alive on another machine is nothing here.
        let Item { path, what, meta, .. } = item;
        if let Some(odd) = odd_meta(&meta) {
            return Err(bad(&path, &format!("has an {odd} that no set may bring along")));
        }
        let is_first = known.is_empty();
        let parent = path.parent();
        if is_first != path.is_empty() || !is_plain(&path) || known.contains_key(&path) {
            return Err(bad(&path, "is no name that can be made"));
        }
        if parent.is_some_and(|parent| known.get(&parent) != Some(&true)) {
            return Err(bad(&path, "lies in no directory of it"));
        }
        if is_first && what != What::Dir {
            return Err(bad(&path, "is no directory"));
        }
        let what = match what {
            What::Dir => builder.dir(&path, &meta).map(|()| what)?,
            What::Symlink(target) => {
                CString::new(target.as_bytes()).map_err(|_| bad(&path, "leads nowhere"))?;
                builder.symlink(&path, &target, &meta)?;
                What::Symlink(target)
            }
            What::Fifo => builder.fifo(&path, &meta).map(|()| what)?,
            What::Device(is_block, major, minor) => {
                builder.device(&path, (is_block, major, minor), &meta).map(|()| what)?
            }
            What::Link(first) => {
                if known.get(&first) != Some(&false) {
                    return Err(bad(&path, "is a further name of a file that is not in it"));
                }
                builder.link(&path, &first)?;
                What::Link(first)
            }
            What::File(..) => {
                let file = builder.file(&path)?;
                let (size, digest) = content(roll, &path, &file, stop)?;
                builder.close(&path, &file, &meta)?;
                came.bytes += size;
                What::File(size, digest)
            }
        };
        known.insert(path.clone(), what == What::Dir);
        came.entries += 1;
        inventory.add(&Item { path, what, meta, live: Live::default() })?;
    }
    let refused = builder.finish().map_err(|(_, error)| error)?;
    let notes = refused.iter().map(|(path, name, why)| {
        let path = if path.is_empty() { "the top".to_owned() } else { format!("`{path}`") };
        format!("{path} is without its attribute `{name}`: {why}")
    });
    Ok((came, notes.collect()))
}

fn is_plain(path: &BytePath) -> bool {
    let names = || path.as_bytes().split(|byte| *byte == b'/');
    path.is_empty() || names().all(|name| !matches!(name, b"" | b"." | b"..") && !name.contains(&0))
}

fn content<R: Read>(
    roll: &mut RollReader<R>,
    path: &BytePath,
    file: &OwnedFd,
    stop: &dyn Fn() -> bool,
) -> io::Result<(u64, [u8; 32])> {
    let (mut hash, mut end) = (ContentHash::new(), 0_u64);
    let bad = |why: &str| io::Error::from(Damaged(format!("the content of `{path}` in it {why}")));
    loop {
        if stop() {
            return Err(Errno::CANCELED.into());
        }
        let (kind, body) = roll.next()?.ok_or_else(|| bad("has no end"))?;
        match (kind, body.split_at_checked(8)) {
            (DATA, Some((at, data))) => {
                let at = u64::from_le_bytes(at.try_into().unwrap_or_default());
                if at < end || at.checked_add(data.len() as u64).is_none() {
                    return Err(bad("is out of order"));
                }
                if !hash.zeros(at, stop) {
                    return Err(Errno::CANCELED.into());
                }
                put(file, data, at)?;
                hash.add(at, data);
                end = at + data.len() as u64;
            }
            (CLOSE, Some((size, digest))) => {
                let size = u64::from_le_bytes(size.try_into().unwrap_or_default());
                if size < end || i64::try_from(size).is_err() {
                    return Err(bad("is longer than it was"));
                }
                ftruncate(file, size)?;
                if !hash.zeros(size, stop) {
                    return Err(Errno::CANCELED.into());
                }
                let is = hash.finish(size);
                return if is == digest { Ok((size, is)) } else { Err(bad("is not what it was")) };
            }
            _ => return Err(bad("cannot be read")),
        }
    }
}
