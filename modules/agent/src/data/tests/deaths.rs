//! A machine that dies or refuses after any step, and trees that take every kind of step from old to new.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;

use super::drive::{apply_watched, mirror, state_of, uuid_of, walked};
use super::nasty::set_mtime;
use super::plan::{plan, tree};
use crate::data::apply::{Watch, redo};
use crate::proto::Patience;
use crate::proto::{AgentError, ApplyReport, Kind, Redone};

/// The machine dies, or the system refuses.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Die,
    Once(Errno),
    FromThenOn(Errno),
}

/// Does something wrong after the step with this number.
pub struct At {
    number: usize,
    fault: Fault,
    pub seen: AtomicUsize,
}

/// Where a machine died.
struct Died(&'static str);

impl At {
    pub fn new(number: usize, fault: Fault) -> At {
        At { number, fault, seen: AtomicUsize::new(0) }
    }
}

impl Watch for At {
    fn after(&self, step: &'static str) -> Result<(), Errno> {
        let seen = self.seen.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::Die if seen == self.number => panic_any(Died(step)),
            Fault::Once(error) if seen == self.number => Err(error),
            Fault::FromThenOn(error) if seen >= self.number => Err(error),
            _ => Ok(()),
        }
    }
}

thread_local! {
    /// Whether a panic of this thread is a death that a test wants.
    static DYING: Cell<bool> = const { Cell::new(false) };
}

/// Runs until it ends or dies; returns where it died.
pub fn dying<T>(run: impl FnOnce() -> T) -> Result<T, &'static str> {
    // One hook for all threads: two that exchanged it would leave one behind that says nothing of any test.
    static QUIETLY: Once = Once::new();
    QUIETLY.call_once(|| {
        let loudly = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !DYING.get() {
                loudly(panic);
            }
        }));
    });
    let before = DYING.replace(true);
    let ended = catch_unwind(AssertUnwindSafe(run));
    DYING.set(before);
    ended.map_err(|why| match why.downcast::<Died>() {
        Ok(died) => died.0,
        Err(other) => std::panic::resume_unwind(other),
    })
}

pub fn make_old(root: &Path) {
    let at = |name: &str| root.join(name);
    for dir in ["moved-from", "becomes-file/sub", "gone/deep", "stays"] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    for name in
        ["edited", "removed", "meta", "gone/deep/file", "becomes-dir", "stays/same", "two-a", "a-lone"]
    {
        fs::write(at(name), format!("old {name}")).unwrap();
        set_mtime(&at(name), 1_000_000, 5);
    }
    for n in 0..3 {
        fs::write(at(&format!("moved-from/{n}")), format!("moved {n}")).unwrap();
    }
    fs::write(at("becomes-file/sub/x"), "x").unwrap();
    fs::hard_link(at("two-a"), at("two-b")).unwrap();
    fs::hard_link(at("two-a"), at("two-c")).unwrap();
    symlink("somewhere", at("link")).unwrap();
}

/// Makes the new tree of an old one: every kind of step.
pub fn make_new(root: &Path) {
    make_old(root);
    let at = |name: &str| root.join(name);
    fs::write(at("edited"), "new edited, longer").unwrap();
    fs::remove_file(at("removed")).unwrap();
    fs::set_permissions(at("meta"), PermissionsExt::from_mode(0o600)).unwrap();
    set_mtime(&at("meta"), 1_000_000, 5);
    fs::remove_dir_all(at("gone")).unwrap();
    fs::remove_file(at("becomes-dir")).unwrap();
    fs::create_dir(at("becomes-dir")).unwrap();
    fs::write(at("becomes-dir/inside"), "inside").unwrap();
    fs::remove_dir_all(at("becomes-file")).unwrap();
    fs::write(at("becomes-file"), "file now").unwrap();
    // Of three names of one inode one goes, one becomes another file, one stays.
    fs::remove_file(at("two-a")).unwrap();
    fs::remove_file(at("two-b")).unwrap();
    fs::write(at("two-b"), "on its own").unwrap();
    fs::create_dir_all(at("fresh/tree")).unwrap();
    fs::write(at("fresh/tree/file"), "fresh").unwrap();
    fs::hard_link(at("a-lone"), at("fresh/tree/joined")).unwrap();
    fs::hard_link(at("a-lone"), at("also-lone")).unwrap();
    fs::remove_file(at("link")).unwrap();
    symlink("elsewhere", at("link")).unwrap();
    set_mtime(&at("stays"), 77, 7);
    set_mtime(root, 88, 8);
}

