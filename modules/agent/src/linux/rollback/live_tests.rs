//! Subvolumes that nobody uses go back and forth without a restart, and what is in use stays as it is, whoever dies when.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use super::spaces::{Line, parse};
use super::tests::{Scene, later, text};
use super::{redo, redo_at_once, run_at_once};
use crate::data::apply::{Unwatched, Watch};
use crate::data::tests::deaths::{At, Fault, dying};
use crate::data::tests::drive::sh;
use crate::linux::btrfs::{Btrfs, KernelBtrfs};
use crate::proto::{AgentError, RollbackLook, RollbackOrder, RollbackPhase, RollbackWish, TrialFor, Waits};

/// A process that is ended with this.
pub(super) struct Sleeper(Child);

impl Sleeper {
    pub(super) fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Scene {
    pub(super) fn point(&self, at: usize) -> PathBuf {
        let shared = self.image.dir().join("shared");
        if shared.exists() {
            shared.join(format!("mnt{at}"))
        } else {
            self.image.dir().join(format!("mnt{at}"))
        }
    }

    /// Has both mounted where other namespaces hear of what is mounted, as on a machine that systemd runs.
    pub(super) fn share(&mut self) {
        for at in 0..2 {
            assert!(sh("umount", &[text(&self.point(at))]));
        }
        let shared = self.image.tmpfs("shared");
        assert!(sh("mount", &["--make-shared", text(&shared)]));
        for at in 0..2 {
            let name = self.names[at].clone();
            self.image.bind(&format!("top/{name}"), &format!("shared/mnt{at}"));
        }
    }

    /// What whoever works now finds in both.
    pub(super) fn seen(&self) -> [Option<String>; 2] {
        [0, 1].map(|at| fs::read_to_string(self.point(at).join("file")).ok())
    }

    pub(super) fn at_once(
        &self,
        order: RollbackOrder,
        watch: &dyn Watch,
    ) -> Result<RollbackLook, AgentError> {
        run_at_once(&order, &self.state, watch)
    }

    pub(super) fn go_back_at_once(&self, watch: &dyn Watch) -> Result<RollbackLook, AgentError> {
        self.order(RollbackOrder::Prepare(self.wish()), watch)?;
        self.at_once(RollbackOrder::Commit, watch)
    }

    pub(super) fn look_now(&self) -> RollbackLook {
        self.at_once(RollbackOrder::Look, &Unwatched).unwrap()
    }

    /// Somebody comes again and again until so many are not in use: whoever starts a namespace of mounts meanwhile has those of this
    /// machine in it for a moment.
    pub(super) fn until_in_use(&self, count: usize) -> RollbackLook {
        let since = Instant::now();
        loop {
            let look = self.look_now();
            if look.in_use.len() == count {
                return look;
            }
            assert!(since.elapsed() < Duration::from_secs(60), "still in use: {:?}", look.ways);
            redo_at_once(&self.state, &Unwatched).unwrap();
            thread::yield_now();
        }
    }

    fn line(&self, at: usize) -> Line {
        let point = self.point(at);
        let lines = parse(&fs::read("/proc/self/mountinfo").unwrap());
        lines.into_iter().find(|line| line.point.as_path() == point).unwrap()
    }
}

/// Waits for something that another test may keep from being so for a moment.
pub(super) fn until(what: &str, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(60), "there is not: {what}");
        thread::yield_now();
    }
}

pub(super) fn seen(word: &str) -> [Option<String>; 2] {
    [Some(word.to_owned()), Some(word.to_owned())]
}

#[test]
fn what_nobody_uses_goes_back_and_forth_at_once_and_is_mounted_as_it_was() {
    for is_shared in [false, true] {
        goes_back_and_forth(is_shared);
    }
}

