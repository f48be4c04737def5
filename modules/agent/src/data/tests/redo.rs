//! A session that dies after any step leaves each path old or new, and a redo makes the whole tree old or new.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;

use pc_switcher_contract::{SnapshotKind, SnapshotMember, SnapshotSet};
use rustix::io::Errno;

use super::deaths::{At, Fault, Stage, assert_nothing_left, dying, is_committed, redo_now};
use super::drive::{
    Disk, apply_frames, apply_watched, assert_same, call_with, everywhere, frames, mirror, read_frames,
    request, state_of, uuid_of, walked,
};
use super::nasty::set_mtime;
use super::plan::{normal, plan};
use crate::data::apply::{self, Record, Unwatched, Watch, list_of, read_list, redo};
use crate::linux::state::StateDir;
use crate::proto::{AgentErrorKind, ApplyReport, ApplyRequest, Body, Op, Patience, RedoneHow, StreamFrame};

#[test]
fn a_death_after_any_step_leaves_each_path_old_or_new_and_a_redo_the_tree() {
    everywhere(|base, _| {
        let stage = Stage::with_ways(base);
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
        for step in [
            "entry",
            "open",
            "stage",
            "journal",
            "sync",
            "decide",
            "commit",
            "exchange",
            "take away",
            "link",
            "step",
        ] {
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

#[test]
fn a_program_that_holds_a_displaced_version_open_is_named_whenever_it_opened_it() {
    everywhere(|base, _| {
        let stage = Stage::make(base);
        let target = stage.target();
        // Between the plan and the commit, without a change to the file.
        let hold = |name: &str| {
            let file = fs::File::options().append(true).open(target.join(name)).unwrap();
            Command::new("sleep").arg("60").stdout(file).spawn().unwrap()
        };
        let mut programs = ["edited", "removed"].map(hold);
        let report = stage.push(&target, &Unwatched).unwrap();
        for (program, name) in programs.iter_mut().zip(["edited", "removed"]) {
            program.kill().unwrap();
            program.wait().unwrap();
            let path = target.join(name);
            let who = format!("`{}` was replaced while `sleep` (process {})", path.display(), program.id());
            assert_eq!(report.warnings.iter().filter(|line| line.contains(&who)).count(), 1, "{report:?}");
        }
        assert_same(&stage.new, &target);
    });
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

#[test]
fn an_entry_that_cannot_be_read_is_told_once_and_its_staging_swept() {
    everywhere(|base, _| {
        let stage = Stage::make(base);
        let target = stage.target();
        assert_eq!(dying(|| stage.push(&target, &At::new(4, Fault::Die))).unwrap_err(), "sync");
        let (state, key) = (state_of(&target), "commits/0123abcd");
        state.put(key, Some(b"\xff of another version")).unwrap();
        let results = redo(&state, Patience::TryAgainLater, &Unwatched).unwrap();
        let [result] = results.as_slice() else { panic!("{results:?}") };
        assert_eq!(result.session.as_str(), "0123abcd");
        let told = result.explain();
        for part in [state.root().join(key).to_str().unwrap(), "another version", "swept", "plans anew"] {
            assert!(told.contains(part), "`{part}` is missing: {told}");
        }
        assert_eq!(state.get(key).unwrap(), None);
        assert_eq!(redo_now(&target, &Unwatched), results, "until somebody was told");
        assert!(redo_now(&target, &Unwatched).is_empty());
        assert!(target.join(".pc-switcher").exists());
        mirror(&stage.new, &target);
        assert_nothing_left(&target);
    });
}

/// Brings two targets to the new tree in one session.
pub fn push_two(
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
            first_taken: None,
            apart: None,
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
            let records: Vec<Record> =
                read_list(list.as_path()).unwrap().unwrap().map(Result::unwrap).collect();
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

/// Contents of all files below a directory, ours included.
fn contents(root: &Path) -> std::collections::HashSet<Vec<u8>> {
    let (mut todo, mut found) = (vec![root.to_owned()], std::collections::HashSet::new());
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_file() {
                found.insert(fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

#[test]
fn what_a_commit_that_is_given_up_has_displaced_stays_where_no_snapshot_holds_it() {
    let (Some(plain), Some(other)) = (Disk::make("ext4", 256 << 20), Disk::make("btrfs", 256 << 20)) else {
        return;
    };
    let (plain, other) = (Stage::make(&plain.root), Stage::make(&other.root));
    for lost in [Lost::Other, Lost::First, Lost::Staging, Lost::Journal] {
        given_up(&plain, &other, lost);
    }
}

/// What cannot be reached any more of a session of two parts, of which the first has the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// The second part.
    Other,
    /// The first one.
    First,
    /// What the session has in the first one; something of another session is there still.
    Staging,
    /// Nothing but the journal, which cannot be read.
    Journal,
}

impl Lost {
    /// Loses it, below the root that it concerns.
    fn lose(self, root: &Path) {
        let home = root.join(".pc-switcher");
        if matches!(self, Lost::Other | Lost::First) {
            return fs::remove_dir_all(home).unwrap();
        }
        for entry in fs::read_dir(&home).unwrap().map(Result::unwrap) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if self == Lost::Staging && (name.starts_with("stage-") || name.starts_with("undo-")) {
                fs::remove_dir_all(entry.path()).unwrap();
            } else if self == Lost::Journal && name.starts_with("stage-") {
                let journal = entry.path().join("journal");
                fs::remove_file(&journal).unwrap();
                // It can be opened, and reading it is an error.
                fs::create_dir(&journal).unwrap();
            }
        }
        fs::create_dir_all(home.join("kept-89abcdef")).unwrap();
    }
}

/// Loses something in the middle of a commit, and starts another sync.
fn given_up(plain: &Stage<'_>, other: &Stage<'_>, lost: Lost) {
    let is_first = matches!(lost, Lost::First | Lost::Staging);
    let stages = if is_first { [other, plain] } else { [plain, other] };
    let at = usize::from(is_first);
    let gone = if lost == Lost::Journal { at } else { 1 - at };
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::new(dir.path());
    let (mut met, mut number, mut stride) = (Vec::new(), 0, 5);
    loop {
        number += stride;
        let targets = stages.map(Stage::target);
        let paths = [targets[0].as_path(), targets[1].as_path()];
        let before = contents(paths[at]);
        let died = dying(|| push_two(stages, paths, &state, &At::new(number, Fault::Die)));
        let Err(step) = died else { break };
        let so_far = |step| met.iter().filter(|other| **other == step).count();
        if ["exchange", "take away", "step"].into_iter().all(|step| so_far(step) == 2) {
            break;
        }
        let has_begun =
            fs::read_dir(paths[at].join(".pc-switcher")).unwrap().map(Result::unwrap).any(|entry| {
                let is_undo = entry.file_name().to_string_lossy().starts_with("undo-");
                is_undo && fs::read_dir(entry.path()).unwrap().count() > 0
            });
        if has_begun {
            stride = 1;
        }
        let is_wanted = matches!(step, "exchange" | "take away" | "step") && so_far(step) < 2;
        if is_wanted && has_begun {
            lost.lose(paths[gone]);
            let results = redo(&state, Patience::GiveUp, &Unwatched).unwrap();
            assert!(matches!(results[0].how, RedoneHow::GivenUp(_)), "{results:?}");
            assert_eq!(results[0].report.warnings, [""; 0], "died after {number} `{step}`");
            let after = contents(paths[at]);
            let missing = before.iter().filter(|content| !after.contains(*content)).count();
            assert_eq!(missing, 0, "{lost:?}, died after {number} `{step}`: {results:?}");
            met.push(step);
        } else {
            let _ = redo(&state, Patience::GiveUp, &Unwatched).unwrap();
        }
        for key in ["commits", "redone"] {
            for name in state.list(key).unwrap() {
                state.put(&format!("{key}/{name}"), None).unwrap();
            }
        }
    }
    assert!(["exchange", "take away", "step"].iter().all(|step| met.contains(step)), "{met:?}");
}

#[test]
fn an_edit_of_which_only_staging_knows_stays_where_no_snapshot_holds_it() {
    let Some(plain) = Disk::make("ext4", 256 << 20) else { return };
    let stage = Stage::make(&plain.root);
    let mut deaths = 0;
    for number in 0.. {
        let target = stage.target();
        let planned = plan(&walked(&stage.new), &walked(&target));
        fs::write(target.join("edited"), "mine").unwrap();
        let die = At::new(number, Fault::Die);
        let Err(step) = dying(|| apply_watched(&stage.new, &target, &planned, &die).unwrap()) else { break };
        if step != "exchange" {
            redo_now(&target, &Unwatched);
            continue;
        }
        deaths += 1;
        // Somebody removes what the machine remembers of it, and syncs again.
        let state = state_of(&target);
        for name in state.list("commits").unwrap() {
            state.put(&format!("commits/{name}"), None).unwrap();
        }
        apply_frames(&target, vec![StreamFrame::Commit { ops: 0, contents: 0 }], "").unwrap();
        assert!(contents(&target).contains(&b"mine"[..]), "died after {number} `{step}`");
    }
    assert!(deaths > 0);
}

#[test]
fn a_disk_that_is_not_mounted_when_the_machine_starts_is_waited_for() {
    let Some(plain) = Disk::make("ext4", 256 << 20) else { return };
    let stage = Stage::make(&plain.root);
    for number in 0.. {
        let target = stage.target();
        let died = dying(|| stage.push(&target, &At::new(number, Fault::Die)));
        if died.expect_err("no death in the middle of a commit") != "exchange" {
            redo_now(&target, &Unwatched);
            continue;
        }
        let (state, away) = (state_of(&target), target.with_extension("away"));
        fs::rename(&target, &away).unwrap();
        fs::create_dir(&target).unwrap();
        set_mtime(&target, 5, 0);
        let told = redo(&state, Patience::TryAgainLater, &Unwatched).unwrap();
        assert!(
            matches!(&told[..], [one] if matches!(&one.how, RedoneHow::Pending(why) if why.contains("is that mounted?"))),
            "{told:?}"
        );
        assert_eq!(fs::metadata(&target).unwrap().mtime(), 5, "the place of the mount is nobody's");
        fs::remove_dir(&target).unwrap();
        fs::rename(&away, &target).unwrap();
        let told = redo(&state, Patience::TryAgainLater, &Unwatched).unwrap();
        assert_eq!(told[0].how, RedoneHow::Finished);
        return assert_same(&stage.new, &target);
    }
}
