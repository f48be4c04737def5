//! Backups that look where something changed alone, told by a model of what trees of file systems tell.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use pc_switcher_contract::{BytePath, SnapshotKind, SnapshotSet};

use super::world::World;
use super::*;
use crate::engine::Quiet;
use crate::format::NodeKind;

fn docs(world: &World) -> PathBuf {
    world.home.path().join("docs").canonicalize().unwrap()
}

fn set(hour: i64) -> SnapshotSet {
    let stamp = jiff::Timestamp::from_second(hour * 3600).unwrap();
    SnapshotSet {
        hostname: "laptop".parse().unwrap(),
        kind: SnapshotKind::Session,
        stamp: pc_switcher_contract::UtcStamp::new(stamp),
        session: "abc12345".parse().unwrap(),
        consistent: true,
        members: Vec::new(),
    }
}

/// Begins a backup an hour later, told what changed since the base.
fn begun(world: &mut World, told: &[Told]) -> Service {
    world.hour += 1;
    let mut service = world.service(world.state.path(), world.store.clone(), std::process::id());
    let docs = docs(world);
    let base = service.bases(std::slice::from_ref(&docs)).unwrap().pop();
    let own = BytePath::from(docs.as_path());
    let place = Place { set: set(world.hour), parts: vec![(own.clone(), own)] };
    let told = base.map(|(_, base)| (base.set.id(), told.to_vec()));
    service.look_where(vec![Reading { directory: docs, place, told }]);
    service
}

