//! Differences and versions over sets of a real image.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pc_switcher_contract::{BytePath, SnapshotKind};

use super::tests::request as take_request;
use super::*;
use crate::data::diff::Differ;
use crate::linux::btrfs::image::Image;
use crate::proto::{Change, ChangeKind, CopyOrder, CreateSet, DiffEnd, Words, decode};

struct Scene {
    image: Image,
}

impl Scene {
    fn make() -> Option<Self> {
        let image = Image::make(256)?;
        ["@diff-home", "@snapshots"].iter().for_each(|name| image.create(name));
        Some(Self { image })
    }

    fn home(&self) -> PathBuf {
        self.image.top().join("@diff-home")
    }

    fn dir(&self) -> PathBuf {
        self.image.top().join("@snapshots")
    }

    fn take(&self, minute: u8) -> SnapshotSet {
        let dir = self.dir();
        let store = Store::new(&KernelBtrfs, &dir);
        let mut request = take_request(store.dir(), &format!("0000000{minute}"), &["@diff-home"]);
        request.stamp = format!("20251115T12000{minute}Z").parse().unwrap();
        let taken = set::take(
            &store,
            &Mounts::read().unwrap(),
            "laptop".parse().unwrap(),
            &request,
            &Said::default(),
        );
        taken.unwrap().0
    }

    fn now(&self) -> DiffEnd {
        let mut set = take_request(&self.dir(), "99999999", &[]);
        set.kind = SnapshotKind::Manual;
        let (words, copies) = (Words::default(), CopyOrder::default());
        DiffEnd::Now(Box::new(CreateSet { set, words, pinned: false, copies }))
    }

    /// Differences as lines of kind, path below the home and, of a renaming, where it was.
    fn diff(&self, from: &SnapshotSet, to: DiffEnd, path: Option<&Path>, uid: u32) -> (Vec<String>, Diffed) {
        let (call, frames) = Call::for_test(Vec::new());
        let request = DiffRequest {
            snapshot_dir: self.dir().as_path().into(),
            from: from.id(),
            to,
            path: path.map(Into::into),
            uid,
        };
        let diffed = diff(&request, &call).unwrap();
        drop(call);
        let bytes: Vec<u8> = frames.try_iter().flatten().collect();
        let mut input = std::io::Cursor::new(bytes);
        let mut lines = Vec::new();
        while let Ok(Some(frame)) = crate::frame::read(&mut input) {
            let changes: Vec<Change> = decode(&frame.body).unwrap();
            lines.extend(changes.iter().map(|one| self.line(one)));
        }
        (lines, diffed)
    }

    fn line(&self, one: &Change) -> String {
        let home = self.home();
        let short = |path: &BytePath| path.as_path().strip_prefix(&home).unwrap().display().to_string();
        let from = one.from.as_ref().map(|from| format!(" from {}", short(from))).unwrap_or_default();
        format!("{:?} {}{from}", one.kind, short(&one.path))
    }
}

