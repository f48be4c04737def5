//! Somebody moves trees of a rollback himself, as from a live system, and the machine starts.

use std::fs;

use super::redo;
use super::tests::{Scene, later};
use super::trial::{Verdict, act};
use crate::data::apply::Unwatched;
use crate::data::tests::deaths::{At, Fault, dying};
use crate::linux::deadman::Now;
use crate::proto::{RollbackLook, RollbackOrder, RollbackPhase, TrialFor, Unnamed};

const TEN_MINUTES: Option<TrialFor> = Some(TrialFor::Seconds(600));

fn words(word: &str) -> [String; 2] {
    [word.into(), word.into()]
}

fn look(scene: &Scene) -> RollbackLook {
    scene.order(RollbackOrder::Look, &Unwatched).unwrap()
}

fn phase(scene: &Scene) -> Option<RollbackPhase> {
    look(scene).state.map(|state| state.phase)
}

/// The tree from before is moved back into its place.
fn move_back(scene: &Scene, at: usize) {
    let (name, beside) = (&scene.names[at], |word: &str| format!("{}.{word}-feedbeef", scene.names[at]));
    fs::rename(scene.top(name), scene.top(&beside("cancelled"))).unwrap();
    fs::rename(scene.top(&beside("replaced")), scene.top(name)).unwrap();
}

fn start(scene: &Scene, boot: &str) -> Verdict {
    act(&scene.state, &Now { boot_id: boot.into(), since_boot_ms: 1_000 }, &Unwatched).unwrap()
}

#[test]
fn whoever_moves_all_trees_back_has_taken_the_rollback_back_also_one_on_trial() {
    for trial in [None, TEN_MINUTES] {
        let Some(mut scene) = Scene::make() else { return };
        scene.roll_back_for(trial, &Unwatched).unwrap();
        scene.restart();
        let begins = matches!(start(&scene, "one"), Verdict::Begin(_));
        assert_eq!(begins, trial.is_some());
        (0..2).for_each(|at| move_back(&scene, at));
        scene.restart();
        // Who only looks is told the same as who comes later.
        assert_eq!(phase(&scene), Some(RollbackPhase::Cancelled));
        assert_eq!(look(&scene).forbids_sync(), None);
        redo(&scene.state, &Unwatched).unwrap();
        assert_eq!(start(&scene, "two"), Verdict::Nothing, "nobody has to confirm it");
        let found = look(&scene);
        assert_eq!(found.state.as_ref().unwrap().phase, RollbackPhase::Cancelled);
        assert_eq!(found.state.unwrap().explain_by_itself(), None, "a person did it");
        assert_eq!((scene.found(), scene.beside()), (words("bad"), 2), "nothing goes unasked");
        scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap();
        assert_eq!((scene.found(), scene.beside(), phase(&scene)), (words("bad"), 0, None));
        assert!(scene.state.list("").unwrap().is_empty());
    }
}

#[test]
fn whoever_moves_some_trees_back_is_asked_and_a_cancel_puts_back_the_rest() {
    let Some(mut scene) = Scene::make() else { return };
    scene.roll_back(&Unwatched).unwrap();
    scene.restart();
    move_back(&scene, 0);
    scene.restart();
    redo(&scene.state, &Unwatched).unwrap();
    let found = look(&scene);
    let how = found.moved.clone().unwrap();
    let [system, home] = &scene.names;
    assert!(how.contains(&format!("for `{system}`, and not for `{home}`")), "{how}");
    assert_eq!(found.forbids_sync(), Some(how));
    assert!(scene.order(RollbackOrder::Confirm(later()), &Unwatched).is_err());
    assert_eq!((scene.found(), scene.beside()), (["bad".into(), "good".into()], 2));
    scene.order(RollbackOrder::Cancel, &Unwatched).unwrap();
    assert_eq!(scene.found(), words("bad"));
    scene.restart();
    scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap();
    assert_eq!((scene.found(), scene.beside(), phase(&scene)), (words("bad"), 0, None));
}

#[test]
fn one_that_was_cut_off_and_whose_trees_were_moved_back_does_not_come_again() {
    for cut_off in ["rename", "committed"] {
        let Some(mut scene) = Scene::make() else { return };
        // With one of two in place, and with none.
        let died = (0..).find_map(|number| {
            let died = dying(|| scene.roll_back(&At::new(number, Fault::Die))).unwrap_err();
            if died == cut_off {
                return Some(died);
            }
            redo(&scene.state, &Unwatched).unwrap();
            if look(&scene).state.is_some() {
                scene.order(RollbackOrder::Cancel, &Unwatched).unwrap();
            }
            None
        });
        assert_eq!(died, Some(cut_off));
        let is_moved = cut_off == "rename";
        if is_moved {
            move_back(&scene, 0);
        }
        scene.restart_unsettled();
        redo(&scene.state, &Unwatched).unwrap();
        let (word, wanted) = match is_moved {
            true => ("bad", RollbackPhase::Cancelled),
            false => ("good", RollbackPhase::Done),
        };
        assert_eq!((scene.found(), phase(&scene)), (words(word), Some(wanted)), "after `{cut_off}`");
        assert_eq!(scene.beside(), 2);
        if is_moved {
            scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap();
            assert_eq!((scene.found(), scene.beside()), (words("bad"), 0));
        }
    }
}

