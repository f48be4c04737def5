//! A sync is taken back, whatever it did, unless somebody came after it; a death on the way leaves old or new.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pc_switcher_contract::{
    Hostname, PairEnd, PairRecord, SnapshotKind, SnapshotMember, SnapshotName, SnapshotSet,
};

use super::deaths::{At, Fault, dying, faces, make_new, make_old, redo_now};
use super::drive::{Disk, assert_same, call_with, frames, items, request, sh, state_of, uuid_of, walked};
use super::moving;
use super::nasty::set_mtime;
use super::plan::{Plan, normal, plan};
use crate::data::apply::{self, Unwatched, Watch};
use crate::data::undo;
use crate::proto::{
    AgentError, ApplyRequest, Op, RedoneHow, UndoLine, UndoReport, UndoRequest, UndoWord, UndoneHow,
};
use crate::server::Call;

/// A target on a subvolume of its own, with the sets of a sync that brought it from the old tree to the new one.
struct Scene<'a> {
    disk: &'a Disk,
    pre: SnapshotSet,
    post: SnapshotSet,
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl<'a> Scene<'a> {
    fn make(disk: &'a Disk) -> Self {
        Self::between(disk, make_old, make_new)
    }

    fn between(disk: &'a Disk, old: impl Fn(&Path), new: impl Fn(&Path)) -> Self {
        Self::empty(disk);
        let there = disk.root.join("new");
        fs::create_dir(&there).unwrap();
        new(&there);
        let scene = Self::synced(disk, old, |live| (there.clone(), plan(&walked(&there), &walked(live))));
        assert_same(&there, &scene.live());
        scene
    }

    /// With a sync of these steps, which bring nothing from elsewhere.
    fn of_steps(disk: &'a Disk, old: impl Fn(&Path), ops: impl Fn(&Path) -> Vec<Op>) -> Self {
        Self::empty(disk);
        Self::synced(disk, old, |live| (live.to_owned(), Plan { ops: ops(live), wants: Vec::new() }))
    }

    fn empty(disk: &Disk) {
        for name in ["live", "snaps", "new", "live.state"] {
            let path = disk.root.join(name);
            if name == "snaps" && path.exists() {
                for entry in fs::read_dir(&path).unwrap() {
                    let _ = sh("btrfs", &["subvolume", "delete", text(&entry.unwrap().path())]);
                }
            }
            let _ = sh("btrfs", &["subvolume", "delete", text(&path)]);
            let _ = fs::remove_dir_all(&path);
        }
    }

    fn synced(disk: &'a Disk, old: impl Fn(&Path), plan: impl Fn(&Path) -> (PathBuf, Plan)) -> Self {
        let live = disk.root.join("live");
        assert!(sh("btrfs", &["subvolume", "create", text(&live)]));
        fs::create_dir(disk.root.join("snaps")).unwrap();
        old(&live);
        let mut scene = Self { disk, pre: set(SnapshotKind::PreSync), post: set(SnapshotKind::PostSync) };
        scene.pre = scene.seal(SnapshotKind::PreSync);
        let (source, plan) = plan(&live);
        let (call, _seen) = call_with(&frames(&source, &plan));
        let request = ApplyRequest { pre_set: Some(scene.pre.clone()), ..request(&live, &uuid_of(&live)) };
        let report = apply::run(&request, &call, &state_of(&live), &Unwatched).unwrap();
        assert!(report.failed.is_none() && report.conflicts.is_empty(), "{report:?}");
        scene.post = scene.seal(SnapshotKind::PostSync);
        scene
    }

    fn live(&self) -> PathBuf {
        self.disk.root.join("live")
    }

    fn path_of(&self, set: &SnapshotSet) -> PathBuf {
        set.members[0].path.as_path().to_owned()
    }

    /// Takes a read-only snapshot of now.
    fn seal(&self, kind: SnapshotKind) -> SnapshotSet {
        let mut taken = set(kind);
        let path = self.disk.root.join("snaps").join(taken.members[0].name.to_string());
        let _ = sh("btrfs", &["subvolume", "delete", text(&path)]);
        assert!(sh("btrfs", &["subvolume", "snapshot", "-r", text(&self.live()), text(&path)]));
        taken.members[0].path = path.as_path().into();
        taken.members[0].source_uuid = uuid_of(&self.live());
        taken
    }

    fn ask(&self, now: Option<SnapshotSet>) -> UndoRequest {
        let (pre, post) = (self.pre.clone(), self.post.clone());
        UndoRequest { session: "feedbeef".parse().unwrap(), pre, post, now }
    }

    fn try_undo(&self, watch: &dyn Watch) -> Result<(Vec<UndoLine>, UndoReport), AgentError> {
        let request = self.ask(Some(self.seal(SnapshotKind::PreRollback)));
        let (call, seen) = Call::for_test(Vec::new());
        let report = undo::run(&request, &call, &state_of(&self.live()), watch)?;
        Ok((items::<Vec<UndoLine>>(&seen).into_iter().flatten().collect(), report))
    }

    fn undo(&self) -> Vec<UndoLine> {
        let (lines, report) = self.try_undo(&Unwatched).unwrap();
        let commit = &report.commit;
        assert!(commit.failed.is_none() && commit.conflicts.is_empty(), "{commit:?}");
        assert!(commit.kept.is_empty() && commit.warnings.is_empty(), "{commit:?}");
        assert!(!self.live().join(".pc-switcher").exists());
        lines
    }

    fn stays(&self, lines: &[UndoLine]) -> Vec<String> {
        let is_touched = |line: &&UndoLine| matches!(line.word, UndoWord::Touched(_));
        let name = |line: &UndoLine| line.path.as_path().strip_prefix(self.live()).unwrap().to_owned();
        lines.iter().filter(is_touched).map(|line| text(&name(line)).to_owned()).collect()
    }
}

