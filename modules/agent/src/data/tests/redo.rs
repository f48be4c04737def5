//! A session that dies after any step leaves each path old or new, and a redo makes the whole tree old or new.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;

use pc_switcher_contract::{SnapshotKind, SnapshotMember, SnapshotSet};

use super::drive::{
    Disk, apply_watched, assert_same, call_with, everywhere, frames, mirror, read_frames, request, state_of,
    uuid_of, walked,
};
use super::nasty::set_mtime;
use super::plan::{normal, plan, tree};
use crate::data::apply::{self, Patience, Record, Unwatched, Watch, list_of, read_list, redo};
use crate::linux::state::StateDir;
use crate::proto::{
    AgentError, AgentErrorKind, ApplyReport, ApplyRequest, Body, Kind, Op, Redone, RedoneHow, StreamFrame,
};

/// The machine dies, or the system refuses.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Die,
    Once(Errno),
    FromThenOn(Errno),
}

/// Does something wrong after the step with this number.
struct At {
    number: usize,
    fault: Fault,
    seen: AtomicUsize,
}

/// Where a machine died.
struct Died(&'static str);

impl At {
    fn new(number: usize, fault: Fault) -> At {
        At { number, fault, seen: AtomicUsize::new(0) }
    }
}

impl Watch for At {
    fn after(&self, step: &'static str) -> Result<(), Errno> {
        let seen = self.seen.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::Die if seen == self.number => panic_any(Died(step)),
            Fault::Once(error) if seen == self.number => Err(error),
            Fault::FromThenOn(error) if seen >= self.number => Err(error),
            _ => Ok(()),
        }
    }
}

/// Runs until it ends or dies; returns where it died.
fn dying<T>(run: impl FnOnce() -> T) -> Result<T, &'static str> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let ended = catch_unwind(AssertUnwindSafe(run));
    std::panic::set_hook(hook);
    ended.map_err(|why| match why.downcast::<Died>() {
        Ok(died) => died.0,
        Err(other) => std::panic::resume_unwind(other),
    })
}

fn make_old(root: &Path) {
    let at = |name: &str| root.join(name);
    for dir in ["moved-from", "becomes-file/sub", "gone/deep", "stays"] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    for name in
        ["edited", "removed", "meta", "gone/deep/file", "becomes-dir", "stays/same", "two-a", "a-lone"]
    {
        fs::write(at(name), format!("old {name}")).unwrap();
        set_mtime(&at(name), 1_000_000, 5);
    }
    for n in 0..3 {
        fs::write(at(&format!("moved-from/{n}")), format!("moved {n}")).unwrap();
    }
    fs::write(at("becomes-file/sub/x"), "x").unwrap();
    fs::hard_link(at("two-a"), at("two-b")).unwrap();
    fs::hard_link(at("two-a"), at("two-c")).unwrap();
    symlink("somewhere", at("link")).unwrap();
}

/// Makes the new tree of an old one: every kind of step.
fn make_new(root: &Path) {
    make_old(root);
    let at = |name: &str| root.join(name);
    fs::write(at("edited"), "new edited, longer").unwrap();
    fs::remove_file(at("removed")).unwrap();
    fs::set_permissions(at("meta"), PermissionsExt::from_mode(0o600)).unwrap();
    set_mtime(&at("meta"), 1_000_000, 5);
    fs::remove_dir_all(at("gone")).unwrap();
    fs::remove_file(at("becomes-dir")).unwrap();
    fs::create_dir(at("becomes-dir")).unwrap();
    fs::write(at("becomes-dir/inside"), "inside").unwrap();
    fs::remove_dir_all(at("becomes-file")).unwrap();
    fs::write(at("becomes-file"), "file now").unwrap();
    // Of three names of one inode one goes, one becomes another file, one stays.
    fs::remove_file(at("two-a")).unwrap();
    fs::remove_file(at("two-b")).unwrap();
    fs::write(at("two-b"), "on its own").unwrap();
    fs::create_dir_all(at("fresh/tree")).unwrap();
    fs::write(at("fresh/tree/file"), "fresh").unwrap();
    fs::hard_link(at("a-lone"), at("fresh/tree/joined")).unwrap();
    fs::hard_link(at("a-lone"), at("also-lone")).unwrap();
    fs::remove_file(at("link")).unwrap();
    symlink("elsewhere", at("link")).unwrap();
    set_mtime(&at("stays"), 77, 7);
    set_mtime(root, 88, 8);
}

