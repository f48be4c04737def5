//! A catalogue that went back: what a command makes of it by itself, and what it leaves to a person.

use std::fs;
use std::sync::{Arc, Mutex};

use jiff::ToSpan;

use super::super::successor::stored_at;
use super::super::world::{World, back_up, stage, with_three_backups};
use super::super::{BackupReport, OpenStore, PruneOrder, RepairWish, Surroundings, TrackedReport, forget};
use super::*;
use crate::catalogue::FileFacts;
use crate::engine::Quiet;
use crate::store::faults::Faults;
use crate::store::{Kind, Store};

/// A machine of which the state is put back to what it was, by a rollback that took a restart.
struct Back {
    world: World,
    /// What was known before.
    known: Vec<String>,
}

fn put_back(world: &World, old: &Path) {
    let place = world.state.path().join("vault");
    for entry in place.read_dir().unwrap().map(|entry| entry.unwrap()) {
        match entry.file_type().unwrap().is_dir() {
            true => fs::remove_dir_all(entry.path()).unwrap(),
            false => fs::remove_file(entry.path()).unwrap(),
        }
    }
    fs::create_dir(place.join("stage")).unwrap();
    for directory in ["vault", "vault/stage"] {
        for entry in old.join(directory).read_dir().unwrap().map(|entry| entry.unwrap()) {
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), world.state.path().join(directory).join(entry.file_name())).unwrap();
            }
        }
    }
}

impl Back {
    /// The machine goes back to a time before its last two backups.
    fn new() -> Self {
        Self::after(|_| {})
    }

    /// As it, with something that was done before the time that it goes back to.
    fn after(before: impl FnOnce(&mut World)) -> Self {
        let mut world = with_three_backups();
        before(&mut world);
        let (old, _) = world.copy();
        for seed in [7, 8] {
            world.put(0..4, seed);
            fs::write(world.home.path().join(format!("docs/{}", seed + 5)), "since").unwrap();
            world.now(|service| stage(service).and_then(|()| back_up(service)));
        }
        Self::to(world, old.path())
    }

    /// The machine goes back to a state.
    fn to(mut world: World, old: &Path) -> Self {
        let known = told(&open(&world));
        put_back(&world, old);
        assert_ne!(told(&open(&world)), known);
        world.hour += 1;
        Self { world, known }
    }

    fn around(&self) -> Surroundings {
        around(&self.world)
    }

    fn open(&self) -> Service {
        Service::open(self.around()).unwrap()
    }

    /// What it knows is what was known before, and what it knew then is put aside.
    fn assert_mended(&self) {
        let service = self.open();
        assert_eq!(told(&service), self.known);
        assert_eq!(put_aside(&service), 1);
    }
}

/// A system that was started a minute ago.
fn around(world: &World) -> Surroundings {
    let mut around = world.around(world.state.path(), world.store.clone(), std::process::id());
    around.who.origin.boot_id = "the boot after that".into();
    around.who.booted_at = Some((around.clock)() - 1.minute());
    around
}

/// Returns what the catalogue says of each file: its versions and whether it is gone.
fn told(service: &Service) -> Vec<String> {
    let docs = service.catalogue.directories().unwrap().remove(0).path;
    let line = |name: u64| {
        let Ok(history) = service.history_of(&docs.join(name.to_string())) else { return "nothing".into() };
        let versions = history.versions.iter().map(|version| {
            let facts = FileFacts { born_at: None, accessed_at: 0, ..version.facts.clone() };
            format!("{} {} {} {facts:?}", version.checksum, version.current, version.created_at)
        });
        format!("{} {:?}", history.deleted, versions.collect::<Vec<_>>())
    };
    (0..14).map(line).collect()
}

fn open(world: &World) -> Service {
    world.service(world.state.path(), world.store.clone(), std::process::id())
}

fn word() -> impl FnMut(Ask) -> Result<Vec<u8>> {
    |_| Ok(b"x".into())
}

fn backed_up(around: Surroundings) -> Result<(BackupReport, Service)> {
    let mut service = Service::open(around).unwrap();
    let report = service.backup(None, &mut word(), &Quiet::default())?;
    Ok((report, service))
}

