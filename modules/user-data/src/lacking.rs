//! Attributes that a machine's file system does not hold: that they are not there is no change of anybody's.
//!
//! The agent of the target tells which it was refused, path by path, and the record of the pair keeps that. On the way back they
//! stay where they are, and the verification does not wonder about them: these attributes of these paths, and nothing else.

use std::collections::{HashMap, HashSet};

use pc_switcher_agent::proto::{Entry, FileTime, Kind};
use pc_switcher_contract::{BytePath, Hostname, Lacking, ModuleContext};

use crate::change::{Change, Found, same_rights};
use crate::compare::Walk;
use crate::moves::Moves;
use crate::parts::PartPair;

type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// What one machine lacks, by absolute path.
struct On(HashMap<BytePath, Vec<BytePath>>);

impl On {
    fn of<'a>(hostname: &Hostname, all: impl IntoIterator<Item = &'a Lacking>) -> Self {
        let mut names: HashMap<BytePath, Vec<BytePath>> = HashMap::new();
        for lacking in all.into_iter().filter(|lacking| lacking.hostname.same_machine(hostname)) {
            names.entry(lacking.path.clone()).or_default().push(lacking.name.clone());
        }
        Self(names)
    }

    fn names(&self, path: &BytePath) -> &[BytePath] {
        self.0.get(path).map_or(&[], Vec::as_slice)
    }
}

/// What the source lacks, and the target has.
#[derive(Debug, Default)]
pub struct Lacked {
    /// Attributes that stay there.
    pub kept: Vec<Lacking>,
    /// Those that go with a name that the source gave another: without snapshots that is a deletion and something new.
    pub lost: Vec<Lacking>,
}

/// Leaves attributes alone that one of the machines cannot hold.
pub(crate) fn leave(
    ctx: &ModuleContext,
    part: &PartPair,
    moves: &Moves,
    ignore_dir_times: bool,
    found: &mut Vec<Found>,
) -> Lacked {
    let (source, target) = (&ctx.source.hostname, &ctx.target.hostname);
    let then = ctx.board.pair().map(|pair| pair.lacking).unwrap_or_default();
    let here = On::of(source, &then);
    // What this run was refused; in the next one it is tried again.
    let there = On::of(target, &ctx.board.lacking());
    if here.0.is_empty() && there.0.is_empty() {
        return Lacked::default();
    }
    let on_source = |path: BytePath, name| Lacking { hostname: source.clone(), path, name };
    let mut lacked = Lacked::default();
    if !here.0.is_empty() {
        let new = New::of(found);
        for gone in found.iter() {
            let path = part.root.join(gone.path.as_bytes());
            let names = new.goes(gone, here.names(&path)).cloned();
            lacked.lost.extend(names.map(|name| on_source(path.clone(), name)));
        }
    }
    found.retain_mut(|found| {
        let path = part.root.join(found.path.as_bytes());
        let before = part.root.join(moves.stands(Walk::Target, &found.path).as_bytes());
        let names = keep(found, here.names(&before));
        lacked.kept.extend(names.into_iter().map(|name| on_source(path.clone(), name)));
        excuse(found, there.names(&path));
        !is_settled(found, ignore_dir_times)
    });
    lacked
}

/// What is new, by what a name that is changed does not change.
struct New(HashSet<(Kind, u64, FileTime)>);

impl New {
    fn of(found: &[Found]) -> Self {
        let created = found.iter().filter_map(|found| match &found.change {
            Change::Create(ours) => Some((ours.kind, ours.size, ours.meta.mtime)),
            _ => None,
        });
        Self(created.collect())
    }

    /// Returns those of the attributes that go, if what is deleted seems to have another name now.
    fn goes<'a>(&self, gone: &'a Found, names: &'a [BytePath]) -> impl Iterator<Item = &'a BytePath> {
        let theirs = gone.theirs.as_ref().filter(|theirs| {
            matches!(gone.change, Change::Delete(..))
                && !names.is_empty()
                && self.0.contains(&(theirs.kind, theirs.size, theirs.meta.mtime))
        });
        let is_there =
            move |name: &&BytePath| theirs.is_some_and(|theirs| value(&theirs.meta.xattrs, name).is_some());
        names.iter().filter(is_there)
    }
}

/// Has the target keep those attributes that the source lacks; returns them.
fn keep(found: &mut Found, names: &[BytePath]) -> Vec<BytePath> {
    let is_written = matches!(found.change, Change::Replace(..));
    let (Change::Meta(ours, _) | Change::Replace(ours, ..)) = &mut found.change else { return Vec::new() };
    let Some(theirs) = found.theirs.as_ref().filter(|theirs| theirs.kind == ours.kind) else {
        return Vec::new();
    };
    let mut kept = Vec::new();
    let rights = |entry: &Entry| (entry.meta.mode, entry.meta.uid, entry.meta.gid);
    let same_rights = rights(ours) == rights(theirs);
    // Whoever gives other rights does not mean those of before, and a program that was written has none of its own.
    let may_stay = |name: &BytePath| match name.as_bytes() {
        b"system.posix_acl_access" => same_rights,
        b"security.capability" => same_rights && !is_written,
        _ => true,
    };
    for name in names {
        if may_stay(name)
            && value(&ours.meta.xattrs, name).is_none()
            && let Some(pair) = value(&theirs.meta.xattrs, name)
        {
            ours.meta.xattrs.push(pair.clone());
            kept.push(name.clone());
        }
    }
    ours.meta.xattrs.sort_unstable();
    kept
}

