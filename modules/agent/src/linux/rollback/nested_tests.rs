//! Subvolumes inside of those that go back: each is in one place, with what it has, whoever dies when.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use pc_switcher_contract::BytePath;

use super::tests::{Scene, later, text};
use super::{redo, settle};
use crate::data::apply::Unwatched;
use crate::data::tests::deaths::{At, Fault, dying};
use crate::data::tests::drive::sh;
use crate::linux::btrfs::{Btrfs, KernelBtrfs, SubvolumeTree};
use crate::proto::{Fallback, RollbackLook, RollbackOrder, RollbackPhase, RollbackWish, TrialFor};

/// What is inside of the second subvolume, by its path there.
const INSIDE: [&str; 3] = ["alice/vm", "kept", "empty"];

fn make(path: &Path) {
    assert!(sh("btrfs", &["-q", "subvolume", "create", text(path)]));
}

fn uuid(path: &Path) -> String {
    KernelBtrfs.subvolume(path).unwrap().uuid.hex()
}

impl Scene {
    /// A path in the second subvolume, as whoever works on it sees it.
    fn mounted(&self, path: &str) -> PathBuf {
        self.image.dir().join("mnt1").join(path)
    }

    /// As it, in the tree that stands under its name.
    fn placed(&self, path: &str) -> PathBuf {
        self.top(&self.names[1]).join(path)
    }

    /// Makes some inside, of which the set knows the last one alone: one in a directory that came since, with another one in it,
    /// and one that is read-only.
    fn fill(&mut self) {
        make(&self.mounted("empty"));
        self.take_anew();
        let alice = self.mounted("alice");
        fs::create_dir(&alice).unwrap();
        make(&alice.join("vm"));
        make(&alice.join("vm/deep"));
        fs::write(alice.join("vm/deep/file"), "deep").unwrap();
        fs::write(alice.join("vm/file"), "of now").unwrap();
        let (vm, kept) = (alice.join("vm"), self.mounted("kept"));
        assert!(sh("btrfs", &["-q", "subvolume", "snapshot", "-r", text(&vm), text(&kept)]));
        std::os::unix::fs::chown(&alice, Some(1000), Some(1000)).unwrap();
        fs::set_permissions(&alice, fs::Permissions::from_mode(0o750)).unwrap();
    }

    /// All subvolumes inside of trees at the top level: where each is.
    fn all_inside(&self) -> BTreeMap<String, Vec<String>> {
        let tree = SubvolumeTree::new(KernelBtrfs.subvolumes(self.image.top()).unwrap());
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for name in fs::read_dir(self.image.top()).unwrap().flatten().map(|entry| entry.file_name()) {
            let name = name.into_string().unwrap();
            if !name.starts_with(&self.names[0]) && !name.starts_with(&self.names[1]) {
                continue;
            }
            let Ok(info) = KernelBtrfs.subvolume(&self.top(&name)) else { continue };
            for (path, _) in tree.directly_below(info.id) {
                found.entry(path.to_string()).or_default().push(name.clone());
            }
        }
        found
    }

    /// Each of them is in one tree.
    fn assert_each_is_once(&self, when: &str) {
        let all = self.all_inside();
        assert_eq!(all.keys().collect::<Vec<_>>(), ["alice/vm", "empty", "kept"], "{when}");
        assert!(all.values().all(|places| places.len() == 1), "{when}: {all:?}");
    }

    /// Each is where it belongs, as it was.
    fn assert_all_are_placed(&self, uuids: &[String], when: &str) {
        self.assert_each_is_once(when);
        for (path, wanted) in INSIDE.iter().zip(uuids) {
            assert_eq!(uuid(&self.placed(path)), *wanted, "{when}: `{path}`");
        }
        assert_eq!(fs::read_to_string(self.placed("alice/vm/deep/file")).unwrap(), "deep", "{when}");
        let kept = KernelBtrfs.subvolume(&self.placed("kept")).unwrap();
        assert!(kept.readonly && kept.ctransid <= kept.otransid, "{when}: {kept:?}");
        let alice = fs::metadata(self.placed("alice")).unwrap();
        assert_eq!((alice.mode() & 0o7777, alice.uid(), alice.gid()), (0o750, 1000, 1000), "{when}");
    }