/// Proves that a backup refuses, leaves all as it is and says why.
fn refuses(around: Surroundings, why: &str) {
    let (before, waiting) = {
        let service = Service::open(around.clone()).unwrap();
        (told(&service), service.catalogue.staged_count().unwrap())
    };
    let error = backed_up(around.clone()).map(drop).unwrap_err();
    let said = format!("{error:?}");
    assert!(
        error.kind == ErrorKind::Invalid && said.contains("older than the vault") && said.contains(why),
        "{said}"
    );
    assert!(said.contains("`bt recover`") && said.contains("not brought up to date by itself"), "{said}");
    let service = Service::open(around).unwrap();
    assert_eq!((told(&service), service.catalogue.staged_count().unwrap()), (before, waiting));
    assert_eq!(put_aside(&service), 0);
    let base = service.places().base();
    let names = base.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with(".pc-switcher")).count(), 0);
}

/// Returns how many catalogues were put aside.
fn put_aside(service: &Service) -> usize {
    let base = service.places().base();
    let all = base.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    all.filter(|name| name.starts_with("catalogue.db.1970")).count()
}

#[test]
fn a_backup_after_a_rollback_brings_the_catalogue_up_to_date_and_says_so() {
    let back = Back::new();
    let (report, service) = backed_up(back.around()).unwrap();
    assert!(report.is_clean(), "{report:?}");
    let said = &report.warnings[0];
    assert!(
        said.contains("was older than the vault `local`") && said.contains("is up to date again"),
        "{said}"
    );
    assert_eq!(told(&service), back.known);
    let lines = service.catalogue.operations(2).unwrap();
    assert_eq!((&*lines[0].operation, &*lines[1].operation), ("backup", "recover"));
    assert!(lines[1].status == "success" && lines[1].details.starts_with("by itself"), "{lines:?}");
    drop(service);
    back.assert_mended();
    let (report, service) = backed_up(back.around()).unwrap();
    assert!(report.is_clean() && report.warnings.is_empty(), "{report:?}");
    drop(service);
    back.assert_mended();
}

#[test]
fn a_prune_a_repair_and_a_backup_of_all_that_is_tracked_do_so_as_well_and_dry_runs_do_not() {
    let back = Back::new();
    let mut service = back.open();
    let dry = PruneOrder { dry_run: true, ..PruneOrder::default() };
    assert!(service.prune(&dry, &mut word(), &Quiet::default()).is_err());
    let wish = RepairWish { dry_run: true, ..RepairWish::default() };
    assert!(service.repair(&wish, &mut word(), &Quiet::default()).is_err());
    assert_eq!(put_aside(&service), 0);
    let report = service.prune(&PruneOrder::default(), &mut word(), &Quiet::default()).unwrap();
    assert!(report.warnings[0].contains("is up to date again") && !report.incomplete, "{report:?}");
    drop(service);
    back.assert_mended();

    let back = Back::new();
    let all = back.open().repair(&RepairWish::default(), &mut word(), &Quiet::default()).unwrap();
    assert!(all[0].warnings[0].contains("is up to date again"), "{all:?}");
    back.assert_mended();

    // What lies there now is what was backed up last: nothing is a new version.
    let back = Back::new();
    let done = back.open().back_up_tracked(&[], None, &mut word(), &Quiet::default());
    let report: TrackedReport = done.unwrap();
    assert!(report.backup.warnings[0].contains("is up to date again"), "{report:?}");
    assert_eq!((report.backup.versions, report.backup.deleted), (0, 0), "{report:?}");
    back.assert_mended();
}

