//! Large files of which both machines are proven to have the same older version: nothing but what changed is read.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use pc_switcher_contract::BytePath;
use rustix::fs::{FallocateFlags, IFlags, fallocate, ioctl_getflags, ioctl_setflags};

use super::drive::{Disk, apply_frames, call_with, items, sh, uuid_of, walked};
use super::plan::{identity, tree};
use crate::data::{read, since};
use crate::proto::{AgentError, ApplyReport, Body, Op, Ranges, ReadWant, Since, StreamFrame};

const MIB: u64 = 1 << 20;

/// Two machines on one disk: `live` with the sets `old` and `new`, `target` with `base`, `pre` and `post`. Both began with the
/// same image.
struct Scene {
    disk: Disk,
}

impl Scene {
    fn make(old: impl Fn(&File)) -> Option<Self> {
        let scene = Scene { disk: Disk::make("btrfs", 600 << 20)? };
        for name in ["live", "target"] {
            assert!(sh("btrfs", &["subvolume", "create", &scene.text(name)]));
        }
        old(&File::options().create_new(true).read(true).write(true).open(scene.at("live/image")).unwrap());
        let (from, to) = (scene.text("live/image"), scene.text("target/image"));
        assert!(sh("cp", &["-a", "--reflink=never", &from, &to]));
        scene.seal("live", "old");
        scene.seal("target", "base");
        Some(scene)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.disk.root.join(name)
    }

    fn path(&self, name: &str) -> BytePath {
        self.at(name).as_path().into()
    }

    fn text(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().to_owned()
    }

    fn seal(&self, of: &str, name: &str) {
        if self.at(name).exists() {
            assert!(sh("btrfs", &["subvolume", "delete", &self.text(name)]));
        }
        assert!(sh("btrfs", &["subvolume", "snapshot", "-r", &self.text(of), &self.text(name)]));
    }

    fn edit(&self, machine: &str, change: impl Fn(&File)) {
        change(&File::options().read(true).write(true).open(self.at(machine).join("image")).unwrap());
    }

    /// Takes the sets before a sync.
    fn begin(&self) {
        self.seal("live", "new");
        self.seal("target", "pre");
    }

    fn wants() -> Vec<ReadWant> {
        vec![ReadWant { content: 7, path: "image".into() }]
    }

    fn since(&self, now: &str, then: &str) -> Option<Since> {
        let (call, seen) = call_with(&[Self::wants()]);
        since::run(&self.path(now), &self.path(then), &call).unwrap();
        items::<Vec<Since>>(&seen).into_iter().flatten().next()
    }

    /// Whether the target has what it had after the last sync.
    fn is_still_there(&self) -> bool {
        self.since("pre", "base").is_some_and(|since| since.ranges == 0)
    }

    /// The frames of a plan that sends what changed.
    fn frames(&self) -> Vec<StreamFrame> {
        let (call, seen) = call_with(&[Self::wants()]);
        read::run_ranges(&self.path("new"), &self.path("old"), &call).unwrap();
        let entry = tree(&walked(&self.at("new")))[&BytePath::from("image")].clone();
        let there = tree(&walked(&self.at("pre")))[&BytePath::from("image")].clone();
        let body = Body::Proven { content: 7, size: entry.size };
        let replaces = Some(identity(&there));
        let put = Op::Put { path: "image".into(), body, meta: entry.meta, replaces };
        let mut frames = vec![StreamFrame::Sealed { part: 0, root: self.path("pre") }];
        frames.push(StreamFrame::Ops { part: 0, ops: vec![put] });
        frames.extend(items::<StreamFrame>(&seen));
        frames.push(StreamFrame::Commit { ops: 1, contents: 1 });
        frames
    }

    fn apply(&self, frames: Vec<StreamFrame>) -> Result<ApplyReport, AgentError> {
        let target = self.at("target");
        apply_frames(&target, frames, &uuid_of(&target))
    }

    /// Takes the set after a sync; whether what changed is proven to have arrived.
    fn is_proven(&self) -> bool {
        self.seal("target", "post");
        let (call, seen) = call_with(&[Self::wants()]);
        since::run_ranges(&self.path("new"), &self.path("old"), &call).unwrap();
        let told = items::<(Ranges, [u8; 32])>(&seen).pop();
        let Some((ranges, sent)) = told else { return false };
        let (call, seen) = call_with(&[vec![ranges]]);
        since::run_reread(&self.path("post"), &self.path("pre"), &call).unwrap();
        items::<Vec<(u32, [u8; 32])>>(&seen).concat() == [(7, sent)]
    }

