//! What one machine does with sets and rollbacks, photographed at each step.

use pc_switcher_agent::data::apply::Watch;
use pc_switcher_agent::linux::rollback;
use pc_switcher_agent::linux::snapshots::{
    delete_all_watched, delete_watched, mark_good_watched, pin_watched, take_watched,
};
use pc_switcher_agent::proto::{
    GoodBy, GoodMark, PinOrder, PinRequest, RollbackLook, RollbackOrder, RollbackWish, SetRequest,
    SetsRequest, Together,
};
use pc_switcher_contract::{SetId, SnapshotKind, SnapshotSet};
use pc_switcher_testkit::seed::Random;

use super::host::{Host, stamp};
use super::state::State;
use crate::camera::{End, Photo};
use crate::racer::{Racer, Slowly};

/// The steps of work that is decided at none of them.
pub const NONE: [&str; 2] = ["entry", "never"];

/// Pictures of one piece of work.
pub struct Lot {
    pub what: &'static str,
    pub photos: Vec<Photo>,
    pub before: State,
    pub after: State,
}

/// One machine's day.
pub struct Story<'a> {
    pub host: &'a mut Host,
    pub random: Random,
    /// For names of pictures.
    pub name: String,
    pub lots: Vec<Lot>,
    number: u32,
}

impl<'a> Story<'a> {
    pub fn new(host: &'a mut Host, random: Random, name: String) -> Self {
        Story { host, random, name, lots: Vec::new(), number: 0 }
    }

    fn next(&mut self) -> u32 {
        self.number += 1;
        self.number
    }

    fn state(&self) -> State {
        State::read(self.host).unwrap_or_else(|why| panic!("{}, without any cut: {why}", self.name))
    }

