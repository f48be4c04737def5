//! What pruning leaves, held to restic; what it leaves wherever it is killed: `crash.rs`.

use pc_switcher_vault::engine::{PruneSummary, Quiet};
use pc_switcher_vault::service::PruneOrder;
use pc_switcher_vault::store::{FsStore, Kind, Store};

use super::given::{Given, noise, word};

/// Keeps so many of the newest snapshots, and removes at once what the others alone need.
fn prune(given: &Given, stay: usize) -> PruneSummary {
    let keep = Some(format!("last {stay} sessions").parse().unwrap());
    let order = PruneOrder { keep, at_once: true, ..PruneOrder::default() };
    let report = given.service().prune(&order, &mut word, &Quiet::default()).unwrap();
    assert!(report.warnings.is_empty(), "{report:?}");
    report.vaults[0].summary.clone()
}

#[test]
fn restic_finds_a_tree_and_a_file_of_the_same_text_before_a_prune_and_after_it() {
    let Some(given) = Given::new() else { return };
    given.set_up();
    std::fs::create_dir(given.source().join("empty")).unwrap();
    std::fs::write(given.source().join("tree"), "{\"nodes\":[]}\n").unwrap();
    for round in 0..9 {
        std::fs::write(given.source().join("f"), noise(20_000, round + 1)).unwrap();
        given.back_up();
    }
    given.restic(&["check", "--read-data"]);
    let summary = prune(&given, 3);
    assert!(summary.removed.0 > 0, "{summary:?}");
    given.restic(&["check", "--read-data"]);
    let target = given.path("restored");
    given.restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    let back = given.below(&target);
    assert_eq!(std::fs::read(back.join("tree")).unwrap(), b"{\"nodes\":[]}\n");
    assert!(back.join("empty").is_dir());
    assert!(given.check().problems.is_empty());
}

#[test]
fn restic_is_content_with_small_packs_that_were_put_together() {
    let Some(given) = Given::new() else { return };
    given.set_up();
    for round in 0..9 {
        std::fs::write(given.source().join("f"), noise(20_000, round + 1)).unwrap();
        given.back_up();
    }
    let packs = || FsStore::at(&given.path("repo")).list(Kind::Pack).unwrap().len();
    assert_eq!(packs(), 18);
    let summary = prune(&given, 9);
    assert!(summary.merged.0 > 0 && packs() == 2, "{summary:?}");
    let checked = given.restic(&["check", "--read-data"]);
    assert!(!checked.contains("additional files") && !checked.contains("contained in several"), "{checked}");
    assert_eq!(given.restic(&["snapshots", "--json"]).matches("\"short_id\"").count(), 9);
    let target = given.path("restored");
    given.restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    assert_eq!(std::fs::read(given.below(&target).join("f")).unwrap(), noise(20_000, 9));
}
