//! Carries single files and trees from one tree to another on the same machine, with all their metadata.

use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, mkdirat, openat, readlinkat, renameat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::apply::{clone_file, list_names, remove_tree};
use super::seen::Seen;
use super::{along, meta, open, xattr};
use crate::proto::Meta;

/// Makes `path` below `to` what it is below `from`, gone included. `to` must be a tree that nobody else uses. Directories
/// above it are made as they are below `from`.
///
/// # Errors
/// If something cannot be read or written.
pub(crate) fn carry(from: &OwnedFd, to: &OwnedFd, path: &BytePath) -> Result<(), Errno> {
    let name = std::str::from_utf8(path.name()).map_err(|_| Errno::INVAL)?;
    let parent = path.parent().unwrap_or_default();
    let dirs = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let there = match open::beneath(from, parent.as_bytes(), dirs) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
        opened => Some(opened?),
    };
    let exists = there.as_ref().map(|dir| Seen::at(dir, name)).is_some_and(|seen| seen.is_ok());
    let Some(there) = there.filter(|_| exists) else {
        return match open::beneath(to, parent.as_bytes(), dirs) {
            Ok(dir) => remove_tree(&dir, name),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(error),
        };
    };
    let here = make_way(from, to, &parent)?;
    let times = Seen::of(&here)?.mtime();
    // What is there goes only when the other is whole: on a full disk it stays.
    let fresh = format!(".{name}.pc-switcher");
    remove_tree(&here, &fresh)?;
    let copied = copy((&there, name.as_bytes()), (&here, fresh.as_bytes()));
    if let Err(error) = copied {
        // The next try removes what this leaves.
        let _ = remove_tree(&here, &fresh).and_then(|()| meta::set_mtime(&here, times));
        return Err(error);
    }
    remove_tree(&here, name)?;
    match renameat(&here, fresh, &here, name) {
        // Nothing was made of a socket.
        Err(Errno::NOENT) | Ok(()) => {}
        Err(error) => return Err(error),
    }
    meta::set_mtime(&here, times)
}

/// Opens the directory below `to`, and makes what is missing of it. What a snapshot has where a subvolume lay inside is taken for
/// missing: nothing can be made in it.
pub(super) fn make_way(from: &OwnedFd, to: &OwnedFd, dir: &BytePath) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let found = match open::beneath(to, dir.as_bytes(), flags) {
        Err(Errno::NOENT) => None,
        opened => Some(opened?),
    };
    let is_placeholder = |found: &OwnedFd| -> Result<bool, Errno> {
        Ok(!dir.is_empty() && Seen::of(found)?.ino() == along::PLACEHOLDER)
    };
    match found {
        Some(found) if !is_placeholder(&found)? => return Ok(found),
        Some(_) => {
            let above = open::beneath(to, dir.parent().unwrap_or_default().as_bytes(), flags)?;
            unlinkat(&above, dir.name(), AtFlags::REMOVEDIR)?;
        }
        None => {}
    }
    let above = make_way(from, to, &dir.parent().ok_or(Errno::NOENT)?)?;
    let times = Seen::of(&above)?.mtime();
    mkdirat(&above, dir.name(), Mode::from_raw_mode(0o700))?;
    let made = open::beneath(&above, dir.name(), flags)?;
    meta::fresh(&made, &meta_of(&open::beneath(from, dir.as_bytes(), flags)?)?)?;
    meta::set_mtime(&above, times)?;
    Ok(made)
}

fn meta_of(fd: &OwnedFd) -> Result<Meta, Errno> {
    let seen = Seen::of(fd)?;
    let xattrs = xattr::Reader::new().of(fd)?;
    Ok(Meta { mode: seen.mode(), uid: seen.uid(), gid: seen.gid(), mtime: seen.mtime(), xattrs })
}

fn copy((from, name): (&OwnedFd, &[u8]), (to, fresh): (&OwnedFd, &[u8])) -> Result<(), Errno> {
    let found = open::beneath(from, name, OFlags::PATH | OFlags::NOFOLLOW)?;
    match Seen::of(&found)?.file_type() {
        FileType::RegularFile => {
            let old = open::beneath_for_reading(from, name, OFlags::NOFOLLOW)?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let new = openat(to, fresh, flags, Mode::from_raw_mode(0o600))?;
            clone_file(&old, &new)?;
            meta::fresh(&new, &meta_of(&old)?)?;
        }
        FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let old = open::beneath(from, name, flags)?;
            mkdirat(to, fresh, Mode::from_raw_mode(0o700))?;
            let new = open::beneath(to, fresh, flags)?;
            for (below, _) in list_names(&old)? {
                copy((&old, below.to_bytes()), (&new, below.to_bytes()))?;
            }
            meta::fresh(&new, &meta_of(&old)?)?;
        }
        FileType::Symlink => {
            symlinkat(readlinkat(&found, c"", Vec::new())?, to, fresh)?;
            let made = open::beneath(to, fresh, OFlags::PATH | OFlags::NOFOLLOW)?;
            meta::change(&made, &meta_of(&found)?)?;
        }
        // Sockets and the like are made anew by whoever needs them.
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;

    use super::*;
    use crate::data::tests::drive::Disk;

    #[test]
    fn on_a_full_disk_what_is_there_stays_and_a_second_try_brings_the_other() {
        let Some(disk) = Disk::make("ext4", 64 << 20) else { return };
        let [from, to] = ["from", "to"].map(|name| disk.root.join(name));
        for dir in [&from, &to] {
            fs::create_dir(dir).unwrap();
        }
        fs::write(from.join("keys"), vec![7; 4 << 20]).unwrap();
        fs::write(to.join("keys"), "mine").unwrap();
        let mut filler = File::create(disk.root.join("filler")).unwrap();
        while filler.write_all(&[1; 64 << 10]).is_ok() {}
        let [there, here] = [&from, &to].map(|dir| OwnedFd::from(File::open(dir).unwrap()));
        let carried = || carry(&there, &here, &"keys".into());
        assert_eq!(carried(), Err(Errno::NOSPC));
        assert_eq!(fs::read_to_string(to.join("keys")).unwrap(), "mine");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
        drop(filler);
        fs::remove_file(disk.root.join("filler")).unwrap();
        carried().unwrap();
        assert_eq!(fs::read(to.join("keys")).unwrap(), fs::read(from.join("keys")).unwrap());
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    }
}
