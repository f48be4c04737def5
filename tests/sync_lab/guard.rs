//! A command that may break the machine, and the way back when it does.

use pc_switcher_testkit::lab::{Cmd, Machine};

use crate::hosts::{Ran, SOON, assert_nothing_runs, configure, lab, root, run};
use crate::rollback::restart;

fn guard(machine: &Machine, words: &[&str]) -> Ran {
    run(machine, &Cmd::new("pc-switcher").arg("guard").args(words.iter().copied()).as_alice())
}

fn sets(machine: &Machine) -> String {
    run(machine, &Cmd::new("pc-switcher").args(["snapshots", "list"]).as_alice()).ends_with(0).stdout
}

#[test]
fn what_works_afterwards_is_marked_as_good_and_what_broke_sshd_is_taken_back() {
    let Some(lab) = lab() else { return };
    let laptop = lab.laptop();
    configure(laptop, "[btrfs-snapshots]\nkeep = \"last 3 sessions\"\n");
    guard(laptop, &["--", "sh", "-c", "echo fine"])
        .ends_with(0)
        .says(&["fine", "is the last known good one"]);
    assert!(sets(laptop).contains("auto-update"), "{}", sets(laptop));

    let break_it = ["--", "sudo", "sh", "-c", "echo Nonsense yes >>/etc/ssh/sshd_config"];
    guard(laptop, &break_it).ends_with(1).says(&[
        "laptop: broken: sshd's configuration",
        "Nonsense",
        "nothing is taken back; `pc-switcher rollback ",
        "-autoupdate --subvol @` does",
    ]);
    root(laptop, "sed -i /Nonsense/d /etc/ssh/sshd_config");
    guard(laptop, &["--yes", "--", "sudo", "sh", "-c", "echo Nonsense yes >>/etc/ssh/sshd_config; exit 3"])
        .ends_with(8)
        .says(&["the command ended with 3", "sshd's configuration", "`@` went back", "start laptop anew"]);
    restart(laptop);
    assert_eq!(root(laptop, "grep -c Nonsense /etc/ssh/sshd_config || true"), "0\n");
    run(laptop, &Cmd::new("pc-switcher").args(["rollback", "confirm"]).as_alice()).ends_with(0);
    assert_nothing_runs(&[laptop], SOON);
}

#[test]
fn own_checks_count_if_only_root_can_write_them_and_without_a_set_nothing_is_run() {
    let Some(lab) = lab() else { return };
    let laptop = lab.laptop();
    root(
        laptop,
        "mkdir -p /etc/pc-switcher/health/required.d /etc/pc-switcher/health/wanted.d; \
         printf '#!/bin/sh\\n[ ! -e /etc/broken ] || { echo it is broken; exit 1; }\\n' \
         | tee /etc/pc-switcher/health/required.d/mine >/etc/pc-switcher/health/wanted.d/mine; \
         chmod 755 /etc/pc-switcher/health/*.d/mine",
    );
    guard(laptop, &["--", "sudo", "touch", "/etc/broken"])
        .ends_with(1)
        .says(&["broken: required.d/mine: it is broken", "worse than before: wanted.d/mine: it is broken"]);
    // It was broken before, so it is nobody's fault now.
    guard(laptop, &["--", "true"]).ends_with(0);
    root(laptop, "rm /etc/broken; chmod 777 /etc/pc-switcher/health/required.d/mine");
    guard(laptop, &["--", "true"]).ends_with(0).says(&["red already", "must be root's"]);
    // A guard that dies before it has judged: its parent is killed by the command itself.
    let dead = guard(laptop, &["--", "sh", "-c", "kill -9 $PPID"]);
    assert_ne!(dead.code, Some(0), "{}", dead.text);
    let status =
        || run(laptop, &Cmd::new("pc-switcher").args(["rollback", "status"]).as_alice()).ends_with(0);
    status().says(&["`guard` was cut off", "kill -9", "--subvol @"]);
    run(laptop, &Cmd::new("pc-switcher").arg("status").as_alice()).says(&["`guard` was cut off"]);
    run(laptop, &Cmd::new("pc-switcher").args(["rollback", "confirm"]).as_alice())
        .ends_with(0)
        .says(&["what `sh -c kill -9 $PPID` did stays"]);
    assert!(!status().text.contains("was cut off"));
    guard(laptop, &["--subvol", "@nix", "--", "touch", "/home/alice/ran"])
        .ends_with(2)
        .says(&["no set holds `@nix`"]);
    assert_eq!(root(laptop, "ls /home/alice/ran 2>/dev/null || true"), "");
    guard(laptop, &["--", "/no/such/program"]).ends_with(1).says(&["cannot run `/no/such/program`"]);
    guard(laptop, &[]).ends_with(2);
}