/// Old and new trees, and fresh targets that stand at the old one.
pub struct Stage<'a> {
    base: &'a Path,
    pub old: PathBuf,
    pub new: PathBuf,
}

impl Stage<'_> {
    pub fn make(base: &Path) -> Stage<'_> {
        let (old, new) = (base.join("old"), base.join("new"));
        fs::create_dir(&old).unwrap();
        fs::create_dir(&new).unwrap();
        make_old(&old);
        make_new(&new);
        // The same files have the same times.
        for n in 0..3 {
            for root in [&old, &new] {
                set_mtime(&root.join(format!("moved-from/{n}")), 2_000_000, n);
            }
        }
        Stage { base, old, new }
    }

    /// As [`Stage::make`], with three names of one link, of which one stays and gets another time: those that went get it with it.
    pub fn with_ways(base: &Path) -> Stage<'_> {
        let stage = Stage::make(base);
        for root in [&stage.old, &stage.new] {
            let at = |name: &str| root.join(name);
            symlink("where it led", at("way-a")).unwrap();
            set_mtime(&at("way-a"), 1_000_000, 5);
            fs::hard_link(at("way-a"), at("way-b")).unwrap();
            fs::hard_link(at("way-a"), at("way-c")).unwrap();
        }
        let at = |name: &str| stage.new.join(name);
        fs::remove_file(at("way-a")).unwrap();
        fs::remove_file(at("way-b")).unwrap();
        fs::write(at("way-b"), "a file").unwrap();
        set_mtime(&at("way-c"), 3_000_000, 6);
        set_mtime(&stage.new, 88, 8);
        stage
    }

    /// Returns a target that stands at the old tree.
    pub fn target(&self) -> PathBuf {
        let target = self.base.join("target");
        let _ = fs::remove_dir_all(&target);
        let _ = fs::remove_dir_all(state_of(&target).root());
        fs::create_dir(&target).unwrap();
        mirror(&self.old, &target);
        target
    }

    pub fn push(&self, target: &Path, watch: &dyn Watch) -> Result<ApplyReport, AgentError> {
        apply_watched(&self.new, target, &plan(&walked(&self.new), &walked(target)), watch)
    }

    /// Each path is its old or its new version, and what both have is there.
    pub fn assert_each_old_or_new(&self, target: &Path, when: &str) {
        let (old, new, now) = (faces(&self.old), faces(&self.new), faces(target));
        for (path, face) in &now {
            let known = old.get(path) == Some(face) || new.get(path) == Some(face);
            assert!(known, "{when}: `{}` is {face:?}", path.display());
        }
        for path in old.keys().filter(|path| new.contains_key(*path)) {
            assert!(now.contains_key(path), "{when}: `{}` is missing", path.display());
        }
    }
}

/// What a person sees at each path: content of files and links, nothing more of directories.
pub fn faces(root: &Path) -> BTreeMap<PathBuf, String> {
    let face = |path: &Path, kind: Kind| match kind {
        Kind::Dir => "directory".into(),
        Kind::Symlink => format!("link to {:?}", fs::read_link(path).unwrap()),
        _ => {
            let meta = fs::metadata(path).unwrap();
            format!("{:?} {:o} {}", fs::read(path).unwrap(), meta.mode(), meta.mtime())
        }
    };
    let tree = tree(&walked(root));
    tree.iter()
        .map(|(path, entry)| (path.as_path().to_owned(), face(&root.join(path.as_path()), entry.kind)))
        .collect()
}

pub fn redo_now(target: &Path, watch: &dyn Watch) -> Vec<Redone> {
    let results = redo(&state_of(target), Patience::TryAgainLater, watch).unwrap();
    let tell = |result: &Redone| state_of(target).put(&result.key(), None).unwrap();
    results.iter().for_each(tell);
    results
}

pub fn assert_nothing_left(target: &Path) {
    assert_eq!(state_of(target).list("").unwrap(), [""; 0]);
    if !uuid_of(target).is_empty() {
        assert!(!target.join(".pc-switcher").exists());
    }
}

/// Whether a session that died there was committed.
pub fn is_committed(step: &str) -> bool {
    !["entry", "open", "stage", "journal", "sync", "decide"].contains(&step)
}
