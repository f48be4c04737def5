//! Pins that come with the mark of a good set: over the model with deaths, and over a real image with the tools of others.

use std::fs;
use std::process::Command;

use super::pins_tests::fill;
use super::store_tests::{dies, whole};
use super::tests::{Bench, HOME, OFF, request};
use super::*;
use crate::linux::btrfs::image::Image;
use crate::linux::btrfs::model::Fault;
use crate::proto::{GoodBy, PinOrder};

fn mark(id: &SetId, by: GoodBy) -> GoodMark {
    GoodMark::Set { id: id.clone(), by, keep: 1 }
}

/// The sets that are pinned hard, each with whether that came with its mark.
fn pinned(bench: &Bench) -> Vec<(SetId, bool)> {
    let sets = bench.list().0.into_iter();
    sets.filter_map(|stored| Some((stored.set.id(), stored.hard?.is_for_mark))).collect()
}

fn ids<const N: usize>(bench: &Bench) -> [SetId; N] {
    std::array::from_fn(|n| bench.take(&format!("{n:08x}")).unwrap().id())
}

#[test]
fn what_a_person_marked_and_the_newest_good_set_are_pinned_hard_as_long_as_they_are() {
    let bench = Bench::new();
    let [a, b, c, d] = ids(&bench);
    let store = bench.store();
    let none: Vec<String> = Vec::new();
    assert_eq!(store.mark_good(&mark(&a, GoodBy::Hand)).unwrap(), none);
    assert_eq!(pinned(&bench), [(a.clone(), true)]);
    let stored = bench.list().0.remove(0);
    assert!(!stored.pinned && !stored.is_pinned_hard(), "nobody asked for it");
    store.mark_good(&mark(&b, GoodBy::Sync)).unwrap();
    store.mark_good(&mark(&c, GoodBy::Boot)).unwrap();
    assert_eq!(pinned(&bench), [(a.clone(), true), (c.clone(), true)], "of those by themselves the newest");
    store.mark_good(&GoodMark::None(Some(c.clone()))).unwrap();
    assert_eq!(pinned(&bench), [(a.clone(), true), (b.clone(), true)], "the newest that is left");
    bench.delete(&c).unwrap();
    store.mark_good(&mark(&d, GoodBy::Hand)).unwrap();
    assert_eq!(pinned(&bench), [(d.clone(), true)], "one of a person at most, which is the newest");
    assert_eq!(whole(&bench), 3);
    let refused = bench.delete(&d).unwrap_err().message;
    assert!(refused.contains("last known good one, marked by hand") && refused.contains("good --none"));
    store.mark_good(&GoodMark::None(None)).unwrap();
    assert_eq!(pinned(&bench), []);
    for id in [a, b, d] {
        bench.delete(&id).unwrap();
    }
    assert!(fs::read_dir(bench.dir().join(".pc-switcher/pins")).unwrap().next().is_none());
}

#[test]
fn the_pin_of_the_one_before_stays_as_long_as_the_newest_has_none() {
    let bench = Bench::new();
    let [before, newest] = ids(&bench);
    let store = bench.store();
    store.mark_good(&mark(&before, GoodBy::Sync)).unwrap();
    for _ in 0..2 {
        bench.model.fail(Fault::Immutable(1, libc::EPERM));
        store.mark_good(&mark(&newest, GoodBy::Boot)).unwrap();
        assert_eq!(pinned(&bench), [(before.clone(), true)], "there is one to go back to");
    }
    store.mark_good(&mark(&newest, GoodBy::Boot)).unwrap();
    assert_eq!(pinned(&bench), [(newest, true)]);
}

