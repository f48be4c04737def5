//! The top level of a file system, mounted for us alone: subvolumes there are exchanged, whatever is mounted where.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, RenameFlags, openat, renameat_with, syncfs};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use pc_switcher_contract::BytePath;

use crate::linux::btrfs::{Btrfs, KernelBtrfs, SubvolumeTree};
use crate::linux::mounts::{Mount, Mounts, unescape};
use crate::proto::AgentError;

/// A top level that is open. Its mount is in no namespace and goes with it.
pub(super) struct Top {
    root: OwnedFd,
    /// It is gone when nobody holds this.
    _mount: OwnedFd,
}

impl Top {
    /// Mounts the top level of the btrfs on a device.
    pub(super) fn mount(device: &BytePath) -> io::Result<Self> {
        let context = fsopen("btrfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", device.as_path())?;
        fsconfig_set_string(&context, "subvolid", "5")?;
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOATIME;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(&mount, c".", flags, Mode::empty())?;
        Ok(Self { root, _mount: mount })
    }

    /// Returns a path that leads to a name at the top level, for this process alone.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.root.as_raw_fd()))
    }

    /// Returns uuid and id of the subvolume of this name; `None` if there is none.
    pub(super) fn look(&self, name: &str) -> io::Result<Option<(String, u64)>> {
        let path = self.path(name);
        match KernelBtrfs.inside(&path) {
            Ok(inside) if inside.is_empty() => {}
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let info = KernelBtrfs.subvolume(&path)?;
        Ok(Some((info.uuid.hex(), info.id)))
    }

    /// Returns the subvolumes that stand in the one of this id: path in it and id, those inside of others not among them.
    pub(super) fn inside(&self, id: u64) -> io::Result<Vec<(BytePath, u64)>> {
        Ok(SubvolumeTree::new(KernelBtrfs.subvolumes(&self.path("."))?).directly_below(id))
    }

    /// As [`Top::inside`], with those inside of others.
    pub(super) fn all_inside(&self, id: u64) -> io::Result<Vec<(BytePath, u64)>> {
        Ok(SubvolumeTree::new(KernelBtrfs.subvolumes(&self.path("."))?).nested(id, &BytePath::default()))
    }

    /// Swaps two names in one step.
    pub(super) fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        Ok(renameat_with(&self.root, one, &self.root, other, RenameFlags::EXCHANGE)?)
    }

    /// Gives a subvolume a name that is free.
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat_with(&self.root, from, &self.root, to, RenameFlags::NOREPLACE)?)
    }

    /// Makes a writable snapshot at the top level.
    pub(super) fn snapshot(&self, of: &BytePath, name: &str) -> io::Result<()> {
        KernelBtrfs.snapshot(of.as_path(), &self.path("."), name.as_ref())
    }

    /// Removes a subvolume by its id.
    pub(super) fn destroy(&self, id: u64) -> io::Result<()> {
        KernelBtrfs.destroy_id(&self.path("."), id)
    }

    /// Opens the root of a subvolume.
    pub(super) fn open(&self, name: &str) -> io::Result<OwnedFd> {
        Ok(File::open(self.path(name))?.into())
    }

    /// Waits until all is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        syncfs(&self.root)?;
        KernelBtrfs.sync(&self.path("."))
    }
}

/// Returns a device of the file system of this uuid, as the mount table names it now, or, where it is not mounted, udev; `None` if it
/// is not there.
pub(super) fn device_of(fs_uuid: &str) -> Result<Option<BytePath>, AgentError> {
    let table = fs::read("/proc/self/mountinfo")
        .map_err(|error| AgentError::io("cannot read `/proc/self/mountinfo`", &error))?;
    let mounts = Mounts::parse(&table);
    let holds = |mount: &&Mount| {
        mount.is_btrfs()
            && KernelBtrfs.fs_uuid(mount.point.as_path()).is_ok_and(|uuid| uuid.dashed() == fs_uuid)
    };
    let Some(id) = mounts.visible().find(holds).map(|mount| mount.id.to_string()) else {
        let device = Path::new("/dev/disk/by-uuid").join(fs_uuid);
        return Ok(device.exists().then(|| device.as_path().into()));
    };
    Ok(table.split(|byte| *byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let dash = fields.iter().position(|field| *field == b"-")?;
        let device = fields.get(dash + 2)?;
        (*fields.first()? == id.as_bytes()).then(|| BytePath::new(unescape(device)))
    }))
}
