//! A day's work on a tree, from a seed: what the next sync has to bring over.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, copy_file_range, ioctl_ficlone, lremovexattr, renameat_with};

use super::grow::Garden;

/// Works on a tree for so many operations.
pub fn work(garden: &mut Garden<'_>, operations: u64) {
    for _ in 0..operations {
        one(garden);
    }
}

fn is_dir(path: &Path) -> bool {
    path.is_dir() && !path.is_symlink()
}

fn is_file(path: &Path) -> bool {
    path.is_file() && !path.is_symlink()
}

fn one(garden: &mut Garden<'_>) {
    let dir = garden.any(is_dir).unwrap_or(garden.root.to_owned());
    let file = garden.any(is_file);
    match (garden.random.below(36), file) {
        (0..=2, _) => garden.something(&dir),
        (3..=6, Some(file)) => replace(garden, &file),
        // In place: all names of a file change.
        (7, Some(file)) => garden.write(&file, 9000),
        (8..=9, Some(file)) => fs::remove_file(file).unwrap(),
        (10, Some(file)) => {
            let to = garden.fresh(&dir);
            fs::rename(file, to).unwrap();
        }
        (11, Some(file)) => {
            let name = garden.fresh(&dir);
            fs::hard_link(file, name).unwrap();
        }
        (12..=13, Some(file)) => metadata(garden, &file),
        (14, _) => retarget(garden, &dir),
        (15..=16, _) => change_type(garden),
        (17, _) => plant(garden, &dir),
        (18, Some(one)) => {
            if let Some(other) = garden.any(is_file) {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
            }
        }
        (19, _) => rename_dir(garden, &dir),
        (20, _) => {
            if dir != garden.root && garden.random.below(2) == 0 {
                fs::remove_dir_all(dir).unwrap();
            } else {
                garden.own(&dir, Some(0o750));
            }
        }
        (21, _) => (0..10).for_each(|_| drop(garden.small_file(&dir))),
        (22, _) if garden.random.below(8) == 0 => drop(garden.large_file(&dir)),
        (23, _) => garden.own(garden.root, Some(0o751)),
        (24 | 25, _) => exchange_dirs(garden),
        // A directory of another sort takes the name, and holds the old one.
        (26, _) => {
            if let Some(old) = garden.any(is_dir) {
                let aside = garden.fresh(garden.root);
                fs::rename(&old, &aside).unwrap();
                fs::create_dir(&old).unwrap();
                let inside = garden.fresh(&old);
                fs::rename(aside, inside).unwrap();
            }
        }
        (27..=30, _) => edit(garden),
        (31..=33, _) => copy(garden, &dir),
        _ => garden.touch(&dir),
    }
}

/// A few bytes of a file of several blocks are written anew where they are, and it may get longer or shorter.
fn edit(garden: &mut Garden<'_>) {
    let is_long = |path: &Path| is_file(path) && fs::metadata(path).unwrap().len() > 3 * 4096;
    let Some(file) = garden.any(is_long) else { return };
    let open = fs::File::options().write(true).open(&file).unwrap();
    let size = open.metadata().unwrap().len();
    for _ in 0..1 + garden.random.below(3) {
        let (at, length) = (garden.random.below(size), 1 + garden.random.below(5000));
        open.write_all_at(&garden.random.bytes(length as usize), at).unwrap();
    }
    if garden.random.below(4) == 0 {
        open.set_len(size - garden.random.below(4096)).unwrap();
    }
    garden.touch(&file);
}

