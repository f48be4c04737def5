//! Files as they were listed: what is read is what was looked at.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::facts::{Names, node_of};
use crate::format::node::go_mode;
use crate::format::{Node, NodeKind};

/// Opens the file that was listed and no other.
pub(crate) fn open(path: &Path, listed: &Metadata) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits() as i32).open(path)?;
    let facts = file.metadata()?;
    if (facts.dev(), facts.ino()) == (listed.dev(), listed.ino()) && facts.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("was replaced while it was read"))
    }
}

/// Whether nothing but the time of the last access differs.
pub(crate) fn same_file(a: &Metadata, b: &Metadata) -> bool {
    let of = |facts: &Metadata| {
        let times = (facts.mtime(), facts.mtime_nsec(), facts.ctime(), facts.ctime_nsec());
        (facts.dev(), facts.ino(), facts.size(), facts.mode(), facts.uid(), facts.gid(), times)
    };
    of(a) == of(b)
}

/// Returns what is known of a directory on the way to what is backed up.
pub(crate) fn bare_directory(path: &Path, names: &Names) -> Node {
    let name = path.file_name().unwrap_or(OsStr::new("/"));
    let live = fs::symlink_metadata(path).and_then(|facts| node_of(path, name, &facts, names));
    live.ok().filter(|node| node.kind == NodeKind::Dir).unwrap_or_else(|| {
        let mut node = Node::new(name.to_owned(), NodeKind::Dir);
        node.mode = go_mode(NodeKind::Dir, 0o755);
        node
    })
}