fn goes_back_and_forth(is_shared: bool) {
    let Some(mut scene) = Scene::make() else { return };
    if is_shared {
        scene.share();
    }
    assert!(sh("mount", &["-o", "remount,bind,nosuid,nodev,noatime", text(&scene.point(1))]));
    let looked = |at: usize| {
        let Line { root, point, options, source, wide, shared, master, unbindable, .. } = scene.line(at);
        let wide = wide.rsplit_once(",subvolid=").map(|(most, _)| most.to_owned());
        (root, point, options, source, wide, (shared.is_some(), master, unbindable))
    };
    let before = [looked(0), looked(1)];
    assert_eq!(before[1].5.0, is_shared);
    assert!(before[1].2.contains("nosuid") && before[1].2.contains("noatime"), "{before:?}");
    scene.go_back_at_once(&Unwatched).unwrap();
    let look = scene.until_in_use(0);
    assert_eq!(scene.seen(), seen("good"));
    assert_eq!(scene.found(), ["good", "good"]);
    assert_eq!([looked(0), looked(1)], before);
    assert_eq!((look.ways.len(), look.forbids_sync()), (0, None));

    fs::write(scene.point(1).join("file"), "work").unwrap();
    scene.at_once(RollbackOrder::Cancel, &Unwatched).unwrap();
    let look = scene.until_in_use(0);
    assert_eq!(scene.seen(), seen("bad"));
    assert_eq!([looked(0), looked(1)], before);
    assert_eq!((look.state.unwrap().phase, scene.beside()), (RollbackPhase::Cancelled, 2));
    let kept = scene.top(&format!("{}.cancelled-feedbeef/file", scene.names[1]));
    assert_eq!(fs::read_to_string(kept).unwrap(), "work");
    scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap();
    assert_eq!((scene.seen(), scene.beside()), (seen("bad"), 0));
    assert!(scene.state.list("").unwrap().is_empty());
    let own = fs::read_dir(scene.own().join("rollback")).map(|found| found.count()).unwrap_or_default();
    assert_eq!(own, 0, "nothing is noted any more");
}

#[test]
fn what_somebody_works_in_stays_as_it_is_and_is_named_until_they_leave() {
    let Some(scene) = Scene::make() else { return };
    let sleeper = Sleeper::start(Command::new("sleep").arg("600").current_dir(scene.point(1)));
    let check = || scene.order(RollbackOrder::Check(scene.wish()), &Unwatched).unwrap();
    let named = |look: &RollbackLook| {
        let way = look.ways.iter().find(|way| way.name.to_string() == scene.names[1]).unwrap();
        let Some(Waits::Users(users)) = &way.waits else { return false };
        users.named.iter().any(|user| user.pid == sleeper.0.id() && user.program == "sleep")
    };
    until("a plan that names who works there", || named(&check()));
    scene.go_back_at_once(&Unwatched).unwrap();
    let look = scene.until_in_use(1);
    until("a look that names who works there", || named(&scene.look_now()));
    assert_eq!(look.in_use[0].to_string(), scene.names[1]);
    assert_eq!(scene.seen(), [Some("good".into()), Some("bad".into())]);
    assert!(look.forbids_sync().unwrap().contains("still works on the former tree"));
    drop(sleeper);
    scene.until_in_use(0);
    assert_eq!(scene.seen(), seen("good"));
}

#[test]
fn what_another_namespace_of_mounts_keeps_is_in_use() {
    let Some(scene) = Scene::make() else { return };
    let sleeper =
        Sleeper::start(Command::new("unshare").args(["-m", "--propagation", "private", "sleep", "600"]));
    let space = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    while space(&sleeper.0.id().to_string()) == space("self")
        || fs::read_to_string(format!("/proc/{}/comm", sleeper.0.id())).unwrap().trim() != "sleep"
    {
        thread::yield_now();
    }
    let look = scene.go_back_at_once(&Unwatched).unwrap();
    assert_eq!((look.in_use.len(), scene.seen()), (2, seen("bad")));
    let is_named = |waits: &Option<Waits>| match waits {
        Some(Waits::Users(users)) => {
            users.more > 0 || users.named.iter().any(|user| user.pid == sleeper.0.id())
        }
        _ => false,
    };
    assert!(look.ways.iter().all(|way| is_named(&way.waits)), "{:?}", look.ways);
    redo_at_once(&scene.state, &Unwatched).unwrap();
    assert_eq!(scene.seen(), seen("bad"));
    drop(sleeper);
    scene.until_in_use(0);
    assert_eq!(scene.seen(), seen("good"));
}

