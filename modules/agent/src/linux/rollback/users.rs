//! Who uses a tree that is mounted: for people to know, since the kernel alone decides whether it is in use.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pc_switcher_contract::BytePath;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::spaces::{Space, Tree};
use crate::proto::{TreeUser, TreeUsers};

/// So many are named.
const NAMED: usize = 3;

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
    let mut pids: Vec<u32> = spaces.iter().flat_map(|space| space.pids.iter().copied()).collect();
    pids.sort_unstable();
    pids.dedup();
    pids.retain(|pid| is_user(*pid, &mounts, &points));
    pids
}

fn is_user(pid: u32, mounts: &HashSet<u64>, points: &HashSet<&BytePath>) -> bool {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    // Nothing is asked of the file system itself: one that does not answer would keep us.
    let is_there = |path: PathBuf| {
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let found = statx(CWD, path, flags, StatxFlags::MNT_ID);
        found.is_ok_and(|found| mounts.contains(&found.stx_mnt_id))
    };
    if ["cwd", "root", "exe"].into_iter().any(|name| is_there(dir.join(name))) {
        return true;
    }
    let open = fs::read_dir(dir.join("fd")).into_iter().flatten().flatten();
    open.map(|entry| entry.path()).any(is_there) || has_mapped(&dir, points)
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
    TreeUsers { named, more }
}

fn name(pid: u32) -> Option<TreeUser> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let program = fs::read(dir.join("comm")).ok()?;
    let uid = fs::metadata(&dir).ok()?.uid();
    let user = user_of(uid).unwrap_or_else(|| uid.to_string());
    Some(TreeUser { pid, program: String::from_utf8_lossy(program.trim_ascii_end()).into_owned(), user })
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
