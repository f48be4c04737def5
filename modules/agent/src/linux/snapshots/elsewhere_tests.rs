//! Sets of copies on other file systems, and bringing files back to such: what a file system keeps is kept, and what it does not is
//! told.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use pc_switcher_contract::BytePath;

use super::copies_tests::{Bench, ino};
use super::*;
use crate::linux::btrfs::image::Image;
use crate::proto::{Backend, PinOrder, RestorePlace};

const FS: [(&str, &[&str]); 6] = [
    ("ext4", &["mkfs.ext4", "-q"]),
    // As made before 2008: times are whole seconds.
    ("ext4", &["mkfs.ext4", "-q", "-I", "128"]),
    ("ext2", &["mkfs.ext2", "-q"]),
    ("xfs", &["mkfs.xfs", "-q"]),
    ("xfs", &["mkfs.xfs", "-q", "-m", "reflink=0"]),
    ("f2fs", &["mkfs.f2fs", "-q"]),
];

fn bench_on(image: &Image, backend: Backend) -> Bench {
    Bench::make_in(tempfile::tempdir_in(image.top()).unwrap(), backend)
}

/// What people do with sets: take, change, take, look, bring back, remove.
fn live_on(bench: &Bench, name: &str) {
    let deep = bench.home().join("a/b");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("odd time"), "x").unwrap();
    fs::hard_link(deep.join("odd time"), deep.join("twin")).unwrap();
    symlink("/nowhere", deep.join("link")).unwrap();
    fs::set_permissions(deep.join("odd time"), fs::Permissions::from_mode(0o640)).unwrap();
    let first = bench.take(1);
    assert_eq!(bench.wrong(), Vec::<String>::new(), "{name}");
    fs::write(bench.home().join("notes/today"), "written, at length").unwrap();
    let second = bench.take(2);
    assert_eq!(
        ino(&bench.in_set(&first, "home/stays")),
        ino(&bench.in_set(&second, "home/stays")),
        "{name}: what did not change is there once"
    );
    assert_eq!(bench.wrong(), Vec::<String>::new(), "{name}");
    let into = bench.top().join("into");
    fs::create_dir(&into).unwrap();
    let (home, place) = (bench.home(), RestorePlace::Into(into.as_path().into()));
    let RestoreReply::Done { restored, .. } = bench.restore(&first, &home, place).unwrap() else {
        panic!("{name}: nothing came back")
    };
    assert_eq!(restored[0].notes, Vec::<String>::new(), "{name}");
    let back = into.join("home");
    assert_eq!(fs::read_to_string(back.join("notes/today")).unwrap(), "write to ann", "{name}");
    assert_eq!(fs::read_link(back.join("a/b/link")).unwrap().to_str(), Some("/nowhere"), "{name}");
    assert_eq!(ino(&back.join("a/b/odd time")), ino(&back.join("a/b/twin")), "{name}");
    let of = |path: &std::path::Path| {
        let meta = fs::symlink_metadata(path.join("a/b/odd time")).unwrap();
        (meta.mode() & 0o7777, meta.mtime())
    };
    assert_eq!(of(&back), of(&home), "{name}");
    for set in [&first, &second] {
        bench.store().pin_as(&set.id(), &PinOrder::Off { allow_loss: false }).unwrap();
        bench.store().delete(&set.id(), || Ok(Vec::new())).unwrap();
    }
    assert_eq!(bench.wrong(), Vec::<String>::new(), "{name}: nothing is left");
}

#[test]
fn sets_of_copies_are_whole_on_every_file_system_that_this_kernel_has() {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut tried = 0;
    for (fs_type, mkfs) in FS {
        for backend in [Backend::Auto, Backend::Archive] {
            if let Some(image) = Image::of(fs_type, mkfs, "loop") {
                live_on(&bench_on(&image, backend), &format!("{mkfs:?}, {backend:?}"));
                tried += 1;
                continue;
            }
            let is_here = known.split_whitespace().any(|word| word == fs_type)
                && std::env::split_paths(&path).any(|dir| dir.join(mkfs[0]).is_file());
            let is_required = std::env::var_os("LAB_REQUIRED").is_some();
            assert!(!(is_here && is_required), "{mkfs:?} is here and was not tried");
            // It is what tests and programs lie on themselves.
            assert!(!(fs_type == "ext4" && is_required), "ext4 was not tried");
        }
    }
    println!("{tried} of {} were tried", 2 * FS.len());
}

#[test]
fn memory_holds_sets_of_copies_as_a_disk_does() {
    let Some(mut image) = Image::make(256) else { return };
    let point = image.tmpfs("memory");
    live_on(&Bench::make_in(tempfile::tempdir_in(point).unwrap(), Backend::Auto), "tmpfs");
}

#[test]
fn where_no_attributes_are_kept_sets_are_refused_with_another_place_and_nothing_is_left() {
    let Some(mut image) = Image::make(256) else { return };
    let point = image.ramfs("plain");
    let bench = Bench::make_in(tempfile::tempdir_in(point).unwrap(), Backend::Auto);
    let refused = create_set(&bench.request(1), &|| false).map(drop).unwrap_err();
    for word in ["keeps no extended attributes", "name a directory on ext4", "`snapshot_dir`"] {
        assert!(refused.message.contains(word), "{refused}");
    }
    assert_eq!(bench.wrong(), Vec::<String>::new());
    assert_eq!(bench.store().ids().unwrap(), []);
}

#[test]
fn what_comes_back_to_a_stick_without_owners_links_and_pipes_is_all_it_can_be_and_the_rest_is_told() {
    let Some(disk) = Image::of("ext4", &["mkfs.ext4", "-q"], "loop") else { return };
    let Some(stick) = Image::of("exfat-fuse", &["mkfs.exfat"], "loop") else { return };
    let bench = bench_on(&disk, Backend::Auto);
    let notes = bench.home().join("notes");
    fs::hard_link(notes.join("today"), notes.join("twin")).unwrap();
    symlink("today", notes.join("link")).unwrap();
    std::os::unix::fs::chown(notes.join("today"), Some(1234), Some(1234)).unwrap();
    let set = bench.take(1);
    let to = |dir: &std::path::Path| RestorePlace::Into(BytePath::from(dir));
    let RestoreReply::Done { restored, .. } = bench.restore(&set, &notes, to(stick.top())).unwrap() else {
        panic!("nothing came back")
    };
    for name in ["today", "twin"] {
        assert_eq!(fs::read_to_string(stick.top().join("notes").join(name)).unwrap(), "write to ann");
    }
    assert!(fs::symlink_metadata(stick.top().join("notes/link")).is_err());
    let told = restored[0].notes.join("\n");
    for word in ["notes/link` is a symbolic link", "does not keep owners"] {
        assert!(told.contains(word), "{told}");
    }
    let again = bench.restore(&set, &notes, to(stick.top())).unwrap_err();
    assert!(again.message.contains("is there already"), "{again}");
    let left: Vec<_> = fs::read_dir(stick.top()).unwrap().map(|one| one.unwrap().file_name()).collect();
    assert_eq!(left, ["notes"], "nothing half is left");
}
