//! The sweep: every call of a whole sync goes wrong once in every way, each time with two machines of its own.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use pc_switcher::cli::Exit;
use pc_switcher_contract::GateKind;
use pc_switcher_testkit::manifest::TreeManifest;
use pc_switcher_testkit::model::{At, CallKey, Fault, How, Seen};

use crate::run::{Ran, Wish, sync};
use crate::table::{Promise, lines, promise};
use crate::world::{World, picture, staging};

/// A module of each sort runs; the last one is long enough for a second look at the disks. The sets of the sync before go.
pub const CONFIG: &str = "
[sync_modules]
user-data = true
dummy-success = true

[user-data]
folders = [\"/home\"]

[btrfs-snapshots]
subvolumes = [\"@\", \"@home\"]
keep = \"last 1 session\"
keep_min = \"last 1 session\"

[dummy-success]
duration = 40
child = true
";

/// So soon after a fault a sync has ended that it ends.
const LIMIT: Duration = Duration::from_secs(60);

/// A case that takes longer than this stands still.
const PATIENCE: Duration = Duration::from_secs(120);

fn wish() -> Wish {
    Wish { config: CONFIG.into(), ..Wish::default() }
}

/// Runs a future where waits cost nothing.
pub fn in_model_time<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(work)
}

/// Makes two machines that have synced once.
async fn acquainted() -> World {
    let world = World::new();
    let first = sync(&world, Wish { open: vec![GateKind::FirstSync], ..wish() }).await;
    assert_eq!((first.exit, first.wrong), (Exit::Completed, vec![]));
    world
}

/// Returns all that can go wrong in a call.
pub fn faults(seen: &Seen) -> Vec<Fault> {
    // What is no call to an agent has no answer of its own to lose.
    let is_plain =
        ["start", "connect", "activate", "close", "spawn", "terminate-all"].contains(&&*seen.key.call);
    let mut moments = vec![At::Open];
    moments.extend((!is_plain).then_some(At::Answer));
    moments.extend((seen.items > 0).then_some(At::FirstItem));
    // How content is cut into frames is a matter of luck; the first steps and the first content are always there.
    moments.extend((1..=seen.uploads.min(2)).map(At::Upload));
    moments.extend(seen.commits.then_some(At::Commit));
    let ways = |at: At| {
        let deaf = ["close", "terminate-all"].contains(&&*seen.key.call);
        let can_fail = at != At::Answer && !deaf;
        let can_be_cut = !["start", "close"].contains(&&*seen.key.call);
        [(How::Fail, can_fail), (How::Hang, true), (How::Cut, can_be_cut)]
            .into_iter()
            .filter(|(_, can)| *can)
            .map(move |(how, _)| Fault { key: seen.key.clone(), how, at })
    };
    moments.into_iter().flat_map(ways).collect()
}

/// Runs one case; returns what is otherwise than promised.
fn case(faults: &[Fault], promise: &Promise) -> Vec<String> {
    in_model_time(async {
        let world = acquainted().await;
        let old = picture(&world.desk);
        world.work();
        let new = picture(&world.laptop);
        let impatient = promise.needs_ctrl_c;
        let ran = sync(&world, Wish { faults: faults.to_vec(), impatient, ..wish() }).await;
        let mut wrong = judge(&world, &ran, promise, [&old, &new]);
        world.work_on();
        let healed = sync(&world, wish()).await;
        if healed.exit != Exit::Completed || !healed.wrong.is_empty() {
            wrong.push(format!(
                "the next sync: {:?} {:?} {:?}",
                healed.exit,
                healed.wrong,
                healed.complaints()
            ));
        }
        let is_called_dead = healed.complaints().iter().any(|line| line.contains("did not end"));
        if is_called_dead && ran.exit == Exit::Completed {
            wrong.push("the next sync calls a completed one dead".into());
        }
        if !healed.asked.is_empty() {
            wrong.push(format!("the next sync asks {:?}", healed.asked));
        }
        let differences = picture(&world.laptop).diff(&picture(&world.desk));
        wrong.extend(differences.iter().map(|difference| format!("after the next sync: {difference}")));
        if !wrong.is_empty() {
            wrong.extend(ran.complaints().into_iter().map(|line| format!("log: {line}")));
        }
        wrong
    })
}

/// Compares a run with its promise.
fn judge(world: &World, ran: &Ran, promise: &Promise, [old, new]: [&TreeManifest; 2]) -> Vec<String> {
    let mut wrong = ran.wrong.clone();
    let mut check = |what: &str, got: String, wanted: String| {
        if got != wanted {
            wrong.push(format!("{what} is {got}, not {wanted}"));
        }
    };
    let in_time = ran.went_on.map(|went_on| promise.exit == 0 || went_on <= LIMIT);
    check("whether it happened and all was over soon", format!("{in_time:?}"), format!("{:?}", Some(true)));
    check("the ending", ran.state.to_string(), promise.state().to_string());
    check("the exit code", ran.exit.code().to_string(), promise.exit.to_string());
    check("the number of CRITICAL lines", ran.criticals().to_string(), promise.criticals.to_string());
    let kept = world.sets_of(&ran.session);
    let allowed = promise.sets.iter().zip(&kept).map(|(promised, kept)| match promised.strip_suffix('?') {
        Some(set) if set == kept.as_str() || kept.as_str() == "-" => kept.to_string(),
        _ => promised.clone(),
    });
    check("what is kept", kept.join(" "), allowed.collect::<Vec<_>>().join(" "));
    check("what is left of staging", format!("{:?}", staging(&world.desk)), "[]".into());
    let now = picture(&world.desk);
    let version = if now == *old {
        "old"
    } else if now == *new {
        "new"
    } else {
        "mixed"
    };
    let is_fine = version == promise.tree || (promise.tree == "whole" && version != "mixed");
    check("the target's tree", version.into(), if is_fine { version.into() } else { promise.tree.clone() });
    for (path, entry) in now.entries() {
        let path = std::str::from_utf8(path).unwrap();
        let is_whole = [old, new].iter().any(|tree| tree.get(path) == Some(entry));
        check("whether a path is old or new", format!("`{path}` {is_whole}"), format!("`{path}` true"));
    }
    wrong
}

#[test]
fn whatever_call_goes_wrong_the_sync_ends_as_promised_and_the_next_one_completes() {
    let since = Instant::now();
    let seen = in_model_time(async {
        let world = acquainted().await;
        world.work();
        let ran = sync(&world, wish()).await;
        assert_eq!((ran.exit, ran.wrong), (Exit::Completed, vec![]));
        ran.calls
    });
    let all: Vec<Fault> = seen.iter().flat_map(faults).collect();
    let mut wrong = Vec::new();
    let mut needed: BTreeSet<usize> =
        undoing().iter().filter_map(promise).map(|promise| promise.line).collect();
    let mut cases = Vec::new();
    for fault in &all {
        match promise(fault) {
            Some(promise) => {
                needed.insert(promise.line);
                cases.push((fault, promise));
            }
            None => wrong.push(format!("{fault}: the table does not know this class")),
        }
    }
    wrong.extend(
        lines()
            .filter(|(line, _)| !needed.contains(line))
            .map(|(_, words)| format!("no call needs the line `{}`", words.join(" "))),
    );
    let score = sweep(&cases, &mut wrong);
    let calls = seen.len();
    println!(
        "fault sweep: {calls} calls, {score} of {} faults end as promised, {:?}",
        all.len(),
        since.elapsed()
    );
    assert!(wrong.is_empty(), "{} surprises:\n{}", wrong.len(), wrong.join("\n"));
}

/// Returns what can go wrong in the one call that there is only after another fault: the set of one machine goes because
/// the other's failed.
fn undoing() -> [Fault; 3] {
    let key =
        CallKey { phase: "pre-snapshots".into(), machine: "laptop".into(), call: "drop-set".into(), nth: 0 };
    [How::Fail, How::Hang, How::Cut].map(|how| Fault { key: key.clone(), how, at: At::Open })
}

#[test]
fn half_a_set_that_cannot_be_removed_stays_and_the_sync_ends_as_promised() {
    for second in undoing() {
        let key = CallKey { machine: "desk".into(), call: "take-set".into(), ..second.key.clone() };
        let first = Fault { key, how: How::Fail, at: At::Open };
        let promise = promise(&second).unwrap();
        assert_eq!(case(&[first, second], &promise), Vec::<String>::new());
    }
}

/// Runs all cases on a few threads; returns how many went as promised.
fn sweep(cases: &[(&Fault, Promise)], wrong: &mut Vec<String>) -> usize {
    let next = Mutex::new(cases.iter());
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().min(8));
    let mut score = 0;
    std::thread::scope(|scope| {
        let (send, results) = channel();
        for _ in 0..threads {
            let (send, next) = (send.clone(), &next);
            scope.spawn(move || {
                loop {
                    let Some((fault, promise)) = next.lock().unwrap().next() else { return };
                    let fault: &Fault = fault;
                    send.send((fault, None)).unwrap();
                    let ran = catch_unwind(AssertUnwindSafe(|| case(std::slice::from_ref(fault), promise)));
                    send.send((fault, Some(ran.unwrap_or_else(|_| vec!["it panicked".into()])))).unwrap();
                }
            });
        }
        drop(send);
        let mut running: Vec<&Fault> = Vec::new();
        loop {
            match results.recv_timeout(PATIENCE) {
                Ok((fault, None)) => running.push(fault),
                Ok((fault, Some(surprises))) => {
                    running.retain(|other| *other != fault);
                    score += usize::from(surprises.is_empty());
                    wrong.extend(surprises.into_iter().map(|surprise| format!("{fault}: {surprise}")));
                }
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    let stuck: Vec<String> = running.iter().map(ToString::to_string).collect();
                    eprintln!("no end within {PATIENCE:?}: {}", stuck.join("; "));
                    std::process::abort();
                }
            }
        }
    });
    score
}
