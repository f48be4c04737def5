//! Snapshots of thin volumes, for machines without btrfs: each call a command of LVM's own tools.
//!
//! A member is an empty directory whose label says in which volume its content lies. The volume is read-only from the
//! beginning, has no device but while it is read, and is known by a tag that no other has: nothing else is ever touched.
//! Whoever reads it mounts it where no path leads; that ends with the process at the latest. docs/adr/0025.

mod plan;
mod report;

#[cfg(test)]
pub(crate) mod fake;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use pc_switcher_contract::BytePath;

use super::mounts::{Mount, Mounts};
use super::state::write_file;
pub(crate) use plan::{Origin, name_of, origin_at, origins, room, tag_of};
pub(crate) use report::Volume;

/// Where the tools lie.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// For so long is waited for a process that takes the snapshot of a member.
const PATIENCE: Duration = Duration::from_secs(60);
/// How soon it is looked again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A rule of udev, until the machine is started anew. By the time of its set a device is known.
const RULES: &str = "/run/udev/rules.d/99-pc-switcher-volumes.rules";
const RULE: &str = "\
# Snapshots of volumes have the uuid of what they were taken of: links such as those in /dev/disk/by-uuid stay with that.
SUBSYSTEM==\"block\", ENV{DM_NAME}==\"*--[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]T[0-9][0-9][0-9][0-9][0-9][0-9]Z--????????\", \
OPTIONS+=\"link_priority=-100\", ENV{UDISKS_IGNORE}=\"1\"
";

/// The tools of this machine.
pub(crate) static HOST: HostLvm = HostLvm;

/// LVM as callers see it.
pub trait Lvm: Send + Sync {
    /// Runs one of its commands; `held` is open in it until its end. Returns what it says.
    ///
    /// # Errors
    /// If it is not installed, or what it says when it fails.
    fn run(&self, argv: &[&str], held: Option<&File>) -> io::Result<Vec<u8>>;

    /// Mounts what a device holds, read-only and where no path leads.
    ///
    /// # Errors
    /// What the kernel says.
    fn mount(&self, node: &Path, fs_type: &str) -> io::Result<Mounted>;

    /// Sees to it that nobody takes the device of a snapshot for the volume it was taken of, whose uuid it has.
    fn set_apart(&self) {}
}

/// A file system that is mounted for as long as this is there.
#[derive(Debug)]
pub struct Mounted {
    /// Its root.
    root: OwnedFd,
    _mount: Option<OwnedFd>,
}

/// The tools and the kernel.
#[derive(Debug)]
pub(crate) struct HostLvm;

impl Lvm for HostLvm {
    fn run(&self, argv: &[&str], held: Option<&File>) -> io::Result<Vec<u8>> {
        let (program, args) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let stdin = match held {
            // It reads nothing there; but the lock on what it is goes on for as long as it runs.
            Some(file) => Stdio::from(file.try_clone()?),
            None => Stdio::null(),
        };
        let output = Command::new(program)
            .args(args)
            .env_clear()
            .envs([("PATH", PATH), ("LC_ALL", "C"), ("LVM_SUPPRESS_FD_WARNINGS", "1")])
            .current_dir("/")
            .stdin(stdin)
            .output()
            .map_err(|error| match error.kind() {
                // Not `NotFound`, by which callers tell that a volume is gone.
                io::ErrorKind::NotFound => io::Error::other(format!(
                    "`{program}` is not installed: `backend = \"lvm\"` takes the package lvm2"
                )),
                kind => io::Error::new(kind, format!("cannot start `{program}`: {error}")),
            })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        Err(io::Error::other(format!("`{program}` says: {}", said.join("; "))))
    }

    fn mount(&self, node: &Path, fs_type: &str) -> io::Result<Mounted> {
        let fs = fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC)?;
        let made = || {
            fsconfig_set_string(&fs, "source", node)?;
            fsconfig_set_flag(&fs, "ro")?;
            if fs_type == "xfs" {
                // The volume it is a snapshot of is mounted with the same uuid; what was frozen needs no more than its log says.
                fsconfig_set_flag(&fs, "nouuid")?;
                fsconfig_set_flag(&fs, "norecovery")?;
            }
            fsconfig_create(&fs)
        };
        made().map_err(|error| {
            io::Error::new(error.kind(), format!("cannot mount `{}`: {}", node.display(), said(&fs, error)))
        })?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mount = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        let root = openat(&mount, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Mounted { root, _mount: Some(mount) })
    }

    fn set_apart(&self) {
        let path = Path::new(RULES);
        let is_there = || std::fs::read(path).is_ok_and(|there| there == RULE.as_bytes());
        if !Path::new("/run/udev").is_dir() || is_there() {
            return;
        }
        // Without it all goes as well, but for links that lead to the wrong device meanwhile.
        let _ = path.parent().map(std::fs::create_dir_all);
        if write_file(path, RULE.as_bytes()).is_ok() {
            let _ = self.run(&["udevadm", "control", "--reload"], None);
        }
    }
}

/// Returns the last thing that the kernel says of a file system that was to be mounted.
fn said(fs: impl AsFd, error: rustix::io::Errno) -> String {
    let mut last = error.to_string();
    let mut line = [0; 1024];
    while let Ok(size @ 1..) = rustix::io::read(&fs, &mut line) {
        last = format!("{error} ({})", String::from_utf8_lossy(&line[..size]).trim());
    }
    last
}

