//! Drives handlers without a front, and makes places to work in.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use crossbeam_channel::Receiver;
use serde::Serialize;
use serde::de::DeserializeOwned;

use pc_switcher_contract::BytePath;

use super::plan::{Plan, normal, plan};
use crate::data::apply::Watch;
use crate::data::sent::Sent;
use crate::data::{apply, btrfs, digest, read, walk};
use crate::frame::{self, FrameKind};
use crate::linux::state::StateDir;
use crate::proto::{
    AgentError, ApplyReport, ApplyRequest, DirListing, Kind, ListWant, Listings, PartRoot, ReadWant, RuleSet,
    StreamFrame, Tree, WalkRequest, WalkSummary, decode, encode,
};
use crate::server::Call;

/// The frames that a handler has written.
struct Wire(Receiver<Vec<u8>>, Vec<u8>);

impl Read for Wire {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.1.is_empty() {
            let Ok(next) = self.0.try_recv() else { return Ok(0) };
            self.1 = next;
        }
        let n = self.1.len().min(out.len());
        out[..n].copy_from_slice(&self.1[..n]);
        self.1.drain(..n);
        Ok(n)
    }
}

/// Returns the bodies of all items that a handler has sent so far.
pub fn raw_items(seen: &Receiver<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut wire = Wire(seen.clone(), Vec::new());
    let mut items = Vec::new();
    while let Some(frame) = frame::read(&mut wire).unwrap() {
        if frame.kind == FrameKind::Item {
            items.push(frame.body);
        }
    }
    items
}

pub fn items<T: DeserializeOwned>(seen: &Receiver<Vec<u8>>) -> Vec<T> {
    raw_items(seen).iter().map(|body| decode(body).unwrap()).collect()
}

pub fn call_with<T: Serialize>(uploads: &[T]) -> (Call, Receiver<Vec<u8>>) {
    Call::for_test(uploads.iter().map(encode).collect())
}

pub fn try_walk(root: &Path, rules: RuleSet) -> Result<(WalkSummary, Vec<DirListing>), AgentError> {
    let (call, seen) = Call::for_test(Vec::new());
    let tree = Tree { root: root.into(), prefix: BytePath::default(), rules };
    let summary = walk::run(&WalkRequest { tree }, &call)?;
    Ok((summary, items::<Listings>(&seen).into_iter().flat_map(|listings| listings.0).collect()))
}

/// Walks and sorts the listings by path.
pub fn walked(root: &Path) -> Vec<DirListing> {
    let (_, mut listings) = try_walk(root, RuleSet::default()).unwrap();
    listings.sort_by(|a, b| a.path.cmp(&b.path));
    listings
}

pub fn read_frames(root: &Path, wants: Vec<ReadWant>) -> Vec<StreamFrame> {
    let (call, seen) = call_with(&[wants]);
    read::run(&root.into(), &call, &Sent::default()).unwrap();
    items(&seen)
}

