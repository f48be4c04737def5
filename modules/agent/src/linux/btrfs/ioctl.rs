//! The kernel's btrfs. The one place in this directory that calls `ioctl`.
#![expect(unsafe_code, reason = "btrfs speaks through ioctl, for which no well-kept crate exists")]

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::raw;
use super::{Btrfs, DeviceSpace, SpaceSlot, SubvolumeInfo, SubvolumeRef, Uuid};

/// The running kernel's btrfs.
#[derive(Debug, Clone, Copy, Default)]
pub struct KernelBtrfs;

/// Runs one request on a file. Success is anything but -1: some requests return 1 (facts/btrfs.md B27).
///
/// # Safety
/// `T` must be the structure that the kernel reads and writes for `request`, or longer.
unsafe fn ioctl<T>(fd: RawFd, request: u64, argument: &mut T) -> io::Result<()> {
    loop {
        // SAFETY: the caller promises that `argument` is what the kernel expects; it lives over the call.
        let result = unsafe { libc::ioctl(fd, request as _, std::ptr::from_mut(argument)) };
        if result >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Opens a directory itself, never what a symbolic link in its place points to.
fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path)
}

/// Opens whatever stands at the path, for questions about its file system.
fn open_any(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)
}

fn put_name(field: &mut [u8], name: &OsStr) -> io::Result<()> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > raw::NAME_MAX || bytes.contains(&b'/') || bytes.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    field[..bytes.len()].copy_from_slice(bytes);
    Ok(())
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Returns where inode `object` of subvolume `tree` lies, without a slash at the end.
fn lookup(file: &File, tree: u64, object: u64) -> io::Result<Vec<u8>> {
    let mut args = raw::LookupArgs { tree, object, name: [0; 4080] };
    // SAFETY: INO_LOOKUP takes `LookupArgs`.
    unsafe { ioctl(file.as_raw_fd(), raw::INO_LOOKUP, &mut args)? };
    let name = until_nul(&args.name);
    Ok(name.strip_suffix(b"/").unwrap_or(name).to_vec())
}

fn fs_info(file: &File) -> io::Result<raw::FsInfo> {
    let mut info = raw::FsInfo { max_id: 0, num_devices: 0, fsid: [0; 16], rest: [0; 992] };
    // SAFETY: FS_INFO takes `FsInfo`.
    unsafe { ioctl(file.as_raw_fd(), raw::FS_INFO, &mut info)? };
    Ok(info)
}

/// A reference from subvolume to subvolume: parent, child, directory inode, name.
type RootRef = (u64, u64, u64, Vec<u8>);

/// Returns all references from subvolume to subvolume.
fn root_refs(file: &File) -> io::Result<Vec<RootRef>> {
    let mut args = raw::SearchArgs {
        tree: raw::ROOT_TREE,
        min_object: 0,
        max_object: raw::LAST_FREE,
        min_offset: 0,
        max_offset: u64::MAX,
        min_transid: 0,
        max_transid: u64::MAX,
        min_type: raw::ROOT_REF_KEY,
        max_type: raw::ROOT_REF_KEY,
        items: 0,
        unused: 0,
        unused_words: [0; 4],
        buffer: [0; 3992],
    };
    let mut found = Vec::new();
    loop {
        args.items = 4096;
        // SAFETY: TREE_SEARCH takes `SearchArgs`, whose buffer it fills.
        unsafe { ioctl(file.as_raw_fd(), raw::TREE_SEARCH, &mut args)? };
        let items = raw::items(&args.buffer, args.items);
        let Some(last) = items.last().map(|item| (item.object, item.kind, item.offset)) else {
            return Ok(found);
        };
        for item in items.iter().filter(|item| item.kind == raw::ROOT_REF_KEY) {
            if let Some((dir, name)) = raw::root_ref(item.data) {
                found.push((item.object, item.offset, dir, name.to_vec()));
            }
        }
        // The next key in order; types other than ROOT_REF lie in between and are passed over above.
        (args.min_object, args.min_type, args.min_offset) = last;
        match args.min_offset.checked_add(1) {
            Some(next) => args.min_offset = next,
            None => (args.min_offset, args.min_object) = (0, args.min_object + 1),
        }
    }
}

