//! Files and directories that come, and contents that change: in place, at the end, as holes, anew.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
};

use pc_switcher_testkit::seed::Random;
use rustix::fs::{FallocateFlags, IFlags, fallocate, ioctl_getflags, ioctl_setflags};

use super::{
    changes::{Done, said},
    pick::{Picked, one_of},
};

/// From so many bytes on a file may share with others.
pub const LARGE: u64 = 64 << 10;
const HUGE: u64 = 1 << 20;

/// Returns bytes that cannot be packed, or now and then words that can.
fn bytes(random: &mut Random, count: u64) -> Vec<u8> {
    let count = usize::try_from(count).unwrap();
    if random.below(4) == 0 { random.prose(count) } else { random.bytes(count) }
}

/// Mostly small, some inline in the tree, some large enough to be patched, a few of several blocks of a patch.
fn some_bytes(random: &mut Random) -> u64 {
    match random.below(24) {
        0 | 1 => 0,
        2 | 3 => HUGE + random.below(2 << 20),
        4 => 4 * HUGE + random.below(2 << 20),
        5..10 => 4096 * (1 + random.below(20)),
        10 | 11 => LARGE + random.below(300 << 10),
        _ => random.below(3000),
    }
}

pub fn create(picked: &Picked, random: &mut Random) -> Done {
    let path = picked.free(random);
    let flagged = |flag: IFlags, bytes: &[u8]| -> io::Result<File> {
        let file = File::create(&path)?;
        let flags = ioctl_getflags(&file)?;
        ioctl_setflags(&file, flags | flag)?;
        file.write_all_at(bytes, 0)?;
        Ok(file)
    };
    match random.below(8) {
        0 => said("mkdir", "", &[&path], fs::create_dir(&path)),
        1 => {
            let deep = path.join("a/b");
            let made = fs::create_dir_all(&deep).and_then(|()| fs::write(deep.join("c"), b"deep"));
            said("mkdir -p", "", &[&path], made)
        }
        2 => {
            let made = flagged(IFlags::NOCOW, &bytes(random, 40_000)).map(drop);
            said("create without copy-on-write", "", &[&path], made)
        }
        3 => {
            let count = usize::try_from(some_bytes(random)).unwrap();
            // The flag goes again: it is an attribute of the file system, which is not mirrored.
            let made = flagged(IFlags::COMPRESSED, &random.prose(count)).and_then(|file| {
                file.sync_all()?;
                Ok(ioctl_setflags(&file, ioctl_getflags(&file)? & !IFlags::COMPRESSED)?)
            });
            said("create compressed", &count.to_string(), &[&path], made)
        }
        4 => {
            let holes = some_bytes(random) * 4;
            let made = File::create(&path).and_then(|file| {
                file.set_len(holes)?;
                file.write_all_at(b"in the middle of nothing", holes / 2)
            });
            said("create sparse", &holes.to_string(), &[&path], made)
        }
        _ => {
            let count = some_bytes(random);
            let kind = match count {
                0 => "create empty",
                1..2048 => "create inline",
                2048..LARGE => "create",
                LARGE..HUGE => "create of 64 KiB and more",
                _ => "create of 1 MiB and more",
            };
            said(kind, &count.to_string(), &[&path], fs::write(&path, bytes(random, count)))
        }
    }
}

pub fn rewrite(picked: &Picked, random: &mut Random) -> Done {
    let size_of = |path: &PathBuf| path.metadata().map_or(0, |meta| meta.len());
    let large: Vec<PathBuf> = picked.files.iter().filter(|path| size_of(path) >= LARGE).cloned().collect();
    let path = match random.below(2) {
        0 if !large.is_empty() => one_of(random, &large)?,
        _ => one_of(random, &picked.files)?,
    };
    let (size, count) = (size_of(&path), some_bytes(random));
    let file = OpenOptions::new().write(true).open(&path).ok()?;
    let at = random.below(size + 1);
    let range = format!("{at}+{count}");
    match random.below(9) {
        0 => said("write anew", &count.to_string(), &[&path], fs::write(&path, bytes(random, count))),
        1 => said("append", &count.to_string(), &[&path], file.write_all_at(&bytes(random, count), size)),
        2 => said("truncate", &format!("to {at}"), &[&path], file.set_len(at)),
        3 => said("grow by a hole", &count.to_string(), &[&path], file.set_len(size + count)),
        4 => {
            let holes = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            said("punch", &range, &[&path], Ok(fallocate(&file, holes, at, count.max(1)).ok()?))
        }
        5 => {
            let ahead = one_of(random, &[FallocateFlags::empty(), FallocateFlags::KEEP_SIZE])?;
            said("preallocate", &range, &[&path], Ok(fallocate(&file, ahead, at, count.max(1)).ok()?))
        }
        _ => {
            let kind = match size {
                0..LARGE => "write in place",
                LARGE..HUGE => "write in place of 64 KiB and more",
                _ => "write in place of 1 MiB and more",
            };
            let bytes = bytes(random, count.min(5000));
            said(kind, &range, &[&path], file.write_all_at(&bytes, at))
        }
    }
}
