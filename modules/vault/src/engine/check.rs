//! Checks a repository: what the snapshots need is there, and on demand each byte of it is as it was written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use pc_switcher_contract::ErrorKind;

use super::reading::{self, Reading};
use super::{Lines, Observer, Tally, check_cancelled};
use crate::error::{Result, UNSTEADY};
use crate::format::{BlobKind, Id, Node, NodeKind, Snapshot};
use crate::repo::{Broken, Harm, Location, Repository, blob_from_pack};
use crate::store::Kind;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckSummary {
    /// Snapshots that were followed.
    pub snapshots: u64,
    /// Packs that the index knows.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// The packs that were read and are as they were written.
    pub read: Vec<Id>,
    /// The packs that were read and are not.
    pub unsound: Vec<Id>,
    /// All packs that are there and in an index.
    pub there: Vec<Id>,
    /// Packs that no index knows: left over from a run that was killed, harmless.
    pub unknown_packs: u64,
    /// Chunks that are lost of what snapshots need.
    pub lost_chunks: HashSet<Id>,
    /// All that is wrong.
    pub problems: Lines,
}

/// Checks a repository, and reads as many of its packs as is said.
///
/// # Errors
/// If the place cannot be read or the run was cancelled; damages are in the summary.
pub fn check(repo: &Repository, reading: &Reading<'_>, observer: &dyn Observer) -> Result<CheckSummary> {
    // Snapshots before the index: a snapshot that is there has its index there.
    let (snapshots, broken) = repo.snapshots_found()?;
    let told = |kind: Kind, broken: &Broken| format!("{} `{}`: {}", kind.noun(), broken.name, broken.why);
    let mut problems = Lines::default();
    broken.iter().for_each(|one| problems.push(|| told(Kind::Snapshot, one)));
    let (files, lost) = repo.index_found()?;
    lost.iter().for_each(|one| {
        problems.push(|| match one.harm {
            Harm::Damaged => format!("{}; `bt repair` makes it anew", told(Kind::Index, one)),
            Harm::Unsteady | Harm::Foreign => told(Kind::Index, one),
        });
    });
    repo.know(files.iter().flat_map(|(_, file)| &file.packs));
    let packs: BTreeMap<String, u64> = repo.store().list(Kind::Pack)?.into_iter().collect();
    let indexed = repo.indexed();
    let mut summary = CheckSummary {
        snapshots: snapshots.len() as u64,
        packs: indexed.len() as u64,
        bytes: packs.values().sum(),
        unknown_packs: packs
            .keys()
            .filter(|name| name.parse().is_ok_and(|id: Id| !indexed.contains_key(&id)))
            .count() as u64,
        problems,
        ..CheckSummary::default()
    };
    let (mut there, mut lacking) = (Vec::new(), Lines::default());
    for (id, blobs) in &indexed {
        let end = blobs.iter().map(|(_, at)| u64::from(at.offset) + u64::from(at.length)).max().unwrap_or(0);
        match packs.get(&id.hex()) {
            None => {
                lacking.push(|| format!("pack `{id}` is missing, and {} blobs with it", blobs.len()));
                continue;
            }
            Some(size) if *size < end => {
                lacking.push(|| format!("pack `{id}` is cut short: {size} bytes of {end}"));
            }
            Some(_) => {}
        }
        there.push((*id, packs.get(&id.hex()).copied().unwrap_or(0)));
    }
    there.sort_unstable();
    summary.problems.add(lacking);
    let lost;
    (lost, summary.lost_chunks) = follow(repo, &snapshots, observer)?;
    summary.problems.add(lost);
    read(repo, &indexed, &reading.choose(&there), &mut summary, observer)?;
    summary.there = there.into_iter().map(|(id, _)| id).collect();
    summary.problems.sort();
    Ok(summary)
}

/// Follows snapshots and names what they lack of what they need: a line for each path in each of them, as far as lines are kept.
///
/// # Errors
/// If the place cannot be read, or the run was cancelled: what cannot be fetched is not lost.
pub(super) fn lost_in(
    repo: &Repository,
    snapshots: &[(Id, Snapshot)],
    observer: &dyn Observer,
) -> Result<Lines> {
    follow(repo, snapshots, observer).map(|(lost, _)| lost)
}