    /// Syncs, and takes the sets for those of the last sync.
    fn sync(&self) -> u64 {
        self.begin();
        assert!(self.is_still_there());
        let frames = self.frames();
        let bytes = sent(&frames);
        let report = self.apply(frames).unwrap();
        assert_eq!((report.done, report.conflicts.len()), (1, 0), "{report:?}");
        assert!(self.is_proven());
        self.assert_same();
        self.seal("live", "old");
        self.seal("target", "base");
        bytes
    }

    fn assert_same(&self) {
        let [ours, theirs] = ["new/image", "target/image"].map(|name| self.at(name));
        assert!(fs::read(&ours).unwrap() == fs::read(&theirs).unwrap(), "the contents differ");
        let [ours, theirs] = [ours, theirs].map(|path| fs::metadata(path).unwrap());
        assert_eq!((ours.len(), ours.mtime_nsec()), (theirs.len(), theirs.mtime_nsec()));
        assert!(theirs.blocks() <= ours.blocks() + 64, "{} blocks, {}", ours.blocks(), theirs.blocks());
    }
}

fn noise(seed: u64, len: u64) -> Vec<u8> {
    let mut out = vec![0; len as usize];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn sent(frames: &[StreamFrame]) -> u64 {
    let bytes = |frame: &StreamFrame| match frame {
        StreamFrame::Content(pieces) => pieces.iter().map(|piece| piece.data.len() as u64).sum(),
        _ => 0,
    };
    frames.iter().map(bytes).sum()
}

fn image(mib: u64) -> impl Fn(&File) {
    move |file: &File| file.write_all_at(&noise(1, mib * MIB), 0).unwrap()
}

fn write(seed: u64, at: u64, len: u64) -> impl Fn(&File) {
    move |file: &File| file.write_all_at(&noise(seed, len), at).unwrap()
}

fn punch(file: &File, at: u64, len: u64) {
    fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, len).unwrap();
}

#[test]
fn what_changed_arrives_and_is_proven_sync_after_sync() {
    let Some(scene) = Scene::make(image(32)) else { return };
    scene.edit("live", write(2, 5 * MIB, 8192));
    scene.edit("live", write(3, 31 * MIB + 4096, 8192));
    assert_eq!(scene.sync(), 4 * 4096);
    scene.edit("live", write(4, 0, 100));
    assert_eq!(scene.sync(), 4096);
    scene.edit("live", |file| file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap());
    assert_eq!(scene.sync(), 0);
}

#[test]
fn holes_cuts_and_growth_arrive_whatever_the_end_was() {
    let changes: [&dyn Fn(&File); 9] = [
        &|file| punch(file, 2 * MIB, MIB),
        &|file| punch(file, 15 * MIB, MIB + 1),
        &|file| file.set_len(9 * MIB + 17).unwrap(),
        &|file| file.set_len(9 * MIB + 20).unwrap(),
        &|file| file.set_len(20 * MIB).unwrap(),
        &|file| file.write_all_at(b"the end", 20 * MIB + 5000).unwrap(),
        &|file| file.write_all_at(b"and more", 20 * MIB + 5007).unwrap(),
        &|file| {
            file.set_len(3 * MIB + 5).unwrap();
            file.set_len(10 * MIB + 1).unwrap();
            file.write_all_at(b"the end", 10 * MIB - 3).unwrap();
        },
        &|file| fallocate(file, FallocateFlags::empty(), 10 * MIB, 2 * MIB + 9).unwrap(),
    ];
    let Some(scene) = Scene::make(image(16)) else { return };
    for (number, change) in changes.into_iter().enumerate() {
        scene.edit("live", change);
        let bytes = scene.sync();
        assert!(bytes <= 3 * 4096, "{number}: {bytes} bytes");
    }
}

