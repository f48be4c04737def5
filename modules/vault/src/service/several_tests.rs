//! A machine with several vaults, of which one misses something.

use std::fs;
use std::sync::Arc;

use super::world::{World, noise, stage};
use super::*;
use crate::engine::Quiet;
use crate::repo::Repository;
use crate::store::{Kind, MemoryStore, Store};

/// A second vault beside the one of a world, which is called `local`.
struct Two {
    world: World,
    other: Arc<MemoryStore>,
}

impl Two {
    fn new() -> Self {
        let world = World::new();
        let around = world.around(world.state.path(), world.store.clone(), std::process::id());
        Service::add_vault(&around, Path::new("/other"), "other").unwrap();
        let two = Self { world, other: Arc::new(MemoryStore::default()) };
        two.open().prepare_vaults(Some("other"), &mut |_| Ok(b"x".into())).unwrap();
        two
    }

    fn open(&self) -> Service {
        let World { state, store, .. } = &self.world;
        let (first, other) = (store.clone(), self.other.clone());
        let stores: OpenStore = Arc::new(move |settings| {
            Ok(if settings.name == "other" { other.clone() } else { first.clone() })
        });
        let around = self.world.around(state.path(), store.clone(), std::process::id());
        Service::open(Surroundings { stores, ..around }).unwrap()
    }

    /// Lets backups do without the vaults of these names.
    fn need_not_have(&self, names: &[&str]) {
        let settings = self.world.home.path().join("bt.toml");
        let mut text = fs::read_to_string(&settings).unwrap();
        for name in names {
            let at = text.find(&format!("name = \"{name}\"")).unwrap();
            let (before, after) = text.split_at(at);
            text = format!("{before}{}", after.replacen("required = true", "required = false", 1));
        }
        fs::write(&settings, text).unwrap();
    }

    fn add(&self) {
        stage(&mut self.open()).unwrap();
    }

    fn back_up(&mut self, only: Option<&str>) -> BackupReport {
        self.world.hour += 1;
        self.open().backup(only, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap()
    }

    /// Returns the names of the files in the newest snapshot of a vault.
    fn newest(&self, store: &Arc<MemoryStore>) -> Vec<String> {
        let repo = Repository::open(store.clone(), b"x").unwrap();
        let mut tree = repo.tree(repo.snapshots().unwrap().pop().unwrap().1.tree).unwrap();
        for part in self.world.home.path().join("docs").iter().skip(1) {
            tree = repo.tree(tree.find(part).unwrap().subtree.unwrap()).unwrap();
        }
        tree.nodes.iter().map(|node| node.name.to_string_lossy().into_owned()).collect()
    }
}

#[test]
fn a_vault_that_missed_a_backup_gets_its_snapshot_with_the_next_one() {
    let mut two = Two::new();
    let docs = two.world.home.path().join("docs");
    fs::write(docs.join("a"), "text").unwrap();
    two.add();
    assert!(two.back_up(None).is_clean());
    fs::rename(docs.join("a"), docs.join("b")).unwrap();
    two.add();
    assert!(two.back_up(Some("local")).is_clean());
    let other = two.other.clone();
    assert_eq!(two.newest(&other), ["a"]);
    let report = two.back_up(None);
    assert!(report.is_clean(), "{report:?}");
    let snapshots: Vec<bool> = report.vaults.iter().map(|vault| vault.snapshot.is_some()).collect();
    assert_eq!(snapshots, [false, true], "only the one that missed it gets one");
    assert_eq!(two.newest(&other), ["b"]);
    assert!(two.back_up(None).vaults.iter().all(|vault| vault.snapshot.is_none()), "nothing changed since");
}

/// Answers wrongly for these vaults.
fn wrong_for(names: &'static [&'static str]) -> impl FnMut(Ask) -> Result<Vec<u8>> {
    move |ask| {
        let is_wrong = matches!(&ask, Ask::Open(name) if names.contains(&name.as_str()));
        Ok(if is_wrong { b"wrong".into() } else { b"x".into() })
    }
}

