//! Sets over two file systems, of which one is not there, on real ones.

use std::fs;
use std::path::PathBuf;

use pc_switcher_contract::BytePath;

use super::apart_tests::Two;
use super::*;
use crate::data::apply::Unwatched;
use crate::linux::deadman::{self, Deadman, Now};
use crate::linux::state::StateDir;
use crate::proto::{
    AdoptRequest, Armed, DeadmanOrder, DeadmanState, DeadmanWish, GoodBy, GoodMark, HealedHow, Maker,
    RestorePlace,
};

#[test]
fn a_place_below_the_disks_own_mount_that_is_not_mounted_is_away_though_its_mount_point_is_on_that_disk() {
    let Some(two) = Two::make_at("below", "top/@below-far/.snapshots") else { return };
    let (first, second) = (two.take("aaaaaaaa"), two.take("bbbbbbbb"));
    two.detach();
    assert!(two.place.is_dir(), "the mount point is there, on that disk");
    for stored in two.list().0 {
        assert_eq!((stored.missing.len(), stored.away.len()), (0, 1), "{stored:?}");
    }
    let error = two.store().delete(&first.id(), || Ok(Vec::new())).unwrap_err();
    assert!(error.message.contains("mount it and try again"), "{error}");
    let done = two.store().delete_all(&[first.id(), second.id()], || Ok(Needs::default())).unwrap();
    assert!(done.iter().all(|(_, why)| why.as_ref().is_some_and(|why| why.contains("mount it"))), "{done:?}");
    // One that is half removed is not forgotten either.
    two.store().sidecar(&second.id()).unpublish().unwrap();
    two.take_in(&two.store(), "cccccccc", &[0, 1]).unwrap();
    assert!(two.store().sidecar(&second.id()).intent(&second.id()).is_some(), "what names it stays");
    two.attach();
    assert!(second.members[2].path.as_path().is_dir());
    two.take_in(&two.store(), "dddddddd", &[0, 1]).unwrap();
    assert!(!second.members[2].path.as_path().exists(), "it is finished now");
    two.store().delete(&first.id(), || Ok(Vec::new())).unwrap();
    assert!(!first.members[2].path.as_path().exists());
    assert_eq!((two.list().0.len(), two.left().len()), (2, 4));
}

#[test]
fn a_disk_whose_place_is_mounted_elsewhere_is_not_given_up_and_where_it_belongs_is_said() {
    let Some(mut two) = Two::make("moved") else { return };
    let set = two.take("aaaaaaaa");
    two.detach();
    let other = two.other.bind("top/@snapshots", "elsewhere");
    for allow_loss in [false, true] {
        let error = two.store().delete_but(&set.id(), allow_loss, || Ok(Vec::new())).unwrap_err();
        let wanted = format!("is mounted at `{}`, and what is recorded of it was taken at", other.display());
        assert!(error.message.contains(&wanted), "{error}");
    }
    assert_eq!(two.list().0[0].away.len(), 1);
    two.attach();
    two.store().delete(&set.id(), || Ok(Vec::new())).unwrap();
    assert_eq!(two.left(), Vec::<String>::new());
}

#[test]
fn what_is_marked_as_good_while_the_other_disk_is_away_is_pinned_as_far_as_it_is_here() {
    let Some(two) = Two::make("mark") else { return };
    let set = two.take("aaaaaaaa");
    two.detach();
    let mark = GoodMark::Set { id: set.id(), by: GoodBy::Hand, keep: 1 };
    assert_eq!(two.store().mark_good(&mark).unwrap(), Vec::<String>::new());
    assert_eq!(two.store().published(&set.id()).unwrap().pin.len(), 2);
    two.attach();
    two.store().mark_good(&GoodMark::None(None)).unwrap();
    two.store().delete(&set.id(), || Ok(Vec::new())).unwrap();
    assert_eq!(two.left(), Vec::<String>::new());
}

#[test]
fn a_disk_that_leaves_while_sets_are_removed_keeps_those_alone_that_lie_on_it() {
    let Some(two) = Two::make("fails") else { return };
    let (both, near) = (two.take("aaaaaaaa"), two.take_in(&two.store(), "bbbbbbbb", &[0]).unwrap());
    let is_away = std::cell::Cell::new(false);
    let after = |step: &'static str| {
        if step == "member" && !is_away.replace(true) {
            two.detach();
        }
    };
    let store = Store { after: &after, ..two.store() };
    let done = store.delete_all(&[both.id(), near.id()], || Ok(Needs::default())).unwrap();
    assert!(done[0].1.as_ref().is_some_and(|why| why.contains("is not mounted at")), "{done:?}");
    assert_eq!(done[1], (near.id(), None));
    assert!(!store.sidecar(&near.id()).dir().exists());
    // What is left of the other goes when its disk is there again.
    two.attach();
    two.take_in(&two.store(), "cccccccc", &[0]).unwrap();
    assert!(!both.members[2].path.as_path().exists() && !store.sidecar(&both.id()).dir().exists());
}