    fn look(&self) -> RollbackLook {
        self.order(RollbackOrder::Look, &Unwatched).unwrap()
    }

    fn problems(&self) -> Vec<String> {
        self.order(RollbackOrder::Check(self.wish()), &Unwatched).unwrap().problems
    }

    /// What a check says of the only thing that stands in the way.
    fn problem(&self) -> String {
        let [problem]: [String; 1] = self.problems().try_into().unwrap();
        assert!(self.roll_back(&Unwatched).is_err());
        assert_eq!(self.beside(), 0, "nothing is made");
        problem
    }
}

fn filled() -> Option<(Scene, Vec<String>)> {
    let mut scene = Scene::make()?;
    scene.fill();
    let uuids = INSIDE.map(|path| uuid(&scene.mounted(path))).to_vec();
    Some((scene, uuids))
}

#[test]
fn those_inside_stay_with_whoever_works_on_them_and_come_along_with_the_restart_and_back_with_a_cancel() {
    let Some((mut scene, uuids)) = filled() else { return };
    let checked = scene.order(RollbackOrder::Check(scene.wish()), &Unwatched).unwrap();
    assert_eq!(checked.problems, [""; 0]);
    let paths = |look: &RollbackLook| look.inside.iter().map(|one| one.path.clone()).collect::<Vec<_>>();
    let wanted = ["alice/vm", "empty", "kept"].map(|path| BytePath::from(scene.mounted(path).as_path()));
    assert_eq!(paths(&checked), wanted);
    let done = scene.roll_back(&Unwatched).unwrap();
    assert_eq!(paths(&done), wanted);
    assert!(done.inside.iter().all(|one| one.stays.is_none()), "{:?}", done.inside);
    fs::write(scene.mounted("alice/vm/file"), "between").unwrap();
    redo(&scene.state, &Unwatched).unwrap();
    assert_eq!(fs::read_to_string(scene.mounted("alice/vm/file")).unwrap(), "between", "it is in use");

    scene.restart();
    let before = fs::metadata(scene.placed("")).unwrap().modified().unwrap();
    assert_eq!(scene.look().left_behind().map(|(path, _)| path.clone()), Some(wanted[0].clone()));
    assert!(scene.look().forbids_sync().unwrap().contains("is not at its end for `/"));
    redo(&scene.state, &Unwatched).unwrap();
    scene.assert_all_are_placed(&uuids, "after the restart");
    assert_eq!(fs::read_to_string(scene.mounted("alice/vm/file")).unwrap(), "between");
    assert_eq!(fs::metadata(scene.placed("")).unwrap().modified().unwrap(), before);
    assert_eq!((scene.look().inside, scene.look().forbids_sync()), (vec![], None));

    fs::write(scene.mounted("alice/vm/file"), "since").unwrap();
    scene.order(RollbackOrder::Cancel, &Unwatched).unwrap();
    assert_eq!(fs::read_to_string(scene.mounted("alice/vm/file")).unwrap(), "since", "it is in use");
    scene.restart();
    redo(&scene.state, &Unwatched).unwrap();
    scene.assert_all_are_placed(&uuids, "after the way back");
    assert_eq!(fs::read_to_string(scene.mounted("alice/vm/file")).unwrap(), "since");
    scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap();
    scene.assert_all_are_placed(&uuids, "at the end");
    assert_eq!((scene.found(), scene.beside()), (["bad".into(), "bad".into()], 0));
}

