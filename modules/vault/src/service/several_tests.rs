//! A machine with several vaults, of which one misses something.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::world::{World, noise, stage};
use super::*;
use crate::engine::{Observer, Progress, Quiet, workers};
use crate::repo::Repository;
use crate::store::faults::Faults;
use crate::store::{Kind, MemoryStore, Store, Thaw};

/// A second vault beside the one of a world, which is called `local`.
struct Two {
    world: World,
    other: Arc<MemoryStore>,
    /// How often a pack of `local` was asked for since it is away.
    away: Option<Arc<AtomicUsize>>,
}

/// A store that goes away as soon as a pack is read.
fn away(inner: &Arc<MemoryStore>, asked: &Arc<AtomicUsize>) -> Faults {
    let asked = asked.clone();
    Faults::on(inner).that_fails(move |call| {
        let is_hit = call.kind == Kind::Pack;
        asked.fetch_add(usize::from(is_hit), Ordering::SeqCst);
        is_hit.then(|| ModuleError::new(ErrorKind::Unreachable, "the line is cut"))
    })
}

/// Saves a file while it is kept before it is replaced: once.
struct Saving {
    directory: PathBuf,
    is_done: AtomicBool,
}

impl Observer for Saving {
    fn progress(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        // Nothing is kept before what takes its place is complete, which has no name by then.
        let is_complete = Path::new("/proc/self/fd").read_dir().unwrap().flatten().any(|open| {
            let is_here = fs::read_link(open.path()).is_ok_and(|open| open.starts_with(&self.directory));
            is_here && fs::metadata(open.path()).is_ok_and(|facts| (facts.nlink(), facts.len()) == (0, 8_000))
        });
        if is_complete && !self.is_done.swap(true, Ordering::SeqCst) {
            fs::write(self.directory.join("a"), "saved just now").unwrap();
        }
        false
    }
}

impl Two {
    fn new() -> Self {
        let world = World::new();
        let around = world.around(world.state.path(), world.store.clone(), std::process::id());
        Service::add_vault(&around, Path::new("/other"), "other").unwrap();
        let two = Self { world, other: Arc::new(MemoryStore::default()), away: None };
        two.open().prepare_vaults(Some("other"), &mut |_| Ok(b"x".into())).unwrap();
        two
    }

    fn open(&self) -> Service {
        Service::open(self.around()).unwrap()
    }