/// Has a sync armed that changed something after `pre` was taken.
fn arm(two: &Two, pre: &SnapshotSet, state: &StateDir) {
    fs::write(two.store().sidecar(&pre.id()).dir().join("operations"), b"").unwrap();
    let wish = DeadmanWish {
        session: pre.session.clone(),
        from: "desk".parse().unwrap(),
        limit_seconds: 600,
        pre: pre.clone(),
    };
    let armed = Armed { wish, boot_id: "another boot".into(), until_ms: None, failed: None };
    let armed = DeadmanState { armed: Some(armed), healed: Vec::new() };
    state.put(DeadmanState::KEY, Some(&serde_json::to_vec(&armed).unwrap())).unwrap();
}

fn heal(state: &StateDir) -> Result<DeadmanState, AgentError> {
    let (call, _frames) = Call::for_test(Vec::new());
    Deadman::default().run(&DeadmanOrder::Heal("nobody came".into()), state, &Unwatched, &call)
}

#[test]
fn a_sync_is_taken_back_as_a_whole_while_the_other_disk_is_away() {
    let Some(two) = Two::make("heal") else { return };
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::new(dir.path());
    let pre = two.take("aaaaaaaa");
    let near = two.main.top().join(&two.names[0]).join("file");
    fs::write(&near, "from the sync").unwrap();
    arm(&two, &pre, &state);
    two.detach();
    let found = heal(&state).unwrap();
    assert!(found.armed.is_none());
    let [healed] = &found.healed[..] else { panic!("{found:?}") };
    let HealedHow::RolledBack(names) = &healed.how else { panic!("{healed:?}") };
    assert_eq!(names.iter().map(|name| name.as_str()).collect::<Vec<_>>(), [&two.names[0], &two.names[1]]);
    assert_eq!(fs::read_to_string(&near).unwrap(), "near");
    let kept = two.store().published(&healed.kept).unwrap().set;
    assert_eq!(kept.members.len(), 2);
    assert_eq!(fs::read_to_string(kept.members[0].path.as_path().join("file")).unwrap(), "from the sync");
    two.attach();
}