/// Old and new trees, and fresh targets that stand at the old one.
struct Stage<'a> {
    base: &'a Path,
    old: PathBuf,
    new: PathBuf,
}

impl Stage<'_> {
    fn make(base: &Path) -> Stage<'_> {
        let (old, new) = (base.join("old"), base.join("new"));
        fs::create_dir(&old).unwrap();
        fs::create_dir(&new).unwrap();
        make_old(&old);
        make_new(&new);
        // The same files have the same times.
        for n in 0..3 {
            for root in [&old, &new] {
                set_mtime(&root.join(format!("moved-from/{n}")), 2_000_000, n);
            }
        }
        Stage { base, old, new }
    }

    /// Returns a target that stands at the old tree.
    fn target(&self) -> PathBuf {
        let target = self.base.join("target");
        let _ = fs::remove_dir_all(&target);
        let _ = fs::remove_dir_all(state_of(&target).root());
        fs::create_dir(&target).unwrap();
        mirror(&self.old, &target);
        target
    }

    fn push(&self, target: &Path, watch: &dyn Watch) -> Result<ApplyReport, AgentError> {
        apply_watched(&self.new, target, &plan(&walked(&self.new), &walked(target)), watch)
    }

    /// Each path is its old or its new version, and what both have is there.
    fn assert_each_old_or_new(&self, target: &Path, when: &str) {
        let (old, new, now) = (faces(&self.old), faces(&self.new), faces(target));
        for (path, face) in &now {
            let known = old.get(path) == Some(face) || new.get(path) == Some(face);
            assert!(known, "{when}: `{}` is {face:?}", path.display());
        }
        for path in old.keys().filter(|path| new.contains_key(*path)) {
            assert!(now.contains_key(path), "{when}: `{}` is missing", path.display());
        }
    }
}

/// What a person sees at each path: content of files and links, nothing more of directories.
fn faces(root: &Path) -> BTreeMap<PathBuf, String> {
    let face = |path: &Path, kind: Kind| match kind {
        Kind::Dir => "directory".into(),
        Kind::Symlink => format!("link to {:?}", fs::read_link(path).unwrap()),
        _ => {
            let meta = fs::metadata(path).unwrap();
            format!("{:?} {:o} {}", fs::read(path).unwrap(), meta.mode(), meta.mtime())
        }
    };
    let tree = tree(&walked(root));
    tree.iter()
        .map(|(path, entry)| (path.as_path().to_owned(), face(&root.join(path.as_path()), entry.kind)))
        .collect()
}

fn redo_now(target: &Path, watch: &dyn Watch) -> Vec<Redone> {
    let results = redo(&state_of(target), Patience::TryAgainLater, watch).unwrap();
    let tell = |result: &Redone| state_of(target).put(&result.key(), None).unwrap();
    results.iter().for_each(tell);
    results
}

fn assert_nothing_left(target: &Path) {
    assert_eq!(state_of(target).list("").unwrap(), [""; 0]);
    if !uuid_of(target).is_empty() {
        assert!(!target.join(".pc-switcher").exists());
    }
}

/// Whether a session that died there was committed.
fn is_committed(step: &str) -> bool {
    !["entry", "open", "stage", "journal", "sync"].contains(&step)
}

