//! Subvolumes in a tree: made, filled, renamed, deleted, snapshotted, closed, and directories that become one or the reverse.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use pc_switcher_testkit::seed::Random;
use rustix::{
    fs::{Access, CWD, RenameFlags, access, renameat_with},
    io::Errno,
};

use super::{
    TREE,
    changes::{Done, remove, said},
    pick::{Picked, one_of},
};

/// Each takes a snapshot of its own on both machines: from so many on they only go.
const MANY: usize = 7;
const ROOT: u64 = 256;
/// What stands in a snapshot where a subvolume lay inside.
const STUB: u64 = 2;

pub fn subvolumes(picked: &Picked, random: &mut Random) -> Done {
    let own: Vec<PathBuf> = picked.dirs[1..].iter().filter(|path| is_subvolume(path)).cloned().collect();
    let plain: Vec<PathBuf> = picked.dirs[1..].iter().filter(|path| !is_subvolume(path)).cloned().collect();
    let to = picked.free(random);
    let draw = if own.len() > MANY { 14 + random.below(5) } else { random.below(24) };
    match draw {
        0..4 => said("make a subvolume", "", &[&to], make(&to).and_then(|()| fill(&to))),
        4 | 5 => {
            let inner = to.join("new/vm");
            let done =
                fs::create_dir_all(to.join("new")).and_then(|()| make(&inner)).and_then(|()| fill(&inner));
            said("make a subvolume below a new directory", "", &[&inner], done)
        }
        6 | 7 => {
            let outer = one_of(random, &own)?;
            let inner = outer.join(to.file_name()?);
            let done = make(&inner).and_then(|()| fill(&inner));
            said("make a subvolume in a subvolume", "", &[&inner], done)
        }
        8..11 => {
            let path = one_of(random, &plain)?;
            said("make a directory a subvolume", "", &[&path], replace(&path, make))
        }
        11 | 12 => {
            let outer = one_of(random, &own)?;
            let done = btrfs("snapshot", &[&outer, &to]);
            if random.below(3) > 0 {
                let _ = remove_stubs(&to);
            }
            said("snapshot a subvolume", "", &[&outer, &to], done)
        }
        13 => {
            let path = one_of(random, &own)?;
            said("make a subvolume read-only", "", &[&path], set_read_only(&path, true))
        }
        14 | 15 => {
            let path = one_of(random, &own)?;
            said("make a subvolume a directory", "", &[&path], replace(&path, |path| fs::create_dir(path)))
        }
        16 | 17 => {
            let path = one_of(random, &own)?;
            said("delete a subvolume", "", &[&path], btrfs("delete", &[&path]))
        }
        18 => {
            let path = one_of(random, &own)?;
            said("remove all in a subvolume", "", &[&path], remove(&path).and_then(|()| make(&path)))
        }
        19 | 20 => {
            let path = one_of(random, &own)?;
            said("rename a subvolume", "", &[&path, &to], fs::rename(&path, &to))
        }
        21 => {
            let (one, two) = (one_of(random, &own)?, one_of(random, &picked.all)?);
            let done = renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE).map_err(Into::into);
            said("exchange a subvolume", "", &[&one, &two], done)
        }
        _ => {
            let path = one_of(random, &own)?;
            let inner = path.join(to.file_name()?);
            let done = if inner.exists() { remove(&inner) } else { fill(&path) };
            said("work in a subvolume", "", &[&path], done)
        }
    }
}

/// Whether a subvolume begins there; links are not followed.
pub fn is_subvolume(path: &Path) -> bool {
    is_dir_of(path, ROOT)
}

/// Whether that is the empty directory which a snapshot has in place of a subvolume.
pub fn is_stub(path: &Path) -> bool {
    is_dir_of(path, STUB)
}

fn is_dir_of(path: &Path, inode: u64) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_dir() && meta.ino() == inode)
}

pub fn is_read_only(path: &Path) -> bool {
    access(path, Access::WRITE_OK) == Err(Errno::ROFS)
}

pub fn set_read_only(path: &Path, yes: bool) -> io::Result<()> {
    let (root, inside) = from_root(path);
    let set = ["btrfs", "property", "set", "-ts"];
    run(Command::new("chroot")
        .arg(root)
        .args(set)
        .arg(inside)
        .args(["ro", if yes { "true" } else { "false" }]))
}

fn make(path: &Path) -> io::Result<()> {
    btrfs("create", &[path])
}

fn fill(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path.join("in"))?;
    write(&path.join("in/file"), b"in")?;
    write(&path.join("file"), &[b'x'; 5000])?;
    fs::hard_link(path.join("file"), path.join("in/other")).or(Ok(()))
}

/// Writes a file anew. What an earlier change has made a pipe fails instead of waiting for a reader.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).custom_flags(libc::O_NONBLOCK);
    options.open(path)?.write_all(bytes)
}

/// Makes something else where a directory stands, with the same content.
fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".aside");
    let aside = PathBuf::from(aside);
    fs::rename(path, &aside)?;
    make(path)?;
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(aside.join(".")).arg(path))?;
    remove(&aside)
}

fn remove_stubs(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if is_stub(&path) {
            fs::remove_dir(&path)?;
        } else if path.is_dir() && !path.is_symlink() {
            remove_stubs(&path)?;
        }
    }
    Ok(())
}

/// Calls the tool as on the machine itself: it resolves paths, and a mount is seen from its root.
fn btrfs(verb: &str, paths: &[&Path]) -> io::Result<()> {
    let (root, _) = from_root(paths[0]);
    let inside = paths.iter().map(|path| from_root(path).1);
    run(Command::new("chroot").arg(root).args(["btrfs", "-q", "subvolume", verb]).args(inside))
}

/// Returns the root of the machine that a path lies on, and the path as it is there.
fn from_root(path: &Path) -> (&Path, PathBuf) {
    let tree = path.ancestors().find(|dir| dir.ends_with(TREE)).expect("a path below the tree");
    let root = tree.ancestors().nth(Path::new(TREE).iter().count()).expect("the tree lies below a root");
    (root, Path::new("/").join(path.strip_prefix(root).expect("one of its ancestors")))
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    let why = || io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned());
    if output.status.success() { Ok(()) } else { Err(why()) }
}
