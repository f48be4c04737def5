//! Subvolumes that nobody uses go back without a restart: they are unmounted, and what is in place is mounted there.
//!
//! **Invariants: nothing is unmounted that anybody uses, which the kernel says and no list of ours; and what is unmounted is noted
//! before, so that whoever comes next mounts it.** The new mount is made before the old one goes, so there is nothing left that could
//! fail in between. It is only done where somebody asks, in the boot in which it was decided: what a start finds it finds by names.
//! What starts the machine, and what is on trial, goes back with a restart as a whole (docs/adr/0010).

use std::io;
use std::os::fd::OwnedFd;

use pc_switcher_contract::{BytePath, SubvolumeName, Vital};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use serde::{Deserialize, Serialize};

use super::checks::device_of;
use super::journal::Journal;
use super::nested::{self, Ground};
use super::spaces::{self, Line, Space, Stays, Tree};
use super::steps::Names;
use super::{in_use, inside, users};
use crate::data::apply::Watch;
use crate::linux::btrfs::{Btrfs, KernelBtrfs};
use crate::linux::deadman;
use crate::linux::install::BIN;
use crate::linux::mounts::Mounts;
use crate::linux::state::STATE_PATH;
use crate::proto::{
    AgentError, RollbackMember, RollbackPhase, RollbackState, RollbackWish, TreeUsers, Waits, Way,
};

/// What is noted beside the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Notes {
    /// The boot in which somebody asked.
    boot_id: String,
    /// What is unmounted.
    away: Vec<Away>,
}

/// A mount that is to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Away {
    name: SubvolumeName,
    source: BytePath,
    point: BytePath,
    options: String,
}

impl Notes {
    /// Those of this boot.
    fn read(journal: &Journal<'_>) -> Result<Option<Self>, AgentError> {
        let Some(bytes) = journal.at_once()? else { return Ok(None) };
        // What cannot be read says that nobody asked.
        let notes = serde_json::from_slice::<Self>(&bytes).ok();
        let boot_id = deadman::now()?.boot_id;
        Ok(notes.filter(|notes| notes.boot_id == boot_id))
    }

    fn write(&self, journal: &Journal<'_>) -> Result<(), AgentError> {
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| AgentError::failed(format!("what is unmounted cannot be noted: {error}")))?;
        journal.note_at_once(Some(&bytes))
    }
}

/// Notes that somebody asks, so that what nobody uses may go back in this boot.
pub(super) fn allow(journal: &Journal<'_>) -> Result<(), AgentError> {
    let away = Notes::read(journal)?.map(|notes| notes.away).unwrap_or_default();
    Notes { boot_id: deadman::now()?.boot_id, away }.write(journal)
}

/// Mounts what was unmounted when the machine or the agent died.
///
/// # Errors
/// If it cannot be mounted.
pub(super) fn mend(journal: &Journal<'_>, watch: &dyn Watch) -> Result<(), AgentError> {
    let Some(mut notes) = Notes::read(journal)? else {
        // Whatever was unmounted then, the start has mounted.
        return journal.at_once()?.map_or(Ok(()), |_| journal.note_at_once(None));
    };
    while let Some(away) = notes.away.last().cloned() {
        // Whatever is there: it was not unmounted yet, or somebody has mounted it.
        let is_there = Mounts::read()?.holding(&away.point).is_some_and(|mount| mount.point == away.point);
        if !is_there {
            let fresh = away.make().map_err(|error| away.not_mounted(&error))?;
            away.put(&fresh)?;
            watch.after("mended")?;
        }
        notes.away.pop();
        notes.write(journal)?;
    }
    Ok(())
}

impl Away {
    fn of(name: &SubvolumeName, line: &Line) -> Self {
        let (source, point, options) = (line.source.clone(), line.point.clone(), line.options.clone());
        Self { name: name.clone(), source, point, options }
    }

