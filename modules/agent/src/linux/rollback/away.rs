//! What is noted of subvolumes that go back without a restart: what is unmounted, so that whoever comes next mounts it, and that
//! something went, so that nothing of it is removed unasked.
//!
//! Where systemd runs the next one comes by itself: a timer of it has the machine finish what was cut off, from before the first
//! `umount` until all is mounted.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use pc_switcher_contract::{BytePath, SessionId, SubvolumeName};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, move_mount,
};
use serde::{Deserialize, Serialize};

use super::journal::Journal;
use super::spaces::{self, Line};
use crate::data::apply::Watch;
use crate::linux::deadman;
use crate::linux::mounts::Mounts;
use crate::proto::AgentError;

/// What is noted beside the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Notes {
    /// The boot in which somebody asked.
    boot_id: String,
    /// What is unmounted.
    pub(super) away: Vec<Away>,
    /// Whether anything went at once, in whatever boot.
    pub(super) went: bool,
    /// What has the machine mount it by itself.
    timer: Option<String>,
    /// Whether there can be no such thing, so that nothing is unmounted.
    pub(super) is_alone: bool,
}

/// A mount that is to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Away {
    name: SubvolumeName,
    source: BytePath,
    pub(super) point: BytePath,
    options: String,
}

impl Notes {
    /// Those of this boot.
    pub(super) fn read(journal: &Journal<'_>) -> Result<Option<Self>, AgentError> {
        let Some(bytes) = journal.at_once()? else { return Ok(None) };
        // What cannot be read says that nobody asked.
        let notes = serde_json::from_slice::<Self>(&bytes).ok();
        let boot_id = deadman::now()?.boot_id;
        Ok(notes.filter(|notes| notes.boot_id == boot_id))
    }

    pub(super) fn write(&self, journal: &Journal<'_>) -> Result<(), AgentError> {
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| AgentError::failed(format!("what is unmounted cannot be noted: {error}")))?;
        journal.note_at_once(Some(&bytes))
    }

    /// Writes them, and sees to it that what is unmounted then is mounted, whoever dies; whether that is so.
    pub(super) fn arm(&mut self, journal: &Journal<'_>, session: &SessionId) -> Result<bool, AgentError> {
        self.arm_by(&Systemd, journal, session)
    }

    fn arm_by(
        &mut self,
        timers: &dyn Timers,
        journal: &Journal<'_>,
        session: &SessionId,
    ) -> Result<bool, AgentError> {
        // One that is noted may be gone: whoever noted it died before it was there, or somebody has stopped it.
        let is_armed = || self.timer.as_ref().is_some_and(|name| timers.is_there(name));
        // Elsewhere the next command does it.
        if !timers.can_be() || is_armed() {
            self.write(journal)?;
            return Ok(true);
        }
        let name = format!("pc-switcher-mounts-{session}");
        // Before it is there: what nobody knows of nobody ends.
        self.timer = Some(name.clone());
        self.write(journal)?;
        self.is_alone = !timers.start(&name);
        Ok(!self.is_alone)
    }

    /// Ends what would mount it: nothing is unmounted any more.
    pub(super) fn disarm(&mut self, journal: &Journal<'_>) -> Result<(), AgentError> {
        self.disarm_by(&Systemd, journal)
    }

    fn disarm_by(&mut self, timers: &dyn Timers, journal: &Journal<'_>) -> Result<(), AgentError> {
        let Some(name) = &self.timer else { return Ok(()) };
        if !timers.stop(name) {
            // It finds nothing to do, and is gone with the next start; until then it stays noted, so that whoever comes next stops it
            // or goes on with it: no other one could be started under its name.
            return Ok(());
        }
        self.timer = None;
        self.write(journal)
    }
}

/// What has the machine mount by itself what is unmounted.
trait Timers {
    /// Whether there can be any.
    fn can_be(&self) -> bool;
    /// Starts one of this name; whether that worked.
    fn start(&self, name: &str) -> bool;
    fn is_there(&self, name: &str) -> bool;
    /// Ends it; whether it is gone.
    fn stop(&self, name: &str) -> bool;
}

