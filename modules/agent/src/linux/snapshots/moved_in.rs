//! Sets that lie in another directory, as after `snapshot_dir` got a subvolume of its own: a read-only snapshot cannot be moved
//! (facts/btrfs.md B19), so each is snapshotted once more, and what it was made of stays for whoever removes it.
//!
//! By btrfs such a member is the newest of all: the transaction of what it was made of stands in its record, so that it is as old
//! for retention, forecasts and lists as its state is.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use pc_switcher_contract::{Apart, BytePath, Hostname, SetId, SnapshotMember, SnapshotName};

use super::check_member;
use super::set;
use super::sidecar::{Intent, Meta, Said};
use super::store::{OWN, Store};
use crate::linux::btrfs::SubvolumeInfo;
use crate::proto::{Adopted, AgentError, AgentErrorKind, SubvolumeFact, TakeSet, Words};

/// A snapshot with a name of ours that lies elsewhere.
struct Found {
    path: BytePath,
    name: SnapshotName,
    info: SubvolumeInfo,
}

impl Store<'_> {
    /// Takes sets of what lies in these directories under names of ours, in the order in which btrfs made them.
    ///
    /// # Errors
    /// If a directory cannot be read, or the disk is full.
    pub(super) fn take_in(&self, hostname: &Hostname, dirs: &[BytePath]) -> Result<Adopted, AgentError> {
        let mut adopted = Adopted::default();
        for dir in dirs {
            if fs::canonicalize(dir.as_path()).ok() == fs::canonicalize(self.dir()).ok() {
                let text = format!(
                    "`{dir}` is where our snapshots lie; what is lost there is found without `--dir`"
                );
                return Err(AgentError::failed(text));
            }
            let mut sets = self.named_in(dir, &mut adopted)?;
            sets.sort_by_key(|(_, members)| members.iter().map(|one| one.info.otransid).min());
            let seen: BTreeSet<SetId> = sets.iter().map(|(id, _)| id.clone()).collect();
            for (id, members) in sets {
                self.take_one_in(hostname, dir, id, members, &mut adopted)?;
            }
            self.leave_far(dir, &seen, &mut adopted);
            adopted.looked.push(dir.clone());
        }
        Ok(adopted)
    }

    /// Names what lies on other disks and is of sets of which nothing lies in the directory but their records.
    fn leave_far(&self, dir: &BytePath, seen: &BTreeSet<SetId>, adopted: &mut Adopted) {
        let before = Store::new(self.btrfs, dir.as_path());
        let unseen = before.ids().unwrap_or_default().into_iter().filter(|id| !seen.contains(id));
        for meta in unseen.filter_map(|id| before.published(&id).ok()) {
            let far = meta.set.members.into_iter().filter(|member| member.apart.is_some());
            let why = format!("nothing of its set lies in `{dir}`, whose record is what names it: keep that");
            adopted.left.extend(far.map(|member| (member.path, why.clone())));
        }
    }

    /// Returns the snapshots in a directory that have names of ours, set by set; what is in doubt is left.
    fn named_in(
        &self,
        dir: &BytePath,
        adopted: &mut Adopted,
    ) -> Result<Vec<(SetId, Vec<Found>)>, AgentError> {
        let failed = |error: std::io::Error| AgentError::io(format!("cannot read `{dir}`"), &error);
        let mut sets: BTreeMap<SetId, Vec<Found>> = BTreeMap::new();
        let flat =
            fs::read_dir(dir.as_path()).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(failed)?;
        let is_there: BTreeSet<OsString> = flat.iter().map(fs::DirEntry::file_name).collect();
        // Of what another tool removed the pin is left.
        let pins = fs::read_dir(dir.as_path().join(OWN).join("pins")).into_iter().flatten().flatten();
        let pinned = pins.flat_map(|pin| fs::read_dir(pin.path()).into_iter().flatten().flatten());
        let pinned: Vec<fs::DirEntry> =
            pinned.filter(|entry| !is_there.contains(&entry.file_name())).collect();
        for entry in flat.into_iter().chain(pinned) {
            let path = BytePath::from(entry.path().as_path());
            let name = entry.file_name().to_str().and_then(|name| name.parse::<SnapshotName>().ok());
            let Some(name) = name else {
                if entry.file_name() != OWN {
                    adopted.left.push((path, "it has no name of pc-switcher's".into()));
                }
                continue;
            };
            if name.subvolume.directory().is_some() {
                let why = "it is a copy of a directory: `snapshots export` and `import` bring its set over";
                adopted.left.push((path, why.into()));
                continue;
            }
            let id = SetId { stamp: name.stamp, session: name.session.clone(), kind: name.kind };
            match self.btrfs.subvolume(path.as_path()) {
                Ok(info) => sets.entry(id).or_default().push(Found { path, name, info }),
                Err(error) => adopted.left.push((path, error.to_string())),
            }
        }
        Ok(sets.into_iter().collect())
    }

    fn take_one_in(
        &self,
        hostname: &Hostname,
        dir: &BytePath,
        id: SetId,
        members: Vec<Found>,
        adopted: &mut Adopted,
    ) -> Result<(), AgentError> {
        let before = Store::new(self.btrfs, dir.as_path());
        let record = before.published(&id).ok();
        let far = self.far(record.as_ref());
        if let Ok(known) = self.published(&id) {
            let named = far.into_iter().filter(|one| known.set.members.iter().any(|it| it.uuid == one.uuid));
            hand_over(&before, &id, &named.collect::<Vec<_>>(), adopted);
            let has = |one: &Found| {
                let is_it = |it: &SnapshotMember| {
                    it.source_uuid == one.info.uuid.hex() || self.is_same(it, one, record.as_ref())
                };
                known.set.members.iter().any(is_it)
            };
            match members.iter().all(has) {
                true => adopted.known += 1,
                false => {
                    let left = members.into_iter().filter(|one| !has(one));
                    adopted
                        .left
                        .extend(left.map(|one| (one.path, format!("set `{id}` is there without it"))));
                }
            }
            return Ok(());
        }
        let (mut sources, mut first_taken) = (Vec::new(), Vec::new());
        for Found { path, name, info } in members {
            let subvolume = name.subvolume.clone();
            match self.orphan(&id, &path, name).and_then(|_| self.source(&path, subvolume, &info)) {
                Ok(source) => {
                    first_taken.push(first(record.as_ref(), &info));
                    sources.push(source);
                }
                Err(why) => adopted.left.push((path, why)),
            }
        }
        let Some(first) = sources.first().map(|source| source.mount_point.clone()) else { return Ok(()) };
        let SetId { stamp, session, kind } = id.clone();
        let request =
            TakeSet { session, stamp, kind, snapshot_dir: self.dir().into(), subvolumes: Vec::new() };
        let hostname = record.as_ref().map_or(hostname, |meta| &meta.set.hostname).clone();
        let (said, others) = (said(record.as_ref(), dir), (&first_taken[..], &far[..]));
        match set::take_again(self, &sources, hostname, &request, &said, others) {
            Ok(_) => {
                hand_over(&before, &id, &far, adopted);
                for member in far {
                    if let Err(why) = check_member(self.btrfs, &member) {
                        let why = format!("set `{id}` came in and names it, but cannot have it now: {why}");
                        adopted.left.push((member.path, why));
                    }
                }
                adopted.sets.push(id);
            }
            Err(error) if error.kind == AgentErrorKind::NoSpace => return Err(error),
            Err(error) => adopted.left.push((first, error.message)),
        }
        Ok(())
    }

    /// Returns the members that lie on other disks: they stay as they are, and the record that comes in names them as well, also those
    /// that are away or gone, so that it is not believed to be whole without them.
    fn far(&self, record: Option<&Meta>) -> Vec<SnapshotMember> {
        let members = record.into_iter().flat_map(|meta| &meta.set.members);
        let here = |member: &SnapshotMember| {
            let apart = Apart { dir: self.dir().into(), ..member.apart.clone()? };
            Some(SnapshotMember { apart: Some(apart), ..member.clone() })
        };
        members.filter_map(here).collect()
    }

    /// Whether a member that is here holds the state of a snapshot there that it was not made of itself: both came from the same one,
    /// over more than one directory.
    fn is_same(&self, member: &SnapshotMember, found: &Found, record: Option<&Meta>) -> bool {
        let is_untouched = found.info.readonly && found.info.ctransid <= found.info.otransid;
        let fs_uuid = |path: &Path| self.btrfs.fs_uuid(path).ok();
        let here = fs_uuid(self.dir());
        member.name == found.name
            && member.order() == first(record, &found.info)
            && is_untouched
            && here.is_some()
            && here == fs_uuid(found.path.as_path())
    }

    fn source(
        &self,
        path: &BytePath,
        name: pc_switcher_contract::SubvolumeName,
        info: &SubvolumeInfo,
    ) -> Result<SubvolumeFact, String> {
        let fs_uuid = self.btrfs.fs_uuid(path.as_path()).map_err(|error| error.to_string())?.dashed();
        Ok(SubvolumeFact {
            name,
            mount_point: path.clone(),
            uuid: info.uuid.hex(),
            id: info.id,
            fs_uuid,
            generation: info.generation,
        })
    }
}

