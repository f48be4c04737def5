//! A rollback on a btrfs of its own: what it does, what it leaves alone, and a death at every step.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use pc_switcher_contract::{PairEnd, PairRecord, SetId, SnapshotKind, SnapshotSet, UtcStamp};

use super::carried::carry_one_back;
use super::steps::top_of;
use super::top::Top;
use super::{Stand, redo, run, settle};
use crate::data::apply::{Unwatched, Watch};
use crate::data::tests::deaths::{At, Fault, dying};
use crate::data::tests::drive::sh;
use crate::linux::btrfs::image::Image;
use crate::linux::btrfs::{Btrfs, KernelBtrfs, SubvolumeInfo};
use crate::linux::snapshots::take_set;
use crate::linux::state::StateDir;
use crate::proto::{
    AgentError, RollbackLook, RollbackOrder, RollbackPhase, RollbackWish, TakeSet, Together, TrialFor,
    Unnamed,
};

/// Two subvolumes that are mounted, a directory for snapshots, and a set of the first state.
pub(in crate::linux) struct Scene {
    pub(super) image: Image,
    pub(in crate::linux) state: StateDir,
    set: SnapshotSet,
    pub(super) names: [String; 2],
    _dir: tempfile::TempDir,
}

pub(in crate::linux) fn later() -> UtcStamp {
    "20251118T120000Z".parse().unwrap()
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Scene {
    pub(in crate::linux) fn make() -> Option<Self> {
        let mut image = Image::make(300)?;
        // Names of their own: flat names are looked up on all file systems of this machine.
        let tag = image.dir().file_name().unwrap().to_string_lossy().trim_start_matches('.').to_owned();
        let names = ["sys", "home"].map(|name| format!("@{name}{tag}"));
        for name in names.iter().map(String::as_str).chain(["@snaps"]) {
            image.create(name);
        }
        for (at, name) in names.iter().enumerate() {
            image.bind(&format!("top/{name}"), &format!("mnt{at}"));
        }
        image.bind("top/@snaps", "snaps");
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        let set = SnapshotSet {
            hostname: "desk".parse().unwrap(),
            kind: SnapshotKind::Manual,
            stamp: "20251115T120000Z".parse().unwrap(),
            session: "0a1b2c3d".parse().unwrap(),
            consistent: true,
            members: Vec::new(),
        };
        let mut scene = Self { image, state, set, names, _dir: dir };
        scene.write("good");
        scene.take();
        scene.write("bad");
        Some(scene)
    }

    /// Takes the set that is gone back to.
    fn take(&mut self) {
        let request = TakeSet {
            session: self.set.session.clone(),
            stamp: self.set.stamp,
            kind: self.set.kind,
            snapshot_dir: self.image.dir().join("snaps").as_path().into(),
            subvolumes: self.names.iter().map(|name| name.parse().unwrap()).collect(),
        };
        self.set = take_set(&request).unwrap().0;
    }

    /// Takes another one, of what is there now.
    pub(super) fn take_anew(&mut self) {
        self.set.session = "0a1b2c3e".parse().unwrap();
        self.write("good");
        self.take();
        self.write("bad");
    }

    fn write(&self, word: &str) {
        for at in 0..2 {
            fs::write(self.image.dir().join(format!("mnt{at}/file")), word).unwrap();
        }
        assert!(sh("sync", &["-f", text(self.image.top())]));
    }

    pub(in crate::linux) fn wish(&self) -> RollbackWish {
        RollbackWish {
            session: "feedbeef".parse().unwrap(),
            stamp: "20251116T120000Z".parse().unwrap(),
            snapshot_dir: self.image.dir().join("snaps").as_path().into(),
            to: self.set.clone(),
            subvolumes: self.names.iter().map(|name| name.parse().unwrap()).collect(),
            together: None,
            trial: None,
            fallback: None,
        }
    }

    /// Prepares a rollback with another machine.
    pub(super) fn prepare_with(
        &self,
        partner: &str,
        leads: bool,
        watch: &dyn Watch,
    ) -> Result<RollbackLook, AgentError> {
        let together = Some(Together { partner: partner.parse().unwrap(), leads });
        self.order(RollbackOrder::Prepare(RollbackWish { together, ..self.wish() }), watch)
    }

    /// What the machine said of the rollback, as the other one asks for it; nothing if that may change still.
    pub(super) fn word(&self) -> Option<bool> {
        let RollbackWish { snapshot_dir, session, .. } = self.wish();
        self.order(RollbackOrder::Decided { snapshot_dir, session }, &Unwatched).unwrap().decided
    }

    pub(super) fn decided(&self) -> bool {
        self.word().unwrap()
    }

    /// A machine that waits meets the one that decides.
    pub(super) fn meet(&self, leader: &Scene) {
        let word = if leader.decided() { RollbackOrder::Commit } else { RollbackOrder::Abort };
        self.order(word, &Unwatched).unwrap();
    }

    pub(in crate::linux) fn order(
        &self,
        order: RollbackOrder,
        watch: &dyn Watch,
    ) -> Result<RollbackLook, AgentError> {
        run(&order, &self.state, watch)
    }

    pub(in crate::linux) fn roll_back(&self, watch: &dyn Watch) -> Result<RollbackLook, AgentError> {
        self.roll_back_for(None, watch)
    }

    /// As it, for so long.
    pub(in crate::linux) fn roll_back_for(
        &self,
        trial: Option<TrialFor>,
        watch: &dyn Watch,
    ) -> Result<RollbackLook, AgentError> {
        self.order(RollbackOrder::Prepare(RollbackWish { trial, ..self.wish() }), watch)?;
        self.order(RollbackOrder::Commit, watch)
    }

    /// The machine is started anew: what stands under the names is mounted.
    pub(in crate::linux) fn restart(&mut self) {
        self.restart_unsettled();
        self.settle();
    }

    /// As it, where some of what is mounted then will not be in place.
    pub(super) fn restart_unsettled(&mut self) {
        for at in 0..2 {
            assert!(sh("umount", &[text(&self.image.dir().join(format!("mnt{at}")))]));
            let name = self.names[at].clone();
            self.image.bind(&format!("top/{name}"), &format!("mnt{at}"));
        }
    }

    /// What is ours beside the snapshots.
    pub(super) fn own(&self) -> PathBuf {
        self.image.dir().join("snaps/.pc-switcher")
    }

    /// Nobody works on any of the trees any more.
    pub(super) fn unmount(&self) {
        for at in 0..2 {
            assert!(sh("umount", &[text(&self.image.dir().join(format!("mnt{at}")))]));
        }
        self.settle();
    }

    /// Waits until the trees that are not in place are mounted nowhere: whoever starts a namespace of mounts meanwhile has
    /// those of this machine in it for a moment.
    pub(super) fn settle(&self) {
        let since = Instant::now();
        while !self.order(RollbackOrder::Look, &Unwatched).unwrap().in_use.is_empty() {
            assert!(since.elapsed() < Duration::from_secs(60), "somebody has one mounted still");
            thread::yield_now();
        }
    }

    /// The machine's lock.
    pub(super) fn lock(&self) -> PathBuf {
        self.image.dir().join("lock")
    }

    /// What stands under both names, as the next start finds it.
    pub(in crate::linux) fn found(&self) -> [String; 2] {
        [0, 1].map(|at| fs::read_to_string(self.top(&self.names[at]).join("file")).unwrap())
    }

    pub(super) fn top(&self, name: &str) -> PathBuf {
        self.image.top().join(name)
    }

    /// What a set has of the file in each of the subvolumes.
    fn kept(&self, set: &SetId) -> [Option<String>; 2] {
        let snapshot = |name: &String| {
            let (kind, stamp, session) = (set.kind.in_name(), set.stamp, &set.session);
            self.image.dir().join(format!("snaps/{name}-{kind}-{stamp}-{session}/file"))
        };
        [0, 1].map(|at| fs::read_to_string(snapshot(&self.names[at])).ok())
    }

    /// Somebody puts another tree in the place of the first one, as from a live system.
    pub(in crate::linux) fn exchange_by_hand(&self) {
        let (name, other) = (self.top(&self.names[0]), self.top("other"));
        assert!(sh("btrfs", &["-q", "subvolume", "snapshot", text(&name), text(&other)]));
        fs::write(other.join("file"), "by hand").unwrap();
        fs::rename(&name, self.top("away")).unwrap();
        fs::rename(&other, &name).unwrap();
    }

    /// The trees beside those that are in place.
    pub(in crate::linux) fn beside(&self) -> usize {
        let entries = fs::read_dir(self.image.top()).unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().contains('.')).count()
    }
}