#[test]
fn a_cancel_before_the_restart_finds_them_where_they_were() {
    let Some((scene, uuids)) = filled() else { return };
    scene.roll_back(&Unwatched).unwrap();
    let back = scene.order(RollbackOrder::Cancel, &Unwatched).unwrap();
    assert_eq!((back.state, scene.beside()), (None, 0));
    scene.assert_all_are_placed(&uuids, "at the end");
}

#[test]
fn a_death_after_any_step_leaves_each_inside_in_one_tree_and_a_redo_in_the_one_that_is_in_place() {
    let Some((mut scene, uuids)) = filled() else { return };
    let mut deaths = Vec::new();
    for number in 0.. {
        let mut died = 0;
        for way in ["forth", "back"] {
            match way {
                "forth" => drop(scene.roll_back(&Unwatched).unwrap()),
                _ => drop(scene.order(RollbackOrder::Cancel, &Unwatched).unwrap()),
            }
            scene.restart();
            let step = dying(|| redo(&scene.state, &At::new(number, Fault::Die))).err();
            let when = format!("{way}, died after {step:?}");
            died += usize::from(step.is_some());
            deaths.extend(step);
            scene.assert_each_is_once(&when);
            // The redo dies as well, at another place each time.
            let _ = dying(|| redo(&scene.state, &At::new(number % 4, Fault::Die)));
            scene.assert_each_is_once(&when);
            redo(&scene.state, &Unwatched).unwrap();
            scene.assert_all_are_placed(&uuids, &when);
        }
        // What it keeps has a name of its own each time.
        let stamp = format!("20251118T12{number:02}00Z").parse().unwrap();
        scene.order(RollbackOrder::Confirm(stamp), &Unwatched).unwrap();
        scene.assert_all_are_placed(&uuids, "confirmed");
        assert_eq!(scene.beside(), 0);
        assert!(!scene.own().join("rollback/unsealed").exists());
        if died == 0 {
            break;
        }
    }
    for step in ["unseal", "along", "writable", "moved"] {
        assert!(deaths.contains(&step), "no death after `{step}`: {deaths:?}");
    }
}

#[test]
fn a_confirm_that_dies_after_any_step_takes_none_with_the_former_trees() {
    let mut deaths = Vec::new();
    for number in 0.. {
        let Some((mut scene, uuids)) = filled() else { return };
        scene.roll_back(&Unwatched).unwrap();
        // Nothing at boot saw to them.
        scene.restart();
        let died = dying(|| scene.order(RollbackOrder::Confirm(later()), &At::new(number, Fault::Die))).err();
        scene.assert_each_is_once(&format!("died after {died:?}"));
        redo(&scene.state, &Unwatched).unwrap();
        scene.assert_all_are_placed(&uuids, &format!("died after {died:?}"));
        deaths.extend(died);
        if died.is_none() {
            assert_eq!(scene.beside(), 0);
            break;
        }
    }
    assert!(deaths.contains(&"along") && deaths.contains(&"removed"), "{deaths:?}");
}

#[test]
fn what_was_made_renamed_or_deleted_between_the_rollback_and_the_restart_is_judged_as_it_is_then() {
    let Some((mut scene, uuids)) = filled() else { return };
    scene.roll_back(&Unwatched).unwrap();
    make(&scene.mounted("made"));
    fs::rename(scene.mounted("alice/vm"), scene.mounted("renamed")).unwrap();
    assert!(sh("btrfs", &["-q", "subvolume", "delete", text(&scene.mounted("empty"))]));
    let made = uuid(&scene.mounted("made"));
    scene.restart();
    redo(&scene.state, &Unwatched).unwrap();
    assert_eq!((uuid(&scene.placed("made")), uuid(&scene.placed("renamed"))), (made, uuids[0].clone()));
    let placeholder = fs::metadata(scene.placed("empty")).unwrap();
    assert_eq!(placeholder.ino(), 2, "what a set has of one that is gone is left");
    assert!(!scene.placed("alice").exists());
    scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap();
    assert_eq!(scene.all_inside().keys().collect::<Vec<_>>(), ["kept", "made", "renamed"]);
}

