//! Changes become steps, in the order in which they can be committed.

use std::collections::{HashMap, HashSet};

use pc_switcher_agent::proto::{Body, Entry, Identity, Kind, Meta, Op, ReadWant, Rights};
use pc_switcher_contract::BytePath;

use crate::change::{Change, Found, identity, same_rights};
use crate::compare::Walk;
use crate::moves::{Moves, Placing};
use crate::need::Need;
use crate::rough::Rough;
use crate::shares::Built;

/// What a plan amounts to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// New paths.
    pub created: u64,
    /// Replaced paths.
    pub updated: u64,
    /// Paths whose metadata alone changes.
    pub metadata: u64,
    /// Paths that go.
    pub deleted: u64,
    /// Paths that move, with all below them.
    pub moved: u64,
    /// Bytes of content to move, holes not counted.
    pub bytes: u64,
}

impl Stats {
    /// Adds another part's numbers.
    pub fn add(&mut self, other: Stats) {
        self.created += other.created;
        self.updated += other.updated;
        self.metadata += other.metadata;
        self.deleted += other.deleted;
        self.moved += other.moved;
        self.bytes += other.bytes;
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.created + self.updated + self.metadata + self.deleted + self.moved == 0
    }
}

/// The steps of one part.
#[derive(Debug, Default)]
pub struct Steps {
    /// In commit order.
    pub ops: Vec<Op>,
    /// The content that the steps want, numbered.
    pub wants: Vec<ReadWant>,
    /// The version of each of these files that was planned, in the same order.
    pub versions: Vec<Identity>,
    /// The content of which they want only what changed since the last sync, numbered likewise.
    pub patches: Vec<ReadWant>,
    /// The numbers of those of them of which nothing else is read.
    pub proven: HashSet<u32>,
    /// The files of which they want the blocks that differ from what the target has, numbered likewise.
    pub rough: Vec<Rough>,
    /// The files that are made of others, numbered likewise: each list of those that come in its turn.
    pub built: Vec<Vec<Built>>,
    /// What it amounts to.
    pub stats: Stats,
    /// What it takes on the target's disk.
    pub need: Need,
    /// Directories that stay because they hold something which is never deleted.
    pub kept: Vec<BytePath>,
    /// Paths that cannot become what they are on the source for the same reason.
    pub blocked: Vec<BytePath>,
    /// Directories whose own metadata differs; other steps that set metadata of directories only follow from changes in
    /// them.
    pub changed_dirs: Vec<BytePath>,
}

impl Steps {
    /// Returns how many contents they have.
    pub fn contents(&self) -> u64 {
        let built: usize = self.built.iter().map(Vec::len).sum();
        (self.wants.len() + self.patches.len() + self.rough.len() + built) as u64
    }

    /// Leaves out the steps that need content of these paths, with all below the paths: what stands there stays as it is.
    /// Returns the paths of all these steps.
    pub fn leave_out(&mut self, paths: &HashSet<BytePath>) -> HashSet<BytePath> {
        if paths.is_empty() {
            return HashSet::new();
        }
        let is_left = |path: &BytePath| {
            std::iter::successors(Some(path.clone()), BytePath::parent).any(|above| paths.contains(&above))
        };
        let mut left: HashSet<BytePath> = HashSet::new();
        self.ops.retain(|op| {
            let (path, to) = match op {
                Op::Link { path, to, .. } => (path, Some(to)),
                Op::Put { path, .. } | Op::Remove { path, .. } | Op::RemoveDir { path } => (path, None),
                Op::SetMeta { path, .. } | Op::SetDir { path, .. } | Op::Aside { path, .. } => (path, None),
                Op::Move { path, .. } | Op::Swap { path, .. } => (path, None),
            };
            let stays = !is_left(path) && !to.is_some_and(|to| is_left(to) || left.contains(to));
            if !stays {
                left.insert(path.clone());
            }
            stays
        });
        let wants = std::mem::take(&mut self.wants).into_iter().zip(std::mem::take(&mut self.versions));
        (self.wants, self.versions) = wants.filter(|(want, _)| !is_left(&want.path)).unzip();
        self.rough.retain(|rough| !is_left(&rough.want.path));
        left
    }