#[test]
fn subvolumes_go_back_to_a_set_and_forth_again_and_nothing_is_left_beside_them() {
    let Some(scene) = Scene::make() else { return };
    let looked = scene.order(RollbackOrder::Check(scene.wish()), &Unwatched).unwrap();
    assert_eq!((looked.problems, looked.state), (vec![], None));
    assert_eq!(scene.beside(), 0, "a look makes nothing");
    let done = scene.roll_back(&Unwatched).unwrap();
    assert_eq!(done.state.as_ref().unwrap().phase, RollbackPhase::Done);
    assert_eq!(done.in_use.len(), 2, "what is mounted works on");
    assert!(done.forbids_sync().unwrap().contains("start it anew first"));
    assert_eq!(scene.found(), ["good", "good"]);
    assert_eq!(fs::read_to_string(scene.image.dir().join("mnt0/file")).unwrap(), "bad");
    let refused = scene.order(RollbackOrder::Check(scene.wish()), &Unwatched).unwrap();
    assert!(refused.problems[0].contains("rollback confirm"), "{:?}", refused.problems);
    let waits = scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap();
    assert!(waits.state.is_some() && scene.beside() == 2, "what is mounted is not removed");
    let back = scene.order(RollbackOrder::Cancel, &Unwatched).unwrap();
    assert_eq!((back.state, scene.beside()), (None, 0));
    assert_eq!(scene.found(), ["bad", "bad"]);
    assert!(scene.state.list("").unwrap().is_empty());
}

