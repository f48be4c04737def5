//! A backup, a forgetting and a prune that are killed before or after a call that writes to the store, with restic as the judge.
//!
//! Each kind of call once; `RESTIC_CRASH=all`, which `tests/full restic-crash` sets, takes every call.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use pc_switcher_vault::engine::Quiet;
use pc_switcher_vault::error::Result;
use pc_switcher_vault::service::{PruneOrder, Service};
use pc_switcher_vault::store::{FsStore, Kind, Store};

use super::given::{Given, noise, word};

/// Where the one that is killed finds its directory, and which call it dies of.
const DIR: &str = "PC_SWITCHER_RESTIC_CRASH_DIR";
const ORDER: &str = "PC_SWITCHER_RESTIC_CRASH";

/// A call of the store that writes: what it does, and to what.
type Call = (&'static str, Kind);

/// Which call a program dies of. How many packs a backup writes is not the same each time, so calls are counted by their kind.
#[derive(Debug, Clone)]
struct Death {
    /// As [`Call`] is printed.
    call: String,
    /// How many calls of that kind come before it.
    nth: usize,
    is_done: bool,
}

/// A store that counts the calls that write, and is the last one of its program at one of them.
struct Counting {
    inner: FsStore,
    last: Option<Death>,
    calls: Mutex<Vec<Call>>,
    packed: AtomicU64,
}

impl Counting {
    fn new(given: &Given, last: Option<Death>) -> Arc<Self> {
        let inner = FsStore::at(&given.path("repo"));
        Arc::new(Self { inner, last, calls: Mutex::default(), packed: AtomicU64::new(0) })
    }

    fn write<T>(&self, what: &'static str, kind: Kind, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let nth = {
            let mut calls = self.calls.lock().unwrap();
            let nth = calls.iter().filter(|call| **call == (what, kind)).count();
            calls.push((what, kind));
            nth
        };
        let die = |is_done| {
            let is_it = |death: &&Death| death.nth == nth && death.call == format!("{what} {kind:?}");
            if self.last.as_ref().filter(is_it).is_some_and(|death| death.is_done == is_done) {
                let own = rustix::process::getpid();
                rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
            }
        };
        die(false);
        let done = run();
        die(true);
        done
    }
}