fn set(kind: SnapshotKind) -> SnapshotSet {
    let (stamp, session) = ("20251115T120000Z".parse().unwrap(), "0123abcd".parse().unwrap());
    let name = SnapshotName { subvolume: "@live".parse().unwrap(), kind, stamp, session };
    SnapshotSet {
        hostname: "desk".parse().unwrap(),
        kind,
        stamp: name.stamp,
        session: name.session.clone(),
        consistent: true,
        members: vec![SnapshotMember {
            name,
            path: "/".into(),
            uuid: String::new(),
            source_uuid: String::new(),
            id: 0,
            otransid: 0,
            ctransid: 0,
            first_taken: None,
            apart: None,
        }],
    }
}

fn disk() -> Option<Disk> {
    Disk::make("btrfs", 400 << 20)
}

fn is_undone(line: &UndoLine) -> bool {
    matches!(line.word, UndoWord::Undone(_))
}

#[test]
fn a_sync_that_nobody_came_after_is_taken_back_as_if_it_had_never_been() {
    let Some(disk) = disk() else { return };
    let scene = Scene::make(&disk);
    let kept = fs::metadata(scene.live().join("stays/same")).unwrap().ino();
    let lines = scene.undo();
    assert!(lines.iter().all(is_undone), "{lines:?}");
    let how = |path: &str| {
        let path = scene.live().join(path);
        lines.iter().find(|line| line.path.as_path() == path).map(|line| line.word.clone())
    };
    for (path, word) in [
        ("removed", UndoneHow::Restored),
        ("gone/deep/file", UndoneHow::Restored),
        ("edited", UndoneHow::Replaced),
        ("becomes-dir", UndoneHow::Replaced),
        ("meta", UndoneHow::Metadata),
        ("fresh/tree/file", UndoneHow::Removed),
    ] {
        assert_eq!(how(path), Some(UndoWord::Undone(word)), "{path}");
    }
    assert_same(&scene.path_of(&scene.pre), &scene.live());
    let names = |name: &str| fs::metadata(scene.live().join(name)).unwrap().ino();
    assert!(names("two-a") == names("two-b") && names("two-b") == names("two-c"), "one file of three names");
    assert_eq!(names("stays/same"), kept, "what the sync had not touched");
    let again = scene.undo();
    assert!(again.is_empty(), "{again:?}");
}