#[test]
fn a_pin_that_somebody_asked_for_is_none_of_the_mark_and_the_other_way_round() {
    let bench = Bench::new();
    let [a, b] = ids(&bench);
    let store = bench.store();
    store.pin_as(&a, &PinOrder::Hard).unwrap();
    store.mark_good(&mark(&a, GoodBy::Hand)).unwrap();
    assert_eq!(pinned(&bench), [(a.clone(), false)]);
    store.pin_as(&a, &OFF).unwrap();
    assert_eq!(pinned(&bench), [(a.clone(), true)], "its mark holds it still");
    let refused = store.pin_as(&a, &OFF).unwrap_err().message;
    assert!(refused.contains("since it is marked as good, by hand"), "{refused}");
    store.pin_as(&a, &PinOrder::Hard).unwrap();
    store.mark_good(&mark(&b, GoodBy::Hand)).unwrap();
    assert_eq!(pinned(&bench), [(a.clone(), false), (b.clone(), true)]);
    store.pin_as(&a, &OFF).unwrap();
    store.pin_as(&b, &PinOrder::Soft).unwrap();
    store.mark_good(&GoodMark::None(None)).unwrap();
    let left = bench.list().0;
    assert_eq!(left.iter().map(|stored| stored.pinned).collect::<Vec<_>>(), [false, true]);
    assert_eq!(pinned(&bench), []);
}

#[test]
fn where_no_pin_can_be_made_the_mark_is_given_and_why_is_said() {
    for fault in [Fault::Immutable(1, libc::EPERM), Fault::Snapshot(1, libc::ENOSPC)] {
        let bench = Bench::new();
        let [id] = ids(&bench);
        bench.model.fail(fault);
        let notes = bench.store().mark_good(&mark(&id, GoodBy::Hand)).unwrap();
        assert!(notes.len() == 1 && notes[0].contains("marked as good and not pinned hard"), "{notes:?}");
        assert_eq!((bench.list().0[0].words.good, pinned(&bench)), (true, Vec::new()));
        // It comes with the next mark at the latest.
        bench.store().mark_good(&mark(&id, GoodBy::Hand)).unwrap();
        assert_eq!(pinned(&bench), [(id, true)]);
    }
}

#[test]
fn a_death_at_any_step_leaves_a_good_set_that_is_pinned_and_no_half_pin() {
    let mut deaths = 0;
    loop {
        let bench = Bench::new();
        let [a, b] = ids(&bench);
        bench.store().mark_good(&mark(&a, GoodBy::Hand)).unwrap();
        let died = dies(&bench, deaths, |store| {
            store.mark_good(&mark(&b, GoodBy::Hand)).unwrap();
        });
        let good: Vec<SetId> =
            bench.list().0.iter().filter(|stored| stored.words.good).map(|stored| stored.set.id()).collect();
        assert!(!good.is_empty(), "step {deaths}");
        let held: Vec<SetId> = pinned(&bench).into_iter().map(|(id, _)| id).collect();
        assert!(good.iter().any(|id| held.contains(id)), "step {deaths}: {good:?} and {held:?}");
        bench.take("cccccccc").unwrap();
        assert_eq!(whole(&bench), 3, "step {deaths}");
        bench.store().mark_good(&mark(&b, GoodBy::Hand)).unwrap();
        assert_eq!(pinned(&bench), [(b.clone(), true)], "step {deaths}");
        bench.store().mark_good(&GoodMark::None(None)).unwrap();
        assert!(fs::read_dir(bench.dir().join(".pc-switcher/pins")).unwrap().next().is_none());
        if !died {
            break;
        }
        deaths += 1;
    }
    assert!(deaths > 10, "{deaths}");
}

#[test]
fn a_mark_that_goes_while_somebody_reads_what_only_its_pin_has_lets_it_go_afterwards() {
    let bench = Bench::new();
    let [a, b] = ids(&bench);
    let store = bench.store();
    store.mark_good(&mark(&a, GoodBy::Sync)).unwrap();
    let reader = Reference::take(&store.sidecar(&a)).unwrap().unwrap();
    let member = bench.list().0[0].set.members[1].path.clone();
    bench.model.destroy(&bench.dir(), std::ffi::OsStr::new(&member.as_path().file_name().unwrap())).unwrap();
    store.mark_good(&mark(&b, GoodBy::Sync)).unwrap();
    assert_eq!(pinned(&bench), [(a.clone(), true), (b.clone(), true)]);
    assert!(bench.delete(&a).is_err());
    drop(reader);
    bench.take("cccccccc").unwrap();
    assert_eq!(pinned(&bench), [(b, true)]);
    bench.delete(&a).unwrap();
}

