//! What one machine does with sets and rollbacks, photographed at each step.

use pc_switcher_agent::data::apply::Watch;
use pc_switcher_agent::linux::rollback;
use pc_switcher_agent::linux::snapshots::{
    delete_all_watched, delete_watched, mark_good_watched, pin_watched, take_watched,
};
use pc_switcher_agent::proto::{
    GoodBy, GoodMark, PinOrder, PinRequest, RollbackLook, RollbackOrder, RollbackWish, SetRequest,
    SetsRequest, Together, TrialFor,
};
use pc_switcher_contract::{SetId, SnapshotKind, SnapshotSet};
use pc_switcher_testkit::seed::Random;

use super::host::{Host, stamp};
use super::state::{State, Trees};
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
    /// What else there may be once it is decided, if the work has a second part of which nothing is known then.
    pub between: Option<Trees>,
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

    pub fn next(&mut self) -> u32 {
        self.number += 1;
        self.number
    }

    pub fn state(&self) -> State {
        State::read(self.host).unwrap_or_else(|why| panic!("{}, without any cut: {why}", self.name))
    }

    /// Does a piece of work with a camera; `ends` says that it leads back to where it began, or to either end.
    pub fn film(
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
        self.lots.push(Lot { what, photos, before, after, between: None });
    }

    /// Takes, pins and removes sets; each second day one is deleted, and each other some are pruned.
    pub fn keep_sets(&mut self, day: u64) {
        for _ in 0..2 {
            self.take(SnapshotKind::Manual);
        }
        match day % 2 {
            0 => self.delete(),
            _ => self.prune(),
        }
        for _ in 0..1 + self.random.below(3) {
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

    pub fn request(&mut self) -> SetRequest {
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
pub fn wish(
    host: &Host,
    to: &SnapshotSet,
    number: u32,
    together: Option<Together>,
    trial: Option<TrialFor>,
) -> RollbackWish {
    RollbackWish {
        session: format!("{:08x}", 0xb0000000 + number).parse().unwrap(),
        stamp: stamp(number),
        snapshot_dir: host.snapshot_dir().as_path().into(),
        to: to.clone(),
        subvolumes: host.layout().subvolumes().map(|name| name.parse().unwrap()).to_vec(),
        together,
        trial,
        fallback: None,
    }
}
