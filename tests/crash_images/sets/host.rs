//! A machine with `@`, `@home` and a subvolume for snapshots. Its state lies on `@`, as it does in life.

use std::cell::Cell;
use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pc_switcher_agent::data::apply::{Unwatched, Watch};
use pc_switcher_agent::linux::rollback;
use pc_switcher_agent::linux::services::{AgentOptions, HistoryKeeper, redo_alone};
use pc_switcher_agent::linux::snapshots::{Needs, delete_sets, list_sets};
use pc_switcher_agent::linux::state::{STATE_PATH, StateDir};
use pc_switcher_agent::proto::{SetsRequest, StoredSet, Strays, TakeSet};
use pc_switcher_contract::{SnapshotKind, UtcStamp};
use pc_switcher_testkit::seed::Random;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind};
use rustix::process::{WaitOptions, wait};

use super::{clock, inside};
use crate::camera::{Camera, Shelf};
use crate::machine::{Layout, Machine, Running};
use crate::pool::Pool;

/// The directory of the state, and where a machine has it.
const STATE_PARENT: &str = "/var/lib";

/// One machine, on or off.
pub struct Host {
    pub machine: Machine,
    /// Where the top level of its disk is looked at.
    top: PathBuf,
    /// A start, and the seconds that have passed in it.
    passed: Cell<(u32, u64)>,
}

/// Nobody asks for the history.
struct NoHistory;

impl HistoryKeeper for NoHistory {
    fn put(&self, _: &Path, _: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn list(&self, _: &Path, _: usize) -> Result<Vec<Vec<u8>>, String> {
        Ok(Vec::new())
    }
}

impl Host {
    pub fn make(pool: &Pool, layout: Layout) -> Host {
        let name = format!("{layout:?}");
        let (machine, top) = (Machine::make_as(pool, layout, &name), pool.machine("top"));
        let host = Host { machine, top, passed: Cell::default() };
        fs::create_dir_all(host.root().join("var/lib")).unwrap();
        host.write(0);
        inside::make(host.root());
        host
    }

    pub fn running(&self) -> &Running {
        self.machine.running()
    }

    pub fn layout(&self) -> Layout {
        self.running().layout
    }

    pub fn root(&self) -> &Path {
        &self.running().root
    }

    pub fn snapshot_dir(&self) -> PathBuf {
        self.root().join("snapshots")
    }

    /// Has everybody save other work, and waits until it is on the disk.
    pub fn write(&self, word: u32) {
        for dir in ["", "home"] {
            let dir = self.root().join(dir);
            fs::write(dir.join("word"), word.to_string()).unwrap();
            fs::write(dir.join(format!("note-{}", word % 5)), vec![word as u8; 9000]).unwrap();
            rustix::fs::syncfs(File::open(dir).unwrap()).unwrap();
        }
    }

    /// Does something as the agent of this machine: what it remembers is where the program looks for it, and it is as late as it is here.
    pub fn agent<T>(&self, work: impl FnOnce(&StateDir) -> T) -> T {
        mount_bind(self.root().join("var/lib"), STATE_PARENT).unwrap();
        let _bound = Bound;
        let start = self.machine.starts();
        clock::set(&format!("{:?}-{start}", self.layout()), self.passed_in(start));
        work(&StateDir::new(STATE_PATH))
    }

    fn passed_in(&self, start: u32) -> u64 {
        let (known, seconds) = self.passed.get();
        if known == start { seconds } else { 0 }
    }

    /// Lets time pass.
    pub fn pass(&self, seconds: u64) {
        let start = self.machine.starts();
        self.passed.set((start, self.passed_in(start) + seconds));
    }

    /// Switches the machine off, and on again with the same disks.
    pub fn restart(&mut self) {
        let images = self.running().images().to_vec();
        self.machine.boot(images);
    }

    /// Finishes a rollback that was cut off, as whoever takes the machine's lock does, and each boot.
    pub fn redo(&self, watch: &dyn Watch) -> Result<(), String> {
        self.agent(|state| rollback::redo(state, watch)).map_err(|error| format!("the redo failed: {error}"))
    }

    /// Sees to a rollback on trial, as each boot does after the redo, and as its watcher does later.
    pub fn attend(&self, watch: &dyn Watch) -> Result<(), String> {
        let seen = self.agent(|state| rollback::at_boot(state, watch));
        // A watcher that is left behind is this program, which does not know the argument and ends: here the watcher is played.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        seen.map(drop).map_err(|error| format!("nobody looks after the trial: {error}"))
    }

    /// Starts the machine anew, with all that a boot does about rollbacks.
    pub fn start_anew(&mut self) -> Result<(), String> {
        self.restart();
        self.recover()?;
        self.attend(&Unwatched)
    }

    /// Returns a request for a set of both subvolumes; each number has names of its own.
    pub fn take(&self, number: u32, kind: SnapshotKind) -> TakeSet {
        TakeSet {
            session: format!("{number:08x}").parse().unwrap(),
            stamp: stamp(number),
            kind,
            snapshot_dir: self.snapshot_dir().as_path().into(),
            subvolumes: self.layout().subvolumes().map(|name| name.parse().unwrap()).to_vec(),
        }
    }

