//! Rollbacks on trial: when they go back, what is said of it, and a death at every step.

use std::time::Duration;

use proptest::prelude::*;

use super::redo;
use super::tests::{Scene, later};
use super::trial::{Start, Verdict, act, judge, watch_and_tell};
use crate::data::apply::Unwatched;
use crate::data::tests::deaths::{At, Fault, dying};
use crate::linux::deadman::Now;
use crate::proto::{RollbackOrder, RollbackPhase, RollbackState, Trial, TrialBegan, TrialFor};

const TEN_MINUTES: Option<TrialFor> = Some(TrialFor::Seconds(600));

fn at(boot_id: &str, since_boot_ms: u64) -> Now {
    Now { boot_id: boot_id.into(), since_boot_ms }
}

fn state(phase: RollbackPhase, holds: TrialFor, began: Option<(&str, u64)>) -> RollbackState {
    let began =
        began.map(|(boot_id, until_ms)| TrialBegan { boot_id: boot_id.into(), until_ms, is_partly: false });
    RollbackState {
        session: "feedbeef".parse().unwrap(),
        stamp: "20251116T120000Z".parse().unwrap(),
        to: "20251115T120000Z-0a1b2c3d-manual".parse().unwrap(),
        phase,
        members: Vec::new(),
        together: None,
        records: Vec::new(),
        trial: Some(Trial { began, ..Trial::new(holds) }),
        fallback: None,
    }
}

/// Judges one; nothing works on a tree from before.
fn judged(state: &RollbackState, now: &Now) -> Verdict {
    judge(state, &|| Start::Anew, now)
}

#[test]
fn time_begins_with_the_start_that_works_on_the_new_trees_and_one_more_start_ends_it() {
    let done = |began| state(RollbackPhase::Done, TrialFor::Seconds(600), began);
    assert_eq!(
        judge(&done(None), &|| Start::Before, &at("one", 5)),
        Verdict::Nothing,
        "it waits for a restart"
    );
    assert_eq!(judged(&done(None), &at("one", 5)), Verdict::Begin(600));
    let began = Some(("one", 600_005));
    assert_eq!(judged(&done(began), &at("one", 5)), Verdict::Wait(Duration::from_mins(10)));
    let Verdict::Back(why) = judged(&done(began), &at("one", 600_005)) else { panic!("it stays") };
    assert_eq!(why, "nobody confirmed it within 10 min of the restart");
    for start in [Start::Before, Start::Partly, Start::Anew] {
        let Verdict::Back(why) = judge(&done(began), &|| start, &at("two", 1)) else { panic!("it stays") };
        assert_eq!(why, "the machine was started anew before anybody had confirmed it");
    }
}

#[test]
fn one_that_holds_for_one_start_goes_back_in_it_and_whatever_is_over_waits_for_nothing() {
    let once = |phase| state(phase, TrialFor::OneStart, None);
    assert_eq!(judge(&once(RollbackPhase::Done), &|| Start::Before, &at("one", 5)), Verdict::Nothing);
    assert!(matches!(judged(&once(RollbackPhase::Done), &at("one", 5)), Verdict::Back(_)));
    for phase in [RollbackPhase::Prepared, RollbackPhase::Committed, RollbackPhase::Cancelled] {
        assert_eq!(judged(&once(phase), &at("one", 5)), Verdict::Nothing, "{phase:?}");
    }
    let for_good = RollbackState { trial: None, ..once(RollbackPhase::Done) };
    assert_eq!(judged(&for_good, &at("one", 5)), Verdict::Nothing);
}

#[test]
fn a_start_with_some_of_both_trees_is_not_the_one_that_is_tried() {
    let mut done = state(RollbackPhase::Done, TrialFor::Seconds(600), None);
    let partly = &|| Start::Partly;
    assert_eq!(
        judge(&done, partly, &at("one", 5)),
        Verdict::Begin(600),
        "nobody may be there to start it anew"
    );
    done.trial.as_mut().unwrap().began =
        Some(TrialBegan { boot_id: "one".into(), until_ms: 600_005, is_partly: true });
    assert_eq!(judge(&done, partly, &at("one", 5)), Verdict::Wait(Duration::from_mins(10)));
    assert!(matches!(judge(&done, partly, &at("one", 600_005)), Verdict::Back(_)));
    assert_eq!(judged(&done, &at("two", 5)), Verdict::Begin(600), "it does as it was told, and goes on");
    let once = state(RollbackPhase::Done, TrialFor::OneStart, None);
    assert_eq!(judge(&once, partly, &at("one", 5)), Verdict::Nothing);
}

