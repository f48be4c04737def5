//! Who uses a tree that is mounted: for people to know, since the kernel alone decides whether it is in use.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pc_switcher_contract::BytePath;
use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, statx};

use super::spaces::{Space, Tree};
use super::top::{self, Top};
use crate::proto::{AgentError, TreeUser, TreeUsers};

/// So many are named.
const NAMED: usize = 3;

/// Where systemd notes whose services run without a login.
const LINGER: &str = "/var/lib/systemd/linger";

/// Returns the processes that work in a mount of a tree, in whatever namespace, oldest first.
pub(super) fn of(spaces: &[Space], tree: &Tree<'_>) -> Vec<u32> {
    let lines = || spaces.iter().flat_map(|space| &space.lines).filter(|line| tree.is_in(line));
    let mut mounts: HashSet<u64> = lines().map(|line| line.id).collect();
    // What is mounted in it keeps it as well, and so does whoever works there.
    loop {
        let all = spaces.iter().flat_map(|space| &space.lines);
        let inside: Vec<u64> = all.filter(|line| mounts.contains(&line.parent)).map(|line| line.id).collect();
        let before = mounts.len();
        mounts.extend(inside);
        if mounts.len() == before {
            break;
        }
    }
    let points: HashSet<&BytePath> = lines().map(|line| &line.point).collect();
    pids(spaces).into_iter().filter(|pid| is_user(*pid, &mounts, &points)).collect()
}

fn is_user(pid: u32, mounts: &HashSet<u64>, points: &HashSet<&BytePath>) -> bool {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let is_there = |path: PathBuf| look(path).is_some_and(|found| mounts.contains(&found.stx_mnt_id));
    held(&dir).any(is_there) || has_mapped(&dir, points)
}

/// Returns what a process works with, as links.
fn held(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let own = ["cwd", "root", "exe"].map(|name| dir.join(name));
    own.into_iter().chain(links(dir.join("fd")))
}

fn links(dir: PathBuf) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Follows a link of a process. Nothing is asked of the file system itself: one that does not answer would keep us.
fn look(path: PathBuf) -> Option<Statx> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    statx(CWD, path, flags, StatxFlags::MNT_ID).ok()
}

/// What the kernel calls the device of a subvolume: each has one of its own, by whatever mount it is reached.
pub(super) type Device = (u32, u32);

fn device(found: &Statx) -> Device {
    (found.stx_dev_major, found.stx_dev_minor)
}

/// Returns the devices of a tree and of the subvolumes inside of it; none if there is no such tree.
///
/// # Errors
/// If it cannot be looked at.
pub(super) fn devices(fs_uuid: &str, name: &str) -> io::Result<HashSet<Device>> {
    let away = |error: AgentError| io::Error::other(error.message);
    let top = top::device_of(fs_uuid).map_err(away)?.ok_or(io::ErrorKind::NotFound)?;
    let top = Top::mount(&top)?;
    let Some((_, id)) = top.look(name)? else { return Ok(HashSet::new()) };
    let root = top.path(name);
    let inside = top.all_inside(id)?.into_iter().map(|(path, _)| root.join(path.as_path()));
    let of = |path: PathBuf| {
        let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
        Ok(device(&found))
    };
    std::iter::once(root.clone()).chain(inside).map(of).collect()
}

/// Returns the processes that work in a tree, by whatever mount they came there.
///
/// # Errors
/// As [`devices`].
pub(super) fn through(spaces: &[Space], fs_uuid: &str, name: &str) -> io::Result<Vec<u32>> {
    let wanted = devices(fs_uuid, name)?;
    let is_there = |pid: &u32| devices_of(*pid).any(|device| wanted.contains(&device));
    Ok(pids(spaces).into_iter().filter(is_there).collect())
}

/// Returns all devices that any process works on.
pub(super) fn all_devices(spaces: &[Space]) -> HashSet<Device> {
    pids(spaces).into_iter().flat_map(devices_of).collect()
}

fn devices_of(pid: u32) -> impl Iterator<Item = Device> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    // A table of what is mapped names another device for all subvolumes.
    let mapped = links(dir.join("map_files"));
    held(&dir).chain(mapped).filter_map(look).map(|found| device(&found))
}

