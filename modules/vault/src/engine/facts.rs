//! What the file system says of a path, as an entry of a tree.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{fgetxattr, flistxattr, lgetxattr, llistxattr};
use rustix::io::Errno;

use crate::format::node::{go_mode, timestamp};
use crate::format::{Node, NodeKind, Xattr};

/// Names of users and groups, as `/etc/passwd` and `/etc/group` have them.
#[derive(Debug, Clone, Default)]
pub struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    /// Reads the text of both files.
    pub fn parse(passwd: &str, group: &str) -> Self {
        let read = |text: &str| {
            let entry = |line: &str| {
                let mut fields = line.split(':');
                let name = fields.next()?.to_owned();
                Some((fields.nth(1)?.parse().ok()?, name))
            };
            // The first name of a number counts.
            let mut names = HashMap::new();
            for (id, name) in text.lines().filter_map(entry) {
                names.entry(id).or_insert(name);
            }
            names
        };
        Self { users: read(passwd), groups: read(group) }
    }

    /// Reads this machine's files; what cannot be read has no names.
    pub fn of_this_machine() -> Self {
        let read = |path: &str| {
            fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
        };
        Self::parse(&read("/etc/passwd"), &read("/etc/group"))
    }

    /// Returns the name of a user, or nothing.
    pub fn user(&self, uid: u32) -> String {
        self.users.get(&uid).cloned().unwrap_or_default()
    }

    /// Returns the name of a group, or nothing.
    pub fn group(&self, gid: u32) -> String {
        self.groups.get(&gid).cloned().unwrap_or_default()
    }
}

/// Returns the entry of a path, without content and subtree.
///
/// # Errors
/// If the path cannot be read.
pub fn node_of(path: &Path, name: &OsStr, facts: &Metadata, names: &Names) -> io::Result<Node> {
    let kind = kind_of(facts);
    let mut node = Node::new(name.to_owned(), kind);
    node.mode = go_mode(kind, facts.mode());
    node.mtime = timestamp(facts.mtime(), facts.mtime_nsec());
    // Reading changes it: two backups of an unchanged tree would differ.
    node.atime = node.mtime;
    node.ctime = timestamp(facts.ctime(), facts.ctime_nsec());
    (node.uid, node.gid) = (facts.uid(), facts.gid());
    (node.user, node.group) = (names.user(facts.uid()), names.group(facts.gid()));
    node.inode = facts.ino();
    node.links = facts.nlink();
    match kind {
        NodeKind::File => node.size = facts.size(),
        NodeKind::Dev | NodeKind::CharDev => node.device = facts.rdev(),
        NodeKind::Symlink => node.set_target(fs::read_link(path)?.as_os_str().as_bytes()),
        _ => {}
    }
    if kind == NodeKind::Dir {
        node.links = 0;
    } else if facts.nlink() > 1 {
        node.device_id = facts.dev();
    }
    node.extended_attributes = xattrs(path)?;
    Ok(node)
}

/// Returns what a path is.
pub(crate) fn kind_of(facts: &Metadata) -> NodeKind {
    let kind = facts.file_type();
    match () {
        () if kind.is_file() => NodeKind::File,
        () if kind.is_dir() => NodeKind::Dir,
        () if kind.is_symlink() => NodeKind::Symlink,
        () if kind.is_block_device() => NodeKind::Dev,
        () if kind.is_char_device() => NodeKind::CharDev,
        () if kind.is_fifo() => NodeKind::Fifo,
        () => NodeKind::Socket,
    }
}

/// Returns the extended attributes of a path itself, ordered by name; a file system without them has none.
///
/// # Errors
/// If they cannot be read.
pub fn xattrs(path: &Path) -> io::Result<Vec<Xattr>> {
    let list = match sized(|buffer| llistxattr(path, buffer)) {
        Ok(list) => list,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut all = Vec::new();
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = OsStr::from_bytes(name);
        match sized(|buffer| lgetxattr(path, name, buffer)) {
            Ok(value) => all.push(Xattr { name: name.to_owned(), value }),
            // Gone meanwhile, or for the eyes of others.
            Err(Errno::NODATA | Errno::ACCESS | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Returns the names of the extended attributes of what is open.
///
/// # Errors
/// If they cannot be listed.
pub(super) fn names_of(open: &File) -> io::Result<Vec<OsString>> {
    let list = match sized(|buffer| flistxattr(open, buffer)) {
        Ok(list) => list,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| OsStr::from_bytes(name).to_owned()).collect())
}

/// Returns an extended attribute of what is open, if it has it and it can be read.
pub(super) fn value_of(open: &File, name: &OsStr) -> Option<Vec<u8>> {
    sized(|buffer| fgetxattr(open, name, buffer)).ok()
}

/// Asks with a buffer that grows until the answer fits.
fn sized(ask: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match ask(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 8, 0),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_files_and_the_first_of_a_number_counts() {
        let names = Names::parse(
            "root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/:\nbroken\nal:x:1000:1000::\n",
            "wheel:x:0:\n",
        );
        assert_eq!(
            (names.user(0), names.user(1000), names.user(5)),
            ("root".into(), "al".into(), String::new())
        );
        assert_eq!(names.group(0), "wheel");
    }
}
