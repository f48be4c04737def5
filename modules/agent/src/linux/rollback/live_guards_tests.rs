//! What may be used, or looks unlike the plain case, does not go back without a restart, and nothing of it is lost.
#![expect(
    unsafe_code,
    reason = "a mount namespace of one's own is entered by a call that the crate calls unsafe"
)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::live_tests::{Sleeper, seen, until};
use super::tests::{Scene, later, text};
use super::{redo, redo_at_once};
use crate::data::apply::{Unwatched, Watch};
use crate::data::tests::deaths::{At, Fault, dying};
use crate::data::tests::drive::sh;
use crate::proto::{RollbackLook, RollbackOrder, RollbackPhase, Waits};

/// Whether a look names a process among those that use the second subvolume.
fn names(scene: &Scene, look: &RollbackLook, pid: u32) -> bool {
    let way = look.ways.iter().find(|way| way.name.to_string() == scene.names[1]);
    let Some(Waits::Users(users)) = way.and_then(|way| way.waits.as_ref()) else { return false };
    users.more > 0 || users.named.iter().any(|user| user.pid == pid)
}

/// A process in mounts of its own, which `script` has made there before it begins to sleep.
fn in_a_space(propagation: &str, script: &str) -> Sleeper {
    let script = format!("set -e; {script}");
    let words = ["-m", "--propagation", propagation, "sh", "-c", &script];
    let sleeper = Sleeper::start(Command::new("unshare").args(words));
    until("a process in mounts of its own", || {
        fs::read_to_string(format!("/proc/{}/comm", sleeper.pid())).unwrap().trim() == "sleep"
    });
    sleeper
}

#[test]
fn work_in_what_went_at_once_outlives_a_cancel_though_it_is_mounted_nowhere() {
    let Some(scene) = Scene::make() else { return };
    let sleeper = Sleeper::start(Command::new("sleep").arg("600").current_dir(scene.point(1)));
    scene.go_back_at_once(&Unwatched).unwrap();
    scene.until_in_use(1);
    assert_eq!(scene.seen()[0].as_deref(), Some("good"));
    fs::write(scene.point(0).join("file"), "work").unwrap();
    // The boot in which somebody asked may be over.
    let note = scene.own().join("rollback/at-once");
    let text_of = fs::read_to_string(&note).unwrap();
    let said: serde_json::Value = serde_json::from_str(&text_of).unwrap();
    fs::write(&note, text_of.replace(said["boot_id"].as_str().unwrap(), "another")).unwrap();
    redo(&scene.state, &Unwatched).unwrap();
    until("nobody who has it mounted", || sh("umount", &[text(&scene.point(0))]));
    scene.order(RollbackOrder::Cancel, &Unwatched).unwrap();
    drop(sleeper);
    for _ in 0..2 {
        redo(&scene.state, &Unwatched).unwrap();
    }
    let kept = scene.top(&format!("{}.cancelled-feedbeef/file", scene.names[0]));
    assert_eq!(fs::read_to_string(kept).unwrap(), "work");
    scene.until_in_use(0);
    let look = scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap();
    assert!(
        look.kept.is_some() && scene.beside() == 0,
        "it is kept as a set, and goes when that is asked for"
    );
}

/// Mounts something over a point as soon as it is noted that it goes.
struct Hides(PathBuf);

impl Watch for Hides {
    fn after(&self, step: &'static str) -> Result<(), Errno> {
        if step == "noted" && !fs::exists(self.0.join("over")).unwrap() {
            assert!(sh("mount", &["-t", "tmpfs", "none", text(&self.0)]));
            fs::write(self.0.join("over"), "mine").unwrap();
        }
        Ok(())
    }
}

