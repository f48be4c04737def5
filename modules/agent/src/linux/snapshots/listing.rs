//! What is in a store, found by reading it.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io;

use pc_switcher_contract::{BytePath, SetId, SnapshotMember, SnapshotName};

use super::check_member;
use super::holders::holders;
use super::reference::Sole;
use super::sidecar::{Meta, Sidecar};
use super::store::{OWN, Store};
use crate::data::apply::has_list;
use crate::proto::{AgentError, Holder, Need, StoredSet, Strays, SubvolumeFact};

impl Store<'_> {
    /// Hands every whole set to `found`, oldest first, and returns what else is there. Changes nothing.
    ///
    /// # Errors
    /// If the directory cannot be read, or what `found` says.
    pub(super) fn list(
        &self,
        needs: &dyn Fn(&SetId) -> Vec<Need>,
        found: &mut dyn FnMut(StoredSet) -> Result<(), AgentError>,
    ) -> Result<Strays, AgentError> {
        let failed = |error: &io::Error| {
            AgentError::io(format!("cannot list the snapshots in `{}`", self.dir().display()), error)
        };
        let flat = self.flat().map_err(|error| failed(&error))?;
        let (mut strays, mut known) = (Strays::default(), BTreeSet::new());
        let mut adopted: Vec<BytePath> = Vec::new();
        let mut pinned: HashSet<SetId> = HashSet::new();
        for id in self.ids().map_err(|error| failed(&error))? {
            let sidecar = self.sidecar(&id);
            if !sidecar.has_toc() {
                // Being made or removed, or left so by a crash: the next who takes a set removes it.
                let intent = sidecar.intent(&id).into_iter();
                known.extend(intent.flat_map(|intent| intent.members).map(|planned| planned.name));
                continue;
            }
            let meta = match sidecar.meta(&id) {
                Ok(meta) => meta,
                Err(error) => {
                    let intent = sidecar.intent(&id).into_iter();
                    known.extend(intent.flat_map(|intent| intent.members).map(|planned| planned.name));
                    pinned.insert(id.clone());
                    strays.damaged.push((id, error.to_string()));
                    continue;
                }
            };
            if let Some(maker) = meta.maker {
                // Gone with what its maker removed; the record follows when the store is next changed.
                if self.is_left(&meta) {
                    adopted.extend(meta.set.members.iter().map(|member| member.path.clone()));
                    let mut needs = needs(&id);
                    needs.push(Need::Foreign(maker));
                    let (in_use, holders) = used(&sidecar);
                    found(StoredSet {
                        missing: Vec::new(),
                        pinned: false,
                        hard: None,
                        in_use,
                        holders,
                        has_steps: false,
                        needs,
                        words: meta.words,
                        set: meta.set,
                    })?;
                }
                continue;
            }
            let names = || meta.set.members.iter().map(|member| &member.name);
            // One that came after the directory was read is there all the same.
            let is_there = |name: &SnapshotName| {
                let name = OsString::from(name.to_string());
                flat.contains(&name) || fs::symlink_metadata(self.dir().join(&name)).is_ok()
            };
            let missing = names().filter(|name| !is_there(name));
            let (in_use, holders) = used(&sidecar);
            let stored = StoredSet {
                missing: missing.cloned().collect(),
                pinned: meta.pinned || !meta.pin.is_empty(),
                hard: self.look_at_pin(&meta),
                in_use,
                holders,
                has_steps: has_list(sidecar.dir()),
                needs: needs(&id),
                words: meta.words.clone(),
                set: meta.set.clone(),
            };
            known.extend(names().cloned());
            if stored.hard.is_some() {
                pinned.insert(id);
            }
            found(stored)?;
        }
        for name in flat {
            let path: BytePath = self.dir().join(&name).as_path().into();
            if adopted.iter().any(|member| member.is_within(&path)) {
                continue;
            }
            match name.to_str().and_then(|name| name.parse::<SnapshotName>().ok()) {
                Some(name) if known.contains(&name) => {}
                Some(_) => strays.orphans.push(path),
                None => strays.foreign.push(path),
            }
        }
        strays.pins = self.lost_pins(&pinned);
        Ok(strays)
    }

    /// Whether a whole set holds this tree with all that is in it now.
    ///
    /// # Errors
    /// If the tree or the directory cannot be read.
    pub(super) fn has_as_it_is(&self, tree: &SubvolumeFact) -> Result<bool, AgentError> {
        let failed = |error: io::Error| AgentError::io(format!("cannot look up `{}`", tree.name), &error);
        let now = self.btrfs.subvolume(tree.mount_point.as_path()).map_err(failed)?;
        let holds = |id: &SetId| {
            let Ok(meta) = self.sidecar(id).meta(id) else { return false };
            let is_it =
                |member: &&SnapshotMember| member.source_uuid == tree.uuid && member.otransid >= now.ctransid;
            // Another tool's may go at any time.
            self.sidecar(id).has_toc()
                && meta.maker.is_none()
                && meta
                    .set
                    .members
                    .iter()
                    .find(is_it)
                    .is_some_and(|member| check_member(self.btrfs, member).is_ok())
        };
        Ok(self.ids().map_err(failed)?.iter().rev().any(holds))
    }

    /// Whether anything is left of what another tool took.
    pub(super) fn is_left(&self, meta: &Meta) -> bool {
        meta.set.members.iter().any(|member| {
            self.btrfs.subvolume(member.path.as_path()).is_ok_and(|info| info.uuid.hex() == member.uuid)
        })
    }

    /// Returns the directories beside ours.
    fn flat(&self) -> io::Result<BTreeSet<OsString>> {
        let entries = match fs::read_dir(self.dir()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            other => other?,
        };
        let mut names = BTreeSet::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() && entry.file_name() != OWN {
                names.insert(entry.file_name());
            }
        }
        Ok(names)
    }
}

/// Whether somebody works with a set, and who.
fn used(sidecar: &Sidecar) -> (bool, Vec<Holder>) {
    match Sole::take(sidecar) {
        Ok(None) => (true, holders(sidecar)),
        _ => (false, Vec::new()),
    }
}
