//! A source, a repository and restic beside each other.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use jiff::Timestamp;
use pc_switcher_contract::Clock;
use pc_switcher_vault::engine::{
    BackupSummary, CheckSummary, Names, Quiet, Reading, RestoreSummary, Restorer, TreeBackup, check,
};
use pc_switcher_vault::error::Result;
use pc_switcher_vault::format::keyfile::Cost;
use pc_switcher_vault::format::lock::Origin;
use pc_switcher_vault::format::{Id, Snapshot};
use pc_switcher_vault::repo::{Held, Repository, Who};
use pc_switcher_vault::store::{FsStore, Kind};

pub const PASSWORD: &str = "correct horse";

/// One test's directory.
pub struct Given(tempfile::TempDir);

impl Given {
    /// Makes a directory; `None` if restic is missing.
    pub fn new() -> Option<Self> {
        let found =
            Command::new("restic").arg("version").output().is_ok_and(|output| output.status.success());
        if !found {
            assert!(
                std::env::var_os("LAB_REQUIRED").is_none(),
                "restic is missing; tests/packages installs it"
            );
            eprintln!("skipped: restic is missing; tests/packages installs it");
            return None;
        }
        let given = Self(tempfile::tempdir().unwrap());
        fs::create_dir(given.source()).unwrap();
        Some(given)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn source(&self) -> PathBuf {
        self.path("source")
    }

    /// Returns where the source lies in what was restored to `target`.
    pub fn below(&self, target: &Path) -> PathBuf {
        target.join(self.source().strip_prefix("/").unwrap())
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new("restic")
            .args([
                "--repo",
                self.path("repo").to_str().unwrap(),
                "--cache-dir",
                self.path("cache").to_str().unwrap(),
            ])
            .args(args)
            .env("RESTIC_PASSWORD", PASSWORD)
            .output()
            .unwrap()
    }

    /// Runs restic and returns what it printed.
    pub fn restic(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "restic {args:?}: {out}\n{err}");
        out.into_owned()
    }

    /// Runs restic, which must fail, and returns why.
    pub fn restic_fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub fn init_ours(&self) {
        let store = Arc::new(FsStore::create(&self.path("repo")).unwrap());
        Repository::init(store, PASSWORD.as_bytes(), Cost::TINY, &who(), Timestamp::now()).unwrap();
    }

    pub fn open(&self) -> Repository {
        // Our own directory is missing where restic made the repository.
        let store = FsStore::create(&self.path("repo")).unwrap();
        Repository::open(Arc::new(store), PASSWORD.as_bytes()).unwrap()
    }

    /// Backs the source up with our engine.
    pub fn back_up(&self, parent: Option<Id>) -> BackupSummary {
        let repo = self.open();
        let (names, roots) = (Names::of_this_machine(), [self.source()]);
        let backup =
            TreeBackup { repo: &repo, roots: &roots, parent, names: &names, observer: &Quiet::default() };
        let summary = backup.run().unwrap();
        let snapshot = Snapshot {
            time: Timestamp::now().to_string(),
            parent: None,
            tree: summary.tree,
            paths: vec![self.source().display().to_string()],
            hostname: who().hostname,
            username: who().username,
            uid: 0,
            gid: 0,
            tags: vec![],
            original: None,
            program_version: String::new(),
        };
        repo.save(Kind::Snapshot, &snapshot).unwrap();
        summary
    }

    /// Restores the newest snapshot with our engine.
    pub fn restore(&self, target: &Path) -> RestoreSummary {
        let repo = self.open();
        let (_, newest) = repo.snapshots().unwrap().pop().unwrap();
        let restorer = Restorer { repo: &repo, content_only: false, observer: &Quiet::default() };
        restorer.tree(newest.tree, target).unwrap()
    }

    pub fn check(&self) -> CheckSummary {
        check(&self.open(), &Reading::All, &Quiet::default()).unwrap()
    }

    pub fn lock(&self) -> Result<Held> {
        let clock: Clock = Arc::new(Timestamp::now);
        self.open().lock(&who(), &clock)
    }
}

pub fn who() -> Who {
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let [machine_id, boot_id, pid_namespace] = ["machine", "boot", "processes"].map(str::to_owned);
    let origin = Origin { machine_id, boot_id, pid_namespace };
    Who { hostname, username: "alice".into(), uid: 0, gid: 0, pid: std::process::id(), origin }
}

/// Returns bytes that do not compress.
pub fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Fills a directory with one of everything; devices only as root.
pub fn everything(source: &Path) {
    let put = |name: &str, bytes: &[u8]| fs::write(source.join(name), bytes).unwrap();
    put("plain", b"hello\n");
    put("empty", b"");
    put("large", &noise(9 << 20, 1));
    put("_%\"\\ a\nb", b"awkward");
    fs::write(source.join(OsStr::from_bytes(b"raw\xff\xfe")), "no utf-8").unwrap();
    fs::create_dir_all(source.join("dir/inner")).unwrap();
    put("dir/inner/deep", &vec![0; 3 << 20]);
    put("suid", b"#!/bin/sh\n");
    fs::set_permissions(source.join("suid"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(source.join("dir/inner"), fs::Permissions::from_mode(0o1770)).unwrap();
    symlink("plain", source.join("link")).unwrap();
    symlink("nowhere/at/all", source.join("dangling")).unwrap();
    fs::hard_link(source.join("plain"), source.join("dir/second name")).unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    sparse.set_len(20 << 20).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, source.join("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    if rustix::process::geteuid().is_root() {
        let device = rustix::fs::makedev(1, 3);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, source.join("null"), kind, 0o666.into(), device).unwrap();
        std::os::unix::fs::chown(source.join("dir"), Some(1234), Some(4321)).unwrap();
    }
    for (path, value) in [("plain", b"a\0\xffb".as_slice()), ("dir", b"of a directory")] {
        rustix::fs::setxattr(source.join(path), "user.note", value, rustix::fs::XattrFlags::empty()).unwrap();
    }
    let old = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
    let times = rustix::fs::Timestamps { last_access: old, last_modification: old };
    for path in ["plain", "link", "dir/inner"] {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, source.join(path), &times, flags).unwrap();
    }
}

/// Fails unless both trees hold the same: kinds, content, rights, owners, times, attributes, hard links.
pub fn same(one: &Path, other: &Path) {
    let (one, other) = (describe(one), describe(other));
    for (path, facts) in &one {
        assert_eq!(Some(facts), other.get(path), "{}", path.display());
    }
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    assert!(one.len() > 10);
}

fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let (mut all, mut todo) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(path) = todo.pop() {
        let facts = fs::symlink_metadata(&path).unwrap();
        let content = match facts.file_type() {
            kind if kind.is_dir() => {
                todo.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
                String::new()
            }
            kind if kind.is_file() => format!("{} {}", Id::of(&fs::read(&path).unwrap()), facts.nlink()),
            kind if kind.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
            _ => facts.rdev().to_string(),
        };
        let times = (facts.mtime(), facts.mtime_nsec());
        let xattrs = pc_switcher_vault::engine::xattrs(&path).unwrap();
        let text =
            format!("{:o} {}:{} {times:?} {content} {xattrs:?}", facts.mode(), facts.uid(), facts.gid());
        all.insert(path.strip_prefix(root).unwrap().to_owned(), text);
    }
    all
}
