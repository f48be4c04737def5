//! Owner, rights, attributes and times of what was restored.
//!
//! All of it is given to what is open and to nothing that is looked up by a name, which may be a link by then.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use jiff::Timestamp;
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmod, chownat, fchmod,
    fcntl_getfl, fgetxattr_query, fremovexattr, fsetxattr, fstat, futimens, getxattr_query, removexattr,
    setxattr, utimensat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::facts::{names_of, value_of};
use super::way::by_descriptor;
use crate::format::node::timestamp;
use crate::format::{Node, NodeKind, Xattr};

/// Who may use a file beside its owner and group, and who may use what is made in a directory.
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];
/// What a program may do that only root may do otherwise.
const CAPABILITIES: &str = "security.capability";
/// What a security policy of the system gives by itself.
const LABELS: [&str; 3] = ["security.selinux", "security.SMACK64", "security.ima"];
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
    pub(super) fn new(what: &str, error: &io::Error) -> Self {
        Self { why: format!("{what} could not be set: {error}"), is_refused: false }
    }

    /// Of what only some may give.
    fn of_others(what: &str, error: &io::Error) -> Self {
        let is_refused = error.kind() == ErrorKind::PermissionDenied;
        Self { is_refused, ..Self::new(what, error) }
    }
}

/// Gives what is open its owner, attributes, rights and times, in this order; returns what could not be given.
///
/// What ran with the rights of its owner or group never gets to run with those of whoever restores it.
pub fn set_metadata(open: &impl AsFd, node: &Node) -> Vec<Lacking> {
    let mut lacking = set_all_but_times(open, node);
    if node.kind == NodeKind::Socket {
        return lacking;
    }
    let times = Timestamps { last_access: timespec(node.atime), last_modification: timespec(node.mtime) };
    if let Err(error) = Reached::of(open).set_times(&times) {
        lacking.push(Lacking::new("its times", &error.into()));
    }
    lacking
}

/// Whether what is open has owner, rights and attributes as they should be; of its times nothing is said.
pub(crate) fn is_dressed(open: &fs::File, node: &Node) -> bool {
    let Ok(facts) = open.metadata() else { return false };
    let is_ours = (facts.uid(), facts.gid()) == (node.uid, node.gid);
    let has = |xattr: &Xattr| value_of(open, &xattr.name).is_some_and(|value| value == xattr.value);
    let is_inherited = |name: &&str| {
        !node.extended_attributes.iter().any(|xattr| xattr.name == **name)
            && value_of(open, OsStr::new(name)).is_some()
    };
    is_ours
        && facts.mode() & 0o7777 == node.permissions()
        && node.extended_attributes.iter().all(has)
        && !ACLS.iter().any(is_inherited)
}

/// Whether what is open has nothing beyond that either: no further attribute, but for a label that a security policy gives, and no
/// other time.
pub(crate) fn is_undecorated(open: &fs::File, node: &Node) -> bool {
    let (Ok(facts), Ok(names)) = (open.metadata(), names_of(open)) else { return false };
    let is_known = |name: &OsString| node.extended_attributes.iter().any(|xattr| xattr.name == *name);
    timestamp(facts.mtime(), facts.mtime_nsec()) == node.mtime
        && names.iter().all(|name| LABELS.iter().any(|label| name == label) || is_known(name))
}