    /// Makes a mount of what is in place under the name, with the same options; it is nowhere yet.
    fn make(&self) -> io::Result<OwnedFd> {
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

    fn put(&self, fresh: &OwnedFd) -> Result<(), AgentError> {
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

/// Has the members of a rollback that nobody uses work on what is in place, if somebody asked for it in this boot. What is in use
/// stays as it is: [`ways`] says who uses it.
///
/// # Errors
/// If something was unmounted and could not be mounted again.
pub(super) fn switch(journal: &Journal<'_>, watch: &dyn Watch) -> Result<(), AgentError> {
    let Some(state) = journal.read()? else { return Ok(()) };
    let Some(mut notes) = Notes::read(journal)? else { return Ok(()) };
    if whole(&around(&state)).is_some() {
        return Ok(());
    }
    let tables = Tables::read(&journal.snapshot_dir()?);
    let mut went = false;
    for member in &state.members {
        let Some((name, wanted)) = other_tree(&state, member) else { continue };
        // Each time anew: what was mounted by the last one is in it.
        let Ok(spaces) = spaces::all() else { break };
        if let Ok(Some(line)) = tables.judge(&spaces, &name, &member.fs_uuid) {
            went |= go(journal, &mut notes, &Away::of(&member.name, line), wanted, watch)?;
        }
    }
    if went {
        // It is done, whatever stays behind: a look says why.
        let _ = nested::bring(&state, journal, Ground::Running, watch);
    }
    Ok(())
}

/// Changes one mount; returns whether nobody used it.
fn go(
    journal: &Journal<'_>,
    notes: &mut Notes,
    away: &Away,
    wanted: &str,
    watch: &dyn Watch,
) -> Result<bool, AgentError> {
    let Ok(fresh) = away.make() else { return Ok(false) };
    let root = openat(&fresh, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let found = root.map_err(io::Error::from).and_then(|root| KernelBtrfs.subvolume(&nested::path_of(&root)));
    if !found.is_ok_and(|found| found.uuid.hex() == wanted) {
        return Ok(false);
    }
    notes.away.push(away.clone());
    notes.write(journal)?;
    watch.after("noted")?;
    // Never by force, and never only for those who come later.
    let is_free = unmount(away.point.as_path(), UnmountFlags::NOFOLLOW).is_ok();
    if is_free {
        watch.after("unmounted")?;
        away.put(&fresh)?;
        watch.after("mounted")?;
    }
    notes.away.pop();
    notes.write(journal)?;
    Ok(is_free)
}

/// Returns the name of the tree that is not in place, and the uuid of the one that is.
fn other_tree<'a>(state: &RollbackState, member: &'a RollbackMember) -> Option<(String, &'a str)> {
    let names = Names::of(state, member);
    match state.phase {
        RollbackPhase::Done => Some((names.replaced, &member.new_uuid)),
        RollbackPhase::Cancelled => Some((names.cancelled, &member.old_uuid)),
        _ => None,
    }
}

/// What a rollback is about, for what keeps all of it.
struct Around<'a> {
    members: &'a [RollbackMember],
    is_on_trial: bool,
}

fn around(state: &RollbackState) -> Around<'_> {
    Around { members: &state.members, is_on_trial: state.trial.is_some() || state.fallback.is_some() }
}

/// Says why nothing of it goes back at once, if so.
fn whole(around: &Around<'_>) -> Option<String> {
    if around.is_on_trial {
        return Some("it is on trial, which begins with the restart".into());
    }
    let vital = Vital::of([]);
    let is_vital =
        |member: &&RollbackMember| member.point.is_empty() || vital.area(&member.point, true).is_some();
    if let Some(member) = around.members.iter().find(is_vital) {
        return Some(format!("all goes back together with `{}`, which the machine starts with", member.name));
    }
    spaces::is_apart().then(|| "pc-switcher was started among other mounts than the machine's".into())
}

/// What else a mount is judged by.
struct Tables {
    snapshot_dir: BytePath,
    lines: String,
}

impl Tables {
    fn read(snapshot_dir: &BytePath) -> Self {
        let mut lines =
            String::from_utf8_lossy(&std::fs::read("/etc/fstab").unwrap_or_default()).into_owned();
        lines.push('\n');
        for dir in ["/etc/systemd/system", "/run/systemd/generator"] {
            lines.push_str(&inside::mount_units(std::path::Path::new(dir)));
        }
        Self { snapshot_dir: snapshot_dir.clone(), lines }
    }

    /// Returns the mount of a tree, if it may be changed as far as can be told without trying.
    fn judge<'a>(&self, spaces: &'a [Space], name: &str, fs_uuid: &str) -> Result<Option<&'a Line>, Stays> {
        let Some(device) = device_of(fs_uuid) else { return Ok(None) };
        let Some(line) = spaces::movable(spaces, &Tree { device: &device, name })? else { return Ok(None) };
        let mut ours = [STATE_PATH, BIN].map(BytePath::from).into_iter().chain([self.snapshot_dir.clone()]);
        if let Some(needed) = ours.find(|path| path.is_within(&line.point)) {
            return Err(Stays::For(format!("pc-switcher works with `{needed}` in it")));
        }
        if let Some(word) = odd_word(&self.lines, &line.point) {
            return Err(Stays::For(format!("`{}` is mounted with `{word}`", line.point)));
        }
        if let Some(device) = users::looped(&line.point) {
            return Err(Stays::For(format!("the loop device `{device}` is made of a file in it")));
        }
        match spaces::kept_unseen(spaces) {
            Some(place) => Err(Stays::For(format!(
                "`{place}` keeps mounts that cannot be seen (`snap` has such), and it may be among them"
            ))),
            None => Ok(Some(line)),
        }
    }
}

