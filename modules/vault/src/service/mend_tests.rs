//! A catalogue that went back: what a command makes of it by itself, and what it leaves to a person.

use std::fs;
use std::sync::Arc;

use super::super::world::{World, back_up, stage, with_three_backups};
use super::super::{BackupReport, PruneOrder, RepairWish, Surroundings, TrackedReport};
use super::*;
use crate::catalogue::FileFacts;
use crate::engine::Quiet;
use crate::store::faults::Faults;
use crate::store::{Kind, Store};

/// A machine of which the catalogue and the stage are put back to what they were.
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
        let mut world = with_three_backups();
        let (old, _) = world.copy();
        for seed in [7, 8] {
            world.put(0..4, seed);
            fs::write(world.home.path().join(format!("docs/{}", seed + 5)), "since").unwrap();
            world.now(|service| stage(service).and_then(|()| back_up(service)));
        }
        let known = told(&open(&world));
        put_back(&world, old.path());
        assert_ne!(told(&open(&world)), known);
        world.hour += 1;
        Self { world, known }
    }

    fn around(&self) -> Surroundings {
        self.world.around(self.world.state.path(), self.world.store.clone(), std::process::id())
    }
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

fn backed_up(around: Surroundings) -> Result<(BackupReport, Service)> {
    let mut service = Service::open(around).unwrap();
    let report = service.backup(None, &mut |_| Ok(b"x".into()), &Quiet::default())?;
    Ok((report, service))
}

/// Proves that a backup refuses, leaves all as it is and says why.
fn refuses(around: Surroundings, why: &str) {
    let before = told(&Service::open(around.clone()).unwrap());
    let error = backed_up(around.clone()).map(drop).unwrap_err();
    let said = format!("{error:?}");
    assert!(
        error.kind == ErrorKind::Invalid && said.contains("older than the vault") && said.contains(why),
        "{said}"
    );
    assert!(said.contains("`bt recover`"), "{said}");
    let service = Service::open(around).unwrap();
    assert_eq!(told(&service), before);
    assert_eq!(put_aside(&service), 0);
}

/// Returns how many catalogues were put aside.
fn put_aside(service: &Service) -> usize {
    let base = service.places().base();
    let all = base.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    all.filter(|name| name.starts_with("catalogue.db.2") || name.starts_with("catalogue.db.1")).count()
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
    assert_eq!(put_aside(&service), 1);
    let lines = service.catalogue.operations(2).unwrap();
    assert_eq!((&*lines[0].operation, &*lines[1].operation), ("backup", "recover"));
    assert!(lines[1].status == "success" && lines[1].details.starts_with("by itself"), "{lines:?}");
    drop(service);
    let (report, service) = backed_up(back.around()).unwrap();
    assert!(report.is_clean() && report.warnings.is_empty(), "{report:?}");
    assert_eq!((told(&service), put_aside(&service)), (back.known, 1));
}

#[test]
fn a_prune_a_repair_and_a_backup_of_all_that_is_tracked_do_so_as_well_and_dry_runs_do_not() {
    let word = || |_| Ok(b"x".to_vec());
    let back = Back::new();
    let mut service = open(&back.world);
    let dry = PruneOrder { dry_run: true, ..PruneOrder::default() };
    assert!(service.prune(&dry, &mut word(), &Quiet::default()).is_err());
    let wish = RepairWish { dry_run: true, ..RepairWish::default() };
    assert!(service.repair(&wish, &mut word(), &Quiet::default()).is_err());
    assert_eq!(put_aside(&service), 0);
    let report = service.prune(&PruneOrder::default(), &mut word(), &Quiet::default()).unwrap();
    assert!(report.warnings[0].contains("is up to date again") && !report.incomplete, "{report:?}");
    assert_eq!(told(&service), back.known);

    let back = Back::new();
    let mut service = open(&back.world);
    let all = service.repair(&RepairWish::default(), &mut word(), &Quiet::default()).unwrap();
    assert!(all[0].warnings[0].contains("is up to date again"), "{all:?}");
    assert_eq!(told(&service), back.known);

    // What lies there now is what was backed up last: nothing is a new version.
    let back = Back::new();
    let mut service = open(&back.world);
    let report: TrackedReport = service.back_up_tracked(&[], None, &mut word(), &Quiet::default()).unwrap();
    assert!(report.backup.warnings[0].contains("is up to date again"), "{report:?}");
    assert_eq!((report.backup.versions, report.backup.deleted), (0, 0), "{report:?}");
    assert_eq!(told(&service), back.known);
}

