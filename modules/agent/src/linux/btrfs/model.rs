//! A model of btrfs for tests: subvolumes are plain directories, known by their inode.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Btrfs, DeviceSpace, FS_TREE, SpaceSlot, SubvolumeInfo, SubvolumeRef, Uuid};

/// What a test makes the model do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The n-th snapshot from now (1 is the next) fails with this error number.
    Snapshot(usize, i32),
    /// This many snapshots from now each fall into a transaction of their own.
    Torn(usize),
    /// The n-th flip to read-only from now fails with this error number.
    Freeze(usize, i32),
    /// The n-th directory from now that is to be immutable does not become so, with this error number.
    Immutable(usize, i32),
    /// The next snapshot is written to before it becomes read-only.
    Touched,
}

struct State {
    transid: u64,
    next_id: u64,
    subvolumes: HashMap<u64, SubvolumeInfo>,
    /// Directories, by their inode.
    immutable: HashSet<u64>,
    faults: Vec<Fault>,
    tear: usize,
}

/// The model; its top level is `root`.
pub(crate) struct ModelBtrfs {
    root: PathBuf,
    state: Mutex<State>,
}

impl ModelBtrfs {
    pub(crate) fn new(root: &Path) -> Self {
        let info = Self::info(FS_TREE, 0, 1, Uuid::default());
        let inode = fs::metadata(root).unwrap().ino();
        let state = State {
            transid: 10,
            next_id: 256,
            subvolumes: HashMap::from([(inode, info)]),
            immutable: HashSet::new(),
            faults: Vec::new(),
            tear: 0,
        };
        Self { root: root.to_owned(), state: Mutex::new(state) }
    }