#[test]
fn what_is_mounted_over_one_at_the_last_moment_is_not_unmounted_in_its_stead() {
    let Some(scene) = Scene::make() else { return };
    let point = scene.point(0);
    scene.order(RollbackOrder::Prepare(scene.wish()), &Unwatched).unwrap();
    scene.at_once(RollbackOrder::Commit, &Hides(point.clone())).unwrap();
    until("a try", || {
        redo_at_once(&scene.state, &Hides(point.clone())).unwrap();
        point.join("over").exists()
    });
    redo_at_once(&scene.state, &Unwatched).unwrap();
    assert!(point.join("over").exists(), "it is there still");
    assert!(sh("umount", &[text(&point)]));
    assert_eq!(scene.seen()[0].as_deref(), Some("bad"), "so is what was mounted below it");
    scene.until_in_use(0);
    assert_eq!(scene.seen(), seen("good"));
}

/// A rollback that died with something unmounted; returns which.
fn cut_off(scene: &Scene) -> usize {
    scene.order(RollbackOrder::Prepare(scene.wish()), &Unwatched).unwrap();
    let commit = || scene.at_once(RollbackOrder::Commit, &At::new(0, Fault::Die));
    assert_eq!(dying(commit).err(), Some("committed"));
    redo(&scene.state, &Unwatched).unwrap();
    let next = || dying(|| redo_at_once(&scene.state, &At::new(1, Fault::Die))).err();
    until("a death with something unmounted", || next() == Some("unmounted"));
    scene.seen().iter().position(Option::is_none).unwrap()
}

#[test]
fn what_is_not_mounted_is_told_and_nothing_forgets_it_before_it_is_mended() {
    let Some(scene) = Scene::make() else { return };
    let away = cut_off(&scene);
    let look = scene.look_now();
    assert_eq!(look.not_mounted, [scene.point(away).as_path().into()]);
    assert!(look.forbids_sync().unwrap().contains("is not mounted"));
    for order in [RollbackOrder::Cancel, RollbackOrder::Confirm(later())] {
        let error = scene.at_once(order, &Unwatched).unwrap_err();
        assert!(error.message.contains("is not mounted"), "{error}");
    }
    redo(&scene.state, &Unwatched).unwrap();
    assert_eq!((scene.look_now().not_mounted, scene.seen()[away].as_deref()), (vec![], Some("good")));
}

#[test]
fn who_works_among_other_mounts_leaves_it_to_others_to_mount_it() {
    let Some(scene) = Scene::make() else { return };
    let away = cut_off(&scene);
    thread::scope(|scope| {
        let elsewhere = scope.spawn(|| {
            // SAFETY: only the file system's namespace is parted, no table of descriptors.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            redo(&scene.state, &Unwatched).unwrap();
        });
        elsewhere.join().unwrap();
    });
    assert_eq!(scene.seen()[away], None, "nothing was mounted among the machine's");
    assert_eq!(scene.look_now().not_mounted.len(), 1, "the note is there still");
    redo(&scene.state, &Unwatched).unwrap();
    assert_eq!(scene.seen()[away].as_deref(), Some("good"));
}

#[test]
fn who_works_in_a_tree_by_the_mount_of_the_top_level_keeps_it() {
    let Some(scene) = Scene::make() else { return };
    let inside = scene.point(1).join("vm");
    assert!(sh("btrfs", &["-q", "subvolume", "create", text(&inside)]));
    let tree = || scene.top(&scene.names[1]);
    let in_place = |of: &Path| Sleeper::start(Command::new("sleep").arg("600").current_dir(of));
    for place in [tree(), tree().join("vm")] {
        let sleeper = in_place(&place);
        let check = || scene.order(RollbackOrder::Check(scene.wish()), &Unwatched).unwrap();
        until("a plan that names who works there", || names(&scene, &check(), sleeper.pid()));
    }
    let sleeper = in_place(&tree());
    scene.go_back_at_once(&Unwatched).unwrap();
    let look = scene.until_in_use(1);
    assert_eq!(
        (look.in_use[0].to_string(), scene.seen()[1].as_deref()),
        (scene.names[1].clone(), Some("bad"))
    );
    until("a look that names who works there", || names(&scene, &scene.look_now(), sleeper.pid()));
    until("nobody else who has it mounted", || sh("umount", &[text(&scene.point(1))]));
    // From then on it is a tree that nobody has mounted: that keeps it from going, and no sync from starting.
    scene.until_in_use(0);
    redo(&scene.state, &Unwatched).unwrap();
    let look = scene.look_now();
    let replaced = scene.top(&format!("{}.replaced-feedbeef", scene.names[1]));
    let [reached] = &look.reached[..] else { panic!("{look:?}") };
    assert_eq!(
        (reached.name.to_string(), reached.at.as_path()),
        (scene.names[1].clone(), replaced.as_path())
    );
    assert_eq!(reached.users.named[0].pid, sleeper.pid(), "{reached:?}");
    assert_eq!(look.forbids_sync(), None);
    let waits = scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap();
    assert_eq!((waits.reached.len(), scene.beside()), (1, 2), "nothing is removed under its feet");
    drop(sleeper);
    assert_eq!(scene.look_now().reached, []);
    // So does a file that is open.
    let open = File::open(replaced.join("file")).unwrap();
    assert_eq!(scene.look_now().reached.len(), 1);
    drop(open);
    assert_eq!(scene.look_now().reached, []);
    scene.order(RollbackOrder::Confirm(later()), &Unwatched).unwrap();
    assert_eq!(scene.beside(), 0);
}