    /// Returns every path that differs between the machines.
    pub fn differing(&self) -> impl Iterator<Item = &BytePath> {
        let of_op = |op| match op {
            &Op::Put { ref path, .. }
            | &Op::Link { ref path, .. }
            | &Op::Remove { ref path, .. }
            | &Op::RemoveDir { ref path }
            | &Op::SetMeta { ref path, expect: Some(_), .. }
            | &Op::Move { ref path, .. }
            | &Op::Swap { ref path, .. } => Some(path),
            &Op::SetMeta { expect: None, .. } | &Op::SetDir { .. } | &Op::Aside { .. } => None,
        };
        let left = |op| match op {
            &Op::Move { from: ref left, .. } | &Op::Swap { with: ref left, .. } => Some(left),
            _ => None,
        };
        self.ops.iter().flat_map(move |op| [of_op(op), left(op)]).flatten().chain(&self.changed_dirs)
    }
}

/// Orders paths so that a directory stands before what it holds.
pub fn path_order(a: &BytePath, b: &BytePath) -> std::cmp::Ordering {
    a.as_bytes().split(|byte| *byte == b'/').cmp(b.as_bytes().split(|byte| *byte == b'/'))
}

/// Turns changes into steps. `holding` are directories of the target with something that is never deleted; `dir_meta` is the
/// source's metadata of the directories that both have; `deltas` says of files that can be patched how many bytes changed;
/// contents are numbered from `first_content`; `moves` come first, and all else is as they leave it.
pub fn steps(
    mut found: Vec<Found>,
    holding: &[BytePath],
    dir_meta: &HashMap<BytePath, Meta>,
    deltas: &HashMap<BytePath, u64>,
    first_content: u32,
    moves: &Moves,
) -> Steps {
    let kept = with_ancestors(holding);
    found.sort_by(|a, b| path_order(&a.path, &b.path));
    let mut out = Steps::default();
    let blocked = blocked(&found, &kept);
    let mut sorted = Sorted::default();
    let mut changed_dirs: HashSet<BytePath> = HashSet::new();
    let mut next = first_content;
    for Found { path, change, theirs, .. } in found {
        if let Some(top) = blocked.iter().find(|top| path.is_within(top)) {
            if *top == path {
                out.blocked.push(path);
            }
            continue;
        }
        if !matches!(change, Change::Meta(..)) {
            changed_dirs.extend(path.parent());
        }
        match change {
            Change::Create(entry) => {
                out.stats.created += 1;
                sorted.put(path, entry, None, &mut next, &mut out);
            }
            Change::Replace(entry, old, was) => {
                out.stats.updated += 1;
                if was == Kind::Dir {
                    sorted.replaced_dirs.insert(path.clone());
                }
                let content = next;
                match deltas.get(&path).filter(|_| (was, entry.kind) == (Kind::File, Kind::File)) {
                    None => sorted.put(path, entry, Some(old), &mut next, &mut out),
                    Some(bytes) => {
                        next += 1;
                        out.stats.bytes += bytes;
                        out.need.patch(&path, &entry, *bytes);
                        out.patches.push(ReadWant { content, path: path.clone() });
                        let body = Body::Patched { content, size: entry.size };
                        sorted.puts.push(Op::Put { path, body, meta: entry.meta, replaces: Some(old) });
                    }
                }
            }
            Change::Link(to, replaces) => {
                if replaces.is_some() {
                    // It may be a directory that stands there: then what it holds goes first.
                    sorted.replaced_dirs.insert(path.clone());
                }
                match replaces {
                    Some(_) => out.stats.updated += 1,
                    None => out.stats.created += 1,
                }
                out.need.link(&path);
                sorted.links.push(Op::Link { path, to, replaces });
            }
            Change::Meta(entry, old) => {
                out.stats.metadata += 1;
                if entry.kind == Kind::Dir {
                    out.changed_dirs.push(path.clone());
                    let rights = match theirs {
                        Some(theirs) if !same_rights(&entry, &theirs) => Rights::Were(Box::new(theirs.meta)),
                        _ => Rights::Same,
                    };
                    sorted.dir_meta.insert(path, (entry.meta, rights));
                } else {
                    sorted.file_meta.push(Op::SetMeta { path, meta: entry.meta, expect: Some(old) });
                }
            }
            Change::Delete(_, Kind::Dir) => {
                if kept.contains(&path) {
                    out.kept.push(path);
                } else {
                    out.stats.deleted += 1;
                    sorted.remove_dir(path);
                }
            }
            Change::Delete(old, _) => {
                out.stats.deleted += 1;
                sorted.remove(path, old);
            }
        }
    }
    let new_dirs = sorted.take_placings(moves);
    for (from, to) in &moves.pairs {
        // Where it came from may have moved as well.
        let left = from.parent().map(|dir| moves.map(Walk::Target, &dir));
        changed_dirs.extend(left.into_iter().chain(to.parent()));
        out.need.link(to);
    }
    out.stats.moved = moves.pairs.len() as u64;
    // Made with the rights they are to have.
    sorted.dir_meta.extend(new_dirs.into_iter().map(|(path, meta)| (path, (meta, Rights::Same))));
    for dir in changed_dirs {
        if let Some(meta) = dir_meta.get(&dir) {
            sorted.dir_meta.entry(dir).or_insert_with(|| (meta.clone(), Rights::Same));
        }
    }
    if !sorted.is_empty()
        && let Some(meta) = dir_meta.get(&BytePath::default())
    {
        // Staging below the root moves its time, so it is always set again.
        sorted.dir_meta.entry(BytePath::default()).or_insert_with(|| (meta.clone(), Rights::Same));
    }
    out.need.touched = out.stats.updated
        + out.stats.metadata
        + out.stats.deleted
        + 2 * out.stats.moved
        + sorted.dir_meta.len() as u64;
    out.ops = sorted.into_ops();
    out
}

