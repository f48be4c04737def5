//! A disk image in which a virtual machine has written.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::{FileExt, chown},
    path::Path,
};

use pc_switcher_testkit::seed::Random;

use super::Outcome;

const NAME: &str = "machine.img";
const BYTES: u64 = 1 << 30;
const BLOCK: u64 = 4096;
/// One block in so many is written.
const SHARE: u64 = 100;

/// Writes the image, a gigabyte that no compression makes smaller.
pub fn write(home: &Path) -> Outcome {
    let path = home.join(NAME);
    let mut file = File::create(&path)?;
    chown(&path, Some(1000), Some(1000))?;
    let mut random = Random::new(1);
    for _ in 0..BYTES / (1 << 20) {
        file.write_all(&random.bytes(1 << 20))?;
    }
    file.sync_all()?;
    Ok(())
}

/// Writes one block in a hundred anew, scattered.
pub fn change(home: &Path, seed: u64) -> Outcome {
    let file = OpenOptions::new().write(true).open(home.join(NAME))?;
    let mut random = Random::new(seed + 2);
    for _ in 0..BYTES / BLOCK / SHARE {
        let block = random.below(BYTES / BLOCK);
        file.write_all_at(&random.bytes(BLOCK as usize), block * BLOCK)?;
    }
    file.sync_all()?;
    Ok(())
}