/// As [`lost_in`], with the chunks that are lost.
fn follow(
    repo: &Repository,
    snapshots: &[(Id, Snapshot)],
    observer: &dyn Observer,
) -> Result<(Lines, HashSet<Id>)> {
    let tally = Tally::new(observer, repo.tree_bytes());
    let mut follower = Follower {
        repo,
        tally,
        known: HashMap::new(),
        broken: HashMap::new(),
        lost: Lines::default(),
        chunks: HashSet::new(),
    };
    for (id, snapshot) in snapshots {
        follower.follow(snapshot.tree, &format!("snapshot `{}`", id.short()))?;
    }
    Ok((follower.lost, follower.chunks))
}

/// Follows each tree once, however many paths lead to it; one that lacks something once more for each path that is still named. Of a
/// tree only the number of lines is kept: what they say would be kept for each directory above it.
struct Follower<'f> {
    repo: &'f Repository,
    tally: Tally<'f>,
    /// How many lines each tree is good for.
    known: HashMap<Id, u64>,
    /// Why trees cannot be read of which that is said once more: whoever finds it out reads a pack again.
    broken: HashMap<Id, String>,
    lost: Lines,
    chunks: HashSet<Id>,
}

impl Follower<'_> {
    /// Takes the lines of a tree to which this path leads, and returns how many they are.
    fn follow(&mut self, tree: Id, path: &str) -> Result<u64> {
        let known = self.known.get(&tree).copied();
        if let Some(count) = known.filter(|count| *count == 0 || !self.lost.has_room()) {
            self.lost.count_more(count);
            return Ok(count);
        }
        check_cancelled(&self.tally)?;
        if known.is_none() {
            let length = self.repo.find(BlobKind::Tree, &tree).map_or(0, |at| at.length.into());
            self.tally.add(Path::new(&tree.short()), length);
        }
        let before = self.lost.count();
        if self.repo.lies_as_other(BlobKind::Tree, &tree) {
            self.lost.push(|| {
                format!(
                    "{path}: its tree `{tree}` lies in the vault as the content of a file alone; `bt prune` stores it as a tree, too"
                )
            });
        }
        let found = match self.broken.get(&tree) {
            Some(why) => Err(why.clone()),
            None => self.repo.tree_found(tree)?,
        };
        let nodes = match found {
            Ok(tree) => tree.nodes,
            Err(why) => {
                if self.lost.has_room() {
                    self.broken.insert(tree, why.clone());
                }
                self.lost.push(|| format!("{path}: {why}"));
                Vec::new()
            }
        };
        for node in nodes {
            let path = || format!("{path}/{}", node.name.display());
            match (node.kind, node.subtree) {
                (NodeKind::Dir, Some(subtree)) => {
                    // Most need no path: they are known, and lack nothing.
                    let is_sound = self.known.get(&subtree) == Some(&0);
                    if !is_sound {
                        self.follow(subtree, &path())?;
                    }
                }
                (NodeKind::Dir, None) => {
                    self.lost.push(|| format!("{}: the directory has no tree", path()));
                }
                _ => self.chunks.extend(lost_chunks(self.repo, &node, |why| {
                    self.lost.push(|| format!("{}: {why}", path()));
                })),
            }
        }
        let count = self.lost.count() - before;
        self.known.insert(tree, count);
        Ok(count)
    }
}

/// Says what a file lacks of its content, and returns the chunks that are lost.
fn lost_chunks(repo: &Repository, node: &Node, mut say: impl FnMut(String)) -> Vec<Id> {
    let is_missing = |id: &&Id| repo.find(BlobKind::Data, id).is_none();
    let (odd, lost): (Vec<Id>, Vec<Id>) = (node.content.iter().flatten().filter(is_missing))
        .partition(|id| repo.lies_as_other(BlobKind::Data, id));
    let odd = odd.len();
    if odd > 0 {
        say(format!(
            "{odd} of its chunks lie in the vault as trees alone; `bt prune` stores them as content, too"
        ));
    }
    if !lost.is_empty() {
        say(format!("{} of its chunks are in no index", lost.len()));
    }
    lost
}

