//! Writes a home with several threads: each takes some files at a time, whose contents and times no other file decides.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Write},
    ops::Range,
    os::unix::fs::{fchown, lchown, symlink},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, setxattr, utimensat};

use super::{
    super::{odd::acl, random::Random},
    FullHome, OWNER,
    plan::{self, POOL, Place, Time, cut},
    sorts::SORTS,
};

/// Files that a thread takes at once.
const CHUNK: usize = 1_000;
/// Links of one directory.
const LINKS: usize = 5_000;

impl FullHome {
    /// Writes it into the directory `home`, where nothing of it stands yet, with so many threads. Needs root, and a file
    /// system with extended attributes and access control lists.
    pub fn write(&self, home: &Path, threads: usize) -> io::Result<()> {
        let pool = self.pool();
        let chunks: Vec<(usize, Range<usize>)> = (0..SORTS.len())
            .flat_map(|sort| {
                let count = self.count(sort);
                (0..count).step_by(CHUNK).map(move |first| (sort, first..(first + CHUNK).min(count)))
            })
            .collect();
        let next = AtomicUsize::new(0);
        let dirs = Mutex::new(HashSet::new());
        let work = || {
            let mut writer = Writer { home, pool: &pool, dirs: HashSet::new() };
            while let Some((sort, range)) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                range.clone().try_for_each(|n| writer.write(*sort, n, &self.file(*sort, n)))?;
            }
            dirs.lock().unwrap_or_else(PoisonError::into_inner).extend(writer.dirs);
            Ok(())
        };
        thread::scope(|scope| {
            let others: Vec<_> = (1..threads.max(1)).map(|_| scope.spawn(work)).collect();
            let mine = work();
            others.into_iter().map(join).fold(mine, io::Result::and)
        })?;
        let dirs = dirs.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut writer = Writer { home, pool: &pool, dirs };
        if !self.is_tiny {
            self.write_large(&mut writer)?;
        }
        writer.end()
    }

    pub(super) fn pool(&self) -> Vec<u8> {
        Random::new(self.seed).bytes(POOL as usize)
    }
}

fn join(thread: thread::ScopedJoinHandle<'_, io::Result<()>>) -> io::Result<()> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Writes below a home and remembers the directories that it met.
pub(super) struct Writer<'a> {
    pub(super) home: &'a Path,
    pub(super) pool: &'a [u8],
    dirs: HashSet<PathBuf>,
}

impl Writer<'_> {
    /// Writes one file and what it has besides.
    fn write(&mut self, sort: usize, n: usize, planned: &plan::File) -> io::Result<()> {
        let plan::File { name, length, at, time, more } = planned;
        let path = self.create(name, cut(self.pool, *at, *length))?;
        if more.attribute {
            setxattr(&path, "user.xdg.tags", b"from the seed", XattrFlags::empty())?;
        }
        if more.access_list {
            let list = acl(0o6, &[(1001, 0o6)], 0o4, 0o6, 0);
            setxattr(&path, "system.posix_acl_access", &list, XattrFlags::empty())?;
        }
        set_times(&path, *time)?;
        match more.second_name {
            Some(Place::Beside) => fs::hard_link(&path, self.home.join(format!("{name}.second")))?,
            Some(Place::Elsewhere) => {
                let second = self.place(format!("links/{sort}-{}/name-{n}", n / LINKS))?;
                fs::hard_link(&path, second)?;
            }
            None => {}
        }
        if more.symlink {
            let link = self.place(format!("links/{sort}-{}/link-{n}", n / LINKS))?;
            symlink(Path::new("../..").join(name), &link)?;
            lchown(&link, Some(OWNER), Some(OWNER))?;
            set_times(&link, *time)?;
        }
        Ok(())
    }

    /// Creates a file of alice's with this content.
    pub(super) fn create(&mut self, name: impl AsRef<Path>, bytes: &[u8]) -> io::Result<PathBuf> {
        let path = self.place(name)?;
        let mut file = File::create(&path)?;
        file.write_all(bytes)?;
        fchown(&file, Some(OWNER), Some(OWNER))?;
        Ok(path)
    }

    /// Returns the path of a name, whose directories are there then.
    pub(super) fn place(&mut self, name: impl AsRef<Path>) -> io::Result<PathBuf> {
        let name = name.as_ref();
        if let Some(parent) = name.parent() {
            self.make_dirs(parent)?;
        }
        Ok(self.home.join(name))
    }

    fn make_dirs(&mut self, name: &Path) -> io::Result<()> {
        if name.as_os_str().is_empty() || self.dirs.contains(name) {
            return Ok(());
        }
        if let Some(parent) = name.parent() {
            self.make_dirs(parent)?;
        }
        let path = self.home.join(name);
        match fs::create_dir(&path) {
            // Another thread was faster.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        lchown(&path, Some(OWNER), Some(OWNER))?;
        self.dirs.insert(name.to_owned());
        Ok(())
    }

    /// Gives all directories their times, now that nothing is made in them any more.
    fn end(self) -> io::Result<()> {
        self.dirs.iter().try_for_each(|dir| {
            let hash = blake3::hash(dir.as_os_str().as_encoded_bytes());
            let seed = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            set_times(&self.home.join(dir), plan::time(&mut Random::new(seed)))
        })
    }
}

/// Sets the times of what stands at a path, a symbolic link included.
pub(super) fn set_times(path: &Path, (tv_sec, tv_nsec): Time) -> io::Result<()> {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
