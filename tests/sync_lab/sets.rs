//! What is kept of many syncs: the sets that the rules name, on both machines, and the next sync compares only what changed.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use pc_switcher_testkit::lab::{Cmd, Machine};
use serde_json::Value;

use crate::hosts::{
    BY_THEN, Ran, SOON, alice, assert_moved, assert_nothing_runs, configure, dawdle, first_sync, kill, lab,
    line, root, run, snapshots, sync, wait_for,
};

fn store(machine: &Machine, words: &[&str]) -> Ran {
    run(machine, &Cmd::new("pc-switcher").arg("snapshots").args(words.iter().copied()).as_alice())
}

fn listed(machine: &Machine, words: &[&str]) -> Value {
    let ran = store(machine, &[&["list", "--json"], words].concat()).ends_with(0);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.text))
}

/// Returns the sessions of which both sets are there, oldest first.
fn sessions(machine: &Machine) -> Vec<String> {
    whole_sets(machine);
    let list = listed(machine, &[]);
    let sets = list["sets"].as_array().unwrap();
    let mut all = Vec::new();
    for set in sets {
        let session = set["session"].as_str().unwrap().to_owned();
        let of_it = sets.iter().filter(|other| other["session"] == session.as_str()).count();
        assert_eq!(of_it, 2, "{list:#}");
        if !all.contains(&session) {
            all.push(session);
        }
    }
    assert_eq!(snapshots(machine).len(), 2 * 3 * all.len(), "members of sets and nothing else");
    all
}

/// Counts the sets that are listed, and checks that each is whole and that nothing is left that no record names.
fn whole_sets(machine: &Machine) -> usize {
    let list = listed(machine, &[]);
    let sets = list["sets"].as_array().unwrap();
    let members = sets.iter().flat_map(|set| set["members"].as_array().unwrap());
    assert!(
        members.clone().count() == 3 * sets.len() && members.clone().all(|member| member["missing"] == false)
    );
    assert!(is_empty(&list["orphans"]) && is_empty(&list["damaged"]), "{list:#}");
    sets.len()
}

fn is_empty(list: &Value) -> bool {
    list.as_array().is_some_and(Vec::is_empty)
}

fn is_locked(machine: &Machine) -> bool {
    let try_it = "[ -e /run/pc-switcher/lock ] && ! flock --nonblock /run/pc-switcher/lock true";
    machine.exec(&Cmd::script(try_it)).unwrap().status.success()
}

/// Runs a sync of something new and returns its session.
fn move_on(laptop: &Machine, n: usize) -> (String, Ran) {
    alice(laptop, &format!("echo {n} >>diary"));
    let ran = sync(laptop, "desk", &["--log-level", "FULL"]).ends_with(0);
    let (_, rest) = ran.stdout.split_once("(session ").unwrap();
    (rest[..8].to_owned(), ran)
}

#[test]
fn after_six_syncs_the_sets_that_the_rules_name_are_there_and_the_next_sync_compares_what_changed() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    configure(laptop, "[btrfs-snapshots]\nkeep = \"last 3 sessions\"\n");
    let first = first_sync(&lab);
    let (_, rest) = first.stdout.split_once("(session ").unwrap();
    let mut taken = vec![rest[..8].to_owned()];
    store(laptop, &["pin", &taken[0]]).ends_with(0);
    store(laptop, &["pin", &taken[0], "--machine", "desk"]).ends_with(0);
    for n in 1..6 {
        taken.push(move_on(laptop, n).0);
    }
    let wanted = [&taken[..1], &taken[3..]].concat();
    for machine in [laptop, desk] {
        assert_eq!(sessions(machine), wanted, "{}", machine.hostname());
    }
    let list = listed(laptop, &["--machine", "desk", "--session", &taken[5]]);
    assert_eq!(list["machine"], "desk");
    let needed: Vec<bool> =
        list["sets"].as_array().unwrap().iter().map(|set| !is_empty(&set["needed"])).collect();
    assert_eq!(needed, [false, true], "the next sync starts from the desk's post set");
    store(laptop, &["delete", &taken[5]]).ends_with(7).says(&["the next sync with desk starts from it"]);
    store(laptop, &["delete", &taken[0]]).ends_with(7).says(&["it is pinned", "snapshots unpin"]);
    store(laptop, &["prune", "--dry-run", "--explain"]).ends_with(0).says(&[
        "pinned",
        "kept by `last 3 sessions`",
        "0 of 8 sets",
    ]);

    store(laptop, &["unpin", &taken[0]]).ends_with(0);
    store(laptop, &["prune"]).ends_with(0).says(&["laptop: 2 of 8 sets removed"]);
    store(laptop, &["delete", &taken[3]]).ends_with(0);
    assert_eq!(sessions(laptop), taken[4..]);
    let (_, ran) = move_on(laptop, 7);
    assert!(!ran.text.contains("is compared:"), "{}", ran.text);
    assert_moved(laptop, desk);
    assert_nothing_runs(&[laptop, desk], SOON);
}

