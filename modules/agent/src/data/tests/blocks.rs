//! Large files that differ from what the target has, with nothing to tell what both had in common.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use pc_switcher_contract::BytePath;

use super::drive::{Disk, apply_frames, call_with, items, uuid_of, walked};
use super::plan::{identity, tree};
use crate::data::sent::Sent;
use crate::data::{blocks, read};
use crate::proto::{
    AgentError, ApplyReport, Blocks, BlocksWant, Body, Identity, Op, ReadWant, StreamFrame, encode,
};

const MIB: u64 = 1 << 20;

fn noise(seed: u8, len: u64) -> Vec<u8> {
    let mut out = vec![0; len as usize];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

/// Runs a test with source and target on file systems of these types.
fn between(types: &[(&str, &str)], test: impl Fn(&Path, &Path)) {
    for (ours, theirs) in types {
        let (Some(ours), Some(theirs)) = (Disk::make(ours, 900 << 20), Disk::make(theirs, 900 << 20)) else {
            return;
        };
        test(&ours.root, &theirs.root);
    }
}

fn told(target: &Path, name: &str) -> Blocks {
    let (call, seen) = call_with(&[vec![ReadWant { content: 7, path: name.into() }]]);
    blocks::run(&target.into(), &call).unwrap();
    items::<Blocks>(&seen).pop().unwrap()
}

/// What the source sends of its file for these blocks, and the version that was whole.
fn answer(source: &Path, blocks: Blocks) -> (Vec<StreamFrame>, Option<Identity>) {
    let want = BlocksWant { path: "image".into(), blocks };
    let (call, seen) = call_with(&[vec![want]]);
    read::run_blocks(&source.into(), &call, &Sent::default()).unwrap();
    let mut whole = None;
    let mut frames = items::<StreamFrame>(&seen);
    frames.retain(|frame| match frame {
        StreamFrame::Whole(versions) => {
            whole = versions.first().map(|(_, version)| *version);
            false
        }
        StreamFrame::Same(_) => false,
        _ => true,
    });
    (frames, whole)
}

fn put(source: &Path, target: &Path) -> (Op, Identity) {
    let (ours, theirs) = (tree(&walked(source)), tree(&walked(target)));
    let (ours, theirs) = (ours[&"image".into()].clone(), identity(&theirs[&"image".into()]));
    let body = Body::Patched { content: 7, size: ours.size };
    (Op::Put { path: "image".into(), body, meta: ours.meta, replaces: Some(theirs) }, theirs)
}

/// The frames of a live source: content goes ahead of its step.
fn ahead(source: &Path, target: &Path) -> Vec<StreamFrame> {
    let (put, expected) = put(source, target);
    let (content, whole) = answer(source, told(target, "image"));
    assert!(whole.is_some());
    let path: BytePath = "image".into();
    let mut frames = vec![StreamFrame::Ahead { part: 0 }, StreamFrame::Over { content: 7, path, expected }];
    frames.extend(content);
    frames.push(StreamFrame::Ops { part: 0, ops: vec![put] });
    frames.push(StreamFrame::Commit { ops: 1, contents: 1 });
    frames
}

fn apply(target: &Path, frames: Vec<StreamFrame>) -> Result<ApplyReport, AgentError> {
    apply_frames(target, frames, &uuid_of(target))
}

fn sent(frames: &[StreamFrame]) -> u64 {
    frames.iter().map(|frame| encode(frame).len() as u64).sum()
}

fn assert_same(source: &Path, target: &Path) {
    let [ours, theirs] = [source, target].map(|dir| dir.join("image"));
    assert!(fs::read(&ours).unwrap() == fs::read(&theirs).unwrap(), "the contents differ");
    let [ours, theirs] = [ours, theirs].map(|path| fs::metadata(path).unwrap());
    assert_eq!((ours.mtime(), ours.mtime_nsec()), (theirs.mtime(), theirs.mtime_nsec()));
    assert!(theirs.blocks() <= ours.blocks() + 1024, "{} blocks, {} there", ours.blocks(), theirs.blocks());
}

#[test]
fn of_an_image_of_which_a_hundredth_changed_little_more_than_that_goes_over() {
    between(&[("ext4", "btrfs"), ("btrfs", "ext4"), ("ext4", "ext4")], |source, target| {
        let old = noise(1, 256 * MIB);
        fs::write(target.join("image"), &old).unwrap();
        fs::write(source.join("image"), &old).unwrap();
        let file = File::options().write(true).open(source.join("image")).unwrap();
        for place in 0..40 {
            file.write_all_at(&noise(place, 64 << 10), u64::from(place) * 6 * MIB + 65536).unwrap();
        }
        let frames = ahead(source, target);
        let bytes = sent(&frames) + encode(&told(target, "image")).len() as u64;
        assert!(bytes < 41 * (64 << 10) + (100 << 10), "{bytes} bytes");
        let report = apply(target, frames).unwrap();
        assert_eq!((report.done, report.bytes), (1, 40 * (64 << 10)), "{report:?}");
        assert_same(source, target);
    });
}

#[test]
fn growth_cuts_and_holes_arrive() {
    let punch = |file: &File, at: u64, len: u64| {
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, flags, at, len).unwrap();
    };
    let changes: [&dyn Fn(&File); 7] = [
        &|file| file.set_len(9 * MIB + 17).unwrap(),
        &|file| file.set_len(40 * MIB).unwrap(),
        &|file| file.write_all_at(b"the end", 16 * MIB + 90_000).unwrap(),
        &|file| punch(file, 2 * MIB, 3 * MIB),
        &|file| punch(file, 5 * MIB + 8192, 4096),
        &|file| {
            file.set_len(3 * MIB + 5).unwrap();
            file.set_len(30 * MIB + 1).unwrap();
            file.write_all_at(b"far away", 29 * MIB).unwrap();
        },
        &|file| {
            file.set_len(0).unwrap();
            file.set_len(20 * MIB).unwrap();
        },
    ];
    between(&[("ext4", "btrfs"), ("btrfs", "ext4")], |source, target| {
        for (number, change) in changes.iter().enumerate() {
            for (dir, other) in [(source, false), (target, true)] {
                let _ = fs::remove_file(dir.join("image"));
                let file = File::create_new(dir.join("image")).unwrap();
                file.write_all_at(&noise(1, 16 * MIB), 0).unwrap();
                // A hole on the target alone, where the source has something.
                if other {
                    punch(&file, 7 * MIB, MIB);
                }
            }
            change(&File::options().write(true).open(source.join("image")).unwrap());
            let frames = ahead(source, target);
            assert!(sent(&frames) < MIB + (200 << 10), "{number}: {} bytes", sent(&frames));
            apply(target, frames).unwrap_or_else(|error| panic!("{number}: {error}"));
            assert_same(source, target);
        }
    });
}