/// Gives a file that was there already, and is open, what [`set_metadata`] gives; returns what it lacks then.
///
/// Nothing that other names lead to is touched: they may be somebody's else. What would run with the rights of its owner or group is
/// for a new file alone: whoever had this one may hold it open, and write to it.
pub(crate) fn dress_again(open: &fs::File, node: &Node) -> Vec<Lacking> {
    let facts = match open.metadata() {
        Ok(facts) => facts,
        Err(error) => return vec![Lacking::new("its owner and rights", &error)],
    };
    let is_dressed = is_dressed(open, node);
    let is_of_then = timestamp(facts.mtime(), facts.mtime_nsec()) == node.mtime;
    let is_privileged = node.permissions() & (SET_USER_ID | SET_GROUP_ID) != 0
        || node.extended_attributes.iter().any(|xattr| xattr.name == CAPABILITIES);
    match facts.nlink() {
        _ if is_dressed && (is_of_then || facts.nlink() > 1) => Vec::new(),
        1 if is_privileged && geteuid().is_root() => {
            let why = "it is there without the rights of its owner or group that it should run with, which only a new file is given; \
                       move it away and restore it again";
            vec![Lacking { why: why.into(), is_refused: false }]
        }
        1 => set_metadata(open, node),
        _ => {
            let error = io::Error::other("it has other names, which would be changed with it");
            // Who is not root could not give what is another owner's, whatever names it has.
            let is_refused = !geteuid().is_root() && (facts.uid(), facts.gid()) != (node.uid, node.gid);
            vec![Lacking { is_refused, ..Lacking::new("its owner and rights", &error) }]
        }
    }
}

/// What calls are made with.
enum Reached<'o> {
    /// What is open to be read or written.
    Open(BorrowedFd<'o>),
    /// Of what is open as a place alone, a path that leads there and nowhere else.
    Placed(PathBuf),
}

impl<'o> Reached<'o> {
    fn of(open: &'o impl AsFd) -> Self {
        match fcntl_getfl(open) {
            Ok(flags) if !flags.contains(OFlags::PATH) => Self::Open(open.as_fd()),
            _ => Self::Placed(by_descriptor(open)),
        }
    }

    fn has(&self, attribute: &str) -> bool {
        match self {
            Self::Open(file) => fgetxattr_query(file, attribute),
            Self::Placed(path) => getxattr_query(path, attribute),
        }
        .is_ok()
    }

    fn remove(&self, attribute: &str) -> rustix::io::Result<()> {
        match self {
            Self::Open(file) => fremovexattr(file, attribute),
            Self::Placed(path) => removexattr(path, attribute),
        }
    }

    fn give(&self, Xattr { name, value }: &Xattr) -> rustix::io::Result<()> {
        match self {
            Self::Open(file) => fsetxattr(file, name, value, XattrFlags::empty()),
            Self::Placed(path) => setxattr(path, name, value, XattrFlags::empty()),
        }
    }

    fn set_rights(&self, rights: u32) -> rustix::io::Result<()> {
        let rights = Mode::from_raw_mode(rights);
        match self {
            Self::Open(file) => fchmod(file, rights),
            Self::Placed(path) => chmod(path, rights),
        }
    }

    fn set_times(&self, times: &Timestamps) -> rustix::io::Result<()> {
        match self {
            Self::Open(file) => futimens(file, times),
            Self::Placed(path) => utimensat(CWD, path, times, AtFlags::empty()),
        }
    }
}