/// Returns the number of the step at which a rollback has come to this word for the `nth` time.
fn step_of(word: &str, nth: usize) -> Option<usize> {
    let mut seen = 0;
    for number in 0.. {
        let scene = Scene::make()?;
        let died = dying(|| scene.roll_back(&At::new(number, Fault::Die))).unwrap_err();
        seen += usize::from(died == word);
        if seen == nth {
            return Some(number);
        }
    }
    None
}

#[test]
fn a_death_while_trees_that_were_moved_back_are_noted_leaves_them_moved_back() {
    // The second tree was not exchanged yet; it was, and has the name of before still.
    for (word, nth) in [("rename", 1), ("exchange", 2)] {
        let Some(at) = step_of(word, nth) else { return };
        let mut ends = Vec::new();
        for number in 0.. {
            let Some(mut scene) = Scene::make() else { return };
            assert_eq!(dying(|| scene.roll_back(&At::new(at, Fault::Die))).unwrap_err(), word);
            move_back(&scene, 0);
            scene.restart_unsettled();
            let died = dying(|| redo(&scene.state, &At::new(number, Fault::Die)));
            scene.restart_unsettled();
            redo(&scene.state, &Unwatched).unwrap();
            if look(&scene).moved.is_some() {
                // Of two states only a person knows.
                scene.order(RollbackOrder::Cancel, &Unwatched).unwrap();
            }
            assert_eq!(
                (scene.found(), phase(&scene)),
                (words("bad"), Some(RollbackPhase::Cancelled)),
                "{died:?} after {word}"
            );
            assert_eq!(scene.beside(), 2, "what was done on the new trees is there: {died:?} after {word}");
            match died {
                Ok(done) => {
                    done.unwrap();
                    break;
                }
                Err(step) => ends.push(step),
            }
        }
        for step in ["by hand: name", "by hand: done", "by hand: kept", "by hand"] {
            assert!(ends.contains(&step), "{step} is not among {ends:?}");
        }
    }
}

#[test]
fn who_was_cut_off_between_two_moves_goes_on_with_them() {
    let Some(mut scene) = Scene::make() else { return };
    scene.roll_back(&Unwatched).unwrap();
    scene.restart();
    move_back(&scene, 0);
    let (name, beside) = (&scene.names[1], |word: &str| format!("{}.{word}-feedbeef", scene.names[1]));
    fs::rename(scene.top(name), scene.top(&beside("cancelled"))).unwrap();
    redo(&scene.state, &Unwatched).unwrap();
    assert_eq!(phase(&scene), Some(RollbackPhase::Done), "its journal is not given up");
    fs::rename(scene.top(&beside("replaced")), scene.top(name)).unwrap();
    scene.restart();
    redo(&scene.state, &Unwatched).unwrap();
    assert_eq!((scene.found(), phase(&scene)), (words("bad"), Some(RollbackPhase::Cancelled)));
}

#[test]
fn a_rollback_one_of_whose_trees_was_replaced_is_given_up_by_the_next_start_also_one_on_trial() {
    for is_half_back in [false, true] {
        let Some(mut scene) = Scene::make() else { return };
        scene.roll_back_for(TEN_MINUTES, &Unwatched).unwrap();
        scene.restart();
        assert!(matches!(start(&scene, "one"), Verdict::Begin(_)));
        if is_half_back {
            let cancel = || scene.order(RollbackOrder::Cancel, &At::new(0, Fault::Die));
            assert_eq!(dying(cancel).unwrap_err(), "cancelling");
        }
        scene.exchange_by_hand();
        redo(&scene.state, &Unwatched).unwrap();
        assert_eq!(start(&scene, "two"), Verdict::Nothing, "it is not tried for ever");
        assert_eq!((phase(&scene), look(&scene).forbids_sync()), (None, None));
        assert_eq!(scene.found(), ["by hand".to_owned(), "good".into()], "nothing was moved");
        let dir = scene.wish().snapshot_dir;
        let strays = scene.order(RollbackOrder::Strays(dir), &Unwatched).unwrap().strays;
        assert_eq!((strays.len(), strays[0].why, strays[0].beside.len()), (1, Unnamed::Aside, 2));
    }
}
