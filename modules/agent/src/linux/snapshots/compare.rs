//! What differs between two sets.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use pc_switcher_contract::{BytePath, Hostname, SetId, SnapshotMember, SnapshotSet, SubvolumeName};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::reference::Reference;
use super::store::Store;
use super::{Said, check_member, copies, set};
use crate::data::changed;
use crate::data::diff::Differ;
use crate::data::restore::{live, may_list};
use crate::linux::caller::Person;
use crate::linux::mounts::Mounts;
use crate::linux::unchanged;
use crate::proto::{AgentError, Change, ChangeKind, DiffEnd, DiffRequest, Diffed, RuleSet, Tree};
use crate::server::Call;

/// Differences that travel together.
const BATCH: usize = 256;

impl Store<'_> {
    /// Tells `call` what differs.
    ///
    /// # Errors
    /// If a set is not there or not what was taken, or the caller gave up.
    pub(super) fn diff(
        &self,
        mounts: &Mounts,
        hostname: &Hostname,
        request: &DiffRequest,
        call: &Call,
    ) -> Result<Diffed, AgentError> {
        let person = Person::find(request.uid)?;
        let from = self.held(&request.from)?;
        let only = match &request.path {
            Some(path) => self.spots(mounts, std::slice::from_ref(path), Some(&from.set))?.pop(),
            None => None,
        };
        let finder = self.finder(mounts)?;
        let to = match &request.to {
            DiffEnd::Set(id) => self.held(id)?,
            DiffEnd::Now(wanted) => {
                let mut wanted = wanted.clone();
                let names = from.set.members.iter().map(|one| &one.name.subvolume);
                // One inside of another may be gone by now, as a directory may be.
                let is_there = |name: &&SubvolumeName| match name.directory() {
                    Some(place) => place.as_path().is_dir(),
                    None => !name.is_nested() || finder.by_name(name).is_some(),
                };
                wanted.set.subvolumes = names.filter(is_there).cloned().collect();
                let (set, reference) = match copies::form_of(&from.set) {
                    Some(form) => {
                        let stop = || call.is_cancelled();
                        let asked = (&wanted.set, &*wanted);
                        let (created, reference) = copies::copy(self.btrfs, mounts, asked, form, &stop)?;
                        (created.set, reference)
                    }
                    None => {
                        let said = Said { pinned: wanted.pinned, words: wanted.words.clone() };
                        set::take(self, mounts, hostname.clone(), &wanted.set, &said)?
                    }
                };
                Held { store: self, set, reference, is_ours: true }
            }
        };
        let mut diffed = Diffed::default();
        for member in &from.set.members {
            let name = &member.name.subvolume;
            if only.as_ref().is_some_and(|only| only.subvolume != *name) {
                continue;
            }
            let Some(other) = to.set.member(name) else {
                diffed.alone.push(name.clone());
                continue;
            };
            diffed.compared.push(name.clone());
            let inside = only.as_ref().map(|only| only.inside.clone()).unwrap_or_default();
            let mut changes = self.between((member, other), &inside, call)?;
            if let Some(only) = &only {
                let is_in = |path: &BytePath| path.is_within(&only.inside);
                changes.retain(|one| is_in(&one.path) || one.from.as_ref().is_some_and(is_in));
            }
            let all = changes.len();
            let above = name.directory().or_else(|| finder.by_name(name).map(|fact| fact.mount_point));
            let shown = self.visible(changes, (member, other), above.as_ref(), (&person, call))?;
            diffed.hidden += (all - shown.len()) as u64;
            let above = above.unwrap_or_else(|| name.as_str().into());
            for batch in shown.chunks(BATCH) {
                let named: Vec<Change> = batch.iter().map(|one| under(one, &above)).collect();
                call.item(&named)?;
            }
        }
        if only.is_none() {
            diffed.system = self.system_change(&from.set.id(), &to.set.id());
        }
        let other = to.set.members.iter().map(|member| &member.name.subvolume);
        diffed.alone.extend(other.filter(|name| from.set.member(name).is_none()).cloned());
        Ok(diffed)
    }

    /// Returns a set that nobody removes meanwhile.
    fn held(&self, id: &SetId) -> Result<Held<'_>, AgentError> {
        let set = self.readable(id)?;
        let reference = Reference::take(&self.sidecar(id))
            .map_err(|error| AgentError::io(format!("cannot hold set `{id}`"), &error))?;
        match reference {
            Some(reference) => Ok(Held { store: self, set, reference: Some(reference), is_ours: false }),
            None => Err(AgentError::failed(format!("set `{id}` is being removed"))),
        }
    }

    /// Compares two snapshots of one subvolume; of archives what lies at `only` is looked at alone.
    fn between(
        &self,
        (from, to): (&SnapshotMember, &SnapshotMember),
        only: &BytePath,
        call: &Call,
    ) -> Result<Vec<Change>, AgentError> {
        let (older, newer, is_back) = match from.order() <= to.order() {
            true => (from, to, false),
            false => (to, from, true),
        };
        for member in [older, newer] {
            check_member(self.btrfs, member).map_err(AgentError::failed)?;
        }
        let failed = |error: std::io::Error| {
            AgentError::io(format!("cannot compare `{}` and `{}`", older.path, newer.path), &error)
        };
        // What changed in a copy no tree of btrfs tells.
        let since = match older.name.subvolume.directory() {
            Some(_) => None,
            None => {
                unchanged::since(self.btrfs, older.path.as_path(), newer.path.as_path()).map_err(failed)?
            }
        };
        let tree = Tree { root: newer.path.clone(), prefix: BytePath::default(), rules: RuleSet::default() };
        let dirs = match since {
            Some(since) => changed::find(&older.path, &tree, since, call)?,
            None => None,
        };
        let stop = || call.is_cancelled();
        let base = self.opened_beside(older, only, Some((newer, None)), &stop)?;
        let now = self.opened_beside(newer, only, Some((older, Some(&base))), &stop)?;
        let changes = Differ::new(&base, &now, &stop).run(dirs.as_deref()).map_err(|error| match error {
            Errno::CANCELED => AgentError::cancelled(),
            error => failed(error.into()),
        })?;
        Ok(if is_back { changes.into_iter().map(backwards).collect() } else { changes })
    }

    /// Returns the differences in directories that a person could list in one of the two states, and that are not closed now.
    fn visible(
        &self,
        changes: Vec<Change>,
        (from, to): (&SnapshotMember, &SnapshotMember),
        above: Option<&BytePath>,
        (person, call): (&Person, &Call),
    ) -> Result<Vec<Change>, AgentError> {
        if person.uid == 0 {
            return Ok(changes);
        }
        let stop = || call.is_cancelled();
        let roots = [self.rooted(from, &stop)?, self.rooted(to, &stop)?];
        person.act(|| {
            let mut known: HashMap<BytePath, bool> = HashMap::new();
            let mut may = |path: &BytePath| {
                let dir = path.parent().unwrap_or_default();
                *known.entry(dir).or_insert_with_key(|dir| {
                    above.is_some_and(|above| !live::is_closed(&above.join(dir.as_bytes())))
                        && roots.iter().any(|root| may_list(root, dir))
                })
            };
            let is_seen = |one: &Change| may(&one.path) && one.from.as_ref().is_none_or(&mut may);
            Ok(changes.into_iter().filter(is_seen).collect())
        })
    }
}

