//! Snapshots of thin volumes, for machines without btrfs: each call a command of LVM's own tools.
//!
//! A member is an empty directory whose label says in which volume its content lies. The volume is read-only from the
//! beginning, has no device but while it is read, and is known by a tag that no other has: nothing else is ever touched.
//! Whoever reads it mounts it where no path leads; that ends with the process at the latest. docs/adr/0025.

mod host;
mod plan;
mod report;

#[cfg(test)]
pub(crate) mod fake;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use pc_switcher_contract::BytePath;

use super::mounts::{Mount, Mounts};
use crate::data::trees::InVolume;
use host::HostLvm;
pub(crate) use plan::{Origin, name_of, origin_at, origins, room, tag_of};
pub(crate) use report::Volume;

/// For so long is waited for a process that takes the snapshot of a member, for a lock, and for a command that only looks.
const PATIENCE: Duration = Duration::from_secs(60);
/// And so long for a command that changes something: blocks are given back one range after the other.
const LONG: Duration = Duration::from_secs(600);
/// How soon it is looked again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// For so long is waited for who has a device open that just came: udev looks what is in it.
const GLANCE: Duration = Duration::from_secs(2);

/// The tools of this machine.
pub(crate) static HOST: HostLvm = HostLvm { look: PATIENCE, change: LONG };

/// LVM as callers see it.
pub trait Lvm: Send + Sync {
    /// Runs one of its commands; `held` is open in it until its end. Returns what it says. `stop` ends the wait for a lock, and a
    /// command that only looks; never one that changes something.
    ///
    /// # Errors
    /// If it is not installed, takes too long, or what it says when it fails.
    fn run(&self, argv: &[&str], held: Option<&File>, stop: &dyn Fn() -> bool) -> io::Result<Vec<u8>>;

    /// Mounts what a device holds, read-only and where no path leads.
    ///
    /// # Errors
    /// What the kernel says.
    fn mount(&self, node: &Path, fs_type: &str) -> io::Result<Mounted>;

    /// Whether the kernel has a thin pool: without one the tools need not be asked for snapshots.
    fn has_pools(&self) -> bool;

    /// How long is waited for who has a device open for a moment.
    fn glance(&self) -> Duration {
        GLANCE
    }

    /// Sees to it that nobody takes the device of a snapshot for the volume it was taken of, whose uuid it has.
    fn set_apart(&self) {}
}

/// For whoever cannot be asked to stop.
pub(crate) fn never() -> bool {
    false
}

/// A file system that is mounted for as long as this is there.
#[derive(Debug)]
pub struct Mounted {
    /// Its root.
    root: OwnedFd,
    _mount: Option<OwnedFd>,
}

fn run(lvm: &dyn Lvm, argv: &[String], held: Option<&File>, stop: &dyn Fn() -> bool) -> io::Result<()> {
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    lvm.run(&argv, held, stop).map(drop)
}

/// Returns all volumes of the machine.
///
/// # Errors
/// If LVM is not installed, or does not say.
pub(crate) fn all(lvm: &dyn Lvm, stop: &dyn Fn() -> bool) -> io::Result<Vec<Volume>> {
    report::parse(&lvm.run(&report::LIST, None, stop)?)
}

/// Returns the volume that a label names.
///
/// # Errors
/// `NotFound` if it is gone, though its group is there; `NotConnected` if that is not attached; or if LVM does not say.
pub(crate) fn find(lvm: &dyn Lvm, label: &InVolume, stop: &dyn Fn() -> bool) -> io::Result<Volume> {
    if let Some(volume) = plan::pick(&all(lvm, stop)?, label) {
        return Ok(volume.clone());
    }
    let groups = report::groups(&lvm.run(&report::GROUPS, None, stop)?)?;
    if !groups.iter().any(|group| plan::is_in(group, label)) {
        return Err(plan::away(label));
    }
    // The group may have come in between.
    match plan::pick(&all(lvm, stop)?, label) {
        Some(volume) => Ok(volume.clone()),
        None => Err(plan::gone(label)),
    }
}

