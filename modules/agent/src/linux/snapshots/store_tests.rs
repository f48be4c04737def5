//! The store: what is listed, what may be removed, and what a death at any step leaves.

use std::cell::Cell;
use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};

use super::tests::{Bench, HOME, OFF};
use super::*;
use crate::linux::btrfs::model::Fault;
use crate::proto::{GoodBy, GoodMark, Need, PinOrder, Words};

#[test]
fn sets_are_found_by_what_lies_beside_them_and_the_rest_is_told_apart() {
    let bench = Bench::new();
    let set = bench.take("abc12345").unwrap();
    let orphan = "@home-postsync-20240101T000000Z-00000001";
    for name in [orphan, "by-hand"] {
        bench.model.snapshot(&bench.top.join("@"), &bench.dir(), name.as_ref()).unwrap();
    }
    let (sets, strays) = bench.list();
    assert_eq!(sets.iter().map(|stored| &stored.set).collect::<Vec<_>>(), [&set]);
    assert!(sets[0].missing.is_empty() && !sets[0].pinned && !sets[0].in_use && !sets[0].has_steps);
    assert_eq!(strays.orphans, [bench.dir().join(orphan).as_path().into()]);
    assert_eq!(strays.foreign, [bench.dir().join("by-hand").as_path().into()]);

    let meta = bench.store().sidecar(&set.id()).dir().join("meta.json");
    std::fs::write(meta, "{}").unwrap();
    let (sets, strays) = bench.list();
    assert_eq!((sets.len(), strays.damaged[0].0.clone(), strays.orphans.len()), (0, set.id(), 1));
    assert!(bench.delete(&set.id()).unwrap_err().message.contains("record"));
    assert!(bench.dir().join(HOME).exists());
}

#[test]
fn sets_are_listed_though_it_is_not_known_which_are_needed_and_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let broken = Err(AgentError::failed("a record is torn"));
    let strays = list_sets(dir.path(), broken, &mut |_| panic!("a set of nowhere")).unwrap();
    assert_eq!(strays.doubt.as_deref(), Some("a record is torn"));
}

#[test]
fn a_directory_that_is_not_there_holds_no_sets_and_is_not_made() {
    let bench = Bench::new();
    let store = Store::new(&bench.model, &bench.top.join("nowhere"));
    let strays = store.list(&|_| Vec::new(), &mut |_| panic!("a set of nowhere")).unwrap();
    assert_eq!(strays, Strays::default());
    let id = "20251115T120000Z-abc12345-presync".parse().unwrap();
    assert!(store.delete(&id, || Ok(Vec::new())).unwrap_err().message.contains("there is no set"));
    assert!(store.pin_as(&id, &PinOrder::Soft).is_err() && !bench.top.join("nowhere").exists());
}

#[test]
fn pinned_needed_and_used_sets_stay() {
    let bench = Bench::new();
    let (set, reference) = bench.take_held("abc12345").unwrap();
    let id = set.id();
    let stays = |word: &str| {
        let error = bench.delete(&id).unwrap_err();
        assert!(error.message.contains(word), "{error}");
        assert_eq!(bench.left().len(), 2);
    };
    let used = bench.list().0.remove(0);
    let pids: Vec<i32> = used.holders.iter().map(|holder| holder.pid).collect();
    assert!(used.in_use && pids == [i32::try_from(std::process::id()).unwrap()], "{used:?}");
    stays("in use");
    drop(reference);
    let free = bench.list().0.remove(0);
    assert!(!free.in_use && free.holders.is_empty());
    bench.store().pin_as(&id, &PinOrder::Soft).unwrap();
    assert!(bench.list().0[0].pinned);
    stays("unpin");
    bench.store().pin_as(&id, &OFF).unwrap();
    let error = bench.store().delete(&id, || Ok(vec![Need::Pair("desk".into())])).unwrap_err();
    assert!(error.message.contains("the next sync with desk"), "{error}");
    bench.delete(&id).unwrap();
    assert_eq!((bench.left().len(), bench.sidecars().len()), (0, 0));
    assert!(bench.delete(&id).unwrap_err().message.contains("there is no set"));
}

#[test]
fn what_is_said_of_a_set_is_there_with_it_and_older_records_say_nothing() {
    let bench = Bench::new();
    let words = Words {
        name: Some("before-upgrade".into()),
        note: None,
        tags: ["kernel".to_owned()].into(),
        until: Some("20251216T080000Z".parse().unwrap()),
        ..Words::default()
    };
    let set = bench.create("abc12345", Said { pinned: true, words: words.clone() });
    let id = set.id();
    let stored = &bench.list().0[0];
    assert_eq!((&stored.words, stored.pinned), (&words, true));
    bench.store().say(&id, |meta| meta.words.note = Some("prints".into())).unwrap();
    assert_eq!(bench.list().0[0].words, Words { note: Some("prints".into()), ..words });
    let path = bench.store().sidecar(&id).dir().join("meta.json");
    let mut meta: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    meta.as_object_mut().unwrap().remove("words");
    std::fs::write(&path, meta.to_string()).unwrap();
    assert_eq!(bench.list().0[0].words, Words::default());
}

