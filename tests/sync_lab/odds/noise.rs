//! Much that happens at once: what matters is found among it, and nothing of it is in the way.

use std::{collections::BTreeMap, path::Path};

use pc_switcher_testkit::{
    lab::Cmd,
    manifest::{ManifestOptions, assert_same_tree},
    seed::Random,
};

use super::{lab, rewrite, rounds};
use crate::hosts::{BY_THEN, alice, assert_moved, configure, first_sync, home, root, sync, wait_for};

const CONFLICTS: usize = 50;

#[test]
fn exactly_the_conflicts_are_named_among_noise_and_nothing_is_written() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    configure(laptop, "log_cli_level = \"FULL\"\n");
    alice(laptop, "mkdir work; mkdir -p .cache/thumbs");
    alice(laptop, &rewrite("first"));
    first_sync(&lab);
    let mut random = Random::new(6);
    let mut chosen = BTreeMap::new();
    while chosen.len() < CONFLICTS {
        let path = format!("work/d{:02}/f{:02}", random.below(10), random.below(100));
        chosen.insert(path, (random.below(3), random.below(5)));
    }
    // Beside them: much that only the laptop changed, and caches that change all the time, on the desk too.
    alice(laptop, "cd work; for f in d1[1-5]/f*; do echo noise >$f; done");
    let noise = "mkdir -p .cache/thumbs; for ((n = 0; ; n++)); do echo $n >.cache/thumbs/$((n % 500)); done";
    let noise = [laptop, desk].map(|machine| machine.spawn(&Cmd::script(noise).as_alice()).unwrap());
    for (path, (ours, theirs)) in &chosen {
        alice(
            laptop,
            &match ours {
                0 => format!("rm {path}"),
                1 => format!("echo laptop >{path}"),
                _ => format!("echo laptop >>{path}; chmod 600 {path}"),
            },
        );
        alice(
            desk,
            &match theirs {
                0 => format!("echo desk >.new; mv .new {path}"),
                1 => format!("echo desk >>{path}"),
                2 => format!("chmod 640 {path}; echo more >>{path}"),
                3 => format!("ln -sf ../../links {path}"),
                _ => format!("rm {path}; mkdir {path}"),
            },
        );
    }
    let left = home(desk);
    let ran = sync(laptop, "desk", &[]).ends_with(7);
    ran.says(&["50 paths changed on desk since the last sync"]);
    let ran = sync(laptop, "desk", &[]).ends_with(7);
    let named = ran.text.lines().filter_map(|line| line.split_once("conflict: /home/alice/"));
    let mut named: Vec<&str> = named.filter_map(|(_, rest)| rest.split_whitespace().next()).collect();
    named.sort_unstable();
    assert_eq!(named, chosen.keys().map(String::as_str).collect::<Vec<_>>());
    assert_same_tree(&left, &home(desk));
    drop(noise);
}

#[test]
fn files_that_come_and_go_during_a_sync_are_as_they_were_at_its_beginning() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    configure(laptop, "[user-data]\nmass_deletion_count = 100000\nmass_deletion_share = 1.0\n");
    alice(laptop, "mkdir churn; for n in {1..20000}; do echo $n >churn/$n; done");
    first_sync(&lab);
    let churn = laptop.spawn(&Cmd::script(CHURN).as_alice()).unwrap();
    for round in rounds(2) {
        let said = churn.stdout().len();
        wait_for("churn", BY_THEN, || churn.stdout().len() > said + 1);
        let ran = sync(laptop, "desk", &["--no-progress"]).ends_with(0);
        let (_, rest) = ran.stdout.split_once("(session ").unwrap();
        let set = root(laptop, &format!("echo -n /.snapshots/@home-presync-*-{}/alice/churn", &rest[..8]));
        let sent = laptop.manifest(Path::new(&set), &ManifestOptions::new()).unwrap();
        let arrived = desk.manifest("/home/alice/churn", &ManifestOptions::new()).unwrap();
        assert_same_tree(&sent, &arrived);
        println!("round {round}: {} files, as in `{set}`", arrived.len());
        assert!(churn.try_wait().unwrap().is_none(), "{:?}", String::from_utf8_lossy(&churn.stderr()));
    }
}

/// Makes, removes, renames and rewrites up to 20 000 files, and says so after each pass.
const CHURN: &str = "cd churn; shopt -s nullglob
    for ((pass = 0; ; pass++)); do
        rm -f *$((pass % 10)); echo .
        for n in {1..20000..7}; do echo $pass >$n; done; echo .
        for n in *3; do mv $n moved-$((pass % 5))-${n##*-}; done 2>/dev/null; echo .
        mkdir -p dir-$((pass % 3)); for n in {1..999..3}; do echo $pass >dir-$((pass % 3))/$n; done; echo .
        rm -rf dir-$(((pass + 1) % 3)); for n in {1..20000..11}; do echo $pass >$n; done; echo .
    done";

#[test]
fn a_login_shell_that_talks_and_floods_is_in_nobodys_way() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    // For every shell, those of `ssh desk COMMAND` too; a megabyte of it on standard error.
    let talk = "echo 'good morning'; printf 'no newline'; echo 'a complaint' >&2; head -c 1000000 /dev/zero | tr '\\0' e >&2";
    for machine in [laptop, desk] {
        machine.write_file("/home/alice/.bashrc", talk.as_bytes(), 0o644, "alice").unwrap();
        alice(machine, "touch -d 2024-05-06T07:08:09Z .bashrc");
    }
    let heard = alice(laptop, "ssh desk true 2>&1 | wc -c");
    assert!(heard.trim().parse::<u64>().unwrap() > 1_000_000, "the shell is silent: {heard}");
    first_sync(&lab);
    assert_moved(laptop, desk);
    alice(laptop, "echo new >notes/new");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
    sync(desk, "laptop", &[]).ends_with(0);
}