/// Returns the directories and everything above them.
fn with_ancestors(holding: &[BytePath]) -> HashSet<BytePath> {
    let mut all = HashSet::new();
    for dir in holding {
        let mut at = Some(dir.clone());
        while let Some(path) = at {
            at = path.parent();
            if !all.insert(path) {
                break;
            }
        }
    }
    all
}

/// Returns the directories that should become something else but hold what is never deleted.
fn blocked(found: &[Found], kept: &HashSet<BytePath>) -> Vec<BytePath> {
    let holds = |found: &&Found| {
        let over = matches!(&found.change, Change::Replace(_, _, Kind::Dir) | Change::Link(_, Some(_)));
        over && kept.contains(&found.path)
    };
    found.iter().filter(holds).map(|found| found.path.clone()).collect()
}

#[derive(Default)]
struct Sorted {
    /// What is there already comes to its place, with the directories that are made for it.
    placings: Vec<Op>,
    replaced_dirs: HashSet<BytePath>,
    early: Vec<Op>,
    early_dirs: Vec<Op>,
    puts: Vec<Op>,
    links: Vec<Op>,
    removes: Vec<Op>,
    remove_dirs: Vec<Op>,
    file_meta: Vec<Op>,
    dir_meta: HashMap<BytePath, (Meta, Rights)>,
}

impl Sorted {
    fn put(
        &mut self,
        path: BytePath,
        entry: Entry,
        replaces: Option<Identity>,
        next: &mut u32,
        out: &mut Steps,
    ) {
        out.need.put(&path, &entry);
        let body = match entry.kind {
            Kind::File => {
                let content = *next;
                *next += 1;
                out.stats.bytes += entry.size.min(entry.allocated.max(4096));
                out.wants.push(ReadWant { content, path: path.clone() });
                out.versions.push(identity(&entry));
                Body::File { content, size: entry.size }
            }
            Kind::Symlink => Body::Symlink(entry.target),
            Kind::Fifo => Body::Fifo,
            Kind::Dir => Body::Dir,
        };
        self.puts.push(Op::Put { path, body, meta: entry.meta, replaces });
    }

    /// Takes what comes before all else; returns the metadata of directories that are made for it.
    fn take_placings(&mut self, moves: &Moves) -> Vec<(BytePath, Meta)> {
        let wanted = moves.placings.iter().filter_map(|placing| match placing {
            Placing::NewDir(path) => Some(path),
            Placing::Move(_) => None,
        });
        let wanted: HashSet<&BytePath> = wanted.collect();
        let is_wanted = |op: &Op| matches!(op, Op::Put { path, .. } if wanted.contains(path));
        let (new, puts): (Vec<Op>, Vec<Op>) = match wanted.is_empty() {
            true => (Vec::new(), std::mem::take(&mut self.puts)),
            false => std::mem::take(&mut self.puts).into_iter().partition(is_wanted),
        };
        self.puts = puts;
        let mut new: HashMap<BytePath, (Meta, Option<Identity>)> = new
            .into_iter()
            .filter_map(|op| match op {
                Op::Put { path, meta, replaces, .. } => Some((path, (meta, replaces))),
                _ => None,
            })
            .collect();
        let mut metas = Vec::new();
        for placing in &moves.placings {
            match placing {
                Placing::Move(op) => self.placings.push(op.clone()),
                Placing::NewDir(path) => {
                    let Some((meta, replaces)) = new.remove(path) else { continue };
                    metas.push((path.clone(), meta.clone()));
                    self.placings.push(Op::Put { path: path.clone(), body: Body::Bare, meta, replaces });
                }
            }
        }
        metas
    }

