//! Versions of a file over all sets.
//!
//! Sets of volumes are looked at one after the other: each takes a device and a mount for as long as it is read. The content of such
//! a file is read only where nothing else tells it from another.

use pc_switcher_contract::{BytePath, SetId, SnapshotMember};
use rustix::io::Errno;

use super::compare::open_dir;
use super::opened::{Opened, holds_file, is_archive, is_volume};
use super::spot::Spot;
use super::store::Store;
use crate::data::restore::live;
use crate::data::seen::Seen;
use crate::data::versions::{Grouped, Look, are_alike, is_one};
use crate::linux::caller::Person;
use crate::linux::mounts::Mounts;
use crate::proto::{AgentError, AgentErrorKind, Versions, VersionsRequest};
use crate::server::Call;

/// The sets that could not be read, with the reason.
type Unread = Vec<(SetId, String)>;

/// Where a set has the file.
enum Place {
    /// In a tree that is open.
    Open(Opened),
    /// In a volume, as it was seen there; its content if that had to be read.
    Volume { member: Box<SnapshotMember>, seen: Option<Seen>, digest: Option<[u8; 32]> },
}

impl Store<'_> {
    /// Returns the versions of a file.
    ///
    /// # Errors
    /// If the path lies on no subvolume that a set could hold, or cannot be read.
    pub(super) fn versions(
        &self,
        mounts: &Mounts,
        request: &VersionsRequest,
        call: &Call,
    ) -> Result<Versions, AgentError> {
        let person = Person::find(request.uid)?;
        let spots = self.spots(mounts, std::slice::from_ref(&request.path), None)?;
        let Some(spot) = spots.first() else { return Err(AgentError::protocol("no path")) };
        let failed = |error: Errno| worded(spot, error);
        let stop = || call.is_cancelled();
        let mut unread = Vec::new();
        let mut places = self.places(spot, &mut unread, &stop)?;
        person.act(|| match live::is_out_of_reach(&spot.real) {
            true => Err(AgentError::failed(format!(
                "`{}` may not be reached by you; root may, with `sudo`",
                request.path
            ))),
            false => Ok(()),
        })?;
        self.look_into_volumes(spot, (&person, &mut places, &mut unread), &stop)?;
        // Opened with the person's rights: what lies above it may be closed to them.
        let parent = person.act(|| match open_dir(&spot.parent) {
            Ok(parent) => Ok(Some(parent)),
            Err(_) if std::fs::symlink_metadata(spot.parent.as_path()).is_err() => Ok(None),
            Err(error) => Err(error),
        })?;
        let name = BytePath::new(spot.inside.name());
        let now =
            parent.as_ref().map(|root| Look { id: None, root: Some(root), inside: &name, digest: None });
        let seen_now = match &now {
            Some(look) => person.act(|| look.seen().map_err(failed))?,
            None => None,
        };
        let mut seen = vec![seen_now];
        for (_, place) in &places {
            seen.push(match place {
                Place::Open(root) => person.act(|| {
                    let look = Look { id: None, root: Some(root), inside: &spot.inside, digest: None };
                    look.seen().map_err(failed)
                })?,
                Place::Volume { seen, .. } => seen.clone(),
            });
        }
        self.read_where_alike(spot, (&person, &mut places, &mut unread), &seen, &stop)?;
        person.act(|| {
            let (mut grouped, mut without) = (Grouped::default(), Vec::new());
            let mut seen = seen.into_iter();
            if let (Some(look), Some(Some(seen))) = (now, seen.next()) {
                grouped.add(look, seen, &stop).map_err(failed)?;
            }
            for ((id, place), seen) in places.iter().zip(seen) {
                if unread.iter().any(|(other, _)| other == id) {
                    continue;
                }
                let (root, digest) = match place {
                    Place::Open(root) => (Some(&**root), None),
                    Place::Volume { digest, .. } => (None, *digest),
                };
                let look = Look { id: Some(id.clone()), root, inside: &spot.inside, digest };
                match seen {
                    Some(seen) => grouped.add(look, seen, &stop).map_err(failed)?,
                    None => without.push(id.clone()),
                }
            }
            Ok(Versions { versions: grouped.finish(), without, unread })
        })
    }

    /// Returns where the sets have it, the newest first; volumes are not opened.
    fn places(
        &self,
        spot: &Spot,
        unread: &mut Unread,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<(SetId, Place)>, AgentError> {
        let mut ids = self.ids().map_err(|error| AgentError::io("cannot list the sets", &error))?;
        ids.reverse();
        let mut places = Vec::new();
        for id in ids {
            if stop() {
                return Err(AgentError::cancelled());
            }
            // One that is being removed is none any more.
            let Ok(set) = self.readable(&id) else { continue };
            let Some(member) = set.member(&spot.subvolume) else { continue };
            if is_volume(member) {
                places
                    .push((id, Place::Volume { member: Box::new(member.clone()), seen: None, digest: None }));
                continue;
            }
            let raw = match self.rooted(member, stop) {
                Ok(raw) => raw,
                Err(error) => {
                    unread.push((id, error.message));
                    continue;
                }
            };
            // Only the content of files is packed.
            let is_file = is_archive(member)
                && holds_file(&raw, &spot.inside)
                    .map_err(|error| AgentError::io(format!("`{}`", spot.path), &error.into()))?;
            let root = if is_file { self.opened(member, &spot.inside, stop)? } else { raw };
            places.push((id, Place::Open(root)));
        }
        Ok(places)
    }

    /// Looks at the file in each volume, one after the other.
    fn look_into_volumes(
        &self,
        spot: &Spot,
        (person, places, unread): (&Person, &mut [(SetId, Place)], &mut Unread),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), AgentError> {
        for (id, place) in places {
            let Place::Volume { member, seen, .. } = place else { continue };
            let found = self.in_volume(member, stop, |root| {
                let look = Look { id: None, root: Some(root), inside: &spot.inside, digest: None };
                person.act(|| look.seen().map_err(|error| worded(spot, error)))
            });
            match found? {
                Ok(found) => *seen = found,
                Err(why) => unread.push((id.clone(), why)),
            }
        }
        Ok(())
    }

    /// Reads the content of files in volumes that may be the same as others, one after the other.
    fn read_where_alike(
        &self,
        spot: &Spot,
        (person, places, unread): (&Person, &mut [(SetId, Place)], &mut Unread),
        all: &[Option<Seen>],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), AgentError> {
        let mut known: Vec<(Seen, [u8; 32])> = Vec::new();
        for (id, place) in places {
            let Place::Volume { member, seen: Some(seen), digest } = place else { continue };
            if !all.iter().flatten().any(|other| are_alike(seen, other)) {
                continue;
            }
            if let Some((_, same)) = known.iter().find(|(other, _)| is_one(seen, other)) {
                *digest = Some(*same);
                continue;
            }
            let read = self.in_volume(member, stop, |root| {
                let look = Look { id: None, root: Some(root), inside: &spot.inside, digest: None };
                person.act(|| look.content(&stop).map_err(|error| worded(spot, error)))
            });
            match read? {
                Ok(read) => {
                    known.push((seen.clone(), read));
                    *digest = Some(read);
                }
                Err(why) => unread.push((id.clone(), why)),
            }
        }
        Ok(())
    }

    /// Does something with a volume while it is open; an error of the volume is no error of the whole.
    fn in_volume<T>(
        &self,
        member: &SnapshotMember,
        stop: &(dyn Fn() -> bool + Sync),
        work: impl FnOnce(&Opened) -> Result<T, AgentError>,
    ) -> Result<Result<T, String>, AgentError> {
        if stop() {
            return Err(AgentError::cancelled());
        }
        match self.rooted(member, stop) {
            Ok(root) => work(&root).map(Ok),
            Err(error) if error.kind == AgentErrorKind::Cancelled => Err(error),
            Err(error) => Ok(Err(error.message)),
        }
    }
}

fn worded(spot: &Spot, error: Errno) -> AgentError {
    match error {
        Errno::CANCELED => AgentError::cancelled(),
        error => AgentError::io(format!("`{}`", spot.path), &error.into()),
    }
}