/// Both names lead to the same state, which is the one that is seen, once nobody is in the way; returns it.
#[track_caller]
fn assert_is_whole(scene: &Scene, died: &str) -> String {
    let gone = scene.seen().iter().any(Option::is_none);
    assert!(!gone, "{died}: {:?}", scene.seen());
    let word = scene.found();
    assert_eq!(word[0], word[1], "{died}");
    if scene.look_now().state.is_some() {
        scene.until_in_use(0);
    }
    assert_eq!(scene.seen(), seen(&word[0]), "{died}");
    assert_eq!(scene.look_now().not_mounted, [], "{died}");
    word[0].clone()
}

#[test]
fn a_death_after_any_step_leaves_nothing_unmounted_after_the_next_redo() {
    let (mut deaths, mut second_deaths, mut number) = (Vec::new(), Vec::new(), 0);
    let since = Instant::now();
    loop {
        let Some(scene) = Scene::make() else { return };
        let ended = dying(|| scene.go_back_at_once(&At::new(number, Fault::Die)));
        let was_elsewhere = ended.as_ref().is_ok_and(|look| !look.as_ref().unwrap().in_use.is_empty());
        if was_elsewhere {
            assert!(since.elapsed() < Duration::from_secs(120), "somebody has one mounted still");
            continue;
        }
        let died = ended.err();
        deaths.extend(died);
        let second = dying(|| redo(&scene.state, &At::new(0, Fault::Die))).err();
        second_deaths.extend(second);
        redo(&scene.state, &Unwatched).unwrap();
        let is_decided = deaths.contains(&"committed");
        let word = assert_is_whole(&scene, &format!("died after {died:?}, the redo after {second:?}"));
        assert_eq!(word, if is_decided { "good" } else { "bad" }, "died after {died:?}");
        if died.is_none() {
            break;
        }
        number += 1;
    }
    for step in ["committed", "done", "noted", "unmounted", "mounted"] {
        assert!(deaths.contains(&step), "no death after `{step}`: {deaths:?}");
    }
    assert!(second_deaths.contains(&"mended"), "{second_deaths:?}");
}

#[test]
fn a_death_after_any_step_of_the_way_back_leaves_nothing_unmounted_either() {
    let (mut deaths, mut second_deaths, mut number) = (Vec::new(), Vec::new(), 0);
    let since = Instant::now();
    loop {
        let Some(scene) = Scene::make() else { return };
        scene.go_back_at_once(&Unwatched).unwrap();
        scene.until_in_use(0);
        let ended = dying(|| scene.at_once(RollbackOrder::Cancel, &At::new(number, Fault::Die)));
        if ended.as_ref().is_ok_and(|look| !look.as_ref().unwrap().in_use.is_empty()) {
            assert!(since.elapsed() < Duration::from_secs(120), "somebody has one mounted still");
            continue;
        }
        let died = ended.err();
        deaths.extend(died);
        let second = dying(|| redo(&scene.state, &At::new(0, Fault::Die))).err();
        second_deaths.extend(second);
        redo(&scene.state, &Unwatched).unwrap();
        let word = assert_is_whole(&scene, &format!("died after {died:?}, the redo after {second:?}"));
        assert_eq!(word, "bad", "died after {died:?}: it was decided with the first of them");
        assert_eq!(scene.look_now().state.unwrap().phase, RollbackPhase::Cancelled);
        if died.is_none() {
            break;
        }
        number += 1;
    }
    for step in ["cancelling", "exchange", "cancelled", "noted", "unmounted", "mounted"] {
        assert!(deaths.contains(&step), "no death after `{step}`: {deaths:?}");
    }
    assert!(second_deaths.contains(&"mended"), "{second_deaths:?}");
}

