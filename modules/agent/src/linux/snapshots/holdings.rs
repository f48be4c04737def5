//! What the file system of the snapshots holds: what sets are taken of, and what is there for the sake of sets alone.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Display;
use std::io;
use std::os::fd::OwnedFd;

use pc_switcher_contract::{SnapshotMember, SubvolumeName};
use rustix::io::Errno;

use super::compare::open_dir;
use super::nearest;
use super::sidecar::Meta;
use super::store::Store;
use crate::data::gains::{Extents, Owners, extents};
use crate::data::trees::only_held;
use crate::linux::finder::Finder;
use crate::linux::mounts::Mounts;
use crate::proto::{AgentError, Holdings};
use crate::server::Call;

impl Store<'_> {
    /// Looks what these subvolumes, and all others of which there are sets, hold now, and what nothing but sets of ours does. What was
    /// written a moment ago is committed first.
    ///
    /// # Errors
    /// If a tree cannot be read, or the caller gave up.
    pub(super) fn holdings(
        &self,
        mounts: &Mounts,
        subvolumes: &[SubvolumeName],
        call: &Call,
    ) -> Result<Holdings, AgentError> {
        let failed = |what: &dyn Display, error: &io::Error| {
            AgentError::io(format!("cannot look what `{what}` holds"), error)
        };
        let stop = || call.is_cancelled();
        let ids = self.ids().map_err(|error| failed(&self.dir().display(), &error))?;
        let metas = ids.iter().filter_map(|id| self.published(id).ok());
        // What other tools took goes when they say so.
        let metas: Vec<Meta> = metas.filter(|meta| meta.maker.is_none()).collect();
        let members = || metas.iter().flat_map(|meta| self.at_hand(meta).members);
        let is_copy = |one: &SnapshotMember| one.name.subvolume.directory().is_some();
        let word = |what: &dyn Display, error: Errno| match error {
            Errno::CANCELED => AgentError::cancelled(),
            error => failed(what, &error.into()),
        };
        // One that is gone holds nothing.
        let copies: Vec<OwnedFd> =
            members().filter(is_copy).filter_map(|one| open_dir(&one.path).ok()).collect();
        let snapshot_bytes = only_held(&copies, &stop).map_err(|error| word(&self.dir().display(), error))?;
        let place = nearest(self.dir());
        let Ok(fs_uuid) = self.btrfs.fs_uuid(&place) else {
            return Ok(Holdings { source_bytes: None, snapshot_bytes });
        };
        self.btrfs.sync(&place).map_err(|error| failed(&place.display(), &error))?;
        let mut snapshots: Vec<SnapshotMember> =
            members().filter(|one| !is_copy(one) && one.apart.is_none()).collect();
        snapshots.sort_by_key(SnapshotMember::order);
        let mut named: BTreeSet<&SubvolumeName> = subvolumes.iter().collect();
        named.extend(snapshots.iter().map(|one| &one.name.subvolume));
        let finder = Finder::new(self.btrfs, mounts, &[])?;
        let mut source = Extents::new();
        for fact in named.iter().filter_map(|name| finder.by_name_on(fs_uuid, name)) {
            let Ok(root) = open_dir(&fact.mount_point) else { continue };
            source.append(&mut extents(&root, 0, &stop).map_err(|error| word(&fact.mount_point, error))?);
        }
        let pins = metas.iter().flat_map(|meta| &meta.pin).map(|one| one.id);
        let own: HashSet<u64> = snapshots.iter().map(|one| one.id).chain(pins).collect();
        let mut held = Extents::new();
        let mut latest: BTreeMap<&SubvolumeName, u64> = BTreeMap::new();
        for one in &snapshots {
            let Ok(root) = open_dir(&one.path) else { continue };
            let since = latest.insert(&one.name.subvolume, one.order()).unwrap_or_default();
            let found = extents(&root, since, &stop).map_err(|error| word(&one.path, error))?;
            let mut owners = Owners::of(&root);
            for (address, size) in found {
                if stop() {
                    return Err(AgentError::cancelled());
                }
                let is_new = !source.contains_key(&address) && !held.contains_key(&address);
                if is_new && owners.are_among(address, &own).map_err(|error| word(&one.path, error))? {
                    held.insert(address, size);
                }
            }
        }
        Ok(Holdings {
            source_bytes: Some(source.values().sum()),
            snapshot_bytes: snapshot_bytes.saturating_add(held.values().sum()),
        })
    }
}