    fn around(&self) -> Surroundings {
        let World { state, store, .. } = &self.world;
        let other = self.other.clone();
        let first: Arc<dyn Store> = match &self.away {
            Some(asked) => Arc::new(away(store, asked)),
            None => store.clone(),
        };
        let stores: OpenStore = Arc::new(move |settings| {
            Ok(if settings.name == "other" { other.clone() } else { first.clone() })
        });
        let around = self.world.around(state.path(), store.clone(), std::process::id());
        Surroundings { stores, ..around }
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
            thaw: Thaw::default(),
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

/// Returns a machine with so many files in both vaults.
fn with_files(count: u64) -> (Two, PathBuf) {
    let mut two = Two::new();
    let docs = two.world.home.path().join("docs");
    for number in 0..count {
        fs::write(docs.join(name(number)), noise(8_000, number + 1)).unwrap();
    }
    two.add();
    assert!(two.back_up(None).is_clean());
    (two, docs)
}

/// `a`, `b`, and so on, then `aa`.
fn name(number: u64) -> String {
    let letter = char::from(b'a' + (number % 26) as u8);
    if number < 26 { letter.into() } else { format!("{}{letter}", name(number / 26 - 1)) }
}

fn order(path: &Path, to: Option<PathBuf>) -> RestoreOrder {
    let in_place = to.is_none();
    let (path, which) = (path.to_owned(), Which::Current);
    RestoreOrder { path, which, to, in_place, content_only: false, short_name: false, thaw: Thaw::default() }
}

#[test]
fn what_was_saved_while_it_was_to_be_replaced_is_not_replaced_by_another_vault() {
    let (two, docs) = with_files(1);
    fs::write(docs.join("a"), "changed since").unwrap();
    let saving = Saving { directory: docs.clone(), is_done: AtomicBool::new(false) };
    let error = two.open().restore(&order(&docs.join("a"), None), &mut wrong_for(&[]), &saving).unwrap_err();
    assert!(error.to_string().contains("changed during staging"), "{error}");
    assert_eq!(fs::read(docs.join("a")).unwrap(), b"saved just now");
    assert!(saving.is_done.into_inner());
}

#[test]
fn a_vault_that_goes_away_is_asked_for_nothing_more_and_another_one_gives_all() {
    let (mut two, docs) = with_files(60);
    for is_in_place in [false, true] {
        let asked = Arc::new(AtomicUsize::new(0));
        two.away = Some(asked.clone());
        let to = (!is_in_place).then(|| two.world.home.path().join("back"));
        let place = to.clone().unwrap_or_else(|| docs.clone());
        if is_in_place {
            (0..60).for_each(|number| fs::remove_file(docs.join(name(number))).unwrap());
        }
        let report = two.open().restore(&order(&docs, to), &mut wrong_for(&[]), &Quiet::default()).unwrap();
        assert!(report.files.len() == 60 && report.troubles.is_empty(), "{report:?}");
        for number in 0..60 {
            assert_eq!(fs::read(place.join(name(number))).unwrap(), noise(8_000, number + 1));
        }
        // Each thread once, of two batches.
        let most = if is_in_place { 1 } else { 2 * workers() };
        let asked = asked.load(Ordering::SeqCst);
        assert!((1..=most).contains(&asked), "{asked} of {most}");
        assert!(report.elsewhere.iter().any(|one| one.why.contains("the line is cut")), "{report:?}");
    }
    // Where there is no other vault it is said, and not asked for again and again either.
    two.other.delete(Kind::Marker, "").unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    two.away = Some(asked.clone());
    let to = Some(two.world.home.path().join("none"));
    let report = two.open().restore(&order(&docs, to), &mut wrong_for(&[]), &Quiet::default()).unwrap();
    assert!(report.files.is_empty() && report.troubles.len() == 60, "{report:?}");
    assert!(asked.load(Ordering::SeqCst) <= 2 * workers());
}

impl Two {
    fn write(&mut self, text: &str, only: &str) {
        fs::write(self.world.home.path().join("docs/a"), text).unwrap();
        self.add();
        self.back_up(Some(only));
    }

    /// Loses the catalogue and builds it anew.
    fn recover(&self) -> RecoverReport {
        fs::remove_file(self.world.state.path().join("vault/catalogue.db")).unwrap();
        let around = self.around();
        Service::recover(&around, &RecoverOrder::default(), &mut wrong_for(&[]), &Quiet::default()).unwrap()
    }

    /// Returns the lengths of the versions of the file, the oldest first.
    fn lengths(&self) -> Vec<u64> {
        let history = self.open().history_of(&self.world.home.path().join("docs/a")).unwrap();
        let mut all: Vec<(String, u64)> =
            history.versions.into_iter().map(|version| (version.created_at, version.facts.size)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, size)| size).collect()
    }

    fn remove_copies(&self) {
        for store in [&self.world.store, &self.other] {
            for (name, _) in store.list(Kind::Meta).unwrap() {
                store.delete(Kind::Meta, &name).unwrap();
            }
        }
    }
}

#[test]
fn the_snapshots_of_all_vaults_tell_what_each_of_them_alone_does_not_have() {
    let mut two = Two::new();
    for (text, only) in
        [("1", "local"), ("22", "other"), ("333", "local"), ("4444", "other"), ("55555", "local")]
    {
        two.write(text, only);
    }
    assert_eq!(two.lengths(), [1, 2, 3, 4, 5]);
    two.remove_copies();
    let report = two.recover();
    assert!(report.source == Source::Snapshots && report.troubles.is_empty(), "{report:?}");
    assert_eq!(two.lengths(), [1, 2, 3, 4, 5], "{report:?}");
    let back = two.world.home.path().join("back");
    let order = order(&two.world.home.path().join("docs/a"), Some(back.clone()));
    two.open().restore(&order, &mut wrong_for(&[]), &Quiet::default()).unwrap();
    assert_eq!(fs::read(back.join("a")).unwrap(), b"55555");
}

#[test]
fn what_a_snapshot_is_without_because_its_vault_never_held_it_is_not_deleted() {
    let mut two = Two::new();
    let docs = two.world.home.path().join("docs");
    fs::write(docs.join("a"), "in both").unwrap();
    two.add();
    assert!(two.back_up(None).is_clean());
    fs::write(docs.join("b"), "in one alone").unwrap();
    fs::write(docs.join("c"), "in one alone, and deleted then").unwrap();
    two.add();
    two.back_up(Some("local"));
    fs::remove_file(docs.join("c")).unwrap();
    two.add();
    two.back_up(Some("local"));
    // The later snapshot is that of the vault that has neither.
    two.back_up(Some("other"));
    assert_eq!(
        (two.newest(&two.world.store), two.newest(&two.other)),
        (vec!["a".into(), "b".into()], vec!["a".into()])
    );
    for has_copies in [true, false] {
        if !has_copies {
            two.remove_copies();
        }
        let report = two.recover();
        assert!(report.troubles.is_empty(), "{report:?}");
        let back = two.world.home.path().join(format!("back-{has_copies}"));
        let order = order(&docs, Some(back.clone()));
        two.open().restore(&order, &mut wrong_for(&[]), &Quiet::default()).unwrap();
        let mut found: Vec<String> = walk(&back);
        found.retain(|name| ["a", "b", "c"].contains(&name.as_str()));
        assert_eq!(found, ["a", "b"], "{has_copies}: {report:?}");
    }
}

/// Returns the names of all files below a directory.
fn walk(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in dir.read_dir().unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(walk(&entry.path())),
            false => found.push(entry.file_name().to_string_lossy().into_owned()),
        }
    }
    found.sort();
    found
}