fn pids(spaces: &[Space]) -> Vec<u32> {
    let mut pids: Vec<u32> = spaces.iter().flat_map(|space| space.pids.iter().copied()).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Whether a process has a file below one of these mapped.
fn has_mapped(dir: &Path, points: &HashSet<&BytePath>) -> bool {
    let maps = fs::read(dir.join("maps")).unwrap_or_default();
    maps.split(|byte| *byte == b'\n').any(|line| {
        let path = line.iter().position(|byte| *byte == b'/').map(|at| BytePath::new(&line[at..]));
        path.is_some_and(|path| points.iter().any(|point| path.is_within(point)))
    })
}

/// Names some of them.
pub(super) fn named(pids: &[u32]) -> TreeUsers {
    let named: Vec<TreeUser> = pids.iter().take(NAMED).filter_map(|pid| name(*pid)).collect();
    let more = pids.len().saturating_sub(NAMED) as u64;
    TreeUsers { named, more, own_login: own_login(pids) }
}

/// Returns whose login this process is in, if systemd has started all of these for that very user, whatever it is that logs in: they
/// were not there before, and work in the home.
fn own_login(pids: &[u32]) -> Option<String> {
    let uid = slice_of(&groups_of("self"))?;
    let user = user_of(uid).unwrap_or_else(|| uid.to_string());
    // They were there before, and stay.
    if lingers(Path::new(LINGER), &user) {
        return None;
    }
    let is_its = |pid: &u32| manager_of(&groups_of(&pid.to_string())) == Some(uid);
    (!pids.is_empty() && pids.iter().all(is_its)).then_some(user)
}

/// Returns the control groups of a process.
fn groups_of(process: &str) -> String {
    fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default()
}

/// Whether services of a user run with nobody logged in, and so go on after a logout.
fn lingers(dir: &Path, user: &str) -> bool {
    dir.join(user).exists()
}

/// Returns the service by which a process runs that belongs to the manager of a user who lingers.
fn lingering_service(dir: &Path, groups: &str, user: impl Fn(u32) -> Option<String>) -> Option<String> {
    let uid = manager_of(groups)?;
    let is_its = user(uid).is_some_and(|user| lingers(dir, &user));
    let manager = format!("user@{uid}.service");
    let below = groups.lines().find_map(|line| line.split_once(&manager)).map_or("", |(_, below)| below);
    // A scope holds what a service has started beside itself; the manager has one of its own.
    let service = below.split('/').rfind(|word| word.ends_with(".service"));
    is_its.then(|| service.map_or(manager, str::to_owned))
}

/// Returns whose logins a process belongs to, by its control groups.
fn slice_of(groups: &str) -> Option<u32> {
    number_in(groups, "user-", ".slice")
}

/// Returns whose manager of services has started a process, by its control groups.
fn manager_of(groups: &str) -> Option<u32> {
    number_in(groups, "user@", ".service")
}

fn number_in(groups: &str, start: &str, end: &str) -> Option<u32> {
    let mut words = groups.split(['/', '\n']);
    words.find_map(|word| word.strip_prefix(start)?.strip_suffix(end)?.parse().ok())
}

fn name(pid: u32) -> Option<TreeUser> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let program = fs::read(dir.join("comm")).ok()?;
    let uid = fs::metadata(&dir).ok()?.uid();
    let user = user_of(uid).unwrap_or_else(|| uid.to_string());
    let program = String::from_utf8_lossy(program.trim_ascii_end()).into_owned();
    let service = lingering_service(Path::new(LINGER), &groups_of(&pid.to_string()), user_of);
    Some(TreeUser { pid, program, user, service })
}

fn user_of(uid: u32) -> Option<String> {
    let passwd = fs::read("/etc/passwd").ok()?;
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let mut words = line.split(|byte| *byte == b':');
        let name = words.next()?;
        let number = std::str::from_utf8(words.nth(1)?).ok()?.parse::<u32>().ok()?;
        (number == uid).then(|| String::from_utf8_lossy(name).into_owned())
    })
}

/// Returns the device of a loop that lies below a path: the kernel holds its file, and no process does.
pub(super) fn looped(point: &BytePath) -> Option<String> {
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|entry| {
        let file = fs::read(entry.path().join("loop/backing_file")).ok()?;
        let is_inside = BytePath::new(file.trim_ascii_end()).is_within(point);
        is_inside.then(|| String::from_utf8_lossy(entry.file_name().as_bytes()).into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_login_starts_is_told_from_what_people_start() {
        let user = "/user.slice/user-1000.slice";
        let session = format!("0::{user}/session-7.scope\n");
        let manager = format!("0::{user}/user@1000.service/init.scope\n");
        let old = format!("12:pids:/\n1:name=systemd:{user}/user@1000.service/app.slice/x.service\n");
        assert_eq!([&session, &manager, &old].map(|groups| slice_of(groups)), [Some(1000); 3]);
        assert_eq!(
            [&session, &manager, &old].map(|groups| manager_of(groups)),
            [None, Some(1000), Some(1000)]
        );
        for other in ["", "0::/system.slice/user@.service\n", "0::/\n", "0::/user.slice/user-x.slice\n"] {
            assert_eq!((slice_of(other), manager_of(other)), (None, None), "{other}");
        }
    }
    #[test]
    fn a_service_that_needs_no_login_is_named_and_one_that_ends_with_its_login_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let user = |uid| (uid == 1000).then(|| "alice".to_owned());
        let of = |rest: &str| {
            let groups = format!("0::/user.slice/user-1000.slice/user@1000.service/{rest}\n");
            lingering_service(dir.path(), &groups, user)
        };
        assert_eq!(of("app.slice/syncthing.service"), None, "nobody lingers");
        fs::write(dir.path().join("alice"), "").unwrap();
        assert_eq!(of("app.slice/syncthing.service").as_deref(), Some("syncthing.service"));
        assert_eq!(of("app.slice/app-x.slice/x@1.service/sub").as_deref(), Some("x@1.service"));
        assert_eq!(of("init.scope").as_deref(), Some("user@1000.service"));
        let session = "0::/user.slice/user-1000.slice/session-7.scope\n";
        assert_eq!(lingering_service(dir.path(), session, user), None, "a login, which can be ended");
        let other = "0::/user.slice/user-1001.slice/user@1001.service/app.slice/x.service\n";
        assert_eq!(lingering_service(dir.path(), other, user), None);
    }
}
