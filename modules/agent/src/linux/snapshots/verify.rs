//! Whether sets are what was taken: their records, their members, and with a deep look the content of every file.
//!
//! Removes nothing, not even what a crash left behind.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io;

use pc_switcher_contract::{BytePath, SetId, SnapshotMember};

use super::apart::{self, Home};
use super::compare::open_dir;
use super::reference::Reference;
use super::store::Store;
use super::{is_foreign, matches_record, untouched};
use crate::data::read_through;
use crate::data::trees::{self, Form};
use crate::linux::trees::{form_of, list_of};
use crate::proto::{AgentError, Finding, Verified};
use crate::server::Call;

impl Store<'_> {
    /// Looks at these sets, or at all, and tells `call` what is wrong.
    ///
    /// # Errors
    /// If the directory cannot be read, a set that was asked for does not exist, or the caller gave up.
    pub(super) fn verify(&self, ids: &[SetId], deep: bool, call: &Call) -> Result<Verified, AgentError> {
        let there = self.ids().map_err(|error| {
            AgentError::io(format!("cannot list the sets in `{}`", self.dir().display()), &error)
        })?;
        if let Some(id) = ids.iter().find(|id| !there.contains(id)) {
            return Err(AgentError::failed(format!("there is no set `{id}` in `{}`", self.dir().display())));
        }
        if !there.is_empty() {
            // What was written while a member was writable may be in memory still: btrfs notes the change when it is on the disk.
            self.btrfs.sync(self.dir()).map_err(|error| {
                AgentError::io(format!("cannot flush what was written to `{}`", self.dir().display()), &error)
            })?;
            let sets: Vec<_> = there.iter().filter_map(|id| self.published(id).ok()).collect();
            let homes = sets.iter().flat_map(|meta| meta.set.members.iter().filter_map(Home::of));
            let homes: BTreeSet<Home> = homes.filter(|home| home.is_at_hand(self.btrfs)).collect();
            self.sync_homes(homes.iter())
                .map_err(|error| AgentError::io("cannot flush what was written to other disks", &error))?;
        }
        let mut seen = Verified::default();
        for id in there.iter().filter(|id| ids.is_empty() || ids.contains(id)) {
            self.verify_one(id, deep, call, &mut seen)?;
        }
        Ok(seen)
    }

    fn verify_one(&self, id: &SetId, deep: bool, call: &Call, seen: &mut Verified) -> Result<(), AgentError> {
        let find = |member: Option<&SnapshotMember>, path: &[u8], what: String| {
            let member = member.map(|member| member.name.to_string());
            call.item(&Finding { id: id.clone(), member, path: BytePath::new(path), what })
        };
        let sidecar = self.sidecar(id);
        // Held while it is looked at: nobody removes it meanwhile. A set without a directory for its lock is gone.
        let Ok(reference) = Reference::take(&sidecar) else { return Ok(()) };
        if !sidecar.has_toc() {
            // Who makes or removes it right now holds the creation lock.
            let is_pinned = sidecar.meta(id).is_ok_and(|meta| !meta.pin.is_empty());
            let then = match is_pinned {
                true => {
                    "it counts as half made, until it is written again when the next set is taken or removed"
                }
                false => {
                    "it counts as half made, and what it names is removed when the next set is taken or removed"
                }
            };
            return match reference.is_some() && self.is_idle() {
                true => find(None, b"", format!("its `toc` is gone: {then}")),
                false => Ok(()),
            };
        }
        if reference.is_none() {
            return Ok(());
        }
        seen.sets += 1;
        let meta = match sidecar.meta(id) {
            Ok(meta) => meta,
            Err(error) => return find(None, b"", format!("its record cannot be read: {error}")),
        };
        if !sidecar.agrees(&meta.set) {
            find(None, b"", "its `toc` and its record name different members".into())?;
        }
        for (member, held) in meta.set.members.iter().zip(&self.with_pin(&meta).members) {
            seen.members += 1;
            if let Err(what) = self.verify_member(member) {
                if held == member {
                    find(Some(member), b"", what)?;
                    continue;
                }
                find(Some(member), b"", format!("{what}; the one of its pin stands in for it"))?;
            }
            if deep {
                let member = held;
                let mut told = |path: &[u8], what: String| find(Some(member), path, what);
                let (files, bytes) = match form_of(member.path.as_path()) {
                    Some(Form::Volume) if member.name.subvolume.directory().is_some() => {
                        let root = self.rooted(member, &|| call.is_cancelled())?;
                        read_through::run_in(&root, call, &mut told)?
                    }
                    Some(form) if member.name.subvolume.directory().is_some() => {
                        let root = open_dir(&member.path)?;
                        let list = list_of(self.dir(), &member.name);
                        trees::check((&root, &list, form), &mut told, &|| call.is_cancelled())?
                    }
                    _ => read_through::run(&member.path, call, &mut told)?,
                };
                (seen.files, seen.bytes) = (seen.files + files, seen.bytes + bytes);
            }
        }
        for copy in &meta.pin {
            seen.members += 1;
            if let Err(what) = self.verify_member(copy) {
                find(Some(copy), b"", format!("in its pin {what}"))?;
            }
        }
        match self.look_at_pin(&meta).filter(|pin| pin.is_open) {
            Some(pin) => find(
                None,
                b"",
                format!(
                    "its pin binds nobody but us: `{}` is not immutable any more; `pc-switcher snapshots pin --hard {id}` closes it",
                    pin.dir
                ),
            ),
            None => Ok(()),
        }
    }

    fn verify_member(&self, member: &SnapshotMember) -> Result<(), String> {
        apart::is_at_hand(self.btrfs, member).map_err(|why| format!("cannot be looked at: {why}"))?;
        let info = match self.btrfs.subvolume(member.path.as_path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err("is gone".into()),
            other => other.map_err(|error| format!("cannot be read: {error}"))?,
        };
        if info.uuid.hex() != member.uuid {
            return Err(match member.name.subvolume.directory() {
                Some(_) => "is another copy than the one that was taken".into(),
                None => "is another subvolume than the one that was taken".into(),
            });
        }
        if is_foreign(member) {
            return Ok(());
        }
        untouched(&info)?;
        match matches_record(&info, member) {
            true => Ok(()),
            false => Err("does not match its record".into()),
        }
    }

    /// Whether nobody makes or removes sets right now.
    fn is_idle(&self) -> bool {
        match File::open(self.tmp()).map(|lock| lock.try_lock()) {
            Ok(Err(TryLockError::WouldBlock)) => false,
            Ok(_) | Err(_) => true,
        }
    }
}