#[test]
fn a_vault_that_is_not_required_may_be_away_but_one_that_cannot_be_used_is_no_success() {
    let mut two = Two::new();
    two.need_not_have(&["local", "other"]);
    fs::write(two.world.home.path().join("docs/a"), "text").unwrap();
    two.add();
    assert!(two.back_up(None).is_clean());
    let order = RehearseOrder { only: None, seed: 1, most_bytes: 1 << 20, most_files: 9, since: None };

    let report = two.open().backup(None, &mut wrong_for(&["other"]), &Quiet::default()).unwrap();
    assert!(!report.is_clean() && report.warnings[0].contains("`other` was left out"), "{report:?}");
    let rehearsed = two.open().rehearse(&order, &mut wrong_for(&["other"]), &Quiet::default()).unwrap();
    assert!(!rehearsed.is_clean() && rehearsed.vaults.len() == 1, "{rehearsed:?}");
    let error = two.open().backup(None, &mut wrong_for(&["local", "other"]), &Quiet::default()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    let error = two.open().rehearse(&order, &mut wrong_for(&["local", "other"]), &Quiet::default());
    assert_eq!(error.unwrap_err().kind, ErrorKind::Invalid);

    let marker = two.other.get(Kind::Marker, "").unwrap().unwrap();
    two.other.delete(Kind::Marker, "").unwrap();
    let report = two.back_up(None);
    assert!(report.is_clean() && report.warnings[0].contains("`other` was left out"), "{report:?}");
    two.world.store.delete(Kind::Marker, "").unwrap();
    let error = two.open().backup(None, &mut wrong_for(&[]), &Quiet::default()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
    let error = two.open().prune(&PruneOrder::default(), &mut wrong_for(&[]), &Quiet::default()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
    two.other.put(Kind::Marker, "", &marker).unwrap();
    assert!(two.back_up(None).is_clean());
}

#[test]
fn what_a_damaged_vault_cannot_give_another_one_does() {
    let mut two = Two::new();
    let docs = two.world.home.path().join("docs");
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        fs::write(docs.join(name), noise(8_000, seed)).unwrap();
    }
    two.add();
    assert!(two.back_up(None).is_clean());
    let damage = |store: &MemoryStore| {
        for (name, _) in store.list(Kind::Pack).unwrap() {
            let bytes = store.get(Kind::Pack, &name).unwrap().unwrap();
            store.delete(Kind::Pack, &name).unwrap();
            store.put(Kind::Pack, &name, &vec![7; bytes.len()]).unwrap();
        }
    };
    damage(&two.world.store);
    let restore = |path: &Path, to: &str| {
        let order = RestoreOrder {
            path: path.to_owned(),
            which: Which::Current,
            to: Some(two.world.home.path().join(to)),
            in_place: false,
            content_only: false,
            short_name: false,
        };
        two.open().restore(&order, &mut |_| Ok(b"x".into()), &Quiet::default())
    };
    let back = |to: &str, name: &str| fs::read(two.world.home.path().join(to).join(name)).unwrap();
    let all = restore(&docs, "all").unwrap();
    assert!(all.files.len() == 3 && all.troubles.is_empty(), "{all:?}");
    assert!(all.elsewhere.len() == 3 && all.elsewhere[0].why.contains("`local` could not"), "{all:?}");
    assert_eq!(all.bytes, 24_000);
    assert_eq!([1, 2, 3].map(|seed| noise(8_000, seed)), ["a", "b", "c"].map(|name| back("all", name)));
    let one = restore(&docs.join("b"), "one").unwrap();
    assert!(one.elsewhere.len() == 1 && back("one", "b") == noise(8_000, 2), "{one:?}");
    damage(&two.other);
    let none = restore(&docs, "none").unwrap();
    assert!(none.files.is_empty() && none.troubles.len() == 3 && none.elsewhere.is_empty(), "{none:?}");
    assert!(none.troubles[0].why.contains("in `memory` is damaged"), "{none:?}");
    restore(&docs.join("b"), "none").unwrap_err();
}
