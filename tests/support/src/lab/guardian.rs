//! The guardian: a process that starts the hub and removes the whole lab when its owner is gone, even by SIGKILL.
//!
//! Invariant: whoever holds the write end of the guardian's pipe owns the lab; the lab's lock is held by the guardian
//! until nothing is left.

use std::{
    fs::{self, File},
    io::PipeWriter,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{
    error::{LabError, Result},
    hub::Hub,
    place::Place,
    poll::wait_for,
    processes::is_unpopulated,
    scripts::Scripts,
};

const START_LIMIT: Duration = Duration::from_secs(30);
const END_LIMIT: Duration = Duration::from_secs(60);

/// A started guardian, seen from its owner.
#[derive(Debug)]
pub(super) struct Guardian {
    child: Child,
    pipe: Option<PipeWriter>,
}

impl Guardian {
    /// Takes the lab's lock, ends what an earlier owner may have left, starts the hub and waits for it.
    pub(super) fn start(place: &Place, lock_wait: Duration, is_detached: bool) -> Result<(Self, Hub)> {
        let run = place.run();
        let lock = lock(place, lock_wait)?;
        sweep(place)?;
        for dir in [&run, &place.cgroup] {
            fs::create_dir_all(dir).map_err(LabError::path("create", dir))?;
        }
        let scripts = Scripts::write(&run)?;
        let (stdin, pipe) = if is_detached {
            (Stdio::null(), None)
        } else {
            let (reader, writer) = std::io::pipe().map_err(LabError::io("make a pipe"))?;
            (reader.into(), Some(writer))
        };
        let log =
            File::create(place.guardian_log()).map_err(LabError::path("create", place.guardian_log()))?;
        let child = Command::new("setsid")
            .arg("bash")
            .arg(&scripts.guardian)
            .arg(if is_detached { "detached" } else { "pipe" })
            .arg(&place.cgroup)
            .arg(&run)
            .arg(place.prefix())
            .arg(&place.cache)
            .arg(&scripts.hub)
            .stdin(stdin)
            .stdout(lock)
            .stderr(log)
            .current_dir("/")
            .spawn()
            .map_err(LabError::io("start the lab's guardian"))?;
        let mut guardian = Self { child, pipe };
        let hub = wait_for("start of the lab's hub", START_LIMIT, || {
            if let Some(hub) = Hub::open(&place.hub_pid(), &place.cgroup) {
                return Ok(Some(hub));
            }
            let has_ended =
                guardian.child.try_wait().map_err(LabError::io("look at the lab's guardian"))?.is_some();
            let said = fs::read_to_string(place.guardian_log()).unwrap_or_default();
            if has_ended || said.contains("hub ended") {
                let why = format!("the lab's hub did not start: {}", said.trim());
                return Err(LabError::Unavailable { why });
            }
            Ok(None)
        })?;
        Ok((guardian, hub))
    }

    /// Ends the lab and waits until nothing is left of it.
    pub(super) fn end(&mut self, place: &Place) -> Result<()> {
        kill_cgroup(place)?;
        drop(self.pipe.take());
        let ended = wait_for("removal of the lab", END_LIMIT, || {
            self.child.try_wait().map_err(LabError::io("look at the lab's guardian"))
        });
        ended.map(drop)
    }
}

/// Ends a lab from outside its owner and waits until its guardian has removed it; does nothing if there is none.
pub(super) fn end_from_outside(place: &Place) -> Result<()> {
    kill_cgroup(place)?;
    let lock = lock(place, END_LIMIT)?;
    sweep(place)?;
    drop(lock);
    Ok(())
}

/// Kills every process of the lab, frozen ones too; nothing by name or number.
fn kill_cgroup(place: &Place) -> Result<()> {
    let file = place.cgroup.join("cgroup.kill");
    match fs::write(&file, "1") {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(LabError::path("write", &file)(error))
        }
        _ => Ok(()),
    }
}

fn lock(place: &Place, limit: Duration) -> Result<File> {
    let path = place.lock();
    let dir = path.parent().unwrap_or(&path);
    fs::create_dir_all(dir).map_err(LabError::path("create", dir))?;
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(LabError::path("open", &path))?;
    let locked = wait_for("the lock", limit, || match file.try_lock() {
        Ok(()) => Ok(Some(())),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(LabError::path("lock", &path)(error)),
    });
    match locked {
        Ok(()) => Ok(file),
        Err(LabError::NotReady { .. }) => Err(LabError::InUse { name: place.lab.clone() }),
        Err(error) => Err(error),
    }
}

/// Removes what a lab left whose guardian was killed. The caller holds the lock.
fn sweep(place: &Place) -> Result<()> {
    kill_cgroup(place)?;
    wait_for("end of a former lab's processes", END_LIMIT, || {
        Ok(is_unpopulated(&place.cgroup).then_some(()))
    })?;
    remove_cgroups(&place.cgroup)?;
    let prefix = place.prefix();
    wait_for("detaching of a former lab's loop devices", END_LIMIT, || {
        Ok(super::loops::attached(|file| file.starts_with(&prefix)).is_empty().then_some(()))
    })?;
    super::loops::flush_again(&place.unflushed())?;
    match fs::remove_dir_all(place.run()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(LabError::path("remove", place.run())(error))
        }
        _ => Ok(()),
    }
}

/// Removes a tree of cgroups, leaves first.
pub(super) fn remove_cgroups(dir: &std::path::Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroups(&entry.path())?;
    }
    fs::remove_dir(dir).map_err(LabError::path("remove", dir))
}
