//! Held to restic itself: it checks and restores what we wrote, we restore what it wrote, and both share their chunks.
//!
//! Takes Debian's `restic`; without it the tests are skipped and say so, unless `LAB_REQUIRED=1` forbids that.

mod crash;
mod given;
mod locks;
mod prune;
mod several;
mod verbs;

use std::path::Path;

use given::{Given, everything, noise, same, same_below};
use pc_switcher_vault::format::Id;
use pc_switcher_vault::service::{BackupReport, Prepared};

#[test]
fn restic_checks_lists_and_restores_what_we_wrote_and_so_do_we() {
    let Some(given) = Given::new() else { return };
    everything(&given.source());
    assert_eq!(given.set_up(), Prepared::Made);
    given.back_up();
    given.restic(&["check", "--read-data"]);
    let listed = given.restic(&["ls", "latest"]);
    for name in ["/plain", "/dir/inner/deep", "/link", "/large"] {
        assert!(listed.contains(&format!("{}{name}\n", given.source().display())), "{name} in {listed}");
    }
    let target = given.path("restored");
    given.restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    same(&given.source(), &given.below(&target));
    let target = given.path("from the snapshot");
    let summary = given.restore(&target);
    assert!(summary.troubles.is_empty(), "{:?}", summary.troubles);
    same(&given.source(), &given.below(&target));
    let target = given.path("by the catalogue");
    let report = given.restore_versions(&target);
    assert!(report.troubles.is_empty(), "{:?}", report.troubles);
    same_below(&given.source(), &target);
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
    assert_eq!(given.set_up(), Prepared::Adopted);
    let target = given.path("restored");
    let summary = given.restore(&target);
    assert!(summary.troubles.is_empty(), "{:?}", summary.troubles);
    same(&given.source(), &given.below(&target));
    let checked = given.check();
    assert_eq!((checked.problems.count(), checked.snapshots), (0, 4));
}

#[test]
fn a_repository_of_the_older_version_is_read_and_written() {
    let Some(given) = Given::new() else { return };
    everything(&given.source());
    given.restic(&["init", "--repository-version", "1"]);
    given.set_up();
    given.back_up();
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
    given.set_up();
    let stored = |report: &BackupReport| report.vaults[0].stored.bytes;
    let ours = given.back_up();
    // Trees differ in what they say of times; chunks of files must not.
    assert!(stored(&ours) < 64 << 10, "{ours:?}");
    std::fs::write(given.source().join("more"), noise(30 << 20, 6)).unwrap();
    let more = given.back_up();
    assert!(stored(&more) > 30 << 20);
    let theirs = given.restic(&["backup", "--json", "--force", given.source().to_str().unwrap()]);
    let summary: serde_json::Value = serde_json::from_str(theirs.lines().last().unwrap()).unwrap();
    assert_eq!(summary["data_blobs"], 0, "{summary}");
    given.restic(&["check", "--read-data"]);
}

#[test]
fn what_did_not_change_is_not_stored_again_and_a_changed_file_is() {
    let Some(given) = Given::new() else { return };
    everything(&given.source());
    given.set_up();
    let first = given.back_up();
    assert!(first.versions > 10 && first.vaults[0].snapshot.is_some(), "{first:?}");
    assert_eq!(given.add().staged, 0);
    let second = given.back_up();
    assert_eq!((second.items, second.vaults[0].stored.bytes, second.vaults[0].snapshot), (0, 0, None));
    std::fs::write(given.source().join("large"), "changed").unwrap();
    let third = given.back_up();
    assert_eq!(third.versions, 1, "{third:?}");
    assert!(third.vaults[0].stored.bytes < 64 << 10, "{third:?}");
    given.restic(&["check", "--read-data"]);
}

#[test]
fn an_exclusive_lock_of_restic_is_honoured_and_ours_is_seen_by_it() {
    let Some(given) = Given::new() else { return };
    given.set_up();
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
    given.set_up();
    given.back_up();
    let pack = largest(&given.path("repo/data"));
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[100] ^= 1;
    std::fs::remove_file(&pack).unwrap();
    std::fs::write(&pack, bytes).unwrap();
    let name = pack.file_name().unwrap().to_str().unwrap();
    assert!(name.parse::<Id>().is_ok());
    let found = given.check();
    assert!(found.problems.kept().iter().any(|problem| problem.contains(name)), "{:?}", found.problems);
    std::fs::remove_file(&pack).unwrap();
    let found = given.check();
    assert!(
        found.problems.kept().iter().any(|problem| problem.contains("is missing")),
        "{:?}",
        found.problems
    );
}

fn largest(data: &Path) -> std::path::PathBuf {
    let directories = data.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let files =
        directories.flat_map(|directory| directory.read_dir().unwrap().map(|entry| entry.unwrap().path()));
    files.max_by_key(|file| file.metadata().unwrap().len()).unwrap()
}