impl Store for Counting {
    fn put(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<bool> {
        self.write("put", kind, || {
            if kind == Kind::Pack {
                self.packed.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            }
            self.inner.put(kind, name, bytes)
        })
    }

    fn get(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        self.inner.get(kind, name)
    }

    fn get_range(&self, kind: Kind, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.inner.get_range(kind, name, offset, length)
    }

    fn list(&self, kind: Kind) -> Result<Vec<(String, u64)>> {
        self.inner.list(kind)
    }

    fn delete(&self, kind: Kind, name: &str) -> Result<()> {
        self.write("delete", kind, || self.inner.delete(kind, name))
    }

    fn place(&self) -> String {
        self.inner.place()
    }
}

fn work(service: &mut Service, what: &str) {
    let order = |at_once| {
        let keep = Some("last 1 session".parse().unwrap());
        PruneOrder { keep, at_once, ..PruneOrder::default() }
    };
    match what {
        "backup" => service.backup(None, &mut word, &Quiet::default()).map(drop),
        "forget" => service.prune(&order(false), &mut word, &Quiet::default()).map(drop),
        _ => service.prune(&order(true), &mut word, &Quiet::default()).map(drop),
    }
    .unwrap();
}

/// Not a test: what the others start, to be killed. Without the variables it has nothing to do.
#[test]
fn be_killed() {
    let (Some(dir), Ok(order)) = (std::env::var_os(DIR), std::env::var(ORDER)) else { return };
    let words: Vec<&str> = order.split(' ').collect();
    let [work_of, what, kind, nth, when] = words[..] else { panic!("{order}") };
    let given = Given::at(Path::new(&dir));
    let death = Death { call: format!("{what} {kind}"), nth: nth.parse().unwrap(), is_done: when == "after" };
    work(&mut given.service_over(Counting::new(&given, Some(death))), work_of);
}

/// Puts the machine and the vault back to what they were. Files of a vault are never written to, so links will do.
fn put_back(given: &Given) {
    for (name, how) in [("repo", "-al"), ("state", "-a")] {
        std::fs::remove_dir_all(given.path(name)).ok();
        let (from, to) = (given.path("before").join(name), given.path(name));
        assert!(Command::new("cp").arg(how).args([from, to]).status().unwrap().success());
    }
}

fn keep(given: &Given) {
    let before = given.path("before");
    std::fs::create_dir(&before).unwrap();
    for name in ["repo", "state"] {
        std::fs::rename(given.path(name), before.join(name)).unwrap();
    }
    put_back(given);
}

fn packs(given: &Given) -> BTreeMap<String, u64> {
    FsStore::at(&given.path("repo")).list(Kind::Pack).unwrap().into_iter().collect()
}

/// Kills a run before and after calls, each time from the same beginning, and has restic judge what is left, and what the
/// next run makes of it.
fn survives(given: &Given, what: &str) {
    keep(given);
    let before = packs(given);
    let whole = Counting::new(given, None);
    work(&mut given.service_over(whole.clone()), what);
    let calls = whole.calls.lock().unwrap().clone();
    let most = whole.packed.load(Ordering::SeqCst) * 105 / 100;
    let is_full = std::env::var("RESTIC_CRASH").is_ok_and(|which| which == "all");
    let (mut kinds, mut killed) = (BTreeMap::<Call, usize>::new(), 0);
    for call in &calls {
        let (doing, kind) = call;
        let count = kinds.entry(*call).or_default();
        let nth = *count;
        *count += 1;
        if nth > 0 && !is_full {
            continue;
        }
        for when in ["before", "after"] {
            let told = format!("{what}, killed {when} {doing} {kind:?} {nth}");
            put_back(given);
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["crash::be_killed", "--exact", "--quiet"])
                .env(DIR, given.path(""))
                .env(ORDER, format!("{what} {doing} {kind:?} {nth} {when}"))
                .status()
                .unwrap();
            if nth > 0 && status.success() {
                eprintln!("{told}: this run had no such call");
                continue;
            }
            assert_eq!(status.signal(), Some(9), "{told}: {status}");
            // The lock of a program that died is no damage.
            given.restic(&["unlock"]);
            given.restic(&["check"]);
            let stored: u64 = packs(given)
                .iter()
                .filter(|(name, _)| !before.contains_key(*name))
                .map(|(_, size)| size)
                .sum();
            let again = Counting::new(given, None);
            work(&mut given.service_over(again.clone()), what);
            let packed = again.packed.load(Ordering::SeqCst);
            assert!(stored + packed <= most, "{told}: {stored} and {packed} are more than {most}");
            given.restic(&["check"]);
            assert!(given.check().problems.is_empty(), "{told}");
            killed += 1;
        }
    }
    eprintln!("{what}: killed {killed} times in {} calls that write", calls.len());
    assert!(killed >= 12, "{killed}");
    // What the last one left is what all leave: nothing is lost, nothing is too much.
    let checked = given.restic(&["check", "--read-data"]);
    assert!(!checked.contains("contained in several"), "{checked}");
    let target = given.path("restored");
    given.restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    for entry in given.source().read_dir().unwrap().map(|entry| entry.unwrap()) {
        let back = given.below(&target).join(entry.file_name());
        assert!(std::fs::read(entry.path()).unwrap() == std::fs::read(back).unwrap(), "{entry:?}");
    }
}

/// Returns a machine with three backups that each fill several packs.
fn with_three_backups() -> Option<Given> {
    let given = Given::new()?;
    given.set_up();
    for round in 0..3 {
        write(&given, round);
        given.back_up();
    }
    Some(given)
}

/// Writes some of the files anew.
fn write(given: &Given, round: u64) {
    for name in round * 3..round * 3 + 9 {
        let content = noise(2 << 20, 100 * round + name + 1);
        std::fs::write(given.source().join(name.to_string()), content).unwrap();
    }
}

#[test]
fn restic_is_content_with_what_a_backup_leaves_wherever_it_is_killed() {
    let Some(given) = with_three_backups() else { return };
    write(&given, 3);
    for name in 20..30 {
        std::fs::write(given.source().join(name.to_string()), noise(2 << 20, name)).unwrap();
    }
    given.add();
    survives(&given, "backup");
}

#[test]
fn restic_is_content_with_what_a_forgetting_leaves_wherever_it_is_killed() {
    let Some(given) = with_three_backups() else { return };
    survives(&given, "forget");
}

#[test]
fn restic_is_content_with_what_a_prune_leaves_wherever_it_is_killed() {
    let Some(given) = with_three_backups() else { return };
    survives(&given, "prune");
}