#[test]
fn a_death_after_any_step_leaves_each_path_old_or_new_and_a_redo_the_tree() {
    everywhere(|base, _| {
        let stage = Stage::make(base);
        let before = normal(&walked(&stage.target()));
        let mut deaths = Vec::new();
        for number in 0.. {
            let target = stage.target();
            let Err(step) = dying(|| stage.push(&target, &At::new(number, Fault::Die))) else {
                assert_same(&stage.new, &target);
                break;
            };
            deaths.push(step);
            let when = format!("died after {number} `{step}`");
            stage.assert_each_old_or_new(&target, &when);
            // The redo dies as well, at another place each time.
            let second = dying(|| redo_now(&target, &At::new(number * 7 % 23, Fault::Die))).err();
            let when = format!("{when}, the redo after {second:?}");
            stage.assert_each_old_or_new(&target, &when);
            let results = redo_now(&target, &Unwatched);
            for result in &results {
                assert!(result.report.conflicts.is_empty(), "{when}: {result:?}");
                let finished = result.how == RedoneHow::Finished;
                assert!(finished == is_committed(step), "{when}: {result:?}");
            }
            assert_nothing_left(&target);
            match is_committed(step) {
                true => assert_same(&stage.new, &target),
                false => assert_eq!(normal(&walked(&target)), before, "{when}"),
            }
            assert!(results.len() <= 1 && redo_now(&target, &Unwatched).is_empty());
        }
        for step in
            ["entry", "open", "stage", "journal", "sync", "commit", "exchange", "take away", "link", "step"]
        {
            assert!(deaths.contains(&step), "no death after `{step}`: {deaths:?}");
        }
    });
}

#[test]
fn a_failure_once_before_the_commit_changes_nothing_and_one_after_it_is_overcome() {
    everywhere(|base, _| {
        let stage = Stage::make(base);
        let before = normal(&walked(&stage.target()));
        for (error, kind) in [(Errno::NOSPC, AgentErrorKind::NoSpace), (Errno::IO, AgentErrorKind::Failed)] {
            for number in 0.. {
                let target = stage.target();
                let watch = At::new(number, Fault::Once(error));
                let ended = stage.push(&target, &watch);
                if watch.seen.load(Ordering::SeqCst) <= number {
                    break;
                }
                match ended {
                    Err(error) => {
                        assert_eq!(error.kind, kind, "{number}: {error}");
                        assert_eq!(normal(&walked(&target)), before, "{number}");
                    }
                    Ok(report) => {
                        assert!(report.conflicts.is_empty(), "{number}: {report:?}");
                        let left = redo_now(&target, &Unwatched);
                        assert_eq!(report.failed.is_some(), !left.is_empty(), "{number}: {report:?}");
                        assert_same(&stage.new, &target);
                    }
                }
                assert_nothing_left(&target);
            }
        }
    });
}

#[test]
fn a_disk_that_stays_full_leaves_each_path_old_or_new_and_the_next_sync_heals() {
    everywhere(|base, _| {
        let stage = Stage::make(base);
        for number in 0.. {
            let target = stage.target();
            let changing = plan(&walked(&stage.new), &walked(&target));
            fs::write(target.join("edited"), "mine").unwrap();
            let watch = At::new(number, Fault::FromThenOn(Errno::NOSPC));
            let ended = apply_watched(&stage.new, &target, &changing, &watch);
            if watch.seen.load(Ordering::SeqCst) <= number {
                break;
            }
            assert_eq!(fs::read_to_string(target.join("edited")).unwrap(), "mine");
            if let Ok(report) = ended {
                let failed = report.failed.as_ref().expect("the disk stays full");
                assert_eq!(failed.kind, AgentErrorKind::NoSpace, "{number}: {failed}");
                // The conflict is told although the commit failed, unless its step never got that far.
                assert!(
                    report.conflicts.iter().any(|conflict| conflict.path.to_string().ends_with("/edited")),
                    "{report:?}"
                );
                let full = At::new(0, Fault::FromThenOn(Errno::NOSPC));
                let results = redo(&state_of(&target), Patience::TryAgainLater, &full).unwrap();
                assert!(matches!(results[0].how, RedoneHow::Pending(_) | RedoneHow::Finished), "{results:?}");
                let results = redo(&state_of(&target), Patience::GiveUp, &full).unwrap();
                let ended = |how: &RedoneHow| matches!(how, RedoneHow::GivenUp(_) | RedoneHow::Finished);
                assert!(results.iter().all(|result| ended(&result.how)), "{results:?}");
                results.iter().for_each(|result| state_of(&target).put(&result.key(), None).unwrap());
            }
            assert_nothing_left(&target);
            assert_eq!(fs::read_to_string(target.join("edited")).unwrap(), "mine");
            mirror(&stage.new, &target);
        }
    });
}