#[test]
fn a_contact_right_after_a_start_leaves_a_sync_armed_of_which_a_disk_may_still_come() {
    let Some(two) = Two::make("late") else { return };
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::new(dir.path());
    let pre = two.take("aaaaaaaa");
    let file = two.main.top().join(&two.names[0]).join("file");
    fs::write(&file, "from the sync").unwrap();
    arm(&two, &pre, &state);
    two.detach();
    let meet = |since_boot_ms| {
        let now = Now { boot_id: "this one".into(), since_boot_ms };
        deadman::settle(false, &state, &Unwatched, &now).map(|()| read(&state))
    };
    let armed = meet(40_000).unwrap().armed.expect("it is armed still");
    assert!(armed.explain().contains("disks may come until 120 s after the start"), "{}", armed.explain());
    assert_eq!(fs::read_to_string(&file).unwrap(), "from the sync");
    two.attach();
    let found = meet(60_000).unwrap();
    assert!(found.armed.is_none() && found.healed.len() == 1, "{found:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "near");
}

fn read(state: &StateDir) -> DeadmanState {
    state.get(DeadmanState::KEY).unwrap().map(|bytes| DeadmanState::read(&bytes)).unwrap_or_default()
}

#[test]
fn a_sync_of_which_all_lies_on_a_disk_that_is_away_stays_and_why_is_said() {
    let Some(two) = Two::make("lone") else { return };
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::new(dir.path());
    let pre = two.take_in(&two.store(), "aaaaaaaa", &[2]).unwrap();
    arm(&two, &pre, &state);
    two.detach();
    let error = heal(&state).unwrap_err();
    assert!(error.message.contains("is not mounted at") && error.message.contains("nothing else"), "{error}");
    assert_eq!(two.list().0.len(), 1, "no set is left of the try");
    two.attach();
}

#[test]
fn what_a_disk_that_is_away_may_hold_is_not_said_to_be_lacking() {
    let Some(two) = Two::make("lack") else { return };
    let set = two.take("aaaaaaaa");
    let bring = |path: PathBuf| {
        let request = RestoreRequest {
            snapshot_dir: two.dir().as_path().into(),
            id: set.id(),
            paths: vec![path.as_path().into()],
            place: RestorePlace::Into(two.main.top().into()),
            stamp: "20251120T080000Z".parse().unwrap(),
            tag: "fedcba98".parse().unwrap(),
            uid: 0,
        };
        let (call, _frames) = Call::for_test(Vec::new());
        restore(&request, &call)
    };
    let lost = two.main.top().join(&two.names[0]).join("lost");
    assert!(matches!(bring(lost.clone()), Ok(RestoreReply::Missing { .. })));
    two.detach();
    let error = bring(two.far().join("file")).unwrap_err();
    assert!(error.message.contains("is not mounted at"), "{error}");
    // Where its subvolume is not mounted either, its paths lie on another one, which lacks them.
    let error = bring(lost).unwrap_err();
    assert!(error.message.contains("may lie in") && error.message.contains("is not mounted at"), "{error}");
    let found = bring(two.main.top().join(&two.names[0]).join("file"));
    assert!(matches!(found, Ok(RestoreReply::Done { .. })), "what is at hand comes back: {found:?}");
    two.attach();
}

#[test]
fn a_set_that_comes_in_from_another_directory_has_what_lies_on_the_other_disk() {
    let Some(two) = Two::make("comes") else { return };
    let (whole, lacking) = (two.take("aaaaaaaa"), two.take("bbbbbbbb"));
    let alone = two.take_in(&two.store(), "cccccccc", &[2]).unwrap();
    two.main.create("@new");
    let new = two.main.top().join("@new");
    let store = Store { root: new.clone(), ..Store::new(&KernelBtrfs, &new) };
    KernelBtrfs.destroy(&two.place, lacking.members[2].name.to_string().as_ref()).unwrap();
    let adopt = || {
        let request = AdoptRequest {
            snapshot_dir: new.as_path().into(),
            from: Maker::Orphan,
            dirs: vec![two.dir().as_path().into()],
        };
        store.adopt(&Mounts::read().unwrap(), &"laptop".parse().unwrap(), &request).unwrap()
    };
    let adopted = adopt();
    assert_eq!(adopted.sets, [whole.id(), lacking.id()]);
    let left: Vec<&BytePath> = adopted.left.iter().map(|(path, _)| path).collect();
    assert_eq!(left, [&lacking.members[2].path, &alone.members[0].path], "{adopted:?}");
    let here = store.published(&whole.id()).unwrap().set;
    check_set(&here).unwrap();
    assert_eq!((here.members.len(), here.dir()), (3, Some(new.as_path().into())));
    assert_eq!((&here.members[2].path, here.consistent), (&whole.members[2].path, whole.consistent));
    assert_eq!(here.members[2].apart.as_ref().unwrap().dir, new.as_path().into());
    assert_eq!(here.transaction(), whole.transaction());
    assert_eq!(store.published(&lacking.id()).unwrap().set.members.len(), 3, "its record says what it lacks");
    let mut missing = Vec::new();
    let strays = store.list(&|_| Vec::new(), &mut |stored| {
        missing.push(stored.missing.len());
        Ok(())
    });
    assert_eq!((missing, strays.unwrap()), (vec![0, 1], Strays::default()));
    let again = adopt();
    assert_eq!((again.known, again.left.len()), (2, 1), "{again:?}");
    // Where it came from, what lies on the other disk is another set's now.
    two.store().delete(&whole.id(), || Ok(Vec::new())).unwrap();
    assert!(!whole.members[0].path.as_path().exists() && whole.members[2].path.as_path().exists());
    check_set(&here).unwrap();
    for id in [whole.id(), lacking.id()] {
        store.pin_as(&id, &super::tests::OFF).unwrap();
        store.delete(&id, || Ok(Vec::new())).unwrap();
    }
    assert!(!whole.members[2].path.as_path().exists(), "it went with the set that named it last");
}

#[test]
fn a_set_on_a_disk_that_never_comes_back_goes_when_its_loss_is_allowed_and_leaves_what_lies_there() {
    let Some(two) = Two::make("never") else { return };
    let (set, alone) = (two.take("aaaaaaaa"), two.take_in(&two.store(), "bbbbbbbb", &[2]).unwrap());
    let kept = two.take("cccccccc");
    two.detach();
    let give_up = |set: &SnapshotSet, allow_loss| {
        let set = SetRequest { snapshot_dir: two.dir().as_path().into(), id: set.id() };
        delete_set(&DeleteRequest { set, allow_loss }, || Ok(Needs::default()))
    };
    let error = give_up(&set, false).unwrap_err();
    assert!(error.message.contains("mount it and try again") && error.message.contains("--allow-loss"));
    assert_eq!(give_up(&set, true).unwrap(), [set.members[2].clone()]);
    assert_eq!(give_up(&alone, true).unwrap(), alone.members);
    let sets = two.list().0;
    assert_eq!(sets.iter().map(|stored| stored.set.id()).collect::<Vec<_>>(), [kept.id()]);
    assert!(!set.members[0].path.as_path().exists() && !set.members[1].path.as_path().exists());
    for gone in [&set, &alone] {
        assert!(!two.store().sidecar(&gone.id()).dir().exists(), "nothing waits for that disk");
    }
    // Given up and then died before anything went: the disk is back, and all of it goes.
    let mut given_up = kept.clone();
    given_up.members.pop();
    let sidecar = two.store().sidecar(&kept.id());
    sidecar.put_intent(&super::sidecar::Intent::of(&given_up)).unwrap();
    two.attach();
    assert_eq!(give_up(&kept, true).unwrap(), []);
    assert!(!kept.members[2].path.as_path().exists());
    assert!(set.members[2].path.as_path().exists() && alone.members[0].path.as_path().exists());
    assert_eq!((two.list().0.len(), two.left().len()), (0, 2));
}
