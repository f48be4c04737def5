//! Removing sets: the `toc` goes first, so that a crash at any moment leaves sets that are whole, or none.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;

use pc_switcher_contract::{SetId, SnapshotMember};

use super::apart::{self, Home};
use super::needs::Needs;
use super::reference::Sole;
use super::sidecar::{Intent, Meta, Planned};
use super::stays;
use super::store::{Store, remove_cradles};
use crate::linux::btrfs::SubvolumeInfo;
use crate::linux::lvm;
use crate::linux::trees::volume_of;
use crate::proto::{AgentError, Need, PinOrder};

impl Store<'_> {
    /// Removes a set that nobody wants to keep.
    ///
    /// # Errors
    /// If there is none, it is pinned, in use or needed, a member is not ours any more, or the machine does not let it go;
    /// in the last case it is a set no more, and the next who takes or removes one finishes the work.
    pub(super) fn delete(
        &self,
        id: &SetId,
        needs: impl FnOnce() -> Result<Vec<Need>, AgentError>,
    ) -> Result<(), AgentError> {
        self.delete_but(id, false, needs).map(drop)
    }

    /// As [`Store::delete`]. With `allow_loss` members on disks that are away are no reason to stay: they are where they were, and
    /// nothing of ours names them any more. Returns these.
    ///
    /// # Errors
    /// As [`Store::delete`].
    pub(super) fn delete_but(
        &self,
        id: &SetId,
        allow_loss: bool,
        needs: impl FnOnce() -> Result<Vec<Need>, AgentError>,
    ) -> Result<Vec<SnapshotMember>, AgentError> {
        self.published(id)?;
        let _creation = self.lock()?;
        let (_sole, given_up) = self.condemn(id, allow_loss, needs)?;
        self.erase(id).map_err(|error| {
            let mut failed = undone(id, &error);
            // Nobody else ever names these.
            for SnapshotMember { path, .. } in &given_up {
                failed.message =
                    format!("{}; `{path}` stays where it is and is named no more", failed.message);
            }
            failed
        })?;
        Ok(given_up)
    }

    /// Removes sets that nobody wants to keep, all with one commit; returns why those stay that do. `needs` are read when nobody
    /// else takes or removes sets any more.
    ///
    /// # Errors
    /// If another process takes or removes sets, or it cannot be told which are needed: then all stay.
    pub(super) fn delete_all(
        &self,
        ids: &[SetId],
        needs: impl FnOnce() -> Result<Needs, AgentError>,
    ) -> Result<Vec<(SetId, Option<String>)>, AgentError> {
        let _creation = self.lock()?;
        let needs = needs()?;
        let condemn = |id| self.condemn(id, false, || Ok(needs.of(id))).map(|(sole, _)| sole);
        let condemned = ids.iter().map(|id| (id, condemn(id)));
        // All lose their `toc` before the first loses a member, and are held until nothing of them is left.
        let condemned: Vec<(&SetId, Result<Sole, AgentError>)> = condemned.collect();
        let emptied: Vec<io::Result<()>> = condemned
            .iter()
            .map(|(id, sole)| match (sole, self.sidecar(id).intent(id)) {
                (Ok(_), Some(intent)) => self.destroy_all(id, &intent),
                _ => Ok(()),
            })
            .collect();
        let homes_of = |id: &SetId| -> BTreeSet<Home> {
            self.sidecar(id).intent(id).iter().flat_map(Intent::homes).cloned().collect()
        };
        let homes: BTreeSet<Home> =
            condemned.iter().filter(|(_, sole)| sole.is_ok()).flat_map(|(id, _)| homes_of(id)).collect();
        let synced = match condemned.iter().any(|(_, sole)| sole.is_ok()) {
            true => self.btrfs.sync(self.dir()).map_err(|error| error.to_string()),
            false => Ok(()),
        };
        // Another disk that fails is in the way of the sets alone that lie on it.
        let failing: BTreeMap<Home, String> = homes
            .into_iter()
            .filter_map(|home| {
                let error = self.sync_homes(std::iter::once(&home)).err()?;
                Some((home, error.to_string()))
            })
            .collect();
        (self.after)("sync");
        let finished = condemned.iter().zip(emptied).map(|((id, sole), emptied)| {
            let in_the_way = || homes_of(id).iter().find_map(|home| failing.get(home)).cloned();
            let left = match sole {
                Err(why) => Err(why.to_string()),
                Ok(_) => match synced.clone().err().or_else(in_the_way) {
                    Some(why) => Err(undone(id, &io::Error::other(why)).to_string()),
                    None => {
                        emptied.and_then(|()| self.bury(id)).map_err(|error| undone(id, &error).to_string())
                    }
                },
            };
            ((*id).clone(), left.err())
        });
        Ok(finished.collect())
    }

    /// Checks that a set may go, and makes it one no more; the caller holds the creation lock. Whoever comes after a crash removes
    /// the rest of it. Returns the members that are given up, which `allow_loss` allows of those on a disk that is away.
    fn condemn(
        &self,
        id: &SetId,
        allow_loss: bool,
        needs: impl FnOnce() -> Result<Vec<Need>, AgentError>,
    ) -> Result<(Sole, Vec<SnapshotMember>), AgentError> {
        let meta = self.published(id)?;
        let failed = |error: &io::Error| undone(id, error);
        if let Some(maker) = meta.maker {
            return Err(AgentError::failed(format!("set `{id}` stays: {}", Need::Foreign(maker))));
        }
        if meta.pinned || !(meta.pin.is_empty() || meta.good_pin) {
            let hard = if meta.pin.is_empty() || meta.good_pin { "" } else { " hard" };
            let text = format!("set `{id}` is pinned{hard}; `pc-switcher snapshots unpin {id}` frees it");
            return Err(AgentError::failed(text));
        }
        if meta.words.good {
            let text = format!(
                "set `{id}` is the last known good one, marked {}; `pc-switcher snapshots good --none {id}` takes the mark away",
                meta.words.good_by
            );
            return Err(AgentError::failed(text));
        }
        if self.has_rest_of_pin(id) {
            let dir = self.pin_dir(id);
            let text =
                format!("set `{id}` stays: what was its pin cannot be removed from `{}`", dir.display());
            return Err(AgentError::failed(text));
        }
        if let Some(need) = needs()?.first() {
            return Err(AgentError::failed(format!("set `{id}` stays: {need}")));
        }
        let sidecar = self.sidecar(id);
        let Some(sole) = Sole::take(&sidecar).map_err(|error| failed(&error))? else {
            return Err(AgentError::failed(format!("set `{id}` is in use; try again when that has ended")));
        };
        let mut given_up = Vec::new();
        for member in &meta.set.members {
            match apart::is_at_hand(self.btrfs, member) {
                // One that is there is not given up.
                Err(_) if allow_loss && !apart::is_elsewhere(self.btrfs, member) => {
                    given_up.push(member.clone());
                    continue;
                }
                Err(why) => {
                    if apart::is_elsewhere(self.btrfs, member) {
                        return Err(AgentError::failed(format!("set `{id}` stays: {why}")));
                    }
                    return Err(AgentError::failed(format!(
                        "set `{id}` stays: {why}; mount it and try again (`pc-switcher snapshots delete --allow-loss` gives up what \
                         lies there)"
                    )));
                }
                Ok(()) => {}
            }
            match self.btrfs.subvolume(member.path.as_path()) {
                Ok(info) if info.uuid.hex() == member.uuid => self.is_shut(id, member)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Ok(_) => {
                    let text = format!("set `{id}` stays: `{}` is another subvolume by now", member.path);
                    return Err(AgentError::failed(text));
                }
                Err(error) => return Err(failed(&error)),
            }
        }
        let mut going = meta.set;
        going.members.retain(|member| !given_up.contains(member));
        // What is given up is named no more, or the rest would wait for it; what somebody gave up before a crash is named again.
        let going = Intent::of(&going);
        if sidecar.intent(id).is_none_or(|intent| intent.members != going.members) {
            sidecar.put_intent(&going).map_err(|error| failed(&error))?;
        }
        sidecar.unpublish().map_err(|error| failed(&error))?;
        (self.after)("toc");
        Ok((sole, given_up))
    }

    /// Checks that nobody has the volume of a member open: one that is mounted stays, and of its set the others would be gone.
    fn is_shut(&self, id: &SetId, member: &SnapshotMember) -> Result<(), AgentError> {
        let copy = member.name.subvolume.directory();
        let Some(label) = copy.and_then(|_| volume_of(member.path.as_path())) else { return Ok(()) };
        match lvm::opened(self.btrfs.lvm(), &label) {
            Ok(None) => Ok(()),
            Ok(Some(name)) => Err(AgentError::failed(format!(
                "set `{id}` is in use: volume `{name}` is open, as one that is mounted is; unmount it and try again"
            ))),
            Err(error) => Err(undone(id, &error)),
        }
    }

    /// Pins a set, or frees it again; durable when it returns.
    ///
    /// # Errors
    /// If there is none of that name, it cannot be pinned so, or its record cannot be written.
    pub(super) fn pin_as(&self, id: &SetId, order: &PinOrder) -> Result<(), AgentError> {
        match order {
            PinOrder::Soft => {
                self.of_ours(id)?;
                self.say(id, |meta| (meta.pinned, meta.marked) = (true, true))
            }
            PinOrder::Hard => self.pin_hard(id),
            PinOrder::Off { allow_loss } => self.unpin(id, *allow_loss),
        }
    }

    /// # Errors
    /// If there is no such set, or it is another tool's, to which no word of ours means anything.
    pub(super) fn of_ours(&self, id: &SetId) -> Result<(), AgentError> {
        match self.published(id)?.maker {
            None => Ok(()),
            Some(maker) => Err(AgentError::failed(format!(
                "set `{id}` is {maker}'s, which may remove it at any time; tell {maker} to keep it"
            ))),
        }
    }

    /// Changes what is said of a set; durable when it returns.
    ///
    /// # Errors
    /// As [`Store::pin`].
    pub(super) fn say(&self, id: &SetId, change: impl FnOnce(&mut Meta)) -> Result<(), AgentError> {
        self.published(id)?;
        let _creation = self.lock()?;
        let mut meta = self.published(id)?;
        change(&mut meta);
        let written = self.sidecar(id).put_meta(&meta);
        written.map_err(|error| AgentError::io(format!("cannot write the record of set `{id}`"), &error))
    }

    /// Returns the record of a whole set.
    ///
    /// # Errors
    /// If there is none of that name.
    pub(super) fn published(&self, id: &SetId) -> Result<Meta, AgentError> {
        let sidecar = self.sidecar(id);
        if !sidecar.has_toc() {
            return Err(AgentError::failed(format!("there is no set `{id}` in `{}`", self.dir().display())));
        }
        sidecar
            .meta(id)
            .map_err(|error| AgentError::io(format!("cannot read the record of set `{id}`"), &error))
    }

    /// Removes what the intent of a set without a `toc` names, wherever it stands, and then what lies beside it. Without an
    /// intent nothing is removed. May be done again after a crash.
    pub(super) fn erase(&self, id: &SetId) -> io::Result<()> {
        let sidecar = self.sidecar(id);
        let Some(intent) = sidecar.intent(id) else { return sidecar.remove_bare() };
        let result = self.destroy_all(id, &intent);
        // Deleting is durable only after a commit (facts/btrfs.md B1): until then a crash brings members back, and what
        // names them must still be there.
        self.btrfs.sync(self.dir())?;
        self.sync_homes(intent.homes())?;
        (self.after)("sync");
        result?;
        self.bury(id)
    }

    /// Removes the members that an intent names, wherever they stand; not durable yet.
    fn destroy_all(&self, id: &SetId, intent: &Intent) -> io::Result<()> {
        let meta = self.sidecar(id).meta(id).ok();
        let mut result = Ok(());
        for (n, planned) in intent.members.iter().enumerate() {
            let name = planned.name.to_string();
            let (place, cradles) = match &planned.home {
                Some(home) => {
                    if let Err(error) = home.at_hand(self.btrfs) {
                        // Nobody knows what is there: it is removed when it can be seen again.
                        result = result.and(Err(error));
                        continue;
                    }
                    (home.dir.as_path(), home.cradles(&id.session))
                }
                None => (self.dir(), self.cradles(&id.session)),
            };
            let cradle = cradles.join(n.to_string());
            for parent in [place, &cradle] {
                result = result.and(self.destroy(parent, &name, planned, meta.as_ref()));
                (self.after)("member");
            }
        }
        result
    }

    /// Removes what lies beside a set whose members are gone for good.
    fn bury(&self, id: &SetId) -> io::Result<()> {
        remove_cradles(&self.cradles(&id.session))?;
        for home in self.sidecar(id).intent(id).iter().flat_map(Intent::homes) {
            remove_cradles(&home.cradles(&id.session))?;
        }
        self.sidecar(id).remove()
    }

    fn destroy(&self, parent: &Path, name: &str, planned: &Planned, meta: Option<&Meta>) -> io::Result<()> {
        let path = parent.join(name);
        let info = match self.btrfs.subvolume(&path) {
            // The volume of one that lies in a volume may be gone alone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return match fs::symlink_metadata(&path) {
                    Ok(_) => self.btrfs.destroy(parent, OsStr::new(name)),
                    Err(_) => Ok(()),
                };
            }
            other => other?,
        };
        match is_ours(&info, planned, meta) {
            true => self.btrfs.destroy_id(parent, info.id).map_err(|error| {
                io::Error::new(error.kind(), format!("`{}`: {}", path.display(), stays(&error)))
            }),
            // Somebody has put another one in its place.
            false => Ok(()),
        }
    }
}

fn undone(id: &SetId, error: &io::Error) -> AgentError {
    AgentError::io(format!("cannot remove set `{id}`"), error)
}

/// Whether what stands under a member's name is what the set made.
fn is_ours(info: &SubvolumeInfo, planned: &Planned, meta: Option<&Meta>) -> bool {
    let mut recorded = meta.into_iter().flat_map(|meta| &meta.set.members);
    let is_recorded = match recorded.find(|member| member.name == planned.name) {
        Some(member) => member.uuid == info.uuid.hex(),
        None => true,
    };
    is_recorded && info.source_uuid.hex() == planned.source_uuid
}