#[test]
fn a_confirmed_rollback_leaves_the_new_trees_alone() {
    let Some(scene) = Scene::make() else { return };
    scene.roll_back(&Unwatched).unwrap();
    scene.unmount();
    let look = scene.order(RollbackOrder::Look, &Unwatched).unwrap();
    assert_eq!((look.in_use.len(), look.forbids_sync()), (0, None));
    let kept = scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap().kept.unwrap();
    assert_eq!((scene.found(), scene.beside()), (["good".into(), "good".into()], 0));
    assert!(scene.order(RollbackOrder::Cancel, &Unwatched).is_err());
    assert_eq!(scene.kept(&kept), [Some("bad".into()), Some("bad".into())], "no other set had it");
}

#[test]
fn a_tree_of_the_same_name_on_another_disk_keeps_no_former_tree_from_going() {
    let Some((mut scene, mut other)) = Scene::make().zip(Image::make(120)) else { return };
    scene.roll_back(&Unwatched).unwrap();
    let former = format!("{}.replaced-feedbeef", scene.names[1]);
    other.create(&former);
    other.bind(&format!("top/{former}"), "elsewhere");
    scene.restart();
    assert_eq!(scene.order(RollbackOrder::Look, &Unwatched).unwrap().in_use, []);
    let done = scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap();
    assert_eq!((done.state, scene.beside()), (None, 0));
    assert!(other.top().join(&former).is_dir(), "it is nobody's of ours");
}

#[test]
fn what_a_set_has_already_is_not_kept_once_more_and_what_came_since_is() {
    let Some(scene) = Scene::make() else { return };
    let names = scene.names.iter().map(|name| name.parse().unwrap()).collect();
    let safety = TakeSet {
        session: "5afe5afe".parse().unwrap(),
        stamp: "20251116T115959Z".parse().unwrap(),
        kind: SnapshotKind::PreRollback,
        snapshot_dir: scene.wish().snapshot_dir,
        subvolumes: names,
    };
    take_set(&safety).unwrap();
    scene.roll_back(&Unwatched).unwrap();
    fs::write(scene.image.dir().join("mnt1/file"), "work before the restart").unwrap();
    scene.unmount();
    let kept = scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap().kept.unwrap();
    assert_eq!(scene.kept(&kept), [None, Some("work before the restart".into())]);
    assert_eq!(scene.beside(), 0);
}

#[test]
fn work_on_the_new_trees_outlives_a_cancel_until_somebody_lets_it_go() {
    let Some(mut scene) = Scene::make() else { return };
    scene.roll_back(&Unwatched).unwrap();
    scene.restart();
    scene.write("work");
    let waits = scene.order(RollbackOrder::Cancel, &Unwatched).unwrap();
    assert_eq!(waits.in_use.len(), 2);
    scene.write("more");
    scene.unmount();
    redo(&scene.state, &Unwatched).unwrap();
    assert_eq!((scene.found(), scene.beside()), (["bad".into(), "bad".into()], 2));
    let kept = |at: usize| scene.top(&format!("{}.cancelled-feedbeef/file", scene.names[at]));
    assert_eq!([0, 1].map(|at| fs::read_to_string(kept(at)).unwrap()), ["more", "more"]);
    assert_eq!(scene.order(RollbackOrder::Look, &Unwatched).unwrap().forbids_sync(), None);
    let left = scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap();
    assert_eq!((left.state, scene.found(), scene.beside()), (None, ["bad".into(), "bad".into()], 0));
    assert!(scene.state.list("").unwrap().is_empty());
}