/// Those of systemd.
struct Systemd;

/// How `systemctl stop` ends where there is no such unit.
const NOT_LOADED: i32 = 5;

impl Systemd {
    /// Has `systemctl` do something about a timer, and returns how it ended.
    fn tell(word: &str, name: &str) -> Option<i32> {
        let mut command = Command::new("timeout");
        command.args(["20", "systemctl", "--quiet", word]).arg(format!("{name}.timer"));
        let command =
            command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().ok()?.code()
    }
}

impl Timers for Systemd {
    fn can_be(&self) -> bool {
        deadman::has_systemd()
    }

    fn start(&self, name: &str) -> bool {
        // Again and again, since somebody may be at work still the first time, and by the clock, so that nothing hangs on what
        // systemd remembers of a run that is over.
        let timer = ["--on-calendar=*-*-* *:*:00/30", "--timer-property=AccuracySec=1s"];
        let what = "Mount what pc-switcher unmounted when it was cut off";
        deadman::run_unit(name, what, &timer, &["agent", "--redo"])
    }

    fn is_there(&self, name: &str) -> bool {
        Self::tell("is-active", name) == Some(0)
    }

    fn stop(&self, name: &str) -> bool {
        matches!(Self::tell("stop", name), Some(0 | NOT_LOADED))
    }
}

/// Notes that somebody asks, so that what nobody uses may go back in this boot.
pub(super) fn allow(journal: &Journal<'_>) -> Result<(), AgentError> {
    let went = went(journal)?;
    let notes = Notes::read(journal)?.unwrap_or_default();
    Notes { boot_id: deadman::now()?.boot_id, went, is_alone: false, ..notes }.write(journal)
}

/// Whether anything of a rollback went at once: somebody may have worked in it since, and whoever is not there now has left it there.
pub(super) fn went(journal: &Journal<'_>) -> Result<bool, AgentError> {
    let bytes = journal.at_once()?;
    // What cannot be read is kept rather than lost.
    Ok(bytes.is_some_and(|bytes| serde_json::from_slice::<Notes>(&bytes).map_or(true, |notes| notes.went)))
}

/// Returns where nothing is mounted that was unmounted in this boot.
pub(super) fn missing(journal: &Journal<'_>) -> Result<Vec<BytePath>, AgentError> {
    let Some(notes) = Notes::read(journal)?.filter(|notes| !notes.away.is_empty()) else {
        return Ok(Vec::new());
    };
    let mounts = Mounts::read()?;
    let points = notes.away.into_iter().map(|away| away.point);
    Ok(points.filter(|point| !is_mounted(&mounts, point)).collect())
}

fn is_mounted(mounts: &Mounts, point: &BytePath) -> bool {
    mounts.holding(point).is_some_and(|mount| mount.point == *point)
}

/// Mounts what was unmounted when the machine or the agent died.
///
/// # Errors
/// If it cannot be mounted.
pub(super) fn mend(journal: &Journal<'_>, watch: &dyn Watch) -> Result<(), AgentError> {
    let Some(mut notes) = Notes::read(journal)? else {
        let Some(bytes) = journal.at_once()? else { return Ok(()) };
        // Whatever was unmounted then, the start has mounted.
        let left = went(journal)?.then(|| Notes { went: true, ..Notes::default() });
        return match left {
            Some(left) if serde_json::from_slice(&bytes).ok().as_ref() == Some(&left) => Ok(()),
            Some(left) => left.write(journal),
            None => journal.note_at_once(None),
        };
    };
    if !notes.away.is_empty() && spaces::is_apart() {
        // It would be mounted for us alone: the note is for whoever works among the machine's mounts.
        return Ok(());
    }
    while let Some(away) = notes.away.last().cloned() {
        // Whatever is there: it was not unmounted yet, or somebody has mounted it.
        if !is_mounted(&Mounts::read()?, &away.point) {
            let fresh = away.make().map_err(|error| away.not_mounted(&error))?;
            away.put(&fresh)?;
            watch.after("mended")?;
        }
        notes.away.pop();
        notes.went = true;
        notes.write(journal)?;
    }
    notes.disarm(journal)
}

