//! What `recover` makes of a vault, held against the catalogue that was lost.

use std::fs;
use std::sync::Arc;

use super::world::{DEAD, World, back_up, noise, prune, stage, with_three_backups};
use super::*;
use crate::catalogue::FileFacts;
use crate::engine::Quiet;
use crate::store::faults::Faults;
use crate::store::{Kind, Store};

/// Returns what the catalogue says of each file: its versions and whether it is gone.
fn told(service: &Service) -> Vec<String> {
    let docs = service.catalogue.directories().unwrap().remove(0).path;
    let line = |name: u64| {
        let history = service.history_of(&docs.join(name.to_string())).unwrap();
        let versions = history.versions.iter().map(|version| {
            let facts = FileFacts { born_at: None, accessed_at: 0, ..version.facts.clone() };
            format!(
                "{} {} {} {:?} {facts:?}",
                version.checksum, version.current, version.created_at, version.vaults
            )
        });
        format!("{} {:?}", history.deleted, versions.collect::<Vec<_>>())
    };
    (0..12).map(line).collect()
}

/// Returns a machine of which a file grew over several chunks and another one went, with two files waiting.
fn world() -> World {
    let mut world = with_three_backups();
    world.hour += 1;
    let docs = world.home.path().join("docs");
    fs::write(docs.join("10"), noise(3 << 20, 77)).unwrap();
    fs::remove_file(docs.join("11")).unwrap();
    world.now(|service| stage(service).and_then(|()| back_up(service)));
    world.put(0..2, 9);
    world.now(stage);
    world
}

fn recover(world: &World, order: &RecoverOrder) -> Result<RecoverReport> {
    let around = world.around(world.state.path(), world.store.clone(), std::process::id());
    Service::recover(&around, order, &mut |_| Ok(b"x".into()), &Quiet::default())
}

fn catalogue(world: &World) -> std::path::PathBuf {
    world.state.path().join("vault/catalogue.db")
}

fn remove_copies(world: &World) {
    for (name, _) in world.store.list(Kind::Meta).unwrap() {
        world.store.delete(Kind::Meta, &name).unwrap();
    }
}

fn open(world: &World) -> Service {
    world.service(world.state.path(), world.store.clone(), std::process::id())
}

/// Proves that the next backup stores what waits and nothing else.
fn goes_on(world: &mut World, waiting: u64) {
    world.hour += 1;
    world.now(|service| {
        stage(service)?;
        assert_eq!(service.catalogue.staged_count()?.0, waiting, "nothing else is new");
        let report = service.backup(None, &mut |_| Ok(b"x".into()), &Quiet::default())?;
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(report.versions, waiting);
        Ok(())
    });
}

#[test]
fn a_lost_catalogue_comes_back_from_its_copy() {
    let mut world = world();
    let before = told(&open(&world));
    fs::remove_file(catalogue(&world)).unwrap();
    let report = recover(&world, &RecoverOrder::default()).unwrap();
    assert!(matches!(report.source, Source::Copy { .. }), "{report:?}");
    assert_eq!((report.replayed, report.put_aside, report.staged), (0, None, 0));
    assert_eq!(told(&open(&world)), before);
    goes_on(&mut world, 2);
    assert!(
        recover(&world, &RecoverOrder::default()).unwrap_err().to_string().contains("nothing to recover")
    );
}

#[test]
fn a_catalogue_that_was_rolled_back_learns_what_came_since_and_what_waits_goes_on_waiting() {
    let mut world = with_three_backups();
    world.put(0..1, 8);
    world.now(stage);
    let (old, _) = world.copy();
    world.hour += 1;
    world.now(back_up);
    let before = told(&open(&world));
    for place in ["catalogue.db", "stage"] {
        let (from, to) = (old.path().join("vault").join(place), world.state.path().join("vault").join(place));
        let files = if from.is_dir() {
            from.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect()
        } else {
            vec!["".into()]
        };
        for name in files {
            let path = |at: &Path| if name.is_empty() { at.to_owned() } else { at.join(&name) };
            fs::copy(path(&from), path(&to)).unwrap();
        }
    }
    let refused = back_up(&mut open(&world)).unwrap_err();
    assert!(
        refused.to_string().contains("older than the vault") && format!("{refused:?}").contains("bt recover")
    );
    let report = recover(&world, &RecoverOrder::default()).unwrap();
    assert!(report.put_aside.as_ref().is_some_and(|path| path.exists()) && report.staged == 1, "{report:?}");
    assert_eq!(told(&open(&world)), before);
    world.hour += 1;
    world.now(back_up);
    assert_eq!(told(&open(&world)), before, "it was stored already");
}