#[test]
fn what_is_written_between_a_crash_and_the_redo_stays() {
    everywhere(|base, _| {
        let stage = Stage::make(base);
        for number in 0.. {
            let target = stage.target();
            let Err(step) = dying(|| stage.push(&target, &At::new(number, Fault::Die))) else { break };
            for name in ["edited", "removed", "becomes-file", "two-b", "a-lone"] {
                let path = target.join(name);
                if path.is_dir() {
                    fs::write(path.join("late"), "mine").unwrap();
                } else {
                    fs::write(path, format!("mine {name}")).unwrap();
                }
            }
            let results = redo_now(&target, &Unwatched);
            for name in ["edited", "removed", "two-b", "a-lone"] {
                let text = fs::read_to_string(target.join(name)).unwrap();
                assert_eq!(text, format!("mine {name}"), "after {number} `{step}`: {results:?}");
            }
            let path = target.join("becomes-file");
            let kept = fs::read_to_string(path.join("late")).or_else(|_| fs::read_to_string(path)).unwrap();
            assert!(kept.starts_with("mine"), "after {number} `{step}`: {results:?}");
        }
    });
}

/// Writes through an open file once it was displaced.
struct LateWriter {
    file: fs::File,
    path: PathBuf,
    ino: u64,
}

impl Watch for LateWriter {
    fn after(&self, step: &'static str) -> Result<(), Errno> {
        let displaced = fs::symlink_metadata(&self.path).map_or(0, |meta| meta.ino()) != self.ino;
        if step == "step" && displaced {
            self.file.write_all_at(b"still writing", 0).unwrap();
        }
        Ok(())
    }
}

#[test]
fn what_is_written_to_a_displaced_version_is_kept_and_named_until_the_user_removes_it() {
    everywhere(|base, _| {
        let stage = Stage::make(base);
        let target = stage.target();
        if uuid_of(&target).is_empty() {
            return;
        }
        for (name, kept_as) in [("edited", "still writing"), ("removed", "still writing")] {
            let target = stage.target();
            let path = target.join(name);
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_len(3).unwrap();
            set_mtime(&path, 1_000_000, 6);
            let ino = file.metadata().unwrap().ino();
            let report = stage.push(&target, &LateWriter { file, path: path.clone(), ino }).unwrap();
            assert_same(&stage.new, &target);
            let [conflict] = &report.conflicts[..] else { panic!("{report:?}") };
            assert_eq!(conflict.path.as_path(), path);
            let place = conflict.why.split('`').nth(1).unwrap();
            assert!(place.ends_with(name), "{place}");
            assert_eq!(fs::read_to_string(place).unwrap(), kept_as);
            let dir = Path::new(place).parent().unwrap();
            for _ in 0..2 {
                let again = stage.push(&target, &Unwatched).unwrap();
                let named = |line: &String| line.contains(dir.to_str().unwrap());
                assert_eq!(again.warnings.iter().filter(|line| named(line)).count(), 1, "{again:?}");
            }
            assert_eq!(fs::read_to_string(place).unwrap(), kept_as);
        }
    });
}

