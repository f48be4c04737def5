//! Versions of a catalogue in a vault, held against the catalogue itself.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use pc_switcher_contract::ErrorKind;

use super::super::crash_tests::{Fault, Faulty, opened};
use super::super::repair_tests::change;
use super::super::target::OldCopies;
use super::super::world::{World, back_up, stage};
use super::*;

/// Returns a machine with so many files that a few changed ones are few pages, and a backup of them.
fn world() -> World {
    let mut world = World::new();
    world.put(0..400, 1);
    world.now(|service| stage(service).and_then(|()| back_up(service)));
    world
}

fn next(world: &mut World, names: std::ops::Range<u64>, seed: u64) {
    world.put(names, seed);
    world.now(|service| stage(service).and_then(|()| back_up(service)));
}

fn host(world: &World) -> String {
    hosts(&*world.store).unwrap().pop_first().unwrap()
}

/// Returns names and sizes of what a vault holds of a machine under names that begin so.
fn named(world: &World, kind: &str) -> Vec<(String, u64)> {
    let begin = format!("{}/{kind}.", host(world));
    world.store.list(Kind::Meta).unwrap().into_iter().filter(|(name, _)| name.starts_with(&begin)).collect()
}

fn newest(world: &World) -> i64 {
    versions(&*world.store, &host(world)).unwrap().pop().unwrap()
}

/// Fetches a version, and says how many versions of files it knows.
fn fetched(world: &World, version: i64) -> Result<u64> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copy.db");
    fetch(&opened(&world.store), &host(world), version, &path)?;
    Catalogue::open(&path)?.count_versions()
}

/// Returns the catalogue as its file is; opening that anew would cost SQLite its locks.
fn bytes_of(catalogue: &Catalogue) -> Vec<u8> {
    let mut all = Vec::new();
    let mut read = |file: &File| Whole { file, at: 0 }.read_to_end(&mut all);
    catalogue.while_still(|file, _| Ok(read(file).unwrap())).unwrap();
    all
}

/// Returns the bases of which a vault has slices, the oldest first.
fn bases(world: &World) -> BTreeSet<(i64, String)> {
    named(world, "base").iter().map(|(name, _)| base_of(name, &host(world)).unwrap()).collect()
}

fn note(world: &World) -> PathBuf {
    let mut all = world.state.path().join("vault").read_dir().unwrap().map(|entry| entry.unwrap().path());
    all.find(|path| path.to_string_lossy().contains("copied.")).unwrap()
}

#[test]
fn a_version_of_few_changes_takes_little_and_is_the_catalogue_as_it_was() {
    let mut world = world();
    let first = newest(&world);
    next(&mut world, 0..2, 2);
    let slices = named(&world, "base");
    assert!(
        slices.len() > 3 && bases(&world).len() == 1,
        "the second goes on with the base of the first: {slices:?}"
    );
    let second = newest(&world);
    let of = |version: i64| {
        let name = format!("{}/db.{version}", host(&world));
        named(&world, "db").into_iter().find(|(known, _)| *known == name).unwrap().1
    };
    assert!(of(first) < 1000, "a base says all of the version that made it: {}", of(first));
    let all: u64 = slices.iter().map(|(_, size)| size).sum();
    assert!(of(second) * 4 < all, "{} beside {slices:?}", of(second));

    // Byte for byte, as far as the catalogue was not changed since: it notes that the copy is stored.
    let dir = tempfile::tempdir().unwrap();
    let repo = opened(&world.store);
    let live = Catalogue::open(&world.state.path().join("vault/catalogue.db")).unwrap();
    let place = Place {
        host_id: &host(&world),
        vault_id: &uuid::Uuid::nil().to_string(),
        state: &world.state.path().join("vault"),
        now: world.hour * 3600,
        who: &Who::default(),
    };
    store(&repo, &live, &place, second + 1).unwrap();
    let path = dir.path().join("copy.db");
    fetch(&repo, &host(&world), second + 1, &path).unwrap();
    assert_eq!(bytes_of(&live), fs::read(&path).unwrap());
    assert_eq!(named(&world, "base"), slices);
    assert_eq!(fetched(&world, second).unwrap(), fetched(&world, first).unwrap() + 2);
}

