//! Copies a live tree.
//!
//! What changes while it is copied is copied again, a few times; then it is kept as it was read. So a copy is no instant of
//! the whole tree, and the record of its set says so.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, fstatvfs, ftruncate, readlinkat};
use rustix::io::{Errno, pread};

use pc_switcher_contract::BytePath;

use super::build::Builder;
use super::former::Former;
use super::item::{Form, Item, Live, What, meta_of, meta_with};
use super::roll::Inventory;
use crate::data::apply::clone_file;
use crate::data::apply::remove::list;
use crate::data::content::ContentHash;
use crate::data::rules::{Decision, Rules};
use crate::data::seen::Seen;
use crate::data::{digest, extents, open};
use crate::proto::{FileTime, Meta};

/// What a copy leaves free for others, or a twentieth of a disk on which that would be more.
const ROOM: u64 = 1 << 30;

/// How often a file is copied that changes meanwhile.
const TRIES: usize = 3;
/// Bytes read at once.
const STRETCH: usize = 256 << 10;
/// Things that are told, at most.
const NOTES: usize = 20;

/// What is to be copied, and how.
pub(crate) struct Growth<'a> {
    /// The root of the live tree.
    pub(crate) live: &'a BytePath,
    /// Where the copy is made: an empty directory.
    pub(crate) root: &'a OwnedFd,
    /// What is left out.
    pub(crate) rules: &'a Rules,
    /// A directory that is left out wherever it is met: that of all copies.
    pub(crate) store: &'a OwnedFd,
    /// How content is kept.
    pub(crate) form: Form,
    /// How hard it is packed, if it is.
    pub(crate) level: i32,
    /// The copy before.
    pub(crate) former: Option<&'a Former>,
    /// What changed at this time or later may change again without showing.
    pub(crate) settled: FileTime,
    /// Whether it is to end.
    pub(crate) stop: &'a dyn Fn() -> bool,
}

/// A copy under way.
struct Grower<'a> {
    growth: &'a Growth<'a>,
    from: OwnedFd,
    top: Seen,
    store: Seen,
    builder: Builder<'a>,
    inventory: &'a mut Inventory,
    /// By device, inode number and the time of its last change: a number may be given to another file while a copy is made.
    links: HashMap<(u64, u64, FileTime), BytePath>,
    /// Files of the copy before that have a name here: two files must not become one.
    taken: Vec<bool>,
    buffer: Vec<u8>,
    notes: Vec<String>,
    untold: usize,
}

type Failed = (BytePath, io::Error);

/// Copies a tree, and writes the list of it. Returns what was left out or could not be kept, a line each.
///
/// # Errors
/// The path, relative to the root, that could not be copied, and why.
pub(crate) fn grow(growth: &Growth<'_>, inventory: &mut Inventory) -> Result<Vec<String>, Failed> {
    let at_top = |error: Errno| (BytePath::default(), io::Error::from(error));
    let from = open::root(growth.live).map_err(at_top)?;
    let (top, store) = (Seen::of(&from).map_err(at_top)?, Seen::of(growth.store).map_err(at_top)?);
    let mut grower = Grower {
        growth,
        from,
        top,
        store,
        builder: Builder::new(growth.root, true),
        inventory,
        links: HashMap::new(),
        taken: vec![false; growth.former.map_or(0, Former::files)],
        buffer: vec![0; STRETCH],
        notes: Vec::new(),
        untold: 0,
    };
    grower.run()?;
    let Grower { builder, mut notes, mut untold, .. } = grower;
    let refused = builder.finish().map_err(|(path, error)| (path, error.into()))?;
    for (path, name, why) in refused {
        tell(
            &mut notes,
            &mut untold,
            format!("`{}` is without its attribute `{name}`: {why}", full(growth, &path)),
        );
    }
    if untold > 0 {
        notes.push(format!("{untold} more are left out or not in all as they are"));
    }
    Ok(notes)
}

fn full(growth: &Growth<'_>, path: &BytePath) -> BytePath {
    growth.live.join(path.as_bytes())
}

fn tell(notes: &mut Vec<String>, untold: &mut usize, what: String) {
    match notes.len() {
        ..NOTES => notes.push(what),
        _ => *untold += 1,
    }
}

