//! Files that share extents on the source: what they have in common goes over once, and shares extents on the target.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pc_switcher_contract::BytePath;
use rustix::fs::{IFlags, ioctl_ficlone, ioctl_getflags, ioctl_setflags};

use super::drive::{Disk, apply_frames, call_with, items, read_frames, sh, uuid_of, walked};
use super::plan::{identity, tree};
use crate::data::apply::clone_range;
use crate::data::sent::Sent;
use crate::data::{delta, read, shares};
use crate::linux::btrfs::KernelBtrfs;
use crate::linux::unchanged;
use crate::proto::{
    AgentError, ApplyReport, Body, CloneFrom, CloneRange, Entry, Kind, Op, Origin, ReadWant, RestWant,
    RuleSet, Shares, SharesRequest, StreamFrame, Tree,
};

const MIB: u64 = 1 << 20;

/// A source's subvolume `live` with snapshots of it, and a target.
struct Scene {
    disk: Disk,
}

impl Scene {
    fn make() -> Option<Self> {
        let scene = Scene { disk: Disk::make("btrfs", 600 << 20)? };
        for name in ["live", "target"] {
            assert!(sh("btrfs", &["subvolume", "create", scene.at(name).to_str().unwrap()]));
        }
        Some(scene)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.disk.root.join(name)
    }

    fn write(&self, path: &str, seed: u8, len: u64) {
        fs::write(self.at(path), noise(seed, len)).unwrap();
    }

    fn edit(&self, path: &str, at: u64, data: &[u8]) {
        File::options().write(true).open(self.at(path)).unwrap().write_all_at(data, at).unwrap();
    }

    fn clone(&self, from: &str, to: &str) {
        let (from, to) = (File::open(self.at(from)).unwrap(), File::create(self.at(to)).unwrap());
        ioctl_ficlone(&to, &from).unwrap();
    }

    fn seal(&self, from: &str, name: &str) {
        let (from, to) = (self.at(from), self.at(name));
        assert!(sh("btrfs", &["subvolume", "snapshot", "-r", from.to_str().unwrap(), to.to_str().unwrap()]));
    }

    /// Copies a file from the source to the target, with its time and without sharing anything.
    fn bring(&self, name: &str) {
        let [from, to] = ["live", "target"].map(|dir| self.at(dir).join(name));
        let [from, to] = [&from, &to].map(|path| path.to_str().unwrap());
        assert!(sh("cp", &["-a", "--reflink=never", from, to]));
    }

    /// Asks what the files of the snapshot `new` share, in this order.
    fn shares(&self, base: Option<&str>, names: &[&str]) -> Vec<Shares> {
        let wants: Vec<ReadWant> = numbered(names).collect();
        let (call, seen) = call_with(&[wants]);
        let new = self.at("new");
        let base = base.map(|name| self.at(name));
        let since = base.as_ref().and_then(|base| unchanged::since(&KernelBtrfs, base, &new).unwrap());
        assert_eq!(since.is_some(), base.is_some());
        let tree =
            Tree { root: new.as_path().into(), prefix: BytePath::default(), rules: RuleSet::default() };
        let request = SharesRequest { tree, base: base.map(|base| base.as_path().into()) };
        shares::run(&request, since, &call).unwrap();
        items::<Vec<Shares>>(&seen).into_iter().flatten().collect()
    }

    fn from(&self, origin: &Origin, names: &[&str]) -> CloneFrom {
        match origin {
            Origin::Asked(number) => CloneFrom::New(names[*number as usize].into()),
            Origin::File { path, .. } => {
                CloneFrom::Sealed { root: self.at("before").as_path().into(), path: path.clone() }
            }
        }
    }

