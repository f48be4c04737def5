//! Sets over two file systems, on real ones.

use std::cell::Cell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use pc_switcher_contract::{BytePath, SnapshotKind};

use super::tests::{OFF, request};
use super::*;
use crate::data::apply::Unwatched;
use crate::linux::btrfs::image::Image;
use crate::linux::layout::layout;
use crate::linux::rollback;
use crate::linux::state::StateDir;
use crate::proto::{
    DiffEnd, Finding, Gain, LayoutRequest, PinOrder, RestorePlace, RollbackOrder, RollbackWish, decode,
};

/// Two disks: that of the snapshot directory, and another whose snapshots lie in a place of their own.
pub(super) struct Two {
    // What is mounted on the other goes first.
    pub(super) other: Image,
    pub(super) place: PathBuf,
    pub(super) main: Image,
    pub(super) names: [String; 3],
}

impl Two {
    /// `tag` tells its subvolumes from those of other tests.
    pub(super) fn make(tag: &str) -> Option<Self> {
        Self::make_at(tag, "snaps")
    }

    /// As [`Two::make`], with the place of the other disk mounted there.
    pub(super) fn make_at(tag: &str, place: &str) -> Option<Self> {
        let (main, mut other) = (Image::make(256)?, Image::make(256)?);
        let names = ["one", "two", "far"].map(|name| format!("@{tag}-{name}"));
        for name in [&names[0], &names[1], "@snapshots"] {
            main.create(name);
        }
        other.create(&names[2]);
        other.create("@snapshots");
        let place = other.bind("top/@snapshots", place);
        fs::write(main.top().join(&names[0]).join("file"), "near").unwrap();
        fs::write(other.top().join(&names[2]).join("file"), "far").unwrap();
        Some(Self { other, place, main, names })
    }

    pub(super) fn dir(&self) -> PathBuf {
        self.main.top().join("@snapshots")
    }

    pub(super) fn store(&self) -> Store<'_> {
        Store { root: self.dir(), ..Store::new(&KernelBtrfs, &self.dir()) }
    }

    pub(super) fn far(&self) -> PathBuf {
        self.other.top().join(&self.names[2])
    }

    pub(super) fn take_in(
        &self,
        store: &Store<'_>,
        session: &str,
        names: &[usize],
    ) -> Result<SnapshotSet, AgentError> {
        let names: Vec<&str> = names.iter().map(|at| self.names[*at].as_str()).collect();
        let request = request(&self.dir(), session, &names);
        let mounts = Mounts::read().unwrap();
        set::take(store, &mounts, "laptop".parse().unwrap(), &request, &Said::default()).map(|(set, _)| set)
    }

    pub(super) fn take(&self, session: &str) -> SnapshotSet {
        self.take_in(&self.store(), session, &[0, 1, 2]).unwrap()
    }

    pub(super) fn list(&self) -> (Vec<StoredSet>, Strays) {
        let mut sets = Vec::new();
        let strays = self.store().list(&|_| Vec::new(), &mut |set| {
            sets.push(set);
            Ok(())
        });
        (sets, strays.unwrap())
    }

    /// What stands in both directories and in both nurseries.
    pub(super) fn left(&self) -> Vec<String> {
        let names = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten();
        let all = [self.dir(), self.place.clone()].into_iter().flat_map(|dir| {
            names(dir.clone()).chain(names(dir.join(".pc-switcher/tmp"))).collect::<Vec<_>>()
        });
        all.map(|entry| entry.file_name().into_string().unwrap())
            .filter(|name| name != ".pc-switcher")
            .collect()
    }

    fn findings(&self) -> Vec<String> {
        let (call, frames) = Call::for_test(Vec::new());
        self.store().verify(&[], true, &call).unwrap();
        drop(call);
        let mut input = std::io::Cursor::new(frames.try_iter().flatten().collect::<Vec<u8>>());
        let mut found = Vec::new();
        while let Ok(Some(frame)) = crate::frame::read(&mut input) {
            found.push(decode::<Finding>(&frame.body).unwrap().what);
        }
        found
    }

    fn gains(&self) -> Vec<Gain> {
        let (call, frames) = Call::for_test(Vec::new());
        self.store().gains(&Mounts::read().unwrap(), &call).unwrap();
        drop(call);
        let mut input = std::io::Cursor::new(frames.try_iter().flatten().collect::<Vec<u8>>());
        let mut found = Vec::new();
        while let Ok(Some(frame)) = crate::frame::read(&mut input) {
            found.push(decode(&frame.body).unwrap());
        }
        found
    }

    /// Has the other disk leave.
    pub(super) fn detach(&self) {
        unmount(&self.place);
    }

    /// Has it come back.
    pub(super) fn attach(&self) {
        mount(&[Path::new("--bind"), &self.other.top().join("@snapshots"), &self.place]);
    }

    /// Every set that is listed is whole; how many there are.
    fn whole(&self) -> usize {
        let (sets, strays) = self.list();
        for stored in &sets {
            assert!(stored.missing.is_empty() && stored.away.is_empty(), "{stored:?}");
            check_set(&stored.set).unwrap();
        }
        assert_eq!(strays, Strays::default());
        sets.len()
    }
}