impl Btrfs for KernelBtrfs {
    fn has_newer(&self, path: &Path, transid: u64) -> io::Result<bool> {
        let file = open_any(path)?;
        let mut args = raw::SearchArgs {
            // The one that the file lies in.
            tree: 0,
            min_object: 0,
            max_object: u64::MAX,
            min_offset: 0,
            max_offset: u64::MAX,
            min_transid: transid + 1,
            max_transid: u64::MAX,
            min_type: 0,
            max_type: u32::MAX,
            items: 1,
            unused: 0,
            unused_words: [0; 4],
            buffer: [0; 3992],
        };
        // SAFETY: TREE_SEARCH takes `SearchArgs`, whose buffer it fills.
        match unsafe { ioctl(file.as_raw_fd(), raw::TREE_SEARCH, &mut args) } {
            // An item that has no room in the buffer is there all the same.
            Err(error) if error.raw_os_error() == Some(libc::EOVERFLOW) => Ok(true),
            done => done.map(|()| args.items > 0),
        }
    }

    fn is_clearing(&self, path: &Path) -> io::Result<bool> {
        let file = open_any(path)?;
        let mut args = raw::SearchArgs {
            tree: raw::ROOT_TREE,
            min_object: raw::ORPHANS,
            max_object: raw::ORPHANS,
            min_offset: 0,
            max_offset: u64::MAX,
            min_transid: 0,
            max_transid: u64::MAX,
            min_type: raw::ORPHAN_KEY,
            max_type: raw::ORPHAN_KEY,
            items: 1,
            unused: 0,
            unused_words: [0; 4],
            buffer: [0; 3992],
        };
        // SAFETY: TREE_SEARCH takes `SearchArgs`, whose buffer it fills.
        unsafe { ioctl(file.as_raw_fd(), raw::TREE_SEARCH, &mut args) }.map(|()| args.items > 0)
    }

    fn subvolume(&self, path: &Path) -> io::Result<SubvolumeInfo> {
        // SAFETY: the structure holds numbers and bytes alone, for which zero is a value.
        let mut info: raw::SubvolInfo = unsafe { std::mem::zeroed() };
        // SAFETY: GET_SUBVOL_INFO takes `SubvolInfo`.
        unsafe { ioctl(open_any(path)?.as_raw_fd(), raw::GET_SUBVOL_INFO, &mut info)? };
        Ok(SubvolumeInfo {
            id: info.treeid,
            parent_id: info.parent_id,
            uuid: Uuid(info.uuid),
            source_uuid: Uuid(info.parent_uuid),
            generation: info.generation,
            ctransid: info.ctransid,
            otransid: info.otransid,
            // The on-disk flag here is bit 0; bit 1 belongs to GET_FLAGS.
            readonly: info.flags & 1 != 0,
            // The second of change, creation, sending and receiving.
            created_seconds: info.times[1].seconds.cast_signed(),
        })
    }

    fn fs_uuid(&self, path: &Path) -> io::Result<Uuid> {
        Ok(Uuid(fs_info(&open_any(path)?)?.fsid))
    }

    fn subvolumes(&self, path: &Path) -> io::Result<Vec<SubvolumeRef>> {
        let file = open(path)?;
        let mut dirs: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
        let mut found = Vec::new();
        for (parent_id, id, dir, name) in root_refs(&file)? {
            let known = dirs.get(&(parent_id, dir)).cloned();
            let dir_path = match known {
                Some(path) => path,
                None if dir == raw::FIRST_FREE => Vec::new(),
                None => match lookup(&file, parent_id, dir) {
                    Ok(path) => path,
                    // Removed since the search.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    // So deep that the kernel does not say where: whoever may make directories must not blind us to all others.
                    Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => continue,
                    Err(error) => return Err(error),
                },
            };
            dirs.insert((parent_id, dir), dir_path.clone());
            found.push(SubvolumeRef { id, parent_id, dir: dir_path, name });
        }
        Ok(found)
    }

    fn inside(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = open(path)?;
        let inode = file.metadata()?.ino();
        if inode == raw::FIRST_FREE {
            return Ok(Vec::new());
        }
        // Tree 0 stands for the one the file lies in.
        lookup(&file, 0, inode)
    }

    fn snapshot(&self, source: &Path, parent: &Path, name: &OsStr) -> io::Result<()> {
        let (source, parent) = (open(source)?, open(parent)?);
        let mut args = raw::VolArgsV2 {
            fd: i64::from(source.as_raw_fd()),
            transid: 0,
            flags: 0,
            unused: [0; 4],
            name: [0; 4040],
        };
        put_name(&mut args.name, name)?;
        // SAFETY: SNAP_CREATE_V2 takes `VolArgsV2`; both descriptors are open.
        unsafe { ioctl(parent.as_raw_fd(), raw::SNAP_CREATE_V2, &mut args) }
    }

