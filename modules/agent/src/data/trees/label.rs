//! What the root of a copy says of itself, in an attribute that root alone can see and that moves with it.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::item::Form;

/// The attribute. It is never mirrored or restored.
pub(crate) const NAME: &str = "trusted.pc-switcher.tree";
/// Longest label.
const MOST: usize = 1024;

/// The label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Label {
    /// Its own uuid, 16 bytes.
    pub(crate) uuid: [u8; 16],
    /// A number that no other copy and no subvolume has.
    pub(crate) id: u64,
    /// Later copies in one snapshot directory have a higher number.
    pub(crate) order: u64,
    /// When it was begun: seconds since 1970.
    pub(crate) created_seconds: i64,
    /// How it keeps content.
    pub(crate) form: Form,
    /// Whether it is whole and closed.
    pub(crate) is_sealed: bool,
    /// Whether it is immutable as well: not every file system can make it so.
    pub(crate) is_immutable: bool,
    /// In which volume its content lies, if that is not in the directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) volume: Option<InVolume>,
}

/// Where the content of a member lies that is a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InVolume {
    /// Group and name under which it was made.
    pub(crate) name: String,
    /// What it is found by.
    pub(crate) tag: String,
    /// The file system in it.
    pub(crate) fs_type: String,
    /// The uuid of that group; labels from before have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vg_uuid: Option<String>,
    /// Its own uuid, from when it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lv_uuid: Option<String>,
}

impl Label {
    /// Reads the label of an open directory; `None` if it has none.
    ///
    /// # Errors
    /// If it cannot be read, or is none.
    pub(crate) fn read(dir: impl AsFd) -> io::Result<Option<Self>> {
        let mut value = [0; MOST];
        match fgetxattr(dir, NAME, &mut value) {
            Ok(size) => serde_json::from_slice(&value[..size]).map(Some).map_err(io::Error::other),
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes it.
    ///
    /// # Errors
    /// If the file system keeps no such attributes, or root is needed.
    pub(crate) fn write(&self, dir: impl AsFd) -> io::Result<()> {
        let value = serde_json::to_vec(self).map_err(io::Error::other)?;
        fsetxattr(dir, NAME, &value, XattrFlags::empty()).map_err(|error| match error {
            Errno::NOTSUP => io::Error::new(
                io::ErrorKind::Unsupported,
                "the file system of the snapshot directory keeps no extended attributes; name a directory on ext4, XFS, F2FS \
                 or btrfs as `snapshot_dir` in [btrfs-snapshots]",
            ),
            error => error.into(),
        })
    }
}