/// Photographs the disk after each step, and has what was done so far written to it now and then.
struct Photographer<'a> {
    dir: &'a Path,
    root: fs::File,
    photos: Mutex<Vec<(&'static str, PathBuf)>>,
}

impl Watch for Photographer<'_> {
    fn after(&self, step: &'static str) -> Result<(), Errno> {
        let mut photos = self.photos.lock().unwrap();
        if photos.len().is_multiple_of(3) {
            rustix::fs::syncfs(&self.root).unwrap();
        }
        let photo = Disk::photograph(self.dir, photos.len());
        photos.push((step, photo));
        Ok(())
    }
}

#[test]
fn a_power_cut_after_any_step_leaves_each_path_old_or_new_and_a_redo_the_tree() {
    for fs_type in ["btrfs", "ext4"] {
        let Some(mut disk) = Disk::make(fs_type, 256 << 20) else { return };
        let root = disk.root.clone();
        let stage = Stage::make(&root);
        let target = stage.target();
        let before = normal(&walked(&target));
        rustix::fs::sync();
        let photographer =
            Photographer { dir: disk.dir(), root: fs::File::open(&root).unwrap(), photos: Mutex::default() };
        stage.push(&target, &photographer).unwrap();
        let Photographer { root: held, photos, .. } = photographer;
        drop(held);
        let photos = photos.into_inner().unwrap();
        assert!(photos.len() > 30, "{}", photos.len());
        for (number, (step, photo)) in photos.iter().enumerate() {
            disk.boot(photo);
            let when = format!("{fs_type}: power cut after {number} `{step}`");
            stage.assert_each_old_or_new(&target, &when);
            for result in redo_now(&target, &Unwatched) {
                assert!(result.report.conflicts.is_empty(), "{when}: {result:?}");
            }
            assert_nothing_left(&target);
            match is_committed(step) {
                true => assert_same(&stage.new, &target),
                false => assert_eq!(normal(&walked(&target)), before, "{when}"),
            }
        }
    }
}

/// Fills the disk to the last byte and the last inode that fits, right after the commit record.
struct Filler {
    dir: PathBuf,
}

impl Watch for Filler {
    fn after(&self, step: &'static str) -> Result<(), Errno> {
        if step == "commit" {
            fs::create_dir(&self.dir).unwrap();
            for size in [1 << 20, 4096, 1000] {
                let full = (0..200_000)
                    .find(|n| fs::write(self.dir.join(format!("{size}-{n}")), vec![1; size]).is_err());
                assert!(full.is_some());
            }
        }
        Ok(())
    }
}

#[test]
fn a_disk_that_fills_up_in_the_middle_of_a_commit_leaves_each_path_old_or_new_and_heals() {
    for fs_type in ["btrfs", "ext4"] {
        let Some(disk) = Disk::make(fs_type, 128 << 20) else { return };
        let stage = Stage::make(&disk.root);
        let target = stage.target();
        let dir = disk.root.join("filler");
        let report = stage.push(&target, &Filler { dir: dir.clone() }).unwrap();
        stage.assert_each_old_or_new(&target, fs_type);
        fs::remove_dir_all(&dir).unwrap();
        let results = redo_now(&target, &Unwatched);
        assert_eq!(results.is_empty(), report.failed.is_none(), "{report:?} {results:?}");
        assert_same(&stage.new, &target);
        assert_nothing_left(&target);
    }
}