pub(super) fn mount(args: &[&Path]) {
    assert!(Command::new("mount").args(args).status().unwrap().success(), "{args:?}");
}

pub(super) fn unmount(point: &Path) {
    assert!(Command::new("umount").arg(point).status().unwrap().success(), "{point:?}");
}

#[test]
fn a_set_over_two_disks_is_one_instant_on_each_and_its_record_says_which_members_are() {
    let Some(two) = Two::make("inst") else { return };
    let mut consistent = 0;
    let mut last = 0;
    for n in 0..10 {
        let set = two.take(&format!("{n:08x}"));
        let groups = set.by_file_system();
        let names: Vec<Vec<&str>> = groups
            .iter()
            .map(|group| group.iter().map(|member| member.name.subvolume.as_str()).collect())
            .collect();
        assert_eq!(names, [vec![two.names[0].as_str(), &two.names[1]], vec![&two.names[2]]]);
        if set.consistent {
            assert_eq!(groups[0][0].otransid, groups[0][1].otransid);
            consistent += 1;
        }
        assert_eq!(groups[1][0].path.parent().unwrap(), two.place.as_path().into());
        assert!(set.is_spread() && set.transaction() > last, "{set:?}");
        last = set.transaction();
        check_set(&set).unwrap();
        let meta = two.store().published(&set.id()).unwrap();
        assert_eq!(meta.set, set);
    }
    assert!(consistent >= 7, "{consistent} of 10");
    assert_eq!((two.whole(), two.left().len()), (10, 30), "nothing is left of births");
    assert_eq!(two.findings(), [""; 0]);
    let far = two.list().0[0].set.members[2].path.clone();
    assert_eq!(fs::read_to_string(far.as_path().join("file")).unwrap(), "far");
}

#[test]
fn what_lies_on_the_other_disk_is_compared_brought_back_and_removed_like_all_else() {
    let Some(two) = Two::make("work") else { return };
    let before = two.take("aaaaaaaa");
    fs::write(two.far().join("file"), "farther").unwrap();
    let after = two.take("bbbbbbbb");
    let (call, frames) = Call::for_test(Vec::new());
    let wanted = DiffRequest {
        snapshot_dir: two.dir().as_path().into(),
        from: before.id(),
        to: DiffEnd::Set(after.id()),
        path: None,
        uid: 0,
    };
    let diffed = diff(&wanted, &call).unwrap();
    drop(call);
    assert_eq!((diffed.compared.len(), diffed.alone.len()), (3, 0));
    let mut input = std::io::Cursor::new(frames.try_iter().flatten().collect::<Vec<u8>>());
    let mut changed = Vec::new();
    while let Ok(Some(frame)) = crate::frame::read(&mut input) {
        changed.extend(
            decode::<Vec<crate::proto::Change>>(&frame.body).unwrap().into_iter().map(|one| one.path),
        );
    }
    assert_eq!(changed, [BytePath::from(two.far().join("file").as_path())]);

    let safety = CreateSet {
        set: TakeSet { kind: SnapshotKind::Manual, ..request(&two.dir(), "cccccccc", &[]) },
        words: Words::default(),
        pinned: false,
        copies: Default::default(),
    };
    let request = RestoreRequest {
        snapshot_dir: two.dir().as_path().into(),
        id: before.id(),
        paths: vec![two.far().join("file").as_path().into()],
        place: RestorePlace::InPlace(Box::new(safety)),
        stamp: "20251120T080000Z".parse().unwrap(),
        tag: "fedcba98".parse().unwrap(),
        uid: 0,
    };
    let (call, _frames) = Call::for_test(Vec::new());
    let done = restore(&request, &call).unwrap();
    let RestoreReply::Done { safety: Some(safety), .. } = done else { panic!("{done:?}") };
    assert_eq!(fs::read_to_string(two.far().join("file")).unwrap(), "far");
    let gains = two.gains();
    assert_eq!(
        gains.iter().map(|gain| gain.data_bytes).collect::<Vec<_>>(),
        [0, 0, 0],
        "nothing was written there"
    );
    let kept = two.store().published(&safety).unwrap().set;
    assert_eq!(kept.members.len(), 1, "it holds what was changed, which lies on the other disk alone");
    assert!(kept.transaction() > after.transaction() && kept.dir() == Some(two.dir().as_path().into()));
    assert_eq!(fs::read_to_string(kept.members[0].path.as_path().join("file")).unwrap(), "farther");

    drop_set(&kept).unwrap();
    let done = two.store().delete_all(&[before.id(), after.id()], || Ok(Needs::default())).unwrap();
    assert!(done.iter().all(|(_, why)| why.is_none()), "{done:?}");
    assert_eq!((two.whole(), two.left()), (0, vec![]));
}