#[test]
fn a_key_that_came_after_a_rollback_is_carried_back_before_a_cancel_if_the_machine_runs_on_the_new_trees() {
    let Some(mut scene) = Scene::make() else { return };
    let done = scene.roll_back(&Unwatched).unwrap().state.unwrap();
    let tops: Vec<Top> = done.members.iter().map(|member| top_of(member).unwrap()).collect();
    let mount = scene.image.dir().join("mnt1");
    let keys = mount.join("alice/.ssh/authorized_keys");
    let replaced = scene.top(&format!("{}.replaced-feedbeef/alice/.ssh/authorized_keys", scene.names[1]));
    fs::create_dir_all(keys.parent().unwrap()).unwrap();
    fs::write(&keys, "on the tree from before").unwrap();
    carry_one_back(&done, &tops, keys.clone()).unwrap();
    assert_eq!(fs::read_to_string(&replaced).unwrap(), "on the tree from before", "it is not started anew");
    // It is started anew, and the keys of then came along.
    assert!(sh("umount", &[text(&mount)]));
    scene.image.bind(&format!("top/{}", scene.names[1]), "mnt1");
    fs::create_dir_all(keys.parent().unwrap()).unwrap();
    fs::write(&keys, "of now").unwrap();
    carry_one_back(&done, &tops, keys.clone()).unwrap();
    assert_eq!(fs::read_to_string(&replaced).unwrap(), "of now");
    fs::remove_file(&keys).unwrap();
    carry_one_back(&done, &tops, keys).unwrap();
    assert!(!replaced.exists(), "who was shut out stays out");
}

#[test]
fn what_is_left_of_a_confirmed_rollback_keeps_no_sync_from_starting() {
    let Some(scene) = Scene::make() else { return };
    let mut look = scene.roll_back(&Unwatched).unwrap();
    look.state.as_mut().unwrap().phase = RollbackPhase::Confirmed;
    assert_eq!(look.forbids_sync(), None);
}

#[test]
fn a_sync_between_a_rollback_and_its_cancel_leaves_no_common_past() {
    let Some(scene) = Scene::make() else { return };
    let record = |stamp: &str| {
        let end = |name: &str| PairEnd {
            hostname: name.parse().unwrap(),
            machine_id: name.into(),
            set: None,
            manifests: Vec::new(),
        };
        PairRecord {
            format: PairRecord::FORMAT,
            session: "0a1b2c3d".parse().unwrap(),
            stamp: stamp.parse().unwrap(),
            source: end("laptop"),
            target: end("desk"),
            rule_hash: String::new(),
            unsettled: Vec::new(),
            unsent: Vec::new(),
            apart: Vec::new(),
            alien: Vec::new(),
            lacking: Vec::new(),
            parts: Vec::new(),
        }
    };
    let put = |key: &str, record: &PairRecord| {
        scene.state.put(key, Some(&serde_json::to_vec_pretty(record).unwrap())).unwrap();
    };
    let read = |key: &str| -> PairRecord {
        serde_json::from_slice(&scene.state.get(key).unwrap().unwrap()).unwrap()
    };
    let (before, since) = (record("20251115T120000Z"), record("20251117T120000Z"));
    for key in ["pairs/laptop.json", "pairs/tower.json"] {
        put(key, &before);
    }
    scene.roll_back(&Unwatched).unwrap();
    put("pairs/laptop.json", &since);
    scene.order(RollbackOrder::Cancel, &Unwatched).unwrap();
    let now = read("pairs/laptop.json");
    assert!(now.format != PairRecord::FORMAT && now.stamp > since.stamp, "{now:?}");
    assert_eq!(read("pairs/tower.json"), before);
}

#[test]
fn a_journal_that_cannot_be_reached_is_not_taken_for_none() {
    let Some(scene) = Scene::make() else { return };
    scene.roll_back(&Unwatched).unwrap();
    let snaps = scene.image.dir().join("snaps");
    assert!(sh("umount", &[text(&snaps)]));
    assert!(scene.order(RollbackOrder::Look, &Unwatched).is_err());
    let RollbackWish { snapshot_dir, session, .. } = scene.wish();
    let asked = scene.order(RollbackOrder::Decided { snapshot_dir, session }, &Unwatched);
    assert!(asked.unwrap_err().message.contains("mount the snapshots"));
}

