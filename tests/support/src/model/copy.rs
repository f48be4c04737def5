//! Snapshots as copies.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use pc_switcher_agent::proto::FileTime;
use pc_switcher_contract::BytePath;
use rustix::fs::{
    AtFlags, CWD, Timespec, Timestamps, XattrFlags, lgetxattr, llistxattr, lsetxattr, utimensat,
};

/// Inode and its last change, by the path below a snapshot's root.
pub(super) type Inodes = HashMap<Vec<u8>, (u64, FileTime)>;

/// Copies a tree of files, directories and symbolic links with everything that belongs to them, and returns the inodes it
/// was made of.
///
/// # Errors
/// If anything cannot be copied, what is of another kind included.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<Inodes> {
    let mut copier = Copier::default();
    copier.entry(from, to, BytePath::default())?;
    Ok(copier.inodes)
}

#[derive(Default)]
struct Copier {
    inodes: Inodes,
    /// Where the first name of a file with several lies.
    linked: HashMap<u64, PathBuf>,
}

impl Copier {
    fn entry(&mut self, from: &Path, to: &Path, path: BytePath) -> io::Result<()> {
        let meta = fs::symlink_metadata(from)?;
        let ctime = FileTime { seconds: meta.ctime(), nanos: meta.ctime_nsec() as u32 };
        self.inodes.insert(path.as_bytes().to_vec(), (meta.ino(), ctime));
        if meta.is_dir() {
            fs::create_dir(to)?;
            for entry in fs::read_dir(from)? {
                let name = entry?.file_name();
                let below = if path.is_empty() {
                    BytePath::from(Path::new(&name))
                } else {
                    path.join(name.as_encoded_bytes())
                };
                self.entry(&from.join(&name), &to.join(&name), below)?;
            }
        } else if meta.is_symlink() {
            symlink(fs::read_link(from)?, to)?;
        } else if meta.is_file() {
            if meta.nlink() > 1
                && let Some(first) = self.linked.get(&meta.ino())
            {
                return fs::hard_link(first, to);
            }
            fs::copy(from, to)?;
            self.linked.insert(meta.ino(), to.to_owned());
        } else {
            return Err(io::Error::other(format!("`{}` is of a kind that is not modelled", from.display())));
        }
        dress(from, to, &meta)
    }
}

/// Gives a copy the owner, mode, attributes and time of what it was made of.
fn dress(from: &Path, to: &Path, meta: &Metadata) -> io::Result<()> {
    lchown(to, Some(meta.uid()), Some(meta.gid()))?;
    if !meta.is_symlink() {
        fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    }
    let mut names = vec![0; 16 << 10];
    let len = llistxattr(from, &mut names)?;
    for name in names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let len = lgetxattr(from, name, &mut value)?;
        lsetxattr(to, name, &value[..len], XattrFlags::empty())?;
    }
    let time = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    Ok(utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