    /// Whether the path lies in a directory that becomes something else: it must be empty before that.
    fn is_early(&self, path: &BytePath) -> bool {
        let mut at = path.parent();
        while let Some(dir) = at {
            if self.replaced_dirs.contains(&dir) {
                return true;
            }
            at = dir.parent();
        }
        false
    }

    fn remove(&mut self, path: BytePath, expect: Identity) {
        let early = self.is_early(&path);
        let op = Op::Remove { path, expect };
        if early { self.early.push(op) } else { self.removes.push(op) }
    }

    fn remove_dir(&mut self, path: BytePath) {
        let early = self.is_early(&path);
        let op = Op::RemoveDir { path };
        if early { self.early_dirs.push(op) } else { self.remove_dirs.push(op) }
    }

    fn is_empty(&self) -> bool {
        let lists = [
            &self.placings,
            &self.early,
            &self.early_dirs,
            &self.puts,
            &self.links,
            &self.removes,
            &self.remove_dirs,
            &self.file_meta,
        ];
        self.dir_meta.is_empty() && lists.iter().all(|list| list.is_empty())
    }

    fn into_ops(self) -> Vec<Op> {
        let mut dirs: Vec<(BytePath, (Meta, Rights))> = self.dir_meta.into_iter().collect();
        dirs.sort_by(|a, b| path_order(&b.0, &a.0));
        let mut ops = self.placings;
        ops.extend(self.early);
        ops.extend(self.early_dirs.into_iter().rev());
        ops.extend(self.puts);
        ops.extend(self.links);
        ops.extend(self.removes);
        ops.extend(self.remove_dirs.into_iter().rev());
        ops.extend(self.file_meta);
        ops.extend(dirs.into_iter().map(|(path, (meta, rights))| Op::SetDir { path, meta, rights }));
        ops
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pc_switcher_agent::proto::FileTime;

    fn entry(kind: Kind) -> Entry {
        Entry {
            name: BytePath::default(),
            kind,
            meta: Meta::default(),
            size: 10,
            allocated: 4096,
            ctime: FileTime::default(),
            ino: 1,
            nlink: 1,
            target: BytePath::default(),
        }
    }

    fn id() -> Identity {
        Identity { ino: 1, ctime: FileTime::default(), mtime: FileTime::default(), size: 0 }
    }

    fn found(path: &str, change: Change) -> Found {
        Found { path: path.into(), change, touched: false, theirs: None, was_there: false }
    }

    fn shape(steps: &Steps) -> Vec<String> {
        let show = |op: &Op| match op {
            Op::Put { path, .. } => format!("put {path}"),
            Op::Link { path, to, .. } => format!("link {path}={to}"),
            Op::Remove { path, .. } => format!("rm {path}"),
            Op::RemoveDir { path } => format!("rmdir {path}"),
            Op::SetMeta { path, .. } | Op::SetDir { path, .. } => format!("meta {path}"),
            other => format!("{other:?}"),
        };
        steps.ops.iter().map(show).collect()
    }

    #[test]
    fn parents_come_before_children_and_removals_go_deepest_first() {
        let changes = vec![
            found("new/x", Change::Create(entry(Kind::File))),
            found("new", Change::Create(entry(Kind::Dir))),
            found("new-er", Change::Create(entry(Kind::File))),
            found("old", Change::Delete(id(), Kind::Dir)),
            found("old/a", Change::Delete(id(), Kind::Dir)),
            found("old/a/f", Change::Delete(id(), Kind::File)),
        ];
        let dir_meta = HashMap::from([(BytePath::default(), Meta::default())]);
        let steps = steps(changes, &[], &dir_meta, &HashMap::new(), 5, &Moves::default());
        let wanted =
            ["put new", "put new/x", "put new-er", "rm old/a/f", "rmdir old/a", "rmdir old", "meta "];
        assert_eq!(shape(&steps), wanted);
        assert_eq!(steps.wants.iter().map(|want| want.content).collect::<Vec<_>>(), [5, 6]);
        assert_eq!((steps.stats.created, steps.stats.deleted), (3, 3));
    }

    #[test]
    fn of_a_file_that_can_be_patched_only_what_changed_is_wanted() {
        let large = |path: &str| {
            found(
                path,
                Change::Replace(
                    Entry { size: 1 << 30, allocated: 1 << 30, ..entry(Kind::File) },
                    id(),
                    Kind::File,
                ),
            )
        };
        let changes = vec![large("image"), large("other"), found("new", Change::Create(entry(Kind::File)))];
        let deltas = HashMap::from([("image".into(), 8192), ("new".into(), 1)]);
        let steps = steps(changes, &[], &HashMap::new(), &deltas, 5, &Moves::default());
        let names = |wants: &[ReadWant]| -> Vec<(u32, String)> {
            wants.iter().map(|want| (want.content, want.path.to_string())).collect()
        };
        assert_eq!(names(&steps.patches), [(5, "image".into())]);
        assert_eq!(names(&steps.wants), [(6, "new".into()), (7, "other".into())]);
        assert_eq!(steps.stats.bytes, 8192 + 10 + (1 << 30));
        assert!((1 << 30..(1 << 30) + (1 << 20)).contains(&steps.need.data_bytes), "{:?}", steps.need);
    }

    #[test]
    fn a_directory_that_becomes_a_file_is_emptied_first_and_never_removed() {
        let changes = vec![
            found("d", Change::Replace(entry(Kind::File), id(), Kind::Dir)),
            found("d/sub", Change::Delete(id(), Kind::Dir)),
            found("d/sub/f", Change::Delete(id(), Kind::File)),
        ];
        assert_eq!(
            shape(&steps(changes, &[], &HashMap::new(), &HashMap::new(), 0, &Moves::default())),
            ["rm d/sub/f", "rmdir d/sub", "put d"]
        );
    }

    #[test]
    fn a_directory_that_holds_excluded_files_stays_with_all_above_it() {
        let changes = vec![
            found("d", Change::Delete(id(), Kind::Dir)),
            found("d/sub", Change::Delete(id(), Kind::Dir)),
            found("d/f", Change::Delete(id(), Kind::File)),
        ];
        let steps = steps(changes, &["d/sub".into()], &HashMap::new(), &HashMap::new(), 0, &Moves::default());
        assert_eq!(shape(&steps), ["rm d/f"]);
        assert_eq!(steps.kept, ["d".into(), "d/sub".into()]);
    }

    #[test]
    fn what_is_left_out_takes_its_links_and_what_it_would_replace_along() {
        let changes = vec![
            found("d", Change::Replace(entry(Kind::File), id(), Kind::Dir)),
            found("d/f", Change::Delete(id(), Kind::File)),
            found("e", Change::Link("d".into(), None)),
            found("g", Change::Create(entry(Kind::File))),
            found("h", Change::Link("g".into(), Some(id()))),
        ];
        let mut steps = steps(changes, &[], &HashMap::new(), &HashMap::new(), 0, &Moves::default());
        let left = steps.leave_out(&HashSet::from(["d".into()]));
        assert_eq!(left, HashSet::from(["d".into(), "d/f".into(), "e".into()]));
        assert_eq!(shape(&steps), ["put g", "link h=g"]);
        let wants: Vec<String> = steps.wants.iter().map(|want| want.path.to_string()).collect();
        assert_eq!((wants, steps.versions.len()), (vec!["g".to_owned()], 1));
    }

    #[test]
    fn a_directory_that_becomes_a_link_is_emptied_first() {
        let changes = vec![
            found("a", Change::Create(entry(Kind::File))),
            found("d", Change::Link("a".into(), Some(id()))),
            found("d/f", Change::Delete(id(), Kind::File)),
        ];
        assert_eq!(
            shape(&steps(changes, &[], &HashMap::new(), &HashMap::new(), 0, &Moves::default())),
            ["rm d/f", "put a", "link d=a"]
        );
    }

    #[test]
    fn it_is_not_replaced_by_a_file_either() {
        let changes = vec![
            found("d", Change::Replace(entry(Kind::File), id(), Kind::Dir)),
            found("d/f", Change::Delete(id(), Kind::File)),
        ];
        let steps = steps(changes, &["d".into()], &HashMap::new(), &HashMap::new(), 0, &Moves::default());
        assert!(steps.ops.is_empty());
        assert_eq!(steps.blocked, ["d".into()]);
    }
}