    fn make(&self, parent: &Path, name: &OsStr) -> io::Result<()> {
        let mut args = raw::VolArgs { fd: 0, name: [0; 4088] };
        put_name(&mut args.name, name)?;
        // SAFETY: SUBVOL_CREATE takes `VolArgs`.
        unsafe { ioctl(open(parent)?.as_raw_fd(), raw::SUBVOL_CREATE, &mut args) }
    }

    fn remove_empty(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir(path)
    }

    fn destroy(&self, parent: &Path, name: &OsStr) -> io::Result<()> {
        let mut args = raw::VolArgs { fd: 0, name: [0; 4088] };
        put_name(&mut args.name, name)?;
        // SAFETY: SNAP_DESTROY takes `VolArgs`.
        unsafe { ioctl(open(parent)?.as_raw_fd(), raw::SNAP_DESTROY, &mut args) }
    }

    fn destroy_id(&self, parent: &Path, id: u64) -> io::Result<()> {
        let mut args =
            raw::VolArgsV2 { fd: 0, transid: 0, flags: raw::SPEC_BY_ID, unused: [0; 4], name: [0; 4040] };
        args.name[..8].copy_from_slice(&id.to_ne_bytes());
        // SAFETY: SNAP_DESTROY_V2 takes `VolArgsV2`; with this flag the id stands where the name begins.
        unsafe { ioctl(open(parent)?.as_raw_fd(), raw::SNAP_DESTROY_V2, &mut args) }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn set_readonly(&self, path: &Path, readonly: bool) -> io::Result<()> {
        let file = open(path)?;
        let mut flags = 0_u64;
        // SAFETY: GET_FLAGS takes a `u64`.
        unsafe { ioctl(file.as_raw_fd(), raw::GET_FLAGS, &mut flags)? };
        let mut wanted = if readonly { flags | raw::READONLY } else { flags & !raw::READONLY };
        // SAFETY: SET_FLAGS takes a `u64`.
        unsafe { ioctl(file.as_raw_fd(), raw::SET_FLAGS, &mut wanted) }
    }

    fn set_immutable(&self, dir: &Path, immutable: bool) -> io::Result<()> {
        let dir = open(dir)?;
        let flags = ioctl_getflags(&dir)?;
        let mut wanted = flags;
        wanted.set(IFlags::IMMUTABLE, immutable);
        if wanted != flags {
            ioctl_setflags(&dir, wanted)?;
        }
        Ok(())
    }

    fn is_immutable(&self, dir: &Path) -> io::Result<bool> {
        Ok(ioctl_getflags(&open(dir)?)?.contains(IFlags::IMMUTABLE))
    }

    fn start_sync(&self, path: &Path) -> io::Result<()> {
        let mut transid = 0_u64;
        // SAFETY: START_SYNC takes a `u64`.
        unsafe { ioctl(open(path)?.as_raw_fd(), raw::START_SYNC, &mut transid) }
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        // SAFETY: SYNC takes nothing.
        unsafe { ioctl(open(path)?.as_raw_fd(), raw::SYNC, &mut ()) }
    }

    fn space(&self, path: &Path) -> io::Result<Vec<SpaceSlot>> {
        let empty = raw::RawSpace { flags: 0, total_bytes: 0, used_bytes: 0 };
        let mut args =
            raw::SpaceArgs { slots: raw::MAX_SPACES as u64, total: 0, spaces: [empty; raw::MAX_SPACES] };
        // SAFETY: SPACE_INFO takes a head of two words and as many slots as it says, all part of `SpaceArgs`.
        unsafe { ioctl(open_any(path)?.as_raw_fd(), raw::SPACE_INFO, &mut args)? };
        let found = &args.spaces[..raw::MAX_SPACES.min(args.total as usize)];
        let slot = |one: &raw::RawSpace| SpaceSlot {
            flags: one.flags,
            total_bytes: one.total_bytes,
            used_bytes: one.used_bytes,
        };
        Ok(found.iter().map(slot).collect())
    }

    fn devices(&self, path: &Path) -> io::Result<DeviceSpace> {
        let file = open_any(path)?;
        let info = fs_info(&file)?;
        let mut sum = DeviceSpace { devices: info.num_devices, ..DeviceSpace::default() };
        for devid in 0..=info.max_id {
            // SAFETY: the structure holds numbers and bytes alone, for which zero is a value.
            let mut device: raw::DevInfo = unsafe { std::mem::zeroed() };
            device.devid = devid;
            // SAFETY: DEV_INFO takes `DevInfo`.
            match unsafe { ioctl(file.as_raw_fd(), raw::DEV_INFO, &mut device) } {
                Ok(()) => {
                    sum.total_bytes += device.total_bytes;
                    sum.allocated_bytes += device.bytes_used;
                }
                // A number that is free, for example after a device was removed.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sum)
    }
}
