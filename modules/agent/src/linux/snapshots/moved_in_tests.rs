//! Sets that come from another directory.

use std::fs;
use std::path::PathBuf;

use super::tests::Bench;
use super::*;
use crate::linux::btrfs::model::Fault;
use crate::proto::Maker;

const NAME: &str = "@home-presync-20251115T120000Z-abc12345";

/// Two directories: where sets lie, and where they lay.
struct Move {
    bench: Bench,
}

impl Move {
    fn new() -> Self {
        let bench = Bench::new();
        fs::create_dir(bench.top.join("@/before")).unwrap();
        Self { bench }
    }

    fn old(&self) -> PathBuf {
        self.bench.top.join("@/before")
    }

    fn take_before(&self, session: &str) -> SnapshotSet {
        self.bench.take_in(&Store::new(&self.bench.model, &self.old()), session).unwrap().0
    }

    fn adopt(&self, dir: PathBuf) -> Result<Adopted, AgentError> {
        let request = AdoptRequest {
            snapshot_dir: self.bench.dir().as_path().into(),
            from: Maker::Orphan,
            dirs: vec![dir.as_path().into()],
        };
        let mounts = Mounts::parse(b"20 1 8:1 / / rw - ext4 x rw\n");
        self.bench.store().adopt(&mounts, &"laptop".parse().unwrap(), &request)
    }
}

#[test]
fn sets_of_another_directory_come_in_whole_with_what_was_said_of_them_and_stay_where_they_were() {
    let moved = Move::new();
    let before = moved.take_before("abc12345");
    let second = moved.take_before("abc12346");
    let old = Store::new(&moved.bench.model, &moved.old());
    old.say(&before.id(), |meta| meta.words.note = Some("the last one that prints".into())).unwrap();
    let young = moved.bench.take("abc12347").unwrap();
    fs::remove_dir_all(moved.old().join(".pc-switcher/sets").join(second.id().to_string())).unwrap();

    let adopted = moved.adopt(moved.old()).unwrap();
    assert_eq!((adopted.sets, adopted.left, adopted.known), (vec![before.id(), second.id()], vec![], 0));
    let (sets, strays) = moved.bench.list();
    assert!(strays.orphans.is_empty(), "{strays:?}");
    let came = &sets[0];
    assert_eq!((came.set.id(), came.set.members.len(), came.pinned), (before.id(), 2, true));
    assert_eq!(came.words.note.as_deref(), Some("the last one that prints"));
    assert!(sets[1].words.note.as_ref().unwrap().contains("@/before"), "{:?}", sets[1].words);
    let order: Vec<u64> = sets.iter().map(|stored| stored.set.transaction()).collect();
    assert_eq!(order, [before.transaction(), second.transaction(), young.transaction()]);
    let by_btrfs = |set: &SnapshotSet| set.members[0].otransid;
    assert!(by_btrfs(&came.set) > by_btrfs(&young), "btrfs made it last");
    let member = came.set.members.iter().find(|member| member.name.to_string() == NAME).unwrap();
    check_member(&moved.bench.model, member).unwrap();
    assert_eq!(fs::read_to_string(member.path.as_path().join("letter")).unwrap(), "dear");
    assert!(moved.old().join(NAME).exists(), "what it was made of stays");

    let again = moved.adopt(moved.old()).unwrap();
    assert_eq!((again.sets, again.left, again.known), (vec![], vec![], 2));
    // And once more, with its record: it is as old as before.
    let third = Store::new(&moved.bench.model, &moved.bench.top.join("@home/third"));
    fs::create_dir(third.dir()).unwrap();
    let request = AdoptRequest {
        snapshot_dir: third.dir().into(),
        from: Maker::Orphan,
        dirs: vec![moved.bench.dir().as_path().into()],
    };
    third.adopt(&Mounts::parse(b""), &"laptop".parse().unwrap(), &request).unwrap();
    assert_eq!(third.published(&before.id()).unwrap().set.transaction(), before.transaction());
    let own = moved.adopt(moved.bench.dir()).unwrap_err();
    assert!(own.message.contains("without `--dir`"), "{own}");
    assert!(moved.adopt(moved.old().join("nowhere")).unwrap_err().message.contains("cannot read"));
}