#[test]
fn what_lies_beside_a_base_comes_to_no_more_than_another_one() {
    let mut world = world();
    let (first, mut beside) = (bases(&world), Vec::new());
    let pages = |world: &World| {
        let text = fs::read(note(world)).unwrap();
        let end = text.iter().position(|byte| *byte == b'\n').unwrap();
        let note: serde_json::Value = serde_json::from_slice(&text[..end]).unwrap();
        (note["spent"].as_u64().unwrap(), ((text.len() - end - 1) / 16) as u64)
    };
    let all = pages(&world).1;
    while bases(&world) == first {
        next(&mut world, 0..1, beside.len() as u64 + 2);
        let spent = pages(&world).0;
        let before = beside.last().copied().unwrap_or(0);
        // A vault that is full takes no version, which then costs nothing.
        let (live, host, now) = (
            Catalogue::open(&world.state.path().join("vault/catalogue.db")).unwrap(),
            host(&world),
            world.hour * 3600,
        );
        let (vault_id, state) = (uuid::Uuid::nil().to_string(), world.state.path().join("vault"));
        let place = Place { host_id: &host, vault_id: &vault_id, state: &state, now, who: &Who::default() };
        let full = opened(&world.store);
        assert!(store(&full, &live, &place, newest(&world)).is_err(), "there is one of that number");
        assert!(bases(&world) != first || spent == pages(&world).0 && spent > before, "{before} {spent}");
        beside.push(spent);
        assert!(beside.len() < 60, "each version stores some pages, and there are fewer than that");
    }
    beside.pop();
    let last = *beside.last().unwrap();
    let each = last / beside.len() as u64;
    assert!(last <= all && last + 3 * each > all, "{beside:?} of {all}");
    assert!(fetched(&world, newest(&world)).is_ok());
}

#[test]
fn another_base_is_made_where_the_last_one_does_not_help() {
    let mut world = world();
    // Most pages are others.
    next(&mut world, 0..400, 2);
    assert_eq!(bases(&world).len(), 2);
    // Nobody knows the pages of the last one.
    let bytes = fs::read(note(&world)).unwrap();
    fs::write(note(&world), &bytes[..bytes.len() - 1]).unwrap();
    next(&mut world, 0..1, 3);
    assert_eq!(bases(&world).len(), 3);
    // A slice is not there any more: the next backup makes up for it, whether anything changed or not.
    let slices: Vec<_> = named(&world, "base");
    let lost = newest(&world);
    let newest_base = bases(&world).pop_last().unwrap();
    let of_newest = |name: &String| base_of(name, &host(&world)).unwrap() == newest_base;
    let gone = slices.iter().rfind(|(name, _)| of_newest(name)).unwrap();
    world.store.delete(Kind::Meta, &gone.0).unwrap();
    assert_eq!(fetched(&world, lost).unwrap_err().kind, ErrorKind::Failed);
    world.hour += 1;
    world.now(back_up);
    assert!(newest(&world) > lost && fetched(&world, newest(&world)).is_ok());
    // One is shorter than it was.
    let newest_base = bases(&world).pop_last().unwrap();
    let cut = named(&world, "base");
    let cut = cut.iter().find(|(name, _)| base_of(name, &host(&world)).unwrap() == newest_base).unwrap();
    change(&world, Kind::Meta, &cut.0, |bytes| bytes.truncate(100));
    next(&mut world, 0..1, 4);
    assert!(bases(&world).pop_last().unwrap() > newest_base);
    assert!(fetched(&world, newest(&world)).is_ok());
    // The page size is another one, as of a catalogue that was built anew.
    let newest_base = bases(&world).pop_last().unwrap();
    let db = rusqlite::Connection::open(world.state.path().join("vault/catalogue.db")).unwrap();
    db.execute_batch("PRAGMA journal_mode = delete; PRAGMA page_size = 8192; VACUUM;").unwrap();
    drop(db);
    next(&mut world, 0..1, 5);
    assert!(bases(&world).pop_last().unwrap() > newest_base);
    assert!(fetched(&world, newest(&world)).is_ok());
}

#[test]
fn a_base_that_another_one_made_since_is_gone_on_from_only_by_that_one() {
    let mut world = world();
    let (before, old) = (fs::read(note(&world)).unwrap(), bases(&world).pop_first().unwrap());
    // Somebody who took this machine over knows of no pages, and so makes a base.
    fs::remove_file(note(&world)).unwrap();
    next(&mut world, 0..1, 2);
    let theirs = bases(&world).pop_last().unwrap();
    // It comes back, with what it noted.
    fs::write(note(&world), before).unwrap();
    for seed in 3..20 {
        next(&mut world, 0..1, seed);
        for version in versions(&*world.store, &host(&world)).unwrap() {
            fetched(&world, version).unwrap();
        }
    }
    assert!(
        bases(&world).pop_last().unwrap() > theirs && !bases(&world).contains(&old),
        "{:?}",
        bases(&world)
    );
}

