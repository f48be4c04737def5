//! One random change to a tree, as programs make them.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, PermissionsExt, lchown, symlink},
    path::{Path, PathBuf},
};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, IFlags, Mode, RenameFlags, Timespec, Timestamps, XattrFlags,
    copy_file_range, fallocate, ioctl_ficlone, ioctl_getflags, ioctl_setflags, lremovexattr, lsetxattr,
    mknodat, renameat_with, utimensat,
};

use super::pick::{Picked, one_of};
use pc_switcher_testkit::seed::Random;

/// Beyond so many paths more goes than comes.
const MANY: usize = 300;

/// Makes one change and says which; `None` if the tree has nothing for the one that was drawn, or the kernel refuses it.
pub fn change(tree: &Path, random: &mut Random) -> Option<String> {
    let picked = Picked::read(tree);
    let draw = if picked.all.len() > MANY { 100 + random.below(8) } else { random.below(110) };
    let (what, done) = match draw {
        0..18 => create(&picked, random)?,
        18..36 => rewrite(&picked, random)?,
        36..46 => attributes(&picked, random)?,
        46..52 => links(&picked, random)?,
        52..82 => moves(&picked, random)?,
        82..89 => clones(&picked, random)?,
        89..94 => other_kinds(&picked, random)?,
        _ => removals(&picked, random)?,
    };
    done.ok().map(|()| what)
}

type Done = Option<(String, io::Result<()>)>;

fn said(what: &str, paths: &[&PathBuf], done: io::Result<()>) -> Done {
    let names: Vec<String> = paths.iter().map(|path| format!("{:?}", short(path))).collect();
    Some((format!("{what} {}", names.join(" ")), done))
}

fn short(path: &Path) -> PathBuf {
    path.iter().skip_while(|name| *name != "work").skip(1).collect()
}

fn bytes(random: &mut Random, count: u64) -> Vec<u8> {
    random.bytes(usize::try_from(count).unwrap())
}

/// Mostly small, some inline in the tree, some large enough to be patched.
fn some_bytes(random: &mut Random) -> u64 {
    match random.below(12) {
        0 => 0,
        1 => (1 << 20) + random.below(2 << 20),
        2..5 => 4096 * (1 + random.below(20)),
        _ => random.below(3000),
    }
}

fn create(picked: &Picked, random: &mut Random) -> Done {
    let path = picked.free(random);
    match random.below(6) {
        0 => said("mkdir", &[&path], fs::create_dir(&path)),
        1 => {
            let deep = path.join("a/b");
            let made = fs::create_dir_all(&deep).and_then(|()| fs::write(deep.join("c"), b"deep"));
            said("mkdir -p", &[&path], made)
        }
        2 => {
            let made = File::create(&path).and_then(|file| {
                let flags = ioctl_getflags(&file)?;
                ioctl_setflags(&file, flags | IFlags::NOCOW)?;
                file.write_all_at(&bytes(random, 40_000), 0)
            });
            said("create without copy-on-write", &[&path], made)
        }
        _ => {
            let count = some_bytes(random);
            said(&format!("create {count}"), &[&path], fs::write(&path, bytes(random, count)))
        }
    }
}

fn rewrite(picked: &Picked, random: &mut Random) -> Done {
    let path = one_of(random, &picked.files)?;
    let size = path.metadata().ok()?.len();
    let count = some_bytes(random);
    let file = OpenOptions::new().write(true).open(&path).ok()?;
    let at = random.below(size + 1);
    match random.below(8) {
        0 => said("write anew", &[&path], fs::write(&path, bytes(random, count))),
        1 => said(&format!("append {count}"), &[&path], file.write_all_at(&bytes(random, count), size)),
        2 => said(&format!("truncate to {at}"), &[&path], file.set_len(at)),
        3 => said("grow by a hole", &[&path], file.set_len(size + count)),
        4 => {
            let holes = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            said(
                &format!("punch {at}+{count}"),
                &[&path],
                Ok(fallocate(&file, holes, at, count.max(1)).ok()?),
            )
        }
        5 => {
            let done = fallocate(&file, FallocateFlags::empty(), at, count.max(1));
            said(&format!("allocate {at}+{count}"), &[&path], Ok(done.ok()?))
        }
        _ => {
            let done = file.write_all_at(&bytes(random, count.min(5000)), at);
            said(&format!("write {} at {at}", count.min(5000)), &[&path], done)
        }
    }
}