#[test]
fn a_machine_whose_power_was_cut_between_two_exchanges_may_be_started_anew_before_it_is_confirmed() {
    let Some(mut scene) = Scene::make() else { return };
    let act_at = |scene: &Scene, boot| act(&scene.state, &at(boot, 1_000), &Unwatched).unwrap();
    // Until the first of two subvolumes has its new tree.
    let died = (0..).find_map(|number| {
        let died = dying(|| scene.roll_back_for(TEN_MINUTES, &At::new(number, Fault::Die))).unwrap_err();
        if died == "rename" {
            return Some(died);
        }
        redo(&scene.state, &Unwatched).unwrap();
        if scene.order(RollbackOrder::Look, &Unwatched).unwrap().state.is_some() {
            scene.order(RollbackOrder::Cancel, &Unwatched).unwrap();
        }
        None
    });
    assert_eq!(died, Some("rename"));
    scene.restart_unsettled();
    redo(&scene.state, &Unwatched).unwrap();
    assert_eq!(scene.found(), good());
    assert_eq!(act_at(&scene, "one"), Verdict::Begin(600));
    let look = scene.order(RollbackOrder::Look, &Unwatched).unwrap();
    assert_eq!(look.in_use.len(), 1, "{look:?}");
    assert!(look.state.unwrap().trial.unwrap().is_partly());
    scene.restart();
    redo(&scene.state, &Unwatched).unwrap();
    assert_eq!(act_at(&scene, "two"), Verdict::Begin(600));
    scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap();
    assert_eq!((scene.found(), scene.beside()), (good(), 0));
}

proptest! {
    #[test]
    fn in_one_boot_a_rollback_goes_back_exactly_when_its_time_is_over(begun in 0_u64..1 << 40, later in 0_u64..1_200_000) {
        let began = state(RollbackPhase::Done, TrialFor::Seconds(600), Some(("one", begun + 600_000)));
        let is_over = matches!(judged(&began, &at("one", begun + later)), Verdict::Back(_));
        prop_assert_eq!(is_over, later >= 600_000);
    }
}

fn bad() -> [String; 2] {
    ["bad".into(), "bad".into()]
}

fn good() -> [String; 2] {
    ["good".into(), "good".into()]
}

#[test]
fn a_rollback_that_nobody_confirms_goes_back_when_its_time_is_over_and_that_is_remembered() {
    let Some(mut scene) = Scene::make() else { return };
    scene.roll_back_for(TEN_MINUTES, &Unwatched).unwrap();
    let act_at = |scene: &Scene, since| act(&scene.state, &at("one", since), &Unwatched).unwrap();
    assert_eq!(act_at(&scene, 1), Verdict::Nothing);
    scene.restart();
    assert_eq!(act_at(&scene, 1_000), Verdict::Begin(600));
    let look = scene.order(RollbackOrder::Look, &Unwatched).unwrap();
    assert!(look.forbids_sync().unwrap().contains("waits for somebody"), "{look:?}");
    assert_eq!(act_at(&scene, 600_999), Verdict::Wait(Duration::from_millis(1)));
    assert_eq!(scene.found(), good());
    assert!(matches!(act_at(&scene, 601_000), Verdict::Back(_)));
    assert_eq!((scene.found(), scene.beside()), (bad(), 2));
    let look = scene.order(RollbackOrder::Look, &Unwatched).unwrap();
    assert!(look.may_come_again() && look.forbids_sync().unwrap().contains("rollback confirm"), "{look:?}");
    scene.restart();
    redo(&scene.state, &Unwatched).unwrap();
    assert_eq!(act_at(&scene, 700_000), Verdict::Nothing);
    let look = scene.order(RollbackOrder::Look, &Unwatched).unwrap();
    let said = look.state.as_ref().unwrap().explain_returned().unwrap();
    assert!(said.ends_with("since nobody confirmed it within 10 min of the restart"), "{said}");
    assert_eq!((look.may_come_again(), look.forbids_sync()), (false, None));
    scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap();
    assert_eq!((scene.found(), scene.beside()), (bad(), 0));
    assert!(scene.state.list("").unwrap().is_empty());
}

#[test]
fn what_holds_for_one_start_is_gone_at_the_next_and_stays_if_somebody_says_so_in_between() {
    for stays in [false, true] {
        let Some(mut scene) = Scene::make() else { return };
        scene.roll_back_for(Some(TrialFor::OneStart), &Unwatched).unwrap();
        assert_eq!(scene.found(), good());
        scene.restart();
        assert!(matches!(act(&scene.state, &at("one", 1), &Unwatched), Ok(Verdict::Back(_))));
        assert_eq!(scene.found(), bad(), "the next start finds them");
        if !stays {
            scene.restart();
            redo(&scene.state, &Unwatched).unwrap();
        }
        scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap();
        let word = if stays { good() } else { bad() };
        assert_eq!((scene.found(), scene.beside()), (word, 0));
        assert!(scene.state.list("").unwrap().is_empty());
    }
}

