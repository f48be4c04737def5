//! What removing the sets of a session would free.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::OwnedFd;

use pc_switcher_contract::{SessionId, SnapshotMember, SnapshotSet, SubvolumeName};
use rustix::io::Errno;

use super::apart::Home;
use super::compare::open_dir;
use super::opened::is_volume;
use super::sidecar::Meta;
use super::store::Store;
use crate::data::gains::{Extents, Owners, extents};
use crate::data::trees::only_held;
use crate::linux::finder::Finder;
use crate::linux::mounts::Mounts;
use crate::proto::{AgentError, AgentErrorKind, Gain, SubvolumeFact};
use crate::server::Call;

impl Store<'_> {
    /// Returns a set as it was taken, with the paths at which its members can be read.
    pub(super) fn at_hand(&self, meta: &Meta) -> SnapshotSet {
        let mut set = meta.set.clone();
        for (member, held) in set.members.iter_mut().zip(self.with_pin(meta).members) {
            member.path = held.path;
        }
        set
    }

    /// Tells `call` for every session how much data only its sets hold. What was written a moment ago is committed first.
    ///
    /// # Errors
    /// If a tree cannot be read, or the caller gave up.
    pub(super) fn gains(&self, mounts: &Mounts, call: &Call) -> Result<(), AgentError> {
        let failed = |what: &dyn std::fmt::Display, error: &std::io::Error| {
            AgentError::io(format!("cannot look what `{what}` holds"), error)
        };
        let ids = self.ids().map_err(|error| failed(&self.dir().display(), &error))?;
        let metas = ids.iter().filter_map(|id| self.published(id).ok());
        // Nothing of what other tools took would be removed.
        let metas: Vec<Meta> = metas.filter(|meta| meta.maker.is_none()).collect();
        let sets: Vec<SnapshotSet> = metas.iter().map(|meta| self.at_hand(meta)).collect();
        if sets.is_empty() {
            return Ok(());
        }
        self.btrfs.sync(self.dir()).map_err(|error| failed(&self.dir().display(), &error))?;
        let finder = Finder::new(self.btrfs, mounts, &[])?;
        let here = self.btrfs.fs_uuid(self.dir()).ok();
        let homes = sets.iter().flat_map(|set| set.members.iter().filter_map(Home::of));
        let homes: BTreeSet<Home> = homes.filter(|home| home.is_at_hand(self.btrfs)).collect();
        // What another disk holds is told beside, and gives no room on this one: one that fails is in the way of nothing here.
        let _ = self.sync_homes(homes.iter());
        let stop = || call.is_cancelled();
        let sessions: BTreeSet<&SessionId> = sets.iter().map(|set| &set.session).collect();
        for session in sessions {
            let (own, others): (Vec<_>, Vec<_>) = sets
                .iter()
                .flat_map(|set| set.members.iter().map(move |one| (set, one)))
                .partition(|(set, _)| set.session == *session);
            let is_copy = |one: &SnapshotMember| one.name.subvolume.directory().is_some();
            // What a volume holds alone is not told by what lies here.
            let copies = own.iter().filter(|(_, one)| is_copy(one) && !is_volume(one));
            // One that is gone holds nothing.
            let copies: Vec<OwnedFd> = copies.filter_map(|(_, one)| open_dir(&one.path).ok()).collect();
            let in_copies = only_held(&copies, &stop).map_err(|error| match error {
                Errno::CANCELED => AgentError::cancelled(),
                error => failed(session, &error.into()),
            })?;
            let own_members = || own.iter().map(|(_, one)| *one).filter(|one| !is_copy(one));
            let others: Vec<&SnapshotMember> = others.into_iter().map(|(_, one)| one).collect();
            let (mut data_bytes, mut elsewhere_bytes) = (in_copies, 0);
            let disks: BTreeSet<Option<&str>> = own_members().map(disk_of).collect();
            for disk in disks {
                let own: Vec<&SnapshotMember> = own_members().filter(|one| disk_of(one) == disk).collect();
                let others: Vec<&SnapshotMember> =
                    others.iter().copied().filter(|one| disk_of(one) == disk).collect();
                // What pins hold of it would go with it. They lie where the records do.
                let pins = metas.iter().filter(|meta| meta.set.session == *session && disk.is_none());
                let pins: Vec<u64> = pins.flat_map(|meta| &meta.pin).map(|one| one.id).collect();
                let fs = match disk {
                    None => here,
                    Some(_) => own.iter().find_map(|one| self.btrfs.fs_uuid(one.path.as_path()).ok()),
                };
                let live = |name: &SubvolumeName| finder.by_name_on(fs?, name);
                match (disk, held_by(&own, &others, &pins, &live, &stop)) {
                    (None, held) => data_bytes += held?,
                    (Some(_), Ok(held)) => elsewhere_bytes += held,
                    (Some(_), Err(error)) if error.kind == AgentErrorKind::Cancelled => return Err(error),
                    (Some(_), Err(_)) => {}
                }
            }
            call.item(&Gain { session: session.clone(), data_bytes, elsewhere_bytes })?;
        }
        Ok(())
    }
}

fn disk_of(member: &SnapshotMember) -> Option<&str> {
    member.apart.as_ref().map(|apart| apart.fs_uuid.as_str())
}

/// Returns how much data is held by these members of one disk alone, and by what goes with them.
fn held_by(
    own: &[&SnapshotMember],
    others: &[&SnapshotMember],
    pins: &[u64],
    live: &dyn Fn(&SubvolumeName) -> Option<SubvolumeFact>,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<u64, AgentError> {
    let ids: HashSet<u64> = own.iter().map(|one| one.id).chain(pins.iter().copied()).collect();
    let mut held: BTreeMap<u64, u64> = Extents::new();
    for member in own {
        let of_it = || others.iter().filter(|one| one.name.subvolume == member.name.subvolume);
        let before = of_it().filter(|one| one.order() < member.order()).max_by_key(|one| one.order());
        let after = of_it().filter(|one| one.order() > member.order()).min_by_key(|one| one.order());
        let since = before.map_or(0, |one| one.order());
        let word = |error: Errno| match error {
            Errno::CANCELED => AgentError::cancelled(),
            error => AgentError::io(format!("cannot look what `{}` holds", member.path), &error.into()),
        };
        // One that is gone holds nothing.
        let Ok(root) = open_dir(&member.path) else { continue };
        let mut found = extents(&root, since, stop).map_err(word)?;
        let next = after.map(|one| one.path.clone());
        let next = next.or_else(|| live(&member.name.subvolume).map(|fact| fact.mount_point));
        if let Some(next) = next.and_then(|path| open_dir(&path).ok()) {
            let shared = extents(&next, since, stop).map_err(word)?;
            found.retain(|address, _| !shared.contains_key(address));
        }
        let mut owners = Owners::of(&root);
        for (address, size) in found {
            if stop() {
                return Err(AgentError::cancelled());
            }
            if !held.contains_key(&address) && owners.are_among(address, &ids).map_err(word)? {
                held.insert(address, size);
            }
        }
    }
    Ok(held.values().sum())
}
