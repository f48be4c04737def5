//! Taking a set.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use pc_switcher_contract::{
    Apart, BytePath, Hostname, SetId, SnapshotMember, SnapshotName, SnapshotSet, SubvolumeName,
};

use super::apart::Home;
use super::nursery::{Cradle, Lasts, Nursery};
use super::reference::Reference;
use super::sidecar::{Planned, Said};
use super::store::Store;
use super::system;
use super::untouched;
use crate::data::trees::Form;
use crate::linux::btrfs::{Btrfs, SubvolumeInfo};
use crate::linux::finder::Finder;
use crate::linux::mounts::{Mounts, is_plain};
use crate::linux::trees::{form_of, uuid_of};
use crate::proto::{AgentError, SubvolumeFact, TakeSet};

/// How often a set is taken anew to get it into one transaction; a try misses in about 6 of 100 cases under load.
const TRIES: usize = 5;

/// Takes a set. It cannot be removed while the reference is held.
pub(super) fn take(
    store: &Store<'_>,
    mounts: &Mounts,
    hostname: Hostname,
    request: &TakeSet,
    said: &Said,
) -> Result<(SnapshotSet, Option<Reference>), AgentError> {
    let sources = sources(store.btrfs, mounts, request)?;
    take_with(store, Some(mounts), &sources, hostname, request, said, &Of::Running)
}

/// Takes a set of these trees, wherever they stand; of the request only the names count. Which system they are of is not known.
pub(super) fn take_of(
    store: &Store<'_>,
    sources: &[SubvolumeFact],
    hostname: Hostname,
    request: &TakeSet,
    said: &Said,
) -> Result<(SnapshotSet, Option<Reference>), AgentError> {
    take_with(store, None, sources, hostname, request, said, &Of::Trees)
}

/// As [`take_of`], of snapshots: in which transaction the state of each was taken is said for each. `far` are further members, which
/// stand on other file systems already and stay as they are.
pub(super) fn take_again(
    store: &Store<'_>,
    sources: &[SubvolumeFact],
    hostname: Hostname,
    request: &TakeSet,
    said: &Said,
    (first_taken, far): (&[u64], &[SnapshotMember]),
) -> Result<(SnapshotSet, Option<Reference>), AgentError> {
    take_with(store, None, sources, hostname, request, said, &Of::Snapshots { first_taken, far })
}

/// What a set is taken of.
enum Of<'a> {
    /// The system that runs.
    Running,
    /// Trees of one that does not.
    Trees,
    /// Snapshots that were taken in these transactions, beside others that stay where they are.
    Snapshots { first_taken: &'a [u64], far: &'a [SnapshotMember] },
}

impl Of<'_> {
    /// Has the members, which stand in the order of what they are of, say when their state was taken.
    fn dated(&self, members: Vec<SnapshotMember>) -> Vec<SnapshotMember> {
        match self {
            Of::Running | Of::Trees => members,
            Of::Snapshots { first_taken, .. } => members
                .into_iter()
                .zip(*first_taken)
                .map(|(member, first)| SnapshotMember { first_taken: Some(*first), ..member })
                .collect(),
        }
    }

    /// Returns all members of the set, those that were made here first.
    fn whole(&self, members: Vec<SnapshotMember>, apart: &[Option<Apart>]) -> Vec<SnapshotMember> {
        let mut members = standing(self.dated(members), apart);
        if let Of::Snapshots { far, .. } = self {
            members.extend_from_slice(far);
        }
        members
    }
}

