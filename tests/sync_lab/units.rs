//! What runs on by itself on machines with systemd: the watcher of a sync or a rollback that nobody confirms, and the schedule of sets.

use std::time::Duration;

use pc_switcher_testkit::lab::{Cmd, Machine};
use pc_switcher_testkit::manifest::assert_same_tree;
use rustix::process::Signal;

use crate::automatic::{auto, sets};
use crate::deadman::{SHUT_OUT, STATE, assert_goes_on, is_shut, settings, status, unconfirmed};
use crate::hosts::{
    BY_THEN, SOON, alice, assert_nothing_runs, configure, first_sync, home, kill, ours, root, run, sync,
    wait_for,
};
use crate::inside::WITH_SERVICES;
use crate::rollback::{beside, phase, restart, rollback};

const MINUTE: Duration = Duration::from_secs(60);

/// The watchers that systemd runs on a machine, a line each.
fn watchers(machine: &Machine) -> String {
    root(machine, "systemctl list-units --all --plain --no-legend 'pc-switcher-deadman-*'")
}

/// Units of ours that failed.
fn failed(machine: &Machine) -> String {
    root(machine, "systemctl list-units --failed --plain --no-legend 'pc-switcher*'")
}

#[test]
fn a_unit_of_systemd_takes_a_sync_back_when_every_login_and_both_programs_are_gone() {
    let Some(lab) = WITH_SERVICES.take() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    let (before, running) = unconfirmed(&lab, 6);
    let units = watchers(desk);
    assert!(units.lines().count() == 1 && units.contains(".service loaded active running"), "{units}");
    running.signal(Signal::KILL).unwrap();
    kill(laptop, "ssh -");
    // All that any login of alice's has started, the agent of the sync included, as a logout with `KillUserProcesses=yes` does.
    root(desk, "systemctl kill --signal=KILL user-1000.slice");
    let is_watcher = |command: &String| command.contains("pc-switcher agent --deadman ");
    wait_for("end of all but the watcher", BY_THEN, || ours(desk).iter().all(is_watcher));
    assert!(is_shut(desk), "there is time left");
    assert_eq!(watchers(desk), units, "it is out of reach of the login that it was started by");
    assert_nothing_runs(&[laptop], SOON);

    wait_for("healed desk", MINUTE, || !is_shut(desk));
    assert_nothing_runs(&[desk], BY_THEN);
    wait_for("end of the unit", BY_THEN, || watchers(desk).is_empty());
    assert_eq!(failed(desk), "");
    assert_same_tree(&before, &home(desk));
    assert!(status(desk).contains("since nobody confirmed it within 6 s"), "{}", status(desk));
    // The next one is told, and shuts out as well.
    settings(laptop, "deadman_limit = 5");
    sync(laptop, "desk", &[]).ends_with(8).says(&["from laptop was taken back at", SHUT_OUT]);
    assert_same_tree(&before, &home(desk));
    assert_goes_on(&lab);
    assert!(alice(laptop, "pc-switcher history").contains("rolled back"), "the laptop has learned it");
    assert_eq!((watchers(desk), desk.exists(STATE).unwrap()), (String::new(), false));
}

#[test]
fn with_systemd_a_rollback_that_nobody_confirms_after_the_restart_goes_back_and_nobody_types_anything() {
    let Some(lab) = WITH_SERVICES.take() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    run(desk, &Cmd::new("pc-switcher").args(["snapshots", "good"]).as_alice()).ends_with(0);
    configure(desk, "[rollback]\nrestart_limit = 8\n");
    let motd = || root(desk, "cat /etc/motd 2>/dev/null || true");
    root(desk, "echo two >/etc/motd");
    rollback(desk, &["good", "--subvol", "@"]).ends_with(0).says(&["confirm it within 8 s of that restart"]);
    restart(desk);
    assert_ne!(motd(), "two\n");
    wait_for("the watcher, or its end", MINUTE, || !watchers(desk).is_empty() || phase(desk) == "cancelled");
    wait_for("way back", MINUTE, || phase(desk) == "cancelled");
    assert_nothing_runs(&[desk], SOON);
    let by_itself = ["was taken back by this machine itself", "nobody confirmed it within 8 s"];
    rollback(desk, &["status"]).ends_with(0).says(&by_itself);
    assert_ne!(motd(), "two\n", "what runs works on in the trees of the rollback");
    restart(desk);
    assert_eq!(motd(), "two\n");
    wait_for("end of the boot", MINUTE, || root(desk, "systemctl list-jobs --no-legend").is_empty());
    assert_eq!((failed(desk), watchers(desk)), (String::new(), String::new()));
    sync(laptop, "desk", &["--allow-first-sync"]).ends_with(0).says(&by_itself);
    rollback(desk, &["confirm"]).ends_with(0).says(&["what the rollback had put in place is removed"]);
    assert_eq!(beside(desk), "");
    assert_nothing_runs(&[laptop, desk], SOON);
}

/// How many sets were taken by the clock.
fn by_the_clock(machine: &Machine) -> usize {
    sets(machine).iter().filter(|(kind, _)| kind == "scheduled").count()
}

#[test]
fn the_timer_takes_sets_by_the_clock_and_does_so_again_after_a_restart() {
    let Some(lab) = WITH_SERVICES.take() else { return };
    let laptop = lab.laptop();
    // To the second: a timer is a minute late at most otherwise, so that machines do not all wake at once.
    root(
        laptop,
        "dir=/etc/systemd/system/pc-switcher-snapshot.timer.d; mkdir $dir; \
         printf '[Timer]\\nAccuracySec=10ms\\n' >$dir/exactly.conf",
    );
    configure(
        laptop,
        "[btrfs-snapshots]\nkeep = \"last 9 sessions\"\n[snapshots]\nschedule = \"*:*:0/4\"\nauto_update = false\nauto_boot = false\n",
    );
    auto(laptop, &["on"]).ends_with(0).says(&["pc-switcher-snapshot.timer", "pc-switcher-snapshot.service"]);
    auto(laptop, &[]).ends_with(0).says(&["By the clock *:*:0/4, next "]);
    alice(laptop, "echo new >notes/by-the-clock");
    wait_for("set by the clock", MINUTE, || by_the_clock(laptop) > 0);
    let unit = |name: &str, property: &str| {
        root(laptop, &format!("systemctl show --value -p {property} pc-switcher-snapshot.{name}"))
            .trim()
            .to_owned()
    };
    assert_eq!(unit("service", "Result"), "success");
    assert!(root(laptop, "ls /.snapshots").contains("@home-scheduled-"));

    restart(laptop);
    assert_eq!(unit("timer", "ActiveState"), "active", "the start has started it");
    let before = by_the_clock(laptop);
    assert!(before > 0);
    alice(laptop, "echo newer >notes/by-the-clock");
    wait_for("one more set by the clock", MINUTE, || by_the_clock(laptop) > before);
    assert_eq!((unit("service", "Result").as_str(), failed(laptop).as_str()), ("success", ""));

    auto(laptop, &["off"]).ends_with(0).says(&["removed `/etc/systemd/system/pc-switcher-snapshot.timer`"]);
    assert_eq!(unit("timer", "ActiveState"), "inactive");
    assert_nothing_runs(&[laptop], BY_THEN);
}
