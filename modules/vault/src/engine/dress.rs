//! Owner, rights, attributes and times of what was restored.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

use crate::format::{Node, NodeKind};

const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;

/// Something that a restored path is without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    /// What, and why.
    pub why: String,
    /// Whether only somebody with more rights could give it.
    pub is_refused: bool,
}

impl Lacking {
    fn new(what: &str, error: &io::Error) -> Self {
        Self { why: format!("{what} could not be set: {error}"), is_refused: false }
    }

    /// Of what only some may give.
    fn of_others(what: &str, error: &io::Error) -> Self {
        let is_refused = error.kind() == ErrorKind::PermissionDenied;
        Self { is_refused, ..Self::new(what, error) }
    }
}

/// Gives a path its owner, attributes, rights and times, in this order; returns what could not be given.
///
/// What ran with the rights of its owner or group never gets to run with those of whoever restores it.
pub fn set_metadata(path: &Path, node: &Node) -> Vec<Lacking> {
    let mut lacking = Vec::new();
    if node.kind == NodeKind::Socket {
        return lacking;
    }
    let foreign = set_owner(path, node, &mut lacking);
    for xattr in &node.extended_attributes {
        if let Err(error) = rustix::fs::lsetxattr(path, &xattr.name, &xattr.value, XattrFlags::empty()) {
            let what = format!("its attribute `{}`", xattr.name.display());
            lacking.push(Lacking::of_others(&what, &error.into()));
        }
    }
    let rights = node.permissions();
    let given = if node.kind == NodeKind::File { rights & !foreign } else { rights };
    if given != rights {
        let why = "it is not given the right to run as its owner or group: that is another one now".into();
        lacking.push(Lacking { why, is_refused: true });
    }
    if node.kind != NodeKind::Symlink
        && let Err(error) = fs::set_permissions(path, fs::Permissions::from_mode(given))
    {
        lacking.push(Lacking::new("its rights", &error));
    }
    let times = Timestamps { last_access: timespec(node.atime), last_modification: timespec(node.mtime) };
    if let Err(error) = rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW) {
        lacking.push(Lacking::new("its times", &error.into()));
    }
    lacking
}

/// Sets owner and group, or the group alone where only that is allowed; returns the rights that the file must not get.
fn set_owner(path: &Path, node: &Node, lacking: &mut Vec<Lacking>) -> u32 {
    let facts = match fs::symlink_metadata(path) {
        Ok(facts) => facts,
        Err(error) => {
            lacking.push(Lacking::new("its owner", &error));
            return SET_USER_ID | SET_GROUP_ID;
        }
    };
    let is_own_group = facts.gid() == node.gid;
    if facts.uid() == node.uid && is_own_group {
        return 0;
    }
    let Err(error) = lchown(path, Some(node.uid), Some(node.gid)) else { return 0 };
    let has_group = is_own_group || lchown(path, None, Some(node.gid)).is_ok();
    let has_owner = facts.uid() == node.uid;
    let (user, group) = (node.uid, node.gid);
    let (what, foreign) = match (has_owner, has_group) {
        (true, _) => (format!("its group {group}"), SET_GROUP_ID),
        (false, true) => (format!("its owner {user}"), SET_USER_ID),
        (false, false) => (format!("its owner {user}:{group}"), SET_USER_ID | SET_GROUP_ID),
    };
    lacking.push(Lacking::of_others(&what, &error));
    foreign
}

fn timespec(at: Timestamp) -> Timespec {
    let (mut seconds, mut nanoseconds) = (at.as_second(), i64::from(at.subsec_nanosecond()));
    if nanoseconds < 0 {
        (seconds, nanoseconds) = (seconds - 1, nanoseconds + 1_000_000_000);
    }
    Timespec { tv_sec: seconds, tv_nsec: nanoseconds }
}

#[cfg(test)]
mod tests {
    use rustix::thread::CapabilitySet;

    use super::*;
    use crate::engine::{Names, node_of};
    use crate::format::Xattr;
    use crate::format::node::go_mode;

    /// Dresses a file as somebody without rights of root.
    fn dressed(change: impl FnOnce(&mut Node)) -> (Vec<Lacking>, u32) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "x").unwrap();
        let facts = fs::symlink_metadata(&path).unwrap();
        let mut node = node_of(&path, "f".as_ref(), &facts, &Names::of_this_machine()).unwrap();
        change(&mut node);
        let lacking = std::thread::scope(|scope| {
            let work = || {
                // Rights of a thread are its own.
                let mut sets = rustix::thread::capabilities(None).unwrap();
                sets.effective = CapabilitySet::empty();
                rustix::thread::set_capabilities(None, sets).unwrap();
                set_metadata(&path, &node)
            };
            scope.spawn(work).join().unwrap()
        });
        (lacking, fs::symlink_metadata(&path).unwrap().mode() & 0o7777)
    }

    #[test]
    fn what_takes_more_rights_is_told_apart_and_nothing_runs_as_whoever_restores_it() {
        let (lacking, mode) = dressed(|node| {
            (node.uid, node.gid) = (node.uid + 54_321, node.gid + 54_321);
            node.mode = go_mode(NodeKind::File, 0o6750);
            let (name, value) = ("trusted.x".into(), b"1".to_vec());
            node.extended_attributes = vec![Xattr { name, value }];
        });
        let told: Vec<&str> = lacking.iter().map(|one| one.why.as_str()).collect();
        assert!(lacking.iter().all(|one| one.is_refused) && lacking.len() == 3, "{told:?}");
        assert!(told[0].starts_with("its owner ") && told[1].contains("`trusted.x`"), "{told:?}");
        assert!(told[2].contains("run as its owner"), "{told:?}");
        assert_eq!(mode, 0o750);
    }

    #[test]
    fn what_one_may_give_oneself_is_given() {
        let (lacking, mode) = dressed(|node| node.mode = go_mode(NodeKind::File, 0o4710));
        assert_eq!((lacking, mode), (vec![], 0o4710));
        let (lacking, _) = dressed(|node| {
            let (name, value) = ("nonsense".into(), b"1".to_vec());
            node.extended_attributes = vec![Xattr { name, value }];
        });
        assert!(lacking.len() == 1 && !lacking[0].is_refused, "no right helps there: {lacking:?}");
    }
}