/// A set that is being looked at; one of our own is removed at the end.
struct Held<'a> {
    store: &'a Store<'a>,
    set: SnapshotSet,
    reference: Option<Reference>,
    is_ours: bool,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.reference.take();
        if self.is_ours {
            // What stays is a set whose time has ended: the next prune removes it.
            let _ = self.store.delete(&self.set.id(), || Ok(Vec::new()));
        }
    }
}

pub(super) fn open_dir(path: &BytePath) -> Result<OwnedFd, AgentError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path.as_path(), flags, Mode::empty())
        .map_err(|error| AgentError::io(format!("`{path}`"), &error.into()))
}

/// Returns a difference seen from the other side.
fn backwards(change: Change) -> Change {
    match (change.kind, change.from.clone()) {
        (ChangeKind::Created, _) => Change { kind: ChangeKind::Deleted, ..change },
        (ChangeKind::Deleted, _) => Change { kind: ChangeKind::Created, ..change },
        (ChangeKind::Renamed, Some(from)) => Change { from: Some(change.path), path: from, ..change },
        _ => change,
    }
}

/// Returns a difference with paths of the live machine.
fn under(change: &Change, above: &BytePath) -> Change {
    let full = |path: &BytePath| above.join(path.as_bytes());
    Change { path: full(&change.path), from: change.from.as_ref().map(full), ..change.clone() }
}