#[test]
fn what_a_person_marked_stays_by_its_pin_when_the_mark_goes_and_another_tool_took_the_rest() {
    let bench = Bench::new();
    let [a, b] = ids(&bench);
    let store = bench.store();
    store.mark_good(&mark(&a, GoodBy::Hand)).unwrap();
    let member = bench.list().0[0].set.members[1].path.clone();
    bench.model.destroy(&bench.dir(), member.as_path().file_name().unwrap()).unwrap();
    let notes = store.mark_good(&mark(&b, GoodBy::Hand)).unwrap();
    assert!(notes[0].contains("is there by its pin alone, which stays"), "{notes:?}");
    assert_eq!(pinned(&bench), [(a.clone(), false), (b, true)]);
    assert!(store.pin_as(&a, &OFF).is_err());
    store.pin_as(&a, &PinOrder::Off { allow_loss: true }).unwrap();
    bench.delete(&a).unwrap();
}

#[test]
fn what_root_removes_with_other_tools_is_still_there_to_go_back_to() {
    let Some(image) = Image::make(256) else { return };
    ["@good-home", "@good-snapshots"].iter().for_each(|name| image.create(name));
    let home = image.top().join("@good-home");
    fs::write(home.join("letter"), "dear").unwrap();
    let dir = image.top().join("@good-snapshots");
    let set = take_set(&request(&dir, "aaaaaaaa", &["@good-home"])).unwrap().0;
    let notes = mark_good(&dir, &mark(&set.id(), GoodBy::Hand)).unwrap();
    assert_eq!(notes, Vec::<String>::new());
    fs::write(home.join("letter"), "another").unwrap();
    let delete =
        |path: &Path| Command::new("btrfs").args(["subvolume", "delete"]).arg(path).output().unwrap();
    let name = set.members[0].name.to_string();
    assert!(delete(&dir.join(&name)).status.success());
    let pin = dir.join(".pc-switcher/pins").join(set.id().to_string()).join(&name);
    assert!(!delete(&pin).status.success(), "no tool removes what is in a pin");
    let readable = with_pin(&dir, &set);
    assert_eq!(readable.members[0].path.as_path(), pin);
    assert_eq!(fs::read_to_string(pin.join("letter")).unwrap(), "dear");
    let mut sets = Vec::new();
    let put = &mut |stored| {
        sets.push(stored);
        Ok(())
    };
    list_sets(&dir, Ok(Needs::default()), put).unwrap();
    assert_eq!((sets[0].missing.len(), sets[0].lost().count()), (1, 0), "it says what the pin stands in for");
    mark_good(&dir, &GoodMark::None(None)).unwrap();
    assert!(pin.exists(), "a person's stays until it is given up");
    let lose = PinRequest {
        set: SetRequest { snapshot_dir: dir.as_path().into(), id: set.id() },
        order: PinOrder::Off { allow_loss: true },
    };
    pin_set(&lose).unwrap();
    assert!(!pin.exists());
    assert_ne!(HOME, name);
}

#[test]
fn on_a_full_disk_the_mark_of_a_set_goes_and_its_pin_with_it() {
    let Some(image) = Image::make(160) else { return };
    ["@full-good", "@full-good-snapshots"].iter().for_each(|name| image.create(name));
    fs::write(image.top().join("@full-good/letter"), vec![7; 1 << 20]).unwrap();
    let dir = image.top().join("@full-good-snapshots");
    let set = take_set(&request(&dir, "aaaaaaaa", &["@full-good"])).unwrap().0;
    let store = Store::new(&KernelBtrfs, &dir);
    store.mark_good(&mark(&set.id(), GoodBy::Hand)).unwrap();
    fill(&image);
    let note = store.say(&set.id(), |meta| meta.words.note = Some("no room".into()));
    assert!(note.unwrap_err().message.contains("No space left"), "the disk is full");
    store.mark_good(&GoodMark::None(None)).unwrap();
    let names = |dir: &str| fs::read_dir(store.dir().join(".pc-switcher").join(dir)).unwrap().count();
    assert_eq!(names("pins"), 0);
    store.delete(&set.id(), || Ok(Vec::new())).unwrap();
    assert_eq!(names("sets"), 0);
}
