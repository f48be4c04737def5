//! Bringing back what a set holds, with the access rights of whoever asks.

use std::os::fd::OwnedFd;

use pc_switcher_contract::{BytePath, Hostname, SetId, SnapshotMember, SnapshotSet, SubvolumeName, UtcStamp};

use super::apart::is_at_hand;
use super::compare::open_dir;
use super::opened::Opened;
use super::reference::Reference;
use super::spot::Spot;
use super::store::Store;
use super::{Said, check_member, copies, set, volumes};
use crate::data::restore::{Owner, Source, Staged, Target, holds, stage};
use crate::data::trees::{Copied, Form};
use crate::linux::btrfs::Btrfs;
use crate::linux::caller::Person;
use crate::linux::lvm::never;
use crate::linux::mounts::Mounts;
use crate::linux::rollback::own_below;
use crate::linux::trees::list_of;
use crate::proto::{AgentError, CreateSet, RestorePlace, RestoreReply, RestoreRequest, Restored};
use crate::server::Call;

/// A path, and the snapshot that holds it.
pub(super) struct Wanted {
    pub(super) spot: Spot,
    root: Opened,
}

impl Wanted {
    fn source(&self) -> Source<'_> {
        self.spot.source(&self.root)
    }
}

impl Store<'_> {
    /// Restores all paths of a request, or none.
    ///
    /// # Errors
    /// If the set is not what was taken, or a path cannot be read or written by whoever asks.
    pub(super) fn restore(
        &self,
        mounts: &Mounts,
        hostname: &Hostname,
        request: &RestoreRequest,
        call: &Call,
    ) -> Result<RestoreReply, AgentError> {
        let person = Person::find(request.uid)?;
        let owner = Owner { uid: person.uid, gid: person.gid, groups: person.groups.clone() };
        let id = &request.id;
        let set = self.readable(id)?;
        let _reference = Reference::take(&self.sidecar(id))
            .map_err(|error| AgentError::io(format!("cannot hold set `{id}`"), &error))?
            .ok_or_else(|| AgentError::failed(format!("set `{id}` is being removed")))?;
        let stop = || call.is_cancelled();
        let mut wanted = Vec::new();
        for spot in self.spots(mounts, &request.paths, Some(&set))? {
            let member = set.member(&spot.subvolume);
            member.map_or(Ok(()), |member| is_at_hand(self.btrfs, member)).map_err(|why| {
                AgentError::failed(format!(
                    "nothing is restored: set `{id}` cannot say what it has of `{}`: {why}",
                    spot.path
                ))
            })?;
            let found = match member {
                // One that is gone holds nothing; what is wrong with one that is there is to be known.
                Some(member) if open_dir(&member.path).is_ok() => {
                    Some(self.opened(member, &spot.inside, &stop)?)
                }
                _ => None,
            };
            let found = found.map(|root| Wanted { spot: spot.clone(), root });
            let held = match found {
                Some(one) => person.act(|| holds(&one.source()))?.then_some(one),
                None => None,
            };
            match held {
                Some(one) => wanted.push(one),
                None => {
                    // While a disk is away its paths lie on what is below the mount point, which never had them.
                    let away =
                        |one: &SnapshotMember| Some((one.name.clone(), is_at_hand(self.btrfs, one).err()?));
                    if let Some((name, why)) = set.members.iter().find_map(away) {
                        return Err(AgentError::failed(format!(
                            "nothing is restored: `{}` may lie in `{name}` of set `{id}`, and nobody can look: {why}",
                            spot.path
                        )));
                    }
                    let nearest = self.nearest(id, &spot, &person);
                    return Ok(RestoreReply::Missing { path: spot.path, nearest });
                }
            }
        }
        check(self.btrfs, &wanted, &set, &request.place)?;
        apart(&wanted, &request.place)?;
        if copies::form_of(&set) == Some(Form::Volume) {
            volumes::has_room(self.btrfs, mounts, &wanted, &request.place)?;
        }
        let stage_one = |one: &Wanted| {
            let named = set_name(&one.spot);
            let (parent, is_named) = match &request.place {
                RestorePlace::Into(dir) => (dir, true),
                RestorePlace::Beside | RestorePlace::InPlace(_) => (&one.spot.parent, false),
            };
            let target = Target { parent, name: &named, is_named };
            stage(&one.source(), &target, request.tag.as_str(), &owner, &stop)
        };
        let staged: Vec<Staged> =
            person.act(|| wanted.iter().map(stage_one).collect::<Result<Vec<_>, _>>())?;
        let safety = match &request.place {
            RestorePlace::InPlace(safety) => {
                let form = copies::form_of(&set);
                Some(self.take_safety(mounts, hostname, (safety, form), &wanted, &stop)?)
            }
            RestorePlace::Beside | RestorePlace::Into(_) => None,
        };
        // Opened while we are root still: nobody else gets into the snapshot directory.
        let roots = wanted.iter().map(|one| self.member_of(&safety.as_ref()?.0, &one.spot));
        let roots: Vec<Option<Opened>> = roots.collect();
        let lists = wanted.iter().map(|one| self.copied_of(&safety.as_ref()?.0, &one.spot));
        let lists: Vec<Option<Copied>> = lists.collect();
        let restored = person.act(|| {
            let all = wanted.iter().zip(staged).zip(roots.iter().zip(&lists));
            let place = |((one, staged), (root, list)): ((&Wanted, Staged), Held<'_>)| {
                put(&request.place, request.stamp, one, staged, (root.as_deref(), list.as_ref()))
            };
            all.map(place).collect::<Result<Vec<_>, _>>()
        })?;
        Ok(RestoreReply::Done { restored, safety: safety.map(|(set, _)| set.id()) })
    }

    /// Opens the member that holds a path.
    pub(super) fn member_of(&self, set: &SnapshotSet, spot: &Spot) -> Option<Opened> {
        let member = set.member(&spot.subvolume)?;
        self.rooted(member, &never).ok()
    }

    /// Returns of what the copy was made that holds a path; `None` if it is a snapshot, or its list cannot be read.
    fn copied_of(&self, set: &SnapshotSet, spot: &Spot) -> Option<Copied> {
        let member = set.member(&spot.subvolume)?;
        spot.subvolume.directory()?;
        Copied::read(&list_of(self.dir(), &member.name), &spot.inside).ok()
    }

    /// Returns the set that holds a path and is nearest in time to one that does not.
    fn nearest(&self, id: &SetId, spot: &Spot, person: &Person) -> Option<SetId> {
        let mut ids = self.ids().ok()?;
        let distance =
            |other: &SetId| other.stamp.timestamp().duration_since(id.stamp.timestamp()).unsigned_abs();
        ids.sort_by_key(|other| (distance(other), other.clone()));
        ids.into_iter().filter(|other| other != id).find(|other| {
            let Ok(set) = self.readable(other) else { return false };
            let member = set.member(&spot.subvolume);
            // Nothing would be restored from one that is not what was taken.
            let member = member.filter(|member| check_member(self.btrfs, member).is_ok());
            let Some(root) = member.and_then(|member| self.rooted(member, &never).ok()) else { return false };
            person.act(|| holds(&spot.source(&root))).unwrap_or(false)
        })
    }

    /// Takes the set that everything can be brought back from.
    fn take_safety(
        &self,
        mounts: &Mounts,
        hostname: &Hostname,
        (safety, form): (&CreateSet, Option<Form>),
        wanted: &[Wanted],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<(SnapshotSet, Option<Reference>), AgentError> {
        let mut request = safety.set.clone();
        if let Some(form) = form {
            request.subvolumes = wanted.iter().map(|one| one.spot.subvolume.clone()).collect();
            request.subvolumes.sort();
            request.subvolumes.dedup();
            let (created, reference) = copies::copy(self.btrfs, mounts, (&request, safety), form, stop)?;
            return Ok((created.set, reference));
        }
        let mut add = |name: &SubvolumeName| {
            if !request.subvolumes.contains(name) {
                request.subvolumes.push(name.clone());
            }
        };
        wanted.iter().for_each(|one| add(&one.spot.subvolume));
        let said = Said { pinned: safety.pinned, words: safety.words.clone() };
        set::take(self, mounts, hostname.clone(), &request, &said)
    }
}