    /// The frames that bring these files over; those that share anything are made of it.
    fn frames(&self, base: Option<&str>, names: &[&str]) -> Vec<StreamFrame> {
        let shares: HashMap<u32, Shares> =
            self.shares(base, names).into_iter().map(|shares| (shares.content, shares)).collect();
        let ours = tree(&walked(&self.at("new")));
        let theirs = tree(&walked(&self.at("target")));
        let put = |ReadWant { content, path }: ReadWant| {
            let Entry { size, meta, .. } = ours[&path].clone();
            let body = match shares.contains_key(&content) {
                true => Body::Built { content, size },
                false => Body::File { content, size },
            };
            Op::Put { replaces: theirs.get(&path).map(identity), path, body, meta }
        };
        let ops = numbered(names).map(put).collect();
        let mut frames = vec![StreamFrame::Ops { part: 0, ops }];
        let (built, whole): (Vec<_>, Vec<_>) =
            numbered(names).partition(|want| shares.contains_key(&want.content));
        frames.extend(read_frames(&self.at("new"), whole));
        for ReadWant { content, path } in built {
            frames.push(StreamFrame::Settled);
            let Shares { origins, ranges, .. } = &shares[&content];
            for (number, origin) in (0..).zip(origins) {
                let ranges = ranges.iter().filter(|range| range.origin == number);
                let ranges = ranges.map(|range| (range.at, range.from_at, range.len)).collect();
                frames.push(StreamFrame::Clones { content, from: self.from(origin, names), ranges });
            }
            let had = ranges.iter().map(|range| (range.at, range.at + range.len)).collect();
            let (call, seen) = call_with(&[vec![RestWant { content, path, had }]]);
            read::run_rest(&self.at("new").as_path().into(), &call, &Sent::default()).unwrap();
            frames.extend(items::<StreamFrame>(&seen));
        }
        let count = names.len() as u64;
        frames.push(StreamFrame::Commit { ops: count, contents: count });
        frames
    }

    fn apply(&self, frames: Vec<StreamFrame>) -> Result<ApplyReport, AgentError> {
        let target = self.at("target");
        apply_frames(&target, frames, &uuid_of(&target))
    }

    fn assert_files(&self, names: &[&str]) {
        for name in names {
            let [ours, theirs] = ["new", "target"].map(|dir| self.at(dir).join(name));
            assert!(fs::read(&ours).unwrap() == fs::read(&theirs).unwrap(), "{name}");
            let [ours, theirs] = [ours, theirs].map(|path| fs::metadata(path).unwrap().modified().unwrap());
            assert_eq!(ours, theirs, "{name}");
        }
    }

    /// Bytes of a file of the target that do not lie where another file has them.
    fn own(&self, name: &str, other: &str) -> u64 {
        let files = [name, other].map(|name| File::open(self.at("target").join(name)).unwrap());
        files.iter().for_each(|file| file.sync_all().unwrap());
        let [now, then] = files.map(OwnedFd::from);
        delta::changed(&now, &then).unwrap().iter().map(|range| range.end - range.at).sum()
    }
}

fn numbered<'a>(names: &'a [&str]) -> impl Iterator<Item = ReadWant> + 'a {
    (0..).zip(names).map(|(content, name)| ReadWant { content, path: (*name).into() })
}