/// Asks for a mark of which the newest one stays.
fn mark(id: &SetId, by: GoodBy) -> GoodMark {
    GoodMark::Set { id: id.clone(), by, keep: 1 }
}

fn good(bench: &Bench) -> Vec<(SetId, GoodBy)> {
    let marked = bench.list().0.into_iter().filter(|stored| stored.words.good);
    marked.map(|stored| (stored.set.id(), stored.words.good_by)).collect()
}

#[test]
fn one_set_at_most_is_marked_as_good_by_hand_and_nobody_removes_it() {
    let bench = Bench::new();
    let [first, second] = ["aaaaaaaa", "bbbbbbbb"].map(|session| bench.take(session).unwrap().id());
    bench.store().mark_good(&mark(&first, GoodBy::Hand)).unwrap();
    bench.store().mark_good(&mark(&second, GoodBy::Hand)).unwrap();
    assert_eq!(good(&bench), [(second.clone(), GoodBy::Hand)]);
    let error = bench.delete(&second).unwrap_err();
    assert!(error.message.contains("last known good one, marked by hand"), "{error}");
    let nowhere = "20250101T000000Z-cccccccc-manual".parse().unwrap();
    assert!(bench.store().mark_good(&mark(&nowhere, GoodBy::Hand)).is_err());
    assert!(bench.store().mark_good(&GoodMark::None(Some(nowhere))).is_err());
    assert_eq!(good(&bench), [(second.clone(), GoodBy::Hand)], "what fails changes nothing");
    bench.store().mark_good(&GoodMark::None(None)).unwrap();
    assert_eq!(good(&bench), []);
    bench.delete(&second).unwrap();
}

#[test]
fn an_older_mark_that_came_by_itself_falls_away_when_a_newer_one_comes_and_a_persons_stays() {
    let bench = Bench::new();
    let sessions = ["aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd"];
    let [a, b, c, d] = sessions.map(|session| bench.take(session).unwrap().id());
    let store = bench.store();
    store.mark_good(&mark(&a, GoodBy::Hand)).unwrap();
    store.mark_good(&mark(&a, GoodBy::Sync)).unwrap();
    assert_eq!(good(&bench), [(a.clone(), GoodBy::Hand)], "what somebody said stays");
    for (id, by) in [(&b, GoodBy::Sync), (&c, GoodBy::Boot), (&d, GoodBy::Sync)] {
        store.mark_good(&mark(id, by)).unwrap();
    }
    let left = [(a.clone(), GoodBy::Hand), (c.clone(), GoodBy::Boot), (d.clone(), GoodBy::Sync)];
    assert_eq!(good(&bench), left);
    bench.delete(&b).unwrap();
    store.mark_good(&GoodMark::Set { id: c.clone(), by: GoodBy::Sync, keep: 2 }).unwrap();
    assert_eq!(good(&bench).iter().filter(|(_, by)| *by == GoodBy::Sync).count(), 2);
    store.mark_good(&GoodMark::None(Some(d.clone()))).unwrap();
    assert_eq!(good(&bench), [(a, GoodBy::Hand), (c, GoodBy::Sync)]);
    bench.delete(&d).unwrap();
}