fn take_with(
    store: &Store<'_>,
    mounts: Option<&Mounts>,
    sources: &[SubvolumeFact],
    hostname: Hostname,
    request: &TakeSet,
    said: &Said,
    of: &Of<'_>,
) -> Result<(SnapshotSet, Option<Reference>), AgentError> {
    let (btrfs, snapshot_dir) = (store.btrfs, store.dir());
    let names = names(sources, request)?;
    let is_copies = sources.iter().any(|source| source.name.directory().is_some());
    let homes = match is_copies {
        true => vec![None; sources.len()],
        false => store.homes(mounts, sources)?,
    };
    let is_at_home = homes.iter().all(Option::is_none);
    let planned = names.into_iter().zip(sources).zip(&homes);
    let planned = planned
        .map(|((name, source), home)| Planned { name, source_uuid: source.uuid.clone(), home: home.clone() })
        .collect();
    let TakeSet { session, stamp, kind, .. } = request.clone();
    let id = SetId { stamp, session: session.clone(), kind };
    // What is born on another file system commits nothing of this one.
    let lasts = if is_copies || !is_at_home { Lasts::AtOnce } else { Lasts::FromBirth };
    let nursery = Nursery::open(store, store.lock()?, id, planned, lasts)?;
    let apart =
        store.apart(&homes).map_err(|error| AgentError::io("cannot prepare the snapshots", &error))?;
    let (root, known) = (store.root.clone(), store.known_system());
    let mut looking = matches!(of, Of::Running).then(|| thread::spawn(move || system::look(&root, known)));
    let mut looked = None;
    let unpublished = |error: io::Error| AgentError::io("cannot publish the snapshots", &error);
    for attempt in 1.. {
        let last = attempt == TRIES;
        let born = give_birth(btrfs, snapshot_dir, &nursery.cradles, sources)?;
        (store.after)("born");
        // Copies are made one file after the other, and volumes taken one after the other: no number could prove that they
        // are of one instant.
        let consistent = match (of, is_copies) {
            (_, true) => is_one_volume(&nursery.cradles),
            // What they are of does not change any more.
            (Of::Snapshots { first_taken, far }, false) => {
                let there: Vec<Option<Home>> = far.iter().map(Home::of).collect();
                agree(&homes, first_taken.iter().copied())
                    && agree(&there, far.iter().map(SnapshotMember::order))
            }
            (Of::Running | Of::Trees, false) => agree(&homes, born.iter().map(|info| info.otransid)),
        };
        if consistent || is_copies || last || matches!(of, Of::Snapshots { .. }) {
            let members =
                nursery.cradles.iter().zip(&born).map(|(cradle, info)| member(cradle, info)).collect();
            let members = of.whole(members, &apart);
            let (hostname, session) = (hostname.clone(), session.clone());
            let set = SnapshotSet { hostname, kind, stamp, session, consistent, members };
            if let Some(looking) = looking.take() {
                looked = looking.join().unwrap_or_default();
            }
            // A copy is closed without any commit, and what lies elsewhere with none of this file system.
            let ready = match is_copies || !is_at_home {
                true => None,
                false => Some(nursery.prepare(&set, said, looked.as_ref()).map_err(unpublished)?),
            };
            (store.after)("written");
            let meanwhile = || ready.as_ref().map_or(Ok(()), |ready| ready.sync().map_err(unpublished));
            match publish(store, &nursery.cradles, sources, meanwhile)? {
                Published::Whole(members) => {
                    let members = of.whole(members, &apart);
                    let is_ready = ready.is_some() && members == set.members;
                    let set = SnapshotSet { members, ..set };
                    let reference = match is_ready {
                        true => nursery.finish_prepared(),
                        false => nursery.finish(&set, said, looked.as_ref()),
                    };
                    return Ok((set, reference.map_err(unpublished)?));
                }
                Published::Touched(name) if last => {
                    let text = format!("snapshot `{name}` is written to as soon as it is made");
                    return Err(AgentError::failed(text));
                }
                Published::Touched(_) => {}
            }
        }
        nursery.clear().map_err(|error| AgentError::io("cannot take the snapshots again", &error))?;
    }
    unreachable!("the last try returns")
}