/// Returns the name that a restored thing has: that of the subvolume where all of it is wanted.
fn set_name(spot: &Spot) -> Vec<u8> {
    match spot.path.name() {
        b"" => spot.subvolume.as_str().as_bytes().to_vec(),
        name => name.to_vec(),
    }
}

/// Checks what must hold before anything is written.
fn check(
    btrfs: &dyn Btrfs,
    wanted: &[Wanted],
    set: &SnapshotSet,
    place: &RestorePlace,
) -> Result<(), AgentError> {
    for one in wanted {
        let member = set.member(&one.spot.subvolume);
        member.map_or(Ok(()), |member| check_member(btrfs, member)).map_err(|why| {
            AgentError::failed(format!("nothing is restored from a set that is not what was taken: {why}"))
        })?;
        let is_into = matches!(place, RestorePlace::Into(_));
        if one.spot.inside.is_empty() && !is_into {
            return Err(AgentError::failed(format!(
                "`{}` is a whole subvolume; restore what is in it, or name a directory with `--to DIR`",
                one.spot.path
            )));
        }
        let in_place = matches!(place, RestorePlace::InPlace(_));
        if let Some(inner) = one.spot.holds.first().filter(|_| in_place) {
            return Err(AgentError::failed(format!(
                "`{}` cannot be replaced as a whole: `{inner}` is a mount or a subvolume of its own; restore what is \
                 beside it",
                one.spot.path
            )));
        }
    }
    Ok(())
}

