//! Copies what a snapshot holds to where it is staged: content shared where the file system can, and all metadata.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ftruncate, linkat, mkdirat, mknodat, openat, readlinkat, symlinkat,
};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::{Source, live};
use crate::data::apply::clone::clone;
use crate::data::apply::remove::list;
use crate::data::seen::Seen;
use crate::data::{meta, open, xattr};
use crate::proto::Meta;

/// The inode number of what stands in a snapshot for a subvolume inside.
const STAND_IN: u64 = 2;
/// Notes that are told, at most.
const NOTES: usize = 20;
/// Set-user-id and set-group-id.
const SET_ID: u32 = 0o6000;

/// What failed on what.
pub(super) type Failed = (BytePath, Errno);

/// A copy under way.
pub(super) struct Copier<'a> {
    /// The root of the snapshot.
    from: &'a OwnedFd,
    /// What is copied, relative to it.
    inside: &'a BytePath,
    /// Its path on the live machine, for notes.
    path: &'a BytePath,
    /// The same without symbolic links.
    live: &'a BytePath,
    /// The directory that holds the copy.
    to: &'a OwnedFd,
    /// The copy's name there.
    name: &'a BytePath,
    /// Whose rights count: a user id and groups.
    owner: &'a Owner,
    stop: &'a dyn Fn() -> bool,
    links: HashMap<u64, BytePath>,
    /// Files, directories and others.
    pub(super) entries: u64,
    /// Bytes of content.
    pub(super) bytes: u64,
    /// What is not as it was.
    pub(super) notes: Vec<String>,
    untold: u64,
    /// Of how many the file system there keeps no owner, mode or time.
    bare: u64,
}

/// To whom things may be given.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    /// The user, 0 for root.
    pub(crate) uid: u32,
    /// The primary group.
    pub(crate) gid: u32,
    /// All groups.
    pub(crate) groups: Vec<u32>,
}

/// Whether an error says that a file system does not know what was asked of it, as FAT knows no links.
fn is_unknown(error: Errno) -> bool {
    matches!(error, Errno::PERM | Errno::NOSYS | Errno::NOTSUP)
}

enum Todo {
    Fill(BytePath),
    Finish(BytePath),
}

impl<'a> Copier<'a> {
    pub(super) fn new(
        source: &Source<'a>,
        (to, name): (&'a OwnedFd, &'a BytePath),
        owner: &'a Owner,
        stop: &'a dyn Fn() -> bool,
    ) -> Self {
        let Source { root: from, inside, path, live } = *source;
        let (links, notes) = (HashMap::new(), Vec::new());
        Self {
            from,
            inside,
            path,
            live,
            to,
            name,
            owner,
            stop,
            links,
            entries: 0,
            bytes: 0,
            notes,
            untold: 0,
            bare: 0,
        }
    }

    /// Copies all of it.
    ///
    /// # Errors
    /// The first path, relative to what is copied, that could not be, and why.
    pub(super) fn run(&mut self) -> Result<(), Failed> {
        let top = BytePath::default();
        let mut todo = Vec::new();
        let at_top = |error| (BytePath::default(), error);
        if self.inside.is_empty() {
            mkdirat(self.to, self.name.as_bytes(), Mode::RWXU).map_err(at_top)?;
            self.entries += 1;
            todo.extend([Todo::Finish(top.clone()), Todo::Fill(top)]);
        } else {
            let parent = self.inside.parent().unwrap_or_default();
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let parent = open::beneath(self.from, parent.as_bytes(), flags).map_err(at_top)?;
            let name = CString::new(self.inside.name()).map_err(|_| at_top(Errno::INVAL))?;
            self.entry(&parent, &name, self.to, self.name.as_bytes(), top, &mut todo)?;
        }
        while let Some(next) = todo.pop() {
            match next {
                Todo::Fill(at) => self.fill(&at, &mut todo)?,
                Todo::Finish(at) => self.finish(&at).map_err(|error| (at, error))?,
            }
        }
        if self.bare > 0 {
            // Said once, and whatever else there is to say.
            self.notes.push(format!(
                "the file system there does not keep owners, rights or times as they were: {} of {} have its own",
                self.bare, self.entries
            ));
        }
        if self.untold > 0 {
            self.notes.push(format!("{} more are not in all as they were", self.untold));
        }
        Ok(())
    }