#[test]
fn what_is_in_the_place_of_one_in_the_set_is_said_before_anything_is_done() {
    for (what, said) in [
        ("file", "something that is no directory is in its place"),
        ("link", "something that is no directory is in its place"),
        ("full", "a directory that is not empty is in its place"),
        ("file/deep", "`file` is no directory there"),
        ("link/deep", "`link` is no directory there"),
        ("frozen/deep", "`frozen` is kept as it is there by `chattr +i`"),
    ] {
        let Some(mut scene) = Scene::make() else { return };
        let path = |name: &str| scene.mounted(name);
        fs::write(path("file"), "").unwrap();
        symlink("/etc", path("link")).unwrap();
        fs::create_dir_all(path("full/of")).unwrap();
        fs::create_dir(path("frozen")).unwrap();
        KernelBtrfs.set_immutable(&path("frozen"), true).unwrap();
        let frozen = path("frozen");
        scene.take_anew();
        KernelBtrfs.set_immutable(&frozen, false).unwrap();
        let first = scene.mounted(what.split('/').next().unwrap());
        let _ = fs::remove_file(&first).or_else(|_| fs::remove_dir_all(&first));
        fs::create_dir_all(scene.mounted(what).parent().unwrap()).unwrap();
        make(&scene.mounted(what));
        let problem = scene.problem();
        assert!(problem.contains(said) && problem.contains("in set `"), "{what}: {problem}");
        assert!(problem.contains(text(&scene.mounted(what))), "{what}: {problem}");
    }
}

#[test]
fn an_empty_directory_and_what_is_left_of_another_one_make_way() {
    let Some(mut scene) = Scene::make() else { return };
    fs::create_dir(scene.mounted("empty")).unwrap();
    make(&scene.mounted("was"));
    scene.take_anew();
    fs::remove_dir(scene.mounted("empty")).unwrap();
    make(&scene.mounted("empty"));
    assert!(sh("btrfs", &["-q", "subvolume", "delete", text(&scene.mounted("was"))]));
    fs::create_dir(scene.mounted("was")).unwrap();
    make(&scene.mounted("was/deep"));
    scene.roll_back(&Unwatched).unwrap();
    scene.restart();
    redo(&scene.state, &Unwatched).unwrap();
    for path in ["empty", "was/deep"] {
        assert_eq!(fs::metadata(scene.placed(path)).unwrap().ino(), 256, "{path}");
    }
    assert_ne!(fs::metadata(scene.placed("was")).unwrap().ino(), 2);
}

#[test]
fn what_cannot_leave_its_place_is_said_before_anything_is_done() {
    let Some(mut scene) = Scene::make() else { return };
    fs::create_dir(scene.mounted("frozen")).unwrap();
    scene.take_anew();
    let frozen = scene.mounted("frozen");
    make(&frozen.join("vm"));
    KernelBtrfs.set_immutable(&frozen, true).unwrap();
    assert!(scene.problem().contains("`chattr +i` keeps the directory around it as it is"));
    KernelBtrfs.set_immutable(&frozen, false).unwrap();
    assert_eq!(scene.problems(), [""; 0]);

    scene.image.tmpfs("mnt1/frozen/vm");
    assert!(scene.problem().contains("it is a mount point"));
    assert!(sh("umount", &[text(&scene.mounted("frozen/vm"))]));

    let wish = RollbackWish { snapshot_dir: frozen.join("vm").as_path().into(), ..scene.wish() };
    let looked = scene.order(RollbackOrder::Check(wish), &Unwatched).unwrap();
    assert!(looked.problems[0].contains("lie in it; give them a top-level"), "{:?}", looked.problems);
}

