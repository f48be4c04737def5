//! Restoring from sets of a real image.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use pc_switcher_contract::{BytePath, SnapshotKind};
use rustix::fs::{Timespec, Timestamps, XattrFlags};

use super::tests::request as take_request;
use super::*;
use crate::data::restore::{Owner, Source, Target, stage};
use crate::linux::btrfs::image::Image;
use crate::linux::rollback::own_below;
use crate::proto::{CopyOrder, RestorePlace, Words};

const SESSION: &str = "abc12345";

struct Scene {
    image: Image,
    set: SnapshotSet,
}

/// All that is to come back of one entry: kind and mode, owner, times, size and blocks, names, content or target, attributes.
type Look = (u32, (u32, u32), (i64, i64), (u64, bool), u64, Vec<u8>, Option<Vec<u8>>);

fn look(path: &Path) -> Look {
    let meta = fs::symlink_metadata(path).unwrap();
    let content = match meta.file_type() {
        kind if kind.is_file() => fs::read(path).unwrap(),
        kind if kind.is_symlink() => {
            BytePath::from(fs::read_link(path).unwrap().as_path()).as_bytes().to_vec()
        }
        _ => Vec::new(),
    };
    let mut buffer = [0_u8; 256];
    let attribute = rustix::fs::lgetxattr(path, "user.tag", &mut buffer).ok().map(|n| buffer[..n].to_vec());
    let size = if meta.is_dir() { 0 } else { meta.size() };
    let is_sparse = meta.is_file() && meta.blocks() * 512 < size / 2;
    let times = (meta.mtime(), meta.mtime_nsec());
    let nlink = if meta.is_dir() { 1 } else { meta.nlink() };
    (meta.mode(), (meta.uid(), meta.gid()), times, (size, is_sparse), nlink, content, attribute)
}

fn looks(root: &Path) -> BTreeMap<PathBuf, Look> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        found.insert(path.strip_prefix(root).unwrap().to_owned(), look(&path));
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

impl Scene {
    fn make() -> Option<Self> {
        let image = Image::make(256)?;
        ["@restore-home", "@snapshots"].iter().for_each(|name| image.create(name));
        let home = image.top().join("@restore-home/alice");
        fs::create_dir_all(home.join("deep/er")).unwrap();
        fs::write(home.join("letter"), "dear").unwrap();
        fs::hard_link(home.join("letter"), home.join("deep/copy")).unwrap();
        fs::set_permissions(home.join("letter"), PermissionsExt::from_mode(0o4711)).unwrap();
        let big = File::create(home.join("deep/er/sparse")).unwrap();
        big.write_all_at(&[1; 4096], 8 << 20).unwrap();
        big.set_len(16 << 20).unwrap();
        big.set_permissions(PermissionsExt::from_mode(0o674)).unwrap();
        symlink("../nowhere", home.join("deep/link")).unwrap();
        rustix::fs::setxattr(home.join("deep"), "user.tag", b"blue", XattrFlags::empty()).unwrap();
        std::os::unix::fs::chown(home.join("deep/er"), Some(1234), Some(2345)).unwrap();
        let old = Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
        let old = Timestamps { last_access: old, last_modification: old };
        rustix::fs::futimens(File::open(home.join("deep")).unwrap(), &old).unwrap();
        let dir = image.top().join("@snapshots");
        let store = Store::new(&KernelBtrfs, &dir);
        let request = take_request(store.dir(), SESSION, &["@restore-home"]);
        let set = set::take(
            &store,
            &Mounts::read().unwrap(),
            "laptop".parse().unwrap(),
            &request,
            &Said::default(),
        );
        Some(Self { set: set.unwrap().0, image })
    }

    fn home(&self) -> PathBuf {
        self.image.top().join("@restore-home/alice")
    }

    fn dir(&self) -> PathBuf {
        self.image.top().join("@snapshots")
    }

    fn held(&self) -> PathBuf {
        self.set.members[0].path.as_path().join("alice")
    }

    fn request(&self, path: &Path, place: RestorePlace) -> RestoreRequest {
        RestoreRequest {
            snapshot_dir: self.dir().as_path().into(),
            id: self.set.id(),
            paths: vec![path.into()],
            place,
            stamp: "20251120T080000Z".parse().unwrap(),
            tag: "fedcba98".parse().unwrap(),
            uid: 0,
        }
    }

    fn restore(&self, request: &RestoreRequest) -> Result<RestoreReply, AgentError> {
        let (call, _frames) = Call::for_test(Vec::new());
        let store = Store::new(&KernelBtrfs, self.dir().as_path());
        store.restore(&Mounts::read().unwrap(), &"laptop".parse().unwrap(), request, &call)
    }

