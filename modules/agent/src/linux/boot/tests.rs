//! Starts of a machine on a btrfs of its own: counted, gone back, gone back no more, and a death at every step of it.

use std::fs;
use std::sync::Mutex;

use super::*;
use crate::data::tests::deaths::{At, Fault, dying};
use crate::linux::rollback::tests::Scene;
use pc_switcher_contract::SetId;

use crate::proto::{GoodBy, GoodMark, RollbackLook, RollbackPhase, TrialFor, Unnamed};

/// A machine whose subvolumes have a good state, and are broken now.
struct Machine {
    scene: Scene,
    starts: u32,
    is_somebody_there: bool,
    /// The steps of the last start, and whether each was shielded from the end of its time.
    shielded: Vec<(&'static str, bool)>,
}

/// Notes whether time may be over after a step.
struct Seen<'a> {
    patience: &'a Patience,
    watch: &'a dyn Watch,
    shielded: Mutex<Vec<(&'static str, bool)>>,
}

impl Watch for Seen<'_> {
    fn after(&self, step: &'static str) -> Result<(), rustix::io::Errno> {
        self.shielded.lock().unwrap().push((step, self.patience.is_shielded()));
        self.watch.after(step)
    }
}

impl Machine {
    fn make() -> Option<Self> {
        let machine =
            Self { scene: Scene::make()?, starts: 0, is_somebody_there: false, shielded: Vec::new() };
        let mark = GoodMark::Set { id: machine.scene.wish().to.id(), by: GoodBy::Hand, keep: 1 };
        snapshots::mark_good(machine.dir().as_path(), &mark).unwrap();
        count::make(machine.dir().as_path()).unwrap();
        Some(machine)
    }

    fn dir(&self) -> BytePath {
        self.scene.wish().snapshot_dir
    }

    fn boot_id(&self) -> String {
        format!("{:08x}-1111-2222-3333-444444444444", self.starts)
    }

    /// Starts once; returns what is said.
    fn start(&mut self, watch: &dyn Watch) -> Result<Vec<String>, AgentError> {
        self.starts += 1;
        let wish = self.scene.wish();
        let early = Early {
            device: PathBuf::new(),
            command_line: String::new(),
            options: String::new(),
            boot_id: self.boot_id(),
            snapshot_dir: self.dir(),
            limit: 3,
            // The home is no part of what goes back.
            trees: vec![BootTree { name: wish.subvolumes[0].clone(), point: "/".into() }],
            boot_apart: false,
            console: None,
            patience: PATIENCE,
        };
        let mut said = Vec::new();
        // The process of a test does not end.
        let patience = Patience::begin(Duration::from_secs(3600), || ());
        let seen = Seen { patience: &patience, watch, shielded: Mutex::default() };
        let watch = Shielding { patience: &patience, watch: &seen };
        let mut asks = Asks {
            say: &mut |line| said.push(line.to_owned()),
            ask: &mut |_| self.is_somebody_there,
            patience: &patience,
        };
        step(&early, &self.scene.state, &watch, &mut asks)?;
        self.shielded = seen.shielded.into_inner().unwrap();
        Ok(said)
    }

    fn fail(&mut self, times: u32) {
        for _ in 0..times {
            self.scene.restart();
            assert_eq!(self.start(&Unwatched).unwrap(), Vec::<String>::new());
        }
    }

    /// Takes a set of what is in place and marks it.
    fn mark(&self, by: GoodBy) -> SetId {
        let wish = self.scene.wish();
        let wanted = TakeSet {
            session: "0a1b2c3d".parse().unwrap(),
            stamp: UtcStamp::new(jiff::Timestamp::now()),
            kind: SnapshotKind::Manual,
            snapshot_dir: wish.snapshot_dir,
            subvolumes: wish.subvolumes,
        };
        let set = snapshots::take_early(&wanted, wish.to.hostname, String::new()).unwrap();
        let mark = GoodMark::Set { id: set.id(), by, keep: 1 };
        snapshots::mark_good(self.dir().as_path(), &mark).unwrap();
        set.id()
    }

    fn count(&self) -> BootCount {
        match count::read(self.dir().as_path()).unwrap() {
            Counted::So(count) => count,
            other => panic!("{other:?}"),
        }
    }

    fn look(&self) -> RollbackLook {
        self.scene.order(RollbackOrder::Look, &Unwatched).unwrap()
    }
}