#[test]
fn what_was_tracked_and_staged_since_the_rollback_is_there_afterwards() {
    let back = Back::new();
    let new = back.world.home.path().join("new");
    fs::create_dir(&new).unwrap();
    fs::write(new.join("letter"), "written since").unwrap();
    let mut service = open(&back.world);
    service.track(&new).unwrap();
    service.add(&new, true, &Quiet::default()).unwrap();
    fs::write(back.world.home.path().join("docs/3"), "changed since").unwrap();
    stage(&mut service).unwrap();
    let staged = service.catalogue.staged_count().unwrap().0;
    assert!(staged >= 2, "{staged}");
    drop(service);
    fs::write(new.join("letter"), "written after it was staged").unwrap();
    let (report, service) = backed_up(back.around()).unwrap();
    assert!(report.warnings[0].contains("is up to date again") && report.warnings.len() == 1, "{report:?}");
    assert!(service.find(&new), "it is tracked");
    let history = service.history_of(&new.canonicalize().unwrap().join("letter")).unwrap();
    let sizes: Vec<u64> = history.versions.iter().map(|version| version.facts.size).collect();
    assert_eq!(
        sizes,
        ["written since".len() as u64],
        "what was staged is stored, whatever became of the file"
    );
    let docs = back.world.home.path().canonicalize().unwrap().join("docs");
    let changed = service.history_of(&docs.join("3")).unwrap();
    let current = changed.versions.iter().find(|version| version.current).unwrap();
    assert_eq!(current.facts.size, "changed since".len() as u64);
}

#[test]
fn what_the_vault_knows_to_be_forgotten_stays_forgotten_and_what_was_forgotten_since_is_named() {
    let mut world = with_three_backups();
    let other = world.home.path().join("other");
    fs::create_dir(&other).unwrap();
    world.now(|service| service.track(&other).map(drop));
    let (old, _) = world.copy();
    world.hour += 1;
    world.now(|service| service.forget_directory(&other.canonicalize().unwrap()));
    world.put(0..2, 5);
    world.now(|service| stage(service).and_then(|()| back_up(service)));
    put_back(&world, old.path());
    world.hour += 1;
    let docs = world.home.path().canonicalize().unwrap().join("docs");
    world.now(|service| {
        assert!(service.find(&other), "it went back with the catalogue");
        service.forget_directory(&docs)
    });
    let around = world.around(world.state.path(), world.store.clone(), std::process::id());
    let (report, service) = backed_up(around).unwrap();
    assert!(!service.find(&other) && service.find(&docs));
    let said = report.warnings.join("\n");
    assert!(said.contains("is tracked again") && said.contains("bt dir forget"), "{said}");
}

#[test]
fn what_may_be_another_machine_is_left_to_a_person() {
    let back = Back::new();
    let mut around = back.around();
    around.who.hostname = "desk".into();
    refuses(around, "the machine `laptop` stored the newest copy");
    let mut around = back.around();
    around.who.origin.machine_id = "another".into();
    refuses(around, "two machines must not share an id");
    // A copy of a virtual machine has its name and its id, and runs beside it.
    let mut around = back.around();
    around.who.origin.boot_id = "another boot".into();
    refuses(around.clone(), "stored while this system ran");
    around.who.booted_at = Some(jiff::Timestamp::UNIX_EPOCH);
    refuses(around.clone(), "stored while this system ran");
    // This machine, started anew since.
    around.who.booted_at = Some((around.clock)());
    let (_, service) = backed_up(around).unwrap();
    assert_eq!(told(&service), back.known);
}

