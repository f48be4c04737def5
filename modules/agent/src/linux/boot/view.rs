//! The machine as it would be started, mounted where nobody else sees it: what is done in it works as on the machine itself.
#![expect(
    unsafe_code,
    reason = "a mount namespace of one's own is entered by a call that the crate calls unsafe"
)]

use std::ffi::CString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::proto::BootTree;

/// The beginning of where it is mounted, in a namespace of this process. The directory is no other process's: one that is removed
/// takes the mounts of every namespace with it.
const PLACE: &str = "/run/pc-switcher-boot";

/// What a process needs of the machine that runs.
const BOUND: [&str; 4] = ["proc", "dev", "sys", "run"];

/// The mounted machine; it goes with this.
pub(super) struct View {
    dir: PathBuf,
    points: Vec<PathBuf>,
}

impl View {
    /// Mounts subvolumes of the btrfs on a device, the first one as `/` of the others.
    ///
    /// # Errors
    /// If one is not there, or something else than a directory stands where it belongs.
    pub(super) fn open(device: &Path, trees: &[BootTree]) -> io::Result<Self> {
        // SAFETY: only the file system's namespace is parted, no table of descriptors.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let mut this = Self { dir: format!("{PLACE}-{}", std::process::id()).into(), points: Vec::new() };
        fs::create_dir_all(&this.dir)?;
        for tree in trees {
            let inside = tree.point.as_path().strip_prefix("/").unwrap_or(tree.point.as_path());
            let point = this.point(inside)?;
            let options = CString::new(format!("subvol=/{}", tree.name)).map_err(io::Error::other)?;
            mount(device, &point, "btrfs", MountFlags::NOATIME, Some(options.as_c_str()))
                .map_err(|error| told(error.into(), format!("cannot mount `{}`", tree.name)))?;
            this.points.push(point);
        }
        for name in BOUND {
            let point = this.point(Path::new(name))?;
            mount_bind(Path::new("/").join(name), &point)?;
            this.points.push(point);
        }
        Ok(this)
    }

    /// Where it is seen.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns a directory to mount something at. A tree that is broken may have none: it is made.
    fn point(&self, inside: &Path) -> io::Result<PathBuf> {
        let point = self.dir.join(inside);
        let mut at = self.dir.clone();
        for step in inside {
            at.push(step);
            match fs::symlink_metadata(&at) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => return Err(io::Error::other(format!("`/{}` is no directory", inside.display()))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    DirBuilder::new().mode(0o755).create(&at)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(point)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        for point in self.points.iter().rev() {
            if unmount(point, UnmountFlags::empty()).is_err() {
                // Somebody hangs in it; it goes with them.
                let _ = unmount(point, UnmountFlags::DETACH);
            }
        }
        let _ = fs::remove_dir(&self.dir);
    }
}

fn told(error: io::Error, what: String) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Enters it, for good.
///
/// # Errors
/// If the kernel does not let us.
pub(super) fn enter(dir: &Path) -> io::Result<()> {
    rustix::process::chroot(dir)?;
    std::env::set_current_dir("/")
}