#[test]
fn three_starts_that_fail_lead_to_the_good_state_and_three_more_lead_nowhere() {
    let Some(mut machine) = Machine::make() else { return };
    machine.fail(3);
    assert_eq!((machine.scene.found(), machine.count().starts), (["bad".into(), "bad".into()], 3));
    machine.scene.restart();
    let said = machine.start(&Unwatched).unwrap();
    assert!(said[0].starts_with("3 starts in a row") && said[1].contains("goes back to set"), "{said:?}");
    assert_eq!(machine.scene.found(), ["good", "bad"], "what people work on does not go back");
    let (count, state) = (machine.count(), machine.look().state.unwrap());
    assert_eq!((count.starts, count.went_to), (1, Some(machine.scene.wish().to.id())));
    assert_eq!(state.phase, RollbackPhase::Done);
    let told = state.explain_by_itself().unwrap();
    assert!(told.contains("by itself") && told.contains("3 starts in a row"), "{told}");
    let kept = fs::read_dir(machine.dir().as_path()).unwrap().flatten();
    assert_eq!(kept.filter(|entry| entry.file_name().to_string_lossy().contains("-prerollback-")).count(), 1);
    // The good state does not start either.
    machine.fail(2);
    for _ in 0..3 {
        machine.scene.restart();
        let said = machine.start(&Unwatched).unwrap();
        assert!(said.len() == 1 && said[0].contains("it stops there"), "{said:?}");
        assert_eq!(machine.scene.found(), ["good", "bad"], "no loop between two bad states");
    }
    healthy(machine.dir().as_path(), &machine.boot_id()).unwrap();
    let (count, boot_id) = (machine.count(), machine.boot_id());
    assert!(count.begun > 0);
    let BootCount { begun, .. } = count;
    assert_eq!(count, BootCount { boot_id, begun, proven: begun, ..BootCount::default() });
    machine.fail(3);
    machine.scene.restart();
    let said = machine.start(&Unwatched).unwrap();
    assert!(said[0].contains("nobody has confirmed"), "{said:?}");
    // Taken back by hand as any rollback.
    machine.scene.restart();
    machine.scene.order(RollbackOrder::Cancel, &Unwatched).unwrap();
    assert_eq!(machine.scene.found(), ["bad", "bad"]);
}

#[test]
fn a_healthy_start_or_one_that_is_ended_in_order_does_not_count() {
    let Some(mut machine) = Machine::make() else { return };
    for _ in 0..5 {
        machine.fail(2);
        healthy(machine.dir().as_path(), &machine.boot_id()).unwrap();
    }
    machine.fail(2);
    let (dir, own) = (machine.dir(), machine.boot_id());
    let dir = dir.as_path();
    for _ in 0..2 {
        leave_from(dir, &own, "ro quiet").unwrap();
        assert_eq!(machine.count().starts, 1, "it is taken off once");
    }
    machine.fail(1);
    leave_from(dir, "another", "ro quiet").unwrap();
    assert_eq!(machine.count().starts, 2, "that start was not counted here");
    // What is not well counts, however it ends.
    red(dir, "another").unwrap();
    assert!(!machine.count().red);
    red(dir, &machine.boot_id()).unwrap();
    leave_from(dir, &machine.boot_id(), "ro quiet").unwrap();
    assert!(machine.count().red && machine.count().starts == 2);
    machine.fail(1);
    assert!(!machine.count().red && machine.count().starts == 3, "the next start was not looked at yet");
    // Somebody chose a start and came through.
    leave_from(dir, "another", "ro quiet pc-switcher.boot=off").unwrap();
    machine.fail(3);
    trusted(dir);
    machine.fail(3);
    assert_eq!(machine.scene.found(), ["bad", "bad"]);
}

#[test]
fn a_start_of_which_nobody_can_tell_neither_fails_nor_proves_anything() {
    let Some(mut machine) = Machine::make() else { return };
    machine.fail(1);
    let dir = machine.dir();
    let dir = dir.as_path();
    healthy(dir, &machine.boot_id()).unwrap();
    let proven = machine.count().proven;
    machine.mark(GoodBy::Guard);
    for _ in 0..5 {
        machine.fail(1);
        assert_eq!(machine.count().starts, 1);
        red(dir, &machine.boot_id()).unwrap();
        for _ in 0..2 {
            unknown(dir, &machine.boot_id()).unwrap();
            let count = machine.count();
            assert_eq!((count.starts, count.red, count.proven), (0, false, proven), "{count:?}");
            assert!(count.begun > proven, "what came since is there, and not proven");
        }
    }
    machine.fail(2);
    unknown(dir, &machine.boot_id()).unwrap();
    assert_eq!(machine.count().starts, 1, "those that failed before it count still");
    unknown(dir, "another").unwrap();
    assert_eq!(machine.count().starts, 1, "that start was not counted here");
    machine.fail(1);
    healthy(dir, &machine.boot_id()).unwrap();
    assert!(machine.count().proven > proven);
}