/// A larger file is copied, whole or from some block on, so that the copy shares what it lies in; it may be written to then, and take
/// the place of another file.
fn copy(garden: &mut Garden<'_>, dir: &Path) {
    let is_large = |path: &Path| is_file(path) && fs::metadata(path).unwrap().len() > 90_000;
    let Some(from) = garden.any(is_large) else { return };
    let to = garden.fresh(dir);
    let (old, new) = (fs::File::open(&from).unwrap(), fs::File::create_new(&to).unwrap());
    if garden.random.below(2) == 0 {
        ioctl_ficlone(&new, &old).unwrap();
    } else {
        let mut at = 4096 * (1 + garden.random.below(3));
        new.write_all_at(&garden.random.bytes(at as usize), 0).unwrap();
        let mut from_at = 4096 * garden.random.below(3);
        while copy_file_range(&old, Some(&mut from_at), &new, Some(&mut at), 1 << 30).unwrap() > 0 {}
    }
    if garden.random.below(2) == 0 {
        let at = garden.random.below(new.metadata().unwrap().len());
        new.write_all_at(&garden.random.bytes(3000), at).unwrap();
    }
    garden.own(&to, Some(0o640));
    if garden.random.below(3) == 0
        && let Some(other) = garden.any(is_large).filter(|other| *other != from)
    {
        fs::rename(to, other).unwrap();
    }
}

/// Two directories change places, also if one holds the other.
fn exchange_dirs(garden: &mut Garden<'_>) {
    let (Some(one), Some(other)) = (garden.any(is_dir), garden.any(is_dir)) else { return };
    if one == other {
        return;
    }
    let (outer, inner) = if one.starts_with(&other) { (other, one) } else { (one, other) };
    if !inner.starts_with(&outer) {
        return renameat_with(CWD, &outer, CWD, &inner, RenameFlags::EXCHANGE).unwrap();
    }
    let [aside, top] = [garden.fresh(garden.root), garden.fresh(garden.root)];
    fs::rename(&inner, &aside).unwrap();
    fs::rename(&outer, &top).unwrap();
    fs::rename(&aside, &outer).unwrap();
    let inside = garden.fresh(&outer);
    fs::rename(&top, inside).unwrap();
}

/// Another inode takes the place of a file.
fn replace(garden: &mut Garden<'_>, file: &Path) {
    let new = garden.small_file(file.parent().unwrap());
    fs::rename(new, file).unwrap();
}

fn metadata(garden: &mut Garden<'_>, file: &Path) {
    match garden.random.below(4) {
        0 => fs::set_permissions(file, PermissionsExt::from_mode(0o640)).unwrap(),
        1 => drop(lremovexattr(file, "user.note")),
        2 => garden.touch(file),
        _ => garden.own(file, Some(0o711)),
    }
}

fn retarget(garden: &mut Garden<'_>, dir: &Path) {
    let link = garden.any(Path::is_symlink);
    if let Some(link) = &link {
        fs::remove_file(link).unwrap();
    }
    let link = link.unwrap_or_else(|| garden.fresh(dir));
    symlink(format!("elsewhere-{}", garden.random.below(100)), link).unwrap();
}

/// A path becomes something of another kind.
fn change_type(garden: &mut Garden<'_>) {
    let Some(path) = garden.any(|path| is_file(path) || is_dir(path) || path.is_symlink()) else { return };
    let was_dir = is_dir(&path);
    match was_dir {
        true => fs::remove_dir_all(&path).unwrap(),
        false => fs::remove_file(&path).unwrap(),
    }
    match garden.random.below(4) {
        0 if !was_dir => {
            fs::create_dir(&path).unwrap();
            garden.something(&path);
            garden.small_file(&path);
        }
        1 => symlink("of another kind", &path).unwrap(),
        2 => {
            if let Some(other) = garden.any(is_file) {
                fs::hard_link(other, &path).unwrap();
            }
        }
        _ => garden.write(&path, 3000),
    }
}

/// A new directory with some depth, and with names of files that lie elsewhere.
fn plant(garden: &mut Garden<'_>, parent: &Path) {
    let other = garden.any(is_file);
    let top = garden.dir(parent);
    let inner = garden.dir(&top);
    for dir in [&top, &inner] {
        (0..3).for_each(|_| garden.something(dir));
    }
    if let Some(other) = other {
        fs::hard_link(other, inner.join("joined")).unwrap();
    }
    garden.touch(&inner);
}

fn rename_dir(garden: &mut Garden<'_>, parent: &Path) {
    let outside = |dir: &Path| is_dir(dir) && !parent.starts_with(dir);
    if let Some(dir) = garden.any(outside) {
        let to = garden.fresh(parent);
        fs::rename(dir, to).unwrap();
    }
}
