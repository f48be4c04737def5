//! A sync is taken back on the machine that it came to, and what the next sync makes of that.

use std::time::Duration;

use pc_switcher_testkit::lab::{Cmd, DiskCache, Lab, Machine};
use pc_switcher_testkit::manifest::assert_same_tree;

use crate::hosts::{
    Ran, SOON, alice, assert_moved, assert_nothing_runs, first_sync, home, lab, picture, root, run, sync,
    wait_for,
};

const MINUTE: Duration = Duration::from_secs(60);

fn cmd(words: &[&str]) -> Cmd {
    Cmd::new("pc-switcher").arg("undo").args(words.iter().copied()).as_alice().timeout(MINUTE)
}

#[track_caller]
fn undo(machine: &Machine, words: &[&str]) -> Ran {
    run(machine, &cmd(words))
}

/// Brings both machines to the same state.
fn good_day(lab: &Lab) {
    let laptop = lab.laptop();
    alice(laptop, "echo good >letter; echo keep >kept; mkdir -p album/2024; echo p >album/2024/1.jpg");
    first_sync(lab);
}

/// Makes a sync that changes, makes and removes something on the desk; returns its session.
fn bad_day(laptop: &Machine) -> String {
    alice(laptop, "sleep 1.1; echo bad >letter; chmod 600 kept; rm -r album; mkdir fresh; echo f >fresh/f");
    let ran = sync(laptop, "desk", &[]).ends_with(0);
    ran.stdout.split_once("(session ").unwrap().1[..8].to_owned()
}

#[test]
fn a_sync_is_taken_back_where_nobody_came_after_it_and_the_next_sync_asks_in_either_direction() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    good_day(&lab);
    let before = home(desk);
    let session = bad_day(laptop);
    let after = picture(desk);
    undo(desk, &["--dry-run"]).ends_with(0).says(&["would take back", "/home/alice/album/2024/1.jpg"]);
    let now = picture(desk);
    assert!(after.1 == now.1, "a dry run takes no snapshot");
    after.0.iter().zip(&now.0).for_each(|(before, now)| assert_same_tree(before, now));

    undo(desk, &[&session]).ends_with(0).says(&["taken back", "restored /home/alice/album", "-prerollback"]);
    assert_same_tree(&before, &home(desk));
    undo(desk, &[]).ends_with(0).says(&["there is nothing to undo"]);

    sync(laptop, "desk", &[]).ends_with(7).says(&["/home/alice/letter", "--allow-conflicts"]);
    sync(desk, "laptop", &[]).ends_with(7).says(&["/home/alice/letter", "--allow-conflicts"]);
    assert_eq!(alice(laptop, "cat letter fresh/f"), "bad\nf\n", "nothing of the laptop's is lost unasked");
    assert_eq!(alice(desk, "cat letter album/2024/1.jpg"), "good\np\n", "and nothing comes back unasked");
    sync(desk, "laptop", &["--allow-conflicts"]).ends_with(0);
    assert_moved(desk, laptop);
    assert_eq!(alice(laptop, "cat letter"), "good\n");
    assert_nothing_runs(&[laptop, desk], SOON);
}

#[test]
fn what_was_changed_after_the_sync_stays_and_an_undo_may_be_asked_for_from_the_source() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    good_day(&lab);
    bad_day(laptop);
    alice(desk, "echo mine >letter; echo mine >fresh/mine");
    undo(laptop, &[]).ends_with(2).says(&["no sync changed anything on laptop", "--machine TARGET"]);
    undo(laptop, &["--machine", "desk", "00000000"]).ends_with(2).says(&["there is no session `00000000`"]);
    let said = undo(laptop, &["--machine", "desk"]).ends_with(0);
    said.says(&["desk:", "/home/alice/letter: it was changed after the sync", "/home/alice/fresh: it holds"]);
    assert_eq!(alice(desk, "cat letter fresh/mine album/2024/1.jpg; ls fresh"), "mine\nmine\np\nmine\n");
    assert_eq!(alice(desk, "stat -c %a kept"), "644\n");
    undo(laptop, &["--machine", "desk"]).ends_with(7).says(&["but what was changed since"]);
    sync(laptop, "desk", &["--allow-conflicts"]).ends_with(0);
    assert_moved(laptop, desk);
}

#[test]
fn a_power_cut_in_an_undo_leaves_each_file_old_or_new_and_the_boot_finishes_it() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "mkdir many && cd many && for n in $(seq 6000); do echo first >$n; done");
    first_sync(&lab);
    let before = home(desk);
    alice(laptop, "cd many && for n in $(seq 6000); do echo second-$n >$n; done");
    sync(laptop, "desk", &[]).ends_with(0);
    desk.sync_disk().unwrap();
    let running = laptop.spawn(&cmd(&["--machine", "desk"])).unwrap();
    // The first file that is back: the commit has begun.
    wait_for("first file", MINUTE, || {
        let look = "grep -lm1 first /home/alice/many/1 /home/alice/many/10 /home/alice/many/100";
        desk.exec(&Cmd::script(look)).unwrap().text().contains("many")
    });
    desk.power_cut(DiskCache::Volatile).unwrap();
    assert_ne!(running.wait().unwrap().code(), Some(0));
    desk.boot().unwrap();
    let odd = "cd /home/alice/many; for n in $(seq 6000); do case $(cat $n) in first|second-$n) ;; *) echo $n;; esac; done";
    assert_eq!(root(desk, odd), "", "each file is old or new");
    root(desk, "pc-switcher agent --redo 2>&1 || true");
    undo(laptop, &["--machine", "desk"]).ends_with(0);
    assert_same_tree(&before, &home(desk));
    sync(laptop, "desk", &[]).ends_with(7).says(&["/home/alice/many/1"]);
}