#[test]
fn of_two_copies_the_newer_one_counts_whatever_their_numbers_and_what_it_has_not_is_named() {
    let mut two = Two::new();
    two.write("1", "local");
    two.write("1", "other");
    let (then, _) = two.world.copy();
    // A history that ends soon: the vault has the higher number in the end.
    for text in ["22", "333", "4444"] {
        two.write(text, "other");
    }
    let catalogue = |state: &Path| state.join("vault/catalogue.db");
    for end in ["-wal", "-shm"] {
        fs::remove_file(format!("{}{end}", catalogue(two.world.state.path()).display())).ok();
    }
    fs::copy(catalogue(then.path()), catalogue(two.world.state.path())).unwrap();
    two.write("666666", "local");
    let report = two.recover();
    assert!(matches!(&report.source, Source::Copy { vault, .. } if vault == "local"), "{report:?}");
    assert_eq!(two.lengths(), [1, 1, 6]);
    let named = report.warnings.iter().filter(|one| one.contains("history that the copy does not have"));
    assert_eq!(named.count(), 3, "{report:?}");
}

#[test]
fn what_is_said_of_losses_holds_for_a_vault_that_is_away_and_with_one_vault_named_for_that_alone() {
    let mut two = Two::new();
    two.need_not_have(&["other"]);
    two.world.put(0..120, 1);
    two.add();
    assert!(two.back_up(None).is_clean());
    for name in 0..110 {
        fs::remove_file(two.world.home.path().join(format!("docs/{name}"))).unwrap();
    }
    assert_eq!(two.back_up(None).deleted, 110);
    two.world.put(119..120, 2);
    two.add();
    assert!(two.back_up(None).is_clean());
    two.world.hour += 1;
    // Returns what stays of the three in each vault, the oldest first, and what is said.
    let prune = |two: &Two, only: Option<&str>, accept_losses: bool, is_away: bool| {
        let around = two.around();
        let stores = around.stores.clone();
        let stores: OpenStore = Arc::new(move |settings| match is_away && settings.name == "other" {
            true => Err(ModuleError::new(ErrorKind::Unreachable, "its disk is away")),
            false => stores(settings),
        });
        let keep = Some("last 1 session".parse().unwrap());
        let only = only.map(str::to_owned);
        let order = PruneOrder { keep, only, accept_losses, ..PruneOrder::default() };
        let mut service = Service::open(Surroundings { stores, ..around }).unwrap();
        let report = service.prune(&order, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap();
        let stay = |vault: &VaultPruned| vault.verdicts.iter().map(|one| one.stays).collect::<Vec<_>>();
        let all: Vec<_> = report.vaults.iter().map(|vault| (vault.name.clone(), stay(vault))).collect();
        (all, report.warnings.join("\n"))
    };
    let of = |name: &str, stay: &[bool]| (name.to_owned(), stay.to_vec());
    let (pruned, said) = prune(&two, Some("local"), true, false);
    assert_eq!(pruned, [of("local", &[false, false, true])]);
    assert!(said.contains("holds for that vault and for this run"), "{said}");
    // Nothing was said of the other one yet.
    let (pruned, said) = prune(&two, Some("other"), false, false);
    assert_eq!((pruned, &*said), (vec![of("other", &[true, false, true])], ""));
    let (pruned, said) = prune(&two, None, true, true);
    assert_eq!(pruned, [of("local", &[true])]);
    assert!(
        said.contains("its disk is away") && said.contains("accepted for the vault `other` as well"),
        "{said}"
    );
    let (pruned, said) = prune(&two, None, false, false);
    assert_eq!((pruned, &*said), (vec![of("local", &[true]), of("other", &[false, true])], ""));
}