pub fn digests(root: &Path, wants: Vec<ReadWant>) -> Vec<(u32, Option<[u8; 32]>)> {
    let (call, seen) = call_with(&[wants]);
    digest::run(&root.into(), &call, &Sent::default()).unwrap();
    let mut all: Vec<_> = items::<Vec<_>>(&seen).into_iter().flatten().collect();
    all.sort();
    all
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that a test did not run, and fails where nothing may be skipped.
pub fn skip(why: &str) {
    assert!(std::env::var_os("LAB_REQUIRED").is_none(), "skipped although all tests are required: {why}");
    eprintln!("skipped: {why}");
}

/// Runs a command and returns whether it worked.
pub fn sh(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// A file system of its own on a loop device, unmounted when dropped; the device goes with the mount.
pub struct Disk {
    fs_type: String,
    pub root: PathBuf,
    dir: tempfile::TempDir,
}

impl Disk {
    /// Makes one, or says why not.
    pub fn make(fs_type: &str, bytes: u64) -> Option<Disk> {
        if !is_root() {
            skip("loop devices need root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        let mkfs = format!("mkfs.{fs_type}");
        if !sh(&mkfs, &["-q", image.to_str().unwrap()]) {
            skip(&format!("`{mkfs}` does not work here"));
            return None;
        }
        let root = dir.path().join("mount");
        std::fs::create_dir(&root).unwrap();
        let disk = Disk { fs_type: fs_type.into(), root, dir };
        if !mount(fs_type, &image, &disk.root) {
            skip(&format!("cannot mount {fs_type}"));
            return None;
        }
        Some(disk)
    }

    /// Takes a picture of the disk as it would be after a power cut now, and returns where it lies.
    pub fn photograph(dir: &Path, number: usize) -> PathBuf {
        Disk::photograph_of(&dir.join("image"), dir, number)
    }

    /// As [`Disk::photograph`], of a picture that was booted.
    pub fn photograph_of(image: &Path, dir: &Path, number: usize) -> PathBuf {
        let photo = dir.join(format!("photo-{number}"));
        let [from, to] = [image, &photo].map(|path| path.to_str().unwrap());
        assert!(sh("cp", &["--reflink=auto", "--sparse=always", from, to]));
        photo
    }

    /// Returns the directory that holds the image.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Boots a picture: from now on it is what is mounted.
    pub fn boot(&mut self, photo: &Path) {
        assert!(unmount(&self.root));
        assert!(mount(&self.fs_type, photo, &self.root));
    }
}

/// Unmounts, as soon as no child of another test holds what was open here when it was forked.
fn unmount(root: &Path) -> bool {
    (0..200).any(|_| {
        let done = sh("umount", &[root.to_str().unwrap()]);
        if !done {
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
        done
    })
}

fn mount(fs_type: &str, image: &Path, root: &Path) -> bool {
    let words = ["-t", fs_type, "-o", "loop", image.to_str().unwrap(), root.to_str().unwrap()];
    // Another test may have taken the same free device in between.
    (0..5).any(|_| sh("mount", &words))
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.root);
    }
}

/// Reads and applies a plan from `source` to `target`.
pub fn apply(source: &Path, target: &Path, plan: &Plan) -> Result<ApplyReport, AgentError> {
    apply_frames(target, frames(source, plan), &uuid_of(target))
}

/// Returns the stream of a plan.
pub fn frames(source: &Path, plan: &Plan) -> Vec<StreamFrame> {
    let ops = plan.ops.chunks(100).map(|ops| StreamFrame::Ops { part: 0, ops: ops.to_vec() });
    let mut frames: Vec<_> = ops.collect();
    frames.extend(read_frames(source, plan.wants.clone()));
    frames.push(StreamFrame::Commit { ops: plan.ops.len() as u64, contents: plan.wants.len() as u64 });
    frames
}

pub fn request(target: &Path, uuid: &str) -> ApplyRequest {
    let part = PartRoot { root: target.into(), subvolume_uuid: uuid.into() };
    ApplyRequest { session: "0123abcd".parse().unwrap(), parts: vec![part], pre_set: None }
}

pub fn apply_frames(target: &Path, frames: Vec<StreamFrame>, uuid: &str) -> Result<ApplyReport, AgentError> {
    let (call, _seen) = call_with(&frames);
    apply::run(&request(target, uuid), &call, &state_of(target), &apply::Unwatched)
}

/// As [`apply_frames`], with somebody who looks on.
pub fn apply_watched(
    source: &Path,
    target: &Path,
    plan: &Plan,
    watch: &dyn Watch,
) -> Result<ApplyReport, AgentError> {
    let (call, _seen) = call_with(&frames(source, plan));
    apply::run(&request(target, &uuid_of(target)), &call, &state_of(target), watch)
}

/// The machine state of a target: next to it.
pub fn state_of(target: &Path) -> StateDir {
    StateDir::new(target.with_extension("state"))
}

/// Brings `target` to what `source` is, and checks that it is.
pub fn mirror(source: &Path, target: &Path) -> ApplyReport {
    let report = apply(source, target, &plan(&walked(source), &walked(target))).unwrap();
    assert_same(source, target);
    assert_eq!(
        uuid_of(target).is_empty() && !report.warnings.is_empty(),
        target.join(".pc-switcher").exists()
    );
    report
}

/// Returns the uuid of the subvolume that holds a directory; empty without btrfs.
pub fn uuid_of(dir: &Path) -> String {
    btrfs::subvolume_uuid(std::fs::File::open(dir).unwrap()).unwrap().unwrap_or_default()
}

pub fn assert_same(source: &Path, target: &Path) {
    let (left, right) = (normal(&walked(source)), normal(&walked(target)));
    for (left, right) in left.iter().zip(&right) {
        assert_eq!(left, right);
    }
    assert_eq!(left.len(), right.len());
    let files = left.iter().filter(|(_, entry, _)| entry.kind == Kind::File);
    let wants: Vec<_> =
        files.zip(0..).map(|((path, ..), content)| ReadWant { content, path: path.clone() }).collect();
    assert_eq!(digests(source, wants.clone()), digests(target, wants));
}

/// Runs a test in pairs of places: plain directories, then btrfs and ext4 where there is root.
pub fn everywhere(test: impl Fn(&Path, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    let pair = |base: &Path| {
        let (source, target) = (base.join("source"), base.join("target"));
        std::fs::create_dir(&source).unwrap();
        std::fs::create_dir(&target).unwrap();
        test(&source, &target);
    };
    pair(dir.path());
    for fs_type in ["btrfs", "ext4"] {
        if let Some(disk) = Disk::make(fs_type, 300 << 20) {
            pair(&disk.root);
        }
    }
}

/// Lists single directories, with the names that are asked for.
pub fn listed(root: &Path, wants: Vec<ListWant>) -> Vec<DirListing> {
    let (call, seen) = call_with(&[wants]);
    let tree = Tree { root: root.into(), prefix: BytePath::default(), rules: RuleSet::default() };
    walk::list(&WalkRequest { tree }, &call).unwrap();
    items::<Listings>(&seen).into_iter().flat_map(|listings| listings.0).collect()
}
