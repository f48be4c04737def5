//! Reads one directory.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Access, AtFlags, FileType, RawDir, accessat, readlinkat};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::{Walk, items};
use crate::data::HOME;
use crate::data::rules::{Decision, Near};
use crate::data::seen::Seen;
use crate::data::xattr;
use crate::proto::{DirListing, Entry, Kind, Meta, Skip, SkipReason};

/// Room for names that one call to the kernel brings.
const ROOM: usize = 64 << 10;

/// Why our own directory is skipped.
const OWN: &str = "staging of pc-switcher itself";

/// What a check of ext4 makes at the root of a file system, and why it is skipped.
const FOUND: &CStr = c"lost+found";
const CHECKED: &str = "belongs to its file system";

/// Inode numbers of btrfs: every subvolume's root, and what stands for a nested one inside a snapshot.
const SUBVOLUME_ROOT: u64 = 256;
const SUBVOLUME_STUB: u64 = 2;

/// One thread's buffers.
pub(super) struct Lister<'a, 'b> {
    walk: &'a Walk<'b>,
    names: Vec<MaybeUninit<u8>>,
    path: Vec<u8>,
    xattrs: xattr::Reader,
    items: Option<items::Searcher>,
    inos: Vec<u64>,
}

/// One name of a directory, as the directory itself has it.
struct Name {
    name: CString,
    file_type: FileType,
    ino: u64,
    /// What was seen of it already.
    seen: Option<Seen>,
}

/// Returns the reason for what `error` says.
pub(super) fn unreadable(error: Errno) -> SkipReason {
    SkipReason::Unreadable(std::io::Error::from(error).to_string())
}

/// What a name turned out to be.
enum Found {
    Entry(Box<Entry>),
    Skip(SkipReason),
    Gone,
}

impl<'a, 'b> Lister<'a, 'b> {
    pub(super) fn new(walk: &'a Walk<'b>) -> Self {
        let names = vec![MaybeUninit::uninit(); ROOM];
        let items = walk.is_sealed.then(items::Searcher::new);
        let xattrs = xattr::Reader::for_thread();
        Self { walk, names, path: Vec::new(), xattrs, items, inos: Vec::new() }
    }

    /// Returns the entry of an open directory, without its name.
    pub(super) fn own(&mut self, dir: &OwnedFd) -> Result<Entry, Errno> {
        let xattrs = self.xattrs.of(dir)?;
        let seen = Seen::of(dir)?;
        Ok(entry(BytePath::default(), Kind::Dir, &seen, xattrs, BytePath::default()))
    }

    /// Refuses a directory that stands for another tree: what is below it is not ours to list.
    pub(super) fn refuse_other_trees(&self, dir: &OwnedFd) -> Result<(), Errno> {
        let seen = Seen::of(dir)?;
        match seen.is_across(&self.walk.seen) || self.is_subvolume(&seen) {
            true => Err(Errno::XDEV),
            false => Ok(()),
        }
    }

    /// Fills the listing of the open directory, with all names or `only` some; directories to go on with are added to
    /// `children`. After an error it holds what was seen before.
    pub(super) fn fill(
        &mut self,
        dir: &OwnedFd,
        only: Option<&[BytePath]>,
        listing: &mut DirListing,
        children: &mut Vec<BytePath>,
    ) -> Result<(), Errno> {
        let (mut names, read) = match only {
            Some(only) => named(dir, only),
            None => self.names(dir),
        };
        names.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        names.dedup_by(|a, b| a.name == b.name);
        let has_items = only.is_none() && self.search(&names);
        listing.entries.reserve(names.len());
        self.xattrs.enter(dir);
        let near = self.walk.rules.near(listing.path.as_bytes());
        for name in names {
            let bytes = BytePath::new(name.name.to_bytes());
            match self.look(dir, &listing.path, &near, &name, has_items) {
                Ok(Found::Entry(entry)) => {
                    if entry.kind == Kind::Dir {
                        children.push(listing.path.join(bytes.as_bytes()));
                    }
                    listing.entries.push(*entry);
                }
                Ok(Found::Skip(reason)) => listing.skipped.push(Skip { name: bytes, reason }),
                Ok(Found::Gone) | Err(Errno::NOENT) => {}
                Err(error) => listing.skipped.push(Skip { name: bytes, reason: unreadable(error) }),
            }
        }
        read
    }

    /// Reads the inodes of all files at once, where that is possible.
    fn search(&mut self, names: &[Name]) -> bool {
        let Some(items) = &mut self.items else { return false };
        self.inos.clear();
        let files = names.iter().filter(|name| name.file_type == FileType::RegularFile);
        self.inos.extend(files.map(|name| name.ino));
        // Where it fails each file is looked at by itself.
        items.read(&self.walk.root, &mut self.inos).is_ok()
    }

    fn names(&mut self, dir: &OwnedFd) -> (Vec<Name>, Result<(), Errno>) {
        let mut found = Vec::new();
        let mut entries = RawDir::new(dir, &mut self.names);
        while let Some(entry) = entries.next() {
            match entry {
                Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                Ok(entry) => found.push(Name {
                    name: entry.file_name().to_owned(),
                    file_type: entry.file_type(),
                    ino: entry.ino(),
                    seen: None,
                }),
                Err(error) => return (found, Err(error)),
            }
        }
        (found, Ok(()))
    }

