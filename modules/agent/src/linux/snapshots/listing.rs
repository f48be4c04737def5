//! What is in a store, found by reading it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use pc_switcher_contract::{BytePath, SetId, SnapshotMember, SnapshotName};

use super::apart;
use super::holders::holders;
use super::reference::is_used;
use super::sidecar::Meta;
use super::store::{OWN, Store};
use super::{check_member, copies};
use crate::data::apply::has_list;
use crate::linux::lvm::{self, Missing};
use crate::linux::trees;
use crate::proto::{AgentError, HardPin, Holder, Need, StoredSet, Strays, SubvolumeFact};

/// Of so many sets and more several threads read what lies beside them.
const MANY: usize = 64;
/// So many threads at most.
const READERS: usize = 4;

/// What lies beside the members of a set.
enum Beside {
    /// No `toc`: it is being made or removed, or left so by a crash, and the next who takes a set removes it.
    Unfinished { names: Vec<String>, is_pinned: bool },
    /// A record that cannot be read.
    Damaged { names: Vec<String>, why: String },
    /// A record.
    Whole(Box<Record>),
}

/// A set as its record and what lies beside that say.
struct Record {
    meta: Meta,
    /// Whether anything is left of what another tool took.
    is_left: bool,
    hard: Option<HardPin>,
    in_use: bool,
    holders: Vec<Holder>,
    has_steps: bool,
}

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
        let mut flat = self.flat().map_err(|error| failed(&error))?;
        let mut strays = Strays::default();
        let mut adopted: Vec<BytePath> = Vec::new();
        let mut pinned: HashSet<SetId> = HashSet::new();
        let mut volumes: Option<Option<lvm::Seen>> = None;
        let ids = self.ids().map_err(|error| failed(&error))?;
        for (id, beside) in ids.iter().zip(self.look_beside(&ids)) {
            let Record { meta, is_left, hard, in_use, holders, has_steps } = match beside {
                Beside::Unfinished { names, is_pinned } => {
                    flat.retain(|name| !names.iter().any(|known| known.as_bytes() == name));
                    if is_pinned {
                        // Somebody else took the `toc`, which comes back then: the pin is this set's still.
                        pinned.insert(id.clone());
                    }
                    continue;
                }
                Beside::Damaged { names, why } => {
                    flat.retain(|name| !names.iter().any(|known| known.as_bytes() == name));
                    pinned.insert(id.clone());
                    strays.damaged.push((id.clone(), why));
                    continue;
                }
                Beside::Whole(record) => *record,
            };
            let mut needs = needs(id);
            let (mut missing, mut away) = (Vec::new(), Vec::new());
            match meta.maker {
                // Gone with what its maker removed; the record follows when the store is next changed.
                Some(_) if !is_left => continue,
                Some(maker) => {
                    adopted.extend(meta.set.members.iter().map(|member| member.path.clone()));
                    needs.push(Need::Foreign(maker));
                }
                None => {
                    for member in &meta.set.members {
                        if member.apart.is_some() {
                            match apart::is_at_hand(self.btrfs, member) {
                                Err(why) => away.push((member.name.clone(), why)),
                                Ok(()) if fs::symlink_metadata(member.path.as_path()).is_ok() => {}
                                Ok(()) => missing.push(member.name.clone()),
                            }
                            continue;
                        }
                        // One that came after the directory was read is there all the same.
                        let (name, path) = (member.path.name(), self.dir().join(member.name.to_string()));
                        let is_there = flat.remove(name) || fs::symlink_metadata(&path).is_ok();
                        match self.lacks_its_volume(member, &path, &mut volumes).filter(|_| is_there) {
                            None if is_there => {}
                            Some(Missing::Away(why)) => away.push((member.name.clone(), why)),
                            Some(Missing::Gone) | None => missing.push(member.name.clone()),
                        }
                    }
                }
            }
            if hard.is_some() {
                pinned.insert(id.clone());
            }
            found(StoredSet {
                backend: copies::backend_of(&meta.set),
                missing,
                away,
                pinned: meta.maker.is_none() && (meta.pinned || !(meta.pin.is_empty() || meta.good_pin)),
                hard,
                in_use,
                holders,
                has_steps,
                needs,
                words: meta.words,
                system: meta.system.map(|recorded| recorded.system),
                set: meta.set,
            })?;
        }
        let mut left: Vec<Vec<u8>> = flat.into_iter().collect();
        left.sort();
        for name in left {
            let path: BytePath = self.dir().join(OsStr::from_bytes(&name)).as_path().into();
            if adopted.iter().any(|member| member.is_within(&path)) {
                continue;
            }
            let is_named_so =
                std::str::from_utf8(&name).is_ok_and(|name| name.parse::<SnapshotName>().is_ok());
            match is_named_so {
                true => strays.orphans.push(path),
                false => strays.foreign.push(path),
            }
        }
        strays.pins = self.lost_pins(&pinned);
        match self.lost_volumes() {
            Ok(volumes) => strays.volumes = volumes,
            Err(why) => strays.untold_volumes = Some(why),
        }
        Ok(strays)
    }

    /// Returns why the volume of a member is not to be had, if its content lies in one. LVM is asked once for all; if it does not say,
    /// none is gone.
    fn lacks_its_volume(
        &self,
        member: &SnapshotMember,
        path: &Path,
        volumes: &mut Option<Option<lvm::Seen>>,
    ) -> Option<Missing> {
        let copy = member.name.subvolume.directory();
        let label = copy.and_then(|_| trees::volume_of(path))?;
        volumes.get_or_insert_with(|| lvm::Seen::ask(self.btrfs.lvm()).ok()).as_ref()?.misses(&label)
    }

    /// Reads what lies beside all of these, in their order.
    fn look_beside(&self, ids: &[SetId]) -> Vec<Beside> {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(READERS);
        let part = if ids.len() < MANY { ids.len() } else { ids.len().div_ceil(threads) };
        let (btrfs, dir) = (self.btrfs, self.dir());
        let look = |ids: &[SetId]| -> Vec<Beside> {
            let store = Store::new(btrfs, dir);
            ids.iter().map(|id| store.look_beside_one(id)).collect()
        };
        match ids.len() <= part {
            true => look(ids),
            false => thread::scope(|scope| {
                let look = &look;
                let readers: Vec<_> = ids.chunks(part).map(|ids| scope.spawn(move || look(ids))).collect();
                let read =
                    readers.into_iter().map(|reader| reader.join().unwrap_or_else(|why| resume_unwind(why)));
                read.flatten().collect()
            }),
        }
    }

    fn look_beside_one(&self, id: &SetId) -> Beside {
        let sidecar = self.sidecar(id);
        let names = || {
            let intent = sidecar.intent(id).into_iter();
            intent.flat_map(|intent| intent.members).map(|planned| planned.name.to_string()).collect()
        };
        if !sidecar.has_toc() {
            let is_pinned = sidecar.meta(id).is_ok_and(|meta| !meta.pin.is_empty());
            return Beside::Unfinished { names: names(), is_pinned };
        }
        let meta = match sidecar.meta(id) {
            Ok(meta) => meta,
            Err(error) => return Beside::Damaged { names: names(), why: error.to_string() },
        };
        let in_use = is_used(&sidecar);
        Beside::Whole(Box::new(Record {
            is_left: meta.maker.is_some() && self.is_left(&meta),
            hard: self.look_at_pin(&meta).filter(|_| meta.maker.is_none()),
            in_use,
            holders: if in_use { holders(&sidecar) } else { Vec::new() },
            has_steps: meta.maker.is_none() && has_list(sidecar.dir()),
            meta,
        }))
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

    /// Returns the names of the directories beside ours.
    fn flat(&self) -> io::Result<HashSet<Vec<u8>>> {
        let entries = match fs::read_dir(self.dir()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashSet::new()),
            other => other?,
        };
        let mut names = HashSet::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() && entry.file_name() != OWN {
                names.insert(entry.file_name().into_vec());
            }
        }
        Ok(names)
    }
}
