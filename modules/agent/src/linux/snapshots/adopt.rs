//! Taking up snapshots that are in no set: those of other tools, and those of our own whose record is lost.
//!
//! Of another tool's snapshot a record is made and nothing else: it stays where it is, under its name, and is never removed,
//! moved or written to by us. When its tool removes it, the record goes with the next change to the store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pc_switcher_contract::{
    BytePath, Hostname, SetId, SnapshotKind, SnapshotMember, SnapshotName, SnapshotSet, SubvolumeName,
    UtcStamp,
};

use super::layouts::{Find, finds, place_of, usual_dirs};
use super::sidecar::{Intent, Meta, Said};
use super::store::{Store, make_lasting_dir};
use super::untouched;
use crate::linux::btrfs::SubvolumeInfo;
use crate::linux::finder::Finder;
use crate::linux::mounts::Mounts;
use crate::proto::{AdoptRequest, Adopted, AgentError, Maker, Words};

/// A snapshot that stands where others put it.
type Seen = (PathBuf, SubvolumeName, SubvolumeInfo);

impl Store<'_> {
    /// Takes up what one maker has. What is in doubt is left alone, with the reason.
    ///
    /// # Errors
    /// If a directory that was named cannot be read, or the store cannot be written to.
    pub(super) fn adopt(
        &self,
        mounts: &Mounts,
        hostname: &Hostname,
        request: &AdoptRequest,
    ) -> Result<Adopted, AgentError> {
        if request.from == Maker::Orphan && !request.dirs.is_empty() {
            // Each set that is taken has the lock by itself.
            return self.take_in(hostname, &request.dirs);
        }
        let _creation = self.lock()?;
        match request.from {
            Maker::Orphan => self.adopt_orphans(hostname),
            maker => self.adopt_foreign(maker, mounts, hostname, &request.dirs),
        }
    }

    fn adopt_foreign(
        &self,
        maker: Maker,
        mounts: &Mounts,
        hostname: &Hostname,
        dirs: &[BytePath],
    ) -> Result<Adopted, AgentError> {
        let finder = self.finder(mounts)?;
        let mut adopted = Adopted::default();
        let dirs = match dirs {
            [] => usual_dirs(maker, self.dir(), mounts),
            named => named.iter().map(|dir| dir.as_path().to_owned()).collect(),
        };
        for dir in dirs {
            let found = finds(maker, &dir)
                .map_err(|error| AgentError::io(format!("cannot read `{}`", dir.display()), &error))?;
            for find in found {
                let path = BytePath::from(find.members[0].0.as_path());
                match self.record_of(maker, &dir, &finder, hostname, find) {
                    Ok(meta) => self.take_up(&meta, &path, &mut adopted)?,
                    Err(why) => adopted.left.push((path, why)),
                }
            }
            adopted.looked.push(dir.as_path().into());
        }
        Ok(adopted)
    }

    /// Makes the record of what another tool took at one moment, or says why it cannot be one.
    fn record_of(
        &self,
        maker: Maker,
        dir: &Path,
        finder: &Finder<'_>,
        hostname: &Hostname,
        find: Find,
    ) -> Result<Meta, String> {
        let mut seen: Vec<Seen> = Vec::new();
        for (path, named) in find.members {
            let at_root =
                self.btrfs.inside(&path).map_err(|error| format!("it cannot be looked at: {error}"))?;
            if !at_root.is_empty() {
                return Err("it is no subvolume".into());
            }
            let info = self.btrfs.subvolume(&path).map_err(|error| error.to_string())?;
            let place = place_of(maker, dir);
            let source = source_of(self, finder, &info, place.as_ref())
                .or_else(|| named.and_then(|name| name.parse().ok()))
                .ok_or("it is not known of which subvolume that can be seen it was taken")?;
            seen.push((path, source, info));
        }
        let (_, _, first) = &seen[0];
        let stamp = jiff::Timestamp::from_second(first.created_seconds).map_err(|error| error.to_string())?;
        let session = first.uuid.hex()[..8].parse().map_err(|_| "it has no uuid")?;
        let (stamp, kind) = (UtcStamp::new(stamp), SnapshotKind::Manual);
        let member = |(path, subvolume, info): &Seen| {
            let name =
                SnapshotName { subvolume: subvolume.clone(), kind, stamp, session: Clone::clone(&session) };
            member(name, path, info)
        };
        let members: Vec<SnapshotMember> = seen.iter().map(member).collect();
        let set = SnapshotSet {
            hostname: hostname.clone(),
            kind,
            stamp,
            consistent: members.iter().all(|member| member.otransid == members[0].otransid),
            session: session.clone(),
            members,
        };
        let words = Words { note: find.note, ..Words::default() };
        Ok(Meta::foreign(set, &Said { pinned: false, words }, maker))
    }

    fn take_up(&self, meta: &Meta, path: &BytePath, adopted: &mut Adopted) -> Result<(), AgentError> {
        let id = meta.set.id();
        if self.sidecar(&id).has_toc() {
            match self.published(&id) {
                Ok(known) if known.set == meta.set => adopted.known += 1,
                _ => adopted.left.push((path.clone(), format!("a set is called `{id}` already"))),
            }
            return Ok(());
        }
        self.put_record(meta)?;
        adopted.sets.push(id);
        Ok(())
    }

    /// Writes a record of what is there already. Its intent names no members: of what a crash leaves half made the record
    /// alone is removed.
    fn put_record(&self, meta: &Meta) -> Result<(), AgentError> {
        let id = meta.set.id();
        let sidecar = self.sidecar(&id);
        let put = || {
            make_lasting_dir(sidecar.dir())?;
            sidecar.put_intent(&Intent::new(Vec::new()))?;
            (self.after)("intent");
            if meta.maker.is_some() {
                sidecar.mark_foreign()?;
            }
            sidecar.put_meta(meta)?;
            (self.after)("meta");
            sidecar.publish(&meta.set)?;
            (self.after)("toc");
            Ok(())
        };
        put().map_err(|error| AgentError::io(format!("cannot write the record of set `{id}`"), &error))
    }

    /// Takes snapshots with names of ours that are in no set back into one.
    fn adopt_orphans(&self, hostname: &Hostname) -> Result<Adopted, AgentError> {
        let strays = self.list(&|_| Vec::new(), &mut |_| Ok(()))?;
        let mut adopted = Adopted { looked: vec![self.dir().into()], ..Adopted::default() };
        let mut sets: BTreeMap<SetId, Vec<(BytePath, SnapshotName)>> = BTreeMap::new();
        for path in strays.orphans {
            let name = path.as_path().file_name().and_then(|name| name.to_str());
            if let Some(name) = name.and_then(|name| name.parse::<SnapshotName>().ok()) {
                let id = SetId { stamp: name.stamp, session: name.session.clone(), kind: name.kind };
                sets.entry(id).or_default().push((path, name));
            }
        }
        for (id, found) in sets {
            let mut members = Vec::new();
            for (path, name) in found {
                match self.orphan(&id, &path, name) {
                    Ok(member) => members.push(member),
                    Err(why) => adopted.left.push((path, why)),
                }
            }
            let Some(first) = members.first() else { continue };
            let consistent = members.iter().all(|member| member.otransid == first.otransid);
            let SetId { stamp, session, kind } = id.clone();
            let set = SnapshotSet { hostname: hostname.clone(), kind, stamp, session, consistent, members };
            let note = Some("its record was lost; it may have had more members".to_owned());
            // Whether its sync changed something here is lost as well, so no rule can judge it.
            let said = Said { pinned: true, words: Words { note, ..Words::default() } };
            self.put_record(&Meta::new(set, &said))?;
            adopted.sets.push(id);
        }
        Ok(adopted)
    }

    /// Checks one that may come back into a set.
    pub(super) fn orphan(
        &self,
        id: &SetId,
        path: &BytePath,
        name: SnapshotName,
    ) -> Result<SnapshotMember, String> {
        if self.sidecar(id).has_toc() {
            return Err(format!("set `{id}` is there without it"));
        }
        let at_root =
            self.btrfs.inside(path.as_path()).map_err(|error| format!("it cannot be looked at: {error}"))?;
        if !at_root.is_empty() {
            return Err("it is no subvolume".into());
        }
        let info = self.btrfs.subvolume(path.as_path()).map_err(|error| error.to_string())?;
        untouched(&info).map_err(|why| format!("it {why}, so it is not what was taken"))?;
        if info.source_uuid == Default::default() {
            return Err("it is no snapshot of a subvolume".into());
        }
        Ok(member(name, path.as_path(), &info))
    }
}

fn member(name: SnapshotName, path: &Path, info: &SubvolumeInfo) -> SnapshotMember {
    SnapshotMember {
        name,
        path: path.into(),
        uuid: info.uuid.hex(),
        source_uuid: info.source_uuid.hex(),
        id: info.id,
        otransid: info.otransid,
        ctransid: info.ctransid,
        first_taken: None,
        apart: None,
    }
}

/// Finds out of which subvolume a snapshot was taken: by what btrfs says, and else by where it lies.
fn source_of(
    store: &Store<'_>,
    finder: &Finder<'_>,
    info: &SubvolumeInfo,
    place: Option<&BytePath>,
) -> Option<SubvolumeName> {
    let facts = || finder.known().into_iter().filter_map(|name| finder.by_name(&name));
    let by_uuid = |uuid: &str| facts().find(|fact| fact.uuid == uuid).map(|fact| fact.name);
    by_uuid(&info.source_uuid.hex()).or_else(|| {
        let live = store.btrfs.subvolume(place?.as_path()).ok()?;
        by_uuid(&live.uuid.hex())
    })
}