#[test]
fn what_somebody_put_in_its_place_after_the_restart_stays_and_so_does_the_subvolume_until_there_is_room() {
    let Some((mut scene, uuids)) = filled() else { return };
    scene.roll_back(&Unwatched).unwrap();
    scene.restart();
    fs::create_dir_all(scene.mounted("alice/vm/work")).unwrap();
    redo(&scene.state, &Unwatched).unwrap();
    scene.assert_each_is_once("something is in its place");
    let look = scene.look();
    let [left] = look.inside.as_slice() else { panic!("{:?}", look.inside) };
    assert!(left.stays.as_ref().unwrap().contains("a directory that is not empty"), "{left:?}");
    assert!(look.forbids_sync().unwrap().contains("alice/vm"));
    let beside = scene.beside();
    let refused = scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap_err();
    assert!(refused.message.contains("`alice/vm` is a subvolume inside of"), "{refused:?}");
    assert_eq!((scene.beside(), scene.look().state.unwrap().phase), (beside, RollbackPhase::Done));
    fs::rename(scene.mounted("alice/vm"), scene.mounted("mine")).unwrap();
    fs::remove_dir_all(scene.mounted("alice")).unwrap();
    scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap();
    scene.assert_all_are_placed(&uuids, "there is room");
    assert!(scene.placed("mine/work").is_dir());
    assert_eq!(scene.beside(), 0);
}

#[test]
fn before_anything_runs_they_move_at_once_though_we_have_the_trees_mounted() {
    let Some((mut scene, uuids)) = filled() else { return };
    let fallback = Some(Fallback { at: later(), starts: 3, boot_id: "b".into() });
    let wish = RollbackWish { fallback, ..scene.wish() };
    super::fall_back(&wish, &scene.state, &Unwatched).unwrap();
    assert_eq!(scene.found(), ["good", "good"]);
    scene.assert_all_are_placed(&uuids, "fallen back");
    scene.restart();
    scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap();
    scene.assert_all_are_placed(&uuids, "confirmed");
}

#[test]
fn a_trial_that_is_taken_back_before_anything_runs_brings_them_back_at_once() {
    let Some((mut scene, uuids)) = filled() else { return };
    scene.roll_back_for(Some(TrialFor::Seconds(600)), &Unwatched).unwrap();
    scene.restart();
    // The early part of a start finds it first.
    settle(&scene.wish().snapshot_dir, &scene.state, &Unwatched).unwrap();
    scene.assert_all_are_placed(&uuids, "settled");
    super::take_back("it did not start".into(), &scene.state, &Unwatched).unwrap();
    assert_eq!(scene.found(), ["bad", "bad"]);
    scene.assert_all_are_placed(&uuids, "taken back");
}

#[test]
fn one_that_waits_for_another_machine_leaves_them_where_they_are() {
    let Some((mut scene, uuids)) = filled() else { return };
    scene.prepare_with("laptop", false, &Unwatched).unwrap();
    scene.restart();
    redo(&scene.state, &Unwatched).unwrap();
    scene.assert_all_are_placed(&uuids, "it waits");
    scene.order(RollbackOrder::Commit, &Unwatched).unwrap();
    scene.restart();
    redo(&scene.state, &Unwatched).unwrap();
    scene.assert_all_are_placed(&uuids, "it went back");
}

#[test]
fn very_many_come_along_and_the_journal_stays_small() {
    let Some(mut scene) = Scene::make() else { return };
    fs::create_dir(scene.mounted("layers")).unwrap();
    for number in 0..1100 {
        KernelBtrfs.make(&scene.mounted("layers"), format!("{number:064}").as_ref()).unwrap();
    }
    let done = scene.roll_back(&Unwatched).unwrap();
    assert_eq!((done.inside.len(), done.inside_more), (1000, 100));
    assert!(fs::metadata(scene.own().join("rollback/journal.json")).unwrap().len() < 4096);
    scene.restart();
    redo(&scene.state, &Unwatched).unwrap();
    assert_eq!(fs::read_dir(scene.placed("layers")).unwrap().count(), 1100);
    assert_eq!(scene.look().inside, []);
}

