//! A machine that does not start, from a live USB stick: what docs/way-back.md says is done on the disk of a machine that is off, and
//! then it starts.

use pc_switcher_testkit::lab::{Cmd, DiskCache, Machine};
use pc_switcher_testkit::manifest::assert_same_tree;

use crate::deadman::settings;
use crate::hosts::{SOON, alice, assert_moved, assert_nothing_runs, first_sync, home, root, run, sync};
use crate::rollback::{beside, phase, restart, rollback, session_of};

/// The commands of one part of the page, in their order: each block of them ends with the next line that is none.
fn commands(part: &str) -> Vec<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/way-back.md")).unwrap();
    let (_, rest) = page.split_once(&format!("### {part}\n")).unwrap();
    let text = rest.split("\n##").next().unwrap();
    let mut blocks = vec![String::new()];
    for line in text.lines() {
        match line.strip_prefix("    ") {
            Some(command) => blocks.last_mut().unwrap().push_str(&format!("{command}\n")),
            None if blocks.last().unwrap().is_empty() => {}
            None => blocks.push(String::new()),
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// Does on the disk of a machine that is off what the page says, and returns what that prints.
fn on_the_stick(machine: &Machine, commands: &str) -> String {
    assert!(!commands.contains("sudo") && commands.contains("/mnt"), "{commands}");
    let script = commands.replace("/mnt", "\"$TOP\"");
    machine.look_while_off(&format!("TOP=$PWD\n{script}")).unwrap()
}

fn off(machine: &Machine) {
    machine.sync_disk().unwrap();
    machine.power_cut(DiskCache::Volatile).unwrap();
}

/// Starts it; returns what the units of the boot say where there is systemd.
fn start(machine: &Machine) -> String {
    machine.boot().unwrap();
    root(
        machine,
        "! [ -x /usr/local/bin/pc-switcher ] || { pc-switcher agent --redo-rollback; pc-switcher agent --redo; } 2>&1",
    )
}

#[test]
fn without_a_rollback_a_set_is_put_in_place_from_a_live_system_and_the_next_sync_works() {
    let Some(lab) = crate::hosts::lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    // Each set after a sync is from before the moment in which that is confirmed.
    settings(laptop, "deadman = \"always\"\ndeadman_limit = 3600");
    let first = session_of(&first_sync(&lab));
    alice(laptop, "echo second >letter");
    sync(laptop, "desk", &[]).ends_with(0);
    let good = home(desk);
    alice(desk, "echo bad >letter; rm -r names");
    root(desk, "rm /etc/profile; echo broken >/etc/motd");
    off(desk);

    let [look, system, homes] = &commands("From a set")[..] else { panic!("three blocks of commands") };
    let (look, rest) = look.split_once("grep ").unwrap();
    assert!(rest.starts_with("'\"note\"' */meta.json"), "{rest}");
    let listed = on_the_stick(desk, look);
    let set = listed.lines().find_map(|line| line.strip_suffix("-postsync/good")).unwrap();
    assert!(
        listed.contains(&format!("{set}-postsync/toc")) && listed.contains(&format!("@home-postsync-{set}"))
    );
    let named = |block: &String, set: &str| block.replace("postsync-20251115T120000Z-abc12345", set);
    let member = format!("postsync-{set}");
    on_the_stick(desk, &named(system, &member));
    on_the_stick(desk, &named(homes, &member));
    assert_eq!(start(desk), "", "no sync is taken back, and nothing is to be brought to its end");

    assert!(!root(desk, "[ -e /etc/profile ]; cat /etc/motd").contains("broken"));
    assert_same_tree(&good, &home(desk));
    rollback(desk, &["status"]).ends_with(0).says(&["desk: there is no rollback"]);
    let listed = run(desk, &Cmd::new("pc-switcher").args(["snapshots", "list"]).as_alice()).ends_with(0);
    assert!(listed.stdout.contains(&first) && listed.stdout.contains("good"), "{}", listed.stdout);
    run(desk, &Cmd::new("pc-switcher").args(["snapshots", "verify"]).as_alice()).ends_with(0);
    // From a home that is another subvolume than it was nothing goes out unasked; what comes in has a common past.
    sync(desk, "laptop", &[]).ends_with(7).says(&["is another subvolume than at the last sync"]);
    alice(laptop, "echo third >letter");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);

    // A home of before the last sync: all that is older now counts as changed there.
    off(desk);
    on_the_stick(desk, "cd /mnt; btrfs subvolume delete @.broken @home.broken; cd /");
    let older = on_the_stick(desk, "ls /mnt/@snapshots");
    let older =
        older.lines().find(|name| name.starts_with("@home-postsync-") && name.ends_with(&first)).unwrap();
    on_the_stick(desk, &named(homes, older.trim_start_matches("@home-")));
    assert_eq!(start(desk), "");
    sync(laptop, "desk", &[]).ends_with(7).says(&["--allow-conflicts", "letter"]);
    sync(laptop, "desk", &["--allow-conflicts"]).ends_with(0);
    assert_moved(laptop, desk);
    assert_nothing_runs(&[laptop, desk], SOON);
}

#[test]
fn after_a_rollback_the_trees_from_before_are_moved_back_from_a_live_system_and_nothing_waits_for_anybody() {
    let Some(lab) = crate::hosts::lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    run(desk, &Cmd::new("pc-switcher").args(["snapshots", "good"]).as_alice()).ends_with(0);
    root(desk, "echo now >/etc/motd");
    alice(desk, "echo now >own");
    let before = home(desk);
    rollback(desk, &["good"]).ends_with(0).says(&["confirm it within 10 min of that restart"]);
    restart(desk);
    let said = root(desk, "pc-switcher agent --redo 2>&1").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("10 min are left"), "{said}");
    let session = beside(desk).lines().next().unwrap().rsplit('-').next().unwrap().to_owned();
    alice(desk, "echo meanwhile >meanwhile");
    off(desk);

    let [moves] = &commands("After a rollback")[..] else { panic!("one block of commands") };
    on_the_stick(desk, &moves.replace("SESSION", &session));
    assert_eq!(start(desk), "");
    assert_eq!(root(desk, "cat /etc/motd"), "now\n");
    assert_same_tree(&before, &home(desk));
    let named =
        [format!("rollback {session} of `@`, `@home` was taken back"), format!("….cancelled-{session}")];
    let named = named.each_ref().map(String::as_str);
    let status = rollback(desk, &["status"]).ends_with(0).says(&named);
    assert!(!status.text.contains("left to confirm it"), "{}", status.text);
    assert_eq!(phase(desk), "cancelled");
    rollback(desk, &["cancel"]).ends_with(0).says(&["is taken back", "no restart is needed"]);
    run(desk, &Cmd::new("pc-switcher").args(["snapshots", "list"]).as_alice()).ends_with(0);
    // The common past is there again as well: what came since is all that is asked about.
    sync(laptop, "desk", &[]).ends_with(7).says(&["conflicts: 1 path changed", "/home/alice/own"]);
    sync(laptop, "desk", &["--allow-conflicts"]).ends_with(0);
    assert_moved(laptop, desk);
    rollback(desk, &["confirm"]).ends_with(0).says(&["what the rollback had put in place is removed"]);
    assert_eq!((beside(desk), phase(desk)), (String::new(), "none".to_owned()));
    assert_eq!(root(desk, "cat /.snapshots/@home-prerollback-*/alice/meanwhile"), "meanwhile\n");
    assert_nothing_runs(&[laptop, desk], SOON);
}