#[test]
fn snapshots_alone_tell_all_versions_that_they_hold() {
    let mut world = world();
    let before = told(&open(&world));
    remove_copies(&world);
    fs::write(catalogue(&world), "torn").unwrap();
    let report = recover(&world, &RecoverOrder::default()).unwrap();
    assert_eq!(report.source, Source::Snapshots);
    assert!(report.put_aside.is_some() && report.troubles.is_empty(), "{report:?}");
    assert_eq!(told(&open(&world)), before);
    goes_on(&mut world, 2);
    world.hour += 1;
    world.now(prune);
    goes_on(&mut world, 0);
}

#[test]
fn a_copy_that_is_damaged_is_left_and_what_came_after_an_older_one_is_told_by_snapshots() {
    let mut world = world();
    let before = told(&open(&world));
    let copies = world.store.list(Kind::Meta).unwrap();
    let (newest, _) =
        copies.iter().max_by_key(|(name, _)| name.rsplit('.').next().unwrap().parse::<u64>().ok()).unwrap();
    world.store.delete(Kind::Meta, newest).unwrap();
    world.store.put(Kind::Meta, newest, b"torn").unwrap();
    fs::remove_file(catalogue(&world)).unwrap();
    let report = recover(&world, &RecoverOrder::default()).unwrap();
    assert!(report.replayed == 1 && report.warnings[0].contains("db."), "{report:?}");
    assert_eq!(told(&open(&world)), before);
    goes_on(&mut world, 2);
}

#[test]
fn another_machine_gets_the_versions_of_one_that_is_gone_and_may_take_its_place() {
    let world = world();
    let (host, before) = (open(&world).host_id, told(&open(&world)));
    for take_over in [false, true] {
        let mut other = World::new();
        other.store = Arc::new((*world.store).clone());
        other.hour = world.hour;
        let own = open(&other).host_id;
        open(&other).forget_directory(&other.home.path().join("docs")).unwrap();
        let nothing = recover(&other, &RecoverOrder::default()).unwrap_err();
        assert!(format!("{nothing:?}").contains(&host), "{nothing:?}");
        let order = RecoverOrder { from: Some(host.clone()), take_over, only: None };
        recover(&other, &order).unwrap();
        let service = other.service(other.state.path(), other.store.clone(), DEAD);
        assert_eq!(told(&service), before);
        assert_eq!(service.host_id, if take_over { host.clone() } else { own });
        let again = recover(&other, &RecoverOrder { from: Some(uuid::Uuid::nil().to_string()), ..order })
            .unwrap_err();
        assert!(again.to_string().contains("versions of its own"), "{again}");
    }
}

#[test]
fn a_vault_that_goes_away_ends_it_and_leaves_nothing_that_is_a_part_only() {
    let world = world();
    let before = told(&open(&world));
    remove_copies(&world);
    fs::remove_file(catalogue(&world)).unwrap();
    let mut broken = 0;
    for at in 0.. {
        let faults = Faults::on(&world.store).that_fails(move |call| {
            let is_hit = call.number >= at && !matches!(call.what, "put" | "delete");
            is_hit.then(|| ModuleError::new(ErrorKind::Unreachable, "the line is cut"))
        });
        let faults = Arc::new(faults);
        let around = world.around(world.state.path(), faults.clone(), std::process::id());
        let ended =
            Service::recover(&around, &RecoverOrder::default(), &mut |_| Ok(b"x".into()), &Quiet::default());
        if !faults.was_hit() {
            assert!(ended.unwrap().troubles.is_empty());
            break;
        }
        assert_eq!(ended.unwrap_err().kind, ErrorKind::Unreachable, "{at}");
        assert!(!catalogue(&world).exists(), "{at}");
        broken += 1;
    }
    assert!(broken > 40, "{broken}");
    assert_eq!(told(&open(&world)), before);
}

#[test]
fn what_a_partial_snapshot_is_without_is_not_taken_for_deleted_and_the_next_whole_one_says_what_is() {
    let mut world = with_three_backups();
    let docs = world.home.path().join("docs");
    world.hour += 1;
    fs::remove_file(docs.join("11")).unwrap();
    world.now(|service| stage(service).and_then(|()| back_up(service)));
    // The last one is without it, and says that it is without something.
    let repo = crate::repo::Repository::open(world.store.clone(), b"x").unwrap();
    let (id, mut last) = repo.snapshots().unwrap().pop().unwrap();
    world.store.delete(Kind::Snapshot, &id.hex()).unwrap();
    last.tags.push(super::forget::PARTIAL.into());
    repo.save(Kind::Snapshot, &last).unwrap();
    let deleted = |world: &World| {
        remove_copies(world);
        fs::remove_file(catalogue(world)).unwrap();
        let report = recover(world, &RecoverOrder::default()).unwrap();
        assert!(report.source == Source::Snapshots && report.troubles.is_empty(), "{report:?}");
        let docs = docs.canonicalize().unwrap();
        [10, 11].map(|name| open(world).history_of(&docs.join(name.to_string())).unwrap().deleted)
    };
    let (before, _) = world.copy();
    assert_eq!(deleted(&world), [false, false]);
    // The one after it is whole: what is in neither of the two is gone.
    fs::copy(before.path().join("vault/catalogue.db"), catalogue(&world)).unwrap();
    world.put(10..11, 9);
    world.now(|service| stage(service).and_then(|()| back_up(service)));
    assert_eq!(deleted(&world), [false, true]);
}