#[test]
fn a_journal_of_which_the_state_knows_nothing_is_told_and_found_again() {
    let Some(scene) = Scene::make() else { return };
    scene.roll_back(&Unwatched).unwrap();
    let before = fs::read(scene.own().join("rollback/journal.json")).unwrap();
    scene.state.put("rollback", None).unwrap();
    let looked = scene.order(RollbackOrder::Check(scene.wish()), &Unwatched).unwrap();
    let said = &looked.problems[0];
    assert!(said.contains("rollback feedbeef is not over") && said.contains("sudo tee"), "{said}");
    assert!(scene.order(RollbackOrder::Prepare(scene.wish()), &Unwatched).is_err());
    assert_eq!(fs::read(scene.own().join("rollback/journal.json")).unwrap(), before);
    // A start that does not come to its end finds it by itself.
    let stand = settle(&scene.wish().snapshot_dir, &scene.state, &Unwatched).unwrap();
    assert!(matches!(&stand, Stand::Taken(why) if why.contains("rollback confirm")), "{stand:?}");
    scene.order(RollbackOrder::Cancel, &Unwatched).unwrap();
    assert_eq!((scene.found(), scene.beside()), (["bad".into(), "bad".into()], 0));
    let stand = settle(&scene.wish().snapshot_dir, &scene.state, &Unwatched).unwrap();
    assert_eq!(stand, Stand::Free);
}

#[test]
fn a_journal_of_trees_that_somebody_has_replaced_is_set_aside_and_keeps_nobody_from_going_back() {
    let Some(mut scene) = Scene::make() else { return };
    scene.roll_back(&Unwatched).unwrap();
    scene.restart();
    fs::write(scene.own().join("rollback/worked"), "worked\n").unwrap();
    scene.exchange_by_hand();
    scene.restart();
    let dir = scene.wish().snapshot_dir;
    let strays = || scene.order(RollbackOrder::Strays(dir.clone()), &Unwatched).unwrap().strays;
    assert_eq!(strays(), [], "the state names it");
    scene.state.put("rollback", None).unwrap();
    let found = strays();
    assert_eq!((found.len(), found[0].why), (1, Unnamed::Replaced));
    let beside = [0, 1].map(|at| format!("{}.replaced-feedbeef", scene.names[at]));
    assert_eq!(found[0].beside, beside);
    let before = fs::read(found[0].place.as_path()).unwrap();
    let wish = || RollbackWish { session: "0badcafe".parse().unwrap(), ..scene.wish() };
    let looked = scene.order(RollbackOrder::Check(wish()), &Unwatched).unwrap();
    assert_eq!(looked.problems, Vec::<String>::new());
    assert_eq!(strays(), found, "a look changes nothing");
    scene.order(RollbackOrder::Prepare(wish()), &Unwatched).unwrap();
    let aside = strays();
    assert_eq!((aside.len(), aside[0].why, &aside[0].beside[..]), (1, Unnamed::Aside, &beside[..]));
    assert_eq!(fs::read(aside[0].place.as_path()).unwrap(), before);
    assert!(!scene.own().join("rollback/worked").exists(), "it was that rollback's");
    scene.order(RollbackOrder::Commit, &Unwatched).unwrap();
    assert_eq!(scene.found(), ["good", "good"]);
    assert_eq!(strays(), aside);
}

#[test]
fn a_journal_that_was_brought_from_another_disk_keeps_no_start_from_going_back() {
    let Some(scene) = Scene::make() else { return };
    scene.roll_back(&Unwatched).unwrap();
    let path = scene.own().join("rollback/journal.json");
    let mut state: crate::proto::RollbackState = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for member in &mut state.members {
        member.fs_uuid = "00000000-1111-2222-3333-444444444444".into();
    }
    fs::write(&path, serde_json::to_vec(&state).unwrap()).unwrap();
    // What was set aside once and is damaged says nothing of it.
    fs::write(path.with_file_name("aside-0badcafe-journal.json"), "{").unwrap();
    scene.state.put("rollback", None).unwrap();
    let dir = scene.wish().snapshot_dir;
    let strays = scene.order(RollbackOrder::Strays(dir.clone()), &Unwatched).unwrap().strays;
    assert_eq!((strays.len(), strays[0].why), (1, Unnamed::Replaced));
    assert_eq!(settle(&dir, &scene.state, &Unwatched).unwrap(), Stand::Free);
    assert!(scene.state.get("rollback").unwrap().is_none(), "nobody takes it for this machine's");
}