impl Away {
    pub(super) fn of(name: &SubvolumeName, line: &Line) -> Self {
        let (source, point, options) = (line.source.clone(), line.point.clone(), line.options.clone());
        Self { name: name.clone(), source, point, options }
    }

    /// Makes a mount of what is in place under the name, with the same options; it is nowhere yet.
    pub(super) fn make(&self) -> io::Result<OwnedFd> {
        let context = fsopen("btrfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", self.source.as_path())?;
        fsconfig_set_string(&context, "subvol", format!("/{}", self.name))?;
        fsconfig_create(&context)?;
        let words = || self.options.split(',');
        let mut attributes =
            words().filter_map(spaces::attribute).fold(MountAttrFlags::empty(), |all, one| all | one);
        if !words().any(|word| matches!(word, "relatime" | "noatime")) {
            attributes |= MountAttrFlags::MOUNT_ATTR_STRICTATIME;
        }
        Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
    }

    pub(super) fn put(&self, fresh: &OwnedFd) -> Result<(), AgentError> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(fresh, "", CWD, self.point.as_path(), flags)
            .map_err(|error| self.not_mounted(&io::Error::from(error)))
    }

    fn not_mounted(&self, error: &io::Error) -> AgentError {
        let text = format!(
            "`{}` is not mounted at `{}` any more; `sudo mount {}` mounts it",
            self.name, self.point, self.point
        );
        AgentError::io(text, error)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::linux::state::StateDir;

    /// One timer, which may refuse to be stopped.
    #[derive(Default)]
    struct Model {
        running: Cell<bool>,
        refuses: Cell<bool>,
        started: RefCell<Vec<String>>,
    }

    impl Timers for Model {
        fn can_be(&self) -> bool {
            true
        }

        fn start(&self, name: &str) -> bool {
            self.started.borrow_mut().push(name.to_owned());
            // Two of one name cannot be.
            !self.running.replace(true)
        }

        fn is_there(&self, _: &str) -> bool {
            self.running.get()
        }

        fn stop(&self, _: &str) -> bool {
            if !self.refuses.get() {
                self.running.set(false);
            }
            !self.refuses.get()
        }
    }

    #[test]
    fn a_timer_that_could_not_be_stopped_stays_known_and_one_that_is_gone_is_started_again() {
        let dir = tempfile::tempdir().unwrap();
        let (state, session) = (StateDir::new(dir.path().join("state")), "feedbeef".parse().unwrap());
        let journal = Journal::of(&state);
        journal.begin(&dir.path().into()).unwrap();
        let (model, boot_id) = (Model::default(), deadman::now().unwrap().boot_id);
        let mut notes = Notes { boot_id, ..Notes::default() };
        let arm = |notes: &mut Notes| notes.arm_by(&model, &journal, &session).unwrap();
        assert!(arm(&mut notes) && arm(&mut notes), "one is enough for all");
        assert_eq!(*model.started.borrow(), ["pc-switcher-mounts-feedbeef"]);

        model.refuses.set(true);
        notes.disarm_by(&model, &journal).unwrap();
        let mut read = Notes::read(&journal).unwrap().unwrap();
        assert!(read.timer.is_some(), "whoever comes next ends it");
        assert!(arm(&mut read) && model.started.borrow().len() == 1, "it is there");

        // Somebody else has stopped it.
        model.running.set(false);
        assert!(arm(&mut read) && model.running.get(), "it is started again");
        model.refuses.set(false);
        read.disarm_by(&model, &journal).unwrap();
        assert_eq!((Notes::read(&journal).unwrap().unwrap().timer, model.running.get()), (None, false));
    }
}