#[test]
fn what_somebody_touched_after_the_sync_stays_and_is_named() {
    let Some(disk) = disk() else { return };
    let scene = Scene::make(&disk);
    let at = |name: &str| scene.live().join(name);
    fs::write(at("edited"), "mine").unwrap();
    fs::write(at("fresh/tree/mine"), "mine").unwrap();
    fs::write(at("removed"), "made anew").unwrap();
    fs::set_permissions(at("becomes-file"), PermissionsExt::from_mode(0o640)).unwrap();
    fs::remove_file(at("link")).unwrap();
    let lines = scene.undo();
    assert_eq!(
        scene.stays(&lines),
        [
            "becomes-file",
            "becomes-file/sub",
            "becomes-file/sub/x",
            "edited",
            "fresh",
            "fresh/tree",
            "link",
            "removed"
        ]
    );
    assert_eq!(fs::read_to_string(at("edited")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(at("removed")).unwrap(), "made anew");
    assert!(at("fresh/tree/mine").exists() && !at("fresh/tree/file").exists());
    assert!(at("becomes-file").is_file() && !at("link").exists());
    assert_eq!(fs::read_to_string(at("gone/deep/file")).unwrap(), "old gone/deep/file");
    let again = scene.undo();
    assert!(!again.iter().any(is_undone), "{again:?}");
}

#[test]
fn what_somebody_wrote_between_commit_and_post_set_is_no_work_of_the_sync() {
    let Some(disk) = disk() else { return };
    let mut scene = Scene::make(&disk);
    fs::write(scene.live().join("edited"), "written at once").unwrap();
    scene.post = scene.seal(SnapshotKind::PostSync);
    let lines = scene.undo();
    assert_eq!(scene.stays(&lines), ["edited"]);
    assert_eq!(fs::read_to_string(scene.live().join("edited")).unwrap(), "written at once");
}

#[test]
fn what_the_sync_moved_goes_back_with_everything_below_it() {
    let Some(disk) = disk() else { return };
    let scene = Scene::of_steps(&disk, moving::make, moving::ops);
    assert!(scene.live().join("new/a/x").exists() && !scene.live().join("a").exists());
    let lines = scene.undo();
    assert!(lines.iter().all(is_undone), "{lines:?}");
    assert_same(&scene.path_of(&scene.pre), &scene.live());
    let again = scene.undo();
    assert!(again.is_empty(), "{again:?}");
}

#[test]
fn work_on_what_the_sync_moved_stays_where_it_is() {
    let Some(disk) = disk() else { return };
    let scene = Scene::of_steps(&disk, moving::make, moving::ops);
    let at = |name: &str| scene.live().join(name);
    fs::write(at("new/a/x"), "mine").unwrap();
    fs::write(at("p/q/mine"), "mine").unwrap();
    fs::write(at("under"), "mine").unwrap();
    let lines = scene.undo();
    let stays = scene.stays(&lines);
    for path in ["new", "new/a", "new/a/x", "under"] {
        assert!(stays.contains(&path.to_owned()), "{path} is not in {stays:?}");
    }
    for (path, content) in [
        ("new/a/x", "mine"),
        ("p/q/mine", "mine"),
        ("under", "mine"),
        ("a/x", "content of x"),
        ("a/deep/file", "content of file"),
        ("over", "content of over"),
        ("one", "content of one"),
        ("p/q/in", "content of in"),
    ] {
        assert_eq!(fs::read_to_string(at(path)).unwrap(), content, "{path}");
    }
    assert!(!at("new/deep").exists() && !at("p/in").exists());
    let again = scene.undo();
    assert!(!again.iter().any(is_undone), "{again:?}");
}

#[test]
fn somebodys_file_in_a_directory_that_was_just_moved_is_no_work_of_the_sync() {
    let Some(disk) = disk() else { return };
    let mut scene = Scene::of_steps(&disk, moving::make, moving::ops);
    fs::write(scene.live().join("new/a/x"), "written at once").unwrap();
    fs::write(scene.live().join("new/a/fresh"), "made at once").unwrap();
    scene.post = scene.seal(SnapshotKind::PostSync);
    let lines = scene.undo();
    let stays = scene.stays(&lines);
    assert!(["new/a/x", "new/a/fresh"].iter().all(|path| stays.contains(&(*path).to_owned())), "{stays:?}");
    assert_eq!(fs::read_to_string(scene.live().join("new/a/x")).unwrap(), "written at once");
    assert_eq!(fs::read_to_string(scene.live().join("new/a/fresh")).unwrap(), "made at once");
}

#[test]
fn what_was_moved_stays_if_its_old_place_is_gone_or_taken() {
    let Some(disk) = disk() else { return };
    let moves = |live: &Path| {
        let there = super::plan::tree(&walked(live));
        let to = |path: &str, from: &str| Op::Move {
            path: path.into(),
            from: from.into(),
            expect: super::plan::identity(&there[&from.into()]),
            replaces: None,
        };
        vec![to("y", "b/y"), to("z", "over"), to("r", "right")]
    };
    let scene = Scene::of_steps(&disk, moving::make, moves);
    let live = scene.live();
    fs::remove_dir(live.join("b")).unwrap();
    fs::write(live.join("over"), "mine").unwrap();
    let lines = scene.undo();
    let read = |path: &str| fs::read_to_string(live.join(path)).unwrap();
    assert_eq!([read("y"), read("z"), read("over")], ["content of y", "content of over", "mine"]);
    assert_eq!(read("right"), "content of right");
    assert!(!live.join("r").exists());
    assert_eq!(scene.stays(&lines), ["b/y", "over", "y", "z"]);
}

#[test]
fn a_look_at_an_undo_changes_nothing() {
    let Some(disk) = disk() else { return };
    let scene = Scene::make(&disk);
    let before = normal(&walked(&scene.live()));
    let (call, seen) = Call::for_test(Vec::new());
    undo::run(&scene.ask(None), &call, &state_of(&scene.live()), &Unwatched).unwrap();
    let lines: Vec<UndoLine> = items::<Vec<UndoLine>>(&seen).into_iter().flatten().collect();
    assert_eq!(normal(&walked(&scene.live())), before);
    assert!(!state_of(&scene.live()).root().join("pairs").exists());
    assert_eq!(lines, scene.undo(), "what was said is what is done");
}

#[test]
fn a_name_that_was_a_link_to_a_file_that_stayed_is_one_again() {
    let Some(disk) = disk() else { return };
    let old = |root: &Path| {
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("dir/stays"), "shared").unwrap();
        set_mtime(&root.join("dir/stays"), 1000, 1);
        fs::hard_link(root.join("dir/stays"), root.join("parts")).unwrap();
    };
    let new = |root: &Path| {
        old(root);
        fs::remove_file(root.join("parts")).unwrap();
        fs::write(root.join("parts"), "on its own").unwrap();
    };
    let scene = Scene::between(&disk, old, new);
    scene.undo();
    let ino = |name: &str| fs::metadata(scene.live().join(name)).unwrap().ino();
    assert_eq!(ino("parts"), ino("dir/stays"));
    assert_same(&scene.path_of(&scene.pre), &scene.live());
}

