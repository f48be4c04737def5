//! Files of a machine, read and written from outside.
//!
//! Invariant: paths are resolved inside the machine's root, absolute symbolic links included; a path can never lead to
//! a file of the host.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::fs::{Mode, OFlags, ResolveFlags, fchmod, fchown, openat2};

use super::{
    error::{LabError, Result},
    machine::Machine,
    users,
};
use crate::manifest::{ManifestOptions, TreeManifest};

impl Machine {
    /// Reads a file of the machine.
    pub fn read_file(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let mut bytes = Vec::new();
        let mut file = self.open(path, OFlags::RDONLY)?;
        file.read_to_end(&mut bytes).map_err(LabError::path("read", path))?;
        Ok(bytes)
    }

    /// Writes a file of the machine with this mode, owned by `owner`, over any older one; its directory must exist.
    pub fn write_file(&self, path: impl AsRef<Path>, bytes: &[u8], mode: u32, owner: &str) -> Result<()> {
        let mut bytes = bytes;
        self.write_from(&mut bytes, path.as_ref(), mode, owner)
    }

    /// Copies a file of the host to `target` in the machine, with this mode, owned by `owner`.
    pub fn copy_in(
        &self,
        source: impl AsRef<Path>,
        target: impl AsRef<Path>,
        mode: u32,
        owner: &str,
    ) -> Result<()> {
        let source = source.as_ref();
        let mut file = File::open(source).map_err(LabError::path("open", source))?;
        self.write_from(&mut file, target.as_ref(), mode, owner)
    }

    /// Tells whether a path exists in the machine; a dangling symbolic link does not.
    pub fn exists(&self, path: impl AsRef<Path>) -> Result<bool> {
        match self.open(path.as_ref(), OFlags::PATH) {
            Ok(_) => Ok(true),
            Err(LabError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads the strict picture of a directory of the machine.
    pub fn manifest(&self, path: impl AsRef<Path>, options: &ManifestOptions) -> Result<TreeManifest> {
        let path = path.as_ref();
        let dir = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let what = format!("read the tree `{}` of `{}`", path.display(), self.hostname());
        TreeManifest::read_dir(dir.into(), options).map_err(LabError::io(what))
    }

    fn write_from(&self, source: &mut impl Read, target: &Path, mode: u32, owner: &str) -> Result<()> {
        let who = users::look_up(&self.door()?.root(), owner)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(who.uid), rustix::fs::Gid::from_raw(who.gid));
        let mut file = self.open(target, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
        std::io::copy(source, &mut file)
            .and_then(|_| file.flush())
            .map_err(LabError::path("write", target))?;
        fchown(&file, Some(uid), Some(gid))
            .and_then(|()| fchmod(&file, Mode::from_raw_mode(mode)))
            .map_err(|error| LabError::path("set the access of", target)(error.into()))
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<File> {
        let root_path = self.door()?.root();
        let root = File::open(&root_path).map_err(LabError::path("open", &root_path))?;
        let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o600) } else { Mode::empty() };
        let opened: rustix::io::Result<OwnedFd> =
            openat2(root, path, flags | OFlags::CLOEXEC, mode, ResolveFlags::IN_ROOT);
        let what = format!("open `{}` on `{}`", path.display(), self.hostname());
        opened.map(File::from).map_err(|error| LabError::io(what)(error.into()))
    }
}