fn run(lvm: &dyn Lvm, argv: &[String], held: Option<&File>) -> io::Result<()> {
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    lvm.run(&argv, held).map(drop)
}

/// Returns all volumes of the machine.
///
/// # Errors
/// If LVM is not installed, or does not say.
pub(crate) fn all(lvm: &dyn Lvm) -> io::Result<Vec<Volume>> {
    report::parse(&lvm.run(&report::LIST, None)?)
}

/// Returns the volume of a tag; `full_name` is what it was called.
///
/// # Errors
/// `NotFound` if it is gone; or if LVM does not say.
pub(crate) fn find(lvm: &dyn Lvm, tag: &str, full_name: &str) -> io::Result<Volume> {
    all(lvm)?.into_iter().find(|volume| volume.has_tag(tag)).ok_or_else(|| plan::gone(full_name))
}

/// Takes a snapshot. `held` is the member's directory, locked: the lock holds for as long as the command runs, also if this process
/// dies.
///
/// # Errors
/// What LVM says.
pub(crate) fn create(lvm: &dyn Lvm, origin: &Origin, name: &str, tag: &str, held: &File) -> io::Result<()> {
    run(lvm, &plan::create(origin, name, tag), Some(held))
}

/// Removes the volume of a tag, if it is there, when nobody takes or reads it any more.
///
/// # Errors
/// If somebody does, or what LVM says.
pub(crate) fn remove(lvm: &dyn Lvm, member: OwnedFd, tag: &str) -> io::Result<()> {
    let lock = File::from(member);
    let since = Instant::now();
    while lock.try_lock().is_err() {
        if since.elapsed() >= PATIENCE {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        thread::sleep(LOOK_AGAIN);
    }
    let volumes = all(lvm)?;
    let mut ours = volumes.iter().filter(|volume| volume.has_tag(tag));
    ours.try_for_each(|volume| run(lvm, &plan::remove(volume), None))
}

/// Takes the device of a volume away that somebody who died has read, unless somebody reads it now.
pub(crate) fn rest(lvm: &dyn Lvm, member: OwnedFd, tag: &str, full_name: &str) -> io::Result<()> {
    let lock = File::from(member);
    if lock.try_lock().is_err() {
        return Ok(());
    }
    match find(lvm, tag, full_name) {
        Ok(volume) if volume.is_active => run(lvm, &plan::deactivate(&volume.full_name()), None),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// A member that is being read. Its volume has a device, and is mounted, for as long as this is there.
pub(crate) struct Reading {
    lvm: &'static dyn Lvm,
    full_name: String,
    mounted: Option<Mounted>,
    /// Whoever reads has it shared; whoever has it alone may take the device away.
    lock: File,
}

impl Reading {
    /// Opens the volume of a member.
    ///
    /// # Errors
    /// `NotFound` if it is gone; or what LVM or the kernel says.
    pub(crate) fn open(
        lvm: &'static dyn Lvm,
        member: OwnedFd,
        (tag, full_name, fs_type): (&str, &str, &str),
    ) -> io::Result<Self> {
        let lock = File::from(member);
        lock.lock_shared()?;
        let volume = find(lvm, tag, full_name)?;
        let mut reading = Self { lvm, full_name: volume.full_name(), mounted: None, lock };
        let volume = match volume.is_active {
            true => volume,
            false => {
                lvm.set_apart();
                run(lvm, &plan::activate(&volume), None)?;
                find(lvm, tag, full_name)?
            }
        };
        reading.mounted = Some(lvm.mount(&volume.node, fs_type)?);
        Ok(reading)
    }

    /// Returns the root of what it holds.
    ///
    /// # Errors
    /// If no more can be open.
    pub(crate) fn root(&self) -> io::Result<OwnedFd> {
        let mounted = self.mounted.as_ref().ok_or(io::ErrorKind::NotFound)?;
        mounted.root.try_clone()
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        drop(self.mounted.take());
        if self.lock.try_lock().is_ok() {
            // A device that stays goes when the next set is taken or removed.
            let _ = run(self.lvm, &plan::deactivate(&self.full_name), None);
        }
        let _ = self.lock.unlock();
    }
}

/// Returns where volumes are mounted of which snapshots can be taken; none if LVM has nothing to do with this machine.
pub(crate) fn thin(lvm: &dyn Lvm, mounts: &Mounts) -> Vec<BytePath> {
    // The tools are asked only if the kernel says that something is theirs.
    let is_theirs = |mount: &&Mount| {
        let uuid = format!("/sys/dev/block/{}/dm/uuid", mount.device);
        mount.is_disk() && std::fs::read(uuid).is_ok_and(|uuid| uuid.starts_with(b"LVM-"))
    };
    let theirs: Vec<&Mount> = mounts.visible().filter(is_theirs).collect();
    if theirs.is_empty() {
        return Vec::new();
    }
    let volumes = all(lvm).unwrap_or_default();
    let fits = |mount: &&&Mount| origin_at(mounts, &volumes, &mount.point).is_ok();
    theirs.iter().filter(fits).map(|mount| mount.point.clone()).collect()
}