#[test]
fn a_kill_at_any_moment_of_pruning_leaves_whole_sets_only() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    configure(laptop, "[btrfs-snapshots]\nkeep = \"all 1d\"\nkeep_good = 0\n");
    first_sync(&lab);
    for n in 1..5 {
        move_on(laptop, n);
    }
    configure(
        laptop,
        "[btrfs-snapshots]\nkeep = \"last 1 session\"\nkeep_min = \"last 1 session\"\nkeep_good = 0\n",
    );
    let mut seen = BTreeSet::new();
    for delay in [0, 10, 20, 30, 40, 60] {
        let pruning = Cmd::new("pc-switcher").args(["snapshots", "prune"]).as_alice();
        let pruning = laptop.spawn(&pruning).unwrap();
        wait_for("agent", BY_THEN, || is_locked(laptop) || pruning.try_wait().unwrap().is_some());
        thread::sleep(Duration::from_millis(delay));
        kill(laptop, "pc-switcher agent");
        pruning.wait().unwrap();
        seen.insert(whole_sets(laptop));
    }
    println!("whole sets after each kill: {seen:?}");
    store(laptop, &["prune"]).ends_with(0);
    assert_eq!(whole_sets(laptop), 2);
    // The next who takes a set removes the halves.
    let (session, ran) = move_on(laptop, 9);
    assert!(!ran.text.contains("is compared:"), "{}", ran.text);
    assert_eq!((sessions(laptop), sessions(desk)), (vec![session.clone()], vec![session]));
    assert_moved(laptop, desk);
}

/// Returns what is available on a machine, in MiB.
fn available(machine: &Machine) -> u64 {
    let ran = run(machine, &Cmd::new("pc-switcher").args(["space", "--json"]).as_alice()).ends_with(0);
    let said: Value = serde_json::from_str(&ran.stdout).unwrap();
    said["file_systems"][0]["available_bytes"].as_u64().unwrap() >> 20
}

#[test]
fn a_sync_that_space_is_too_short_for_removes_what_the_rules_can_spare_and_what_holds_the_most_first() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    // The first sync is confirmed; what it left would stay as a good state.
    configure(laptop, "[btrfs-snapshots]\nkeep_min = \"last 1 session\"\nkeep_good = 0\n");
    first_sync(&lab);
    let (light, _) = move_on(laptop, 1);
    root(desk, "fallocate -l 3G /var/big");
    let (heavy, _) = move_on(laptop, 2);
    root(desk, "rm /var/big");
    let (newest, _) = move_on(laptop, 3);
    let wanted = available(desk) + 2048;

    let config = format!(
        "[btrfs-snapshots]\nkeep_min = \"last 1 session\"\nkeep_good = 0\n[disk]\nmin_free = \"{wanted}MiB\"\n"
    );
    configure(laptop, &config);
    let dry = sync(laptop, "desk", &["--dry-run"]).ends_with(6);
    dry.says(&["too little disk space to start", "desk"]);
    assert!(sessions(desk).contains(&heavy), "a dry run removes nothing");
    let (made, ran) = move_on(laptop, 4);
    ran.says(&["2 old sets of snapshots removed to make room", "desk"]);
    let left = sessions(desk);
    assert!(!left.contains(&heavy) && left.contains(&light), "{left:?}");
    assert!(left.contains(&newest) && left.contains(&made), "{left:?}");
    assert!(sessions(laptop).contains(&heavy), "there was enough on the laptop");

    let free = ["prune", "--machine", "desk", "--free", "99.99%"];
    let before = sessions(desk);
    let dry = store(laptop, &[free.as_slice(), &["--dry-run"]].concat()).ends_with(6);
    dry.says(&[&light, "2 sets: `keep` keeps it, `keep_min` can spare it", "would be available"]);
    assert_eq!(sessions(desk), before, "a preview removes nothing");
    store(laptop, &free).ends_with(6).says(&[
        &format!("session {light}: 2 sets removed, "),
        "which is not enough",
        "no set is left that the rules could spare",
    ]);
    assert_eq!(sessions(desk), [made]);
}

#[test]
fn a_running_sync_that_comes_below_the_red_line_makes_room_and_goes_on() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    root(desk, "fallocate -l 3G /var/big");
    configure(laptop, "[btrfs-snapshots]\nkeep_good = 0\n");
    first_sync(&lab);
    root(desk, "rm /var/big");
    let (newest, _) = move_on(laptop, 1);
    let reserve = available(desk) - 1024;
    let disk = format!(
        "[disk]\nmin_free = \"{reserve}MiB\"\nreserve_minimum = \"{reserve}MiB\"\ncheck_interval = 1\n"
    );
    dawdle(laptop, 6, &format!("[btrfs-snapshots]\nkeep_min = \"last 1 session\"\n{disk}"));
    let running = laptop.spawn(&line("desk", &["--log-level", "FULL"])).unwrap();
    running.expect("stage: module:dummy-success", SOON).unwrap();
    root(desk, "fallocate -l 2G /var/fill");
    let output = running.wait().unwrap();
    let said = format!("{}{}", output.error_text(), output.text());
    assert_eq!(output.code(), Some(0), "{said}");
    let flat = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("2 old sets of snapshots removed to make room"), "{said}");
    let left = sessions(desk);
    assert!(left.len() == 2 && left[0] == newest, "{left:?}");
    configure(laptop, "");
    assert_eq!(sessions(laptop).len(), 3, "there was enough on the laptop");
    let space = run(desk, &Cmd::new("pc-switcher").arg("space").as_alice()).ends_with(0);
    space.says(&["Full in"]);
    assert_nothing_runs(&[laptop, desk], SOON);
}