    /// Does a piece of work with a camera; `ends` says that it leads back to where it began, or to either end.
    fn film(
        &mut self,
        what: &'static str,
        decides: [&'static str; 2],
        ends: Option<End>,
        work: impl FnOnce(&Host, &dyn Watch),
    ) {
        let before = self.state();
        let name = format!("{}-{}", self.name, self.lots.len());
        let photos = film(self.host, &mut self.random, name, decides, ends, work);
        let after = if ends == Some(End::Old) { before.clone() } else { self.state() };
        self.lots.push(Lot { what, photos, before, after });
    }

    /// Takes, pins and removes sets.
    pub fn keep_sets(&mut self) {
        for _ in 0..2 {
            self.take(SnapshotKind::Manual);
        }
        for _ in 0..2 + self.random.below(3) {
            match self.random.below(6) {
                0..=1 => self.take(SnapshotKind::PreSync),
                2 => self.delete(),
                3 => self.prune(),
                4 => self.mark(),
                _ => self.pin(),
            }
        }
        if self.state().sets.is_empty() {
            self.take(SnapshotKind::Manual);
        }
    }

    pub fn take(&mut self, kind: SnapshotKind) {
        let number = self.next();
        self.host.write(number);
        let request = self.host.take(number, kind);
        self.film("create", ["meta", "toc"], None, |_, watch| {
            take_watched(&request, watch).unwrap();
        });
        let words = self.state().sets.into_values().next_back();
        assert_eq!(words, Some(vec![number; 2]), "a set holds what was there");
    }

    fn request(&mut self) -> SetRequest {
        let ids: Vec<SetId> = self.state().sets.into_keys().collect();
        SetRequest {
            snapshot_dir: self.host.snapshot_dir().as_path().into(),
            id: self.random.pick(&ids).clone(),
        }
    }

    /// Removes one set.
    fn delete(&mut self) {
        if self.state().sets.is_empty() {
            return;
        }
        let request = self.request();
        self.film("delete", ["entry", "toc"], None, |_, watch| delete_watched(&request, watch).unwrap());
    }

    /// Removes several with one commit, as the rules do; how many of them have gone at a moment is all the same.
    fn prune(&mut self) {
        let mut ids: Vec<SetId> = self.state().sets.into_keys().collect();
        if ids.is_empty() {
            return;
        }
        while ids.len() > 3 {
            ids.remove(self.random.below(ids.len() as u64) as usize);
        }
        let request = SetsRequest { snapshot_dir: self.host.snapshot_dir().as_path().into(), ids };
        self.film("prune", NONE, Some(End::Either), |_, watch| {
            let left = delete_all_watched(&request, watch).unwrap();
            assert!(left.iter().all(|(_, why)| why.is_none()), "{left:?}");
        });
    }

    /// Marks a set as good, which pins it, then perhaps another one, and takes the mark away.
    fn mark(&mut self) {
        if self.state().sets.is_empty() {
            return;
        }
        let ids = [self.request().id, self.request().id];
        let by = if self.random.below(2) == 0 { GoodBy::Hand } else { GoodBy::Sync };
        self.film("good", NONE, Some(End::Either), |host, watch| {
            let marks = ids.map(|id| GoodMark::Set { id, by, keep: 1 });
            for mark in marks.iter().chain([&GoodMark::None(None)]) {
                assert_eq!(
                    mark_good_watched(&host.snapshot_dir(), mark, watch).unwrap(),
                    Vec::<String>::new()
                );
                watch.after("marked").unwrap();
            }
        });
    }

    fn pin(&mut self) {
        if self.state().sets.is_empty() {
            return;
        }
        let set = self.request();
        let (what, order) = match self.random.below(3) {
            0 => ("pin", PinOrder::Soft),
            _ => ("hard pin", PinOrder::Hard),
        };
        self.film(what, NONE, Some(End::Either), |_, watch| {
            for order in [order, PinOrder::Off { allow_loss: false }] {
                pin_watched(&PinRequest { set: set.clone(), order }, watch).unwrap();
                watch.after("pin").unwrap();
            }
        });
    }

    /// Goes back to a set, and from there on or back again.
    pub fn roll_back(&mut self) {
        let number = self.next();
        self.host.write(number);
        let to = self.some_set();
        self.take(SnapshotKind::PreRollback);
        let old = self.state().trees;
        let wish = wish(self.host, &to, number, None);
        self.film("prepare", NONE, Some(End::Old), |host, watch| {
            order(host, RollbackOrder::Prepare(wish), watch);
        });
        let committed = ["prepared", "committed"];
        let before = old.clone();
        let name = format!("{}-{}", self.name, self.lots.len());
        if self.random.below(6) == 0 {
            let work = |host: &Host, watch: &dyn Watch| drop(order(host, RollbackOrder::Abort, watch));
            let photos = film(self.host, &mut self.random, name, NONE, Some(End::Old), work);
            let after = self.state();
            assert_eq!(after.trees, before, "a rollback that was dropped");
            return self.lots.push(Lot { what: "abort", photos, before: after.clone(), after });
        }
        let sets = self.state_of_sets();
        let work = |host: &Host, watch: &dyn Watch| drop(order(host, RollbackOrder::Commit, watch));
        let photos = film(self.host, &mut self.random, name, ["entry", committed[1]], None, work);
        let (before, after) = (State { sets, trees: before }, self.state());
        assert_eq!(after.trees.words.to_vec(), before.sets[&to.id()], "the trees are those of the set");
        self.lots.push(Lot { what: "exchange", photos, before, after });
        match self.random.below(3) {
            0 => {
                self.cancel();
                assert_eq!(self.state().trees, old, "all is as it was");
            }
            1 => {
                if self.random.below(2) == 0 {
                    // Whoever works on the old trees does so until the restart.
                    let number = self.next();
                    self.host.write(number);
                }
                self.restart();
                self.confirm();
            }
            _ => {
                self.restart();
                self.take(SnapshotKind::PreRollback);
                self.cancel();
                assert_eq!(self.state().trees.words, old.words);
                self.restart();
                self.confirm();
            }
        }
        assert!(self.state().trees.beside.is_empty(), "nothing stands beside the trees");
    }

    /// While a rollback is prepared the trees beside are no rest.
    fn state_of_sets(&self) -> super::state::Sets {
        let (stored, _) = self.host.sets().unwrap();
        super::state::whole(self.host, &stored).unwrap()
    }

    fn some_set(&mut self) -> SnapshotSet {
        let id = self.request().id;
        let (stored, _) = self.host.sets().unwrap();
        stored.into_iter().map(|stored| stored.set).find(|set| set.id() == id).unwrap()
    }

    fn cancel(&mut self) {
        self.film("cancel", ["entry", "cancelling"], None, |host, watch| {
            order(host, RollbackOrder::Cancel, watch);
        });
    }

    fn confirm(&mut self) {
        let later = stamp(self.next());
        self.film("confirm", NONE, Some(End::Either), |host, watch| {
            order(host, RollbackOrder::Confirm(later), watch);
        });
    }

    fn restart(&mut self) {
        let images = self.host.running().images().to_vec();
        self.host.machine.boot(images);
    }
}

/// Does a piece of work with a camera.
pub fn film(
    host: &Host,
    random: &mut Random,
    name: String,
    decides: [&'static str; 2],
    ends: Option<End>,
    work: impl FnOnce(&Host, &dyn Watch),
) -> Vec<Photo> {
    let camera = host.camera(random, name, decides);
    camera.shelf().end = ends;
    if random.below(3) == 0 {
        let racer = Racer::start(&camera, Random::new(random.below(u64::MAX)));
        work(host, &Slowly(camera.clone()));
        racer.join();
    } else {
        work(host, &camera);
    }
    let mut photos = camera.finish();
    if let Some(end) = ends {
        photos.iter_mut().for_each(|photo| photo.end = end);
    }
    photos
}

/// Gives the machine's agent an order about a rollback.
pub fn order(host: &Host, order: RollbackOrder, watch: &dyn Watch) -> RollbackLook {
    host.agent(|state| rollback::run(&order, state, watch))
        .unwrap_or_else(|error| panic!("{order:?}: {error}"))
}

/// What a rollback to a set is asked with.
pub fn wish(host: &Host, to: &SnapshotSet, number: u32, together: Option<Together>) -> RollbackWish {
    RollbackWish {
        session: format!("{:08x}", 0xb0000000 + number).parse().unwrap(),
        stamp: stamp(number),
        snapshot_dir: host.snapshot_dir().as_path().into(),
        to: to.clone(),
        subvolumes: host.layout().subvolumes().map(|name| name.parse().unwrap()).to_vec(),
        together,
        trial: None,
        fallback: None,
    }
}
