//! What one directory needs so that the target's becomes the source's: a pure comparison of listings.

use std::collections::{HashMap, HashSet};

use pc_switcher_agent::proto::{DirListing, Entry, FileTime, Identity, Kind, SkipReason};
use pc_switcher_contract::BytePath;

/// What happens to one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing stands there yet.
    Create(Entry),
    /// Another content or another kind.
    Replace(Entry, Identity, Kind),
    /// The same content with other metadata.
    Meta(Entry, Identity),
    /// Another name of `to`; the identity is what stands there now.
    Link(BytePath, Option<Identity>),
    /// The source has it no more.
    Delete(Identity, Kind),
}

/// A change with what the target did meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Relative to the part's root.
    pub path: BytePath,
    /// What happens.
    pub change: Change,
    /// Whether the target's version changed since the last sync; for conflicts.
    pub touched: bool,
    /// The target's version, if there is one.
    pub theirs: Option<Entry>,
    /// Whether the last sync left something there.
    pub was_there: bool,
}

/// Two files whose equality size and time do not settle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// Relative to the part's root.
    pub path: BytePath,
    /// The source's version.
    pub ours: Entry,
    /// The target's version.
    pub theirs: Entry,
    /// Whether the target's version changed since the last sync.
    pub touched: bool,
    /// Whether its mode, owner or attributes did.
    pub rights_touched: bool,
}

/// A file with several names on either machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSeen {
    /// Relative to the part's root.
    pub path: BytePath,
    /// The source's file.
    pub ours: Entry,
    /// The target's file at that path.
    pub target: Option<Identity>,
    /// The target's version, whatever it is.
    pub theirs: Option<Entry>,
    /// Whether the target's version changed since the last sync.
    pub touched: bool,
}

/// How much of a child directory is where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sides {
    /// On both machines.
    Both,
    /// On the source alone: everything below is new.
    Source,
    /// On the target alone: everything below goes.
    Target,
    /// Left alone on both.
    Ignore,
}

/// A child directory to be compared next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Relative to the part's root.
    pub path: BytePath,
    /// Where it is.
    pub sides: Sides,
    /// Whether each of source, target, base and what the source was before will list it.
    pub lists: [bool; 4],
}

/// How equality is judged.
#[derive(Debug, Clone, Copy, Default)]
pub struct Judge {
    /// Whether there is a base: the target's state after the last sync.
    pub has_base: bool,
    /// Whether the target is known to be just as the base: then the base is not walked.
    pub base_is_target: bool,
    /// Whether it is known what the source was after the last sync.
    pub has_before: bool,
    /// Files of the source whose inode changed after this are never equal by size and time alone, whatever else is known.
    pub source_after: Option<FileTime>,
    /// Whether every file is compared by content.
    pub content: bool,
    /// Whether the times of directories do not count: they change with every excluded file that somebody makes.
    pub ignore_dir_times: bool,
}

impl Judge {
    /// Whether the base is looked at besides both trees.
    pub fn walks_base(&self) -> bool {
        self.has_base && !self.base_is_target
    }

    /// Which trees are listed, in the order of [`crate::compare::WALKS`].
    pub fn walks(&self) -> [bool; 4] {
        [true, true, self.walks_base(), self.has_before]
    }
}

/// A name that is left alone on one side though the other has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftAlone {
    /// Relative to the part's root.
    pub path: BytePath,
    /// Why.
    pub reason: String,
    /// Whether the target lacks something of the source for that.
    pub is_missed: bool,
}

/// What came out of one directory.
#[derive(Debug, Default)]
pub struct DirResult {
    /// Changes of its entries.
    pub found: Vec<Found>,
    /// Files to be compared by content.
    pub suspects: Vec<Suspect>,
    /// Files with several names.
    pub links: Vec<LinkSeen>,
    /// Its directories.
    pub children: Vec<Child>,
    /// Names that are left alone on one side though the other has them.
    pub left_alone: Vec<LeftAlone>,
    /// Names that could not be read, with the machine's side and the system's word.
    pub unreadable: Vec<(BytePath, bool, String)>,
    /// Directories that differ in nothing but their time, where that does not count.
    pub times: Vec<BytePath>,
    /// Whether the target holds something here that is never deleted.
    pub holds_excluded: bool,
}

/// Returns what a later step compares a path with.
pub fn identity(entry: &Entry) -> Identity {
    Identity { ino: entry.ino, ctime: entry.ctime, mtime: entry.meta.mtime, size: entry.size }
}

/// Whether the metadata other than the time of the last change is the same. A symbolic link has no mode of its own.
pub(crate) fn same_rights(a: &Entry, b: &Entry) -> bool {
    let mode = a.kind == Kind::Symlink || a.meta.mode == b.meta.mode;
    mode && a.meta.uid == b.meta.uid && a.meta.gid == b.meta.gid && a.meta.xattrs == b.meta.xattrs
}