#[test]
fn what_lies_on_a_disk_that_is_away_is_neither_gone_nor_forgotten() {
    let Some(two) = Two::make("away") else { return };
    let set = two.take("aaaaaaaa");
    unmount(&two.place);
    let (sets, strays) = two.list();
    assert_eq!((sets[0].missing.len(), sets[0].away.len(), strays), (0, 1, Strays::default()));
    assert!(sets[0].away[0].1.contains("is not mounted at"), "{sets:?}");
    assert!(check_set(&set).unwrap_err().contains("is not mounted"));
    assert!(two.findings()[0].contains("is not mounted"), "{:?}", two.findings());
    let error = two.store().delete(&set.id(), || Ok(Vec::new())).unwrap_err();
    assert!(error.message.contains("mount it and try again"), "{error}");
    let refused = two.take_in(&two.store(), "bbbbbbbb", &[0, 2]).unwrap_err();
    assert!(refused.message.contains("pc-switcher doctor"), "{refused}");
    // One that was condemned before the disk went is removed when it is back.
    two.store().sidecar(&set.id()).unpublish().unwrap();
    two.take_in(&two.store(), "cccccccc", &[0, 1]).unwrap();
    assert!(two.store().sidecar(&set.id()).intent(&set.id()).is_some(), "what names it stays");
    mount(&[Path::new("--bind"), &two.other.top().join("@snapshots"), &two.place]);
    assert!(set.members[2].path.as_path().is_dir());
    two.take_in(&two.store(), "dddddddd", &[0, 1]).unwrap();
    assert_eq!((two.whole(), two.left().len()), (2, 4));
}

#[test]
fn a_death_at_any_step_leaves_whole_sets_on_both_disks_and_nothing_else_in_the_end() {
    let Some(two) = Two::make("dies") else { return };
    let dies = |n: usize, work: &dyn Fn(&Store<'_>)| {
        let left = Cell::new(n);
        let after = |_: &'static str| {
            assert_ne!(left.get(), 0, "killed");
            left.set(left.get() - 1);
        };
        let store = Store { after: &after, ..two.store() };
        catch_unwind(AssertUnwindSafe(|| work(&store))).is_err()
    };
    let foreign = two.place.join("@dies-far-presync-20251115T110000Z-dead0000");
    KernelBtrfs.snapshot(&two.far(), &two.place, foreign.file_name().unwrap()).unwrap();
    let (mut taken, mut removed) = (0, 0);
    let clear = || {
        for stored in two.list().0 {
            two.store().delete(&stored.set.id(), || Ok(Vec::new())).unwrap();
        }
        assert_eq!(two.left().len(), 1, "one that nobody of us made stays");
    };
    while dies(taken, &|store| drop(two.take_in(store, "bbbbbbbb", &[0, 1, 2]).unwrap())) {
        let before = two.whole();
        two.take("cccccccc");
        assert_eq!((two.whole(), two.left().len()), (before + 1, 3 * (before + 1) + 1), "step {taken}");
        clear();
        taken += 1;
    }
    clear();
    loop {
        let id = two.take("bbbbbbbb").id();
        let died = dies(removed, &|store| store.delete(&id, || Ok(Vec::new())).unwrap());
        assert_eq!(two.whole(), 0, "its toc went first");
        two.take("cccccccc");
        assert_eq!((two.whole(), two.left().len()), (1, 4), "step {removed}");
        clear();
        if !died {
            break;
        }
        removed += 1;
    }
    assert!(foreign.is_dir() && taken >= 8 && removed == 8, "{taken} {removed}");
}