fn attributes(picked: &Picked, random: &mut Random) -> Done {
    let path = one_of(random, &picked.all)?;
    let is_link = path.is_symlink();
    let number = random.below(1 << 32);
    match random.below(7) {
        0 if !is_link => {
            let mode = [0o644, 0o600, 0o755, 0o4755, 0o2750, 0o1777, 0o000, 0o444];
            let mode = one_of(random, &mode)?;
            said(
                &format!("chmod {mode:o}"),
                &[&path],
                fs::set_permissions(&path, PermissionsExt::from_mode(mode)),
            )
        }
        1 => {
            let owner = one_of(random, &[0, 1000, 1001, 54_321])?;
            said(&format!("chown {owner}"), &[&path], lchown(&path, Some(owner), Some(owner / 2)))
        }
        2 | 3 => {
            let seconds = one_of(random, &[-1, 0, 1_600_000_000, 4_000_000_000])? + i64::from(number as u16);
            let time = Timespec { tv_sec: seconds, tv_nsec: i64::from(number as u32 % 1_000_000_000) };
            let times = Timestamps { last_access: time, last_modification: time };
            let done = utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(Into::into);
            said(&format!("touch {seconds}"), &[&path], done)
        }
        4 if !is_link => {
            let value = bytes(random, number % 300);
            let name = format!("user.n{}", number % 3);
            let done = lsetxattr(&path, &name, &value, XattrFlags::empty()).map_err(Into::into);
            said(&format!("set {name}"), &[&path], done)
        }
        5 => {
            let done = lremovexattr(&path, format!("user.n{}", number % 3)).map_err(Into::into);
            said("remove an attribute", &[&path], done)
        }
        _ if !is_link => {
            let done = lsetxattr(&path, "system.posix_acl_access", &acl(number), XattrFlags::empty());
            said("set an ACL", &[&path], done.map_err(Into::into))
        }
        _ => None,
    }
}

