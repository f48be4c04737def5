//! What can be done with a vault that may only be read: one on a medium that is, one that is full, one of which somebody has no more rights.

use std::sync::Arc;

use super::world::{DEAD, World, with_three_backups};
use super::*;
use crate::engine::{Part, Quiet};
use crate::repo::Repository;
use crate::store::faults::Faults;
use crate::store::{Kind, Store};

/// Opens a machine whose vault takes nothing.
fn around(world: &World) -> Surroundings {
    let store = Faults::on(&world.store).that_fails(|call| {
        matches!(call.what, "put" | "delete").then(|| ModuleError::failed("the file system is read-only"))
    });
    world.around(world.state.path(), Arc::new(store), std::process::id())
}

fn says_it(warnings: &[String]) {
    let [only] = warnings else { panic!("{warnings:?}") };
    assert!(only.contains("no lock could be written in the vault `local`"), "{only}");
    assert!(only.contains("read-only"), "{only}");
}

#[test]
fn a_vault_that_is_only_readable_is_checked_rehearsed_and_recovered_from() {
    let world = with_three_backups();
    let mut service = Service::open(around(&world)).unwrap();
    let checked = service.check(None, Some(Part::ALL), &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap();
    assert!(checked[0].summary.problems.is_empty() && checked[0].summary.read_bytes > 0, "{checked:?}");
    says_it(&checked[0].warnings);
    let order = RehearseOrder { only: None, seed: 7, most_bytes: 1 << 30, most_files: 100, since: None };
    let report = service.rehearse(&order, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap();
    assert!(report.is_clean() && report.vaults[0].files == 12, "{report:?}");
    says_it(&report.warnings);
    drop(service);
    std::fs::remove_file(world.state.path().join("vault/catalogue.db")).unwrap();
    let report = Service::recover(
        &around(&world),
        &RecoverOrder::default(),
        &mut |_| Ok(b"x".into()),
        &Quiet::default(),
    );
    let report = report.unwrap();
    assert!(report.versions >= 24 && report.troubles.is_empty(), "{report:?}");
    says_it(&report.warnings);
    // Where one can be written it is, and nothing is said.
    let mut service = world.service(world.state.path(), world.store.clone(), std::process::id());
    let checked = service.check(None, None, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap();
    assert!(checked[0].warnings.is_empty(), "{checked:?}");
}

#[test]
fn what_a_dead_process_left_and_nobody_can_remove_hides_nobody_who_works_alone() {
    let world = with_three_backups();
    let repo = Repository::open(world.store.clone(), b"x").unwrap();
    // Names of locks are random, and so is which of the two is seen first.
    for _ in 0..8 {
        let dead = world.around(world.state.path(), world.store.clone(), DEAD);
        std::mem::forget(repo.lock(&dead.who, &dead.clock).unwrap());
        let (name, _) = world.store.list(Kind::Lock).unwrap().remove(0);
        let left = world.store.get(Kind::Lock, &name).unwrap().unwrap();
        let living = world.around(world.state.path(), world.store.clone(), std::process::id());
        let alone = repo.lock_alone(&living.who, &living.clock).unwrap();
        world.store.put(Kind::Lock, &name, &left).unwrap();
        assert_eq!(world.store.list(Kind::Lock).unwrap().len(), 2);
        let mut service = Service::open(around(&world)).unwrap();
        let busy = service.check(None, None, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap_err();
        assert_eq!(busy.kind, ErrorKind::Busy, "{busy}");
        drop(alone);
        world.store.delete(Kind::Lock, &name).unwrap();
    }
}
