//! Files with holes: however large they claim to be, they take little memory, little of the vault, and come back with holes.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Stdio;

use pc_switcher_testkit::peak;

use super::*;

const MIB: u64 = 1 << 20;
/// No more is in memory, whatever the size.
const MOST: u64 = 256 * MIB;

/// Runs `bt`, which must succeed within the memory, and says how much it took.
#[track_caller]
fn within_the_memory(home: &Home, args: &[&str]) {
    let log = home.path("log");
    let mut command = home.command(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
    let (status, used) = peak::wait(command.spawn().unwrap()).unwrap();
    let said = fs::read_to_string(&log).unwrap();
    assert!(status.success(), "bt {args:?}: {said}");
    println!("bt {args:?}: {} MiB", used / MIB);
    assert!(used < MOST, "bt {args:?}: {} MiB", used / MIB);
}

fn comes_back_from_a_vault(size: u64) {
    let home = Home::ready();
    let path = home.path("docs/image");
    let image = File::create(&path).unwrap();
    image.set_len(size).unwrap();
    let block: Vec<u8> = (0..MIB).map(|at| (at * 7 % 251) as u8 + 1).collect();
    let places = [0, size / 3 / 4096 * 4096, size - MIB];
    for at in places {
        image.write_all_at(&block, at).unwrap();
    }
    within_the_memory(&home, &["backup", "--tracked"]);
    let stored: u64 = walk(&home.state().join("local/data"));
    assert!(stored < 16 * MIB, "{stored}");
    let back = home.path("back");
    within_the_memory(&home, &["restore", "image", "--to", back.to_str().unwrap()]);
    let restored = File::open(back.join("image")).unwrap();
    let facts = restored.metadata().unwrap();
    assert_eq!(facts.len(), size);
    assert!(facts.blocks() * 512 < 16 * MIB, "{} bytes on the disk", facts.blocks() * 512);
    for at in places {
        let mut read = vec![0; block.len()];
        restored.read_exact_at(&mut read, at).unwrap();
        assert!(read == block, "what lies at {at}");
    }
    within_the_memory(&home, &["dir", "status"]);
}

/// Adds up the sizes of all files of a directory.
fn walk(directory: &Path) -> u64 {
    let entries = directory.read_dir().unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => walk(&entry.path()),
            false => entry.metadata().unwrap().len(),
        })
        .sum()
}

#[test]
fn a_file_with_holes_takes_little_memory_and_comes_back_with_holes() {
    comes_back_from_a_vault(2 << 30);
}

#[test]
#[ignore = "checksums of 50 GB take minutes: `tests/full sparse`"]
fn a_file_of_fifty_gigabytes_with_holes_takes_no_more_memory() {
    comes_back_from_a_vault(50_000_000_000);
}
