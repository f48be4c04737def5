//! Reads a tree by descriptors relative to their directory: no link is followed, no path is too long.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{CStr, OsStr},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, lgetxattr, llistxattr, openat, readlinkat, statat,
};

use super::{Entry, Kind, ManifestOptions, RelativePath};

type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

/// Reads everything below `root`, the root itself under the empty path.
pub(super) fn walk(root: OwnedFd, options: &ManifestOptions) -> io::Result<BTreeMap<RelativePath, Entry>> {
    let mut walk = Walk { options, entries: BTreeMap::new(), inodes: HashMap::new() };
    let stat = fstat(&root)?;
    let attributes = attributes(&format!("/proc/self/fd/{}/.", root.as_raw_fd()).into_bytes())?;
    walk.entries.insert(Vec::new(), entry(Kind::Directory, &stat, attributes));
    walk.directory(root, &[])?;
    walk.mark_hard_links();
    Ok(walk.entries)
}

struct Walk<'a> {
    options: &'a ManifestOptions,
    entries: BTreeMap<RelativePath, Entry>,
    inodes: HashMap<(u64, u64), Vec<RelativePath>>,
}

impl Walk<'_> {
    fn directory(&mut self, dir: OwnedFd, path: &[u8]) -> io::Result<()> {
        let list = Dir::read_from(&dir).map_err(|error| named(path, "list", error.into()))?;
        for found in list {
            let found = found.map_err(|error| named(path, "list", error.into()))?;
            let name = found.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let below = if path.is_empty() {
                name.to_bytes().to_vec()
            } else {
                [path, b"/", name.to_bytes()].concat()
            };
            if !self.options.excludes(Path::new(OsStr::from_bytes(&below))) {
                self.path(dir.as_fd(), name, &below).map_err(|error| named(&below, "read", error))?;
            }
        }
        Ok(())
    }

    fn path(&mut self, dir: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> io::Result<()> {
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let here = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name.to_bytes()].concat();
        let attributes = attributes(&here)?;
        let open =
            |flags: OFlags| openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        let mut inside = None;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                inside = Some(open(OFlags::RDONLY | OFlags::DIRECTORY)?);
                Kind::Directory
            }
            FileType::RegularFile => {
                // Not to change what is looked at; refused for files of others to all but root.
                let file =
                    File::from(open(OFlags::RDONLY | OFlags::NOATIME).or_else(|_| open(OFlags::RDONLY))?);
                let digest = blake3::Hasher::new().update_reader(file)?.finalize();
                Kind::File { bytes: stat.st_size.cast_unsigned(), digest }
            }
            FileType::Symlink => Kind::Symlink { target: readlinkat(dir, name, Vec::new())?.into_bytes() },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::CharDevice { device: stat.st_rdev },
            FileType::BlockDevice => Kind::BlockDevice { device: stat.st_rdev },
            FileType::Unknown => return Err(io::Error::other("its type is unknown")),
        };
        if stat.st_nlink > 1 && kind != Kind::Directory {
            self.inodes.entry((stat.st_dev, stat.st_ino)).or_default().push(path.to_vec());
        }
        self.entries.insert(path.to_vec(), entry(kind, &stat, attributes));
        inside.map_or(Ok(()), |inside| self.directory(inside, path))
    }

    fn mark_hard_links(&mut self) {
        for paths in self.inodes.values_mut().filter(|paths| paths.len() > 1) {
            paths.sort();
            for path in paths.iter() {
                if let Some(entry) = self.entries.get_mut(path) {
                    entry.hard_link_of = Some(paths[0].clone());
                }
            }
        }
    }
}

fn entry(kind: Kind, stat: &Stat, attributes: Attributes) -> Entry {
    Entry {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or_default()),
        attributes,
        hard_link_of: None,
    }
}

fn attributes(path: &[u8]) -> io::Result<Attributes> {
    let path = OsStr::from_bytes(path);
    let names = filled(|buffer| llistxattr(path, buffer))?;
    names
        .split(|&byte| byte == 0)
        // XFS shows root the ACLs by a second name.
        .filter(|name| !name.is_empty() && !name.starts_with(b"trusted.SGI_ACL_"))
        .map(|name| Ok((name.to_vec(), filled(|buffer| lgetxattr(path, name, buffer))?)))
        .collect()
}

/// Calls with a growing buffer until the answer fits.
fn filled(call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 1 << 10];
    loop {
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(rustix::io::Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn named(path: &[u8], verb: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {verb} `{}`: {error}", path.escape_ascii()))
}