/// Brings two targets to the new tree in one session.
fn push_two(
    stages: [&Stage<'_>; 2],
    targets: [&Path; 2],
    state: &StateDir,
    watch: &dyn Watch,
) -> ApplyReport {
    let (mut frames, mut reads, mut ops, mut contents) = (Vec::new(), Vec::new(), 0, 0);
    for (part, (stage, target)) in stages.into_iter().zip(targets).enumerate() {
        let mut plan = plan(&walked(&stage.new), &walked(target));
        ops += plan.ops.len() as u64;
        for op in &mut plan.ops {
            if let Op::Put { body: Body::File { content, .. }, .. } = op {
                *content += contents;
            }
        }
        plan.wants.iter_mut().for_each(|want| want.content += contents);
        contents += plan.wants.len() as u32;
        frames.push(StreamFrame::Ops { part: part as u16, ops: plan.ops });
        reads.extend(read_frames(&stage.new, plan.wants));
    }
    frames.extend(reads);
    frames.push(StreamFrame::Commit { ops, contents: contents.into() });
    let (call, _seen) = call_with(&frames);
    let mut request = request(targets[0], &uuid_of(targets[0]));
    request.parts.extend(super::drive::request(targets[1], &uuid_of(targets[1])).parts);
    apply::run(&request, &call, state, watch).unwrap()
}

#[test]
fn two_file_systems_become_new_together_or_not_at_all() {
    let (Some(one), Some(two)) = (Disk::make("ext4", 256 << 20), Disk::make("btrfs", 256 << 20)) else {
        return;
    };
    let stages = [&Stage::make(&one.root), &Stage::make(&two.root)];
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::new(dir.path());
    for number in 0.. {
        let targets = stages.map(Stage::target);
        let paths = [targets[0].as_path(), targets[1].as_path()];
        let before = paths.map(|target| normal(&walked(target)));
        let at = At::new(number, Fault::Die);
        let Err(step) = dying(|| push_two(stages, paths, &state, &at)) else { break };
        for round in [Some(number * 5 % 31), None] {
            let number = round.unwrap_or(usize::MAX);
            let _ = dying(|| redo(&state, Patience::TryAgainLater, &At::new(number, Fault::Die)).unwrap());
        }
        for ((stage, target), before) in stages.into_iter().zip(paths).zip(before) {
            match is_committed(step) {
                true => assert_same(&stage.new, target),
                false => assert_eq!(normal(&walked(target)), before, "died after {number} `{step}`"),
            }
        }
        assert_eq!(state.list("commits").unwrap(), [""; 0]);
    }
}

#[test]
fn the_list_of_steps_stays_with_the_pre_set() {
    everywhere(|base, _| {
        let stage = Stage::make(base);
        let name = "@home-presync-20251115T120000Z-0123abcd";
        let member = SnapshotMember {
            name: name.parse().unwrap(),
            path: base.join("snapshots").join(name).as_path().into(),
            uuid: String::new(),
            source_uuid: String::new(),
            id: 0,
            otransid: 0,
            ctransid: 0,
        };
        let set = SnapshotSet {
            hostname: "desk".parse().unwrap(),
            kind: SnapshotKind::PreSync,
            stamp: member.name.stamp,
            session: member.name.session.clone(),
            consistent: true,
            members: vec![member],
        };
        let list = list_of(&set).unwrap();
        for fault in [None, Some(8)] {
            let target = stage.target();
            let planned = plan(&walked(&stage.new), &walked(&target));
            fs::write(target.join("edited"), "mine").unwrap();
            let (call, _seen) = call_with(&frames(&stage.new, &planned));
            let request = ApplyRequest { pre_set: Some(set.clone()), ..request(&target, &uuid_of(&target)) };
            let at = At::new(fault.unwrap_or(usize::MAX), Fault::Die);
            let died = dying(|| apply::run(&request, &call, &state_of(&target), &at).unwrap()).is_err();
            assert_eq!(died, fault.is_some());
            redo_now(&target, &Unwatched);
            let records: Vec<Record> = read_list(list.as_path()).unwrap().unwrap().collect();
            let steps: Vec<&Op> = records
                .iter()
                .flat_map(|record| if let Record::Ops { ops, .. } = record { &ops[..] } else { &[] })
                .collect();
            assert_eq!(steps, planned.ops.iter().collect::<Vec<_>>());
            let left = target.join("edited").as_path().into();
            assert!(records.contains(&Record::Left(vec![left])), "{:?}", records.last());
            fs::remove_dir_all(list.as_path()).unwrap();
        }
    });
}
