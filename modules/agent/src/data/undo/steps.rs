//! The steps of an undo, in the order in which they can be committed.
//!
//! As in a sync: what stands in the way inside of a directory that becomes something else goes first, then everything is
//! put, directories before what they hold, then names and directories go, and the metadata of directories comes last.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::judge::{Meant, Verdict, identity, is_alike, judge, same_rights};
use crate::proto::{Body, Entry, Identity, Kind, Meta, Op, Rights, UndoWord, UndoneHow};

/// Orders paths so that a directory stands before what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place(pub(super) BytePath);

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.as_bytes().split(|byte| *byte == b'/').cmp(other.0.as_bytes().split(|byte| *byte == b'/'))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What is known of a path.
#[derive(Debug, Clone, Default)]
pub(super) struct States {
    pub(super) pre: Option<Entry>,
    pub(super) post: Option<Entry>,
    pub(super) now: Option<Entry>,
}

/// What the trees of a part are asked.
pub(super) trait Trees {
    /// Returns the three states of a path.
    fn states(&mut self, path: &BytePath) -> Result<States, Errno>;
    /// Returns the names in a directory as it stands now.
    fn names(&mut self, dir: &BytePath) -> Result<Vec<Vec<u8>>, Errno>;
    /// Returns the names that an inode had before the sync, below the root.
    fn names_before(&mut self, ino: u64) -> Result<Vec<BytePath>, Errno>;
}

/// What is done in one part, and what is said of its paths.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub(super) ops: Vec<Op>,
    pub(super) clones: Vec<(u32, BytePath)>,
    pub(super) said: BTreeMap<Place, UndoWord>,
    pub(super) already: u64,
}

/// Plans one part. Contents are numbered from `first`.
///
/// # Errors
/// If a tree cannot be read.
pub(super) fn plan(
    meant: BTreeMap<Place, Meant>,
    trees: &mut dyn Trees,
    first: u32,
) -> Result<Steps, (BytePath, Errno)> {
    let mut planner = Planner { first, ..Planner::default() };
    for (place, meant) in meant {
        let states = match trees.states(&place.0) {
            Ok(states) => states,
            Err(Errno::XDEV) => {
                planner.say(place, UndoWord::Beyond("another subvolume lies there now".into()));
                continue;
            }
            Err(Errno::INVAL) => {
                planner.say(place, UndoWord::Touched("something that is never synced stands there".into()));
                continue;
            }
            Err(error) => return Err((place.0, error)),
        };
        match judge(&meant, states.pre.as_ref(), states.post.as_ref(), states.now.as_ref()) {
            Verdict::Back => {
                planner.back.insert(place.clone(), states.clone());
            }
            Verdict::Already => planner.out.already += 1,
            Verdict::Touched(why) => planner.say(place.clone(), UndoWord::Touched(why.into())),
            Verdict::Nothing => {}
        }
        if let Meant::Dir(_) = meant {
            planner.dirs.insert(place, states);
        }
    }
    planner.keep_what_has_no_way_back(trees)?;
    planner.keep_full_directories(trees)?;
    planner.build(trees)
}

#[derive(Default)]
struct Planner {
    first: u32,
    /// What is taken back.
    back: BTreeMap<Place, States>,
    /// Directories whose own metadata the sync has set.
    dirs: BTreeMap<Place, States>,
    /// Whether directories are there or come back, as far as was asked.
    standing: HashMap<BytePath, bool>,
    out: Steps,
}

fn is_dir(entry: Option<&Entry>) -> bool {
    entry.is_some_and(|entry| entry.kind == Kind::Dir)
}

impl Planner {
    fn say(&mut self, place: Place, word: UndoWord) {
        self.out.said.insert(place, word);
    }

    /// What the sync moved here stays if it cannot come to its old place: it would be nowhere then.
    fn keep_what_has_no_way_back(&mut self, trees: &mut dyn Trees) -> Result<(), (BytePath, Errno)> {
        let mut stays = Vec::new();
        for (place, States { pre, now, .. }) in &self.back {
            let Some(now) = now.as_ref().filter(|now| now.kind != Kind::Dir) else { continue };
            if pre.as_ref().is_some_and(|pre| pre.ino == now.ino) {
                continue;
            }
            let was = trees.names_before(now.ino).map_err(|error| (place.0.clone(), error))?;
            let mut has_way = was.is_empty();
            for path in was {
                has_way = has_way || self.comes_back(&path, trees)?;
            }
            if !has_way {
                stays.push(place.clone());
            }
        }
        for place in stays {
            self.back.remove(&place);
            self.say(
                place,
                UndoWord::Touched("it was moved here, and where it was before somebody came since".into()),
            );
        }
        Ok(())
    }