#[test]
fn a_mark_of_an_older_version_is_a_persons() {
    let words: Words = serde_json::from_str(r#"{"note": "fine", "good": true}"#).unwrap();
    assert_eq!((words.good, words.good_by), (true, GoodBy::Hand));
}

#[test]
fn what_another_process_reads_is_not_removed_and_that_process_is_named() {
    let bench = Bench::new();
    let id = bench.take("aaaaaaaa").unwrap().id();
    let lock = bench.store().sidecar(&id).lock();
    // Whatever takes a shared lock is a reader: here a tool of others.
    let mut reader = Command::new("flock")
        .arg("-s")
        .arg(&lock)
        .args(["sh", "-c", "echo held; read -r _"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 5];
    reader.stdout.take().unwrap().read_exact(&mut said).unwrap();
    let error = bench.delete(&id).unwrap_err();
    assert!(error.message.contains("is in use"), "{error}");
    let done = bench.store().delete_all(std::slice::from_ref(&id), || Ok(Needs::default())).unwrap();
    assert!(done[0].1.as_ref().is_some_and(|why| why.contains("is in use")), "{done:?}");
    let stored = bench.list().0.remove(0);
    assert!(stored.in_use);
    let pid = i32::try_from(reader.id()).unwrap();
    let holder = stored.holders.iter().find(|holder| holder.pid == pid);
    assert!(holder.is_some_and(|holder| holder.program.starts_with("flock -s")), "{:?}", stored.holders);
    drop(reader.stdin.take());
    reader.wait().unwrap();
    assert!(!bench.list().0[0].in_use);
    bench.delete(&id).unwrap();
}

/// Runs `work` over a store that dies after its step `n`; whether it did.
pub(super) fn dies(bench: &Bench, n: usize, work: impl FnOnce(&Store<'_>)) -> bool {
    let left = Cell::new(n);
    let after = |_: &'static str| {
        assert_ne!(left.get(), 0, "killed");
        left.set(left.get() - 1);
    };
    let store = Store { after: &after, ..bench.store() };
    catch_unwind(AssertUnwindSafe(|| work(&store))).is_err()
}

/// Checks that every set that is listed is whole, and returns how many there are.
pub(super) fn whole(bench: &Bench) -> usize {
    let (sets, strays) = bench.list();
    for stored in &sets {
        assert!(stored.missing.is_empty());
        stored.set.members.iter().for_each(|member| check_member(&bench.model, member).unwrap());
    }
    assert_eq!(strays, Strays::default());
    sets.len()
}

#[test]
fn a_death_at_any_step_of_taking_a_set_leaves_whole_sets_and_nothing_else_in_the_end() {
    // The second time its first try is in vain.
    for (fault, steps) in [(None, 8), (Some(Fault::Touched), 13)] {
        let mut deaths = 0;
        loop {
            let bench = Bench::new();
            bench.take("aaaaaaaa").unwrap();
            fault.into_iter().for_each(|fault| bench.model.fail(fault));
            let died = dies(&bench, deaths, |store| drop(bench.take_in(store, "bbbbbbbb").unwrap()));
            let before = whole(&bench);
            assert!(died || before == 2);
            bench.take("cccccccc").unwrap();
            assert_eq!(whole(&bench), before + 1);
            assert_eq!((bench.left().len(), bench.sidecars().len()), (2 * (before + 1), before + 1));
            if !died {
                break;
            }
            deaths += 1;
        }
        assert_eq!(
            deaths, steps,
            "intent, births, what is written, two moves, the flag, and that it is whole"
        );
    }
}

#[test]
fn a_death_at_any_step_of_removing_a_set_leaves_whole_sets_and_nothing_else_in_the_end() {
    let mut deaths = 0;
    loop {
        let bench = Bench::new();
        bench.take("aaaaaaaa").unwrap();
        let set = bench.take("bbbbbbbb").unwrap();
        let died = dies(&bench, deaths, |store| store.delete(&set.id(), || Ok(Vec::new())).unwrap());
        assert_eq!(whole(&bench), 1, "its toc went first");
        bench.take("cccccccc").unwrap();
        assert_eq!(whole(&bench), 2);
        assert_eq!((bench.left().len(), bench.sidecars().len()), (4, 2));
        if !died {
            break;
        }
        deaths += 1;
    }
    assert_eq!(deaths, 6, "the toc, two members in two places, the commit");
}

#[test]
fn many_sets_go_with_one_commit_and_those_that_are_held_stay_with_the_reason() {
    let bench = Bench::new();
    let [a, b, c] = ["aaaaaaaa", "bbbbbbbb", "cccccccc"].map(|session| bench.take(session).unwrap().id());
    bench.store().pin_as(&b, &PinOrder::Soft).unwrap();
    let steps = std::cell::RefCell::new(Vec::new());
    let after = |step: &'static str| steps.borrow_mut().push(step);
    let store = Store { after: &after, ..bench.store() };
    let done = store.delete_all(&[a.clone(), b.clone(), c.clone()], || Ok(Needs::default())).unwrap();
    let stays: Vec<(&SetId, bool)> = done.iter().map(|(id, why)| (id, why.is_some())).collect();
    assert_eq!(stays, [(&a, false), (&b, true), (&c, false)]);
    assert!(done[1].1.as_deref().unwrap().contains("unpin"), "{done:?}");
    let steps = steps.borrow().clone();
    assert_eq!(steps.iter().filter(|step| **step == "sync").count(), 1, "{steps:?}");
    assert_eq!((whole(&bench), bench.left().len(), bench.sidecars().len()), (1, 2, 1));
    let doubt =
        bench.store().delete_all(std::slice::from_ref(&b), || Err(AgentError::failed("a record is torn")));
    assert!(doubt.is_err());
}

#[test]
fn a_death_at_any_step_of_removing_many_leaves_whole_sets_and_nothing_else_in_the_end() {
    let mut deaths = 0;
    loop {
        let bench = Bench::new();
        bench.take("aaaaaaaa").unwrap();
        let ids = ["bbbbbbbb", "dddddddd"].map(|session| bench.take(session).unwrap().id());
        let died = dies(&bench, deaths, |store| {
            let done = store.delete_all(&ids, || Ok(Needs::default())).unwrap();
            assert!(done.iter().all(|(_, why)| why.is_none()), "{done:?}");
        });
        let before = whole(&bench);
        assert!((1..=2).contains(&before), "{before}");
        bench.take("cccccccc").unwrap();
        assert_eq!(whole(&bench), before + 1);
        assert_eq!((bench.left().len(), bench.sidecars().len()), (2 * (before + 1), before + 1));
        if !died {
            break;
        }
        deaths += 1;
    }
    assert_eq!(deaths, 11, "two tocs, four members looked for in two places each, one commit");
}