/// Why a volume is not to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It is gone.
    Gone,
    /// Its group is not attached; the words for it.
    Away(String),
}

/// All that LVM has, asked for once.
pub(crate) struct Seen {
    volumes: Vec<Volume>,
    groups: Vec<(String, String)>,
}

impl Seen {
    /// Asks.
    ///
    /// # Errors
    /// If LVM is not installed, or does not say.
    pub(crate) fn ask(lvm: &dyn Lvm) -> io::Result<Self> {
        // The groups first: one that comes in between counts as away, never as one that lost its volumes.
        let groups = report::groups(&lvm.run(&report::GROUPS, None, &never)?)?;
        Ok(Self { groups, volumes: all(lvm, &never)? })
    }

    /// Returns why the volume of a label is not to be had; `None` if it is there.
    pub(crate) fn misses(&self, label: &InVolume) -> Option<Missing> {
        match plan::pick(&self.volumes, label) {
            Some(_) => None,
            None if self.groups.iter().any(|group| plan::is_in(group, label)) => Some(Missing::Gone),
            None => Some(Missing::Away(plan::away(label).to_string())),
        }
    }

    /// Returns the volumes that are marked as ours, and that none of these labels names.
    pub(crate) fn unnamed(&self, labels: &[InVolume]) -> Vec<&Volume> {
        let named: Vec<&Volume> =
            labels.iter().filter_map(|label| plan::pick(&self.volumes, label)).collect();
        let ours = self.volumes.iter().filter(|volume| plan::is_marked(volume));
        ours.filter(|volume| !named.contains(volume)).collect()
    }
}

/// Takes a snapshot. `held` is the member's directory, locked: the lock holds for as long as the command runs, also if this process
/// dies.
///
/// # Errors
/// What LVM says.
pub(crate) fn create(
    lvm: &dyn Lvm,
    origin: &Origin,
    (name, tag): (&str, &str),
    held: &File,
    stop: &dyn Fn() -> bool,
) -> io::Result<()> {
    run(lvm, &plan::create(origin, name, tag), Some(held), stop)
}