    /// Returns a camera for one piece of work that is decided at the second of two steps.
    pub fn camera(&self, random: &mut Random, name: String, decides: [&'static str; 2]) -> Camera {
        let own = self.snapshot_dir().join(".pc-switcher");
        let paths = ["", "word", "home/word", "home", "snapshots"].map(|path| self.root().join(path));
        let paths = paths.into_iter().chain([own.join("sets"), own.join("tmp"), own]);
        let luck = Random::new(random.below(u64::MAX));
        let mut shelf = Shelf::new(self.running().clone(), luck, Arc::new(paths.collect()), name, 100);
        shelf.decides = decides;
        shelf.note("entry");
        Camera::new(shelf)
    }

    /// Runs what the unit runs at boot, and what whoever takes or removes the next set begins with.
    pub fn recover(&self) -> Result<(), String> {
        let (lock, snapshots) = (self.root().with_extension("lock"), self.snapshot_dir());
        self.agent(|_| {
            let mut options = AgentOptions::new("0", Box::new(NoHistory));
            options.lock_path = lock;
            let done = redo_alone(&options).map_err(|error| format!("the redo failed: {error}"))?;
            done.ok_or("somebody holds the machine's lock")?;
            let nothing = SetsRequest { snapshot_dir: snapshots.as_path().into(), ids: Vec::new() };
            delete_sets(&nothing, || Ok(Needs::default()))
                .map(drop)
                .map_err(|error| format!("the store cannot be used: {error}"))
        })
    }

    pub fn sets(&self) -> Result<(Vec<StoredSet>, Strays), String> {
        let mut sets = Vec::new();
        let strays = list_sets(&self.snapshot_dir(), Ok(Needs::default()), &mut |set| {
            sets.push(set);
            Ok(())
        });
        Ok((sets, strays.map_err(|error| error.to_string())?))
    }

    /// Returns the names at the top level of the disk, and the words in the trees that the next start finds.
    pub fn top(&self) -> (Vec<String>, [u32; 2]) {
        let device = format!("/dev/{}", self.running().devices()[0]);
        let option = CString::new("subvolid=5").unwrap();
        mount(device, &self.top, "btrfs", MountFlags::empty(), Some(&*option)).unwrap();
        let mut names = names_in(&self.top);
        names.sort();
        let words = self.layout().subvolumes().map(|name| word_in(&self.top.join(name)));
        crate::machine::unmount(&self.top);
        (names, words)
    }

    /// Returns the words in the trees that stand beside those in place.
    pub fn beside(&self) -> Vec<u32> {
        let device = format!("/dev/{}", self.running().devices()[0]);
        let option = CString::new("subvolid=5").unwrap();
        mount(device, &self.top, "btrfs", MountFlags::empty(), Some(&*option)).unwrap();
        let names = names_in(&self.top);
        let of = |name: &str| names.iter().find(|one| one.starts_with(&format!("{name}."))).cloned();
        let beside = self.layout().subvolumes().into_iter().filter_map(of);
        let words = beside.map(|name| word_in(&self.top.join(name))).collect();
        crate::machine::unmount(&self.top);
        words
    }

    /// Returns everything that is ours on this machine, to see that nothing changes any more.
    pub fn ours(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let state = self.root().join("var/lib/pc-switcher");
        for dir in [state, self.snapshot_dir().join(".pc-switcher")] {
            gather(&dir, &mut found);
        }
        found.extend(names_in(&self.snapshot_dir()).into_iter().map(|name| (name.into(), Vec::new())));
        found.extend(self.top().0.into_iter().map(|name| (name.into(), Vec::new())));
        found.sort();
        found
    }
}

struct Bound;

impl Drop for Bound {
    fn drop(&mut self) {
        rustix::mount::unmount(STATE_PARENT, UnmountFlags::empty()).unwrap();
    }
}

impl Host {
    /// Returns where each subvolume inside of the trees is: the tree and the path in it; and checks that it is what it was.
    pub fn inside(&self) -> Result<Vec<(String, String)>, String> {
        let device = format!("/dev/{}", self.running().devices()[0]);
        let option = CString::new("subvolid=5").unwrap();
        mount(device, &self.top, "btrfs", MountFlags::empty(), Some(&*option)).unwrap();
        let found = inside::find(&self.top);
        crate::machine::unmount(&self.top);
        found
    }
}

/// Returns the word that a tree has.
pub fn word_in(tree: &Path) -> u32 {
    fs::read_to_string(tree.join("word")).ok().and_then(|word| word.parse().ok()).unwrap_or(u32::MAX)
}

pub fn stamp(number: u32) -> UtcStamp {
    format!("20251115T{:02}{:02}{:02}Z", number / 3600 % 24, number / 60 % 60, number % 60).parse().unwrap()
}

pub fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn gather(dir: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type().unwrap().is_dir() {
            true => {
                found.push((path.clone(), Vec::new()));
                gather(&path, found);
            }
            false => found.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
}