impl Grower<'_> {
    fn run(&mut self) -> Result<(), Failed> {
        let top = BytePath::default();
        let meta = meta_of(&self.from).map_err(|error| (top.clone(), error.into()))?;
        self.directory(&top, &meta, &self.top.clone()).map_err(|error| (top.clone(), error))?;
        let mut todo = vec![top];
        while let Some(at) = todo.pop() {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let dir = match open::beneath_for_reading(&self.from, at.as_bytes(), flags) {
                // Gone meanwhile, or something was mounted there.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => continue,
                opened => opened.map_err(|error| (at.clone(), error.into()))?,
            };
            let mut names = list(&dir).map_err(|error| (at.clone(), error.into()))?;
            names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            for (name, _) in names {
                let path = at.join(name.to_bytes());
                if (self.growth.stop)() {
                    return Err((path, Errno::CANCELED.into()));
                }
                match self.entry(&dir, &name, &path) {
                    Ok(true) => todo.push(path),
                    Ok(false) => {}
                    Err(error) if is_gone(&error) => {}
                    Err(error) => return Err((path, error)),
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, path: &BytePath, what: &str) {
        let text = format!("`{}` {what}", full(self.growth, path));
        tell(&mut self.notes, &mut self.untold, text);
    }

    fn live(&self, seen: &Seen) -> Live {
        Live::of(seen, self.growth.settled)
    }

    fn add(&mut self, path: &BytePath, what: What, meta: Meta, live: Live) -> io::Result<()> {
        self.inventory.add(&Item { path: path.clone(), what, meta, live })
    }

    fn directory(&mut self, path: &BytePath, meta: &Meta, seen: &Seen) -> io::Result<()> {
        self.builder.dir(path, meta)?;
        self.add(path, What::Dir, meta.clone(), self.live(seen))
    }

    /// Copies one name; whether it is a directory that is to be gone into.
    fn entry(&mut self, dir: &OwnedFd, name: &CString, path: &BytePath) -> io::Result<bool> {
        let seen = match Seen::at(dir, name) {
            // Somebody's mount that root may not see, or one that answers no more.
            Err(Errno::ACCESS | Errno::NOTCONN | Errno::STALE) => {
                self.note(path, "is a mount that cannot be looked at and was left out");
                return Ok(false);
            }
            seen => seen?,
        };
        if let Decision::Skip(_) = self.growth.rules.decide(path.as_bytes(), seen.is_dir()) {
            return Ok(false);
        }
        let open_path = || open::beneath(dir, name.to_bytes(), OFlags::PATH | OFlags::NOFOLLOW);
        match seen.file_type() {
            FileType::Directory if seen.is_across(&self.top) => {
                self.note(path, "is a mount or a subvolume of its own and was left out");
                let meta = Meta { mode: seen.mode(), uid: seen.uid(), gid: seen.gid(), ..Meta::default() };
                self.directory(path, &meta, &seen)?;
                return Ok(false);
            }
            FileType::Directory if seen.ino() == self.store.ino() && seen.is_beside(&self.store) => {}
            FileType::Directory => {
                let meta = meta_with(&seen, open_path()?)?;
                self.directory(path, &meta, &seen)?;
                return Ok(true);
            }
            FileType::RegularFile => self.file(dir, name, path)?,
            FileType::Symlink => {
                let fd = open_path()?;
                let (meta, target) = (meta_with(&seen, &fd)?, readlinkat(&fd, c"", Vec::new())?);
                let target = BytePath::new(target.into_bytes());
                self.builder.symlink(path, &target, &meta)?;
                self.add(path, What::Symlink(target), meta, self.live(&seen))?;
            }
            FileType::Fifo => {
                let meta = meta_with(&seen, open_path()?)?;
                self.builder.fifo(path, &meta)?;
                self.add(path, What::Fifo, meta, self.live(&seen))?;
            }
            kind @ (FileType::BlockDevice | FileType::CharacterDevice) => {
                let meta = meta_with(&seen, open_path()?)?;
                let (major, minor) = seen.stands_for();
                let is_block = kind == FileType::BlockDevice;
                self.builder.device(path, (is_block, major, minor), &meta)?;
                self.add(path, What::Device(is_block, major, minor), meta, self.live(&seen))?;
            }
            // A socket is made anew by whoever listens there.
            _ => {}
        }
        Ok(false)
    }

    fn file(&mut self, dir: &OwnedFd, name: &CString, path: &BytePath) -> io::Result<()> {
        let source = open::beneath_for_reading(dir, name.to_bytes(), OFlags::NOFOLLOW)?;
        let seen = Seen::of(&source)?;
        if seen.file_type() != FileType::RegularFile {
            return Err(Errno::NOENT.into());
        }
        let (meta, live) = (meta_with(&seen, &source)?, self.live(&seen));
        let key = (live.device, live.ino, seen.ctime());
        if live.has_links
            && let Some(first) = self.links.get(&key).cloned()
        {
            match self.builder.link(path, &first) {
                Ok(()) => return self.add(path, What::Link(first), meta, live),
                // It has as many names as the file system allows.
                Err(Errno::MLINK) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if live.has_links {
            self.links.insert(key, path.clone());
        }
        if let Some((size, digest)) = self.again(&source, path, &meta, &live)? {
            return self.add(path, What::File(size, digest), meta, live);
        }
        self.anew(&source, path)
    }

    /// Takes a file from the copy before, if it is the same.
    fn again(
        &mut self,
        source: &OwnedFd,
        path: &BytePath,
        meta: &Meta,
        live: &Live,
    ) -> io::Result<Option<(u64, [u8; 32])>> {
        let Some(former) = self.growth.former else { return Ok(None) };
        let Some((old, known)) = former.find(path, live) else { return Ok(None) };
        let is_untouched = known.live == *live && live.is_settled;
        // What had further names then or has now may be parted by now, or come together.
        let is_alone = !known.live.has_links && !live.has_links;
        let may_be = || is_alone && Seen::of(source).is_ok_and(|seen| seen.size() == known.size);
        let is_same = !self.taken[known.number]
            && known.is_dressed(meta)
            && (is_untouched
                || may_be() && digest::content(source, &mut self.buffer, self.growth.stop)? == known.digest);
        if !is_same {
            return Ok(None);
        }
        let above = old.parent().unwrap_or_default();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let linked = open::beneath(&former.root, above.as_bytes(), flags)
            .and_then(|dir| self.builder.link_from(path, (&dir, old.name())));
        match linked {
            Ok(()) => {
                self.taken[known.number] = true;
                Ok(Some((known.size, known.digest)))
            }
            // Too many names, or somebody damaged that copy: this one is to be whole all the same.
            Err(Errno::MLINK | Errno::NOENT | Errno::NOTDIR | Errno::PERM) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses to fill the disk that others write to as well.
    fn leave_room(&self, bytes: u64) -> io::Result<()> {
        let stat = fstatvfs(self.growth.store)?;
        let (free, all) = (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize);
        match free.saturating_sub(bytes) < ROOM.min(all / 20) {
            true => Err(Errno::NOSPC.into()),
            false => Ok(()),
        }
    }

    /// Copies a file, again if it changes meanwhile.
    fn anew(&mut self, source: &OwnedFd, path: &BytePath) -> io::Result<()> {
        // Holes take nothing: an image of a terabyte may hold a few blocks.
        self.leave_room(Seen::of(source)?.allocated())?;
        let copy = self.builder.file(path)?;
        for attempt in 1.. {
            let before = Seen::of(source)?;
            let meta = meta_with(&before, source)?;
            let (size, digest) = match self.growth.form {
                Form::Hardlink => self.plain(source, &copy)?,
                Form::Archive => self.packed(source, &copy)?,
                Form::Volume => return Err(Errno::OPNOTSUPP.into()),
            };
            let is_still = Seen::of(source)?.ctime() == before.ctime();
            if is_still || attempt == TRIES {
                self.builder.close(path, &copy, &meta)?;
                open::forget(&copy);
                let live = self.live(&before);
                let live = Live { is_settled: live.is_settled && is_still, ..live };
                return self.add(path, What::File(size, digest), meta, live);
            }
            ftruncate(&copy, 0)?;
        }
        Ok(())
    }

    fn plain(&mut self, source: &OwnedFd, copy: &OwnedFd) -> io::Result<(u64, [u8; 32])> {
        clone_file(source, copy)?;
        let size = Seen::of(source)?.size();
        if Seen::of(copy)?.size() != size {
            ftruncate(copy, size)?;
        }
        // Of the copy, so that it is right whatever happens to the file meanwhile.
        Ok((size, digest::content(copy, &mut self.buffer, self.growth.stop)?))
    }

    fn packed(&mut self, source: &OwnedFd, copy: &OwnedFd) -> io::Result<(u64, [u8; 32])> {
        rustix::fs::seek(copy, rustix::fs::SeekFrom::Start(0))?;
        let size = Seen::of(source)?.size();
        let mut out = zstd::Encoder::new(std::fs::File::from(copy.try_clone()?), self.growth.level)?;
        out.include_checksum(true)?;
        let (mut hash, mut at) = (ContentHash::new(), 0);
        let zeros = vec![0; STRETCH];
        while at < size {
            let (start, end) = extents::next(source, at, size)?.unwrap_or((size, size));
            while at < start {
                let step = (zeros.len() as u64).min(start - at);
                out.write_all(&zeros[..step as usize])?;
                hash.add(at, &zeros[..step as usize]);
                at += step;
                if (self.growth.stop)() {
                    return Err(Errno::CANCELED.into());
                }
            }
            while at < end {
                let want = STRETCH.min((end - at) as usize);
                let n = match pread(source, &mut self.buffer[..want], at) {
                    Err(Errno::INTR) => continue,
                    read => read?,
                };
                if n == 0 {
                    // It was cut meanwhile.
                    out.finish()?;
                    return Ok((at, hash.finish(at)));
                }
                out.write_all(&self.buffer[..n])?;
                hash.add(at, &self.buffer[..n]);
                at += n as u64;
                if (self.growth.stop)() {
                    return Err(Errno::CANCELED.into());
                }
            }
        }
        out.finish()?;
        Ok((size, hash.finish(size)))
    }
}

/// Whether a name vanished while it was looked at.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP))
}