/// Does not miss those attributes on the target.
fn excuse(found: &mut Found, names: &[BytePath]) {
    if let (Change::Meta(ours, _), Some(theirs)) = (&mut found.change, &found.theirs) {
        let is_missed = |name: &&BytePath| value(&theirs.meta.xattrs, name).is_none();
        for name in names.iter().filter(is_missed) {
            ours.meta.xattrs.retain(|(known, _)| known != name.as_bytes());
        }
    }
}

/// Whether nothing is left to be done.
fn is_settled(found: &Found, ignore_dir_times: bool) -> bool {
    let (Change::Meta(ours, _), Some(theirs)) = (&found.change, &found.theirs) else { return false };
    let is_time_right = ours.meta.mtime == theirs.meta.mtime || (ignore_dir_times && ours.kind == Kind::Dir);
    is_time_right && same_rights(ours, theirs)
}

fn value<'a>(attributes: &'a Attributes, name: &BytePath) -> Option<&'a (Vec<u8>, Vec<u8>)> {
    attributes.iter().find(|(known, _)| known == name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::identity;
    use pc_switcher_agent::proto::Meta;

    fn entry(names: &[&str]) -> Entry {
        let xattrs = names.iter().map(|name| (name.as_bytes().to_vec(), b"x".to_vec())).collect();
        Entry {
            name: "f".into(),
            kind: Kind::File,
            meta: Meta { xattrs, ..Meta::default() },
            size: 1,
            allocated: 0,
            ctime: FileTime::default(),
            ino: 1,
            nlink: 1,
            target: BytePath::default(),
        }
    }

    fn found(ours: &[&str], theirs: &[&str]) -> Found {
        let theirs = entry(theirs);
        let change = Change::Meta(entry(ours), identity(&theirs));
        Found { path: "f".into(), change, touched: false, theirs: Some(theirs), was_there: true }
    }

    #[test]
    fn what_the_source_cannot_hold_stays_on_the_target_and_nothing_else() {
        let lacking = ["user.a".into()];
        let mut alone = found(&[], &["user.a"]);
        assert_eq!(keep(&mut alone, &lacking), lacking);
        assert!(is_settled(&alone, false));
        let mut other = found(&[], &["user.a", "user.b"]);
        assert_eq!(keep(&mut other, &lacking), lacking);
        assert!(!is_settled(&other, false), "`user.b` was taken off");
        let mut set = found(&["user.a"], &["user.b"]);
        assert!(keep(&mut set, &lacking).is_empty(), "the source has it by now");
        let mut new = found(&[], &["user.a"]);
        let Change::Meta(ours, old) = new.change.clone() else { unreachable!("made above") };
        new.change = Change::Replace(ours, old, Kind::File);
        assert_eq!(keep(&mut new, &lacking), lacking, "new content does not take it off");
        assert!(!is_settled(&new, false));
    }

    #[test]
    fn rights_that_the_source_cannot_hold_stay_only_where_nothing_else_gives_others() {
        const ACL: &str = "system.posix_acl_access";
        const CAPABILITY: &str = "security.capability";
        let lacking = [ACL.into(), CAPABILITY.into()];
        assert_eq!(keep(&mut found(&[], &[ACL, CAPABILITY]), &lacking), lacking);
        let mut closed = found(&[], &[ACL, CAPABILITY]);
        let Change::Meta(ours, old) = &mut closed.change else { unreachable!("made above") };
        ours.meta.mode ^= 0o600;
        assert!(keep(&mut Found { change: Change::Meta(ours.clone(), *old), ..closed }, &lacking).is_empty());
        let mut written = found(&[], &[ACL, CAPABILITY]);
        let Change::Meta(ours, old) = written.change.clone() else { unreachable!("made above") };
        written.change = Change::Replace(ours, old, Kind::File);
        assert_eq!(keep(&mut written, &lacking), [BytePath::from(ACL)]);
    }

    #[test]
    fn what_goes_with_a_name_that_was_changed_is_told_and_what_was_deleted_is_not() {
        let lacking = ["user.a".into(), "user.b".into()];
        let there = entry(&["user.a"]);
        let delete = Found {
            change: Change::Delete(identity(&there), Kind::File),
            theirs: Some(there),
            ..found(&[], &[])
        };
        let lost = |all: &[Found]| New::of(all).goes(&delete, &lacking).cloned().collect::<Vec<_>>();
        let create =
            |entry| Found { path: "g".into(), change: Change::Create(entry), theirs: None, ..delete.clone() };
        assert_eq!(lost(&[delete.clone(), create(entry(&[]))]), lacking[..1]);
        assert!(lost(&[delete.clone(), create(Entry { size: 2, ..entry(&[]) })]).is_empty());
        assert!(lost(std::slice::from_ref(&delete)).is_empty());
        let new = New::of(&[create(entry(&[]))]);
        assert_eq!(new.goes(&delete, &[]).count(), 0);
        let there = found(&[], &["user.a"]);
        assert_eq!(new.goes(&there, &lacking).count(), 0);
    }

    #[test]
    fn what_the_target_was_refused_is_not_missed_there_and_all_else_is() {
        let refused = ["user.a".into()];
        let check = |ours: &[&str], theirs: &[&str]| {
            let mut found = found(ours, theirs);
            excuse(&mut found, &refused);
            is_settled(&found, false)
        };
        assert!(check(&["user.a"], &[]));
        assert!(check(&["user.a", "user.b"], &["user.b"]));
        assert!(!check(&["user.a", "user.b"], &[]));
        assert!(!check(&["user.a"], &["user.b"]));
        assert!(!check(&[], &["user.a"]), "it was to go");
    }
}