/// Backs up, and says of how many directories all was looked at.
fn backed_up(world: &mut World, told: &[Told]) -> (TrackedReport, u64) {
    let mut service = begun(world, told);
    let before = service.bases(&[docs(world)]).unwrap();
    let moved = service.move_bases().unwrap();
    // What is known is known of what is read from now on; where all is looked at, it is not before that was stored.
    let is_moved = moved.iter().any(|base| *base == set(world.hour).id());
    let report = service.back_up_tracked(&[], None, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap();
    let alone = report.changes_alone;
    assert!(is_moved || alone == 0, "{before:?}");
    (report, 1 - alone)
}

fn names(path: PathBuf, names: &[&str]) -> Told {
    let names = names.iter().map(std::ffi::OsString::from).collect();
    Told { path, whole: false, names, silent: Vec::new() }
}

#[test]
fn what_nobody_names_is_not_looked_at_and_within_a_week_it_is_all_the_same_and_said() {
    let mut world = World::new();
    world.put(0..10, 1);
    let (first, all) = backed_up(&mut world, &[]);
    assert_eq!((first.backup.versions, all), (10, 1), "there was no base");
    world.put(1..3, 2);
    let named = [names(docs(&world), &["1", "gone"])];
    let (second, all) = backed_up(&mut world, &named);
    assert_eq!((second.backup.versions, all), (1, 0));
    world.hour += 7 * 24;
    let (proof, all) = backed_up(&mut world, &[]);
    assert_eq!((proof.backup.versions, all), (1, 1), "{proof:?}");
    let missed = &proof.added.troubles;
    assert!(missed.len() == 1 && missed[0].path.ends_with("docs/2"), "{missed:?}");
    assert!(missed[0].why.contains("did not name it"), "{missed:?}");
    let (next, all) = backed_up(&mut world, &[]);
    assert!(next.added.troubles.is_empty() && next.backup.is_clean() && all == 0, "{next:?}");
    world.hour += 7 * 24;
    let (sound, all) = backed_up(&mut world, &[]);
    assert!(sound.added.troubles.is_empty() && all == 1, "{sound:?}");
}

#[test]
fn content_that_was_written_under_unchanged_times_is_read_where_it_is_named() {
    let mut world = World::new();
    world.put(0..3, 1);
    backed_up(&mut world, &[]);
    let silent = Told { silent: vec!["1".into()], ..names(docs(&world), &["1"]) };
    let (report, _) = backed_up(&mut world, &[silent]);
    assert_eq!((report.added.staged, report.backup.versions), (1, 0), "it is read, and is what it was");
}

#[test]
fn a_base_that_moved_knows_what_the_one_before_it_knew_though_the_backup_died() {
    let mut world = World::new();
    world.put(0..6, 1);
    let odd = docs(&world).join(std::ffi::OsStr::from_bytes(b"n\xff\n"));
    fs::write(&odd, "odd").unwrap();
    backed_up(&mut world, &[]);
    let first = set(world.hour).id();
    // What changed before the first backup that dies, before the second one, and before the one that does not.
    let steps: [&[&[u8]]; 3] = [&[b"1", b"n\xff\n"], &[b"2"], &[b"3"]];
    for (round, step) in steps.iter().enumerate() {
        let paths: Vec<PathBuf> =
            step.iter().map(|name| docs(&world).join(std::ffi::OsStr::from_bytes(name))).collect();
        paths.iter().for_each(|path| fs::write(path, format!("changed in {round}")).unwrap());
        let names = paths.iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        let silent = Told { path: docs(&world), whole: false, names, silent: Vec::new() };
        if round < 2 {
            let mut service = begun(&mut world, &[silent]);
            assert_eq!(service.move_bases().unwrap(), [set(world.hour).id()]);
            continue;
        }
        let (report, all) = backed_up(&mut world, &[silent]);
        assert_eq!((report.backup.versions, report.added.staged, all), (4, 4, 0), "{report:?}");
    }
    assert_ne!(set(world.hour).id(), first);
    // Of what is stored nothing is looked at again.
    let (report, all) = backed_up(&mut world, &[]);
    assert_eq!((report.backup.versions, report.added.staged, report.added.unchanged, all), (0, 0, 0, 0));
    // A base moves only where it is known where to look.
    world.hour += 1;
    fs::create_dir(docs(&world).join(".pc-switcher")).unwrap();
    let before = begun(&mut world, &[]).bases(&[docs(&world)]).unwrap();
    let moved = begun(&mut world, &[]).move_bases().unwrap();
    assert_eq!(moved, [before[0].1.set.id()]);
}

/// Has something done to a machine after its base, and proves that all is looked at then.
#[track_caller]
fn looks_at_all(change: impl FnOnce(&mut World)) {
    let mut world = World::new();
    world.put(0..3, 1);
    backed_up(&mut world, &[]);
    assert_eq!(backed_up(&mut world, &[]).1, 0);
    world.put(2..3, 7);
    change(&mut world);
    let (report, all) = backed_up(&mut world, &[]);
    assert!(all == 1 && report.backup.versions > 0, "{report:?}");
}

fn edit_settings(world: &World, from: &str, to: &str) {
    let path = world.home.path().join("bt.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from));
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn where_anything_is_not_certain_all_is_looked_at() {
    looks_at_all(|world| edit_settings(world, "ignore = []", "ignore = [\"*.o\"]"));
    looks_at_all(|world| fs::create_dir(docs(world).join(".pc-switcher")).unwrap());
    looks_at_all(|world| {
        let content = fs::read(docs(world).join("0")).unwrap();
        world.now(|service| service.catalogue.forget_location("local", crate::format::Id::of(&content)));
    });
    looks_at_all(|world| {
        world.now(|service| {
            let directory = service.catalogue.directories()?.remove(0);
            service.catalogue.set_base(&directory, Some("{}"))
        });
    });
    looks_at_all(|world| {
        world.now(|service| {
            let directory = service.catalogue.directories()?.remove(0);
            let file = service.catalogue.find_file_by_path(&directory, Path::new("0"))?.unwrap();
            service.catalogue.set_mounts(&[(file.id, true)])
        });
    });
}

#[test]
fn what_waits_and_what_failed_is_looked_at_whoever_names_it() {
    let mut world = World::new();
    world.put(0..3, 1);
    let odd = docs(&world).join("odd");
    fs::create_dir(&odd).unwrap();
    backed_up(&mut world, &[]);
    // What was staged is older than what is there: without a look the older one would be the current version.
    fs::write(docs(&world).join("0"), "staged").unwrap();
    world.now(|service| {
        let docs = service.tracked_directories()?.remove(0).path;
        service.add(&Path::new(&docs).join("0"), true, &Quiet::default()).map(drop)
    });
    fs::write(docs(&world).join("0"), "newest").unwrap();
    let (report, all) = backed_up(&mut world, &[]);
    assert_eq!((report.backup.versions, all), (2, 0), "{report:?}");
    world.now(|service| {
        let log = service.history_of(&docs(&world).join("0"))?;
        assert_eq!(log.versions[0].checksum, crate::format::Id::of(b"newest").hex());
        Ok(())
    });
}

#[test]
fn what_another_backup_stored_and_is_gone_again_is_noted_though_no_tree_tells() {
    let mut world = World::new();
    world.put(0..3, 1);
    backed_up(&mut world, &[]);
    world.put(7..8, 1);
    world.now(|service| super::world::stage(service).and_then(|()| super::world::back_up(service)));
    fs::remove_file(docs(&world).join("7")).unwrap();
    let named = [names(docs(&world), &[])];
    let (report, all) = backed_up(&mut world, &named);
    assert_eq!((report.backup.deleted, all), (1, 0), "{report:?}");
}

#[test]
fn what_was_away_when_another_backup_ran_and_came_back_as_it_was_is_backed_up_again() {
    let mut world = World::new();
    world.put(0..3, 1);
    backed_up(&mut world, &[]);
    let (here, away) = (docs(&world).join("1"), docs(&world).join("away"));
    fs::rename(&here, &away).unwrap();
    world.now(super::world::back_up);
    fs::rename(&away, &here).unwrap();
    // To the file system nothing but times of the directory changed since the base.
    let named = [names(docs(&world), &[])];
    let (report, all) = backed_up(&mut world, &named);
    assert!(all == 1 && report.backup.is_clean(), "{report:?}");
    world.now(|service| {
        let directory = service.catalogue.directories()?.remove(0);
        assert!(!service.catalogue.current_file(&directory, Path::new("1"))?.unwrap().deleted);
        Ok(())
    });
    assert_eq!(backed_up(&mut world, &[]).1, 0, "and there is a base again");
}

#[test]
fn content_that_was_written_under_unchanged_times_is_read_in_the_week_s_look_at_all_and_after_a_failure() {
    let mut world = World::new();
    world.put(0..3, 1);
    backed_up(&mut world, &[]);
    world.hour += 7 * 24;
    let silent = Told { silent: vec!["1".into()], ..names(docs(&world), &["1"]) };
    let (report, all) = backed_up(&mut world, &[silent]);
    assert_eq!((report.added.staged, all), (1, 1), "{report:?}");
    let directory = |service: &Service| service.catalogue.directories().unwrap().remove(0);
    world.now(|service| {
        let directory = directory(service);
        let text = service.catalogue.base(&directory)?.unwrap();
        let mut recorded: serde_json::Value = serde_json::from_str(&text).unwrap();
        recorded["again"] = serde_json::to_value([BytePath::from(docs(&world).join("2").as_path())]).unwrap();
        service.catalogue.set_base(&directory, Some(&recorded.to_string()))
    });
    let (report, all) = backed_up(&mut world, &[]);
    assert_eq!((report.added.staged, all), (1, 0), "{report:?}");
}

/// What trees know of a path.
type Seen = BTreeMap<PathBuf, (u64, i64, i64, u32, bool)>;

fn seen(root: &Path) -> Seen {
    let (mut all, mut todo) = (Seen::new(), vec![root.to_owned()]);
    while let Some(path) = todo.pop() {
        let facts: Metadata = fs::symlink_metadata(&path).unwrap();
        if facts.is_dir() {
            todo.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        }
        let what = (facts.ino(), facts.ctime(), facts.ctime_nsec(), facts.mode(), facts.is_dir());
        all.insert(path, what);
    }
    all
}

/// Tells what differs between two states, as the trees of a file system do.
fn told(before: &Seen, now: &Seen) -> Vec<Told> {
    let mut all = Vec::new();
    for (path, facts) in now.iter().filter(|(_, facts)| facts.4) {
        if before.get(path).is_none_or(|old| old.0 != facts.0 || !old.4) {
            all.push(Told { whole: true, ..names(path.clone(), &[]) });
            continue;
        }
        let in_it = |seen: &Seen| {
            let inside = seen.iter().filter(|(one, _)| one.parent() == Some(path));
            inside.map(|(one, facts)| (one.clone(), *facts)).collect::<BTreeMap<_, _>>()
        };
        let (old, new) = (in_it(before), in_it(now));
        let differs = |one: &&PathBuf| old.get(*one) != new.get(*one);
        let mut differing: Vec<_> = old.keys().chain(new.keys()).filter(differs).collect();
        differing.dedup();
        let names: Vec<_> = differing.iter().filter_map(|one| Some(one.file_name()?.to_owned())).collect();
        if !names.is_empty() || before.get(path) != Some(facts) {
            all.push(Told { path: path.clone(), whole: false, names, silent: Vec::new() });
        }
    }
    all
}

/// One step of somebody's work.
fn work(root: &Path, dice: &mut impl FnMut(u64) -> u64) {
    let paths: Vec<PathBuf> = seen(root).into_keys().filter(|path| path != root).collect();
    let pick = |dice: &mut dyn FnMut(u64) -> u64| {
        (!paths.is_empty()).then(|| paths[dice(paths.len() as u64) as usize].clone())
    };
    let one = pick(dice).unwrap_or_else(|| root.join("first"));
    let holder = if one.is_dir() { one.clone() } else { one.parent().unwrap().to_owned() };
    let fresh = holder.join(format!("n{}", dice(40)));
    // It may become the name of what is ignored.
    let text = format!("n{}\n", dice(1 << 40)).repeat(1 + dice(30) as usize);
    // Whatever cannot be done is not done.
    match dice(9) {
        0 | 1 => drop(fs::write(&fresh, text)),
        2 => drop(fs::create_dir(&fresh).and_then(|()| fs::write(fresh.join("inside"), text))),
        3 if one.is_file() => drop(fs::write(&one, text)),
        4 => drop(fs::rename(&one, &fresh)),
        5 if one.is_dir() => drop(fs::remove_dir_all(&one)),
        5 => drop(fs::remove_file(&one)),
        6 => {
            let mode = if one.is_dir() { 0o700 + dice(2) as u32 } else { 0o600 + dice(5) as u32 };
            fs::set_permissions(&one, PermissionsExt::from_mode(mode)).ok();
        }
        7 => drop(symlink("nowhere", &fresh)),
        _ => drop(fs::write(holder.join(".btignore"), format!("n{}\n", dice(40)))),
    }
}

/// Returns what the catalogue says is there.
fn known(world: &World) -> BTreeMap<PathBuf, NodeKind> {
    let service = world.service(world.state.path(), world.store.clone(), std::process::id());
    let directory = service.catalogue.directories().unwrap().remove(0);
    let files = service.catalogue.current_files(&directory, Path::new(""), None, 1 << 20).unwrap();
    let there = files.into_iter().filter(|file| !file.deleted);
    there.map(|file| (file.name, file.version.facts.kind)).collect()
}

#[test]
fn a_backup_of_what_is_named_is_one_of_all_whatever_was_done() {
    let mut seed = 20_260_101_u64;
    let mut dice = move |most: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % most.max(1)
    };
    let mut world = World::new();
    let root = docs(&world);
    backed_up(&mut world, &[]);
    let mut alone = 0;
    for round in 0..120 {
        let before = seen(&root);
        for _ in 0..=dice(6) {
            work(&root, &mut dice);
        }
        if dice(4) == 0 {
            // Somebody else stores what is there now, and some of it goes again.
            world.hour += 1;
            world.now(|service| super::world::stage(service).and_then(|()| super::world::back_up(service)));
            for _ in 0..=dice(6) {
                work(&root, &mut dice);
            }
        }
        let mut named = told(&before, &seen(&root));
        if dice(5) == 0 {
            // A backup dies after its base moved.
            begun(&mut world, &named).move_bases().unwrap();
            let before = seen(&root);
            for _ in 0..=dice(6) {
                work(&root, &mut dice);
            }
            named = told(&before, &seen(&root));
        }
        let (report, all) = backed_up(&mut world, &named);
        alone += 1 - all;
        assert!(report.added.troubles.is_empty() && report.backup.troubles.is_empty(), "{round}: {report:?}");
        let by_names = known(&world);
        // All of it is looked at by a machine that knows no base.
        world.now(|service| {
            let directory = service.catalogue.directories()?.remove(0);
            let base = service.catalogue.base(&directory)?;
            let before = service.catalogue.staged_count()?.0;
            let found = service.preview(&[], &Quiet::default())?;
            assert!(found.files.is_empty() && before == 0, "{round}: {found:?} after {named:?}");
            service.catalogue.set_base(&directory, base.as_deref())
        });
        // Ignored now, but not gone: what was stored before somebody said so stays known.
        let there = seen(&root);
        assert!(by_names.keys().all(|name| there.contains_key(&root.join(name))), "{round}");
        for (name, kind) in &by_names {
            let facts = fs::symlink_metadata(root.join(name)).unwrap();
            assert_eq!(crate::engine::kind_of(&facts), *kind, "{round}: {name:?}");
        }
    }
    assert!(alone > 100, "{alone}");
}