#[test]
fn a_rollback_by_hand_or_from_elsewhere_has_starts_counted_from_nought() {
    let Some(mut machine) = Machine::make() else { return };
    machine.fail(3);
    // On trial or not, it is the newest that somebody did.
    machine.scene.roll_back_for(Some(TrialFor::Seconds(600)), &Unwatched).unwrap();
    machine.fail(1);
    assert_eq!((machine.scene.found(), machine.count().starts), (["good".into(), "good".into()], 1));
    machine.scene.order(RollbackOrder::Cancel, &Unwatched).unwrap();
    machine.fail(1);
    assert_eq!((machine.scene.found(), machine.count().starts), (["bad".into(), "bad".into()], 1));
    machine.fail(2);
    // A live system exchanges names, and knows nothing of a count.
    machine.scene.order(RollbackOrder::Confirm(UtcStamp::new(jiff::Timestamp::now())), &Unwatched).unwrap();
    machine.scene.exchange_by_hand();
    machine.fail(3);
    assert_eq!((machine.scene.found()[0].as_str(), machine.count().starts), ("by hand", 3));
    machine.scene.restart();
    assert!(machine.start(&Unwatched).unwrap()[1].contains("goes back to set"));
    assert_eq!(machine.scene.found()[0], "good");
}

#[test]
fn what_was_marked_before_any_start_tried_it_is_the_last_choice_until_one_was_healthy() {
    for (by, is_tried) in
        [(GoodBy::Guard, false), (GoodBy::Sync, false), (GoodBy::Boot, false), (GoodBy::Guard, true)]
    {
        let Some(mut machine) = Machine::make() else { return };
        machine.fail(1);
        // What breaks the machine at its next start, as whoever changed it left it behind.
        let newest = machine.mark(by);
        if is_tried {
            machine.fail(1);
        }
        healthy(machine.dir().as_path(), &machine.boot_id()).unwrap();
        machine.fail(3);
        machine.scene.restart();
        machine.start(&Unwatched).unwrap();
        let older = machine.scene.wish().to.id();
        let to = if by == GoodBy::Boot || is_tried { newest.clone() } else { older };
        assert_eq!(machine.count().went_to, Some(to), "{by:?} {is_tried}");
        // Where there is nothing else, it is better than what failed.
        if by == GoodBy::Guard && !is_tried {
            machine.scene.order(RollbackOrder::Cancel, &Unwatched).unwrap();
            let mark = GoodMark::None(Some(machine.scene.wish().to.id()));
            snapshots::mark_good(machine.dir().as_path(), &mark).unwrap();
            machine.fail(3);
            machine.scene.restart();
            machine.start(&Unwatched).unwrap();
            assert_eq!(machine.count().went_to, Some(newest));
        }
    }
}

#[test]
fn whoever_sits_before_the_machine_can_keep_what_is_in_place() {
    let Some(mut machine) = Machine::make() else { return };
    machine.fail(3);
    machine.is_somebody_there = true;
    machine.scene.restart();
    let said = machine.start(&Unwatched).unwrap();
    assert!(said.last().unwrap().contains("counted from nought"), "{said:?}");
    assert_eq!((machine.scene.found(), machine.count().starts), (["bad".into(), "bad".into()], 1));
    machine.is_somebody_there = false;
    machine.fail(2);
    machine.scene.restart();
    machine.start(&Unwatched).unwrap();
    assert_eq!(machine.scene.found(), ["good", "bad"]);
}

#[test]
fn time_may_be_over_until_a_fallback_is_decided_and_no_more_after_that() {
    let Some(mut machine) = Machine::make() else { return };
    machine.fail(3);
    machine.scene.restart();
    machine.start(&Unwatched).unwrap();
    let decided = machine.shielded.iter().position(|(step, _)| *step == "prepared").unwrap();
    assert!(decided > 3 && machine.shielded.len() > decided + 3, "{:?}", machine.shielded);
    for (at, step) in machine.shielded.iter().enumerate() {
        assert_eq!(step.1, at >= decided, "{step:?}");
    }
}