#[test]
fn a_hard_pin_holds_what_lies_on_the_disk_of_the_records() {
    let Some(two) = Two::make("pins") else { return };
    let set = two.take("aaaaaaaa");
    two.store().pin_as(&set.id(), &PinOrder::Hard).unwrap();
    let stored = &two.list().0[0];
    assert_eq!(stored.hard.as_ref().unwrap().lacks, [set.members[2].name.clone()]);
    KernelBtrfs.destroy(&two.place, set.members[2].name.to_string().as_ref()).unwrap();
    assert_eq!(two.list().0[0].lost().collect::<Vec<_>>(), [&set.members[2].name]);
    two.store().pin_as(&set.id(), &OFF).unwrap();
    let far = two.take_in(&two.store(), "bbbbbbbb", &[2]).unwrap();
    let error = two.store().pin_as(&far.id(), &PinOrder::Hard).unwrap_err();
    assert!(error.message.contains("other file systems"), "{error}");
    for id in [set.id(), far.id()] {
        two.store().delete(&id, || Ok(Vec::new())).unwrap();
    }
    assert_eq!(two.left(), [""; 0]);
}

#[test]
fn a_layout_says_where_the_snapshots_of_another_disk_go_and_which_names_are_taken_twice() {
    let Some(two) = Two::make("lays") else { return };
    let wanted = LayoutRequest {
        folders: vec![two.far().as_path().into()],
        subvolumes: vec![two.names[0].parse().unwrap()],
        snapshot_dir: two.dir().as_path().into(),
        nested: Vec::new(),
    };
    let found = layout(&wanted).unwrap();
    assert_eq!((found.others.len(), found.doubled.len()), (1, 0), "{found:?}");
    assert_eq!(found.others[0].dir, Some(two.place.as_path().into()));
    assert!(found.others[0].has_subvolume && found.others[0].is_open, "btrfs makes them for all");
    unmount(&two.place);
    let found = layout(&wanted).unwrap();
    assert_eq!((found.others[0].dir.clone(), found.others[0].has_subvolume), (None, true));
    // One of that name is on the disk of the snapshots as well, and is what the name means.
    two.main.create(&two.names[2]);
    let found = layout(&LayoutRequest { subvolumes: vec![two.names[2].parse().unwrap()], ..wanted }).unwrap();
    assert_eq!(found.doubled.len(), 1, "{found:?}");
    assert_eq!(found.doubled[0].mount_point, two.far().as_path().into());
    mount(&[Path::new("--bind"), &two.other.top().join("@snapshots"), &two.place]);
}

#[test]
fn a_rollback_leaves_the_other_disk_which_need_not_be_there() {
    let Some(two) = Two::make("back") else { return };
    let set = two.take("aaaaaaaa");
    let dir = tempfile::tempdir().unwrap();
    let check = |names: &[usize]| {
        let wish = RollbackWish {
            session: "feedbeef".parse().unwrap(),
            stamp: "20251116T120000Z".parse().unwrap(),
            snapshot_dir: two.dir().as_path().into(),
            to: set.clone(),
            subvolumes: names.iter().map(|at| two.names[*at].parse().unwrap()).collect(),
            together: None,
            trial: None,
            fallback: None,
        };
        rollback::run(&RollbackOrder::Check(wish), &StateDir::new(dir.path()), &Unwatched).unwrap().problems
    };
    assert_eq!(check(&[0, 1]), [""; 0]);
    assert!(check(&[0, 2])[0].contains("lies on another file system"), "{:?}", check(&[0, 2]));
    unmount(&two.place);
    assert_eq!(check(&[0, 1]), [""; 0], "it goes back without that disk");
    mount(&[Path::new("--bind"), &two.other.top().join("@snapshots"), &two.place]);
}

#[test]
fn what_a_session_holds_on_each_disk_is_told_apart() {
    let Some(two) = Two::make("room") else { return };
    let [near, far] = [two.main.top().join(&two.names[0]), two.far()];
    fs::write(near.join("large"), super::gains_tests::noise(1, 1 << 20)).unwrap();
    fs::write(far.join("large"), super::gains_tests::noise(2, 3 << 20)).unwrap();
    two.take("aaaaaaaa");
    for dir in [&near, &far] {
        fs::remove_file(dir.join("large")).unwrap();
    }
    two.take("bbbbbbbb");
    let gains: Vec<(u64, u64)> =
        two.gains().into_iter().map(|gain| (gain.data_bytes, gain.elsewhere_bytes)).collect();
    assert_eq!(gains, [(1 << 20, 3 << 20), (0, 0)]);
}