    fn done(&self, path: &Path, place: RestorePlace) -> crate::proto::Restored {
        match self.restore(&self.request(path, place)).unwrap() {
            RestoreReply::Done { mut restored, .. } => restored.pop().unwrap(),
            missing => panic!("{missing:?}"),
        }
    }

    fn in_place(&self) -> RestorePlace {
        let mut set = take_request(self.dir().as_path(), "00000001", &["@restore-home"]);
        set.kind = SnapshotKind::Manual;
        let (words, copies) = (Words::default(), CopyOrder::default());
        RestorePlace::InPlace(Box::new(CreateSet { set, words, pinned: false, copies }))
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.home()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn a_tree_comes_back_beside_with_all_that_it_was_and_content_takes_no_space_twice() {
    let Some(scene) = Scene::make() else { return };
    let home = scene.home();
    fs::remove_dir_all(home.join("deep")).unwrap();
    let back = scene.done(&home.join("deep"), RestorePlace::Beside);
    assert_eq!(back.to, home.join("deep.restored-20251120T080000Z").as_path().into());
    assert_eq!((back.entries, back.notes.clone(), back.kept.clone()), (5, vec![], None));
    let (is, was) = (looks(back.to.as_path()), looks(&scene.held().join("deep")));
    // The other name of `copy` lies outside of what was restored.
    let nlink = |looks: &BTreeMap<PathBuf, Look>| looks[Path::new("copy")].4;
    assert_eq!((nlink(&is), nlink(&was)), (1, 2));
    let plain = |mut looks: BTreeMap<PathBuf, Look>| {
        looks.values_mut().for_each(|look| look.4 = 1);
        looks
    };
    assert_eq!(plain(is), plain(was));
    let again = scene.done(&home.join("deep"), RestorePlace::Beside);
    assert_eq!(again.to, home.join("deep.restored-20251120T080000Z-2").as_path().into());
    let whole = scene.done(&home, RestorePlace::Into(scene.image.top().into()));
    assert_eq!(looks(whole.to.as_path()), looks(&scene.held()), "hard links within what is restored");
    let error =
        scene.restore(&scene.request(&home, RestorePlace::Into(scene.image.top().into()))).unwrap_err();
    assert!(error.message.contains("is there already"), "{error}");
    let extents = |path: &Path| {
        let out = std::process::Command::new("filefrag").arg("-v").arg(path).output().unwrap();
        String::from_utf8(out.stdout).unwrap().contains("shared")
    };
    assert!(extents(&back.to.as_path().join("er/sparse")), "content is shared");
}

#[test]
fn in_place_the_path_is_what_it_was_and_the_safety_set_holds_what_was_there() {
    let Some(scene) = Scene::make() else { return };
    let letter = scene.home().join("letter");
    fs::write(&letter, "hated").unwrap();
    let back = scene.done(&letter, scene.in_place());
    assert_eq!((back.to.clone(), back.kept.clone()), (letter.as_path().into(), None));
    assert_eq!(fs::read_to_string(&letter).unwrap(), "dear");
    assert_eq!(scene.names(), ["deep", "letter"], "nothing is left beside");
    let safety = scene.dir().join("@restore-home-manual-20251115T120000Z-00000001/alice/letter");
    assert_eq!(fs::read_to_string(safety).unwrap(), "hated");

    let store_dir = scene.dir();
    let store = Store::new(&KernelBtrfs, &store_dir);
    let ids = store.ids().unwrap();
    store.delete(ids.iter().find(|id| id.kind == SnapshotKind::Manual).unwrap(), || Ok(vec![])).unwrap();
    let deep = scene.home().join("deep");
    fs::write(deep.join("new"), "new").unwrap();
    scene.done(&deep, scene.in_place());
    assert!(!deep.join("new").exists());
    assert_eq!(look(&deep), look(&scene.held().join("deep")));
    assert_eq!(scene.names(), ["deep", "letter"]);
}

#[test]
fn what_a_set_lacks_is_refused_with_the_nearest_set_that_has_it() {
    let Some(scene) = Scene::make() else { return };
    let new = scene.home().join("new");
    let reply = scene.restore(&scene.request(&new, RestorePlace::Beside)).unwrap();
    assert_eq!(reply, RestoreReply::Missing { path: new.as_path().into(), nearest: None });
    fs::write(&new, "x").unwrap();
    let dir = scene.dir();
    let store = Store::new(&KernelBtrfs, &dir);
    let mut request = take_request(store.dir(), "00000002", &["@restore-home"]);
    request.stamp = "20251117T120000Z".parse().unwrap();
    let mounts = Mounts::read().unwrap();
    let (newer, _) =
        set::take(&store, &mounts, "laptop".parse().unwrap(), &request, &Said::default()).unwrap();
    let reply = scene.restore(&scene.request(&new, RestorePlace::Beside)).unwrap();
    assert_eq!(reply, RestoreReply::Missing { path: new.as_path().into(), nearest: Some(newer.id()) });
    assert_eq!(scene.names(), ["deep", "letter", "new"]);
    KernelBtrfs.set_readonly(newer.members[0].path.as_path(), false).unwrap();
    let reply = scene.restore(&scene.request(&new, RestorePlace::Beside)).unwrap();
    assert_eq!(
        reply,
        RestoreReply::Missing { path: new.as_path().into(), nearest: None },
        "it gives nothing"
    );
}

#[test]
fn nobody_restores_what_that_person_could_not_read_or_write() {
    let Some(scene) = Scene::make() else { return };
    // The directory of the image is root's alone.
    fs::set_permissions(scene.image.dir(), PermissionsExt::from_mode(0o755)).unwrap();
    let nobody = 65_534;
    let secret = scene.home().join("letter");
    let mut request = scene.request(&secret, RestorePlace::Beside);
    request.uid = nobody;
    let error = scene.restore(&request).unwrap_err();
    assert!(error.message.contains("nothing was restored"), "{error}");
    let inbox = scene.image.top().join("inbox");
    fs::create_dir(&inbox).unwrap();
    std::os::unix::fs::chown(&inbox, Some(nobody), None).unwrap();
    request.place = RestorePlace::Into(inbox.as_path().into());
    let error = scene.restore(&request).unwrap_err();
    assert!(
        error.message.contains("@restore-home/alice/letter`") && error.message.contains("sudo"),
        "{error}"
    );
    assert_eq!(fs::read_dir(&inbox).unwrap().count(), 0, "nothing is left half made");
    assert_eq!(scene.names(), ["deep", "letter"]);
    request.paths = vec![scene.home().join("deep/er").as_path().into()];
    let reply = scene.restore(&request).unwrap();
    let RestoreReply::Done { restored, .. } = reply else { panic!("{reply:?}") };
    let meta = fs::metadata(inbox.join("er")).unwrap();
    assert_eq!(meta.uid(), nobody);
    let mode = fs::metadata(inbox.join("er/sparse")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o644, "the group is another one and gets what everybody had");
    assert!(restored[0].notes.iter().any(|note| note.contains("only root can give")), "{restored:?}");
}

#[test]
fn what_is_no_path_of_a_subvolume_and_what_holds_another_is_refused() {
    let Some(mut scene) = Scene::make() else { return };
    let refused = |scene: &Scene, path: &Path, place: RestorePlace, word: &str| {
        let error = scene.restore(&scene.request(path, place)).unwrap_err();
        assert!(error.message.contains(word), "{error}");
    };
    refused(&scene, Path::new("alice"), RestorePlace::Beside, "not a plain absolute path");
    refused(&scene, Path::new("/proc/self"), RestorePlace::Beside, "no snapshots");
    let whole = scene.image.top().join("@restore-home");
    refused(&scene, &whole, RestorePlace::Beside, "whole subvolume");
    scene.image.create("@restore-home/alice/deep/nested");
    let deep = scene.home().join("deep");
    refused(&scene, &deep, scene.in_place(), "nested` is a mount or a subvolume");
    scene.image.tmpfs("top/@restore-home/alice/deep/er");
    refused(&scene, &deep, scene.in_place(), "er` is a mount or a subvolume");
    refused(&scene, &deep.join("er/x"), RestorePlace::Beside, "lies on tmpfs");
    KernelBtrfs.set_readonly(scene.set.members[0].path.as_path(), false).unwrap();
    refused(&scene, &scene.home().join("letter"), RestorePlace::Beside, "is writable");
}

#[test]
fn what_another_restore_has_staged_is_left_alone() {
    let Some(scene) = Scene::make() else { return };
    let letter = scene.home().join("letter");
    let staged = scene.home().join(".letter.restoring-fedcba98");
    fs::write(&staged, "not ours").unwrap();
    let error = scene.restore(&scene.request(&letter, RestorePlace::Beside)).unwrap_err();
    assert!(error.message.contains("is there already"), "{error}");
    assert_eq!(fs::read_to_string(&staged).unwrap(), "not ours");
}

#[test]
fn over_file_systems_content_is_copied_with_its_holes_and_a_full_one_is_left_as_it_was() {
    let Some(mut scene) = Scene::make() else { return };
    let inbox = scene.image.tmpfs("inbox");
    let back = scene.done(&scene.home(), RestorePlace::Into(inbox.as_path().into()));
    // Whether a tmpfs takes the attribute depends on the kernel.
    let plain = |mut looks: BTreeMap<PathBuf, Look>| {
        looks.values_mut().for_each(|look| look.6 = None);
        looks
    };
    assert_eq!(plain(looks(back.to.as_path())), plain(looks(&scene.held())));
    fs::remove_dir_all(back.to.as_path()).unwrap();
    let small = std::process::Command::new("mount").args(["-o", "remount,size=64k"]).arg(&inbox).status();
    assert!(small.unwrap().success());
    fs::write(scene.home().join("deep/large"), vec![7; 1 << 20]).unwrap();
    let dir = scene.dir();
    let request = TakeSet {
        stamp: "20251118T120000Z".parse().unwrap(),
        ..take_request(&dir, "00000003", &["@restore-home"])
    };
    let store = Store::new(&KernelBtrfs, &dir);
    let taken =
        set::take(&store, &Mounts::read().unwrap(), "laptop".parse().unwrap(), &request, &Said::default());
    let request = RestoreRequest {
        id: taken.unwrap().0.id(),
        ..scene.request(&scene.home(), RestorePlace::Into(inbox.as_path().into()))
    };
    let error = scene.restore(&request).unwrap_err();
    assert_eq!(error.kind, crate::proto::AgentErrorKind::NoSpace, "{error}");
    assert_eq!(fs::read_dir(&inbox).unwrap().count(), 0, "nothing is left half made");
}

#[test]
fn what_is_closed_by_now_is_given_to_nobody_though_its_rights_of_then_would_let_it() {
    let Some(scene) = Scene::make() else { return };
    fs::set_permissions(scene.image.dir(), PermissionsExt::from_mode(0o755)).unwrap();
    let nobody = 65_534;
    let inbox = scene.image.top().join("inbox");
    fs::create_dir(&inbox).unwrap();
    std::os::unix::fs::chown(&inbox, Some(nobody), None).unwrap();
    let (deep, subvolume) = (scene.home().join("deep"), scene.image.top().join("@restore-home"));
    let mut request = scene.request(&deep.join("er"), RestorePlace::Into(inbox.as_path().into()));
    request.uid = nobody;
    // The subvolume itself, and a directory in it: in the snapshot both are as open as they were.
    for (closed, mode) in
        [(scene.image.dir().to_owned(), 0o700), (subvolume, 0o700), (deep.join("er"), 0o711)]
    {
        let was = fs::metadata(&closed).unwrap().permissions();
        fs::set_permissions(&closed, PermissionsExt::from_mode(mode)).unwrap();
        let error = scene.restore(&request).unwrap_err();
        assert!(error.message.contains("may not be read"), "{closed:?}: {error}");
        fs::set_permissions(&closed, was).unwrap();
    }
    let sparse = deep.join("er/sparse");
    fs::set_permissions(&sparse, PermissionsExt::from_mode(0o600)).unwrap();
    let error = scene.restore(&request).unwrap_err();
    assert!(error.message.contains("er/sparse`"), "{error}");
    assert_eq!(fs::read_dir(&inbox).unwrap().count(), 0, "nothing is left half made");
    fs::remove_file(&sparse).unwrap();
    assert!(matches!(scene.restore(&request), Ok(RestoreReply::Done { .. })), "what is gone comes back");
}

#[test]
fn paths_that_are_in_each_others_way_are_refused_before_anything_is_written() {
    let Some(scene) = Scene::make() else { return };
    let home = scene.home();
    let before = looks(&home);
    let inbox = scene.image.top().join("inbox");
    fs::create_dir(&inbox).unwrap();
    fs::write(inbox.join("letter"), "mine").unwrap();
    let into = || RestorePlace::Into(inbox.as_path().into());
    for (paths, place, word) in [
        (["deep", "deep/er"], scene.in_place(), "one place"),
        (["letter", "letter"], RestorePlace::Beside, "one place"),
        (["letter", "letter"], into(), "one place"),
        (["deep", "letter"], into(), "is there already"),
    ] {
        let mut request = scene.request(&home, place);
        request.paths = paths.iter().map(|path| home.join(path).as_path().into()).collect();
        let error = scene.restore(&request).unwrap_err();
        assert!(error.message.contains(word), "{paths:?}: {error}");
    }
    assert_eq!(looks(&home), before);
    assert_eq!(fs::read_dir(&inbox).unwrap().count(), 1);
    let store_dir = scene.dir();
    assert_eq!(Store::new(&KernelBtrfs, &store_dir).ids().unwrap().len(), 1, "no safety set is left");
}

#[test]
fn a_link_that_appears_on_the_way_leads_nobody_elsewhere() {
    use crate::data::restore::{Owner, Source, Target, stage};
    let Some(scene) = Scene::make() else { return };
    let link = scene.image.top().join("link");
    symlink(scene.home(), &link).unwrap();
    let root = File::open(scene.held()).unwrap().into();
    let (inside, path) = (BytePath::from("letter"), BytePath::from(link.join("letter").as_path()));
    let source = Source { root: &root, inside: &inside, path: &path, live: &path };
    let owner = Owner { uid: 0, gid: 0, groups: vec![0] };
    let parent = BytePath::from(link.as_path());
    let staged = |is_named| {
        let target = Target { parent: &parent, name: b"new", is_named };
        stage(&source, &target, "fedcba98", &owner, &|| false).map(|_| ())
    };
    assert!(staged(false).is_err());
    staged(true).unwrap();
    assert_eq!(scene.names(), ["deep", "letter"]);
}

#[test]
fn a_file_without_copy_on_write_comes_back_on_a_file_system_that_knows_nothing_of_it() {
    let Some(mut scene) = Scene::make() else { return };
    let disk = scene.home().join("disk");
    let file = File::create(&disk).unwrap();
    let flags = rustix::fs::ioctl_getflags(&file).unwrap();
    rustix::fs::ioctl_setflags(&file, flags | rustix::fs::IFlags::NOCOW).unwrap();
    fs::write(&disk, "image").unwrap();
    let dir = scene.dir();
    let request = TakeSet {
        stamp: "20251118T120000Z".parse().unwrap(),
        ..take_request(&dir, "00000003", &["@restore-home"])
    };
    let store = Store::new(&KernelBtrfs, &dir);
    let taken =
        set::take(&store, &Mounts::read().unwrap(), "laptop".parse().unwrap(), &request, &Said::default());
    let inbox = scene.image.tmpfs("inbox");
    let mut request = scene.request(&disk, RestorePlace::Into(inbox.as_path().into()));
    request.id = taken.unwrap().0.id();
    assert!(matches!(scene.restore(&request), Ok(RestoreReply::Done { .. })));
    assert_eq!(fs::read_to_string(inbox.join("disk")).unwrap(), "image");
}

#[test]
fn what_belongs_to_the_machine_is_as_it_is_now_in_what_takes_its_place() {
    let Some(scene) = Scene::make() else { return };
    let home = scene.home();
    let root: std::os::fd::OwnedFd = File::open(scene.set.members[0].path.as_path()).unwrap().into();
    let (inside, path) = (BytePath::from("alice"), BytePath::from(home.as_path()));
    let source = Source { root: &root, inside: &inside, path: &path, live: &path };
    let (parent, owner) = (path.parent().unwrap(), Owner { uid: 0, gid: 0, groups: Vec::new() });
    fs::create_dir_all(home.join(".ssh")).unwrap();
    fs::write(home.join(".ssh/authorized_keys"), "of now").unwrap();
    fs::write(home.join("letter"), "changed").unwrap();
    fs::remove_file(home.join("deep/link")).unwrap();
    let target = Target { parent: &parent, name: b"alice", is_named: false };
    let staged = stage(&source, &target, "fedcba98", &owner, &|| false).unwrap();
    let own = [".ssh/authorized_keys", "deep/link", "no/such"].map(BytePath::from).to_vec();
    let kept = staged.keep(own).unwrap();
    assert_eq!(kept, [".ssh/authorized_keys", "deep/link"].map(BytePath::from));
    let copy = staged.path();
    let read = |name: &str| fs::read_to_string(copy.as_path().join(name)).ok();
    assert_eq!(read(".ssh/authorized_keys").as_deref(), Some("of now"));
    assert_eq!(read("letter").as_deref(), Some("dear"), "the rest is that of the set");
    assert!(copy.as_path().join("deep/link").symlink_metadata().is_err(), "what is gone now stays away");
    let own = own_below(Path::new("/etc"), Path::new("/nowhere")).unwrap();
    assert!(own.contains(&"machine-id".into()) && !own.contains(&"".into()), "{own:?}");
}
