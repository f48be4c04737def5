//! Strict picture of a tree: everything about every path that a sync must carry over, ready to be compared.
//!
//! Invariant: two manifests are equal exactly when the trees are the same in type, content, mode with special bits,
//! owner, time to the nanosecond, extended attributes (ACLs and capabilities among them), link targets, device
//! numbers and in which paths are one inode. Access and change times, inode numbers and allocation are no part of it.

mod diff;
mod walk;

use std::{
    collections::BTreeMap,
    fmt, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

pub use self::diff::{Difference, assert_same_tree};

/// A path below the root of a manifest, as bytes; the root itself is empty.
pub type RelativePath = Vec<u8>;

/// The picture of a tree, path by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeManifest {
    entries: BTreeMap<RelativePath, Entry>,
}

/// All that is compared about one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds and nanoseconds.
    pub modified: (i64, u32),
    /// Extended attributes by name.
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// First path of the same inode, if several paths of the tree share it.
    pub hard_link_of: Option<RelativePath>,
}

/// What a path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its length.
        bytes: u64,
        /// BLAKE3 of its content.
        digest: blake3::Hash,
    },
    /// A symbolic link.
    Symlink {
        /// Where it leads, uninterpreted.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A unix socket.
    Socket,
    /// A character device.
    CharDevice {
        /// Its number.
        device: u64,
    },
    /// A block device.
    BlockDevice {
        /// Its number.
        device: u64,
    },
}

/// What a manifest leaves out.
#[derive(Default)]
pub struct ManifestOptions {
    excluded: Vec<PathBuf>,
    predicates: Vec<Predicate>,
}

type Predicate = Box<dyn Fn(&Path) -> bool>;

impl ManifestOptions {
    /// Leaves nothing out.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves out this path below the root, and all below it.
    #[must_use]
    pub fn exclude(mut self, path: impl Into<PathBuf>) -> Self {
        self.excluded.push(path.into());
        self
    }

    /// Leaves out every path below the root for which `predicate` holds, and all below it.
    #[must_use]
    pub fn exclude_if(mut self, predicate: impl Fn(&Path) -> bool + 'static) -> Self {
        self.predicates.push(Box::new(predicate));
        self
    }

    fn excludes(&self, path: &Path) -> bool {
        self.excluded.iter().any(|excluded| excluded == path)
            || self.predicates.iter().any(|excludes| excludes(path))
    }
}

impl fmt::Debug for ManifestOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManifestOptions").field("excluded", &self.excluded).finish_non_exhaustive()
    }
}

impl TreeManifest {
    /// Reads the tree at `root`, which must be a directory. Symbolic links are never followed below it.
    ///
    /// # Errors
    ///
    /// The first path that cannot be read, named in the error: a partial picture would compare as a smaller tree.
    pub fn read(root: impl AsRef<Path>, options: &ManifestOptions) -> io::Result<Self> {
        let root = root.as_ref();
        let dir = std::fs::File::open(root).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot open `{}`: {error}", root.display()))
        })?;
        Self::read_dir(dir.into(), options)
    }

    /// Reads the tree below an open directory.
    pub(crate) fn read_dir(dir: OwnedFd, options: &ManifestOptions) -> io::Result<Self> {
        Ok(Self { entries: walk::walk(dir, options)? })
    }

    /// Returns what is known of a path below the root.
    pub fn get(&self, path: impl AsRef<Path>) -> Option<&Entry> {
        use std::os::unix::ffi::OsStrExt;
        self.entries.get(path.as_ref().as_os_str().as_bytes())
    }

    /// Returns all paths with what is known of them, in byte order.
    pub fn entries(&self) -> impl Iterator<Item = (&RelativePath, &Entry)> {
        self.entries.iter()
    }

    /// Returns the number of paths, the root included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Tells whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns what is different in `other`, path by path; empty when both trees are the same.
    pub fn diff(&self, other: &Self) -> Vec<Difference> {
        diff::diff(&self.entries, &other.entries)
    }
}