#[test]
fn what_was_tracked_and_staged_since_the_rollback_is_there_afterwards() {
    let back = Back::new();
    let new = back.world.home.path().join("new");
    fs::create_dir(&new).unwrap();
    fs::write(new.join("letter"), "written since").unwrap();
    let mut service = back.open();
    service.track(&new).unwrap();
    service.add(&new, true, &Quiet::default()).unwrap();
    fs::write(back.world.home.path().join("docs/9"), "changed since").unwrap();
    stage(&mut service).unwrap();
    // What is on the disk and in the vault as it is waits here as well, and not afterwards.
    assert!(service.catalogue.staged_count().unwrap().0 > 6);
    drop(service);
    fs::write(new.join("letter"), "written after it was staged").unwrap();
    let (report, service) = backed_up(back.around()).unwrap();
    assert!(report.warnings[0].contains("is up to date again") && report.warnings.len() == 1, "{report:?}");
    assert_eq!(report.versions, 2, "the letter and what was changed: {report:?}");
    let new = new.canonicalize().unwrap();
    assert!(service.catalogue.find_directory_by_path(&new).unwrap().is_some(), "it is tracked");
    let history = service.history_of(&new.join("letter")).unwrap();
    let sizes: Vec<u64> = history.versions.iter().map(|version| version.facts.size).collect();
    assert_eq!(
        sizes,
        ["written since".len() as u64],
        "what was staged is stored, whatever became of the file"
    );
    let docs = back.world.home.path().canonicalize().unwrap().join("docs");
    let changed = service.history_of(&docs.join("9")).unwrap();
    let current = changed.versions.iter().find(|version| version.current).unwrap();
    assert_eq!(current.facts.size, "changed since".len() as u64);
    let names: Vec<String> =
        service.catalogue.operations(9).unwrap().into_iter().map(|one| one.operation).collect();
    assert_eq!(names[..6], ["backup", "recover", "add", "add", "dir init", "backup"]);
}

#[test]
fn what_waits_and_would_not_wait_as_it_is_leaves_it_to_a_person() {
    let docs = |back: &Back| back.world.home.path().canonicalize().unwrap().join("docs");
    // Its copy is gone.
    let back = Back::new();
    fs::write(docs(&back).join("9"), "changed since").unwrap();
    stage(&mut back.open()).unwrap();
    let content = crate::format::Id::of(b"changed since").hex();
    let staged = back.world.state.path().join("vault/stage").join(content);
    fs::remove_file(&staged).unwrap();
    refuses(back.around(), "its copy is not in the stage");
    fs::write(&staged, "changed").unwrap();
    refuses(back.around(), "its copy is not in the stage");
    fs::write(&staged, "changed since").unwrap();
    backed_up(back.around()).unwrap();
    // The vault knows another version of it that came in between.
    let back = Back::new();
    fs::write(docs(&back).join("2"), "changed since").unwrap();
    stage(&mut back.open()).unwrap();
    refuses(back.around(), "was backed up, or found gone, after what this catalogue knows");
    // Its directory was forgotten in between.
    let mut world = with_three_backups();
    let other = world.home.path().canonicalize().unwrap().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("f"), "waits").unwrap();
    world.now(|service| {
        service.track(&other)?;
        service.add(&other, true, &Quiet::default()).map(drop)
    });
    let (old, _) = world.copy();
    world.put(0..4, 7);
    world.now(|service| {
        service.forget_directory(&other)?;
        stage(service).and_then(|()| back_up(service))
    });
    let back = Back::to(world, old.path());
    refuses(back.around(), "the newest copy does not track it any more");
}

#[test]
fn what_waited_before_already_and_was_stored_in_between_does_not_wait_again() {
    let back = Back::after(|world| {
        world.put(0..4, 5);
        world.now(stage);
    });
    let (report, _) = backed_up(back.around()).unwrap();
    assert!(report.versions == 0 && report.items == 0 && report.is_clean(), "{report:?}");
    back.assert_mended();
}

#[test]
fn of_a_file_that_changed_and_changed_back_both_versions_wait_in_their_order() {
    let back = Back::new();
    let path = back.world.home.path().canonicalize().unwrap().join("docs/9");
    let mut service = back.open();
    let directory = service.catalogue.directories().unwrap().remove(0);
    let known = service.catalogue.current_file(&directory, Path::new("9")).unwrap().unwrap().version;
    let content = fs::read(&path).unwrap();
    for content in [b"changed since".to_vec(), content] {
        fs::write(&path, content).unwrap();
        service.add(&path, true, &Quiet::default()).unwrap();
    }
    // As it was, to the last time of its inode, which nobody can set.
    let last = service.catalogue.staged_after(0, 9).unwrap().pop().unwrap();
    service.catalogue.remove_staged(&[last.seq]).unwrap();
    service.catalogue.stage_for_backup(&directory, Path::new("9"), &known.facts, last.content_id).unwrap();
    drop(service);
    let (report, service) = backed_up(back.around()).unwrap();
    assert!(report.is_clean() && report.versions == 2, "{report:?}");
    let current = service.catalogue.current_file(&directory, Path::new("9")).unwrap().unwrap().version;
    assert_eq!((current.content_id, current.number), (known.content_id, known.number + 2));
}