/// Returns the option by which a line mounts a point in a way that we do not repeat.
fn odd_word<'a>(table: &'a str, point: &BytePath) -> Option<&'a str> {
    let lines = table.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.into_iter().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let place = words.next().filter(|place| BytePath::from(*place) == *point);
        let options = place.and_then(|_| words.nth(1)).unwrap_or_default();
        options.split(',').find(|word| {
            let is_odd = |start: &&str| word.starts_with(start);
            ["subvolid=", "x-systemd.automount", "bind", "rbind", "ro"]
                .iter()
                .any(|odd| if odd.ends_with('=') { is_odd(odd) } else { word == odd })
        })
    })
}

/// Returns how the members of a rollback to come would go back; nothing is done.
pub(super) fn forecast(wish: &RollbackWish, members: &[RollbackMember]) -> Vec<Way> {
    let around = Around { members, is_on_trial: wish.trial.is_some() || wish.fallback.is_some() };
    let names = members.iter().map(|member| (member, member.name.to_string()));
    judged(&around, &wish.snapshot_dir, names, None)
}

/// Returns why members of a rollback work on the other tree still.
pub(super) fn ways(state: &RollbackState, journal: &Journal<'_>) -> Vec<Way> {
    let Ok(snapshot_dir) = journal.snapshot_dir() else { return Vec::new() };
    let busy = in_use(state);
    let names = state.members.iter().filter(|member| busy.contains(&member.name));
    let names = names.filter_map(|member| Some((member, other_tree(state, member)?.0)));
    let is_asked = Notes::read(journal).is_ok_and(|notes| notes.is_some());
    let otherwise = match is_asked {
        true => "nobody is seen who uses it now",
        false => "nobody asked for it since the machine was started",
    };
    judged(&around(state), &snapshot_dir, names, Some(otherwise))
}

/// Judges trees by their names at the top level; `otherwise` says why one still waits that nobody uses.
fn judged<'a>(
    around: &Around<'_>,
    snapshot_dir: &BytePath,
    trees: impl Iterator<Item = (&'a RollbackMember, String)>,
    otherwise: Option<&str>,
) -> Vec<Way> {
    let because = |why: &str| Some(Waits::For(why.to_owned()));
    let whole = whole(around);
    let tables = Tables::read(snapshot_dir);
    let Ok(spaces) = spaces::all() else { return Vec::new() };
    let waits = |member: &RollbackMember, name: &str| {
        if let Some(why) = &whole {
            return because(why);
        }
        let users = || {
            let device = device_of(&member.fs_uuid).unwrap_or_default();
            users::named(&users::of(&spaces, &Tree { device: &device, name }))
        };
        match tables.judge(&spaces, name, &member.fs_uuid) {
            Err(Stays::For(why)) => because(&why),
            Err(Stays::In(pids)) => Some(Waits::Users(users::named(&pids))),
            Ok(None) => because("it is mounted nowhere that can be seen"),
            Ok(Some(_)) => match users() {
                TreeUsers { named, .. } if named.is_empty() => otherwise.and_then(because),
                users => Some(Waits::Users(users)),
            },
        }
    };
    trees.map(|(member, name)| Way { name: member.name.clone(), waits: waits(member, &name) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_that_its_line_makes_in_another_way_is_not_repeated() {
        let home = BytePath::from("/home");
        for (line, wanted) in [
            ("UUID=x /home btrfs defaults,subvol=@home 0 0", None),
            ("UUID=x /home btrfs subvol=@home,subvolid=257 0 0", Some("subvolid=257")),
            ("UUID=x /home btrfs subvol=@home,noauto,x-systemd.automount 0 0", Some("x-systemd.automount")),
            ("/data/home /home none bind 0 0", Some("bind")),
            ("#UUID=x /home btrfs subvolid=257 0 0", None),
            ("UUID=x /srv btrfs subvolid=257 0 0", None),
        ] {
            assert_eq!(odd_word(&format!("{line}\n"), &home), wanted, "{line}");
        }
    }
}
