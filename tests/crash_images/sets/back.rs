//! How a machine's day goes on that goes back to a set: by hand, and by itself where it was on trial.

use pc_switcher_agent::data::apply::{Unwatched, Watch};
use pc_switcher_agent::proto::{RollbackOrder, RollbackPhase, TrialFor};
use pc_switcher_contract::{SnapshotKind, SnapshotSet};

use super::dying::insist;
use super::host::{Host, stamp};
use super::state::{On, Sets, State, Trees, whole};
use super::story::{Lot, NONE, Story, film, order, wish};
use crate::camera::End;

/// The seconds of a trial.
pub const LIMIT: u64 = 600;

/// Where the word falls when the trees from before are put back.
const BACK: [&str; 2] = ["entry", "cancelling"];

/// What becomes of a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing goes back that day.
    Never,
    /// It is prepared and no more.
    Dropped,
    /// Somebody takes it back before the restart.
    AtOnce,
    /// Somebody confirms it after the restart.
    Kept,
    /// Somebody takes it back after the restart.
    Cancelled,
    /// It is on trial, and nobody confirms it in time.
    Returned,
    /// It was on trial, and somebody says that it stays, with its former trees.
    Stays,
}

impl Way {
    /// Deals the ways out over days, so that none is missing for long.
    pub fn of_day(day: u64) -> Way {
        const ALL: [Way; 8] = [
            Way::Cancelled,
            Way::Returned,
            Way::Kept,
            Way::Stays,
            Way::AtOnce,
            Way::Returned,
            Way::Dropped,
            Way::Never,
        ];
        ALL[(day % ALL.len() as u64) as usize]
    }

    /// For how long it may hold if nobody confirms it.
    fn trials(self) -> &'static [Option<TrialFor>] {
        const SECONDS: Option<TrialFor> = Some(TrialFor::Seconds(LIMIT));
        const ONCE: Option<TrialFor> = Some(TrialFor::OneStart);
        match self {
            Way::Kept | Way::Cancelled => &[None, SECONDS],
            Way::Returned | Way::Stays => &[SECONDS, ONCE],
            Way::Never | Way::Dropped | Way::AtOnce => &[None, SECONDS, ONCE],
        }
    }
}