/// Whether the target's entry changed since the last sync. A directory's time changes with any entry, excluded ones too, so
/// it does not count.
fn touched(base: Option<&Entry>, now: Option<&Entry>) -> bool {
    match (base, now) {
        (None, None) => false,
        (Some(base), Some(now)) if base.kind == Kind::Dir && now.kind == Kind::Dir => {
            base.ino != now.ino || !same_rights(base, now)
        }
        (Some(base), Some(now)) => base.kind != now.kind || identity(base) != identity(now),
        _ => true,
    }
}

/// Compares one directory; what is `silent` is compared by content. Listings are those of the source, the target, the base, and the source after the last sync, as far as each
/// has the directory.
pub fn compare_dir(
    path: &BytePath,
    sides: Sides,
    [ours, theirs, base, before]: [Option<&DirListing>; 4],
    judge: Judge,
    silent: Option<&HashSet<BytePath>>,
) -> DirResult {
    let mut result =
        DirResult { holds_excluded: theirs.is_some_and(|dir| !dir.skipped.is_empty()), ..Default::default() };
    for (dir, is_source) in [(ours, true), (theirs, false)] {
        for skip in dir.iter().flat_map(|dir| &dir.skipped) {
            if let SkipReason::Unreadable(why) = &skip.reason {
                result.unreadable.push((path.join(skip.name.as_bytes()), is_source, why.clone()));
            }
        }
    }
    let skips = [ours, theirs].map(|dir| {
        let skipped = dir.into_iter().flat_map(|dir| &dir.skipped);
        skipped.map(|skip| (skip.name.as_bytes(), &skip.reason)).collect::<HashMap<_, _>>()
    });
    let skip_of = |name: &[u8], on_source: bool| {
        skips[usize::from(!on_source)].get(name).map(|reason| explain_skip(reason, on_source))
    };
    for name in names([ours, theirs, base, before]) {
        let at = path.join(name);
        let [s, t, b, was] = [ours, theirs, base, before].map(|dir| dir.and_then(|dir| find(dir, name)));
        let lists = [s, t, b, was].map(|entry| entry.is_some_and(|entry| entry.kind == Kind::Dir));
        if sides == Sides::Ignore {
            result.children.extend(lists.contains(&true).then_some(Child {
                path: at,
                sides: Sides::Ignore,
                lists,
            }));
            continue;
        }
        if let Some(reason) = skip_of(name, true).or_else(|| skip_of(name, false)) {
            if s.is_some() || t.is_some() {
                let is_missed = s.is_some();
                result.left_alone.push(LeftAlone { path: at.clone(), reason, is_missed });
            }
            result.children.extend(lists.contains(&true).then_some(Child {
                path: at,
                sides: Sides::Ignore,
                lists,
            }));
            continue;
        }
        let other_kind = matches!((s, t), (Some(s), Some(t)) if s.kind != t.kind);
        if other_kind && name == b".ssh" {
            // Its keys are never mirrored, so another kind of `.ssh` would be one without them: nobody could log in any more.
            let reason = "it is of another kind here, and logging in depends on it".into();
            result.left_alone.push(LeftAlone { path: at.clone(), reason, is_missed: true });
            result.children.extend(lists.contains(&true).then_some(Child {
                path: at,
                sides: Sides::Ignore,
                lists,
            }));
            continue;
        }
        let b = if judge.base_is_target { t } else { b };
        let touched = judge.has_base && touched(b, t);
        if let Some(child) = child_sides(s, t) {
            result.children.push(Child { path: at.clone(), sides: child, lists });
        } else if lists[2] || lists[3] {
            // Only in the past there is a directory here: its listing is read and dropped.
            result.children.push(Child { path: at.clone(), sides: Sides::Ignore, lists });
        }
        let is_silent = silent.is_some_and(|silent| silent.contains(&at));
        entry_change(at, [s, t, b, was], (touched, is_silent), judge, &mut result);
    }
    result
}

/// Whether somebody changed mode, owner or attributes on the target since the last sync.
fn rights_touched(judge: Judge, base: Option<&Entry>, now: &Entry) -> bool {
    judge.has_base && base.is_some_and(|base| !same_rights(base, now))
}