#[test]
fn bases_go_with_the_last_version_that_needs_them_and_one_stays_beside_the_newest() {
    let mut world = world();
    let drop_all_but = |world: &World, keep_metadata_versions| {
        let settings = VaultSettings { keep_metadata_versions, ..first_of(world) };
        drop_old(&opened(&world.store), &settings, &host(world), None).unwrap();
        let kept = versions(&*world.store, &host(world)).unwrap();
        assert!(kept.iter().all(|version| fetched(world, *version).unwrap() >= 400));
        kept
    };
    let (first, of_first) = (bases(&world).pop_first().unwrap(), newest(&world));
    next(&mut world, 0..400, 2);
    let second = bases(&world).pop_last().unwrap();
    let mut made: Vec<i64> = (3..6).map(|seed| (next(&mut world, 0..1, seed), newest(&world)).1).collect();
    // Damage to the newest base leaves the one before, and of each there is what made it, which has no changed pages.
    assert_eq!(drop_all_but(&world, 2), [of_first, second.0, made[1], made[2]]);
    assert_eq!(bases(&world), BTreeSet::from([first.clone(), second.clone()]));
    next(&mut world, 0..400, 6);
    made.extend((7..10).map(|seed| (next(&mut world, 0..1, seed), newest(&world)).1));
    let left = bases(&world);
    let third = left.last().unwrap().0;
    assert_eq!(drop_all_but(&world, 2), [second.0, made[2], third, made[4], made[5]]);
    let left = bases(&world);
    assert!(left.len() == 2 && left.contains(&second) && !left.contains(&first), "{left:?}");
}

#[test]
fn what_a_base_that_failed_left_is_removed() {
    let mut world = world();
    next(&mut world, 0..1, 2);
    let host = host(&world);
    // A run was killed after two slices.
    for number in 0..2 {
        world
            .store
            .put(Kind::Meta, &format!("{host}/base.{}.deadbeef.{number}", newest(&world)), b"?")
            .unwrap();
    }
    for seed in 3..20 {
        next(&mut world, 0..1, seed);
    }
    let is_left = named(&world, "base").iter().any(|(name, _)| name.contains("deadbeef"));
    assert!(!is_left && fetched(&world, newest(&world)).is_ok());
}

#[test]
fn a_base_that_cannot_be_stored_or_noted_whole_leaves_nothing() {
    /// Stores a base and a version that goes with it, and proves that a failure leaves neither.
    fn store_new(world: &World, store_at: Arc<Faulty>, state: &Path) -> bool {
        let (host, vault_id) = (host(world), uuid::Uuid::nil().to_string());
        let live = Catalogue::open(&world.state.path().join("vault/catalogue.db")).unwrap();
        let before = world.store.list(Kind::Meta).unwrap();
        let repo = Repository::open(store_at, b"x").unwrap();
        let place = Place { host_id: &host, vault_id: &vault_id, state, now: 0, who: &Who::default() };
        let ended = store(&repo, &live, &place, newest(world) + 1);
        // With a whole base that is noted the next version goes on.
        let is_noted = place.note().exists();
        assert!(ended.is_err() || is_noted);
        if !is_noted {
            assert_eq!(world.store.list(Kind::Meta).unwrap(), before);
        }
        is_noted
    }
    let (world, nobody) = (world(), tempfile::tempdir().unwrap());
    // This machine's own disk takes no note.
    assert!(!store_new(&world, Faulty::sound(&world.store), &nobody.path().join("nowhere")));
    let sound = Faulty::sound(&world.store);
    assert!(store_new(&world, sound.clone(), nobody.path()));
    // The disk of the vault is full after some slices.
    let slices = sound.writes.lock().unwrap().split_last().unwrap().1.to_vec();
    assert!(slices.len() > 1, "{slices:?}");
    for at in slices {
        let (faulty, nobody) =
            (Faulty::new(&world.store, at, Fault::FailsBefore), tempfile::tempdir().unwrap());
        assert!(!store_new(&world, faulty, nobody.path()), "{at}");
    }
}

#[test]
fn of_a_damaged_catalogue_nothing_is_stored_and_a_damaged_copy_is_found_and_passed_over() {
    let mut world = world();
    next(&mut world, 0..1, 2);
    let good = newest(&world);
    // A page in the middle goes bad, as on a disk that does not notice.
    let path = world.state.path().join("vault/catalogue.db");
    let whole = fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    world.hour += 48;
    let report = world.service(world.state.path(), world.store.clone(), std::process::id()).backup(
        None,
        &mut |_| Ok(b"x".into()),
        &crate::engine::Quiet::default(),
    );
    assert!(report.is_err() || newest(&world) == good, "nothing of it is stored");
    fs::write(&path, whole).unwrap();
    for end in ["-wal", "-shm"] {
        fs::remove_file(path.with_file_name(format!("catalogue.db{end}"))).ok();
    }
    // A byte of a copy goes bad in the vault.
    next(&mut world, 0..1, 3);
    let slice = named(&world, "base").pop().unwrap().0;
    change(&world, Kind::Meta, &slice, |bytes| bytes[20] ^= 1);
    let check = |world: &World| {
        let mut service = world.service(world.state.path(), world.store.clone(), std::process::id());
        let found = service.check(None, None, &mut |_| Ok(b"x".into()), &crate::engine::Quiet::default());
        found.unwrap()[0].summary.problems.count()
    };
    assert_eq!(check(&world), 1);
    next(&mut world, 0..1, 4);
    assert_eq!((check(&world), fetched(&world, newest(&world)).is_ok()), (0, true));
}

