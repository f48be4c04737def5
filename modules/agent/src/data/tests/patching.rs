//! Large files that changed a little: only that is sent, into a clone of the old version.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use pc_switcher_contract::BytePath;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::drive::{Disk, apply_frames, call_with, items, mirror, sh, uuid_of, walked};
use super::plan::{identity, tree};
use crate::data::sent::Sent;
use crate::data::{delta, read};
use crate::proto::{AgentError, ApplyReport, Body, Op, ReadWant, StreamFrame};

const MIB: u64 = 1 << 20;

/// A source with two snapshots of `live`, and a target that has the older version.
struct Scene {
    disk: Disk,
}

impl Scene {
    /// Makes both; `change` makes the newer version of the file.
    fn make(old: impl Fn(&File), change: impl Fn(&File)) -> Option<Self> {
        let scene = Scene { disk: Disk::make("btrfs", 400 << 20)? };
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        for name in ["live", "target"] {
            assert!(sh("btrfs", &["subvolume", "create", &text(scene.at(name))]));
        }
        let file = scene.at("live/image");
        old(&File::options().create(true).truncate(true).read(true).write(true).open(&file).unwrap());
        let seal = |name: &str| {
            let (from, to) = (text(scene.at("live")), text(scene.at(name)));
            assert!(sh("btrfs", &["subvolume", "snapshot", "-r", &from, &to]));
        };
        seal("base");
        assert!(sh("cp", &["-a", "--reflink=never", &text(file.clone()), &text(scene.at("target/image"))]));
        change(&File::options().read(true).write(true).open(&file).unwrap());
        seal("new");
        Some(scene)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.disk.root.join(name)
    }

    fn roots(&self) -> [BytePath; 2] {
        ["new", "base"].map(|name| self.at(name).as_path().into())
    }

    fn wants() -> Vec<ReadWant> {
        vec![ReadWant { content: 7, path: "image".into() }]
    }

    fn delta(&self) -> Option<u64> {
        let (call, seen) = call_with(&[Self::wants()]);
        let [new, base] = self.roots();
        delta::run(&new, &base, &call).unwrap();
        let told: Vec<(u32, Option<u64>)> = items::<Vec<_>>(&seen).into_iter().flatten().collect();
        assert_eq!(told.len(), 1);
        told[0].1
    }

    /// The frames of a plan that patches the file as it stands on the target now.
    fn frames(&self) -> Vec<StreamFrame> {
        let (call, seen) = call_with(&[Self::wants()]);
        let [new, base] = self.roots();
        read::run_delta(&new, &base, &call, &Sent::default()).unwrap();
        let entry = tree(&walked(&self.at("new")))[&BytePath::from("image")].clone();
        let there = tree(&walked(&self.at("target")))[&BytePath::from("image")].clone();
        let body = Body::Patched { content: 7, size: entry.size };
        let replaces = Some(identity(&there));
        let put = Op::Put { path: "image".into(), body, meta: entry.meta, replaces };
        let mut frames = vec![StreamFrame::Ops { part: 0, ops: vec![put] }];
        frames.extend(items::<StreamFrame>(&seen));
        frames.push(StreamFrame::Commit { ops: 1, contents: 1 });
        frames
    }

    fn apply(&self, frames: Vec<StreamFrame>) -> Result<ApplyReport, AgentError> {
        let target = self.at("target");
        apply_frames(&target, frames, &uuid_of(&target))
    }

    fn assert_same(&self) {
        let [new, target] = ["new/image", "target/image"].map(|name| self.at(name));
        assert!(fs::read(&new).unwrap() == fs::read(&target).unwrap(), "the contents differ");
        let [new, target] = [new, target].map(|path| fs::metadata(path).unwrap());
        assert_eq!(
            (new.len(), new.mtime(), new.mtime_nsec()),
            (target.len(), target.mtime(), target.mtime_nsec())
        );
        assert!(target.blocks() <= new.blocks() + 64, "{} blocks, {} there", new.blocks(), target.blocks());
    }
}