#[test]
fn one_that_was_confirmed_with_its_former_trees_goes_back_by_hand_alone() {
    let Some(mut scene) = Scene::make() else { return };
    scene.roll_back_for(TEN_MINUTES, &Unwatched).unwrap();
    scene.order(RollbackOrder::Stay, &Unwatched).unwrap();
    scene.restart();
    for boot in ["one", "two"] {
        assert_eq!(act(&scene.state, &at(boot, 1), &Unwatched).unwrap(), Verdict::Nothing);
    }
    let look = scene.order(RollbackOrder::Look, &Unwatched).unwrap();
    assert_eq!((look.forbids_sync(), scene.beside()), (None, 2));
    scene.order(RollbackOrder::Cancel, &Unwatched).unwrap();
    assert_eq!(scene.found(), bad());
    let look = scene.order(RollbackOrder::Look, &Unwatched).unwrap();
    assert!(!look.may_come_again(), "somebody wanted it back");
}

#[test]
fn a_death_at_any_step_of_going_back_by_itself_or_coming_again_leaves_both_old_or_both_new_trees() {
    let mut deaths = Vec::new();
    for number in 0.. {
        let Some(mut scene) = Scene::make() else { return };
        scene.roll_back_for(Some(TrialFor::OneStart), &Unwatched).unwrap();
        scene.restart();
        let back = |number| act(&scene.state, &at("one", 1), &At::new(number, Fault::Die)).map(drop);
        let died_back = dying(|| back(number)).err();
        let again_from = if died_back.is_some() { usize::MAX } else { number - deaths_back(&deaths) };
        if let Some(step) = died_back {
            deaths.push(("back", step));
            let second = dying(|| redo(&scene.state, &At::new(number % 3, Fault::Die))).err();
            redo(&scene.state, &Unwatched).unwrap();
            back(usize::MAX).unwrap();
            assert_eq!(scene.found(), bad(), "died after `{step}`, the redo after {second:?}");
        }
        assert!(scene.order(RollbackOrder::Look, &Unwatched).unwrap().may_come_again());
        let died = dying(|| scene.order(RollbackOrder::Stay, &At::new(again_from, Fault::Die))).err();
        if let Some(step) = died {
            deaths.push(("again", step));
            let second = dying(|| redo(&scene.state, &At::new(number % 3, Fault::Die))).err();
            redo(&scene.state, &Unwatched).unwrap();
            let word = if step == "records" { bad() } else { good() };
            assert_eq!(scene.found(), word, "died after `{step}`, the redo after {second:?}");
            if step == "records" {
                scene.order(RollbackOrder::Stay, &Unwatched).unwrap();
            }
        }
        assert_eq!(scene.found(), good());
        scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap();
        assert_eq!((scene.found(), scene.beside()), (good(), 0));
        assert!(scene.state.list("").unwrap().is_empty());
        if died_back.is_none() && died.is_none() {
            break;
        }
    }
    for step in ["cancelling", "exchange", "rename", "cancelled"] {
        assert!(deaths.contains(&("back", step)), "no death after `{step}`: {deaths:?}");
    }
    for step in ["records", "again", "exchange", "rename", "done"] {
        assert!(deaths.contains(&("again", step)), "no death after `{step}`: {deaths:?}");
    }
}

#[test]
fn a_way_back_that_was_cut_off_is_watched_until_it_is_at_its_end() {
    let mut deaths = Vec::new();
    for number in 0.. {
        let Some(mut scene) = Scene::make() else { return };
        scene.roll_back_for(Some(TrialFor::OneStart), &Unwatched).unwrap();
        scene.restart();
        let back = || act(&scene.state, &at("one", 1), &At::new(number, Fault::Die)).map(drop);
        let Err(step) = dying(back) else { break };
        deaths.push(step);
        let session = scene.wish().session;
        let said = std::cell::RefCell::new(Vec::new());
        let tell = |text: &str| said.borrow_mut().push(text.to_owned());
        watch_and_tell(&session, &scene.state, &scene.lock(), &Unwatched, &tell).unwrap();
        assert_eq!(scene.found(), bad(), "died after `{step}`");
        let look = scene.order(RollbackOrder::Look, &Unwatched).unwrap();
        assert_eq!(look.state.unwrap().phase, RollbackPhase::Cancelled, "died after `{step}`");
        let is_told = said.borrow().iter().any(|text| text.contains("was taken back by this machine itself"));
        assert_eq!(is_told, step != "cancelled", "died after `{step}`");
    }
    assert!(deaths.contains(&"cancelling") && deaths.contains(&"exchange"), "{deaths:?}");
}

/// How many steps the way back has.
fn deaths_back(deaths: &[(&str, &str)]) -> usize {
    deaths.iter().filter(|(way, _)| *way == "back").count()
}