/// Checks that no path is in the way of another.
fn apart(wanted: &[Wanted], place: &RestorePlace) -> Result<(), AgentError> {
    for (n, one) in wanted.iter().enumerate() {
        for other in &wanted[n + 1..] {
            let (a, b) = (&one.spot, &other.spot);
            let is_clash = match place {
                RestorePlace::Into(_) => set_name(a) == set_name(b),
                RestorePlace::Beside => a.real == b.real,
                RestorePlace::InPlace(_) => a.real.is_within(&b.real) || b.real.is_within(&a.real),
            };
            if is_clash {
                return Err(AgentError::failed(format!(
                    "nothing was restored: `{}` and `{}` would come to stand in one place; restore one after the other",
                    a.path, b.path
                )));
            }
        }
    }
    Ok(())
}

/// Says what was not replaced because it belongs to the machine; nothing if that is nothing.
fn stayed(path: &BytePath, kept: &[BytePath]) -> Option<String> {
    let first = path.join(kept.first()?.as_bytes());
    let more = match kept.len() {
        1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    Some(format!("`{first}`{more} belongs to this machine and stayed as it is"))
}

/// The root of the member that holds what is there now, and of what it was made if it is a copy.
type Held<'a> = (&'a Option<Opened>, &'a Option<Copied>);

/// Puts what was staged into its place.
fn put(
    place: &RestorePlace,
    stamp: UtcStamp,
    one: &Wanted,
    mut staged: Staged,
    (safety, copied): (Option<&OwnedFd>, Option<&Copied>),
) -> Result<Restored, AgentError> {
    let (entries, bytes) = (staged.entries, staged.bytes);
    let mut notes = std::mem::take(&mut staged.notes);
    if matches!(place, RestorePlace::InPlace(_)) {
        // Who this machine is, who may log in and what we remember is no matter of a restore.
        let own = own_below(one.spot.real.as_path(), staged.path().as_path())?;
        notes.extend(stayed(&one.spot.path, &staged.keep(own)?));
    }
    let (to, kept) = match (place, safety) {
        (RestorePlace::Beside, _) => (staged.beside(stamp)?, None),
        (RestorePlace::Into(_), _) => (staged.under_its_name()?, None),
        (RestorePlace::InPlace(_), Some(root)) => staged.in_place(&one.spot.source(root), copied, stamp)?,
        (RestorePlace::InPlace(_), None) => {
            return Err(AgentError::failed("the set that was taken for safety cannot be opened"));
        }
    };
    Ok(Restored { path: one.spot.path.clone(), to, entries, bytes, kept, notes })
}