#[test]
fn what_the_vault_knows_to_be_forgotten_stays_forgotten_and_what_was_forgotten_since_is_named() {
    for is_wanted_again in [false, true] {
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
        let (old, _) = world.copy();
        world.hour += 1;
        world.now(|service| service.forget_directory(&other));
        world.put(0..2, 5);
        world.now(|service| stage(service).and_then(|()| back_up(service)));
        let back = Back::to(world, old.path());
        let is_tracked = || back.open().catalogue.find_directory_by_path(&other).unwrap().is_some();
        assert!(is_tracked(), "it went back with the catalogue");
        if is_wanted_again {
            // Its versions went with it there, and are here.
            back.open().track(&other).unwrap();
            refuses(back.around(), "which is tracked here since then, and not in the newest copy");
            assert!(is_tracked());
        } else {
            backed_up(back.around()).unwrap();
            assert!(!is_tracked());
        }
    }

    let back = Back::new();
    let docs = back.world.home.path().canonicalize().unwrap().join("docs");
    let mut service = back.open();
    service.forget_directory(&docs).unwrap();
    let error = service.backup(None, &mut word(), &Quiet::default()).unwrap_err();
    assert!(format!("{error:?}").contains(&format!("`{}` was forgotten here since then", docs.display())));
    assert!(service.catalogue.directories().unwrap().is_empty() && put_aside(&service) == 0);
}

#[test]
fn what_could_not_be_added_since_the_rollback_is_missing_in_the_next_snapshot_as_well() {
    for is_missed in [true, false] {
        let mut back = Back::new();
        let docs = back.world.home.path().canonicalize().unwrap().join("docs");
        let mut service = back.open();
        let text = docs.display().to_string();
        let now = (back.around().clock)();
        let id = service.catalogue.begin_operation("add", &text, now).unwrap();
        service.catalogue.end_operation(id, !is_missed, "0 staged, 13 unchanged, 1 failed", now).unwrap();
        drop(service);
        backed_up(back.around()).unwrap();
        back.world.put(9..10, 3);
        let mut service = back.open();
        service.add(&docs.join("9"), true, &Quiet::default()).unwrap();
        service.backup(None, &mut word(), &Quiet::default()).unwrap();
        let repo = Repository::open(back.world.store.clone(), b"x").unwrap();
        let (_, newest) = repo.snapshots().unwrap().pop().unwrap();
        assert_eq!(forget::is_partial(&newest), is_missed);
    }
}

#[test]
fn what_may_be_another_machine_or_no_rollback_is_left_to_a_person() {
    let back = Back::new();
    let with = |change: fn(&mut Surroundings)| {
        let mut around = back.around();
        change(&mut around);
        around
    };
    refuses(with(|it| it.who.hostname = "desk".into()), "the machine `laptop` stored the newest copy");
    refuses(with(|it| it.who.origin.machine_id = "another".into()), "two machines must not share an id");
    refuses(with(|it| it.who.origin.machine_id = String::new()), "this system has no id");
    refuses(with(|it| it.who.uid = 1000), "the user 0 stored the newest copy");
    refuses(with(|it| it.who.origin.pid_namespace = "another".into()), "in another container");
    refuses(with(|it| it.who.origin.boot_id = "boot".into()), "since this system started");
    // A copy of a virtual machine has its name and its id, and runs beside it.
    refuses(with(|it| it.who.booted_at = Some(Timestamp::UNIX_EPOCH)), "stored while this system ran");
    refuses(with(|it| it.who.booted_at = None), "stored while this system ran");
    assert!(stored_at(None, &back.around().who).unwrap_err().contains("older program"));
    backed_up(back.around()).unwrap();
    back.assert_mended();
}