/// Has the catalogue lie in a directory of another file system, if there is one; returns that.
fn on_another_disk(world: &World) -> Option<tempfile::TempDir> {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    let here = device(world.state.path());
    let places = ["/dev/shm", "/var/tmp", "/tmp"].map(Path::new);
    let Some(other) = places.into_iter().find(|place| place.is_dir() && device(place) != here) else {
        eprintln!("skipped: there is no second file system here");
        return None;
    };
    let data = tempfile::tempdir_in(other).unwrap();
    let (config, place) = (world.home.path().join("bt.toml"), data.path().join("catalogue.db"));
    let text = fs::read_to_string(&config).unwrap();
    let named = format!("[vault]\ndata_dir = \"{}\"\n", data.path().display());
    fs::write(&config, text.replacen("[vault]\n", &named, 1)).unwrap();
    fs::copy(catalogue(world), place).unwrap();
    fs::remove_file(catalogue(world)).unwrap();
    Some(data)
}

#[test]
fn a_catalogue_on_another_file_system_than_the_state_comes_back_there() {
    let mut world = world();
    let before = told(&open(&world));
    let Some(data) = on_another_disk(&world) else { return };
    let place = data.path().join("catalogue.db");
    assert_eq!(told(&open(&world)), before);
    fs::copy(&place, data.path().join("old")).unwrap();
    world.hour += 1;
    world.now(back_up);
    let known = told(&open(&world));
    fs::rename(data.path().join("old"), &place).unwrap();
    let report = recover(&world, &RecoverOrder::default()).unwrap();
    assert_eq!(told(&open(&world)), known);
    let aside = report.put_aside.unwrap();
    assert!(aside.starts_with(data.path()) && aside.exists(), "{aside:?}");
    fs::remove_file(&place).unwrap();
    let report = recover(&world, &RecoverOrder::default()).unwrap();
    assert_eq!((report.put_aside, told(&open(&world))), (None, known));
    let mut names: Vec<_> = data.path().read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert_eq!(names, [place, aside], "nothing else is left");
    assert!(!catalogue(&world).exists());
}

#[test]
fn the_queue_of_a_catalogue_that_a_cut_off_recovery_put_aside_goes_on_waiting() {
    let world = world();
    let before = told(&open(&world));
    // An older one had the old catalogue renamed and could not put the new one there.
    let aside = |hour: i64| {
        let at = jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(hour);
        let name = format!("catalogue.db.{}", at.strftime("%Y%m%dT%H%M%SZ"));
        world.state.path().join("vault").join(name)
    };
    fs::rename(catalogue(&world), aside(world.hour)).unwrap();
    let report = recover(&world, &RecoverOrder::default()).unwrap();
    assert_eq!((report.staged, report.put_aside), (2, None));
    assert_eq!(told(&open(&world)), before);
    // One that commands came after says nothing of what waits now.
    fs::remove_file(catalogue(&world)).unwrap();
    fs::rename(aside(world.hour), aside(1)).unwrap();
    let report = recover(&world, &RecoverOrder::default()).unwrap();
    assert_eq!(report.staged, 0, "{report:?}");
    assert!(aside(1).exists());
}

#[test]
fn a_directory_that_was_forgotten_after_the_last_snapshot_stays_forgotten() {
    let mut world = with_three_backups();
    let other = world.home.path().canonicalize().unwrap().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("f"), "x").unwrap();
    world.hour += 1;
    world.now(|service| {
        service.track(&other)?;
        service.add(&other, true, &Quiet::default())?;
        back_up(service)
    });
    // The newest versions go with it, so that the last snapshot looks newer than all that is known.
    world.hour += 1;
    world.now(|service| service.forget_directory(&other));
    world.hour += 1;
    world.now(prune);
    let before = told(&open(&world));
    fs::remove_file(catalogue(&world)).unwrap();
    let report = recover(&world, &RecoverOrder::default()).unwrap();
    assert!(!report.directories.contains(&other), "{report:?}");
    assert_eq!(told(&open(&world)), before);
    // Without the copy nobody knows that it was.
    remove_copies(&world);
    fs::remove_file(catalogue(&world)).unwrap();
    assert!(recover(&world, &RecoverOrder::default()).unwrap().directories.contains(&other));
}