fn noise(seed: u8, len: u64) -> Vec<u8> {
    let mut out = vec![0; len as usize];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

fn sent(frames: &[StreamFrame]) -> u64 {
    frames.iter().map(|frame| crate::proto::encode(frame).len() as u64).sum()
}

#[test]
fn twenty_copies_go_over_once_and_lie_on_the_targets_disk_once() {
    let Some(scene) = Scene::make() else { return };
    scene.write("live/image", 1, 64 * MIB);
    let copies: Vec<String> = (0..20).map(|number| format!("copy-{number:02}")).collect();
    for copy in &copies {
        scene.clone("live/image", &format!("live/{copy}"));
    }
    scene.edit("live/copy-07", 9 * MIB + 77, &noise(2, 100_000));
    scene.seal("live", "new");
    let names: Vec<&str> = copies.iter().map(String::as_str).chain(["image"]).collect();
    let frames = scene.frames(None, &names);
    assert!(sent(&frames) < 65 * MIB, "{} bytes", sent(&frames));
    let report = scene.apply(frames).unwrap();
    assert_eq!((report.done, report.conflicts.len()), (21, 0), "{report:?}");
    scene.assert_files(&names);
    assert_eq!(scene.own("image", "copy-00"), 0);
    assert_eq!(scene.own("copy-19", "copy-00"), 0);
    assert_eq!(scene.own("copy-07", "copy-00"), 102_400, "whole blocks of what was written there");
}

#[test]
fn a_copy_of_what_the_target_has_costs_next_to_nothing_though_the_original_changed_since() {
    let Some(scene) = Scene::make() else { return };
    scene.write("live/image", 1, 64 * MIB);
    scene.seal("live", "base");
    scene.bring("image");
    scene.clone("live/image", "live/copy");
    scene.edit("live/image", 0, &noise(3, 8192));
    scene.edit("live/copy", 30 * MIB, b"another one");
    fs::rename(scene.at("live/image"), scene.at("live/elsewhere")).unwrap();
    scene.seal("live", "new");
    scene.seal("target", "before");
    // A copy of a file, and the file itself at another place: both are made of its old version.
    let frames = scene.frames(Some("base"), &["copy", "elsewhere"]);
    assert!(sent(&frames) < 20_000, "{} bytes", sent(&frames));
    scene.apply(frames).unwrap();
    scene.assert_files(&["copy", "elsewhere"]);
    assert_eq!(scene.own("copy", "elsewhere"), 8192 + 4096);
}

#[test]
fn files_of_several_names_are_made_of_their_older_version() {
    let Some(scene) = Scene::make() else { return };
    scene.write("live/image", 1, 8 * MIB);
    fs::hard_link(scene.at("live/image"), scene.at("live/other")).unwrap();
    scene.seal("live", "base");
    scene.bring("image");
    scene.edit("live/other", 5 * MIB, &noise(3, 5));
    scene.seal("live", "new");
    scene.seal("target", "before");
    let frames = scene.frames(Some("base"), &["image"]);
    assert!(sent(&frames) < 5000, "{} bytes", sent(&frames));
    scene.apply(frames).unwrap();
    assert!(fs::read(scene.at("new/other")).unwrap() == fs::read(scene.at("target/image")).unwrap());
}

#[test]
fn whatever_is_told_to_be_shared_is_the_same() {
    let Some(scene) = Scene::make() else { return };
    let mut dice = 1_u64;
    let mut roll = move |end: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % end
    };
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut told = 0;
    for round in 0..24_u8 {
        for _ in 0..12 {
            let [one, two] = [0, 1].map(|_| scene.at("live").join(names[roll(6) as usize]));
            let open = |path: &Path| {
                OwnedFd::from(
                    File::options().create(true).truncate(false).read(true).write(true).open(path).unwrap(),
                )
            };
            let [from, to] = [open(&one), open(&two)];
            let size = fs::metadata(&one).unwrap().len();
            let (at, len) = (4096 * roll(100), 4096 * (1 + roll(60)));
            match roll(4) {
                0 => File::from(from).write_all_at(&noise(round, len + roll(4096)), at).unwrap(),
                1 => File::from(to).set_len(at + roll(5000)).unwrap(),
                2 if one != two && at < size => {
                    let len = len.min(size - at);
                    // An end that is no whole block only goes where the other file ends.
                    let _ = clone_range(&from, &to, (4096 * roll(100), at, len));
                }
                _ if one != two => drop(ioctl_ficlone(&to, &from)),
                _ => {}
            }
        }
        let here: Vec<&str> = names.into_iter().filter(|name| scene.at("live").join(name).exists()).collect();
        let base = (round > 0).then(|| format!("base-{}", round - 1));
        scene.seal("live", "new");
        for base in [None, base.as_deref()] {
            for Shares { content, origins, ranges } in scene.shares(base, &here) {
                let ours = fs::read(scene.at("new").join(here[content as usize])).unwrap();
                let mut end = 0;
                for range in ranges {
                    let theirs = match &origins[range.origin as usize] {
                        Origin::Asked(other) if *other < content => {
                            fs::read(scene.at("new").join(here[*other as usize])).unwrap()
                        }
                        Origin::Asked(other) => panic!("{other} comes after {content}"),
                        Origin::File { path, .. } => {
                            fs::read(scene.at(base.unwrap_or("new")).join(path.as_path())).unwrap()
                        }
                    };
                    let [at, from, len] = [range.at, range.from_at, range.len].map(|n| n as usize);
                    assert!(range.at >= end && ours[at..at + len] == theirs[from..from + len], "{range:?}");
                    assert!(range.at % 4096 == 0 && range.from_at % 4096 == 0, "{range:?}");
                    assert!(range.len % 4096 == 0 || at + len == ours.len(), "{range:?}");
                    end = range.at + range.len;
                    told += 1;
                }
            }
        }
        let (from, to) = (scene.at("new"), scene.at(&format!("base-{round}")));
        assert!(sh("mv", &[from.to_str().unwrap(), to.to_str().unwrap()]));
    }
    assert!(told > 300, "{told} ranges");
}

