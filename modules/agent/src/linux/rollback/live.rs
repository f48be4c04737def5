//! Subvolumes that nobody uses go back without a restart: they are unmounted, and what is in place is mounted there.
//!
//! **Invariants: nothing is unmounted that anybody uses, which the kernel says and no list of ours; and what is unmounted is noted
//! before, so that whoever comes next mounts it.** The new mount is made before the old one goes, so there is nothing left that could
//! fail in between. It is only done where somebody asks, in the boot in which it was decided: what a start finds it finds by names.
//! What starts the machine, and what is on trial, goes back with a restart as a whole (docs/adr/0010).

use std::io;

use pc_switcher_contract::{BytePath, Vital};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx};
use rustix::mount::{UnmountFlags, unmount};

use super::away::{Away, Notes};
use super::checks::device_of;
use super::journal::Journal;
use super::nested::{self, Ground};
use super::spaces::{self, Line, Space, Stays, Tree};
use super::steps::Names;
use super::{in_use, inside, users};
use crate::data::apply::Watch;
use crate::linux::btrfs::{Btrfs, KernelBtrfs};
use crate::linux::install::BIN;
use crate::linux::state::STATE_PATH;
use crate::proto::{
    AgentError, RollbackMember, RollbackPhase, RollbackState, RollbackWish, TreeUsers, Waits, Way,
};

/// Has the members of a rollback that nobody uses work on what is in place, if somebody asked for it in this boot. What is in use
/// stays as it is: [`ways`] says who uses it.
///
/// # Errors
/// If something was unmounted and could not be mounted again.
pub(super) fn switch(journal: &Journal<'_>, watch: &dyn Watch) -> Result<(), AgentError> {
    let Some(state) = journal.read()? else { return Ok(()) };
    let Some(mut notes) = Notes::read(journal)? else { return Ok(()) };
    // It is tried again.
    notes.is_alone = false;
    if whole(&around(&state)).is_some() {
        return Ok(());
    }
    let tables = Tables::read(&journal.snapshot_dir()?);
    let mut went = false;
    for member in &state.members {
        let Some((name, wanted)) = other_tree(&state, member).filter(|_| !notes.is_alone) else { continue };
        // Each time anew: what was mounted by the last one is in it.
        let Ok(spaces) = spaces::all() else { break };
        if let Ok(Some(line)) = tables.judge(&spaces, &name, &member.fs_uuid) {
            went |= go(
                journal,
                &state,
                &mut notes,
                &Going { member, name: &name, line, wanted, tables: &tables },
                watch,
            )?;
        }
    }
    notes.disarm(journal)?;
    if went {
        // It is done, whatever stays behind: a look says why.
        let _ = nested::bring(&state, journal, Ground::Running, watch);
    }
    Ok(())
}

/// A member that is about to go.
struct Going<'a> {
    member: &'a RollbackMember,
    /// The name of the tree that is there.
    name: &'a str,
    /// Its mount, as it was judged.
    line: &'a Line,
    /// The uuid of the tree that is to be there.
    wanted: &'a str,
    tables: &'a Tables,
}

impl Going<'_> {
    /// Whether it is judged the same once more, and its mount is the one that is seen at its place: time went by since.
    fn is_as_judged(&self) -> bool {
        let Ok(spaces) = spaces::all() else { return false };
        let now = self.tables.judge(&spaces, self.name, &self.member.fs_uuid);
        let is_it = |line: &Line| line.id == self.line.id && mount_at(&line.point) == Some(line.id);
        now.is_ok_and(|line| line.is_some_and(is_it))
    }
}

/// Changes one mount; returns whether nobody used it.
fn go(
    journal: &Journal<'_>,
    state: &RollbackState,
    notes: &mut Notes,
    going: &Going<'_>,
    watch: &dyn Watch,
) -> Result<bool, AgentError> {
    let away = Away::of(&going.member.name, going.line);
    let Ok(fresh) = away.make() else { return Ok(false) };
    let root = openat(&fresh, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let found = root.map_err(io::Error::from).and_then(|root| KernelBtrfs.subvolume(&nested::path_of(&root)));
    if !found.is_ok_and(|found| found.uuid.hex() == going.wanted) {
        return Ok(false);
    }
    notes.away.push(away.clone());
    let is_armed = notes.arm(journal, &state.session)?;
    watch.after("noted")?;
    // What is unmounted is what was judged: something may have been mounted over it since. Never by force, and never only for those
    // who come later.
    let is_free =
        is_armed && going.is_as_judged() && unmount(away.point.as_path(), UnmountFlags::NOFOLLOW).is_ok();
    if is_free {
        watch.after("unmounted")?;
        away.put(&fresh)?;
        watch.after("mounted")?;
    }
    notes.away.pop();
    notes.went |= is_free;
    notes.write(journal)?;
    Ok(is_free)
}

/// Returns the id of the mount that is seen at a place, whatever lies below it.
fn mount_at(point: &BytePath) -> Option<u64> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let found = statx(CWD, point.as_path(), flags, StatxFlags::MNT_ID).ok()?;
    (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
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
        let tree = Tree { device: &device, name };
        let line = spaces::movable(spaces, &tree)?;
        // Whoever came there by the mount of something that holds it is seen by no `umount`.
        if let Some(above) = spaces::above(spaces, &tree) {
            let others = users::through(spaces, fs_uuid, name).map_err(|error| {
                let place = &above.point;
                Stays::For(format!(
                    "it is seen below `{place}` as well, and who works there cannot be told: {error}"
                ))
            })?;
            if !others.is_empty() {
                return Err(Stays::In(others));
            }
        }
        let Some(line) = line else { return Ok(None) };
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
    let otherwise = match Notes::read(journal) {
        Ok(Some(notes)) if notes.is_alone => {
            "systemd takes no timer that would mount it if pc-switcher were cut off in between"
        }
        Ok(Some(_)) => "nobody is seen who uses it now",
        _ => "nobody asked for it since the machine was started",
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