/// The subvolumes of the request, seen.
pub(super) fn sources(
    btrfs: &dyn Btrfs,
    mounts: &Mounts,
    request: &TakeSet,
) -> Result<Vec<SubvolumeFact>, AgentError> {
    if !is_plain(request.snapshot_dir.as_path()) {
        return Err(AgentError::failed(format!("`{}` is not a plain absolute path", request.snapshot_dir)));
    }
    let finder = Finder::new(btrfs, mounts, &[&request.snapshot_dir])?;
    let mut sources = Vec::new();
    for subvolume in &request.subvolumes {
        let fact = match subvolume.directory() {
            Some(place) => copied(subvolume, place),
            None => finder.by_name(subvolume).ok_or_else(|| {
                AgentError::failed(format!("subvolume `{subvolume}` does not exist or is not mounted"))
            })?,
        };
        if sources.contains(&fact) {
            return Err(AgentError::protocol(format!("subvolume `{subvolume}` is named twice")));
        }
        sources.push(fact);
    }
    Ok(sources)
}

/// A directory that is copied, as a source.
pub(super) fn copied(name: &SubvolumeName, place: BytePath) -> SubvolumeFact {
    SubvolumeFact {
        name: name.clone(),
        mount_point: place,
        uuid: uuid_of(name).hex(),
        id: 0,
        fs_uuid: String::new(),
        generation: 0,
    }
}

/// The names that the snapshots of these will have.
fn names(sources: &[SubvolumeFact], request: &TakeSet) -> Result<Vec<SnapshotName>, AgentError> {
    if sources.is_empty() {
        return Err(AgentError::protocol("a set of no subvolumes"));
    }
    let name = |source: &SubvolumeFact| {
        let name = SnapshotName {
            subvolume: source.name.clone(),
            kind: request.kind,
            stamp: request.stamp,
            session: request.session.clone(),
        };
        match name.to_string().len() {
            0..=255 => Ok(name),
            _ => Err(AgentError::failed(format!("the name `{name}` is longer than 255 bytes"))),
        }
    };
    sources.iter().map(name).collect()
}

/// Whether the transactions of all that lies on one file system are one; those of two have nothing in common.
fn agree(homes: &[Option<Home>], transactions: impl Iterator<Item = u64>) -> bool {
    let mut first: Vec<(Option<&str>, u64)> = Vec::new();
    homes.iter().zip(transactions).all(|(home, transaction)| {
        let fs = home.as_ref().map(|home| home.fs_uuid.as_str());
        match first.iter().find(|(known, _)| *known == fs) {
            Some((_, known)) => *known == transaction,
            None => {
                first.push((fs, transaction));
                true
            }
        }
    })
}

/// Has the members say where they stand, if that is another file system.
fn standing(members: Vec<SnapshotMember>, apart: &[Option<Apart>]) -> Vec<SnapshotMember> {
    let all = members.into_iter().zip(apart);
    all.map(|(member, apart)| SnapshotMember { apart: apart.clone(), ..member }).collect()
}

/// Makes all snapshots at once and returns what the kernel knows of them.
fn give_birth(
    btrfs: &dyn Btrfs,
    snapshot_dir: &Path,
    cradles: &[Cradle],
    sources: &[SubvolumeFact],
) -> Result<Vec<SubvolumeInfo>, AgentError> {
    // Real threads into separate directories, right after a commit was started: see facts/btrfs.md B62 and B63.
    let start = Barrier::new(cradles.len() + 1);
    let results: Vec<io::Result<SubvolumeInfo>> = thread::scope(|scope| {
        let threads: Vec<_> = cradles
            .iter()
            .zip(sources)
            .map(|(cradle, source)| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    let name = cradle.born.file_name().unwrap_or_default();
                    btrfs.snapshot(source.mount_point.as_path(), &cradle.dir, name)?;
                    btrfs.subvolume(&cradle.born)
                })
            })
            .collect();
        let homes = cradles.iter().map(|cradle| cradle.home.as_ref());
        let places: BTreeSet<&Path> =
            homes.map(|home| home.map_or(snapshot_dir, |home| home.dir.as_path())).collect();
        for place in places {
            // If it fails the snapshots still come, and the comparison tells what they are.
            let _ = btrfs.start_sync(place);
        }
        start.wait();
        let lost = || Err(io::Error::other("the thread that takes it panicked"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| lost())).collect()
    });
    let worded = results
        .into_iter()
        .zip(sources)
        .map(|(result, source)| result.map_err(|error| wrong(&error, &source.name.shown(), snapshot_dir)));
    worded.collect()
}