fn touch(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn every_sort_of_difference_is_told_forth_and_back_and_against_now() {
    let Some(scene) = Scene::make() else { return };
    let home = scene.home();
    for dir in ["stays", "old/inner/deep", "goes/with", "meta"] {
        fs::create_dir_all(home.join(dir)).unwrap();
    }
    for file in [
        "same",
        "edited",
        "sly",
        "moved",
        "stays/touched",
        "old/inner/kept",
        "old/inner/deep/edited",
        "goes/x",
        "goes/with/rescued",
        "becomes",
    ] {
        fs::write(home.join(file), format!("this is {file}")).unwrap();
    }
    symlink("here", home.join("link")).unwrap();
    touch(&home.join("sly"), 1_000_000);
    let a = scene.take(1);
    fs::write(home.join("edited"), "edited otherwise").unwrap();
    fs::write(home.join("sly"), "that is sly").unwrap();
    touch(&home.join("sly"), 1_000_000);
    fs::create_dir_all(home.join("new/dir")).unwrap();
    fs::write(home.join("new/file"), "x").unwrap();
    fs::rename(home.join("moved"), home.join("new/dir/moved")).unwrap();
    fs::rename(home.join("old"), home.join("renamed")).unwrap();
    fs::write(home.join("renamed/inner/deep/edited"), "more than it was").unwrap();
    fs::rename(home.join("goes/with/rescued"), home.join("stays/rescued")).unwrap();
    fs::remove_dir_all(home.join("goes")).unwrap();
    touch(&home.join("stays/touched"), 5);
    fs::set_permissions(home.join("meta"), PermissionsExt::from_mode(0o700)).unwrap();
    fs::remove_file(home.join("link")).unwrap();
    symlink("there", home.join("link")).unwrap();
    fs::remove_file(home.join("becomes")).unwrap();
    fs::create_dir(home.join("becomes")).unwrap();
    // A new inode with all that the old one had is no difference.
    let time = fs::metadata(home.join("same")).unwrap().modified().unwrap();
    fs::copy(home.join("same"), home.join("same.tmp")).unwrap();
    fs::File::options().write(true).open(home.join("same.tmp")).unwrap().set_modified(time).unwrap();
    fs::rename(home.join("same.tmp"), home.join("same")).unwrap();
    let forth = [
        "Created becomes",
        "Deleted becomes",
        "Changed edited",
        "Deleted goes",
        "Deleted goes/with",
        "Deleted goes/x",
        "Changed link",
        "Metadata meta",
        "Created new",
        "Created new/dir",
        "Renamed new/dir/moved from moved",
        "Created new/file",
        "Renamed renamed from old",
        "Changed renamed/inner/deep/edited",
        "Changed sly",
        "Renamed stays/rescued from goes/with/rescued",
        "Metadata stays/touched",
    ];
    let (lines, diffed) = scene.diff(&a, scene.now(), None, 0);
    assert_eq!(lines, forth);
    assert_eq!((diffed.compared.len(), diffed.alone.len(), diffed.hidden), (1, 0, 0));
    let left = fs::read_dir(scene.dir()).unwrap().count();
    assert_eq!(left, 2, "the set of now is removed: one member and our own directory");

    let b = scene.take(2);
    assert_eq!(scene.diff(&a, DiffEnd::Set(b.id()), None, 0).0, forth);
    let back: BTreeSet<String> = scene.diff(&b, DiffEnd::Set(a.id()), None, 0).0.into_iter().collect();
    for line in
        ["Deleted new/file", "Created goes/x", "Renamed old from renamed", "Changed edited", "Metadata meta"]
    {
        assert!(back.contains(line), "{back:#?}");
    }
    let (lines, _) = scene.diff(&a, DiffEnd::Set(b.id()), Some(&home.join("new")), 0);
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(scene.diff(&b, scene.now(), None, 0).0, Vec::<String>::new());

    // `meta` may not be listed by others, but that it changed is seen in its parent.
    fs::write(home.join("meta/secret"), "x").unwrap();
    let (lines, diffed) = scene.diff(&b, scene.now(), None, 65_534);
    assert_eq!((lines, diffed.hidden), (vec![], 1));
}

#[test]
fn of_a_name_that_two_disks_have_the_one_is_meant_beside_the_snapshots() {
    let Some((_older, scene)) = Scene::make().zip(Scene::make()) else { return };
    let a = scene.take(1);
    fs::write(scene.home().join("new"), "x").unwrap();
    assert_eq!(scene.diff(&a, scene.now(), None, 0).0, ["Created new"]);
}

/// A number from a seed; not random, only spread.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

fn step(home: &Path, state: &mut u64) {
    let dir = |state: &mut u64| home.join(["", "a", "b", "a/c", "b/d", "a/c/e"][next(state) as usize % 6]);
    let name = |state: &mut u64| format!("f{}", next(state) % 5);
    let at = dir(state).join(name(state));
    let other = dir(state).join(name(state));
    // What cannot be done is not done: whatever is there then is compared.
    let _ = match next(state) % 8 {
        0 => fs::write(&at, next(state).to_string()),
        1 => fs::remove_file(&at),
        2 => fs::rename(&at, &other),
        3 => fs::create_dir_all(dir(state)),
        4 => fs::rename(dir(state), &other),
        5 => fs::remove_dir_all(dir(state).join("c")),
        6 => fs::hard_link(&at, &other),
        _ => fs::set_permissions(&at, PermissionsExt::from_mode(0o600 + (next(state) % 2) as u32 * 0o44)),
    };
}

#[test]
fn what_the_tree_tells_is_what_a_look_at_everything_finds() {
    let Some(scene) = Scene::make() else { return };
    let home = scene.home();
    let mut state = 42;
    let mut told = 0;
    for round in 0..30 {
        (0..20).for_each(|_| step(&home, &mut state));
        let a = scene.take(1);
        (0..(round % 12)).for_each(|_| step(&home, &mut state));
        let b = scene.take(2);
        let path = |set: &SnapshotSet| set.members[0].path.clone();
        let open = |set: &SnapshotSet| fs::File::open(path(set).as_path()).unwrap().into();
        let (base, now) = (open(&a), open(&b));
        let run = |dirs: Option<&[crate::proto::ChangedDir]>| {
            Differ::new(&base, &now, &|| false).run(dirs).unwrap()
        };
        let (call, _frames) = Call::for_test(Vec::new());
        let tree =
            crate::proto::Tree { root: path(&b), prefix: BytePath::default(), rules: Default::default() };
        let dirs =
            crate::data::changed::find(&path(&a), &tree, a.members[0].otransid, &call).unwrap().unwrap();
        let (few, all) = (run(Some(&dirs)), run(None));
        assert_eq!(few, all, "round {round}: {dirs:?}");
        told += few.iter().filter(|one| one.kind == ChangeKind::Renamed).count();
        drop((base, now));
        let dir = scene.dir();
        let store = Store::new(&KernelBtrfs, &dir);
        [a, b].iter().for_each(|set| store.delete(&set.id(), || Ok(vec![])).unwrap());
    }
    assert!(told > 0, "no round had a renaming");
}

#[test]
fn versions_are_told_apart_by_content_and_brought_together_by_it() {
    let Some(scene) = Scene::make() else { return };
    let file = scene.home().join("file");
    let other = scene.take(0);
    fs::write(&file, "one").unwrap();
    touch(&file, 1000);
    let (first, second) = (scene.take(1), scene.take(2));
    fs::write(&file, "two").unwrap();
    touch(&file, 1000);
    let third = scene.take(3);
    // The old content again, as a new inode.
    fs::remove_file(&file).unwrap();
    fs::write(&file, "one").unwrap();
    touch(&file, 1000);
    let fourth = scene.take(4);
    fs::write(&file, "three").unwrap();
    let request =
        VersionsRequest { snapshot_dir: scene.dir().as_path().into(), path: file.as_path().into(), uid: 0 };
    let (call, _frames) = Call::for_test(Vec::new());
    let found = versions(&request, &call).unwrap();
    let sets: Vec<_> = found.versions.iter().map(|one| (one.is_now, one.sets.clone(), one.size)).collect();
    let wanted = [
        (true, vec![], 5),
        (false, vec![fourth.id(), second.id(), first.id()], 3),
        (false, vec![third.id()], 3),
    ];
    assert_eq!(sets, wanted);
    assert_eq!(found.without, [other.id()]);
    fs::remove_file(&file).unwrap();
    assert!(versions(&request, &call).unwrap().versions.iter().all(|one| !one.is_now));
}
