//! Held to restic itself: it checks and restores what we wrote, we restore what it wrote, and both share their chunks.
//!
//! Takes Debian's `restic`; without it the tests are skipped and say so, unless `LAB_REQUIRED=1` forbids that.

mod given;
mod prune;

use std::path::Path;

use given::{Given, everything, noise, same};
use pc_switcher_vault::format::Id;

#[test]
fn restic_checks_lists_and_restores_what_we_wrote() {
    let Some(given) = Given::new() else { return };
    everything(&given.source());
    given.init_ours();
    let summary = given.back_up(None);
    assert!(summary.troubles.is_empty(), "{:?}", summary.troubles);
    given.restic(&["check", "--read-data"]);
    let listed = given.restic(&["ls", "latest"]);
    for name in ["/plain", "/dir/inner/deep", "/link", "/large"] {
        assert!(listed.contains(&format!("{}{name}\n", given.source().display())), "{name} in {listed}");
    }
    let target = given.path("restored");
    given.restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    same(&given.source(), &given.below(&target));
}

#[test]
fn we_restore_what_restic_wrote_at_every_level_of_compression() {
    let Some(given) = Given::new() else { return };
    everything(&given.source());
    given.restic(&["init", "--repository-version", "2"]);
    for level in ["off", "auto", "max"] {
        given.restic(&["backup", "--compression", level, given.source().to_str().unwrap()]);
        std::fs::write(given.source().join("another"), level.repeat(100_000)).unwrap();
    }
    given.restic(&["backup", given.source().to_str().unwrap()]);
    let target = given.path("restored");
    let summary = given.restore(&target);
    assert!(summary.troubles.is_empty(), "{:?}", summary.troubles);
    same(&given.source(), &given.below(&target));
    let checked = given.check();
    assert_eq!((checked.problems, checked.snapshots), (vec![], 4));
}

#[test]
fn a_repository_of_the_older_version_is_read_and_written() {
    let Some(given) = Given::new() else { return };
    everything(&given.source());
    given.restic(&["init", "--repository-version", "1"]);
    given.back_up(None);
    given.restic(&["check", "--read-data"]);
    let target = given.path("restored");
    given.restore(&target);
    same(&given.source(), &given.below(&target));
}

#[test]
fn both_writers_share_what_they_store() {
    let Some(given) = Given::new() else { return };
    everything(&given.source());
    std::fs::write(given.source().join("huge"), noise(40 << 20, 5)).unwrap();
    given.restic(&["init"]);
    given.restic(&["backup", given.source().to_str().unwrap()]);
    let ours = given.back_up(None);
    // Trees differ in what they say of times; chunks of files must not.
    assert!(ours.stored.bytes < 64 << 10, "{:?}", ours.stored);
    std::fs::write(given.source().join("more"), noise(30 << 20, 6)).unwrap();
    let more = given.back_up(None);
    assert!(more.stored.bytes > 30 << 20);
    let theirs = given.restic(&["backup", "--json", "--force", given.source().to_str().unwrap()]);
    let summary: serde_json::Value = serde_json::from_str(theirs.lines().last().unwrap()).unwrap();
    assert_eq!(summary["data_blobs"], 0, "{summary}");
    given.restic(&["check", "--read-data"]);
}

#[test]
fn an_unchanged_tree_is_not_read_again_and_a_changed_file_is() {
    let Some(given) = Given::new() else { return };
    everything(&given.source());
    given.init_ours();
    let first = given.back_up(None);
    let second = given.back_up(Some(first.tree));
    assert_eq!(second.read_files, 0);
    // Directories above the source belong to others, who work in them: their times may change.
    let above = given.source().ancestors().count();
    assert!(second.stored.blobs as usize <= above, "{:?}, {above} directories above", second.stored);
    assert!(second.stored.bytes < 64 << 10, "{:?}", second.stored);
    std::fs::write(given.source().join("large"), "changed").unwrap();
    let third = given.back_up(Some(first.tree));
    assert_eq!(third.read_files, 1);
    assert!(third.files > 3);
    given.restic(&["check", "--read-data"]);
}

#[test]
fn an_exclusive_lock_of_restic_is_honoured_and_ours_is_seen_by_it() {
    let Some(given) = Given::new() else { return };
    given.init_ours();
    let held = given.lock().unwrap();
    let refused = given.restic_fails(&["prune"]);
    assert!(refused.contains("already locked"), "{refused}");
    drop(held);
    given.restic(&["prune"]);
    assert!(given.source().parent().unwrap().join("repo/locks").read_dir().unwrap().next().is_none());
}

#[test]
fn what_is_damaged_is_named() {
    let Some(given) = Given::new() else { return };
    everything(&given.source());
    given.init_ours();
    given.back_up(None);
    let pack = largest(&given.path("repo/data"));
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[100] ^= 1;
    std::fs::remove_file(&pack).unwrap();
    std::fs::write(&pack, bytes).unwrap();
    let name = pack.file_name().unwrap().to_str().unwrap();
    assert!(name.parse::<Id>().is_ok());
    let found = given.check();
    assert!(found.problems.iter().any(|problem| problem.contains(name)), "{:?}", found.problems);
    std::fs::remove_file(&pack).unwrap();
    let found = given.check();
    assert!(found.problems.iter().any(|problem| problem.contains("is missing")), "{:?}", found.problems);
}

fn largest(data: &Path) -> std::path::PathBuf {
    let directories = data.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let files =
        directories.flat_map(|directory| directory.read_dir().unwrap().map(|entry| entry.unwrap().path()));
    files.max_by_key(|file| file.metadata().unwrap().len()).unwrap()
}