/// Whether all there is was taken at once, as a volume is.
fn is_one_volume(cradles: &[Cradle]) -> bool {
    matches!(cradles, [only] if form_of(&only.born) == Some(Form::Volume))
}

pub(super) enum Published {
    Whole(Vec<SnapshotMember>),
    Touched(SnapshotName),
}

/// Returns what is recorded of a member.
fn member(cradle: &Cradle, info: &SubvolumeInfo) -> SnapshotMember {
    SnapshotMember {
        name: cradle.name.clone(),
        path: cradle.flat.as_path().into(),
        uuid: info.uuid.hex(),
        source_uuid: info.source_uuid.hex(),
        id: info.id,
        otransid: info.otransid,
        ctransid: info.ctransid,
        first_taken: None,
        apart: None,
    }
}

/// Moves the members to their names, makes them read-only and checks them; `meanwhile` is done beside the middle part.
pub(super) fn publish(
    store: &Store<'_>,
    cradles: &[Cradle],
    sources: &[SubvolumeFact],
    meanwhile: impl FnOnce() -> Result<(), AgentError>,
) -> Result<Published, AgentError> {
    let btrfs = store.btrfs;
    let failed = |cradle: &Cradle, error: &io::Error| {
        AgentError::io(format!("cannot publish snapshot `{}`", cradle.name), error)
    };
    for cradle in cradles {
        btrfs.rename(&cradle.born, &cradle.flat).map_err(|error| failed(cradle, &error))?;
        (store.after)("moved");
    }
    // Each flip commits, the moves included, and the kernel lets no two do so at one time.
    let (beside, flips) = thread::scope(|scope| {
        let threads: Vec<_> =
            cradles.iter().map(|cradle| scope.spawn(|| btrfs.set_readonly(&cradle.flat, true))).collect();
        let lost = || Err(io::Error::other("the thread that does it panicked"));
        let beside = meanwhile();
        let flips = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| lost()));
        (beside, flips.collect::<Vec<io::Result<()>>>())
    });
    beside?;
    for (cradle, flip) in cradles.iter().zip(flips) {
        flip.map_err(|error| failed(cradle, &error))?;
    }
    (store.after)("frozen");
    let mut members = Vec::new();
    for (cradle, source) in cradles.iter().zip(sources) {
        let info = btrfs.subvolume(&cradle.flat).map_err(|error| failed(cradle, &error))?;
        if info.source_uuid.hex() != source.uuid {
            let text = format!("`{}` was replaced while it was taken", source.name);
            return Err(AgentError::failed(text));
        }
        if untouched(&info).is_err() {
            return Ok(Published::Touched(cradle.name.clone()));
        }
        members.push(member(cradle, &info));
    }
    Ok(Published::Whole(members))
}

/// Words what the kernel said when a snapshot was asked for, with what to try next.
pub(super) fn wrong(error: &io::Error, subvolume: &str, snapshot_dir: &Path) -> AgentError {
    let dir = snapshot_dir.display();
    let hint = match error.raw_os_error() {
        Some(libc::EXDEV) => format!(
            "it lies on another file system than `{dir}`, and snapshots stay on that of their subvolume; leave it out of `subvolumes` in \
             [btrfs-snapshots], or move what is in it"
        ),
        Some(libc::ETXTBSY) => {
            "a swap file in it is in use; move it to a subvolume of its own or `swapoff` it".into()
        }
        Some(libc::ENOSPC | libc::EDQUOT) => "the disk is full; remove old snapshots or balance it".into(),
        Some(libc::EPERM) => "root is needed".into(),
        Some(libc::ENOTTY) => return AgentError::failed(format!("`{dir}` lies on no btrfs")),
        Some(libc::ECANCELED) => return AgentError::cancelled(),
        Some(libc::EROFS) => format!("`{dir}` is mounted read-only"),
        _ => return AgentError::io(format!("cannot take a snapshot of `{subvolume}`"), error),
    };
    AgentError {
        message: format!("cannot take a snapshot of `{subvolume}`: {hint}"),
        ..AgentError::io("", error)
    }
}