/// One named user beside the owner, as the kernel takes it (acl(5)).
fn acl(number: u64) -> Vec<u8> {
    let rights = (number % 8) as u16;
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in
        [(1_u16, 6, u32::MAX), (2, rights, 1001), (4, 4, u32::MAX), (0x10, 7, u32::MAX), (0x20, 0, u32::MAX)]
    {
        acl.extend(tag.to_le_bytes());
        acl.extend(rights.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

fn links(picked: &Picked, random: &mut Random) -> Done {
    let (from, to) = (one_of(random, &picked.all)?, picked.free(random));
    if random.below(2) == 0 {
        let target = one_of(random, &["nowhere".into(), PathBuf::from("../.."), short(&from)])?;
        return said("symlink", &[&to], symlink(target, &to));
    }
    let file = one_of(random, &picked.files)?;
    said("link", &[&file, &to], fs::hard_link(&file, &to))
}

fn moves(picked: &Picked, random: &mut Random) -> Done {
    // Directories as often as files, though there are fewer.
    let dirs = &picked.dirs[1..];
    let draw = |random: &mut Random| match random.below(2) {
        0 => one_of(random, dirs),
        _ => one_of(random, &picked.all),
    };
    let (one, two) = (draw(random)?, draw(random)?);
    let exchange = |one: &Path, two: &Path| -> io::Result<()> {
        Ok(renameat_with(CWD, one, CWD, two, RenameFlags::EXCHANGE)?)
    };
    match random.below(8) {
        0 => said("exchange", &[&one, &two], exchange(&one, &two)),
        1 => {
            let three = draw(random)?;
            let done = exchange(&one, &two);
            // The third may stand below one of the others by now.
            let _ = done.is_ok() && exchange(&two, &three).is_ok();
            said("cycle", &[&one, &two, &three], done)
        }
        2 => said("rename over", &[&one, &two], fs::rename(&one, &two)),
        3 => {
            let (dir, to) = (picked.free(random), one.file_name()?);
            let to = dir.join(to);
            let done = fs::create_dir(&dir).and_then(|()| fs::rename(&one, &to));
            said("rename into a new directory", &[&one, &to], done)
        }
        4 => {
            // What was above comes below.
            let (parent, to) = (one.parent()?.to_owned(), picked.free(random));
            if parent.ends_with("work") {
                return None;
            }
            let done = fs::rename(&one, &to).and_then(|()| {
                let inside = if to.is_dir() { to.join("above") } else { return Ok(()) };
                fs::rename(&parent, inside).or(Ok(()))
            });
            said("turn over", &[&parent, &one, &to], done)
        }
        _ => {
            let to = picked.free(random);
            said("rename", &[&one, &to], fs::rename(&one, &to))
        }
    }
}

fn clones(picked: &Picked, random: &mut Random) -> Done {
    let to = picked.free(random);
    if random.below(3) == 0 {
        let dir = one_of(random, &picked.dirs)?;
        let files: Vec<PathBuf> = fs::read_dir(&dir).ok()?.map(|entry| entry.unwrap().path()).collect();
        let done = fs::create_dir(&to).and_then(|()| {
            let files = files.iter().filter(|path| path.symlink_metadata().is_ok_and(|meta| meta.is_file()));
            files.into_iter().try_for_each(|file| clone(file, &to.join(file.file_name().unwrap())))
        });
        return said("clone a directory", &[&dir, &to], done);
    }
    // Small files are sent, whatever they share.
    let is_large = |path: &&PathBuf| path.metadata().is_ok_and(|meta| meta.len() >= 64 << 10);
    let large: Vec<PathBuf> = picked.files.iter().filter(is_large).cloned().collect();
    let any = if random.below(4) == 0 { &picked.files } else { &large };
    let from = one_of(random, any)?;
    match random.below(4) {
        0 => said("clone", &[&from, &to], clone(&from, &to)),
        1 => {
            // A copy that shares nothing, and then everything, though its time says nothing of that.
            let done = fs::copy(&from, &to).and_then(|_| {
                let time = to.metadata()?.modified()?;
                let len = from.metadata()?.len();
                clone_range(&from, &to, (0, 0, len))?;
                File::open(&to)?.set_modified(time)
            });
            said("deduplicate", &[&from, &to], done)
        }
        _ => {
            let into = one_of(random, &large).filter(|into| *into != from).unwrap_or(to);
            let blocks = |random: &mut Random, path: &Path| {
                let size = path.metadata().map_or(0, |meta| meta.len());
                4096 * random.below(size / 4096 + 2)
            };
            let (at, from_at) = (blocks(random, &into), blocks(random, &from));
            let len = 4096 * (1 + random.below(60));
            let done = clone_range(&from, &into, (at, from_at, len));
            said(&format!("clone {from_at}+{len} to {at}"), &[&from, &into], done)
        }
    }
}

/// Copies a range, which btrfs does by sharing it where it is of whole blocks.
fn clone_range(from: &Path, to: &Path, (at, from_at, len): (u64, u64, u64)) -> io::Result<()> {
    let (from, to) =
        (File::open(from)?, OpenOptions::new().create(true).truncate(false).write(true).open(to)?);
    let (mut at, mut from_at, end) = (at, from_at, from_at + len);
    while from_at < end {
        let want = usize::try_from(end - from_at).unwrap_or(usize::MAX);
        if copy_file_range(&from, Some(&mut from_at), &to, Some(&mut at), want)? == 0 {
            break;
        }
    }
    Ok(())
}

fn clone(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (File::open(from)?, File::create(to)?);
    // A file without copy-on-write shares nothing with one that has it.
    if ioctl_ficlone(&to, &from).is_err() {
        io::copy(&mut &from, &mut &to)?;
    }
    Ok(())
}

fn other_kinds(picked: &Picked, random: &mut Random) -> Done {
    if random.below(3) == 0 {
        let path = picked.free(random);
        let done = mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o640), 0).map_err(Into::into);
        return said("mkfifo", &[&path], done);
    }
    let path = one_of(random, &picked.all)?;
    let removed = remove(&path);
    let done = removed.and_then(|()| match random.below(4) {
        0 => fs::create_dir(&path).and_then(|()| fs::write(path.join("inside"), b"was something else")),
        1 => symlink("elsewhere", &path),
        2 => mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).map_err(Into::into),
        _ => fs::write(&path, b"was something else"),
    });
    said("become another kind", &[&path], done)
}

fn removals(picked: &Picked, random: &mut Random) -> Done {
    let path = match random.below(3) {
        0 => one_of(random, &picked.dirs[1..])?,
        _ => one_of(random, &picked.all)?,
    };
    said("remove", &[&path], remove(&path))
}

fn remove(path: &Path) -> io::Result<()> {
    if path.is_symlink() || !path.is_dir() { fs::remove_file(path) } else { fs::remove_dir_all(path) }
}
