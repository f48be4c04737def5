//! Versions of a catalogue in a vault, held against the catalogue itself.

use std::fs;

use pc_switcher_contract::ErrorKind;

use super::super::crash_tests::opened;
use super::super::repair_tests::change;
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

#[test]
fn a_version_of_few_changes_takes_little_and_is_the_catalogue_as_it_was() {
    let mut world = world();
    let first = newest(&world);
    next(&mut world, 0..2, 2);
    let bases = named(&world, "base");
    assert_eq!(bases.len(), 1, "the second version goes on with the base of the first: {bases:?}");
    let second = newest(&world);
    let of = |version: i64| {
        let name = format!("{}/db.{version}", host(&world));
        named(&world, "db").into_iter().find(|(known, _)| *known == name).unwrap().1
    };
    assert!(of(first) < 1000, "a base says all of the version that made it: {}", of(first));
    assert!(of(second) * 4 < bases[0].1, "{} beside {bases:?}", of(second));

    // Byte for byte, as far as the catalogue was not changed since: it notes that the copy is stored.
    let dir = tempfile::tempdir().unwrap();
    let repo = opened(&world.store);
    let live = Catalogue::open(&world.state.path().join("vault/catalogue.db")).unwrap();
    let place = Place {
        host_id: &host(&world),
        vault_id: &uuid::Uuid::nil().to_string(),
        state: &world.state.path().join("vault"),
    };
    store(&repo, &live, &place, second + 1).unwrap();
    let path = dir.path().join("copy.db");
    fetch(&repo, &host(&world), second + 1, &path).unwrap();
    assert!(live.while_still(|live| Ok(fs::read(live).unwrap() == fs::read(&path).unwrap())).unwrap());
    assert_eq!(named(&world, "base"), bases);
    assert_eq!(fetched(&world, second).unwrap(), fetched(&world, first).unwrap() + 2);
}

#[test]
fn another_base_is_made_where_the_last_one_does_not_help() {
    let mut world = world();
    let count = |world: &World| {
        let names = named(world, "base").into_iter().map(|(name, _)| base_of(&name, &host(world)).unwrap());
        names.collect::<BTreeSet<_>>().len()
    };
    // Most pages are others.
    next(&mut world, 0..400, 2);
    assert_eq!(count(&world), 2);
    // Nobody knows the pages of the last one.
    let note = || world.state.path().join("vault").read_dir().unwrap().map(|entry| entry.unwrap().path());
    let note = note().find(|path| path.to_string_lossy().contains("copied.")).unwrap();
    let bytes = fs::read(&note).unwrap();
    fs::write(&note, &bytes[..bytes.len() - 1]).unwrap();
    next(&mut world, 0..1, 3);
    assert_eq!(count(&world), 3);
    // It is not there any more.
    let gone = named(&world, "base").pop().unwrap().0;
    world.store.delete(Kind::Meta, &gone).unwrap();
    let lost = newest(&world);
    next(&mut world, 0..1, 4);
    assert_eq!(count(&world), 3);
    assert_eq!(fetched(&world, lost).unwrap_err().kind, ErrorKind::Failed);
    assert!(fetched(&world, newest(&world)).is_ok());
}

#[test]
fn bases_go_with_the_last_version_that_needs_them() {
    let mut world = world();
    let [first] = &named(&world, "base")[..] else { panic!("a base of a slice") };
    next(&mut world, 0..400, 2);
    for seed in 3..11 {
        next(&mut world, 0..1, seed);
        assert!(named(&world, "base").contains(first), "the first version is still kept");
    }
    assert_eq!(named(&world, "db").len(), 10);
    next(&mut world, 0..1, 11);
    let left = named(&world, "base");
    assert!(!left.is_empty() && !left.contains(first), "{left:?}");
    for version in versions(&*world.store, &host(&world)).unwrap() {
        fetched(&world, version).unwrap();
    }
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
    let [old, fresh] = &named(&world, "base")[..] else { panic!("two bases of a slice each") };
    let other = world.store.get(Kind::Meta, &fresh.0).unwrap().unwrap();
    change(&world, Kind::Meta, &old.0, |bytes| *bytes = other.clone());
    assert!(fetched(&world, newest).unwrap_err().to_string().contains("not what was copied"));
}

#[test]
fn a_copy_that_an_older_program_wrote_is_read() {
    let world = world();
    let catalogue = Catalogue::open(&world.state.path().join("vault/catalogue.db")).unwrap();
    let repo = opened(&world.store);
    let all = catalogue.while_still(|path| Ok(fs::read(path).unwrap())).unwrap();
    let sealed = repo.seal(&zstd::bulk::compress(&all, 0).unwrap()).unwrap();
    let version = newest(&world) + 1;
    world.store.put(Kind::Meta, &format!("{}/db.{version}", host(&world)), &sealed).unwrap();
    assert_eq!(fetched(&world, version).unwrap(), catalogue.count_versions().unwrap());
    drop_old(&repo, &VaultSettings { keep_metadata_versions: 1, ..first_of(&world) }, &host(&world)).unwrap();
    assert_eq!(
        (versions(&*world.store, &host(&world)).unwrap(), named(&world, "base").len()),
        (vec![version], 1)
    );
}

fn first_of(world: &World) -> VaultSettings {
    world.service(world.state.path(), world.store.clone(), std::process::id()).settings().vaults[0].clone()
}