#[test]
fn a_catalogue_that_did_more_than_to_add_since_is_left_to_a_person() {
    for (is_killed, why) in
        [(false, "`backup` ran here since then"), (true, "that the newest copy does not know of")]
    {
        let mut world = with_three_backups();
        let (old, fork) = world.copy();
        for seed in [7, 8, 9] {
            world.put(0..4, seed);
            world.now(|service| stage(service).and_then(|()| back_up(service)));
        }
        let mut back = Back::to(world, old.path());
        // It goes on in a vault that was put back with it, and finds the other one then.
        let store = std::mem::replace(&mut back.world.store, fork);
        back.world.put(0..4, 10);
        back.world.now(|service| stage(service).and_then(|()| back_up(service)));
        back.world.store = store;
        back.world.hour += 1;
        if is_killed {
            open(&back.world).catalogue.as_if_killed().unwrap();
        }
        refuses(back.around(), why);
    }
    // Other commands.
    let back = Back::new();
    open(&back.world).prepare_vaults(None, &mut word()).unwrap();
    refuses(back.around(), "`vault init` ran here since then");
}

#[test]
fn whatever_moment_of_a_backup_it_goes_back_to_it_knows_all_of_that_one_afterwards() {
    for (kind, is_first) in [(Kind::Pack, true), (Kind::Snapshot, false)] {
        let mut world = with_three_backups();
        world.put(0..12, 7);
        world.now(stage);
        world.hour += 1;
        let seen: Arc<Mutex<Option<tempfile::TempDir>>> = Arc::default();
        let (state, kept) = (world.state.path().to_owned(), seen.clone());
        let faults = Faults::on(&world.store).that_fails(move |call| {
            let mut kept = kept.lock().unwrap();
            if call.what == "put" && call.kind == kind && !(is_first && kept.is_some()) {
                let copy = tempfile::tempdir().unwrap();
                for directory in ["vault", "vault/stage"] {
                    fs::create_dir_all(copy.path().join(directory)).unwrap();
                    for entry in state.join(directory).read_dir().unwrap().map(|entry| entry.unwrap()) {
                        if entry.file_type().unwrap().is_file() {
                            fs::copy(entry.path(), copy.path().join(directory).join(entry.file_name()))
                                .unwrap();
                        }
                    }
                }
                *kept = Some(copy);
            }
            None
        });
        back_up(&mut world.service(world.state.path(), Arc::new(faults), std::process::id())).unwrap();
        let old = seen.lock().unwrap().take().unwrap();
        let known = told(&open(&world));
        put_back(&world, old.path());
        world.hour += 1;
        let last = open(&world).catalogue.operations(1).unwrap().remove(0);
        assert_eq!((&*last.operation, &*last.status), ("backup", "running"));
        let (report, service) = backed_up(around(&world)).unwrap();
        assert!(report.warnings[0].contains("is up to date again") && report.is_clean(), "{report:?}");
        assert_eq!((told(&service), report.versions), (known, 0));
    }
}

#[test]
fn a_vault_that_goes_away_meanwhile_leaves_the_catalogue_as_it_was() {
    let back = Back::new();
    let before = told(&back.open());
    let mut broken = 0;
    for at in 0.. {
        let faults = Faults::on(&back.world.store).that_fails(move |call| {
            let is_hit = call.number >= at && !matches!(call.what, "put" | "delete");
            is_hit.then(|| ModuleError::new(ErrorKind::Unreachable, "the line is cut"))
        });
        let faults: Arc<dyn Store> = Arc::new(faults);
        let stores: OpenStore = Arc::new(move |_| Ok(faults.clone()));
        let ended = backed_up(Surroundings { stores, ..back.around() });
        let service = back.open();
        if put_aside(&service) > 0 {
            break;
        }
        let kind = ended.map(drop).unwrap_err().kind;
        assert_eq!(kind, ErrorKind::Unreachable, "{at}");
        assert_eq!(told(&service), before, "{at}");
        broken += 1;
    }
    assert!(broken > 5, "{broken}");
    assert_eq!(told(&back.open()), back.known);
}