fn entry_change(
    at: BytePath,
    [s, t, b, was]: [Option<&Entry>; 4],
    (mut touched, is_silent): (bool, bool),
    judge: Judge,
    result: &mut DirResult,
) {
    let theirs = t.cloned();
    // A symbolic link or a pipe may have several names, too.
    let alike = |s: &Entry| t.filter(|t| t.kind == s.kind);
    let has_several = |s: &&Entry| s.nlink > 1 || alike(s).is_some_and(|t| t.nlink > 1);
    if let Some(s) = s.filter(|s| s.kind != Kind::Dir).filter(has_several) {
        let target = alike(s).map(identity);
        result.links.push(LinkSeen {
            path: at.clone(),
            ours: s.clone(),
            target,
            theirs: t.cloned(),
            touched,
        });
    }
    let change = match (s, t) {
        (None, None) => return,
        (Some(s), None) => Change::Create(s.clone()),
        (None, Some(t)) => Change::Delete(identity(t), t.kind),
        (Some(s), Some(t)) if s.kind != t.kind => Change::Replace(s.clone(), identity(t), t.kind),
        (Some(s), Some(t)) => {
            let content = match s.kind {
                Kind::File => s.size == t.size && (s.size == 0 || s.meta.mtime == t.meta.mtime),
                Kind::Symlink => s.target == t.target,
                Kind::Dir | Kind::Fifo => true,
            };
            let suspect = s.kind == Kind::File && s.size == t.size && s.size > 0 && {
                // What it was then tells, whatever the clocks say; of a file that was written twice within one of their ticks
                // only the time is left.
                let source_moved = judge.has_before && was.is_none_or(|was| identity(was) != identity(s))
                    || judge.source_after.is_some_and(|after| s.ctime > after);
                let target_moved = judge.has_base && b.is_none_or(|b| identity(b) != identity(t));
                if content {
                    judge.content || source_moved || target_moved || is_silent
                } else {
                    touched || is_silent
                }
            };
            if suspect {
                let rights_touched = rights_touched(judge, b, t);
                result.suspects.push(Suspect {
                    path: at,
                    ours: s.clone(),
                    theirs: t.clone(),
                    touched,
                    rights_touched,
                });
                return;
            }
            let same_time = s.meta.mtime == t.meta.mtime || (judge.ignore_dir_times && s.kind == Kind::Dir);
            match (content, same_rights(s, t) && same_time) {
                (true, true) => {
                    if s.meta.mtime != t.meta.mtime {
                        result.times.push(at);
                    }
                    return;
                }
                (true, false) => {
                    // The same made on both machines, at other times, is no conflict; other rights are one.
                    touched = rights_touched(judge, b, t) && !same_rights(s, t);
                    Change::Meta(s.clone(), identity(t))
                }
                (false, _) => Change::Replace(s.clone(), identity(t), t.kind),
            }
        }
    };
    result.found.push(Found { path: at, change, touched, theirs, was_there: b.is_some() });
}

/// Settles a suspect: `equal` says whether both contents are the same. Returns the change that is left, if any.
pub fn settle(suspect: Suspect, equal: bool) -> Option<Found> {
    let Suspect { path, ours, theirs, touched, rights_touched } = suspect;
    let old = identity(&theirs);
    if !equal {
        let change = Change::Replace(ours, old, Kind::File);
        return Some(Found { path, change, touched, theirs: Some(theirs), was_there: true });
    }
    let same = same_rights(&ours, &theirs) && ours.meta.mtime == theirs.meta.mtime;
    // Equal content is no conflict, whoever wrote it; a mode that somebody set on the target is one.
    let touched = rights_touched && !same_rights(&ours, &theirs);
    let change = Change::Meta(ours, old);
    (!same).then_some(Found { path, change, touched, theirs: Some(theirs), was_there: true })
}

fn child_sides(s: Option<&Entry>, t: Option<&Entry>) -> Option<Sides> {
    let dir = |entry: Option<&Entry>| entry.is_some_and(|entry| entry.kind == Kind::Dir);
    match (dir(s), dir(t)) {
        (true, true) => Some(Sides::Both),
        (true, false) => Some(Sides::Source),
        (false, true) => Some(Sides::Target),
        (false, false) => None,
    }
}

fn find<'a>(dir: &'a DirListing, name: &[u8]) -> Option<&'a Entry> {
    dir.entries.binary_search_by(|entry| entry.name.as_bytes().cmp(name)).ok().map(|at| &dir.entries[at])
}

/// Says why a name is not mirrored, and what brings it over.
fn explain_skip(reason: &SkipReason, on_source: bool) -> String {
    let what = match reason {
        SkipReason::Rule(reason) => return reason.clone(),
        SkipReason::Unreadable(why) => return format!("unreadable: {why}"),
        SkipReason::Socket => "a socket",
        SkipReason::Device => "a device node",
        SkipReason::Subvolume => "a subvolume or mount of its own",
    };
    match on_source {
        true => format!("{what} on the other machine, and such are not mirrored"),
        false => {
            format!("{what} stands there, and such are never removed; move it away, or exclude the path")
        }
    }
}

/// Returns every name of the listings once, in order.
fn names(listings: [Option<&DirListing>; 4]) -> Vec<&[u8]> {
    let mut all: Vec<&[u8]> = listings
        .into_iter()
        .flatten()
        .flat_map(|dir| dir.entries.iter().map(|entry| entry.name.as_bytes()))
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests;