    fn look(
        &mut self,
        dir: &OwnedFd,
        parent: &BytePath,
        near: &Near<'_>,
        found: &Name,
        has_items: bool,
    ) -> Result<Found, Errno> {
        let name: &CStr = &found.name;
        let mut early = found.seen.clone();
        let is_dir = match found.file_type {
            FileType::Unknown => early.insert(Seen::at(dir, name)?).is_dir(),
            file_type => file_type == FileType::Directory,
        };
        if parent.is_empty() && name.to_bytes() == HOME.as_bytes() {
            return Ok(Found::Skip(SkipReason::Rule(OWN.into())));
        }
        if parent.is_empty() && is_dir && !self.walk.is_btrfs && name == FOUND {
            return Ok(Found::Skip(SkipReason::Rule(CHECKED.into())));
        }
        if near.may_match(name.to_bytes())
            && let Decision::Skip(reason) = self.decide(parent, name, is_dir)
        {
            return Ok(Found::Skip(SkipReason::Rule(reason.to_owned())));
        }
        if has_items
            && found.file_type == FileType::RegularFile
            && let Some(inode) = self.items.as_mut().and_then(|items| items.take(found.ino))
            && FileType::from_raw_mode(inode.mode) == FileType::RegularFile
        {
            return Ok(Found::Entry(Box::new(file(BytePath::new(name.to_bytes()), inode))));
        }
        let seen = match early {
            Some(seen) => seen,
            None => Seen::at(dir, name)?,
        };
        let (kind, target) = match seen.file_type() {
            _ if seen.is_across(&self.walk.seen) => return Ok(Found::Skip(SkipReason::Subvolume)),
            FileType::RegularFile => (Kind::File, BytePath::default()),
            FileType::Directory if self.is_subvolume(&seen) => {
                return Ok(Found::Skip(SkipReason::Subvolume));
            }
            FileType::Directory => {
                self.check_access(dir, name)?;
                (Kind::Dir, BytePath::default())
            }
            FileType::Symlink => {
                (Kind::Symlink, BytePath::new(readlinkat(dir, name, Vec::new())?.into_bytes()))
            }
            FileType::Fifo => (Kind::Fifo, BytePath::default()),
            FileType::Socket => return Ok(Found::Skip(SkipReason::Socket)),
            FileType::CharacterDevice | FileType::BlockDevice => {
                return Ok(Found::Skip(SkipReason::Device));
            }
            FileType::Unknown => return Ok(Found::Gone),
        };
        let xattrs = self.xattrs.at(dir, name)?;
        Ok(Found::Entry(Box::new(entry(BytePath::new(name.to_bytes()), kind, &seen, xattrs, target))))
    }

    fn decide(&mut self, parent: &BytePath, name: &CStr, is_dir: bool) -> Decision<'a> {
        self.path.clear();
        self.path.extend_from_slice(parent.as_bytes());
        if !parent.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name.to_bytes());
        self.walk.rules.decide(&self.path, is_dir)
    }

    fn is_subvolume(&self, seen: &Seen) -> bool {
        self.walk.is_btrfs && matches!(seen.ino(), SUBVOLUME_ROOT | SUBVOLUME_STUB)
    }

    /// A directory that we may not read is one to skip, and its parent's listing says so. Root may read everything.
    fn check_access(&self, dir: impl AsFd, name: &CStr) -> Result<(), Errno> {
        match self.walk.unprivileged {
            true => accessat(dir, name, Access::READ_OK | Access::EXEC_OK, AtFlags::EACCESS),
            false => Ok(()),
        }
    }
}

/// Looks at single names of a directory. What is no name, or cannot be looked at, makes the listing one that could not be read.
fn named(dir: &OwnedFd, only: &[BytePath]) -> (Vec<Name>, Result<(), Errno>) {
    let mut found = Vec::with_capacity(only.len());
    for name in only {
        let bytes = name.as_bytes();
        let is_name = !matches!(bytes, b"" | b"." | b"..") && !bytes.contains(&b'/');
        let Some(name) = CString::new(bytes).ok().filter(|_| is_name) else {
            return (found, Err(Errno::INVAL));
        };
        match Seen::at(dir, name.as_c_str()) {
            Ok(seen) => {
                found.push(Name { name, file_type: seen.file_type(), ino: seen.ino(), seen: Some(seen) })
            }
            Err(Errno::NOENT) => {}
            Err(error) => return (found, Err(error)),
        }
    }
    (found, Ok(()))
}

fn file(name: BytePath, inode: items::Inode) -> Entry {
    let items::Inode { uid, gid, mtime, xattrs, .. } = inode;
    Entry {
        name,
        kind: Kind::File,
        meta: Meta { mode: inode.mode & 0o7777, uid, gid, mtime, xattrs },
        size: inode.size,
        allocated: inode.allocated,
        ctime: inode.ctime,
        ino: inode.ino,
        nlink: inode.nlink,
        target: BytePath::default(),
    }
}

fn entry(name: BytePath, kind: Kind, seen: &Seen, xattrs: xattr::Xattrs, target: BytePath) -> Entry {
    let meta = Meta { mode: seen.mode(), uid: seen.uid(), gid: seen.gid(), mtime: seen.mtime(), xattrs };
    let is_file = kind == Kind::File;
    Entry {
        name,
        kind,
        meta,
        size: if is_file { seen.size() } else { 0 },
        allocated: if is_file { seen.allocated() } else { 0 },
        ctime: seen.ctime(),
        ino: seen.ino(),
        nlink: seen.nlink(),
        target,
    }
}