#[test]
fn one_that_was_received_comes_along_with_what_says_so() {
    let Some((scene, _)) = filled() else { return };
    let stream = scene.image.dir().join("stream");
    let into = scene.mounted("box");
    fs::create_dir(&into).unwrap();
    assert!(sh("btrfs", &["-q", "send", "-f", text(&stream), text(&scene.mounted("kept"))]));
    assert!(sh("btrfs", &["-q", "receive", "-f", text(&stream), text(&into)]));
    let received = |path: &Path| {
        let info = KernelBtrfs.subvolume(path).unwrap();
        assert!(info.readonly);
        let shown =
            std::process::Command::new("btrfs").args(["subvolume", "show"]).arg(path).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let line = |key: &str| {
            let line = shown.lines().find(|line| line.trim_start().starts_with(key)).unwrap();
            line.split_once(':').unwrap().1.trim().to_owned()
        };
        (line("UUID:"), line("Received UUID:"))
    };
    let before = received(&scene.mounted("box/kept"));
    assert_ne!(before.1, "-", "it was received");
    scene.roll_back(&Unwatched).unwrap();
    scene.unmount();
    redo(&scene.state, &Unwatched).unwrap();
    assert_eq!(received(&scene.placed("box/kept")), before);
    assert!(!scene.own().join("rollback/unsealed").exists());
}

#[test]
fn what_lies_on_a_disk_that_is_away_is_not_taken_for_come_along() {
    let Some((scene, uuids)) = filled() else { return };
    make(&scene.image.dir().join("mnt0/data"));
    scene.roll_back(&Unwatched).unwrap();
    scene.unmount();
    let journal = scene.own().join("rollback/journal.json");
    let written = fs::read_to_string(&journal).unwrap();
    let mut state: crate::proto::RollbackState = serde_json::from_str(&written).unwrap();
    state.members[1].fs_uuid = "00000000-1111-2222-3333-444444444444".into();
    fs::write(&journal, serde_json::to_vec_pretty(&state).unwrap()).unwrap();
    redo(&scene.state, &Unwatched).unwrap();
    let moved = scene.top(&scene.names[0]).join("data");
    assert!(KernelBtrfs.subvolume(&moved).is_ok(), "that of the other disk moves");
    let look = scene.look();
    let point = BytePath::from(scene.image.dir().join("mnt1").as_path());
    let (path, why) = look.left_behind().unwrap();
    assert!(*path == point && why.contains("cannot be told") && why.contains("is not mounted"), "{why}");
    assert!(look.forbids_sync().unwrap().contains("is not at its end"));
    assert!(scene.order(RollbackOrder::Confirm(later()), &Unwatched).is_err(), "nothing is removed");
    assert_eq!(scene.beside(), 2);
    // It comes back.
    fs::write(&journal, written).unwrap();
    redo(&scene.state, &Unwatched).unwrap();
    assert!(sh("btrfs", &["-q", "subvolume", "delete", text(&moved)]));
    scene.assert_all_are_placed(&uuids, "with the disk");
    assert_eq!(scene.look().forbids_sync(), None);
}

#[test]
fn that_they_would_come_late_is_said_where_something_would() {
    let Some((scene, _)) = filled() else { return };
    let late = || scene.order(RollbackOrder::Check(scene.wish()), &Unwatched).unwrap().late;
    // This machine has no such unit, or it has.
    let is_enabled = crate::linux::install::Unit::Rollback.is_enabled();
    assert_eq!(late().is_some(), !is_enabled);
    assert!(late().is_none_or(|why| why == "the boot does not start `pc-switcher-rollback.service`"));
    for path in INSIDE {
        let one = scene.mounted(path);
        if path == "alice/vm" {
            assert!(sh("btrfs", &["-q", "subvolume", "delete", text(&one.join("deep"))]));
        }
        assert!(sh("btrfs", &["-q", "subvolume", "delete", text(&one)]));
    }
    assert_eq!(late(), None, "there is nothing that would");
}
