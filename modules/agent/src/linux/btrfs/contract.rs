//! What every [`Btrfs`] does: run over the kernel's and over the model.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::image::Image;
use super::model::ModelBtrfs;
use super::{Btrfs, FS_TREE, KernelBtrfs, SubvolumeTree};

struct Bench<'a> {
    btrfs: &'a dyn Btrfs,
    top: PathBuf,
    create: &'a dyn Fn(&str),
}

impl Bench<'_> {
    fn at(&self, path: &str) -> PathBuf {
        self.top.join(path)
    }

    fn errno(&self, result: std::io::Result<()>) -> i32 {
        result.unwrap_err().raw_os_error().unwrap()
    }
}

fn on_both(test: fn(&Bench<'_>)) {
    let dir = tempfile::tempdir().unwrap();
    let model = ModelBtrfs::new(dir.path());
    let create = |path: &str| model.create(&dir.path().join(path));
    test(&Bench { btrfs: &model, top: dir.path().to_owned(), create: &create });
    if let Some(image) = Image::make(256) {
        let create = |path: &str| image.create(path);
        test(&Bench { btrfs: &KernelBtrfs, top: image.top().to_owned(), create: &create });
    }
}

#[test]
fn a_snapshot_knows_its_source_and_its_transaction() {
    on_both(|bench| {
        (bench.create)("@home");
        fs::write(bench.at("@home/file"), "x").unwrap();
        bench.btrfs.sync(&bench.top).unwrap();
        bench.btrfs.snapshot(&bench.at("@home"), &bench.top, OsStr::new("snap")).unwrap();
        let source = bench.btrfs.subvolume(&bench.at("@home")).unwrap();
        let snap = bench.btrfs.subvolume(&bench.at("snap")).unwrap();
        assert_eq!(snap.source_uuid, source.uuid);
        assert_ne!(snap.uuid, source.uuid);
        assert!(!snap.readonly && snap.ctransid <= snap.otransid);
        assert_eq!(fs::read(bench.at("snap/file")).unwrap(), b"x");
        assert_eq!(bench.btrfs.subvolume(&bench.at("snap/file")).unwrap().id, snap.id);
        let again = bench.btrfs.snapshot(&bench.at("@home"), &bench.top, OsStr::new("snap"));
        assert_eq!(bench.errno(again), libc::EEXIST);
    });
}

#[test]
fn one_is_made_empty_and_only_an_empty_one_is_removed() {
    on_both(|bench| {
        (bench.create)("@");
        bench.btrfs.make(&bench.at("@"), OsStr::new("in")).unwrap();
        let (outer, inner) = (
            bench.btrfs.subvolume(&bench.at("@")).unwrap(),
            bench.btrfs.subvolume(&bench.at("@/in")).unwrap(),
        );
        assert_eq!((inner.parent_id, inner.readonly), (outer.id, false));
        assert_eq!(bench.errno(bench.btrfs.make(&bench.at("@"), OsStr::new("in"))), libc::EEXIST);
        fs::write(bench.at("@/in/file"), "x").unwrap();
        assert_eq!(bench.errno(bench.btrfs.remove_empty(&bench.at("@/in"))), libc::ENOTEMPTY);
        fs::remove_file(bench.at("@/in/file")).unwrap();
        bench.btrfs.remove_empty(&bench.at("@/in")).unwrap();
        assert!(!bench.at("@/in").exists());
    });
}

#[test]
fn a_writable_snapshot_moves_and_a_read_only_one_stays() {
    on_both(|bench| {
        (bench.create)("@");
        fs::create_dir(bench.at("nest")).unwrap();
        bench.btrfs.snapshot(&bench.at("@"), &bench.at("nest"), OsStr::new("s")).unwrap();
        bench.btrfs.rename(&bench.at("nest/s"), &bench.at("s")).unwrap();
        bench.btrfs.set_readonly(&bench.at("s"), true).unwrap();
        let info = bench.btrfs.subvolume(&bench.at("s")).unwrap();
        assert!(info.readonly && info.ctransid <= info.otransid);
        assert_eq!(bench.errno(bench.btrfs.rename(&bench.at("s"), &bench.at("nest/s"))), libc::EROFS);
        bench.btrfs.rename(&bench.at("s"), &bench.at("t")).unwrap();
        bench.btrfs.destroy(&bench.top, OsStr::new("t")).unwrap();
        assert!(!bench.at("t").exists());
    });
}

#[test]
fn an_id_removes_that_subvolume_whatever_has_its_name_now() {
    on_both(|bench| {
        (bench.create)("@");
        fs::create_dir(bench.at("nest")).unwrap();
        bench.btrfs.snapshot(&bench.at("@"), &bench.at("nest"), OsStr::new("s")).unwrap();
        bench.btrfs.set_readonly(&bench.at("nest/s"), true).unwrap();
        let id = bench.btrfs.subvolume(&bench.at("nest/s")).unwrap().id;
        bench.btrfs.rename(&bench.at("nest/s"), &bench.at("nest/old")).unwrap();
        bench.btrfs.snapshot(&bench.at("@"), &bench.at("nest"), OsStr::new("s")).unwrap();
        bench.btrfs.destroy_id(&bench.at("nest"), id).unwrap();
        assert!(bench.at("nest/s").exists() && !bench.at("nest/old").exists());
        assert_eq!(bench.errno(bench.btrfs.destroy_id(&bench.at("nest"), id)), libc::ENOENT);
    });
}

#[test]
fn nobody_removes_or_moves_what_is_in_an_immutable_directory_by_name_or_by_id() {
    on_both(|bench| {
        (bench.create)("@");
        let nest = bench.at("nest");
        fs::create_dir(&nest).unwrap();
        bench.btrfs.snapshot(&bench.at("@"), &nest, OsStr::new("s")).unwrap();
        bench.btrfs.set_readonly(&bench.at("nest/s"), true).unwrap();
        let before = bench.btrfs.subvolume(&bench.at("nest/s")).unwrap();
        assert!(!bench.btrfs.is_immutable(&nest).unwrap());
        for _ in 0..2 {
            bench.btrfs.set_immutable(&nest, true).unwrap();
        }
        assert!(bench.btrfs.is_immutable(&nest).unwrap());
        assert_eq!(bench.errno(bench.btrfs.destroy(&nest, OsStr::new("s"))), libc::EPERM);
        assert_eq!(bench.errno(bench.btrfs.destroy_id(&nest, before.id)), libc::EPERM);
        assert_eq!(bench.errno(bench.btrfs.rename(&bench.at("nest/s"), &bench.at("nest/t"))), libc::EPERM);
        let another = bench.btrfs.snapshot(&bench.at("@"), &nest, OsStr::new("t"));
        assert_eq!(bench.errno(another), libc::EPERM);
        let after = bench.btrfs.subvolume(&bench.at("nest/s")).unwrap();
        assert_eq!((after.uuid, after.ctransid), (before.uuid, before.ctransid));
        bench.btrfs.set_immutable(&nest, false).unwrap();
        bench.btrfs.destroy_id(&nest, before.id).unwrap();
        assert!(!bench.at("nest/s").exists());
    });
}

#[test]
fn subvolumes_are_listed_with_their_directories() {
    on_both(|bench| {
        (bench.create)("@");
        fs::create_dir(bench.at("@/deep")).unwrap();
        (bench.create)("@/deep/inner");
        fs::create_dir(bench.at("@/deep/inner/dir")).unwrap();
        let tree = SubvolumeTree::new(bench.btrfs.subvolumes(&bench.top).unwrap());
        let outer = bench.btrfs.subvolume(&bench.at("@")).unwrap();
        let inner = bench.btrfs.subvolume(&bench.at("@/deep/inner")).unwrap();
        assert_eq!((outer.parent_id, inner.parent_id), (FS_TREE, outer.id));
        assert_eq!(tree.flat_name(outer.id), Some("@".parse().unwrap()));
        assert_eq!(tree.path(inner.id), Some("@/deep/inner".into()));
        assert_eq!(tree.below(outer.id, &"".into()), ["deep/inner".into()]);
        assert_eq!(bench.btrfs.inside(&bench.at("@/deep")).unwrap(), b"deep");
        assert_eq!(bench.btrfs.inside(&bench.at("@/deep/inner")).unwrap(), b"");
        assert_eq!(bench.btrfs.inside(&bench.at("@/deep/inner/dir")).unwrap(), b"dir");
        assert_eq!(bench.errno(bench.btrfs.destroy(&bench.top, OsStr::new("@"))), libc::ENOTEMPTY);
    });
}

#[test]
fn space_is_told_by_use_and_by_device() {
    on_both(|bench| {
        let slots = bench.btrfs.space(&bench.top).unwrap();
        assert!(slots.iter().any(|slot| slot.flags & 1 != 0) && slots.iter().any(|slot| slot.flags & 4 != 0));
        let devices = bench.btrfs.devices(&bench.top).unwrap();
        assert_eq!(devices.devices, 1);
        assert!(devices.allocated_bytes > 0 && devices.allocated_bytes <= devices.total_bytes);
        assert_eq!(bench.btrfs.fs_uuid(&bench.top).unwrap().dashed().len(), 36);
    });
}

#[test]
fn elsewhere_btrfs_says_that_it_is_none() {
    let error = KernelBtrfs.subvolume(Path::new("/proc")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
}

#[test]
fn more_subvolumes_than_one_search_returns_are_all_listed() {
    let Some(image) = Image::make(256) else { return };
    image.create("@");
    for n in 0..300 {
        KernelBtrfs.snapshot(&image.top().join("@"), image.top(), OsStr::new(&format!("s{n:03}"))).unwrap();
    }
    let tree = SubvolumeTree::new(KernelBtrfs.subvolumes(image.top()).unwrap());
    assert_eq!(tree.flat_names().len(), 301);
}
