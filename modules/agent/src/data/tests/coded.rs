//! Files whose extents are compressed go over as they lie on the disk, and stay so where the target takes that.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::drive::{apply_frames, assert_same, frames, read_frames, sh, uuid_of, walked};
use super::plan::{Plan, plan};
use crate::linux::btrfs::image::Image;
use crate::linux::btrfs::{Btrfs, KernelBtrfs};
use crate::proto::{Coding, Piece, ReadWant, StreamFrame};

/// Text that becomes much smaller; `seed` makes it another one.
fn text(len: usize, seed: u32) -> Vec<u8> {
    let line = |at: u32| format!("{seed} line {at} of something that is said again and again\n").into_bytes();
    let mut text: Vec<u8> = (0..).flat_map(line).take(len).collect();
    text.truncate(len);
    text
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// A source whose files are compressed, and a place for a target.
struct Pair {
    image: Image,
    live: PathBuf,
}

impl Pair {
    fn make() -> Option<Self> {
        let image = Image::make(512)?;
        image.create("@home");
        image.create("@target");
        let live = image.top().join("@home");
        assert!(sh("btrfs", &["property", "set", live.to_str().unwrap(), "compression", "zstd"]));
        Some(Self { live, image })
    }

    fn target(&self) -> PathBuf {
        self.image.top().join("@target")
    }

    /// Returns a read-only snapshot of the source.
    fn sealed(&self) -> PathBuf {
        assert!(sh("sync", &["-f", self.live.to_str().unwrap()]));
        let snapshot = self.image.top().join("sealed");
        KernelBtrfs.snapshot(&self.live, self.image.top(), OsStr::new("sealed")).unwrap();
        KernelBtrfs.set_readonly(&snapshot, true).unwrap();
        snapshot
    }
}

/// How many extents of a file `filefrag` says are compressed, and how many there are.
fn extents(path: &Path) -> [usize; 2] {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    let output = std::process::Command::new("filefrag").arg("-v").arg(path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = || text.lines().filter(|line| line.contains("..") && line.contains(':'));
    [lines().filter(|line| line.contains("encoded")).count(), lines().count()]
}

fn codings(frames: &[StreamFrame]) -> usize {
    let count = |frame: &StreamFrame| match frame {
        StreamFrame::Coded { codings, .. } => codings.len(),
        _ => 0,
    };
    frames.iter().map(count).sum()
}

fn everything(snapshot: &Path, target: &Path) -> (Vec<StreamFrame>, Plan) {
    let plan = plan(&walked(snapshot), &walked(target));
    (frames(snapshot, &plan), plan)
}

#[test]
fn compressed_files_of_every_shape_arrive_and_stay_compressed() {
    let Some(pair) = Pair::make() else { return };
    let (live, target) = (&pair.live, pair.target());
    for size in [1, 100, 3000, 4096, 4097, 5000, 8192, 100_000, 131_072, 131_073, 300_000, 3_000_001] {
        fs::write(live.join(format!("text-{size}")), text(size, size as u32)).unwrap();
    }
    fs::write(live.join("noise"), noise(700_001)).unwrap();
    fs::write(live.join("both"), [text(400_000, 1), noise(400_000), text(400_000, 2)].concat()).unwrap();
    sh("sync", &["-f", live.to_str().unwrap()]);
    // A part of an extent is another file's, or is written anew; holes in the middle and at the end; a cut end; grown.
    let [from, shared] = ["text-3000001", "shared"].map(|name| live.join(name));
    assert!(sh("cp", &["--reflink=always", from.to_str().unwrap(), shared.to_str().unwrap()]));
    let write =
        |name: &str| File::options().write(true).create(true).truncate(false).open(live.join(name)).unwrap();
    write("shared").write_all_at(b"in the middle of an extent", 200_000).unwrap();
    write("text-3000001").write_all_at(&text(70_000, 9), 1_000_000).unwrap();
    assert!(sh(
        "fallocate",
        &["-p", "-o", "40960", "-l", "8192", live.join("text-300000").to_str().unwrap()]
    ));
    write("text-131073").set_len(50_001).unwrap();
    write("text-100000").set_len(2_000_000).unwrap();
    write("late").write_all_at(&text(500_000, 3), 1 << 20).unwrap();
    let piece = write("piece");
    rustix::fs::ioctl_ficlone(&piece, File::open(&from).unwrap()).unwrap();
    piece.set_len(30_000).unwrap();

    let snapshot = pair.sealed();
    let (stream, plan) = everything(&snapshot, &target);
    assert!(codings(&stream) > 30, "{} pieces went as they were", codings(&stream));
    let report = apply_frames(&target, stream, &uuid_of(&target)).unwrap();
    assert!(report.failed.is_none() && report.warnings.is_empty());
    assert!(!plan.wants.is_empty());
    assert_same(&snapshot, &target);
    for name in ["text-131072", "text-5000", "text-3000001", "shared", "late"] {
        // One block that was written anew is not compressed by anybody.
        let [[encoded, all], there] = [&target, &snapshot].map(|root| extents(&root.join(name)));
        assert!(encoded > 0 && all - encoded <= there[1] - there[0], "{name}: {encoded} of {all}, {there:?}");
    }
    let [encoded, all] = extents(&target.join("noise"));
    assert_eq!((encoded, all > 0), (0, true));
    let packed = extents(&target.join("both"));
    assert!(packed[0] > 0 && packed[0] < packed[1], "{packed:?}");
}

#[test]
fn a_target_that_takes_no_extents_gets_what_they_hold() {
    let Some(pair) = Pair::make() else { return };
    fs::write(pair.live.join("text"), text(900_001, 1)).unwrap();
    let snapshot = pair.sealed();
    // Without copy-on-write nothing is compressed; another file system knows nothing of it.
    let target = pair.target();
    let dir = File::open(&target).unwrap();
    ioctl_setflags(&dir, ioctl_getflags(&dir).unwrap() | IFlags::NOCOW).unwrap();
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let plain = elsewhere.path().join("target");
    fs::create_dir(&plain).unwrap();
    for target in [target, plain] {
        let (stream, _) = everything(&snapshot, &target);
        assert_eq!(codings(&stream), 7);
        apply_frames(&target, stream, &uuid_of(&target)).unwrap();
        assert_eq!(fs::read(target.join("text")).unwrap(), text(900_001, 1));
    }
}

#[test]
fn an_extent_that_holds_something_else_than_was_read_is_found_out_before_anything_is_committed() {
    let Some(pair) = Pair::make() else { return };
    fs::write(pair.live.join("text"), text(500_000, 1)).unwrap();
    let snapshot = pair.sealed();
    let other = zstd::bulk::compress(&text(131_072, 2), 3).unwrap();
    let damage = |what: &dyn Fn(&mut Coding, &mut Piece)| {
        let (mut stream, _) = everything(&snapshot, &pair.target());
        let coded = stream.iter_mut().find_map(|frame| match frame {
            StreamFrame::Coded { codings, pieces, .. } => Some((&mut codings[0], &mut pieces[0])),
            _ => None,
        });
        let (coding, piece) = coded.unwrap();
        what(coding, piece);
        let refused = apply_frames(&pair.target(), stream, &uuid_of(&pair.target())).unwrap_err().message;
        assert!(!pair.target().join("text").exists());
        refused
    };
    let refused = damage(&|_, piece| piece.data = other.clone());
    assert!(refused.contains("another digest"), "{refused}");
    let refused = damage(&|_, piece| piece.data.truncate(50));
    assert!(refused.contains("came broken"), "{refused}");
    let refused = damage(&|coding, _| coding.whole = u32::MAX);
    assert!(refused.contains("came broken"), "{refused}");
    let refused = damage(&|coding, _| coding.len -= 4096);
    assert!(refused.contains("another digest") || refused.contains("other pieces"), "{refused}");
    let refused = damage(&|coding, _| coding.piece = 70);
    assert!(refused.contains("missing"), "{refused}");
}

#[test]
fn where_nothing_is_compressed_few_files_are_tried_and_all_are_read() {
    let Some(image) = Image::make(256) else { return };
    image.create("@home");
    let live = image.top().join("@home");
    let wants: Vec<ReadWant> = (0..100)
        .map(|content| {
            fs::write(live.join(content.to_string()), noise(20_000)).unwrap();
            ReadWant { content, path: content.to_string().as_str().into() }
        })
        .collect();
    let snapshot = image.top().join("sealed");
    KernelBtrfs.snapshot(&live, image.top(), OsStr::new("sealed")).unwrap();
    KernelBtrfs.set_readonly(&snapshot, true).unwrap();
    let frames = read_frames(&snapshot, wants);
    assert_eq!(codings(&frames), 0);
    let pieces = frames.iter().map(|frame| match frame {
        StreamFrame::Content(pieces) => pieces.iter().filter(|piece| piece.last.is_some()).count(),
        _ => 0,
    });
    assert_eq!(pieces.sum::<usize>(), 100);
}
