//! Power cuts at steps of a commit and after a redo, as pictures of the disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;

use super::deaths::{At, Fault, Stage, assert_nothing_left, dying, is_committed, redo_now};
use super::drive::{Disk, assert_same, walked};
use super::plan::normal;
use super::redo::push_two;
use crate::data::apply::{Unwatched, Watch, redo};
use crate::linux::state::StateDir;
use crate::proto::Patience;

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

#[test]
fn a_power_cut_right_after_a_redo_takes_nothing_of_it_back() {
    for fs_type in ["btrfs", "ext4"] {
        let Some(mut disk) = Disk::make(fs_type, 256 << 20) else { return };
        let root = disk.root.clone();
        let stage = Stage::make(&root);
        let before = normal(&walked(&stage.target()));
        let (mut image, mut steps) = (disk.dir().join("image"), Vec::new());
        for number in 0.. {
            let target = stage.target();
            let Err(step) = dying(|| stage.push(&target, &At::new(number, Fault::Die))) else { break };
            if steps.contains(&step) {
                continue;
            }
            steps.push(step);
            rustix::fs::syncfs(fs::File::open(&root).unwrap()).unwrap();
            redo_now(&target, &Unwatched);
            image = Disk::photograph_of(&image, disk.dir(), number);
            disk.boot(&image);
            assert_nothing_left(&target);
            match is_committed(step) {
                true => assert_same(&stage.new, &target),
                false => assert_eq!(normal(&walked(&target)), before, "{fs_type}: died after `{step}`"),
            }
        }
        assert!(["open", "sync", "commit", "clean up", "root"].iter().all(|step| steps.contains(step)));
    }
}

/// Has the first disk written when nothing is left to tidy up there, and takes both disks.
struct FirstOnly<'a> {
    disks: [&'a Disk; 2],
    seen: AtomicUsize,
    photos: Mutex<Vec<PathBuf>>,
}

impl Watch for FirstOnly<'_> {
    fn after(&self, step: &'static str) -> Result<(), Errno> {
        if step == "clean up" && self.seen.fetch_add(1, Ordering::SeqCst) == 1 {
            rustix::fs::syncfs(fs::File::open(&self.disks[0].root).unwrap()).unwrap();
            *self.photos.lock().unwrap() = self.disks.map(|disk| Disk::photograph(disk.dir(), 0)).to_vec();
            return At::new(0, Fault::Die).after(step);
        }
        Ok(())
    }
}

#[test]
fn a_disk_that_has_forgotten_its_tidying_up_does_not_take_old_versions_for_edits() {
    let (Some(mut one), Some(mut two)) = (Disk::make("btrfs", 256 << 20), Disk::make("btrfs", 256 << 20))
    else {
        return;
    };
    let roots = [one.root.clone(), two.root.clone()];
    let stages = roots.each_ref().map(|root| Stage::make(root));
    let targets = stages.each_ref().map(Stage::target);
    let paths = targets.each_ref().map(PathBuf::as_path);
    roots.iter().for_each(|root| rustix::fs::syncfs(fs::File::open(root).unwrap()).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::new(dir.path());
    let first_only = FirstOnly { disks: [&one, &two], seen: AtomicUsize::new(0), photos: Mutex::default() };
    assert!(dying(|| push_two(stages.each_ref(), paths, &state, &first_only)).is_err());
    let photos = first_only.photos.into_inner().unwrap();
    one.boot(&photos[0]);
    two.boot(&photos[1]);
    let results = redo(&state, Patience::TryAgainLater, &Unwatched).unwrap();
    assert!(results.iter().all(|result| result.report.conflicts.is_empty()), "{results:?}");
    for (stage, target) in stages.iter().zip(paths) {
        assert_same(&stage.new, target);
        assert!(!target.join(".pc-switcher").exists());
    }
}