impl Story<'_> {
    /// Goes back to a set, and from there on or back again.
    pub fn roll_back(&mut self, way: Way) {
        if way == Way::Never {
            return;
        }
        let trial = *self.random.pick(way.trials());
        let number = self.next();
        self.host.write(number);
        let to = self.some_set();
        self.take(SnapshotKind::PreRollback);
        let old = self.state().trees;
        let (wish, dies) = (wish(self.host, &to, number, None, trial), self.dies());
        self.film("prepare", NONE, Some(End::Old), |host, watch| {
            let prepare = |watch: &dyn Watch| drop(order(host, RollbackOrder::Prepare(wish.clone()), watch));
            insist(host, watch, dies, || false, prepare);
        });
        if way == Way::Dropped {
            return self.drop_it(&old);
        }
        self.exchange(&old, &to);
        let done = Trees { trial: None, ..self.state().trees };
        match way {
            Way::AtOnce => {
                self.cancel();
                assert_eq!(self.state().trees, old, "all is as it was");
            }
            Way::Kept => {
                if self.random.below(2) == 0 {
                    // Whoever works on the old trees does so until the restart.
                    let number = self.next();
                    self.host.write(number);
                }
                self.begin(trial);
                self.confirm();
            }
            Way::Cancelled => {
                self.begin(trial);
                self.cancel_later(&old);
            }
            Way::Returned => {
                self.comes_back(trial, &old);
                match self.random.below(2) {
                    0 => self.comes_again(&done),
                    _ => {
                        self.start_anew();
                        self.confirm();
                        assert_eq!(self.state().trees.words, old.words, "it is confirmed that it went back");
                    }
                }
            }
            _ => {
                self.stays(trial);
                match self.random.below(2) {
                    0 => self.cancel_later(&old),
                    _ => self.confirm(),
                }
            }
        }
        assert!(self.state().trees.beside.is_empty(), "nothing stands beside the trees");
    }

    /// After which step the agent dies once, if so.
    fn dies(&mut self) -> Option<usize> {
        (self.random.below(3) == 0).then(|| self.random.below(7) as usize)
    }

    fn drop_it(&mut self, old: &Trees) {
        let name = format!("{}-{}", self.name, self.lots.len());
        let work = |host: &Host, watch: &dyn Watch| drop(order(host, RollbackOrder::Abort, watch));
        let photos = film(self.host, &mut self.random, name, NONE, Some(End::Old), work);
        let after = self.state();
        assert_eq!(after.trees, *old, "a rollback that was dropped");
        self.lots.push(Lot { what: "abort", photos, before: after.clone(), after, between: None });
    }

    fn exchange(&mut self, old: &Trees, to: &SnapshotSet) {
        let (sets, dies) = (self.state_of_sets(), self.dies());
        let work = |host: &Host, watch: &dyn Watch| {
            let commit = |watch: &dyn Watch| drop(order(host, RollbackOrder::Commit, watch));
            insist(host, watch, dies, || true, commit);
        };
        let name = format!("{}-{}", self.name, self.lots.len());
        let photos = film(self.host, &mut self.random, name, ["entry", "committed"], None, work);
        let (before, after) = (State { sets, trees: old.clone() }, self.state());
        assert_eq!(after.trees.words.to_vec(), before.sets[&to.id()], "the trees are those of the set");
        self.lots.push(Lot { what: "exchange", photos, before, after, between: None });
    }

    /// While a rollback is prepared the trees beside are no rest.
    fn state_of_sets(&self) -> Sets {
        let (stored, _) = self.host.sets().unwrap();
        whole(self.host, &stored).unwrap()
    }

    fn some_set(&mut self) -> SnapshotSet {
        let id = self.request().id;
        let (stored, _) = self.host.sets().unwrap();
        stored.into_iter().map(|stored| stored.set).find(|set| set.id() == id).unwrap()
    }

    /// Starts the machine with the new trees, with which the time of a trial begins.
    fn begin(&mut self, trial: Option<TrialFor>) {
        let Some(trial) = trial else { return self.host.restart() };
        self.boot("trial begins", ["entry", "began"]);
        assert_eq!(self.state().trees.trial, Some(On::Runs(trial)));
    }

    /// Starts the machine, and photographs what a boot does about rollbacks.
    fn boot(&mut self, what: &'static str, decides: [&'static str; 2]) {
        self.host.restart();
        let dies = self.dies();
        self.film(what, decides, None, |host, watch| {
            let boot = |watch: &dyn Watch| host.redo(watch).and_then(|()| host.attend(watch)).unwrap();
            insist(host, watch, dies, || false, boot);
        });
    }

    fn start_anew(&mut self) {
        self.host.start_anew().unwrap_or_else(|why| panic!("{}, without any cut: {why}", self.name));
    }

    /// Nobody confirms it.
    fn comes_back(&mut self, trial: Option<TrialFor>, old: &Trees) {
        let is_begun = matches!(trial, Some(TrialFor::Seconds(_)));
        if is_begun {
            self.begin(trial);
        }
        if is_begun && self.random.below(2) == 0 {
            self.host.pass(LIMIT - 1);
            self.host.attend(&Unwatched).unwrap();
            assert_eq!(self.state().trees.trial, trial.map(On::Runs), "there is a second left");
            self.host.pass(1);
            let dies = self.dies();
            self.film("trial back", BACK, None, |host, watch| {
                insist(host, watch, dies, || false, |watch| host.attend(watch).unwrap());
            });
        } else {
            self.boot("trial back", BACK);
        }
        let trees = self.state().trees;
        assert_eq!((trees.words, trees.trial), (old.words, Some(On::Returned)));
    }

    /// Somebody who works on the new trees still says that they stay after all.
    fn comes_again(&mut self, done: &Trees) {
        self.confirm_by("trial kept after all", ["entry", "again"], None);
        self.lots.last_mut().unwrap().between = Some(done.clone());
        assert_eq!(self.state().trees.words, done.words);
    }

    /// Somebody says that it stays, before the restart or after it.
    fn stays(&mut self, trial: Option<TrialFor>) {
        let is_early = trial == Some(TrialFor::OneStart) || self.random.below(2) == 0;
        if !is_early {
            self.begin(trial);
        }
        self.film("stay", ["entry", "stays"], None, |host, watch| {
            order(host, RollbackOrder::Stay, watch);
        });
        if is_early {
            self.start_anew();
        }
        assert_eq!(self.state().trees.trial, None);
    }

    fn cancel_later(&mut self, old: &Trees) {
        self.take(SnapshotKind::PreRollback);
        self.cancel();
        assert_eq!(self.state().trees.words, old.words);
        self.host.restart();
        self.confirm();
    }

    fn cancel(&mut self) {
        let dies = self.dies();
        self.film("cancel", BACK, None, |host, watch| {
            let phase = || order(host, RollbackOrder::Look, &Unwatched).state.map(|state| state.phase);
            let is_over = || phase() != Some(RollbackPhase::Done);
            insist(host, watch, dies, is_over, |watch| drop(order(host, RollbackOrder::Cancel, watch)));
        });
    }

    fn confirm(&mut self) {
        let trees = self.state().trees;
        if !matches!(trees.trial, Some(On::ToBegin(_) | On::Runs(_))) {
            return self.confirm_by("confirm", NONE, Some(End::Either));
        }
        // From then on it does not go back by itself, however far the rest came.
        self.confirm_by("confirm", ["entry", "stays"], None);
        self.lots.last_mut().unwrap().between = Some(Trees { trial: None, ..trees });
    }

    fn confirm_by(&mut self, what: &'static str, decides: [&'static str; 2], ends: Option<End>) {
        let (later, dies) = (stamp(self.next()), self.dies());
        self.film(what, decides, ends, |host, watch| {
            let is_over = || order(host, RollbackOrder::Look, &Unwatched).state.is_none();
            let confirm = |watch: &dyn Watch| drop(order(host, RollbackOrder::Confirm(later), watch));
            insist(host, watch, dies, is_over, confirm);
        });
    }
}