#[test]
fn two_machines_of_one_id_are_told_so() {
    let mut world = world();
    let version = newest(&world) + 1;
    let live = Catalogue::open(&world.state.path().join("vault/catalogue.db")).unwrap();
    world.hour += 1;
    let (host, vault_id, state) =
        (host(&world), uuid::Uuid::nil().to_string(), world.state.path().join("vault"));
    let place = Place {
        host_id: &host,
        vault_id: &vault_id,
        state: &state,
        now: world.hour * 3600,
        who: &Who::default(),
    };
    store(&opened(&world.store), &live, &place, version).unwrap();
    let error = store(&opened(&world.store), &live, &place, version).unwrap_err();
    assert!(error.to_string().contains("another machine wrote"), "{error}");
    // Who comes second with a backup of that number is told to take over what the first one stored.
    world.now(|service| {
        let newest = newest(&world);
        let before = service.catalogue.vault_state("local")?.unwrap().uploaded;
        let (settings, repo) = (first_of(&world), opened(&world.store));
        let said: Vec<String> =
            service.upload(&repo, &settings, newest, OldCopies::MayStay)?.said().collect();
        assert!(said[0].contains("another machine wrote"), "{said:?}");
        assert_eq!(service.catalogue.vault_state("local")?.unwrap().uploaded, before);
        assert!(before < newest && service.check_current(&settings, &repo).is_err());
        Ok(())
    });
}

#[test]
fn what_is_torn_is_no_catalogue() {
    let mut world = world();
    next(&mut world, 0..2, 2);
    let whole = (*world.store).clone();
    let newest = newest(&world);
    for (name, size) in [named(&world, "db"), named(&world, "base")].concat() {
        for at in [0, size as usize / 2, size as usize - 1] {
            world.store = std::sync::Arc::new(whole.clone());
            change(&world, Kind::Meta, &name, |bytes| bytes[at] ^= 1);
            let is_needed = name.ends_with(&format!("db.{newest}")) || name.contains("base");
            assert_eq!(fetched(&world, newest).is_err(), is_needed, "{name} at {at}");
        }
    }
    // A slice of another base under this one's name is what only the digest of the whole tells.
    world.store = std::sync::Arc::new(whole.clone());
    next(&mut world, 0..400, 3);
    let all = bases(&world);
    let [old, fresh] = [all.first(), all.last()].map(|base| {
        let mut slices = named(&world, "base").into_iter();
        slices
            .find(|(name, _)| base_of(name, &host(&world)).as_ref() == base && name.ends_with(".0"))
            .unwrap()
            .0
    });
    let other = world.store.get(Kind::Meta, &fresh).unwrap().unwrap();
    change(&world, Kind::Meta, &old, |bytes| *bytes = other.clone());
    assert!(fetched(&world, newest).unwrap_err().to_string().contains("not what was copied"));
}

#[test]
fn a_copy_that_an_older_program_wrote_is_read() {
    let world = world();
    let catalogue = Catalogue::open(&world.state.path().join("vault/catalogue.db")).unwrap();
    let repo = opened(&world.store);
    let all = bytes_of(&catalogue);
    let sealed = repo.seal(&zstd::bulk::compress(&all, 0).unwrap()).unwrap();
    let version = newest(&world) + 1;
    world.store.put(Kind::Meta, &format!("{}/db.{version}", host(&world)), &sealed).unwrap();
    assert_eq!(fetched(&world, version).unwrap(), catalogue.count_versions().unwrap());
    let settings = VaultSettings { keep_metadata_versions: 1, ..first_of(&world) };
    drop_old(&repo, &settings, &host(&world), None).unwrap();
    assert_eq!(
        (versions(&*world.store, &host(&world)).unwrap(), bases(&world).len()),
        (vec![version - 1, version], 1)
    );
}

fn first_of(world: &World) -> VaultSettings {
    world.service(world.state.path(), world.store.clone(), std::process::id()).settings().vaults[0].clone()
}