/// Bytes that do not repeat.
fn noise(seed: u8, len: u64) -> Vec<u8> {
    let mut out = vec![0; len as usize];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

fn sent(frames: &[StreamFrame]) -> u64 {
    let bytes = |frame: &StreamFrame| match frame {
        StreamFrame::Content(pieces) => pieces.iter().map(|piece| piece.data.len() as u64).sum(),
        _ => 0,
    };
    frames.iter().map(bytes).sum()
}

#[test]
fn only_what_changed_is_sent_and_the_rest_is_shared_with_the_old_version() {
    let old = |file: &File| file.write_all_at(&noise(1, 32 * MIB), 0).unwrap();
    let change = |file: &File| {
        for place in [0, 5 * MIB, 31 * MIB + 4096] {
            file.write_all_at(&noise(2, 8192), place).unwrap();
        }
        file.write_all_at(&noise(3, 100), 40 * MIB).unwrap();
    };
    let Some(scene) = Scene::make(old, change) else { return };
    let frames = scene.frames();
    assert_eq!(scene.delta(), Some(3 * 8192 + 100));
    assert_eq!(sent(&frames), 3 * 8192 + 100);
    let [target, before] = ["target", "before"].map(|name| scene.at(name));
    let (from, to) = (target.to_str().unwrap(), before.to_str().unwrap());
    assert!(sh("btrfs", &["subvolume", "snapshot", "-r", from, to]));
    let report = scene.apply(frames).unwrap();
    assert_eq!((report.done, report.bytes, report.conflicts.len()), (1, 3 * 8192 + 100, 0), "{report:?}");
    scene.assert_same();
    let [now, then] = [&target, &before].map(|dir| OwnedFd::from(File::open(dir.join("image")).unwrap()));
    now.try_clone().map(File::from).unwrap().sync_all().unwrap();
    let own: u64 = delta::changed(&now, &then).unwrap().iter().map(|range| range.end - range.at).sum();
    assert_eq!(own, 100 + 3 * 8192, "the rest lies where the old version lies");
}

#[test]
fn holes_cuts_and_growth_arrive() {
    let old = |file: &File| file.write_all_at(&noise(1, 16 * MIB), 0).unwrap();
    let punch = |file: &File, at: u64, len: u64| {
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, flags, at, len).unwrap();
    };
    let changes: [&dyn Fn(&File); 5] = [
        &|file| punch(file, 2 * MIB, MIB),
        &|file| {
            punch(file, 0, 4096);
            punch(file, 15 * MIB, MIB);
        },
        &|file| file.set_len(9 * MIB + 17).unwrap(),
        &|file| file.set_len(20 * MIB).unwrap(),
        &|file| {
            file.set_len(3 * MIB + 5).unwrap();
            file.set_len(10 * MIB + 1).unwrap();
            file.write_all_at(b"the end", 10 * MIB - 3).unwrap();
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let Some(scene) = Scene::make(old, change) else { return };
        let frames = scene.frames();
        assert!(sent(&frames) < 3 * 4096 + 100, "{number}: {} bytes", sent(&frames));
        let report = scene.apply(frames).unwrap();
        assert_eq!((report.done, report.conflicts.len()), (1, 0), "{number}: {report:?}");
        scene.assert_same();
    }
}

#[test]
fn a_file_without_copy_on_write_stays_one() {
    let nowhere = |file: &File| ioctl_setflags(file, ioctl_getflags(file).unwrap() | IFlags::NOCOW).unwrap();
    let old = |file: &File| file.write_all_at(&noise(1, 4 * MIB), 0).unwrap();
    let change = |file: &File| file.write_all_at(&noise(2, 4096), MIB).unwrap();
    let Some(scene) = Scene::make(old, change) else { return };
    let image = scene.at("target/image");
    let times = fs::metadata(&image).unwrap().modified().unwrap();
    let copy = File::create_new(scene.at("target/copy")).unwrap();
    nowhere(&copy);
    copy.write_all_at(&fs::read(&image).unwrap(), 0).unwrap();
    copy.set_modified(times).unwrap();
    fs::rename(scene.at("target/copy"), &image).unwrap();
    scene.apply(scene.frames()).unwrap();
    scene.assert_same();
    assert!(ioctl_getflags(File::open(&image).unwrap()).unwrap().contains(IFlags::NOCOW));
}

#[test]
fn a_file_that_somebody_changed_meanwhile_is_left_as_it_is() {
    let old = |file: &File| file.write_all_at(&noise(1, 4 * MIB), 0).unwrap();
    let change = |file: &File| file.write_all_at(&noise(2, 4096), MIB).unwrap();
    let Some(scene) = Scene::make(old, change) else { return };
    let (frames, image) = (scene.frames(), scene.at("target/image"));
    File::options().write(true).open(&image).unwrap().write_all_at(b"mine", 3 * MIB).unwrap();
    let before = fs::read(&image).unwrap();
    let error = scene.apply(frames.clone()).unwrap_err();
    assert!(error.message.contains("changed while it was staged"), "{error}");
    assert!(fs::read(&image).unwrap() == before);
    fs::remove_file(&image).unwrap();
    assert!(scene.apply(frames).is_err());
    assert!(!Path::new(&image).exists());
}

#[test]
fn a_target_that_never_had_the_older_version_is_found_out_before_anything_is_committed() {
    let old = |file: &File| file.write_all_at(&noise(1, 4 * MIB), 0).unwrap();
    let change = |file: &File| file.write_all_at(&noise(2, 4096), MIB).unwrap();
    let Some(scene) = Scene::make(old, change) else { return };
    let image = scene.at("target/image");
    fs::write(&image, noise(9, 4 * MIB)).unwrap();
    let error = scene.apply(scene.frames()).unwrap_err();
    assert!(error.message.contains("another digest") && error.message.contains("compare"), "{error}");
    assert!(fs::read(&image).unwrap() == noise(9, 4 * MIB));
    assert!(!scene.at("target/.pc-switcher").exists());
}

#[test]
fn a_patch_needs_two_sealed_snapshots_of_one_file() {
    let old = |file: &File| file.write_all_at(&noise(1, 2 * MIB), 0).unwrap();
    let Some(scene) = Scene::make(old, |_| ()) else { return };
    let [new, _] = scene.roots();
    let live: BytePath = scene.at("live").as_path().into();
    let (call, _seen) = call_with(&[Scene::wants()]);
    let error = read::run_delta(&new, &live, &call, &Sent::default()).unwrap_err();
    assert!(error.message.contains("read-only"), "{error}");
    let (call, seen) = call_with(&[vec![ReadWant { content: 1, path: "missing".into() }]]);
    delta::run(&new, &scene.roots()[1], &call).unwrap();
    assert_eq!(items::<Vec<(u32, Option<u64>)>>(&seen), [vec![(1, None)]]);
    assert_eq!(scene.delta(), Some(0));
}

#[test]
fn a_new_file_without_copy_on_write_arrives_as_one_and_takes_after_its_new_directory() {
    let Some(disk) = Disk::make("btrfs", 200 << 20) else { return };
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    for name in ["live", "target"] {
        assert!(sh("btrfs", &["subvolume", "create", &text(disk.root.join(name))]));
    }
    let (live, target) = (disk.root.join("live"), disk.root.join("target"));
    let in_place = |path: &Path| {
        let fd = File::open(path).unwrap();
        ioctl_setflags(&fd, ioctl_getflags(&fd).unwrap() | IFlags::NOCOW).unwrap();
    };
    let is_in_place =
        |path: &str| ioctl_getflags(File::open(target.join(path)).unwrap()).unwrap().contains(IFlags::NOCOW);
    for root in [&live, &target] {
        fs::create_dir(root.join("images")).unwrap();
        fs::create_dir(root.join("plain")).unwrap();
    }
    // On the source the file, on the target the directory.
    for (path, own) in [("plain/disk", true), ("plain/text", false), ("images/disk", false)] {
        let file = File::create_new(live.join(path)).unwrap();
        if own {
            in_place(&live.join(path));
        }
        file.write_all_at(&noise(1, 3 * MIB), 0).unwrap();
    }
    fs::create_dir_all(live.join("images/new/deep")).unwrap();
    fs::write(live.join("images/new/deep/file"), noise(2, MIB)).unwrap();
    in_place(&target.join("images"));
    let seal = ["subvolume", "snapshot", "-r"];
    let (from, to) = (text(live), text(disk.root.join("new")));
    assert!(sh("btrfs", &[&seal[..], &[&from, &to]].concat()));
    let (new, there) = (disk.root.join("new"), walked(&target));
    let plan = super::plan::plan(&walked(&new), &there);
    let report = apply_frames(&target, super::drive::frames(&new, &plan), &uuid_of(&target)).unwrap();
    assert!(report.conflicts.is_empty() && report.failed.is_none(), "{report:?}");
    super::drive::assert_same(&new, &target);
    for (path, is) in [
        ("plain/disk", true),
        ("plain/text", false),
        ("images/disk", true),
        ("images/new", true),
        ("images/new/deep", true),
        ("images/new/deep/file", true),
    ] {
        assert_eq!(is_in_place(path), is, "{path}");
    }
}

#[test]
fn preallocated_space_arrives_as_a_hole() {
    use std::os::unix::fs::MetadataExt;
    let Some(disk) = Disk::make("btrfs", 256 << 20) else { return };
    let [source, target] = ["s", "t"].map(|name| disk.root.join(name));
    [&source, &target].iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let file = fs::File::create(source.join("f")).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 8 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"in the middle", 3 << 20).unwrap();
    file.sync_all().unwrap();
    mirror(&source, &target);
    let arrived = fs::metadata(target.join("f")).unwrap();
    assert_eq!(fs::read(target.join("f")).unwrap(), fs::read(source.join("f")).unwrap());
    assert!(arrived.blocks() * 512 < 1 << 20, "{} bytes", arrived.blocks() * 512);
    assert!(fs::metadata(source.join("f")).unwrap().blocks() * 512 >= 8 << 20);
}
