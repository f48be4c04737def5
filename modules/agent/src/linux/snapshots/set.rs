//! Taking a set.

use std::io;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use pc_switcher_contract::{
    BytePath, Hostname, SetId, SnapshotMember, SnapshotName, SnapshotSet, SubvolumeName,
};

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
    take_with(store, &sources, hostname, request, said, &Of::Running)
}

/// Takes a set of these trees, wherever they stand; of the request only the names count. Which system they are of is not known.
pub(super) fn take_of(
    store: &Store<'_>,
    sources: &[SubvolumeFact],
    hostname: Hostname,
    request: &TakeSet,
    said: &Said,
) -> Result<(SnapshotSet, Option<Reference>), AgentError> {
    take_with(store, sources, hostname, request, said, &Of::Trees)
}

/// As [`take_of`], of snapshots: in which transaction the state of each was taken is said for each.
pub(super) fn take_again(
    store: &Store<'_>,
    sources: &[SubvolumeFact],
    hostname: Hostname,
    request: &TakeSet,
    said: &Said,
    first_taken: &[u64],
) -> Result<(SnapshotSet, Option<Reference>), AgentError> {
    take_with(store, sources, hostname, request, said, &Of::Snapshots(first_taken))
}

/// What a set is taken of.
enum Of<'a> {
    /// The system that runs.
    Running,
    /// Trees of one that does not.
    Trees,
    /// Snapshots that were taken in these transactions.
    Snapshots(&'a [u64]),
}

impl Of<'_> {
    /// Has the members, which stand in the order of what they are of, say when their state was taken.
    fn dated(&self, members: Vec<SnapshotMember>) -> Vec<SnapshotMember> {
        match self {
            Of::Running | Of::Trees => members,
            Of::Snapshots(first_taken) => members
                .into_iter()
                .zip(*first_taken)
                .map(|(member, first)| SnapshotMember { first_taken: Some(*first), ..member })
                .collect(),
        }
    }
}

fn take_with(
    store: &Store<'_>,
    sources: &[SubvolumeFact],
    hostname: Hostname,
    request: &TakeSet,
    said: &Said,
    of: &Of<'_>,
) -> Result<(SnapshotSet, Option<Reference>), AgentError> {
    let (btrfs, snapshot_dir) = (store.btrfs, store.dir());
    let names = names(sources, request)?;
    let is_copies = sources.iter().any(|source| source.name.directory().is_some());
    if !is_copies {
        same_file_system(btrfs, snapshot_dir, sources)?;
    }
    let planned = names.into_iter().zip(sources);
    let planned = planned.map(|(name, source)| Planned { name, source_uuid: source.uuid.clone() }).collect();
    let TakeSet { session, stamp, kind, .. } = request.clone();
    let id = SetId { stamp, session: session.clone(), kind };
    let lasts = if is_copies { Lasts::AtOnce } else { Lasts::FromBirth };
    let nursery = Nursery::open(store, store.lock()?, id, planned, lasts)?;
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
            (Of::Snapshots(first_taken), false) => first_taken.iter().all(|first| *first == first_taken[0]),
            (Of::Running | Of::Trees, false) => born.iter().all(|info| info.otransid == born[0].otransid),
        };
        if consistent || is_copies || last || matches!(of, Of::Snapshots(_)) {
            let members =
                nursery.cradles.iter().zip(&born).map(|(cradle, info)| member(cradle, info)).collect();
            let members = of.dated(members);
            let (hostname, session) = (hostname.clone(), session.clone());
            let set = SnapshotSet { hostname, kind, stamp, session, consistent, members };
            if let Some(looking) = looking.take() {
                looked = looking.join().unwrap_or_default();
            }
            // A copy is closed without any commit.
            let ready = match is_copies {
                true => None,
                false => Some(nursery.prepare(&set, said, looked.as_ref()).map_err(unpublished)?),
            };
            (store.after)("written");
            let meanwhile = || ready.as_ref().map_or(Ok(()), |ready| ready.sync().map_err(unpublished));
            match publish(store, &nursery.cradles, sources, meanwhile)? {
                Published::Whole(members) => {
                    let members = of.dated(members);
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

/// Checks before anything is made that snapshots of all sources can stand in the directory.
fn same_file_system(
    btrfs: &dyn Btrfs,
    snapshot_dir: &Path,
    sources: &[SubvolumeFact],
) -> Result<(), AgentError> {
    let nearest = snapshot_dir.ancestors().find(|path| path.exists()).unwrap_or(snapshot_dir);
    let here = btrfs.fs_uuid(nearest).map_err(|error| wrong(&error, "", snapshot_dir))?.dashed();
    match sources.iter().find(|source| source.fs_uuid != here) {
        None => Ok(()),
        Some(source) => {
            let error = io::Error::from_raw_os_error(libc::EXDEV);
            Err(wrong(&error, source.name.as_str(), snapshot_dir))
        }
    }
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
        // If it fails the snapshots still come, and the comparison tells what they are.
        let _ = btrfs.start_sync(snapshot_dir);
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
fn wrong(error: &io::Error, subvolume: &str, snapshot_dir: &Path) -> AgentError {
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
