//! Files that share: copies by reflink, of all or of a range, and files deduplicated afterwards.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use pc_switcher_testkit::seed::Random;
use rustix::fs::{copy_file_range, ioctl_ficlone};

use super::{
    changes::{Done, said},
    pick::{Picked, one_of},
};

pub fn clones(picked: &Picked, random: &mut Random) -> Done {
    let to = picked.free(random);
    if random.below(3) == 0 {
        let dir = one_of(random, &picked.dirs)?;
        let files: Vec<PathBuf> = fs::read_dir(&dir).ok()?.map(|entry| entry.unwrap().path()).collect();
        let done = fs::create_dir(&to).and_then(|()| {
            let files = files.iter().filter(|path| path.symlink_metadata().is_ok_and(|meta| meta.is_file()));
            files.into_iter().try_for_each(|file| clone(file, &to.join(file.file_name().unwrap())))
        });
        return said("clone the files of a directory", "", &[&dir, &to], done);
    }
    // Small files are sent, whatever they share.
    let is_large = |path: &&PathBuf| path.metadata().is_ok_and(|meta| meta.len() >= 64 << 10);
    let large: Vec<PathBuf> = picked.files.iter().filter(is_large).cloned().collect();
    let any = if random.below(4) == 0 { &picked.files } else { &large };
    let from = one_of(random, any)?;
    match random.below(4) {
        0 => said("clone", "", &[&from, &to], clone(&from, &to)),
        1 => {
            // A copy that shares nothing, and then everything, though its time says nothing of that.
            let done = fs::copy(&from, &to).and_then(|_| {
                let time = to.metadata()?.modified()?;
                let len = from.metadata()?.len();
                clone_range(&from, &to, (0, 0, len))?;
                File::open(&to)?.set_modified(time)
            });
            said("deduplicate", "", &[&from, &to], done)
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
            said("clone a range", &format!("{from_at}+{len} to {at}"), &[&from, &into], done)
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