/// Has the record that a set came in from name these members no more: what removes it there would remove them, and two sets would own
/// them.
fn hand_over(before: &Store<'_>, id: &SetId, far: &[SnapshotMember], adopted: &mut Adopted) {
    let Some(first) = far.first() else { return };
    let write = || -> Result<(), AgentError> {
        let _creation = before.lock()?;
        let mut meta = before.published(id)?;
        meta.set.members.retain(|member| far.iter().all(|one| one.uuid != member.uuid));
        let sidecar = before.sidecar(id);
        // The intent is made of the record, when it comes to that.
        let written = sidecar.put_meta(&meta).and_then(|()| sidecar.put_intent(&Intent::of(&meta.set)));
        written.map_err(|error| AgentError::io(format!("cannot write the record of set `{id}`"), &error))
    };
    if let Err(error) = write() {
        let dir = before.dir().display();
        let why = format!(
            "it is of set `{id}` here now, and the record in `{dir}` names it still: remove no set there ({error})"
        );
        adopted.left.push((first.path.clone(), why));
    }
}

/// In which transaction the state of a snapshot was taken: it may have come from elsewhere to where it lies, too.
fn first(record: Option<&Meta>, info: &SubvolumeInfo) -> u64 {
    let known = record.and_then(|meta| meta.set.members.iter().find(|member| member.uuid == info.uuid.hex()));
    known.map_or(info.otransid, SnapshotMember::order)
}

/// What is said of a set that came from elsewhere: what was said of it there, but for the mark of a good one, which is given to what
/// stands where a rollback finds it. It is pinned: whether its sync changed something here nobody knows any more.
fn said(record: Option<&Meta>, dir: &BytePath) -> Said {
    let mut words = record.map(|meta| meta.words.clone()).unwrap_or_default();
    let note = words.note.take().unwrap_or_else(|| format!("it lay in `{dir}`"));
    let words = Words { note: Some(note), good: false, good_by: Default::default(), ..words };
    Said { pinned: true, words }
}
