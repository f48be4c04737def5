//! Hard pins: of each member of a set one more snapshot, in a directory that nobody can change.
//!
//! `.pc-switcher/pins/SET` is immutable: no tool removes what is in it by name or by id, root's either (facts/btrfs.md B16 to B18).
//! The record of the set names what is in it, and that alone says whether there is a pin. Before anything is made
//! `SET.intent` beside it says what, until the pin has gone: by that whoever takes or removes the next set removes what a dead
//! process left, and nothing else.
//!
//! A full disk takes no record any more, but files can still be removed: so a pin holds only while `pinned` lies beside the record.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pc_switcher_contract::{BytePath, SetId, SnapshotMember, SnapshotSet};

use super::check_member;
use super::reference::Sole;
use super::sidecar::{Intent, Meta, Planned};
use super::store::{OWN, Store, make_lasting_dir};
use super::untouched;
use crate::linux::state::sync_dir;
use crate::linux::trees::is_of_copies;
use crate::proto::{AgentError, GoodBy, HardPin};

/// What the name of an intent ends in.
const INTENT: &str = ".intent";

impl Store<'_> {
    fn pins(&self) -> PathBuf {
        self.dir().join(OWN).join("pins")
    }

    pub(super) fn pin_dir(&self, id: &SetId) -> PathBuf {
        self.pins().join(id.to_string())
    }

    fn pin_intent(&self, id: &SetId) -> PathBuf {
        self.pins().join(format!("{id}{INTENT}"))
    }

    /// Pins a set so that no tool removes it; durable when it returns. One that is pinned so stays as it is.
    ///
    /// # Errors
    /// If there is none, it is another tool's, holds copies or is not what was taken, or the machine cannot do it. Nothing has
    /// changed then.
    pub(super) fn pin_hard(&self, id: &SetId) -> Result<(), AgentError> {
        self.of_ours(id)?;
        let _creation = self.lock()?;
        let mut meta = self.published(id)?;
        if meta.pin.is_empty() {
            self.check_pinnable(&meta.set)?;
            let sidecar = self.sidecar(id);
            let made = self.make_pin(&meta.set).and_then(|pin| {
                meta.pin = pin;
                (meta.pinned, meta.marked) = (true, true);
                sidecar.mark_pinned().map_err(|error| failed(id, &error))?;
                (self.after)("marked");
                sidecar.put_meta(&meta).map_err(|error| failed(id, &error))
            });
            if made.is_ok() {
                (self.after)("pinned");
            }
            // What stays of it is settled with the next set.
            let _ = self.settle_pin(id);
            return made;
        }
        let is_whole = meta.pin.iter().all(|copy| check_member(self.btrfs, copy).is_ok());
        if is_whole && meta.good_pin {
            // The one that came with its mark: from now on somebody wants it.
            (meta.pinned, meta.marked, meta.good_pin) = (true, true, false);
            self.sidecar(id).put_meta(&meta).map_err(|error| failed(id, &error))?;
        }
        match self.btrfs.is_immutable(&self.pin_dir(id)) {
            Ok(true) if is_whole => Ok(()),
            // Somebody opened it.
            Ok(false) if is_whole => {
                self.close_pin(&self.pin_dir(id)).map_err(|error| self.not_immutable(id, &error))
            }
            _ => Err(AgentError::failed(format!(
                "the pin of set `{id}` is not what was made; `pc-switcher snapshots unpin {id}` removes what is left of it, and \
                 it can be pinned again"
            ))),
        }
    }

    pub(super) fn check_pinnable(&self, set: &SnapshotSet) -> Result<(), AgentError> {
        let id = set.id();
        if is_of_copies(set) {
            return Err(AgentError::failed(format!(
                "set `{id}` holds copies of directories, and only snapshots can be pinned hard; without `--hard` it is pinned for \
                 pc-switcher, and its files are immutable where the file system knows that"
            )));
        }
        if of_this_disk(set).next().is_none() {
            return Err(AgentError::failed(format!(
                "all of set `{id}` lies on other file systems than `{}`, and what is pinned hard lies there; without `--hard` it is \
                 pinned for pc-switcher",
                self.dir().display()
            )));
        }
        // What lies on another disk no pin holds, so that may be away.
        of_this_disk(set).try_for_each(|member| check_member(self.btrfs, member)).map_err(|why| {
            AgentError::failed(format!("set `{id}` is not what was taken, so it is not pinned hard: {why}"))
        })?;
        let dir = self.pin_dir(&id);
        let is_free = match fs::read_dir(&dir) {
            Err(error) => error.kind() == io::ErrorKind::NotFound,
            Ok(mut entries) => entries.next().is_none(),
        };
        match is_free {
            true => Ok(()),
            false => Err(AgentError::failed(format!(
                "`{}` exists, and no record names it; `pc-switcher snapshots unpin {id}` removes what is of this set in it",
                dir.display()
            ))),
        }
    }

    /// Makes the snapshots and closes their directory; durable when it returns.
    pub(super) fn make_pin(&self, set: &SnapshotSet) -> Result<Vec<SnapshotMember>, AgentError> {
        let id = set.id();
        let dir = self.pin_dir(&id);
        self.intend(set).map_err(|error| failed(&id, &error))?;
        (self.after)("pin-intent");
        make_lasting_dir(&dir).map_err(|error| failed(&id, &error))?;
        (self.after)("pin-directory");
        let mut copies = Vec::new();
        for member in of_this_disk(set) {
            let copy = self.copy_member(&dir, member).map_err(|error| failed(&id, &error))?;
            copies.push(copy);
            (self.after)("pin-member");
        }
        self.close_pin(&dir).map_err(|error| self.not_immutable(&id, &error))?;
        (self.after)("pin-closed");
        Ok(copies)
    }

    /// Makes the snapshot of a member, which is one of the same name, read-only.
    fn copy_member(&self, dir: &Path, member: &SnapshotMember) -> io::Result<SnapshotMember> {
        let name = member.name.to_string();
        let path = dir.join(&name);
        self.btrfs.snapshot(member.path.as_path(), dir, name.as_ref())?;
        self.btrfs.set_readonly(&path, true)?;
        let info = self.btrfs.subvolume(&path)?;
        if info.source_uuid.hex() != member.uuid {
            return Err(io::Error::other(format!("`{}` was replaced meanwhile", member.path)));
        }
        untouched(&info).map_err(|why| io::Error::other(format!("`{}` {why}", path.display())))?;
        Ok(SnapshotMember {
            name: member.name.clone(),
            path: path.as_path().into(),
            uuid: info.uuid.hex(),
            source_uuid: info.source_uuid.hex(),
            id: info.id,
            otransid: info.otransid,
            ctransid: info.ctransid,
            first_taken: None,
            apart: None,
        })
    }

    fn close_pin(&self, dir: &Path) -> io::Result<()> {
        self.btrfs.set_immutable(dir, true)?;
        self.btrfs.sync(self.dir())
    }

    /// Frees a set of any pin; durable when it returns. Without `allow_loss` not if its pin is all that is left of a member.
    ///
    /// # Errors
    /// If there is none, it is another tool's, or its record cannot be written.
    pub(super) fn unpin(&self, id: &SetId, allow_loss: bool) -> Result<(), AgentError> {
        self.of_ours(id)?;
        let _creation = self.lock()?;
        let mut meta = self.published(id)?;
        if meta.words.good && !meta.pin.is_empty() && !allow_loss && self.is_to_hold(id)? {
            if !meta.pinned {
                return Err(AgentError::failed(format!(
                    "set `{id}` is pinned hard since it is marked as good, {}; `pc-switcher snapshots good --none {id}` takes the \
                     mark away, and the pin with it",
                    meta.words.good_by
                )));
            }
            let mut kept = meta.clone();
            (kept.pinned, kept.good_pin) = (false, true);
            match self.sidecar(id).put_meta(&kept) {
                // It goes then, whatever it was for.
                Err(error) if is_full(&error) => {}
                written => return written.map_err(|error| failed(id, &error)),
            }
        }
        let gone = of_this_disk(&meta.set).find(|member| check_member(self.btrfs, member).is_err());
        let gone = gone.filter(|_| !meta.pin.is_empty());
        let is_all = gone.is_some();
        let gives_up = is_all && allow_loss;
        if let Some(gone) = gone.filter(|_| !allow_loss) {
            return Err(AgentError::failed(format!(
                "set `{id}` is there by its pin alone: `{}` is not what was taken any more; bring back what you need with \
                 `pc-switcher snapshots restore`, and then unpin it with `--allow-loss`",
                gone.path
            )));
        }
        // Whoever reads what only the pin has would lose it.
        let _sole = match is_all {
            true => {
                let sole = Sole::take(&self.sidecar(id)).map_err(|error| failed(id, &error))?;
                let in_use =
                    || AgentError::failed(format!("set `{id}` is in use; try again when that has ended"));
                Some(sole.ok_or_else(in_use)?)
            }
            false => None,
        };
        let has_pin = !meta.pin.is_empty() || fs::symlink_metadata(self.pin_dir(id)).is_ok();
        // It is there since the pin was made, as a rule: on a full disk none could be written.
        if has_pin && Intent::read(&self.pin_intent(id), id).is_none() {
            self.intend(&meta.set).map_err(|error| failed(id, &error))?;
            (self.after)("unpin-intent");
        }
        if gives_up {
            // There is nothing left to go back to.
            (meta.words.good, meta.words.good_by) = (false, GoodBy::default());
        }
        let written = self.free(id, &mut meta).map_err(|error| failed(id, &error));
        if written.is_ok() {
            (self.after)("unpinned");
        }
        let settled = if has_pin { self.settle_pin(id) } else { Ok(()) };
        written?;
        settled.map_err(|error| {
            AgentError::io(
                format!(
                    "set `{id}` is pinned no more, but what was its pin is not all removed; the next who takes or removes a set \
                     tries again"
                ),
                &error,
            )
        })
    }

    /// Says durably that a set is not pinned: by its record, or where that cannot be written any more by a file that goes.
    fn free(&self, id: &SetId, meta: &mut Meta) -> io::Result<()> {
        let (sidecar, was_marked) = (self.sidecar(id), meta.marked);
        (meta.pinned, meta.marked) = (false, false);
        meta.pin = Vec::new();
        meta.good_pin = false;
        match sidecar.put_meta(meta) {
            Ok(()) => {
                // It says nothing any more.
                let _ = sidecar.unmark_pinned();
                Ok(())
            }
            Err(error) if was_marked && is_full(&error) => sidecar.unmark_pinned(),
            Err(error) => Err(error),
        }
    }

    /// Says durably what is to be in a pin, or to go from it.
    fn intend(&self, set: &SnapshotSet) -> io::Result<()> {
        make_lasting_dir(&self.pins())?;
        let planned = of_this_disk(set).map(|member| Planned {
            name: member.name.clone(),
            source_uuid: member.uuid.clone(),
            home: None,
        });
        Intent::new(planned.collect()).write(&self.pin_intent(&set.id()))
    }

    /// Brings what an intent speaks of to what the record of the set says: a pin that is there stays, any other goes. A record that
    /// cannot be read says nothing. May be done again after a crash.
    pub(super) fn settle_pin(&self, id: &SetId) -> io::Result<()> {
        let intent = self.pin_intent(id);
        let Some(planned) = Intent::read(&intent, id) else { return Ok(()) };
        let Ok(mut meta) = self.sidecar(id).meta(id) else {
            return match fs::symlink_metadata(self.pin_dir(id)) {
                // The pin went, and its set after it; a crash brought this back.
                Err(error) if error.kind() == io::ErrorKind::NotFound => fs::remove_file(intent),
                _ => Ok(()),
            };
        };
        let (_sole, may_go) = match meta.good_pin && !meta.words.good {
            // Its mark went while somebody read in it.
            true => self.may_lose(&meta)?,
            false => (None, false),
        };
        if may_go {
            self.let_go(&mut meta)?;
        }
        if !meta.pin.is_empty() {
            // It says what goes when somebody frees the set, who may find no room to write that.
            return Ok(());
        }
        self.remove_pin(id, &planned)?;
        fs::remove_file(intent)
    }

    /// Removes what an intent names, and the directory if nothing else is in it.
    fn remove_pin(&self, id: &SetId, intent: &Intent) -> io::Result<()> {
        let dir = self.pin_dir(id);
        match self.btrfs.set_immutable(&dir, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            done => done?,
        }
        (self.after)("pin-opened");
        for planned in &intent.members {
            match self.btrfs.subvolume(&dir.join(planned.name.to_string())) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(info) if info.source_uuid.hex() == planned.source_uuid => {
                    self.btrfs.destroy_id(&dir, info.id)?;
                }
                // Somebody has put another one in its place.
                Ok(_) => {}
            }
            (self.after)("unpin-member");
        }
        // Until it is on the disk a crash brings them back, and what names them must still be there (facts/btrfs.md B1).
        self.btrfs.sync(self.dir())?;
        (self.after)("unpin-sync");
        match fs::remove_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            done => done.and_then(|()| sync_dir(&self.pins())),
        }
    }

    /// Brings all pins that dead processes left half made or half removed to what the records of their sets say.
    pub(super) fn sweep_pins(&self) {
        for entry in fs::read_dir(self.pins()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let _ = match name.strip_suffix(INTENT).and_then(|name| name.parse::<SetId>().ok()) {
                // What cannot be removed, for example because it is being sent, stays for the next time.
                Some(id) => self.settle_pin(&id),
                // An intent that was being written: the caller holds the creation lock.
                None if name.starts_with('.') && name.ends_with('~') => fs::remove_file(entry.path()),
                None => Ok(()),
            };
        }
    }

    /// Whether something of a pin is left that is still to be removed.
    pub(super) fn has_rest_of_pin(&self, id: &SetId) -> bool {
        fs::symlink_metadata(self.pin_intent(id)).is_ok()
    }

    /// Returns what there is of the pin of a set; `None` if it has none.
    pub(super) fn look_at_pin(&self, meta: &Meta) -> Option<HardPin> {
        let dir = (!meta.pin.is_empty()).then(|| self.pin_dir(&meta.set.id()))?;
        let is_gone = |copy: &&SnapshotMember| fs::symlink_metadata(copy.path.as_path()).is_err();
        let elsewhere = meta.set.members.iter().filter(|member| member.apart.is_some());
        let gone = meta.pin.iter().filter(is_gone);
        Some(HardPin {
            lacks: gone.chain(elsewhere).map(|one| one.name.clone()).collect(),
            is_open: !self.btrfs.is_immutable(&dir).unwrap_or(false),
            is_for_mark: meta.good_pin,
            dir: dir.as_path().into(),
        })
    }

    /// Returns directories of pins that no set has.
    pub(super) fn lost_pins(&self, known: &HashSet<SetId>) -> Vec<BytePath> {
        let entries = fs::read_dir(self.pins()).into_iter().flatten().flatten();
        let is_going = |id: &SetId| self.has_rest_of_pin(id) && self.sidecar(id).meta(id).is_ok();
        let is_lost = |name: &str| {
            let id = name.parse::<SetId>().ok();
            let is_known = id.is_some_and(|id| known.contains(&id) || is_going(&id));
            !name.ends_with(INTENT) && !name.starts_with('.') && !is_known
        };
        let mut lost: Vec<BytePath> = entries
            .filter(|entry| entry.file_name().to_str().is_none_or(is_lost))
            .map(|entry| entry.path().as_path().into())
            .collect();
        lost.sort();
        lost
    }

    /// Returns a set as it can be read.
    ///
    /// # Errors
    /// If there is none of that name.
    pub(super) fn readable(&self, id: &SetId) -> Result<SnapshotSet, AgentError> {
        self.published(id).map(|meta| self.with_pin(&meta))
    }

    /// Returns the set of a record; in place of a member that is gone, or not what was taken, stands the one of its pin.
    pub(super) fn with_pin(&self, meta: &Meta) -> SnapshotSet {
        let mut set = meta.set.clone();
        for copy in &meta.pin {
            let Some(member) = set.members.iter_mut().find(|member| member.name == copy.name) else {
                continue;
            };
            if check_member(self.btrfs, member).is_err() && check_member(self.btrfs, copy).is_ok() {
                *member = copy.clone();
            }
        }
        set
    }

    fn not_immutable(&self, id: &SetId, error: &io::Error) -> AgentError {
        let dir = self.pin_dir(id);
        match error.raw_os_error() {
            Some(libc::EPERM) => AgentError::failed(format!(
                "set `{id}` cannot be pinned hard: `{}` cannot be made immutable, for which root needs CAP_LINUX_IMMUTABLE and often \
                 lacks it in a container; without `--hard` the set is pinned for pc-switcher",
                dir.display()
            )),
            _ => failed(id, error),
        }
    }
}

/// Returns the members that a pin holds: a snapshot of a snapshot stays on its file system, and pins lie beside the records.
pub(super) fn of_this_disk(set: &SnapshotSet) -> impl Iterator<Item = &SnapshotMember> {
    set.members.iter().filter(|member| member.apart.is_none())
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

fn failed(id: &SetId, error: &io::Error) -> AgentError {
    AgentError::io(format!("cannot change the pin of set `{id}`"), error)
}
