//! One random change to a tree, as programs make them.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use pc_switcher_testkit::seed::Random;
use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with};

use super::{
    attributes::attributes,
    clones::clones,
    contents::{create, rewrite},
    pick::{Picked, one_of},
    subvolumes::subvolumes,
    tally::Tally,
};

/// Beyond so many paths more goes than comes.
const MANY: usize = 300;

/// Makes one change and says which; `None` if the tree has nothing for the one that was drawn, or the kernel refuses it.
pub fn change(tree: &Path, random: &mut Random, tally: &mut Tally) -> Option<String> {
    let picked = Picked::read(tree);
    let draw = if picked.all.len() > MANY { 109 + random.below(9) } else { random.below(120) };
    let Made { kind, text, done } = match draw {
        0..18 => create(&picked, random)?,
        18..36 => rewrite(&picked, random)?,
        36..47 => attributes(&picked, random)?,
        47..53 => links(&picked, random)?,
        53..81 => moves(&picked, random)?,
        81..88 => clones(&picked, random)?,
        88..94 => other_kinds(&picked, random)?,
        94..104 => subvolumes(&picked, random)?,
        _ => removals(&picked, random)?,
    };
    done.ok()?;
    tally.count(kind);
    Some(text)
}

/// A change that was tried.
pub struct Made {
    /// What it was, to be counted.
    kind: &'static str,
    text: String,
    done: io::Result<()>,
}

pub type Done = Option<Made>;

pub fn said(kind: &'static str, more: &str, paths: &[&PathBuf], done: io::Result<()>) -> Done {
    let names: Vec<String> = paths.iter().map(|path| format!("{:?}", short(path))).collect();
    Some(Made { kind, text: format!("{kind} {more} {}", names.join(" ")), done })
}

pub fn short(path: &Path) -> PathBuf {
    path.iter().skip_while(|name| *name != "work").skip(1).collect()
}

fn links(picked: &Picked, random: &mut Random) -> Done {
    let (from, to) = (one_of(random, &picked.all)?, picked.free(random));
    if random.below(2) == 0 {
        let target = one_of(random, &["nowhere".into(), PathBuf::from("../.."), short(&from)])?;
        return said("symlink", "", &[&to], symlink(target, &to));
    }
    let file = one_of(random, &picked.linkable)?;
    let kind = if file.parent() == to.parent() { "link" } else { "link across directories" };
    said(kind, "", &[&file, &to], fs::hard_link(&file, &to))
}

fn is_dir(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_dir())
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
        0 => {
            let kind = if is_dir(&one) && is_dir(&two) { "exchange directories" } else { "exchange" };
            said(kind, "", &[&one, &two], exchange(&one, &two))
        }
        1 => {
            let three = draw(random)?;
            let done = exchange(&one, &two);
            // The third may stand below one of the others by now.
            let _ = done.is_ok() && exchange(&two, &three).is_ok();
            said("cycle", "", &[&one, &two, &three], done)
        }
        2 => said("rename over", "", &[&one, &two], fs::rename(&one, &two)),
        3 => {
            let (dir, to) = (picked.free(random), one.file_name()?);
            let to = dir.join(to);
            let done = fs::create_dir(&dir).and_then(|()| fs::rename(&one, &to));
            said("rename into a new directory", "", &[&one, &to], done)
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
            said("turn over", "", &[&parent, &one, &to], done)
        }
        _ => {
            let to = picked.free(random);
            let kind = if is_dir(&one) { "rename a directory" } else { "rename" };
            said(kind, "", &[&one, &to], fs::rename(&one, &to))
        }
    }
}

fn other_kinds(picked: &Picked, random: &mut Random) -> Done {
    let node = |path: &Path, kind, device| -> io::Result<()> {
        Ok(mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device)?)
    };
    let to = picked.free(random);
    match random.below(6) {
        0 => return said("mkfifo", "", &[&to], node(&to, FileType::Fifo, 0)),
        1 => return said("make a socket", "", &[&to], node(&to, FileType::Socket, 0)),
        // As /dev/null.
        2 => return said("make a device", "", &[&to], node(&to, FileType::CharacterDevice, makedev(1, 3))),
        _ => {}
    }
    let path = one_of(random, &picked.all)?;
    let removed = remove(&path);
    let done = removed.and_then(|()| match random.below(5) {
        0 => fs::create_dir(&path).and_then(|()| fs::write(path.join("inside"), b"was something else")),
        1 => symlink("elsewhere", &path),
        2 => node(&path, FileType::Fifo, 0),
        3 => node(&path, FileType::Socket, 0),
        _ => fs::write(&path, b"was something else"),
    });
    said("become another kind", "", &[&path], done)
}

fn removals(picked: &Picked, random: &mut Random) -> Done {
    let path = match random.below(3) {
        0 => one_of(random, &picked.dirs[1..])?,
        _ => one_of(random, &picked.all)?,
    };
    said("remove", "", &[&path], remove(&path))
}

pub fn remove(path: &Path) -> io::Result<()> {
    if path.is_symlink() || !path.is_dir() { fs::remove_file(path) } else { fs::remove_dir_all(path) }
}