#[test]
fn whatever_is_done_to_an_image_it_arrives() {
    let Some(scene) = Scene::make(image(6)) else { return };
    let mut state = 20_251_115_u64;
    let mut next = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for round in 0..25 {
        for step in 0..=next(6) {
            let (at, len) = (next(8 * MIB), 1 + next(200_000));
            let size = fs::metadata(scene.at("live/image")).unwrap().len();
            match next(6) {
                0 => scene.edit("live", |file| punch(file, at, len)),
                1 => scene.edit("live", |file| file.set_len(at).unwrap()),
                2 => scene.edit("live", |file| {
                    fallocate(file, FallocateFlags::KEEP_SIZE, at, len).unwrap();
                }),
                3 => scene.edit("live", write(round * 10 + step, size, len)),
                4 => scene.edit("live", |file| {
                    file.sync_all().unwrap();
                    write(round * 10 + step, at & !4095, 4096)(file);
                }),
                _ => scene.edit("live", write(round * 10 + step, at, len)),
            }
        }
        scene.sync();
    }
}

#[test]
fn what_somebody_changed_on_the_target_is_seen_though_size_and_times_are_the_same() {
    let Some(scene) = Scene::make(image(4)) else { return };
    scene.begin();
    assert!(scene.is_still_there());
    let before = fs::metadata(scene.at("target/image")).unwrap();
    let changes: [&dyn Fn(&File); 3] =
        [&|file| file.write_all_at(b"mine", 3 * MIB).unwrap(), &|file| punch(file, MIB, 4096), &|file| {
            file.set_len(4 * MIB - 1).unwrap();
            file.set_len(4 * MIB).unwrap();
        }];
    for change in changes {
        scene.edit("target", change);
        scene.edit("target", |file| file.set_modified(before.modified().unwrap()).unwrap());
        assert_eq!(fs::metadata(scene.at("target/image")).unwrap().len(), before.len());
        scene.begin();
        assert!(!scene.is_still_there());
        scene.seal("target", "base");
    }
    scene.edit("target", |file| file.set_len(4 * MIB - 4096).unwrap());
    scene.begin();
    assert!(!scene.is_still_there(), "what was cut off has no extents");
    scene.edit("target", |file| file.set_len(9 * MIB).unwrap());
    scene.seal("target", "base");
    scene.edit("target", |file| file.set_len(10 * MIB).unwrap());
    scene.begin();
    assert!(!scene.is_still_there(), "a hole has no extents");
}

#[test]
fn an_edit_between_the_set_and_the_commit_stays_and_is_told() {
    let Some(scene) = Scene::make(image(4)) else { return };
    scene.edit("live", write(2, MIB, 4096));
    scene.begin();
    let frames = scene.frames();
    scene.edit("target", |file| file.write_all_at(b"mine", 3 * MIB).unwrap());
    let mine = fs::read(scene.at("target/image")).unwrap();
    let report = scene.apply(frames.clone()).unwrap();
    assert_eq!(report.conflicts.len(), 1, "{report:?}");
    assert!(fs::read(scene.at("target/image")).unwrap() == mine);
    assert!(!scene.is_proven());
    fs::remove_file(scene.at("target/image")).unwrap();
    assert_eq!(scene.apply(frames).unwrap().conflicts.len(), 1);
    assert!(!scene.at("target/image").exists());
}

#[test]
fn extents_that_were_moved_are_more_to_send_and_never_wrong() {
    let Some(scene) = Scene::make(image(8)) else { return };
    let root = scene.disk.root.to_str().unwrap().to_owned();
    let defragment = |name: &str| {
        scene.edit("live", |file| file.sync_all().unwrap());
        assert!(sh("btrfs", &["filesystem", "defragment", "-f", "-t", "64M", &scene.text(name)]));
    };
    // In pieces first: what lies in one is left alone.
    for at in 0..32 {
        scene.edit("live", write(at + 10, at * 256 * 1024, 4096));
    }
    scene.sync();
    scene.edit("live", write(2, MIB, 4096));
    defragment("live/image");
    assert!(scene.sync() >= 4096);
    // A balance moves the extents of all snapshots alike.
    assert!(sh("btrfs", &["balance", "start", "--full-balance", &root]));
    scene.edit("live", write(3, 2 * MIB, 4096));
    assert_eq!(scene.sync(), 4096);
    defragment("target/image");
    scene.edit("live", write(4, 3 * MIB, 4096));
    scene.begin();
    if scene.is_still_there() {
        scene.sync();
    }
}