#[test]
fn a_death_after_any_step_of_an_undo_leaves_each_path_old_or_new_and_a_redo_the_tree() {
    let Some(disk) = disk() else { return };
    let mut deaths = Vec::new();
    for number in 0.. {
        let scene = Scene::make(&disk);
        let (pre, post) = (scene.path_of(&scene.pre), scene.path_of(&scene.post));
        let Err(step) = dying(|| scene.try_undo(&At::new(number, Fault::Die))) else { break };
        deaths.push(step);
        let (old, new, now) = (faces(&pre), faces(&post), faces(&scene.live()));
        for (path, face) in &now {
            let known = old.get(path) == Some(face) || new.get(path) == Some(face);
            assert!(known, "died after {number} `{step}`: `{}` is {face:?}", path.display());
        }
        for path in old.keys().filter(|path| new.contains_key(*path)) {
            assert!(now.contains_key(path), "died after {number} `{step}`: `{}` is missing", path.display());
        }
        for result in redo_now(&scene.live(), &Unwatched) {
            assert!(result.report.conflicts.is_empty(), "{result:?}");
            match result.how {
                RedoneHow::Finished => assert_same(&pre, &scene.live()),
                RedoneHow::Dropped => assert_same(&post, &scene.live()),
                how => panic!("died after {number} `{step}`: {how:?}"),
            }
        }
        scene.undo();
        assert_same(&pre, &scene.live());
    }
    for step in ["entry", "journal", "commit", "exchange", "take away", "link", "step", "done", "clean up"] {
        assert!(deaths.contains(&step), "no death after `{step}`: {deaths:?}");
    }
}

#[test]
fn the_records_of_later_syncs_learn_what_was_taken_back_and_older_ones_do_not() {
    let Some(disk) = disk() else { return };
    let mut scene = Scene::make(&disk);
    let state = state_of(&scene.live());
    let record = |session: &str, stamp: &str| {
        let end = |name: &str| PairEnd {
            hostname: name.parse::<Hostname>().unwrap(),
            machine_id: name.into(),
            set: None,
            manifests: Vec::new(),
        };
        PairRecord {
            format: PairRecord::FORMAT,
            session: session.parse().unwrap(),
            stamp: stamp.parse().unwrap(),
            source: end("laptop"),
            target: end("desk"),
            rule_hash: String::new(),
            unsettled: vec!["/elsewhere".into()],
            unsent: Vec::new(),
            apart: Vec::new(),
            alien: Vec::new(),
            lacking: Vec::new(),
            parts: Vec::new(),
        }
    };
    let put = |key: &str, record: &PairRecord| {
        state.put(key, Some(&serde_json::to_vec(record).unwrap())).unwrap();
    };
    let own = record("0123abcd", "20251115T120100Z");
    let mut older = record("00000001", "20251114T120000Z");
    let mut then = scene.pre.clone();
    scene.pre.members[0].otransid = 9;
    then.members[0].otransid = 8;
    older.target.set = Some(then);
    put("pairs/laptop.json", &own);
    put("pairs/tower.json", &older);
    let edited = scene.live().join("edited");
    scene.undo();
    let read =
        |key: &str| -> PairRecord { serde_json::from_slice(&state.get(key).unwrap().unwrap()).unwrap() };
    let now = read("pairs/laptop.json");
    for list in [&now.unsettled, &now.unsent] {
        assert!(list.iter().any(|path| path.as_path() == edited), "{list:?}");
        assert!(!list.iter().any(|path| path.as_path() == scene.live().join("stays/same")), "{list:?}");
    }
    assert!(now.unsettled.contains(&"/elsewhere".into()));
    assert!(now.stamp > own.stamp, "the newest record counts");
    assert_eq!(read("pairs/tower.json"), older);
}
