//! Rollbacks of two machines: they agree once they have met, whichever of them died when.

use std::fs;

use super::redo;
use super::tests::Scene;
use super::trial::{Verdict, act};
use crate::data::apply::{Unwatched, Watch};
use crate::data::tests::deaths::{At, Fault, dying};
use crate::linux::deadman;
use crate::proto::{AgentError, RollbackOrder, RollbackWish, Together, TrialFor};

/// Carries a rollback of both machines out, as the front does.
fn both(leader: &Scene, follower: &Scene, at: (&dyn Watch, &dyn Watch)) -> Result<(), AgentError> {
    leader.prepare_with("desk", true, at.0)?;
    follower.prepare_with("laptop", false, at.1)?;
    leader.order(RollbackOrder::Commit, at.0)?;
    follower.order(RollbackOrder::Commit, at.1)?;
    Ok(())
}

#[test]
fn two_machines_agree_once_they_have_met_whichever_of_them_died_after_which_step() {
    let Some((leader, follower)) = Scene::make().zip(Scene::make()) else { return };
    let (mut deaths, mut outcomes) = (Vec::new(), Vec::new());
    for dies in ["leader", "follower"] {
        for number in 0.. {
            let dying_one = At::new(number, Fault::Die);
            let at: (&dyn Watch, &dyn Watch) =
                if dies == "leader" { (&dying_one, &Unwatched) } else { (&Unwatched, &dying_one) };
            let ended = dying(|| both(&leader, &follower, at));
            let step = ended.as_ref().err().copied().unwrap_or("the end");
            deaths.push((dies, step));
            // Both start anew: each does what it can by itself, and the follower keeps its old state if it is in doubt.
            redo(&leader.state, &Unwatched).unwrap();
            redo(&follower.state, &Unwatched).unwrap();
            let look = follower.order(RollbackOrder::Look, &Unwatched).unwrap();
            let waits = look.state.as_ref().and_then(|state| state.waits_for()).is_some();
            if waits {
                assert_eq!(follower.found(), ["bad", "bad"]);
                assert!(look.forbids_sync().unwrap().contains("until they meet"));
                follower.meet(&leader);
            }
            assert_eq!(leader.found(), follower.found(), "{dies} died after `{step}`");
            let word = leader.found()[0].clone();
            assert_eq!(leader.found(), [word.clone(), word.clone()], "{dies} died after `{step}`");
            outcomes.push((word, waits));
            for scene in [&leader, &follower] {
                if scene.order(RollbackOrder::Look, &Unwatched).unwrap().state.is_some() {
                    scene.order(RollbackOrder::Cancel, &Unwatched).unwrap();
                }
                assert_eq!((scene.found(), scene.beside()), (["bad".into(), "bad".into()], 0));
                let _ = fs::remove_dir_all(scene.own().join("rollback"));
            }
            if ended.is_ok() {
                break;
            }
        }
    }
    for step in
        [("leader", "prepared"), ("leader", "decided"), ("leader", "exchange"), ("follower", "committed")]
    {
        assert!(deaths.contains(&step), "no death after {step:?}: {deaths:?}");
    }
    for outcome in [("good", true), ("bad", true), ("good", false), ("bad", false)] {
        assert!(
            outcomes.iter().any(|(word, waits)| (word.as_str(), *waits) == outcome),
            "{outcome:?}: {outcomes:?}"
        );
    }
}

#[test]
fn a_machine_that_waits_stays_as_it_is_if_the_one_that_decided_went_back_before_they_met() {
    let mut deaths = Vec::new();
    for number in 0.. {
        let Some((leader, follower)) = Scene::make().zip(Scene::make()) else { return };
        leader.prepare_with("desk", true, &Unwatched).unwrap();
        follower.prepare_with("laptop", false, &Unwatched).unwrap();
        leader.order(RollbackOrder::Commit, &Unwatched).unwrap();
        assert!(leader.decided());
        let died = dying(|| leader.order(RollbackOrder::Cancel, &At::new(number, Fault::Die))).err();
        deaths.extend(died);
        redo(&leader.state, &Unwatched).unwrap();
        redo(&follower.state, &Unwatched).unwrap();
        follower.meet(&leader);
        let bad = ["bad".to_owned(), "bad".to_owned()];
        assert_eq!((leader.found(), follower.found()), (bad.clone(), bad), "died after {died:?}");
        assert_eq!((leader.beside(), follower.beside()), (0, 0), "died after {died:?}");
        if died.is_none() {
            break;
        }
    }
    assert_eq!(deaths[..2], ["cancelling", "revoked"], "{deaths:?}");
}

#[test]
fn a_machine_that_waits_goes_on_waiting_while_the_one_that_decided_may_still_change_its_mind() {
    for stays in [false, true] {
        let Some((mut leader, follower)) = Scene::make().zip(Scene::make()) else { return };
        let together = Some(Together { partner: "desk".parse().unwrap(), leads: true });
        let wish = RollbackWish { together, trial: Some(TrialFor::OneStart), ..leader.wish() };
        leader.order(RollbackOrder::Prepare(wish), &Unwatched).unwrap();
        follower.prepare_with("laptop", false, &Unwatched).unwrap();
        leader.order(RollbackOrder::Commit, &Unwatched).unwrap();
        leader.restart();
        let now = deadman::now().unwrap();
        assert!(matches!(act(&leader.state, &now, &Unwatched), Ok(Verdict::Back(_))));
        assert_eq!(leader.word(), None, "it works on the new trees still");
        if stays {
            leader.order(RollbackOrder::Stay, &Unwatched).unwrap();
        } else {
            leader.restart();
            redo(&leader.state, &Unwatched).unwrap();
        }
        follower.meet(&leader);
        let word = if stays { "good" } else { "bad" };
        for scene in [&leader, &follower] {
            assert_eq!(scene.found(), [word, word]);
        }
    }
}

#[test]
fn a_machine_that_dies_while_its_rollback_comes_again_gives_its_word_again() {
    let mut deaths = Vec::new();
    for number in 0.. {
        let Some(mut leader) = Scene::make() else { return };
        let together = Some(Together { partner: "desk".parse().unwrap(), leads: true });
        let wish = RollbackWish { together, trial: Some(TrialFor::OneStart), ..leader.wish() };
        leader.order(RollbackOrder::Prepare(wish), &Unwatched).unwrap();
        leader.order(RollbackOrder::Commit, &Unwatched).unwrap();
        leader.restart();
        act(&leader.state, &deadman::now().unwrap(), &Unwatched).unwrap();
        let died = dying(|| leader.order(RollbackOrder::Stay, &At::new(number, Fault::Die))).err();
        deaths.extend(died);
        redo(&leader.state, &Unwatched).unwrap();
        let is_again = leader.found() == ["good", "good"];
        assert_eq!(leader.word(), is_again.then_some(true), "died after {died:?}");
        if died.is_none() {
            break;
        }
    }
    assert!(deaths.contains(&"again") && deaths.contains(&"decided"), "{deaths:?}");
}
