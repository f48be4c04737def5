//! A real btrfs in an image file, for tests that run as root.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted image; unmounted and detached when dropped, also by a panic.
pub(crate) struct Image {
    dir: tempfile::TempDir,
    mounts: Vec<PathBuf>,
}

fn run(program: &str, args: &[&std::ffi::OsStr]) -> Result<(), String> {
    let output = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

impl Image {
    /// Makes an image of `mebibytes` and mounts its top level, or prints why the test is skipped.
    ///
    /// # Panics
    /// If `LAB_REQUIRED` is set and there can be none.
    pub(crate) fn make(mebibytes: u64) -> Option<Self> {
        match Self::try_make(mebibytes) {
            Ok(image) => Some(image),
            Err(why) if std::env::var_os("LAB_REQUIRED").is_some() => panic!("no btrfs image: {why}"),
            Err(why) => {
                eprintln!("skipped: no btrfs image can be mounted here: {why}");
                None
            }
        }
    }

    /// As [`Image::make`], of another file system: `mkfs` and its options make it, and by `options` it is mounted. One that this kernel
    /// does not know is skipped whatever is required.
    pub(crate) fn of(fs_type: &str, mkfs: &[&str], options: &str) -> Option<Self> {
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        // A program may serve it as well, such as exFAT by `exfat-fuse`.
        let kernel_type = fs_type.rsplit('-').next().unwrap_or(fs_type);
        if !known.split_whitespace().any(|word| word == kernel_type) {
            eprintln!("skipped: this kernel has no {fs_type}");
            return None;
        }
        let made = Self::empty(512).and_then(|(mut image, file)| {
            let (program, args) = mkfs.split_first().ok_or("no program")?;
            let args = args.iter().map(std::ffi::OsStr::new).chain([file.as_os_str()]);
            run(program, &args.collect::<Vec<_>>())?;
            image.mount_with(
                "top",
                &["-t".as_ref(), fs_type.as_ref(), "-o".as_ref(), options.as_ref(), file.as_ref()],
            )?;
            Ok(image)
        });
        match made {
            Ok(image) => Some(image),
            Err(why) if std::env::var_os("LAB_REQUIRED").is_some() => panic!("no {fs_type}: {why}"),
            Err(why) => {
                eprintln!("skipped: no {fs_type} can be mounted here: {why}");
                None
            }
        }
    }

    fn try_make(mebibytes: u64) -> Result<Self, String> {
        let (mut image, file) = Self::empty(mebibytes)?;
        run("mkfs.btrfs", &["-q".as_ref(), file.as_ref()])?;
        // The loop device goes away by itself with its last mount.
        image.mount_with("top", &["-o".as_ref(), "loop,subvolid=5".as_ref(), file.as_ref()])?;
        Ok(image)
    }

    /// Makes the file that is to hold a file system.
    fn empty(mebibytes: u64) -> Result<(Self, PathBuf), String> {
        if !rustix::process::geteuid().is_root() {
            return Err("root is needed".into());
        }
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let file = dir.path().join("image");
        std::fs::File::create(&file)
            .and_then(|image| image.set_len(mebibytes << 20))
            .map_err(|error| error.to_string())?;
        Ok((Self { dir, mounts: Vec::new() }, file))
    }

    fn mount_with(&mut self, name: &str, args: &[&std::ffi::OsStr]) -> Result<PathBuf, String> {
        let point = self.dir.path().join(name);
        std::fs::create_dir_all(&point).map_err(|error| error.to_string())?;
        let mut all = args.to_vec();
        all.push(point.as_os_str());
        // Another user of the machine may take the same free loop device in between.
        let mut mounted = run("mount", &all);
        for _ in 0..4 {
            if mounted.is_ok() {
                break;
            }
            mounted = run("mount", &all);
        }
        mounted?;
        self.mounts.push(point.clone());
        Ok(point)
    }

    /// The mount point of the top level.
    pub(crate) fn top(&self) -> &Path {
        &self.mounts[0]
    }

    /// The directory that holds all mount points.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a subvolume, its path relative to the top level.
    pub(crate) fn create(&self, path: &str) {
        let path = self.top().join(path);
        run("btrfs", &["subvolume".as_ref(), "create".as_ref(), path.as_ref()]).unwrap();
    }

    /// Binds `from`, relative to the directory of all mount points, at `name`.
    pub(crate) fn bind(&mut self, from: &str, name: &str) -> PathBuf {
        let from = self.dir.path().join(from);
        self.mount_with(name, &["--bind".as_ref(), from.as_ref()]).unwrap()
    }

    /// Mounts a temporary file system at `name`.
    pub(crate) fn tmpfs(&mut self, name: &str) -> PathBuf {
        self.mount_with(name, &["-t".as_ref(), "tmpfs".as_ref(), "none".as_ref()]).unwrap()
    }

    /// Mounts memory that keeps no extended attributes at `name`.
    pub(crate) fn ramfs(&mut self, name: &str) -> PathBuf {
        self.mount_with(name, &["-t".as_ref(), "ramfs".as_ref(), "none".as_ref()]).unwrap()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        for point in self.mounts.iter().rev() {
            if let Err(why) = run("umount", &[point.as_os_str()])
                && run("umount", &["-l".as_ref(), point.as_os_str()]).is_err()
            {
                eprintln!("left mounted: {}: {why}", point.display());
            }
        }
    }
}