fn read(
    repo: &Repository,
    indexed: &HashMap<Id, Vec<(Id, Location)>>,
    packs: &[(Id, u64)],
    summary: &mut CheckSummary,
    observer: &dyn Observer,
) -> Result<()> {
    let problems = Mutex::new(Lines::default());
    let found = reading::each_pack(packs, observer, |id| {
        let found = read_pack(repo, id, indexed.get(&id).map_or(&[], |blobs| blobs))?;
        let is_sound = found.is_empty();
        let mut problems = problems.lock().unwrap_or_else(PoisonError::into_inner);
        found.into_iter().for_each(|one| problems.push(|| one));
        Ok(is_sound)
    })?;
    summary.read_bytes = packs.iter().map(|(_, size)| size).sum();
    for (id, is_sound) in found {
        let list = if is_sound { &mut summary.read } else { &mut summary.unsound };
        list.push(id);
    }
    summary.problems.add(problems.into_inner().unwrap_or_else(PoisonError::into_inner));
    Ok(())
}

/// Reads a pack and returns all that is wrong with it.
///
/// # Errors
/// If it cannot be fetched: of a disk that does not give it that is a damage.
fn read_pack(repo: &Repository, id: Id, blobs: &[(Id, Location)]) -> Result<Vec<String>> {
    let bytes = match repo.store().get(Kind::Pack, &id.hex()) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(vec![format!("pack `{id}` is missing")]),
        Err(error) if error.kind != ErrorKind::Failed => return Err(error),
        Err(error) => return Ok(vec![format!("pack `{id}`: {error}")]),
    };
    let mut problems = Vec::new();
    if Id::of(&bytes) != id {
        problems.push(format!("pack `{id}` is not as it was written"));
    }
    if let Err(why) = repo.header_in(&bytes) {
        problems.push(format!("pack `{id}`: {why}"));
    }
    for (blob, at) in blobs {
        let start = at.offset as usize;
        let sealed = bytes.get(start..start + at.length as usize);
        let opened = sealed.ok_or_else(|| format!("blob `{blob}` is cut off"));
        if let Err(why) = opened.and_then(|sealed| blob_from_pack(repo.key(), sealed, *blob, at)) {
            problems.push(format!("pack `{id}`: {why}"));
        }
    }
    if !problems.is_empty() {
        match repo.reads_differ(Kind::Pack, &id.hex(), &bytes) {
            Ok(false) => {}
            Ok(true) => problems.push(format!("pack `{id}`: {UNSTEADY}")),
            Err(error) => problems.push(format!("pack `{id}` cannot be read a second time: {error}")),
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use pc_switcher_contract::ModuleError;

    use super::*;
    use crate::engine::Quiet;
    use crate::format::Tree;
    use crate::format::keyfile::Cost;
    use crate::repo::{Who, Writer};
    use crate::store::MemoryStore;
    use crate::store::faults::Faults;

    /// Returns a vault in which two snapshots have a directory twice of which a file is lost.
    fn lacking() -> (Arc<MemoryStore>, Vec<(Id, Snapshot)>) {
        let (store, now) = (Arc::new(MemoryStore::default()), Timestamp::UNIX_EPOCH);
        let repo = Repository::init(store.clone(), b"x", Cost::TINY, &Who::default(), now).unwrap();
        let writer = Writer::new(&repo).unwrap();
        let mut packer = writer.packer(BlobKind::Tree).unwrap();
        let mut put = |nodes: Vec<Node>| packer.add(&Tree { nodes }.to_blob().unwrap()).unwrap();
        let mut file = Node::new("letter".into(), NodeKind::File);
        file.content = Some(vec![Id::of(b"gone")]);
        let inner = put(vec![file]);
        let directory = |name: &str| {
            let mut node = Node::new(name.into(), NodeKind::Dir);
            node.subtree = Some(inner);
            node
        };
        let tree = put(vec![directory("a"), directory("b")]);
        packer.flush().unwrap();
        writer.index().unwrap();
        for time in ["2026-01-02T12:00:00Z", "2026-01-03T12:00:00Z"] {
            let text = format!(r#"{{"time":"{time}","tree":"{tree}"}}"#);
            let snapshot: Snapshot = serde_json::from_str(&text).unwrap();
            repo.save(Kind::Snapshot, &snapshot).unwrap();
        }
        (store, repo.snapshots().unwrap())
    }

    #[test]
    fn each_path_in_each_snapshot_is_named_that_lacks_something() {
        let (store, snapshots) = lacking();
        let repo = Repository::open(store, b"x").unwrap();
        repo.load_index().unwrap();
        let found = lost_in(&repo, &snapshots, &Quiet::default()).unwrap();
        let line = |(id, _): &(Id, Snapshot), path: &str| {
            format!("snapshot `{}`/{path}/letter: 1 of its chunks are in no index", id.short())
        };
        let expected: Vec<String> =
            snapshots.iter().flat_map(|one| [line(one, "a"), line(one, "b")]).collect();
        assert_eq!(found.kept(), expected);
    }

    #[test]
    fn of_very_many_paths_that_are_lost_all_are_counted_and_the_first_named_and_no_tree_is_read_for_the_others()
     {
        let (store, now) = (Arc::new(MemoryStore::default()), Timestamp::UNIX_EPOCH);
        let repo = Repository::init(store.clone(), b"x", Cost::TINY, &Who::default(), now).unwrap();
        let writer = Writer::new(&repo).unwrap();
        let mut packer = writer.packer(BlobKind::Tree).unwrap();
        let mut put = |nodes: Vec<Node>| packer.add(&Tree { nodes }.to_blob().unwrap()).unwrap();
        let files = (0..300).map(|number| {
            let mut file = Node::new(format!("{number:03}").into(), NodeKind::File);
            file.content = Some(vec![Id::of(b"gone")]);
            file
        });
        let mut tree = put(files.collect());
        for _ in 0..20 {
            let directory = |name: &str, tree: Id| {
                let mut node = Node::new(name.into(), NodeKind::Dir);
                node.subtree = Some(tree);
                node
            };
            // Each doubles what lies below.
            tree = put(vec![directory("a", tree), directory("b", tree)]);
        }
        packer.flush().unwrap();
        writer.index().unwrap();
        let text = format!(r#"{{"time":"2026-01-02T12:00:00Z","tree":"{tree}"}}"#);
        let snapshots = vec![(Id::of(b"one"), serde_json::from_str::<Snapshot>(&text).unwrap()); 3];
        let faults = Arc::new(Faults::on(&store));
        let repo = Repository::open(faults.clone(), b"x").unwrap();
        repo.load_index().unwrap();
        let before = faults.calls();
        let found = lost_in(&repo, &snapshots, &Quiet::default()).unwrap();
        let all = 3 * 300 * (1 << 20);
        assert_eq!((found.kept().len(), found.count(), found.more()), (1000, all, all - 1000));
        assert!(found.kept()[999].contains("/a/b/b/099: "), "{}", found.kept()[999]);
        assert!(faults.calls() - before < 40, "{} reads", faults.calls() - before);
    }

    #[test]
    fn what_cannot_be_fetched_is_not_lost() {
        let (store, snapshots) = lacking();
        let faults = Faults::on(&store).that_fails(|call| {
            let is_hit = call.kind == Kind::Pack && call.what != "list";
            is_hit.then(|| ModuleError::new(ErrorKind::Unreachable, "the line is cut"))
        });
        let repo = Repository::open(Arc::new(faults), b"x").unwrap();
        repo.load_index().unwrap();
        let error = lost_in(&repo, &snapshots, &Quiet::default()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unreachable);
        let error = check(&repo, &Reading::All, &Quiet::default()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unreachable);
        // Nor is a pack that is only to be read.
        let whole = Faults::on(&store).that_fails(|call| {
            let is_hit = call.kind == Kind::Pack && call.what == "get";
            is_hit.then(|| ModuleError::new(ErrorKind::Unreachable, "the line is cut"))
        });
        let repo = Repository::open(Arc::new(whole), b"x").unwrap();
        let error = check(&repo, &Reading::All, &Quiet::default()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unreachable);
    }
}