    /// Whether what stood at a path before the sync stands there still, or will.
    fn comes_back(&self, path: &BytePath, trees: &mut dyn Trees) -> Result<bool, (BytePath, Errno)> {
        let States { pre, now, .. } = match trees.states(path) {
            Ok(states) => states,
            Err(Errno::XDEV | Errno::INVAL) => return Ok(false),
            Err(error) => return Err((path.clone(), error)),
        };
        if is_alike(pre.as_ref(), now.as_ref()) {
            return Ok(true);
        }
        if !self.back.contains_key(&Place(path.clone())) {
            return Ok(false);
        }
        let Some(dir) = path.parent().filter(|dir| !dir.is_empty()) else { return Ok(true) };
        let stands = trees.states(&dir).is_ok_and(|states| is_dir(states.now.as_ref()));
        Ok(stands || self.comes_back(&dir, trees)?)
    }

    /// A directory that holds what is not taken back stays, with what it holds.
    fn keep_full_directories(&mut self, trees: &mut dyn Trees) -> Result<(), (BytePath, Errno)> {
        let going = |states: &States| is_dir(states.now.as_ref()) && !is_dir(states.pre.as_ref());
        let dirs: Vec<Place> =
            self.back.iter().filter(|(_, states)| going(states)).map(|(place, _)| place.clone()).collect();
        // Deepest first, so that one that stays keeps those above it.
        for place in dirs.into_iter().rev() {
            let names = trees.names(&place.0).map_err(|error| (place.0.clone(), error))?;
            let goes = |name: &Vec<u8>| {
                let child = Place(place.0.join(name));
                self.back.get(&child).is_some_and(|states| states.pre.is_none())
            };
            if !names.iter().all(goes) {
                self.back.remove(&place);
                self.say(place, UndoWord::Touched("it holds what was made after the sync".into()));
            }
        }
        Ok(())
    }

    fn build(mut self, trees: &mut dyn Trees) -> Result<Steps, (BytePath, Errno)> {
        let becoming: HashSet<BytePath> = self
            .back
            .iter()
            .filter(|(_, states)| {
                is_dir(states.now.as_ref()) && states.pre.as_ref().is_some_and(|pre| pre.kind != Kind::Dir)
            })
            .map(|(place, _)| place.0.clone())
            .collect();
        let is_early = |path: &BytePath| {
            std::iter::successors(path.parent(), BytePath::parent).any(|dir| becoming.contains(&dir))
        };
        let (mut early, mut early_dirs, mut puts, mut links) = (vec![], vec![], vec![], vec![]);
        let (mut removes, mut remove_dirs, mut file_meta) = (vec![], vec![], vec![]);
        let mut leaders: HashMap<u64, BytePath> = HashMap::new();
        let mut moved: BTreeSet<Place> = BTreeSet::new();
        let mut next = self.first;
        for (place, states) in std::mem::take(&mut self.back) {
            let path = place.0.clone();
            let how = match (states.pre, states.now) {
                (None, None) => continue,
                (None, Some(now)) if now.kind == Kind::Dir => {
                    let list = if is_early(&path) { &mut early_dirs } else { &mut remove_dirs };
                    list.push(Op::RemoveDir { path: path.clone() });
                    UndoneHow::Removed
                }
                (None, Some(now)) => {
                    let list = if is_early(&path) { &mut early } else { &mut removes };
                    list.push(Op::Remove { path: path.clone(), expect: identity(&now) });
                    UndoneHow::Removed
                }
                (Some(pre), Some(now)) if pre.kind == Kind::Dir && now.kind == Kind::Dir => {
                    self.dirs.entry(place).or_insert(States {
                        pre: Some(pre),
                        post: states.post,
                        now: Some(now),
                    });
                    continue;
                }
                (Some(pre), Some(now)) if pre.ino == now.ino && pre.kind == now.kind => {
                    // Content is never written in place, so only the metadata is another one.
                    file_meta.push(Op::SetMeta {
                        path: path.clone(),
                        meta: pre.meta,
                        expect: Some(identity(&now)),
                    });
                    self.say(place, UndoWord::Undone(UndoneHow::Metadata));
                    continue;
                }
                (Some(_), None) if !self.has_directory(&path, trees)? => {
                    self.say(place, UndoWord::Touched("its directory was removed after the sync".into()));
                    continue;
                }
                (Some(pre), now) => {
                    let replaces: Option<Identity> = now.as_ref().map(identity);
                    match leader(&pre, &path, &mut leaders, trees)? {
                        Some(to) => links.push(Op::Link { path: path.clone(), to, replaces }),
                        None => {
                            let body = body(&pre, &mut next);
                            if let Body::File { content, .. } = body {
                                self.out.clones.push((content, path.clone()));
                            }
                            puts.push(Op::Put { path: path.clone(), body, meta: pre.meta, replaces });
                        }
                    }
                    if now.is_some() { UndoneHow::Replaced } else { UndoneHow::Restored }
                }
            };
            moved.extend(path.parent().map(Place));
            self.say(place, UndoWord::Undone(how));
        }
        let dirs = self.directories(moved, trees)?;
        let mut ops = early;
        ops.extend(early_dirs.into_iter().rev());
        ops.extend(puts);
        ops.extend(links);
        ops.extend(removes);
        ops.extend(remove_dirs.into_iter().rev());
        ops.extend(file_meta);
        ops.extend(dirs);
        self.out.ops = ops;
        Ok(self.out)
    }

