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
use pc_switcher_vault::engine::{CheckSummary, Part, Quiet, RestoreSummary};
use pc_switcher_vault::error::Result;
use pc_switcher_vault::format::Id;
use pc_switcher_vault::format::keyfile::Cost;
use pc_switcher_vault::format::lock::Origin;
use pc_switcher_vault::repo::{Held, Repository, Who};
use pc_switcher_vault::service::{
    Above, AddReport, Ask, BackupReport, OpenStore, Places, Prepared, RestoreOrder, RestoreReport, Service,
    SnapshotOrder, Surroundings, Which,
};
use pc_switcher_vault::store::{FsStore, Stop, Store, Thaw};

pub const PASSWORD: &str = "correct horse";

/// One test's directory: a source that is tracked, a repository that is a vault, and what a machine keeps of it.
pub struct Given {
    dir: PathBuf,
    repo: PathBuf,
    who: Who,
    _owned: Option<tempfile::TempDir>,
}

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
        let owned = tempfile::tempdir().unwrap();
        let given = Self::at(&owned.path().canonicalize().unwrap());
        let given = Self { _owned: Some(owned), ..given };
        fs::create_dir(given.source()).unwrap();
        Some(given)
    }

    /// Takes the directory of another process.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), repo: dir.join("repo"), who: who(), _owned: None }
    }

    /// Makes a directory of another machine with the same repository.
    pub fn beside(&self, hostname: &str) -> Self {
        let dir = self.path(hostname);
        fs::create_dir_all(dir.join("source")).unwrap();
        let origin = Origin { machine_id: hostname.into(), ..who().origin };
        let who = Who { hostname: hostname.into(), origin, ..who() };
        Self { dir, repo: self.repo.clone(), who, _owned: None }
    }

    /// Takes another repository.
    pub fn beside_repo(&self, name: &str) -> Self {
        Self { repo: self.path(name), _owned: None, ..Self::at(&self.dir) }
    }

    /// Returns the repository.
    pub fn repo(&self) -> &Path {
        &self.repo
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn source(&self) -> PathBuf {
        self.path("source")
    }

    /// Returns where the source lies in what was restored to `target`.
    pub fn below(&self, target: &Path) -> PathBuf {
        target.join(self.source().strip_prefix("/").unwrap())
    }

    /// Returns a call of restic.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("restic");
        command.arg("--repo").arg(&self.repo).arg("--cache-dir").arg(self.path("cache")).args(args);
        command.env("RESTIC_PASSWORD", PASSWORD);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
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

    fn around(&self, store: Arc<dyn Store>) -> Surroundings {
        let stores: OpenStore = Arc::new(move |_| Ok(store.clone()));
        Surroundings {
            places: Places::new(self.path("state/bt.toml"), self.path("state")),
            above: Above::default(),
            clock: Arc::new(Timestamp::now),
            who: self.who.clone(),
            cost: Cost::TINY,
            stores,
            stop: Stop::default(),
        }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(FsStore::at(&self.repo))
    }

    /// Returns what `bt` runs, over another store.
    pub fn service_over(&self, store: Arc<dyn Store>) -> Service {
        Service::open(self.around(store)).unwrap()
    }

    /// Returns what `bt` runs.
    pub fn service(&self) -> Service {
        self.service_over(self.store())
    }

    /// Makes a vault of ours, or one of the repository that restic made, and tracks the source.
    pub fn set_up(&self) -> Prepared {
        Service::init(&self.around(self.store()), Some(&self.repo), "local").unwrap();
        let mut service = self.service();
        let how = service.prepare_vaults(None, &mut word).unwrap().remove(0).1;
        service.track(&self.source()).unwrap();
        how
    }

    pub fn add(&self) -> AddReport {
        self.service().add(&self.source(), true, &Quiet::default()).unwrap()
    }

    /// Does what `bt add` and `bt backup` do.
    pub fn back_up(&self) -> BackupReport {
        let added = self.add();
        assert!(added.troubles.is_empty(), "{:?}", added.troubles);
        let report = self.service().backup(None, &mut word, &Quiet::default()).unwrap();
        assert!(report.is_clean() && report.warnings.is_empty(), "{report:?}");
        report
    }

    /// Restores the newest snapshot, whoever wrote it.
    pub fn restore(&self, target: &Path) -> RestoreSummary {
        let mut service = self.service();
        let newest = service.snapshots(None, &mut word).unwrap().0.pop().unwrap().1;
        let order = SnapshotOrder {
            snapshot: newest.hex(),
            only: None,
            paths: Vec::new(),
            to: target.to_owned(),
            content_only: false,
            thaw: Thaw::default(),
        };
        service.restore_snapshot(&order, &mut word, &Quiet::default()).unwrap().summary
    }

    /// Restores the versions of the source that the catalogue knows.
    pub fn restore_versions(&self, target: &Path) -> RestoreReport {
        let order = RestoreOrder {
            path: self.source(),
            which: Which::Current,
            to: Some(target.to_owned()),
            in_place: false,
            content_only: false,
            short_name: false,
            thaw: Thaw::default(),
        };
        self.service().restore(&order, &mut word, &Quiet::default()).unwrap()
    }

    pub fn check(&self) -> CheckSummary {
        let checked = self.service().check(None, Some(Part::ALL), &mut word, &Quiet::default());
        checked.unwrap().remove(0).summary
    }

    pub fn lock(&self) -> Result<Held> {
        let clock: Clock = Arc::new(Timestamp::now);
        Repository::open(self.store(), PASSWORD.as_bytes()).unwrap().lock(&self.who, &clock)
    }
}

/// Says the passphrase.
pub fn word(_: Ask) -> Result<Vec<u8>> {
    Ok(PASSWORD.into())
}

pub fn who() -> Who {
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let [machine_id, boot_id, pid_namespace] = ["machine", "boot", "processes"].map(str::to_owned);
    let origin = Origin { machine_id, boot_id, pid_namespace };
    let (pid, booted_at) = (std::process::id(), None);
    Who { hostname, username: "alice".into(), uid: 0, gid: 0, pid, origin, booted_at }
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
    for path in ["large", "dir"] {
        rustix::fs::setxattr(
            source.join(path),
            "system.posix_acl_access",
            &acl(),
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
    }
    let old = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
    let times = rustix::fs::Timestamps { last_access: old, last_modification: old };
    for path in ["plain", "link", "dir/inner"] {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, source.join(path), &times, flags).unwrap();
    }
}

/// Returns an ACL, as the kernel takes it: version 2; the owner, the user 1234, the group, the mask, all others.
fn acl() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] = [(1, 7, !0), (2, 6, 1234), (4, 5, !0), (0x10, 7, !0), (0x20, 0, !0)];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        acl.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    acl
}

/// Fails unless both trees hold the same: kinds, content, rights, owners, times, attributes, hard links.
pub fn same(one: &Path, other: &Path) {
    equal(&describe(one), &describe(other));
}

/// As [`same`], but for the directories themselves: that which is restored to was there before.
pub fn same_below(one: &Path, other: &Path) {
    let [one, other] = [one, other].map(|root| {
        let mut all = describe(root);
        all.remove(Path::new(""));
        all
    });
    equal(&one, &other);
}

fn equal(one: &BTreeMap<PathBuf, String>, other: &BTreeMap<PathBuf, String>) {
    for (path, facts) in one {
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