#[test]
fn what_cannot_be_cloned_is_copied_and_a_file_without_copy_on_write_stays_one() {
    let Some(scene) = Scene::make() else { return };
    let plain = scene.at("live/plain");
    let file = File::create(&plain).unwrap();
    ioctl_setflags(&file, ioctl_getflags(&file).unwrap() | IFlags::NOCOW).unwrap();
    file.write_all_at(&noise(1, MIB + 5), 0).unwrap();
    scene.write("live/usual", 2, MIB + 5);
    scene.seal("live", "sealed");
    let open = |path: PathBuf| OwnedFd::from(File::options().read(true).write(true).open(path).unwrap());
    let new = scene.at("target/new");
    fs::write(&new, b"").unwrap();
    let [plain, usual] = ["plain", "usual"].map(|name| open_read(&scene.at("sealed").join(name)));
    let to = open(new.clone());
    clone_range(&usual, &to, (0, 0, MIB)).unwrap();
    clone_range(&plain, &to, (MIB, 0, MIB + 5)).unwrap();
    let wanted = [&noise(2, MIB + 5)[..MIB as usize], &noise(1, MIB + 5)].concat();
    assert!(fs::read(&new).unwrap() == wanted);
    assert!(clone_range(&usual, &to, (0, MIB, MIB)).is_err(), "beyond its end");
    // Half a block in the middle of a larger one.
    clone_range(&usual, &to, (0, 4096, 5000)).unwrap();
    assert!(fs::read(&new).unwrap()[..5000] == noise(2, MIB)[4096..9096]);

    scene.clone("live/usual", "live/zcopy");
    scene.seal("live", "new");
    fs::remove_file(&new).unwrap();
    scene.bring("plain");
    scene.seal("target", "before");
    let mut frames = scene.frames(None, &["usual", "zcopy"]);
    for frame in &mut frames {
        if let StreamFrame::Clones { from, .. } = frame {
            *from = CloneFrom::Sealed { root: scene.at("sealed").as_path().into(), path: "usual".into() };
        }
    }
    scene.apply(frames).unwrap();
    assert!(fs::read(scene.at("target/zcopy")).unwrap() == noise(2, MIB + 5));
}