#[test]
fn a_catalogue_with_versions_that_the_vault_does_not_know_is_left_to_a_person() {
    let mut world = with_three_backups();
    let (old, fork) = world.copy();
    world.put(0..4, 7);
    world.now(|service| stage(service).and_then(|()| back_up(service)));
    world.put(0..4, 8);
    world.now(|service| stage(service).and_then(|()| back_up(service)));
    put_back(&world, old.path());
    // It goes on in a vault that was put back with it, and finds the other one then.
    let store = std::mem::replace(&mut world.store, fork);
    world.put(0..4, 9);
    world.now(|service| stage(service).and_then(|()| back_up(service)));
    world.store = store;
    world.hour += 1;
    let around = world.around(world.state.path(), world.store.clone(), std::process::id());
    refuses(around, "does not go on from this catalogue");
}

#[test]
fn a_vault_that_goes_away_meanwhile_leaves_the_catalogue_as_it_was() {
    let back = Back::new();
    let before = told(&open(&back.world));
    let mut broken = 0;
    for at in 0.. {
        let faults = Faults::on(&back.world.store).that_fails(move |call| {
            let is_hit = call.number >= at && !matches!(call.what, "put" | "delete");
            is_hit.then(|| ModuleError::new(ErrorKind::Unreachable, "the line is cut"))
        });
        let faults = Arc::new(faults);
        let around = back.world.around(back.world.state.path(), faults.clone(), std::process::id());
        let ended = backed_up(around);
        let service = open(&back.world);
        if put_aside(&service) > 0 {
            break;
        }
        assert_eq!(ended.map(drop).unwrap_err().kind, ErrorKind::Unreachable, "{at}");
        assert_eq!(told(&service), before, "{at}");
        broken += 1;
    }
    assert!(broken > 20, "{broken}");
    assert_eq!(told(&open(&back.world)), back.known);
}

#[test]
fn a_copy_that_cannot_be_read_and_a_snapshot_that_is_damaged_are_left_to_a_person() {
    let back = Back::new();
    let copies = back.world.store.list(Kind::Meta).unwrap();
    let number = |name: &str| name.rsplit_once("/db.").and_then(|(_, number)| number.parse::<u64>().ok());
    let newest = copies.iter().max_by_key(|(name, _)| number(name)).unwrap().0.clone();
    let bytes = back.world.store.get(Kind::Meta, &newest).unwrap().unwrap();
    let put = |bytes: &[u8]| {
        back.world.store.delete(Kind::Meta, &newest).unwrap();
        back.world.store.put(Kind::Meta, &newest, bytes).unwrap();
    };
    put(b"torn");
    refuses(back.around(), "the newest copy cannot be read");
    put(&bytes);
    let snapshot = back.world.store.list(Kind::Snapshot).unwrap().remove(0).0;
    let whole = back.world.store.get(Kind::Snapshot, &snapshot).unwrap().unwrap();
    back.world.store.delete(Kind::Snapshot, &snapshot).unwrap();
    back.world.store.put(Kind::Snapshot, &snapshot, b"torn").unwrap();
    refuses(back.around(), "bt repair");
    back.world.store.delete(Kind::Snapshot, &snapshot).unwrap();
    back.world.store.put(Kind::Snapshot, &snapshot, &whole).unwrap();
    assert_eq!(told(&backed_up(back.around()).unwrap().1), back.known);
}

#[test]
fn a_sync_does_not_refuse_what_its_backup_mends_and_looks_without_writing() {
    let back = Back::new();
    let picture = || {
        let base = back.world.state.path().join("vault");
        let mut all: Vec<_> = base.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        all.sort();
        (all, fs::read(base.join("catalogue.db")).unwrap())
    };
    let before = picture();
    let service = Service::look(back.around()).unwrap();
    let proven = service.prove_vaults(None, &mut |_| Ok(b"x".into())).unwrap().remove(0);
    assert!(proven.problem.is_none(), "{proven:?}");
    assert!(proven.note.unwrap().contains("brings it up to date first"));
    assert!(picture() == before);
    let mut around = back.around();
    around.who.hostname = "desk".into();
    let service = Service::look(around).unwrap();
    let proven = service.prove_vaults(None, &mut |_| Ok(b"x".into())).unwrap().remove(0);
    let said = format!("{:?}", proven.problem.unwrap());
    assert!(said.contains("older than the vault") && said.contains("must not share an id"), "{said}");
}

impl Service {
    fn find(&self, path: &Path) -> bool {
        let path = path.canonicalize().unwrap();
        self.catalogue.find_directory_by_path(&path).unwrap().is_some()
    }
}