#[test]
fn what_is_unmounted_is_mounted_again_by_a_redo_of_the_same_boot_alone() {
    for is_same_boot in [true, false] {
        let Some(scene) = Scene::make() else { return };
        scene.order(RollbackOrder::Prepare(scene.wish()), &Unwatched).unwrap();
        // It dies before anything is unmounted, and who comes next dies when something is.
        let commit = || scene.at_once(RollbackOrder::Commit, &At::new(0, Fault::Die));
        assert_eq!(dying(commit).err(), Some("committed"));
        redo(&scene.state, &Unwatched).unwrap();
        let next = || dying(|| redo_at_once(&scene.state, &At::new(1, Fault::Die))).err();
        until("a death with something unmounted", || next() == Some("unmounted"));
        let away = scene.seen().iter().position(Option::is_none).unwrap();
        let other = 1 - away;
        assert_eq!(scene.seen()[other].as_deref(), Some("bad"));
        if !is_same_boot {
            let note = scene.own().join("rollback/at-once");
            let text = fs::read_to_string(&note).unwrap();
            let said: serde_json::Value = serde_json::from_str(&text).unwrap();
            fs::write(&note, text.replace(said["boot_id"].as_str().unwrap(), "another")).unwrap();
        }
        redo(&scene.state, &Unwatched).unwrap();
        let word = is_same_boot.then_some("good");
        assert_eq!(scene.seen()[away].as_deref(), word, "a start mounts it by itself");
        if is_same_boot {
            continue;
        }
        let (top, point) = (scene.top(&scene.names[away]), scene.point(away));
        assert!(sh("mount", &["--bind", text(&top), text(&point)]));
        redo_at_once(&scene.state, &Unwatched).unwrap();
        assert_eq!(scene.seen()[other].as_deref(), Some("bad"), "nobody asked for it in this boot");
        until("a look that says so", || {
            let why = "nobody asked for it since the machine was started";
            scene
                .look_now()
                .ways
                .iter()
                .any(|way| matches!(&way.waits, Some(Waits::For(said)) if said == why))
        });
    }
}

#[test]
fn what_is_inside_comes_along_at_once_and_back_again() {
    let Some(scene) = Scene::make() else { return };
    let inside = scene.point(1).join("vm");
    assert!(sh("btrfs", &["-q", "subvolume", "create", text(&inside)]));
    fs::write(inside.join("disk"), "of now").unwrap();
    let uuid = |path: &Path| KernelBtrfs.subvolume(path).unwrap().uuid.hex();
    let before = uuid(&inside);
    let is_there = || {
        assert_eq!(uuid(&inside), before);
        assert_eq!(fs::read_to_string(inside.join("disk")).unwrap(), "of now");
    };
    scene.go_back_at_once(&Unwatched).unwrap();
    let look = scene.until_in_use(0);
    assert_eq!((scene.seen(), look.inside.len()), (seen("good"), 0));
    is_there();
    scene.at_once(RollbackOrder::Cancel, &Unwatched).unwrap();
    scene.until_in_use(0);
    assert_eq!(scene.seen(), seen("bad"));
    is_there();
}

#[test]
fn what_is_on_trial_or_holds_a_mount_waits_for_the_restart() {
    let Some(scene) = Scene::make() else { return };
    let trial = Some(TrialFor::OneStart);
    scene.order(RollbackOrder::Prepare(RollbackWish { trial, ..scene.wish() }), &Unwatched).unwrap();
    let look = scene.at_once(RollbackOrder::Commit, &Unwatched).unwrap();
    assert_eq!((look.in_use.len(), scene.seen()), (2, seen("bad")));
    let says = |look: &RollbackLook, text: &str| {
        let is_it = |waits: &Option<Waits>| matches!(waits, Some(Waits::For(why)) if why.contains(text));
        assert!(look.ways.iter().any(|way| is_it(&way.waits)), "{text}: {:?}", look.ways);
    };
    says(&look, "it is on trial");
    let back = scene.at_once(RollbackOrder::Cancel, &Unwatched).unwrap();
    assert_eq!((back.state, scene.seen()), (None, seen("bad")));
    // An open file, whose holder is this very process.
    let open = File::open(scene.point(1).join("file")).unwrap();
    let mut scene = scene;
    scene.image.tmpfs("mnt0/inside");
    let look = scene.go_back_at_once(&Unwatched).unwrap();
    assert_eq!((look.in_use.len(), scene.seen()), (2, seen("bad")));
    says(&look, "is mounted in it");
    drop(open);
}