/// As [`set_metadata`], for what was written just now and shall say so.
pub(crate) fn set_all_but_times(open: &impl AsFd, node: &Node) -> Vec<Lacking> {
    let mut lacking = Vec::new();
    if node.kind == NodeKind::Socket {
        return lacking;
    }
    let reached = Reached::of(open);
    let foreign = set_owner(open, node, &mut lacking);
    if node.kind != NodeKind::Symlink {
        remove_acls(&reached, node, &mut lacking);
    }
    for xattr in &node.extended_attributes {
        if let Err(error) = reached.give(xattr) {
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
        && let Err(error) = reached.set_rights(given)
    {
        lacking.push(Lacking::new("its rights", &error.into()));
    }
    lacking
}

/// Takes away what was inherited from the directory around it and was not there when it was backed up: its rights alone would let
/// those in whom that directory lets in.
fn remove_acls(reached: &Reached<'_>, node: &Node, lacking: &mut Vec<Lacking>) {
    let has = |name: &&str| node.extended_attributes.iter().any(|xattr| xattr.name == **name);
    // Only in a directory something is made.
    let possible = if node.kind == NodeKind::Dir { &ACLS[..] } else { &ACLS[..1] };
    for name in possible.iter().filter(|name| !has(name)) {
        if !reached.has(name) {
            continue;
        }
        match reached.remove(name) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(error) => {
                let why = format!("its inherited `{name}` could not be removed: {error}");
                lacking.push(Lacking { why, is_refused: false });
            }
        }
    }
}

/// Sets owner and group, or the group alone where only that is allowed; returns the rights that the file must not get.
fn set_owner(open: &impl AsFd, node: &Node, lacking: &mut Vec<Lacking>) -> u32 {
    let facts = match fstat(open) {
        Ok(facts) => facts,
        Err(error) => {
            lacking.push(Lacking::new("its owner", &error.into()));
            return SET_USER_ID | SET_GROUP_ID;
        }
    };
    let is_own_group = facts.st_gid == node.gid;
    if facts.st_uid == node.uid && is_own_group {
        return 0;
    }
    // The last number there is means that nothing is set.
    let user = Some(node.uid).filter(|uid| *uid != u32::MAX).map(Uid::from_raw);
    let group = Some(node.gid).filter(|gid| *gid != u32::MAX).map(Gid::from_raw);
    let give = |user| chownat(open, c"", user, group, AtFlags::EMPTY_PATH);
    let Err(error) = give(user) else { return 0 };
    let has_group = is_own_group || give(None).is_ok();
    let has_owner = facts.st_uid == node.uid;
    let (user, group) = (node.uid, node.gid);
    let (what, foreign) = match (has_owner, has_group) {
        (true, _) => (format!("its group {group}"), SET_GROUP_ID),
        (false, true) => (format!("its owner {user}"), SET_USER_ID),
        (false, false) => (format!("its owner {user}:{group}"), SET_USER_ID | SET_GROUP_ID),
    };
    lacking.push(Lacking::of_others(&what, &error.into()));
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
    use std::os::unix::fs::MetadataExt;

    use rustix::thread::CapabilitySet;

    use super::*;
    use crate::engine::{Names, node_of, xattrs};
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
        let file = fs::File::open(&path).unwrap();
        let lacking = std::thread::scope(|scope| {
            let work = || {
                // Rights of a thread are its own.
                let mut sets = rustix::thread::capabilities(None).unwrap();
                sets.effective = CapabilitySet::empty();
                rustix::thread::set_capabilities(None, sets).unwrap();
                set_metadata(&file, &node)
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

    #[test]
    fn nobody_gets_in_through_what_a_directory_lets_inherit() {
        let dir = tempfile::tempdir().unwrap();
        let entry = |tag: u16, rights: u16, id: u32| {
            [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        let nobody = u32::MAX;
        let entries = [(1, 7, nobody), (2, 7, 54_321), (4, 5, nobody), (0x10, 7, nobody), (0x20, 5, nobody)];
        let mut acl = 2_u32.to_le_bytes().to_vec();
        acl.extend(entries.iter().flat_map(|(tag, rights, id)| entry(*tag, *rights, *id)));
        if setxattr(dir.path(), ACLS[1], &acl, XattrFlags::empty()) == Err(Errno::OPNOTSUPP) {
            return;
        }
        let (file, sub) = (dir.path().join("f"), dir.path().join("sub"));
        fs::write(&file, "secret").unwrap();
        fs::create_dir(&sub).unwrap();
        for path in [&file, &sub] {
            assert!(!xattrs(path).unwrap().is_empty(), "it inherited something");
            let facts = fs::symlink_metadata(path).unwrap();
            let mut node = node_of(path, "x".as_ref(), &facts, &Names::default()).unwrap();
            node.extended_attributes.clear();
            node.mode = go_mode(node.kind, 0o640);
            assert_eq!(set_metadata(&fs::File::open(path).unwrap(), &node), vec![]);
            assert_eq!(xattrs(path).unwrap(), vec![]);
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o640);
        }
    }
}