    fn note(&mut self, at: &BytePath, what: &str) {
        match self.notes.len() {
            ..NOTES => self.notes.push(format!("`{}` {what}", self.path.join(at.as_bytes()))),
            _ => self.untold += 1,
        }
    }

    /// Opens a directory of the copy, or of the snapshot.
    fn dirs(&self, at: &BytePath) -> Result<(OwnedFd, OwnedFd), Errno> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let from = open::beneath_for_reading(self.from, self.inside.join(at.as_bytes()).as_bytes(), flags)?;
        let to = open::beneath(self.to, self.name.join(at.as_bytes()).as_bytes(), flags)?;
        Ok((from, to))
    }

    fn fill(&mut self, at: &BytePath, todo: &mut Vec<Todo>) -> Result<(), Failed> {
        let (from, to) = self.dirs(at).map_err(|error| (at.clone(), error))?;
        if at.is_empty() {
            // What the place gives its children is not what they had.
            meta::strip_acls(&to).map_err(|error| (at.clone(), error))?;
        }
        for (name, _) in list(&from).map_err(|error| (at.clone(), error))? {
            let path = at.join(name.to_bytes());
            if (self.stop)() {
                return Err((path, Errno::CANCELED));
            }
            self.entry(&from, &name, &to, name.to_bytes(), path, todo)?;
        }
        Ok(())
    }

    /// Copies one name; directories are left to be filled.
    fn entry(
        &mut self,
        from: &OwnedFd,
        name: &CString,
        to: &OwnedFd,
        new: &[u8],
        at: BytePath,
        todo: &mut Vec<Todo>,
    ) -> Result<(), Failed> {
        let seen = Seen::at(from, name).map_err(|error| (at.clone(), error))?;
        let kind = seen.file_type();
        let has_content = matches!(kind, FileType::RegularFile | FileType::Directory);
        if has_content && self.owner.uid != 0 && live::is_closed(&self.live.join(at.as_bytes())) {
            return Err((at, Errno::ACCESS));
        }
        let copied = match kind {
            FileType::RegularFile => self.file(from, name, to, new, &at, &seen),
            FileType::Directory if seen.ino() == STAND_IN => {
                self.note(&at, "is a subvolume of its own, which the snapshot does not hold");
                return Ok(());
            }
            FileType::Directory => mkdirat(to, new, Mode::RWXU).map(|()| {
                todo.extend([Todo::Finish(at.clone()), Todo::Fill(at.clone())]);
            }),
            FileType::Symlink | FileType::Fifo => {
                let made = match kind {
                    FileType::Symlink => {
                        readlinkat(from, name, Vec::new()).and_then(|target| symlinkat(target, to, new))
                    }
                    _ => mknodat(to, new, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0),
                };
                match made {
                    Err(error) if is_unknown(error) => {
                        let what = if kind == FileType::Symlink { "a symbolic link" } else { "a named pipe" };
                        self.note(
                            &at,
                            &format!("is {what}, which the file system there cannot hold: left out"),
                        );
                        return Ok(());
                    }
                    made => made.and_then(|()| self.dress(from, name, to, new, &at)),
                }
            }
            _ => {
                self.note(&at, "is a socket or a device and was left out");
                return Ok(());
            }
        };
        self.entries += 1;
        copied.map_err(|error| (at, error))
    }

    fn file(
        &mut self,
        from: &OwnedFd,
        name: &CString,
        to: &OwnedFd,
        new: &[u8],
        at: &BytePath,
        seen: &Seen,
    ) -> Result<(), Errno> {
        let first = self.links.get(&seen.ino()).filter(|_| seen.nlink() > 1);
        if let Some(first) = first {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let parent = self.name.join(first.as_bytes()).parent().unwrap_or_default();
            let dir = open::beneath(self.to, parent.as_bytes(), flags)?;
            match linkat(&dir, first.name(), to, new, AtFlags::empty()) {
                // It becomes a file of its own.
                Err(error) if is_unknown(error) || error == Errno::MLINK => {}
                linked => return linked,
            }
        }
        let source = open::beneath_for_reading(from, name.to_bytes(), OFlags::NOFOLLOW)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let copy = openat(to, new, flags, Mode::RUSR | Mode::WUSR)?;
        clone(&source, &copy)?;
        let size = Seen::of(&source)?.size();
        if Seen::of(&copy)?.size() != size {
            ftruncate(&copy, size)?;
        }
        if at.is_empty() {
            meta::strip_acls(&copy)?;
        }
        let wanted = self.wanted(&source, at)?;
        self.clothe(&copy, &wanted, at)?;
        self.bytes += size;
        if seen.nlink() > 1 {
            self.links.entry(seen.ino()).or_insert_with(|| at.clone());
        }
        Ok(())
    }

    /// Gives a link or a pipe its metadata.
    fn dress(
        &mut self,
        from: &OwnedFd,
        name: &CString,
        to: &OwnedFd,
        new: &[u8],
        at: &BytePath,
    ) -> Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let source = openat(from, name, flags, Mode::empty())?;
        let copy = openat(to, new, flags, Mode::empty())?;
        let wanted = self.wanted(&source, at)?;
        let refused = meta::change(&copy, &wanted)?;
        self.refused(at, refused);
        Ok(())
    }

    fn finish(&mut self, at: &BytePath) -> Result<(), Errno> {
        let (from, to) = self.dirs(at)?;
        let wanted = self.wanted(&from, at)?;
        self.clothe(&to, &wanted, at)
    }

    /// Gives a file or a directory its metadata, as far as the file system there keeps any.
    fn clothe(&mut self, made: &OwnedFd, wanted: &Meta, at: &BytePath) -> Result<(), Errno> {
        let (refused, is_kept) = meta::fresh_as_kept(made, wanted)?;
        self.refused(at, refused);
        self.bare += u64::from(!is_kept);
        Ok(())
    }

    fn refused(&mut self, at: &BytePath, refused: Vec<meta::Refused>) {
        for (name, error) in refused {
            let name = BytePath::new(name);
            self.note(at, &format!("is without its attribute `{name}`: {error}"));
        }
    }

    /// Returns the metadata that the copy of what is open gets: all of it, as far as whoever asked may give it.
    fn wanted(&mut self, source: impl AsFd, at: &BytePath) -> Result<Meta, Errno> {
        let seen = Seen::of(&source)?;
        let xattrs = xattr::Reader::new().of(&source)?;
        let mut wanted =
            Meta { mode: seen.mode(), uid: seen.uid(), gid: seen.gid(), mtime: seen.mtime(), xattrs };
        if self.owner.uid != 0 {
            self.lower(&mut wanted, at);
        }
        Ok(wanted)
    }

    /// Takes from metadata what only root could give.
    fn lower(&mut self, wanted: &mut Meta, at: &BytePath) {
        let had = (wanted.uid, wanted.gid);
        if wanted.uid != self.owner.uid {
            wanted.uid = self.owner.uid;
        }
        if !self.owner.groups.contains(&wanted.gid) {
            wanted.gid = self.owner.gid;
            // Another group gets no more than everybody had.
            wanted.mode &= !0o070 | (wanted.mode & 0o007) << 3;
        }
        if had != (wanted.uid, wanted.gid) {
            wanted.mode &= !SET_ID;
            self.note(
                at,
                &format!("belonged to user {} and group {}, which only root can give", had.0, had.1),
            );
        }
        wanted.xattrs.retain(|(name, _)| !name.starts_with(b"trusted.") && name != b"security.capability");
    }
}