#[test]
fn without_checksums_nothing_is_taken_for_proven() {
    let nowhere = |file: &File| {
        ioctl_setflags(file, ioctl_getflags(file).unwrap() | IFlags::NOCOW).unwrap();
        image(2)(file);
    };
    let Some(scene) = Scene::make(nowhere) else { return };
    scene.edit("live", write(2, MIB, 4096));
    scene.begin();
    let [ours, theirs] = [("new", "old"), ("pre", "base")].map(|(now, then)| scene.since(now, then).unwrap());
    assert!(!ours.has_sums && theirs.has_sums, "the copy has checksums: {ours:?} {theirs:?}");
}

#[test]
fn what_is_other_than_it_was_sent_is_never_committed() {
    type Tamper<'a> = (&'a str, &'a dyn Fn(&mut StreamFrame));
    let Some(scene) = Scene::make(image(4)) else { return };
    scene.edit("live", write(2, MIB, 8192));
    scene.edit("live", |file| punch(file, 2 * MIB, 8192));
    scene.begin();
    let before = fs::read(scene.at("target/image")).unwrap();
    let tampered: [Tamper<'_>; 5] = [
        ("another digest", &|frame| {
            let StreamFrame::Content(pieces) = frame else { return };
            pieces.iter_mut().filter(|piece| !piece.data.is_empty()).for_each(|piece| piece.data[9] ^= 1);
        }),
        ("another digest", &|frame| {
            let StreamFrame::Content(pieces) = frame else { return };
            pieces.iter_mut().filter(|piece| !piece.data.is_empty()).for_each(|piece| piece.offset += 4096);
        }),
        ("another digest", &|frame| {
            if let StreamFrame::Hole { end, .. } = frame {
                *end += 4096;
            }
        }),
        ("none is named", &|frame| {
            if matches!(frame, StreamFrame::Sealed { .. }) {
                *frame = StreamFrame::Settled;
            }
        }),
        ("none is named", &|frame| {
            if let StreamFrame::Sealed { root, .. } = frame {
                *root = scene.path("target");
            }
        }),
    ];
    for (why, tamper) in tampered {
        let mut frames = scene.frames();
        frames.iter_mut().for_each(tamper);
        let error = scene.apply(frames).unwrap_err();
        assert!(error.message.contains(why), "{error}");
        assert!(fs::read(scene.at("target/image")).unwrap() == before);
        assert!(!scene.at("target/.pc-switcher").exists());
    }
    scene.sync();
}

#[test]
fn what_is_not_as_it_was_sent_in_the_end_is_not_proven() {
    let Some(scene) = Scene::make(image(8)) else { return };
    scene.edit("live", write(2, MIB, 8192));
    scene.begin();
    scene.apply(scene.frames()).unwrap();
    assert!(scene.is_proven());
    // What lies elsewhere though nobody wrote there, but holds what it held, is as it was.
    scene.edit("target", |file| {
        let mut held = vec![0; 8192];
        file.read_exact_at(&mut held, 6 * MIB).unwrap();
        file.write_all_at(&held, 6 * MIB).unwrap();
    });
    assert!(scene.is_proven());
    for change in [write(3, MIB + 100, 1), write(3, 5 * MIB, 1), write(3, 8 * MIB, 1)] {
        let whole = fs::read(scene.at("target/image")).unwrap();
        scene.edit("target", change);
        assert!(!scene.is_proven());
        fs::write(scene.at("target/image"), whole).unwrap();
    }
    assert!(scene.is_proven(), "all of it lies elsewhere and holds what it held");
}

#[test]
fn a_file_is_asked_about_in_sealed_snapshots_alone() {
    let Some(scene) = Scene::make(image(2)) else { return };
    scene.begin();
    for (now, then) in [("live", "old"), ("new", "live")] {
        let (call, _seen) = call_with(&[Scene::wants()]);
        let error = since::run(&scene.path(now), &scene.path(then), &call).unwrap_err();
        assert!(error.message.contains("read-only"), "{error}");
        let (call, _seen) = call_with(&[Scene::wants()]);
        assert!(read::run_ranges(&scene.path(now), &scene.path(then), &call).is_err());
    }
    fs::remove_file(scene.at("target/image")).unwrap();
    scene.begin();
    assert_eq!(scene.since("pre", "base"), None);
    assert_eq!(scene.since("new", "old").map(|since| (since.size, since.ranges)), Some((2 * MIB, 0)));
}