#[test]
fn without_a_good_state_or_a_count_nothing_is_exchanged() {
    let Some(mut machine) = Machine::make() else { return };
    let mark = GoodMark::None(None);
    snapshots::mark_good(machine.dir().as_path(), &mark).unwrap();
    machine.fail(3);
    for _ in 0..3 {
        machine.scene.restart();
        let error = machine.start(&Unwatched).unwrap_err();
        assert!(error.message.contains("no set of what is started is marked as good"), "{error:?}");
    }
    machine.scene.restart();
    let said = machine.start(&Unwatched).unwrap();
    assert!(said[0].contains("failed as often as it is tried"), "{said:?}");
    fs::write(count::path(machine.dir().as_path()), "starts 9").unwrap();
    machine.scene.restart();
    assert!(machine.start(&Unwatched).unwrap()[0].contains("begins anew"));
    assert_eq!(machine.count().starts, 1);
    count::remove(machine.dir().as_path()).unwrap();
    machine.fail(9);
    assert_eq!(machine.scene.found(), ["bad", "bad"]);
    assert_eq!(count::read(machine.dir().as_path()).unwrap(), Counted::Off, "no start switches it on");
}

#[test]
fn a_rollback_on_trial_that_does_not_start_is_taken_back() {
    let Some(mut machine) = Machine::make() else { return };
    machine.scene.roll_back_for(Some(TrialFor::Seconds(600)), &Unwatched).unwrap();
    assert_eq!(machine.scene.found(), ["good", "good"]);
    machine.fail(3);
    machine.scene.restart();
    let said = machine.start(&Unwatched).unwrap();
    assert!(said[0].contains("is to be taken back") && said[1] == "it is taken back", "{said:?}");
    assert_eq!((machine.scene.found(), machine.count().starts), (["bad".into(), "bad".into()], 1));
    let told = machine.look().state.unwrap().explain_by_itself().unwrap();
    assert!(told.contains("3 starts in a row with it were not found healthy"), "{told}");
}

#[test]
fn a_rollback_that_somebody_asked_for_and_nobody_confirmed_is_left_alone() {
    let Some(mut machine) = Machine::make() else { return };
    machine.scene.roll_back(&Unwatched).unwrap();
    machine.fail(3);
    machine.scene.restart();
    let said = machine.start(&Unwatched).unwrap();
    assert!(said[0].contains("rollback confirm"), "{said:?}");
    assert_eq!(machine.scene.found(), ["good", "good"]);
}

#[test]
fn a_journal_of_trees_that_are_gone_does_not_switch_the_fallback_off() {
    let Some(mut machine) = Machine::make() else { return };
    machine.scene.roll_back(&Unwatched).unwrap();
    machine.scene.restart();
    // Another tree is put in place, whose state never heard of the rollback; what lies beside the snapshots stays.
    machine.scene.exchange_by_hand();
    machine.scene.state.put(rollback::POINTER, None).unwrap();
    machine.fail(3);
    assert_eq!(machine.scene.found()[0], "by hand");
    machine.scene.restart();
    let said = machine.start(&Unwatched).unwrap();
    assert!(said.len() == 2 && said[1].contains("goes back to set"), "{said:?}");
    assert_eq!(machine.scene.found(), ["good", "good"]);
    assert_eq!(machine.count().went_to, Some(machine.scene.wish().to.id()));
    let strays = machine.scene.order(RollbackOrder::Strays(machine.dir()), &Unwatched).unwrap().strays;
    assert_eq!((strays.len(), strays[0].why), (1, Unnamed::Aside));
    assert!(strays[0].beside.iter().any(|name| name.ends_with(".replaced-feedbeef")), "{strays:?}");
}

#[test]
fn a_death_at_any_step_leaves_a_whole_tree_in_place_and_the_next_starts_come_to_the_good_one() {
    let mut number = 0;
    loop {
        let Some(mut machine) = Machine::make() else { return };
        machine.fail(3);
        machine.scene.restart();
        let at = At::new(number, Fault::Die);
        let ended = dying(|| machine.start(&at));
        let Err(step) = ended else {
            assert!(number > 8, "only {number} steps were seen");
            return;
        };
        let found = machine.scene.found();
        assert!(["good", "bad"].contains(&found[0].as_str()) && found[1] == "bad", "{step}: {found:?}");
        machine.scene.restart();
        machine.start(&Unwatched).unwrap_or_else(|error| panic!("{step}: {error:?}"));
        assert_eq!(machine.scene.found(), ["good", "bad"], "after {step}");
        let count = machine.count();
        assert!(count.starts <= 2 && count.went_to.is_some(), "after {step}: {count:?}");
        assert!(machine.look().state.unwrap().explain_by_itself().is_some(), "after {step}");
        number += 1;
    }
}