fn open_read(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

#[test]
fn a_file_without_copy_on_write_is_made_as_one_of_its_like() {
    let Some(scene) = Scene::make() else { return };
    let nowhere = |path: &str| {
        let file = File::create(scene.at(path)).unwrap();
        ioctl_setflags(&file, ioctl_getflags(&file).unwrap() | IFlags::NOCOW).unwrap();
        file
    };
    nowhere("live/disk").write_all_at(&noise(1, 4 * MIB), 0).unwrap();
    nowhere("target/disk").write_all_at(&noise(1, 4 * MIB), 0).unwrap();
    scene.seal("live", "base");
    let copy = nowhere("live/copy");
    ioctl_ficlone(&copy, File::open(scene.at("live/disk")).unwrap()).unwrap();
    scene.seal("live", "new");
    scene.seal("target", "before");
    let frames = scene.frames(Some("base"), &["copy"]);
    assert!(sent(&frames) < 5000, "{} bytes", sent(&frames));
    scene.apply(frames).unwrap();
    assert_eq!(scene.own("copy", "disk"), 0);
    let flags = ioctl_getflags(File::open(scene.at("target/copy")).unwrap()).unwrap();
    assert!(flags.contains(IFlags::NOCOW));
}

#[test]
fn a_target_that_has_something_else_is_found_out_before_anything_is_committed() {
    let Some(scene) = Scene::make() else { return };
    scene.write("live/image", 1, 2 * MIB);
    scene.seal("live", "base");
    scene.bring("image");
    scene.edit("target/image", MIB, b"mine");
    scene.clone("live/image", "live/copy");
    scene.seal("live", "new");
    scene.seal("target", "before");
    let error = scene.apply(scene.frames(Some("base"), &["copy"])).unwrap_err();
    assert!(error.message.contains("another digest"), "{error}");
    assert!(!scene.at("target/copy").exists() && !scene.at("target/.pc-switcher").exists());
}

#[test]
fn clones_of_what_is_not_there_not_whole_or_not_sealed_are_refused() {
    let Some(scene) = Scene::make() else { return };
    scene.write("live/a", 1, MIB);
    scene.clone("live/a", "live/b");
    scene.seal("live", "new");
    let good = scene.frames(None, &["a", "b"]);
    let with = |change: &dyn Fn(&mut CloneFrom, &mut Vec<CloneRange>)| {
        let mut frames = good.clone();
        for frame in &mut frames {
            if let StreamFrame::Clones { from, ranges, .. } = frame {
                change(from, ranges);
            }
        }
        scene.apply(frames).unwrap_err().message
    };
    let live: BytePath = scene.at("live").as_path().into();
    let said = [
        with(&|from, _| *from = CloneFrom::New("elsewhere".into())),
        with(&|from, _| *from = CloneFrom::New("../../live/a".into())),
        with(&|from, _| *from = CloneFrom::Sealed { root: live.clone(), path: "a".into() }),
        with(&|_, ranges| ranges[0].2 += 4096),
        with(&|_, ranges| ranges[0].0 = u64::MAX),
    ];
    let wanted = ["is not new", "is not new", "read-only", "beyond its size", "beyond its size"];
    for (said, wanted) in said.iter().zip(wanted) {
        assert!(said.contains(wanted), "{said}");
    }
    let early: Vec<StreamFrame> =
        good.iter().filter(|frame| !matches!(frame, StreamFrame::Content(_))).cloned().collect();
    assert!(scene.apply(early).is_err());
    let plain = |frame: &StreamFrame| match frame {
        StreamFrame::Ops { part, ops } => {
            let mut ops = ops.clone();
            for op in &mut ops {
                if let Op::Put { body, .. } = op
                    && let Body::Built { content, size } = *body
                {
                    *body = Body::File { content, size };
                }
            }
            StreamFrame::Ops { part: *part, ops }
        }
        other => other.clone(),
    };
    let said = scene.apply(good.iter().map(plain).collect()).unwrap_err().message;
    assert!(said.contains("clones where none can be"), "{said}");
    assert_eq!(
        walked(&scene.at("target"))
            .iter()
            .flat_map(|dir| &dir.entries)
            .filter(|entry| entry.kind == Kind::File)
            .count(),
        0
    );
    scene.apply(good.clone()).unwrap();
    scene.assert_files(&["a", "b"]);
}
