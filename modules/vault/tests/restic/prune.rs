//! What pruning leaves, wherever it dies, held to restic.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use pc_switcher_contract::{Clock, ModuleError};
use pc_switcher_vault::engine::{PruneOrder, PruneSummary, Quiet, When, prune};
use pc_switcher_vault::error::Result;
use pc_switcher_vault::repo::{Repository, Who};
use pc_switcher_vault::store::{FsStore, Kind, Store};

use super::given::{Given, noise};

/// A store that dies after so many writes.
struct Dying {
    inner: FsStore,
    left: AtomicUsize,
}

impl Dying {
    fn write(&self) -> Result<()> {
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| ModuleError::failed("the disk is gone"))
    }
}

impl Store for Dying {
    fn put(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<bool> {
        self.write()?;
        self.inner.put(kind, name, bytes)
    }

    fn get(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        self.inner.get(kind, name)
    }

    fn get_range(&self, kind: Kind, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.inner.get_range(kind, name, offset, length)
    }

    fn list(&self, kind: Kind) -> Result<Vec<(String, u64)>> {
        self.inner.list(kind)
    }

    fn delete(&self, kind: Kind, name: &str) -> Result<()> {
        self.write()?;
        self.inner.delete(kind, name)
    }

    fn place(&self) -> String {
        self.inner.place()
    }
}

/// Removes all snapshots but so many of the newest, and at once what they alone need, with so many writes.
fn prune_within(given: &Given, stay: usize, writes: usize) -> Result<PruneSummary> {
    let store = Dying { inner: FsStore::at(&given.path("repo")), left: AtomicUsize::new(writes) };
    let repo = Repository::open(Arc::new(store), super::given::PASSWORD.as_bytes())?;
    let clock: Clock = Arc::new(Timestamp::now);
    let alone = repo.lock_alone(&Who { pid: u32::MAX >> 1, ..super::given::who() }, &clock)?;
    let mut forget: Vec<_> = repo.snapshots()?.into_iter().map(|(id, _)| id).collect();
    forget.truncate(forget.len().saturating_sub(stay));
    let (forget, also_needed) = (forget.into_iter().collect(), HashSet::new());
    let when = When { now: Timestamp::now(), grace: Duration::ZERO };
    let order = PruneOrder { forget: &forget, also_needed: &also_needed, when, alone: Some(&alone) };
    prune(&repo, &order, &Quiet::default())
}

fn copy(from: &Path, to: &Path) {
    std::fs::remove_dir_all(to).ok();
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

#[test]
fn restic_is_content_with_what_a_prune_leaves_wherever_it_dies() {
    let Some(given) = Given::new() else { return };
    given.init_ours();
    for round in 0..3 {
        for name in round * 2..round * 2 + 6 {
            let content = noise(20_000, 100 * round + name + 1);
            std::fs::write(given.source().join(name.to_string()), content).unwrap();
        }
        given.back_up(None);
    }
    copy(&given.path("repo"), &given.path("before"));
    let mut ended = None;
    for writes in (2..).step_by(4) {
        copy(&given.path("before"), &given.path("repo"));
        ended = prune_within(&given, 1, writes).ok();
        // The lock of a program that died is no damage.
        given.restic(&["unlock"]);
        given.restic(&["check"]);
        if ended.is_some() {
            break;
        }
        prune_within(&given, 1, usize::MAX).unwrap();
        assert!(given.check().problems.is_empty(), "after {writes} writes");
    }
    let summary = ended.unwrap();
    assert!(summary.removed.1 > 100_000 && summary.rewritten.1 > 0, "{summary:?}");
    let checked = given.restic(&["check", "--read-data"]);
    assert!(!checked.contains("additional files") && !checked.contains("contained in several"), "{checked}");
    let target = given.path("restored");
    given.restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    let back = |name: &str| std::fs::read(given.below(&target).join(name)).unwrap();
    assert_eq!((back("0"), back("9")), (noise(20_000, 1), noise(20_000, 210)));
}

#[test]
fn restic_finds_a_tree_and_a_file_of_the_same_text_before_a_prune_and_after_it() {
    let Some(given) = Given::new() else { return };
    given.init_ours();
    std::fs::create_dir(given.source().join("empty")).unwrap();
    std::fs::write(given.source().join("tree"), "{\"nodes\":[]}\n").unwrap();
    for round in 0..9 {
        std::fs::write(given.source().join("f"), noise(20_000, round + 1)).unwrap();
        given.back_up(None);
    }
    given.restic(&["check", "--read-data"]);
    let summary = prune_within(&given, 3, usize::MAX).unwrap();
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
    given.init_ours();
    for round in 0..9 {
        std::fs::write(given.source().join("f"), noise(20_000, round + 1)).unwrap();
        given.back_up(None);
    }
    let packs = || FsStore::at(&given.path("repo")).list(Kind::Pack).unwrap().len();
    assert_eq!(packs(), 18);
    copy(&given.path("repo"), &given.path("before"));
    for writes in [3, 4, 5, 7, 12] {
        copy(&given.path("before"), &given.path("repo"));
        assert!(prune_within(&given, 9, writes).is_err());
        given.restic(&["unlock"]);
        given.restic(&["check", "--read-data"]);
    }
    copy(&given.path("before"), &given.path("repo"));
    let summary = prune_within(&given, 9, usize::MAX).unwrap();
    assert!(summary.merged.0 > 0 && packs() == 2, "{summary:?}");
    let checked = given.restic(&["check", "--read-data"]);
    assert!(!checked.contains("additional files") && !checked.contains("contained in several"), "{checked}");
    assert_eq!(given.restic(&["snapshots", "--json"]).matches("\"short_id\"").count(), 9);
    let target = given.path("restored");
    given.restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    assert_eq!(std::fs::read(given.below(&target).join("f")).unwrap(), noise(20_000, 9));
}