/// Removes the volume of a label, if it is there, when nobody takes or reads it any more.
///
/// # Errors
/// If somebody does, its group is not attached, or what LVM says.
pub(crate) fn remove(lvm: &dyn Lvm, member: OwnedFd, label: &InVolume) -> io::Result<()> {
    let lock = File::from(member);
    let since = Instant::now();
    while lock.try_lock().is_err() {
        if since.elapsed() >= PATIENCE {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        thread::sleep(LOOK_AGAIN);
    }
    let volume = match find(lvm, label, &never) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    remove_found(lvm, &volume, |volumes| plan::pick(volumes, label).cloned())
}

fn remove_found(
    lvm: &dyn Lvm,
    volume: &Volume,
    pick: impl Fn(&[Volume]) -> Option<Volume>,
) -> io::Result<()> {
    run(lvm, &plan::remove(volume), None, &never)?;
    // A selection that selects nothing is no failure for LVM.
    match pick(&all(lvm, &never)?) {
        None => Ok(()),
        Some(left) => Err(io::Error::other(format!("`lvremove` left volume `{}`", left.full_name()))),
    }
}

/// Looks at a volume until nobody has it open, as udev has what just came, and for no longer than that takes; returns it as it is
/// then, if it is there.
fn glanced(lvm: &dyn Lvm, pick: impl Fn(&[Volume]) -> Option<Volume>) -> io::Result<Option<Volume>> {
    let since = Instant::now();
    loop {
        match pick(&all(lvm, &never)?) {
            Some(volume) if volume.is_open && since.elapsed() < lvm.glance() => thread::sleep(LOOK_AGAIN),
            found => return Ok(found),
        }
    }
}

/// Removes a volume that no label names.
///
/// # Errors
/// If somebody has it open, or what LVM says.
pub(crate) fn remove_unnamed(lvm: &dyn Lvm, volume: &Volume) -> io::Result<()> {
    let is_it = |other: &&Volume| (&other.uuid, &other.vg_uuid) == (&volume.uuid, &volume.vg_uuid);
    let pick = |volumes: &[Volume]| volumes.iter().find(is_it).cloned();
    match glanced(lvm, pick)? {
        None => Ok(()),
        Some(found) if found.is_open => {
            Err(io::Error::other("it is open, as one that is mounted is; unmount it and try again"))
        }
        Some(_) => remove_found(lvm, volume, pick),
    }
}

/// Returns the name of a volume that somebody has open, such as by a mount; `None` if nobody has, or it is not to be had.
///
/// # Errors
/// If LVM does not say.
pub(crate) fn opened(lvm: &dyn Lvm, label: &InVolume) -> io::Result<Option<String>> {
    let found = glanced(lvm, |volumes| plan::pick(volumes, label).cloned())?;
    Ok(found.filter(|volume| volume.is_open).map(|volume| volume.full_name()))
}

/// Takes the device of a volume away that somebody who died has read, unless somebody reads it now.
///
/// # Errors
/// What LVM says; then the device is there still.
pub(crate) fn rest(lvm: &dyn Lvm, member: OwnedFd, label: &InVolume) -> io::Result<()> {
    let lock = File::from(member);
    if lock.try_lock().is_err() {
        return Ok(());
    }
    match find(lvm, label, &never) {
        Ok(volume) if volume.is_active => run(lvm, &plan::deactivate(&volume), None, &never),
        Ok(_) => Ok(()),
        // What is not there has no device.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotConnected) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A member that is being read. Its volume has a device, and is mounted, for as long as this is there.
pub(crate) struct Reading {
    lvm: &'static dyn Lvm,
    volume: Volume,
    mounted: Option<Mounted>,
    /// Whoever reads has it shared; whoever has it alone may take the device away.
    lock: Option<File>,
}

impl Reading {
    /// Opens the volume of a member.
    ///
    /// # Errors
    /// As [`find`]; or what the kernel says.
    pub(crate) fn open(
        lvm: &'static dyn Lvm,
        member: OwnedFd,
        label: &InVolume,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<Self> {
        let lock = File::from(member);
        lock.lock_shared()?;
        let volume = find(lvm, label, stop)?;
        let mut reading = Self { lvm, volume, mounted: None, lock: Some(lock) };
        if !reading.volume.is_active {
            lvm.set_apart();
            run(lvm, &plan::activate(&reading.volume), None, stop)?;
            reading.volume = find(lvm, label, stop)?;
        }
        reading.mounted = Some(lvm.mount(&reading.volume.node, &label.fs_type)?);
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

    /// Unmounts it and takes its device away, unless somebody else reads it.
    ///
    /// # Errors
    /// What LVM says; then the device is there still.
    pub(crate) fn end(mut self) -> io::Result<()> {
        self.close()
    }

    fn close(&mut self) -> io::Result<()> {
        drop(self.mounted.take());
        let Some(lock) = self.lock.take() else { return Ok(()) };
        let ended = match lock.try_lock() {
            Ok(()) => run(self.lvm, &plan::deactivate(&self.volume), None, &never),
            Err(_) => Ok(()),
        };
        let _ = lock.unlock();
        ended
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // A device that stays goes when the next set is taken or removed, if somebody has noted it.
        let _ = self.close();
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
    let volumes = all(lvm, &never).unwrap_or_default();
    let fits = |mount: &&&Mount| origin_at(mounts, &volumes, &mount.point).is_ok();
    theirs.iter().filter(fits).map(|mount| mount.point.clone()).collect()
}