#[test]
fn without_digests_everything_goes_and_nothing_of_the_old_version_is_left() {
    between(&[("ext4", "btrfs")], |source, target| {
        fs::write(target.join("image"), noise(1, 8 * MIB)).unwrap();
        let file = File::create(source.join("image")).unwrap();
        file.write_all_at(&noise(2, MIB), 2 * MIB).unwrap();
        file.set_len(6 * MIB).unwrap();
        assert!(told(target, "missing").digests.is_empty());
        let (put, expected) = put(source, target);
        let (content, _) = answer(source, Blocks { content: 7, ..Blocks::default() });
        let path: BytePath = "image".into();
        let mut frames =
            vec![StreamFrame::Ahead { part: 0 }, StreamFrame::Over { content: 7, path, expected }];
        frames.extend(content);
        frames.push(StreamFrame::Ops { part: 0, ops: vec![put] });
        frames.push(StreamFrame::Commit { ops: 1, contents: 1 });
        apply(target, frames).unwrap();
        assert_same(source, target);
    });
}

#[test]
fn what_somebody_changed_meanwhile_on_either_machine_is_not_mixed() {
    between(&[("ext4", "btrfs")], |source, target| {
        for dir in [source, target] {
            fs::write(dir.join("image"), noise(1, 4 * MIB)).unwrap();
        }
        let edit = |dir: &Path, at: u64| {
            File::options().write(true).open(dir.join("image")).unwrap().write_all_at(b"mine", at).unwrap();
        };
        edit(source, MIB);
        // On the target, after its blocks were told.
        let frames = ahead(source, target);
        edit(target, 3 * MIB);
        let before = fs::read(target.join("image")).unwrap();
        let error = apply(target, frames.clone()).unwrap_err();
        assert!(error.message.contains("changed while it was staged"), "{error}");
        assert!(fs::read(target.join("image")).unwrap() == before && !target.join(".pc-switcher").exists());
        // On the source, after the plan: what was read is told, and is not the planned version.
        let (Op::Put { .. }, _) = put(source, target) else { panic!("it is put") };
        let planned = identity(&tree(&walked(source))[&"image".into()]);
        edit(source, 2 * MIB);
        let (_, whole) = answer(source, told(target, "image"));
        assert!(whole.is_some_and(|whole| whole != planned));
        // Content of a step that asks for another version than was announced.
        let mut wrong = ahead(source, target);
        for frame in &mut wrong {
            if let StreamFrame::Over { expected, .. } = frame {
                expected.size += 1;
            }
        }
        assert!(apply(target, wrong).is_err());
        let twice = ahead(source, target);
        let twice: Vec<StreamFrame> = twice[..2].iter().chain(&twice[1..]).cloned().collect();
        assert!(apply(target, twice).is_err());
        apply(target, ahead(source, target)).unwrap();
        assert_same(source, target);
    });
}