    fn info(id: u64, parent_id: u64, transid: u64, source_uuid: Uuid) -> SubvolumeInfo {
        let mut uuid = [7; 16];
        uuid[8..].copy_from_slice(&id.to_be_bytes());
        SubvolumeInfo {
            id,
            parent_id,
            uuid: Uuid(uuid),
            source_uuid,
            generation: transid,
            ctransid: transid,
            otransid: transid,
            readonly: false,
            created_seconds: 1_763_208_000 + transid.cast_signed(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fail(&self, fault: Fault) {
        let mut state = self.state();
        match fault {
            Fault::Torn(count) => state.tear = count,
            other => state.faults.push(other),
        }
    }

    pub(crate) fn create(&self, path: &Path) {
        fs::create_dir(path).unwrap();
        let parent = self.holder(path.parent().unwrap()).unwrap().1.id;
        let mut state = self.state();
        let (id, transid) = (state.next_id, state.transid);
        state.next_id += 1;
        state
            .subvolumes
            .insert(fs::metadata(path).unwrap().ino(), Self::info(id, parent, transid, Uuid::default()));
    }

    /// The root of the subvolume that holds a path, and what is known of it.
    fn holder(&self, path: &Path) -> io::Result<(PathBuf, SubvolumeInfo)> {
        let state = self.state();
        let mut at = path.to_owned();
        fs::symlink_metadata(&at)?;
        while at.starts_with(&self.root) {
            if let Some(info) = state.subvolumes.get(&fs::symlink_metadata(&at)?.ino()) {
                return Ok((at, info.clone()));
            }
            at.pop();
        }
        Err(io::Error::from_raw_os_error(libc::ENOTTY))
    }

    fn due(state: &mut State, pick: fn(&mut Fault) -> Option<&mut usize>) -> Option<i32> {
        let mut error = None;
        state.faults.retain_mut(|fault| {
            let number = match fault {
                Fault::Snapshot(_, number) | Fault::Freeze(_, number) | Fault::Immutable(_, number) => {
                    *number
                }
                _ => 0,
            };
            match pick(fault) {
                Some(left) => {
                    *left -= 1;
                    if *left == 0 {
                        error = Some(number);
                    }
                    *left != 0
                }
                None => true,
            }
        });
        error
    }

    /// Refuses what would change an immutable directory.
    fn changes(&self, dir: &Path) -> io::Result<()> {
        match self.is_immutable(dir)? {
            true => Err(errno(libc::EPERM)),
            false => Ok(()),
        }
    }

    fn root_of(&self, path: &Path) -> io::Result<u64> {
        let inode = fs::symlink_metadata(path)?.ino();
        match self.state().subvolumes.contains_key(&inode) {
            true => Ok(inode),
            false => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

impl Btrfs for ModelBtrfs {
    fn has_newer(&self, path: &Path, transid: u64) -> io::Result<bool> {
        Ok(self.subvolume(path)?.ctransid > transid)
    }

    fn is_clearing(&self, _: &Path) -> io::Result<bool> {
        Ok(false)
    }

    fn subvolume(&self, path: &Path) -> io::Result<SubvolumeInfo> {
        Ok(self.holder(path)?.1)
    }

    fn fs_uuid(&self, path: &Path) -> io::Result<Uuid> {
        self.holder(path).map(|_| Uuid([0xaa; 16]))
    }

    fn subvolumes(&self, _path: &Path) -> io::Result<Vec<SubvolumeRef>> {
        let mut found = Vec::new();
        let mut todo = vec![self.root.clone()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(&dir)? {
                let path = entry?.path();
                if !path.is_dir() || path.is_symlink() {
                    continue;
                }
                todo.push(path.clone());
                let (root, info) = self.holder(&path)?;
                if root == path {
                    let (above, _) = self.holder(&dir)?;
                    found.push(SubvolumeRef {
                        id: info.id,
                        parent_id: info.parent_id,
                        dir: dir.strip_prefix(above).unwrap().as_os_str().as_bytes().to_vec(),
                        name: path.file_name().unwrap().as_bytes().to_vec(),
                    });
                }
            }
        }
        Ok(found)
    }

    fn inside(&self, path: &Path) -> io::Result<Vec<u8>> {
        let (root, _) = self.holder(path)?;
        Ok(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec())
    }

    fn snapshot(&self, source: &Path, parent: &Path, name: &OsStr) -> io::Result<()> {
        let source_root = self.root_of(source)?;
        let above = self.holder(parent)?.1.id;
        self.changes(parent)?;
        let target = parent.join(name);
        let mut state = self.state();
        if let Some(number) = Self::due(&mut state, |fault| match fault {
            Fault::Snapshot(left, _) => Some(left),
            _ => None,
        }) {
            return Err(errno(number));
        }
        if fs::symlink_metadata(&target).is_ok() {
            return Err(errno(libc::EEXIST));
        }
        fs::create_dir(&target)?;
        for entry in fs::read_dir(source)?.flatten().filter(|entry| entry.path().is_file()) {
            fs::copy(entry.path(), target.join(entry.file_name()))?;
        }
        if state.tear > 0 {
            state.tear -= 1;
            state.transid += 1;
        }
        let (id, transid) = (state.next_id, state.transid);
        state.next_id += 1;
        let mut info = Self::info(id, above, transid, state.subvolumes[&source_root].uuid);
        if state.faults.contains(&Fault::Touched) {
            state.faults.retain(|fault| *fault != Fault::Touched);
            info.ctransid += 1;
        }
        state.subvolumes.insert(fs::metadata(&target)?.ino(), info);
        Ok(())
    }

    fn make(&self, parent: &Path, name: &OsStr) -> io::Result<()> {
        match parent.join(name) {
            path if path.exists() => Err(errno(libc::EEXIST)),
            path => {
                self.create(&path);
                Ok(())
            }
        }
    }

    fn remove_empty(&self, path: &Path) -> io::Result<()> {
        let inode = self.root_of(path)?;
        fs::remove_dir(path)?;
        self.state().subvolumes.remove(&inode);
        Ok(())
    }

    fn destroy(&self, parent: &Path, name: &OsStr) -> io::Result<()> {
        let path = parent.join(name);
        let inode = self.root_of(&path)?;
        self.changes(parent)?;
        let mut state = self.state();
        let id = state.subvolumes[&inode].id;
        if state.subvolumes.values().any(|other| other.parent_id == id) {
            return Err(errno(libc::ENOTEMPTY));
        }
        state.subvolumes.remove(&inode);
        fs::remove_dir_all(path)
    }

    fn destroy_id(&self, parent: &Path, id: u64) -> io::Result<()> {
        for entry in fs::read_dir(parent)? {
            let entry = entry?;
            let inode = fs::symlink_metadata(entry.path())?.ino();
            if self.state().subvolumes.get(&inode).is_some_and(|info| info.id == id) {
                return self.destroy(parent, &entry.file_name());
            }
        }
        Err(errno(libc::ENOENT))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.root_of(from)?;
        let above = self.holder(to.parent().unwrap())?.1.id;
        self.changes(from.parent().unwrap())?;
        self.changes(to.parent().unwrap())?;
        let mut state = self.state();
        let info = state.subvolumes.get_mut(&inode).unwrap();
        if info.readonly && from.parent() != to.parent() {
            return Err(errno(libc::EROFS));
        }
        info.parent_id = above;
        fs::rename(from, to)
    }

    fn set_readonly(&self, path: &Path, readonly: bool) -> io::Result<()> {
        let inode = self.root_of(path)?;
        let mut state = self.state();
        if let Some(number) = Self::due(&mut state, |fault| match fault {
            Fault::Freeze(left, _) => Some(left),
            _ => None,
        }) {
            return Err(errno(number));
        }
        state.subvolumes.get_mut(&inode).unwrap().readonly = readonly;
        Ok(())
    }

    fn set_immutable(&self, dir: &Path, immutable: bool) -> io::Result<()> {
        let inode = fs::symlink_metadata(dir)?.ino();
        let mut state = self.state();
        if immutable
            && let Some(number) = Self::due(&mut state, |fault| match fault {
                Fault::Immutable(left, _) => Some(left),
                _ => None,
            })
        {
            return Err(errno(number));
        }
        match immutable {
            true => state.immutable.insert(inode),
            false => state.immutable.remove(&inode),
        };
        Ok(())
    }

    fn is_immutable(&self, dir: &Path) -> io::Result<bool> {
        let inode = fs::symlink_metadata(dir)?.ino();
        Ok(self.state().immutable.contains(&inode))
    }

    fn start_sync(&self, _path: &Path) -> io::Result<()> {
        self.state().transid += 1;
        Ok(())
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.start_sync(path)
    }

    fn space(&self, _path: &Path) -> io::Result<Vec<SpaceSlot>> {
        let slot = |flags, total_bytes| SpaceSlot { flags, total_bytes, used_bytes: total_bytes / 4 };
        Ok(vec![slot(1, 64 << 20), slot(4 | 1 << 5, 32 << 20), slot(2 | 1 << 5, 8 << 20)])
    }

    fn devices(&self, _path: &Path) -> io::Result<DeviceSpace> {
        Ok(DeviceSpace { devices: 1, total_bytes: 1 << 30, allocated_bytes: 144 << 20 })
    }
}