#[test]
fn a_copy_of_the_mount_that_hears_goes_along_and_one_with_other_options_keeps_the_tree() {
    let Some(mut scene) = Scene::make() else { return };
    scene.share();
    let point = scene.point(1);
    let hears = in_a_space("slave", "exec sleep 600");
    let read_only =
        in_a_space("slave", &format!("mount -o remount,bind,ro {}; exec sleep 600", text(&point)));
    let seen_by = |sleeper: &Sleeper| {
        let inside = point.strip_prefix("/").unwrap().join("file");
        fs::read_to_string(Path::new(&format!("/proc/{}/root", sleeper.pid())).join(inside)).unwrap()
    };
    scene.go_back_at_once(&Unwatched).unwrap();
    let look = scene.until_in_use(1);
    assert_eq!(look.in_use[0].to_string(), scene.names[1]);
    until("a look that names who keeps it", || names(&scene, &scene.look_now(), read_only.pid()));
    assert_eq!([seen_by(&hears), seen_by(&read_only)], ["bad", "bad"]);
    drop(read_only);
    scene.until_in_use(0);
    assert_eq!((scene.seen(), seen_by(&hears).as_str()), (seen("good"), "good"));
}

#[test]
fn who_was_put_into_a_part_of_the_machine_hides_no_mount_of_others() {
    let Some(scene) = Scene::make() else { return };
    let part = scene.image.dir().join("part");
    fs::create_dir(&part).unwrap();
    // The first process of that namespace sees one mount alone.
    let part = text(&part);
    let sleeper = in_a_space(
        "private",
        &format!("mount --bind / {part}; setpriv --pdeathsig KILL sleep 600 & exec chroot {part} sleep 600"),
    );
    let look = scene.go_back_at_once(&Unwatched).unwrap();
    assert_eq!((look.in_use.len(), scene.seen()), (2, seen("bad")));
    drop(sleeper);
    scene.until_in_use(0);
    assert_eq!(scene.seen(), seen("good"));
}

#[test]
fn a_mount_that_passes_others_on_in_its_own_way_waits_for_the_restart() {
    let Some(scene) = Scene::make() else { return };
    for how in ["--make-shared", "--make-unbindable"] {
        assert!(sh("mount", &[how, text(&scene.point(1))]));
        let look = scene.order(RollbackOrder::Check(scene.wish()), &Unwatched).unwrap();
        let says =
            |waits: &Option<Waits>| matches!(waits, Some(Waits::For(why)) if why.contains("PROPAGATION"));
        assert!(look.ways.iter().any(|way| says(&way.waits)), "{how}: {:?}", look.ways);
    }
    scene.go_back_at_once(&Unwatched).unwrap();
    let look = scene.until_in_use(1);
    assert_eq!(look.state.unwrap().phase, RollbackPhase::Done);
    assert_eq!(scene.seen(), [Some("good".into()), Some("bad".into())]);
}