#[test]
fn a_set_that_was_moved_twice_is_known_in_each_directory_that_it_came_from() {
    let moved = Move::new();
    let before = moved.take_before("abc12345");
    let model = &moved.bench.model;
    assert_eq!(moved.adopt(moved.old()).unwrap().sets, [before.id()]);
    let third = Store::new(model, &moved.bench.top.join("@home/third"));
    fs::create_dir(third.dir()).unwrap();
    let come_in = |dirs: &[PathBuf]| {
        let request = AdoptRequest {
            snapshot_dir: third.dir().into(),
            from: Maker::Orphan,
            dirs: dirs.iter().map(|dir| dir.as_path().into()).collect(),
        };
        third.adopt(&Mounts::parse(b""), &"laptop".parse().unwrap(), &request).unwrap()
    };
    let (second, first) = (moved.bench.dir().to_path_buf(), moved.old());
    assert_eq!(come_in(std::slice::from_ref(&second)).sets, [before.id()]);
    let again = come_in(&[first.clone(), second]);
    assert_eq!((again.sets, again.left, again.known), (vec![], vec![], 2));

    // What may be written to is another state.
    model.set_readonly(&first.join(NAME), false).unwrap();
    let changed = come_in(&[first]);
    assert_eq!((changed.known, changed.left.len()), (0, 1), "{changed:?}");
}

#[test]
fn members_of_several_instants_are_not_made_one_by_coming_in_together() {
    let moved = Move::new();
    let before = moved.take_before("abc12345");
    let model = &moved.bench.model;
    let name = before.members[1].name.to_string();
    model.destroy(&moved.old(), name.as_ref()).unwrap();
    moved.bench.take("abc12346").unwrap();
    model.snapshot(&moved.bench.top.join("@home"), &moved.old(), name.as_ref()).unwrap();
    model.set_readonly(&moved.old().join(&name), true).unwrap();
    assert_eq!(moved.adopt(moved.old()).unwrap().sets, [before.id()]);
    let (sets, _) = moved.bench.list();
    let [one, two] = [0, 1].map(|at| sets[0].set.members[at].order());
    assert!(before.consistent && !sets[0].set.consistent && one < two, "{sets:?}");
}

#[test]
fn what_was_changed_or_is_no_snapshot_stays_outside_and_a_failure_leaves_nothing_half() {
    let moved = Move::new();
    moved.take_before("abc12345");
    fs::create_dir(moved.old().join("@home-presync-20251115T120000Z-00000001")).unwrap();
    fs::create_dir(moved.old().join("%2Fhome-manual-20251115T120000Z-00000002")).unwrap();
    moved.bench.model.set_readonly(&moved.old().join(NAME), false).unwrap();
    let adopted = moved.adopt(moved.old()).unwrap();
    assert_eq!(adopted.left.len(), 3, "{adopted:?}");
    let why = |word: &str| adopted.left.iter().any(|(_, why)| why.contains(word));
    assert!(why("it is writable") && why("is a copy of a directory"), "{adopted:?}");
    let (sets, _) = moved.bench.list();
    assert_eq!((sets.len(), sets[0].set.members.len()), (1, 1), "the other member came in");

    let moved = Move::new();
    moved.take_before("abc12345");
    moved.bench.model.fail(Fault::Snapshot(1, libc::ENOSPC));
    assert_eq!(moved.adopt(moved.old()).unwrap_err().kind, crate::proto::AgentErrorKind::NoSpace);
    assert!(moved.bench.left().is_empty() && moved.bench.sidecars().is_empty());
}