#[test]
fn a_copy_that_cannot_be_read_and_a_snapshot_that_is_damaged_or_newer_are_left_to_a_person() {
    let back = Back::new();
    let store = &back.world.store;
    let copies = store.list(Kind::Meta).unwrap();
    let number = |name: &str| name.rsplit_once("/db.").and_then(|(_, number)| number.parse::<u64>().ok());
    let newest = copies.iter().max_by_key(|(name, _)| number(name)).unwrap().0.clone();
    let bytes = store.get(Kind::Meta, &newest).unwrap().unwrap();
    store.delete(Kind::Meta, &newest).unwrap();
    refuses(back.around(), "came after the newest copy");
    store.put(Kind::Meta, &newest, b"torn").unwrap();
    refuses(back.around(), "cannot be read");
    store.delete(Kind::Meta, &newest).unwrap();
    store.put(Kind::Meta, &newest, &bytes).unwrap();
    let snapshot = store.list(Kind::Snapshot).unwrap().remove(0).0;
    let whole = store.get(Kind::Snapshot, &snapshot).unwrap().unwrap();
    store.delete(Kind::Snapshot, &snapshot).unwrap();
    store.put(Kind::Snapshot, &snapshot, b"torn").unwrap();
    refuses(back.around(), "bt repair");
    store.delete(Kind::Snapshot, &snapshot).unwrap();
    store.put(Kind::Snapshot, &snapshot, &whole).unwrap();
    backed_up(back.around()).unwrap();
    back.assert_mended();
}

#[test]
fn while_another_program_has_the_catalogue_open_nothing_takes_its_place() {
    let back = Back::new();
    let reading = back.open();
    reading.catalogue.count_versions().unwrap();
    let error = backed_up(back.around()).map(drop).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy, "{error}");
    assert_eq!(put_aside(&reading), 0);
    drop(reading);
    backed_up(back.around()).unwrap();
    back.assert_mended();
}

#[test]
fn a_sync_does_not_refuse_what_its_backup_mends_judges_as_that_does_and_writes_nothing() {
    let back = Back::new();
    let picture = || {
        let base = back.world.state.path().join("vault");
        let mut all: Vec<_> = base.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        all.sort();
        (all, fs::read(base.join("catalogue.db")).unwrap())
    };
    fs::write(back.world.home.path().join("docs/9"), "waits").unwrap();
    stage(&mut back.open()).unwrap();
    let before = picture();
    let proven = |around: Surroundings| {
        let service = Service::look(around).unwrap();
        service.prove_vaults(None, &mut word()).unwrap().vaults.remove(0)
    };
    let good = proven(back.around());
    assert!(good.problem.is_none(), "{good:?}");
    assert!(good.note.unwrap().contains("brings it up to date first"));
    let mut around = back.around();
    around.who.hostname = "desk".into();
    let said = format!("{:?}", proven(around).problem.unwrap());
    assert!(said.contains("older than the vault") && said.contains("must not share an id"), "{said}");
    let content = crate::format::Id::of(b"waits").hex();
    let staged = back.world.state.path().join("vault/stage").join(content);
    fs::rename(&staged, back.world.home.path().join("kept")).unwrap();
    let said = format!("{:?}", proven(back.around()).problem.unwrap());
    assert!(said.contains("its copy is not in the stage"), "{said}");
    fs::rename(back.world.home.path().join("kept"), &staged).unwrap();
    assert!(picture() == before);
}

#[test]
fn a_sync_knows_what_is_tracked_once_the_catalogue_is_up_to_date() {
    let mut world = with_three_backups();
    let (old, _) = world.copy();
    let other = world.home.path().canonicalize().unwrap().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("f"), "x").unwrap();
    world.hour += 1;
    world.now(|service| {
        service.track(&other)?;
        service.add(&other, true, &Quiet::default())?;
        back_up(service)
    });
    put_back(&world, old.path());
    world.hour += 1;
    let only = [other];
    let service = Service::look(around(&world)).unwrap();
    let looked = service.prove_vaults(None, &mut word()).unwrap();
    service.prove_tracked(&only, &looked).unwrap();
    assert!(service.tracked_paths(&only).is_err());
    let odd = [world.home.path().join("nowhere")];
    assert!(service.prove_tracked(&odd, &looked).is_err());
    drop(service);
    let mut service = Service::open(around(&world)).unwrap();
    service.back_up_tracked(&only, None, &mut word(), &Quiet::default()).unwrap();
}

#[path = "mend_vaults_tests.rs"]
mod several;