#[test]
fn a_death_after_any_step_ends_in_both_old_or_both_new_trees() {
    let Some(scene) = Scene::make() else { return };
    let mut deaths = Vec::new();
    for number in 0.. {
        let Err(step) = dying(|| scene.roll_back(&At::new(number, Fault::Die))) else { break };
        deaths.push(step);
        // The redo dies as well, at another place each time.
        let second = dying(|| redo(&scene.state, &At::new(number % 3, Fault::Die))).err();
        redo(&scene.state, &Unwatched).unwrap();
        let found = scene.found();
        let committed = ["committed", "exchange", "rename", "done"].contains(&step);
        let word = if committed { "good" } else { "bad" };
        assert_eq!(found, [word, word], "died after `{step}`, the redo after {second:?}");
        if committed {
            // And the way back dies as well.
            let second = dying(|| scene.order(RollbackOrder::Cancel, &At::new(number % 6, Fault::Die))).err();
            redo(&scene.state, &Unwatched).unwrap();
            if scene.order(RollbackOrder::Look, &Unwatched).unwrap().state.is_some() {
                scene.order(RollbackOrder::Cancel, &Unwatched).unwrap();
            }
            assert_eq!(scene.found(), ["bad", "bad"], "the way back died after {second:?}");
        }
        assert_eq!(scene.beside(), 0, "died after `{step}`");
        assert!(scene.state.list("").unwrap().is_empty(), "died after `{step}`");
    }
    for step in ["preparing", "snapshot", "carried", "prepared", "committed", "exchange", "rename", "done"] {
        assert!(deaths.contains(&step), "no death after `{step}`: {deaths:?}");
    }
}

#[test]
fn snapshots_of_other_tools_stay_as_they_are_and_none_is_gone_back_to() {
    let Some(scene) = Scene::make() else { return };
    let (dir, name) = (scene.top("btrbk_snapshots"), "home.20251115");
    fs::create_dir(&dir).unwrap();
    KernelBtrfs.snapshot(&scene.top(&scene.names[1]), &dir, name.as_ref()).unwrap();
    KernelBtrfs.set_readonly(&dir.join(name), true).unwrap();
    let look = || SubvolumeInfo { generation: 0, ..KernelBtrfs.subvolume(&dir.join(name)).unwrap() };
    let before = look();
    scene.roll_back(&Unwatched).unwrap();
    scene.order(RollbackOrder::Cancel, &Unwatched).unwrap();
    assert_eq!(look(), before);
    let mut wish = scene.wish();
    wish.to.members[1].path = dir.join(name).as_path().into();
    wish.to.members[1].uuid = before.uuid.hex();
    let looked = scene.order(RollbackOrder::Check(wish), &Unwatched).unwrap();
    assert!(looked.problems[0].contains("taken by another tool"), "{:?}", looked.problems);
}

#[test]
fn a_confirm_that_dies_after_any_step_is_not_begun_or_goes_on_to_its_end() {
    let mut deaths = Vec::new();
    for number in 0.. {
        let Some(scene) = Scene::make() else { return };
        scene.roll_back(&Unwatched).unwrap();
        scene.unmount();
        let confirm = || scene.order(RollbackOrder::Confirm(later()), &At::new(number, Fault::Die));
        let Err(step) = dying(confirm) else { break };
        deaths.push(step);
        if step != "kept" {
            assert!(scene.order(RollbackOrder::Cancel, &Unwatched).is_err(), "died after `{step}`");
        }
        redo(&scene.state, &Unwatched).unwrap();
        let (beside, word) = if step == "kept" { (2, "bad") } else { (0, "good") };
        assert_eq!(scene.beside(), beside, "died after `{step}`");
        if step == "kept" {
            scene.order(RollbackOrder::Cancel, &Unwatched).unwrap();
        }
        assert_eq!((scene.found(), scene.beside()), ([word.into(), word.into()], 0), "died after `{step}`");
        assert!(scene.state.list("").unwrap().is_empty(), "died after `{step}`");
    }
    assert_eq!(deaths, ["kept", "confirmed", "removed", "removed"]);
}