    /// Whether the directory of a path is there or comes back.
    fn has_directory(&mut self, path: &BytePath, trees: &mut dyn Trees) -> Result<bool, (BytePath, Errno)> {
        let Some(dir) = path.parent() else { return Ok(true) };
        if let Some(known) = self.standing.get(&dir) {
            return Ok(*known);
        }
        let comes = matches!(
            self.out.said.get(&Place(dir.clone())),
            Some(UndoWord::Undone(UndoneHow::Restored | UndoneHow::Replaced))
        );
        let stands = comes || is_dir(trees.states(&dir).map_err(|error| (dir.clone(), error))?.now.as_ref());
        self.standing.insert(dir, stands);
        Ok(stands)
    }

    /// Returns the steps for directories that stay: their own metadata, deepest first. Where nobody else has worked since the
    /// sync a directory gets its old time.
    fn directories(
        &mut self,
        moved: BTreeSet<Place>,
        trees: &mut dyn Trees,
    ) -> Result<Vec<Op>, (BytePath, Errno)> {
        for place in moved.iter().filter(|place| !self.dirs.contains_key(place)).cloned().collect::<Vec<_>>()
        {
            let states = trees.states(&place.0).map_err(|error| (place.0.clone(), error))?;
            self.dirs.insert(place, states);
        }
        let mut ops = Vec::new();
        for (place, States { pre, post, now }) in std::mem::take(&mut self.dirs).into_iter().rev() {
            let (Some(pre), Some(now)) = (pre, now) else { continue };
            let is_put = matches!(self.out.said.get(&place), Some(UndoWord::Undone(_)));
            if is_put || pre.kind != Kind::Dir || now.kind != Kind::Dir {
                continue;
            }
            let meta = wanted(&pre.meta, post.as_ref().map(|post| &post.meta), &now.meta);
            let is_changed = meta != now.meta;
            if is_changed || moved.contains(&place) {
                let rights = match same_rights(&meta, &now.meta) {
                    true => Rights::Same,
                    false => Rights::Were(Box::new(now.meta.clone())),
                };
                ops.push(Op::SetDir { path: place.0.clone(), meta: meta.clone(), rights });
            }
            // A time alone is not worth a word.
            if !same_rights(&meta, &now.meta) && !self.out.said.contains_key(&place) {
                self.say(place, UndoWord::Undone(UndoneHow::Metadata));
            }
        }
        Ok(ops)
    }
}

/// Returns the metadata that a directory gets: what the sync has set goes back, what came later stays.
fn wanted(pre: &Meta, post: Option<&Meta>, now: &Meta) -> Meta {
    let Some(post) = post else { return now.clone() };
    let rights = if same_rights(now, post) { pre } else { now };
    let mtime = if now.mtime == post.mtime { pre.mtime } else { now.mtime };
    Meta { mtime, ..rights.clone() }
}

fn body(pre: &Entry, next: &mut u32) -> Body {
    match pre.kind {
        Kind::File => {
            let content = *next;
            *next += 1;
            Body::File { content, size: pre.size }
        }
        Kind::Symlink => Body::Symlink(pre.target.clone()),
        Kind::Fifo => Body::Fifo,
        Kind::Dir => Body::Dir,
    }
}

/// Returns the name that `path` was a hard link to before the sync, if it is or will be there.
fn leader(
    pre: &Entry,
    path: &BytePath,
    leaders: &mut HashMap<u64, BytePath>,
    trees: &mut dyn Trees,
) -> Result<Option<BytePath>, (BytePath, Errno)> {
    if pre.kind == Kind::Dir || pre.nlink < 2 {
        return Ok(None);
    }
    if let Some(leader) = leaders.get(&pre.ino) {
        return Ok(Some(leader.clone()));
    }
    let failed = |error| (path.clone(), error);
    for other in trees.names_before(pre.ino).map_err(failed)? {
        // What is no entry of this tree any more is no name of it either.
        let Ok(States { now: Some(now), .. }) = trees.states(&other) else { continue };
        let same = (now.ino, now.size, &now.meta) == (pre.ino, pre.size, &pre.meta);
        if other != *path && same {
            leaders.insert(pre.ino, other.clone());
            return Ok(Some(other));
        }
    }
    leaders.insert(pre.ino, path.clone());
    Ok(None)
}
