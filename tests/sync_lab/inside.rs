//! Subvolumes inside of those that go back, on a desk with services that use them.

use std::time::Duration;

use pc_switcher_testkit::lab::{Cmd, Init, Machine, SharedLab};

use crate::hosts::{
    SOON, alice, assert_nothing_runs, first_sync, install, lab, options, root, run, wait_for,
};
use crate::rollback::{beside, restart, rollback};

/// Machines with systemd.
pub static WITH_SERVICES: SharedLab =
    SharedLab::new(|| options("inside-systemd").init(Init::Systemd), |lab| install(lab.laptop()));

const MINUTE: Duration = Duration::from_secs(60);

/// A service that keeps its data in a subvolume inside of `@`, says what it finds there when it starts, and writes on and on. What it
/// writes where nothing can be written is missed.
const UNIT: &str = "\
[Service]
ExecStart=/bin/sh -c 'cd /var/lib/db && echo start $$(stat -c %%i .) >>log && while :; do echo more >>log; sleep 0.1; done'

[Install]
WantedBy=multi-user.target
";

/// The inodes that the service found when it started: that of a subvolume is 256.
fn starts(desk: &Machine) -> Vec<String> {
    let said = root(desk, "grep start /var/lib/db/log || true");
    said.lines().map(|line| line.trim_start_matches("start ").to_owned()).collect()
}

/// Ends the one service of every machine with systemd that keeps each home and each tree from going back at once: it sees none of the
/// ones, and the others read-only.
fn without_logind(desk: &Machine) {
    root(desk, "systemctl mask -q --runtime systemd-logind; systemctl stop systemd-logind");
}

/// Whether the service goes on writing to what stands at its place.
#[track_caller]
fn assert_it_writes(desk: &Machine) {
    let size = || root(desk, "stat -c %s /var/lib/db/log").trim().parse::<u64>().unwrap();
    let before = size();
    wait_for("the service writes", MINUTE, || size() > before);
}

fn is_subvolume(desk: &Machine, path: &str) -> bool {
    root(desk, &format!("stat -c %i {path} 2>/dev/null || true")).trim() == "256"
}

#[test]
fn what_a_service_has_in_a_subvolume_inside_comes_along_before_it_starts_and_back_with_a_cancel() {
    let Some(lab) = WITH_SERVICES.take() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    root(desk, "btrfs -q subvolume create /var/lib/db");
    desk.write_file("/etc/systemd/system/db.service", UNIT.as_bytes(), 0o644, "root").unwrap();
    root(desk, "systemctl daemon-reload; systemctl enable -q --now db.service");
    wait_for("the service", MINUTE, || starts(desk) == ["256"]);
    run(desk, &Cmd::new("pc-switcher").args(["snapshots", "good"]).as_alice()).ends_with(0);
    // What came since: one in a directory of its own, a read-only one, and one of alice's.
    root(desk, "echo broken >/etc/motd; mkdir -p -m 750 /srv/new; btrfs -q subvolume create /srv/new/box");
    root(desk, "btrfs -q subvolume snapshot -r /var/lib/db /var/lib/kept");
    alice(desk, "btrfs -q subvolume create guest; echo mine >guest/file");

    let planned = rollback(desk, &["good", "--plan"]).ends_with(0).says(&[
        "subvolumes inside of them come along as they are",
        "`/var/lib/db` comes along and does not go back",
        "`/home/alice/guest` comes along and does not go back",
    ]);
    assert!(!planned.stdout.contains("the boot does not start"), "{}", planned.stdout);
    rollback(desk, &["good"]).ends_with(0).says(&["come along when desk is started anew"]);
    root(desk, "echo between >/var/lib/db/between");
    assert_it_writes(desk);

    let all = ["/var/lib/db", "/var/lib/kept", "/srv/new/box", "/home/alice/guest"];
    restart(desk);
    wait_for("the service again", MINUTE, || starts(desk) == ["256", "256"]);
    assert_ne!(root(desk, "cat /etc/motd 2>/dev/null || true"), "broken\n");
    assert_eq!(root(desk, "cat /var/lib/db/between; stat -c %a /srv/new"), "between\n750\n");
    assert!(all.iter().all(|path| is_subvolume(desk, path)));
    assert!(root(desk, "btrfs property get -ts /var/lib/kept ro").contains("true"));
    assert_it_writes(desk);
    let status = rollback(desk, &["status"]).ends_with(0);
    assert!(!status.stdout.contains("not in place"), "{}", status.stdout);

    root(desk, "echo since >/var/lib/db/since");
    rollback(desk, &["cancel"]).ends_with(0).says(&["come along when desk is started anew"]);
    assert_it_writes(desk);
    restart(desk);
    wait_for("the service once more", MINUTE, || starts(desk) == ["256", "256", "256"]);
    assert_eq!(root(desk, "cat /etc/motd /var/lib/db/since /home/alice/guest/file"), "broken\nsince\nmine\n");
    assert!(all.iter().all(|path| is_subvolume(desk, path)));
    rollback(desk, &["confirm"]).ends_with(0).says(&["what the rollback had put in place is removed"]);
    assert_eq!(beside(desk), "");
    assert!(all.iter().all(|path| is_subvolume(desk, path)));
    root(desk, "systemctl stop db.service");
    assert_nothing_runs(&[laptop, desk], SOON);
}

#[test]
fn services_that_hear_of_mounts_find_what_went_back_at_once_and_one_that_does_not_keeps_it_from_that() {
    let Some(lab) = WITH_SERVICES.take() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "echo good >letter");
    first_sync(&lab);
    run(desk, &Cmd::new("pc-switcher").args(["snapshots", "good"]).as_alice()).ends_with(0);
    let unit = |name: &str, words: &str| {
        let text =
            format!("[Unit]\nRequiresMountsFor=/home\n[Service]\n{words}\nExecStart=/bin/sleep 3600\n");
        let path = format!("/etc/systemd/system/{name}.service");
        desk.write_file(&path, text.as_bytes(), 0o644, "root").unwrap();
        root(desk, &format!("systemctl daemon-reload; systemctl start {name}"));
    };
    let pid = |name: &str| root(desk, &format!("systemctl show -P MainPID {name}")).trim().to_owned();
    unit("hears", "PrivateTmp=yes");
    unit("sees-none", "ProtectHome=yes");
    let pids = [pid("hears"), pid("sees-none")];
    alice(desk, "echo bad >letter");
    let to = ["good", "--subvol", "@home", "--machine", "desk"];
    let seen = |pid: &str| root(desk, &format!("nsenter -t {pid} -m cat /home/alice/letter 2>&1 || true"));
    // What hides the homes from a service would go with the home, and it would see them from then on.
    let named = format!("`sleep` (pid {}, root)", pids[1]);
    rollback(laptop, &to).ends_with(0).says(&["start desk anew", &named]);
    assert!(seen(&pids[1]).contains("letter"), "it sees no homes: {}", seen(&pids[1]));
    rollback(laptop, &["cancel", "--machine", "desk"]).ends_with(0);
    root(desk, "systemctl stop sees-none");
    without_logind(desk);
    rollback(laptop, &to).ends_with(0).says(&["in place now: no restart is needed"]);
    assert_eq!(pid("hears"), pids[0], "nothing was stopped");
    assert_eq!(root(desk, "systemctl is-active home.mount"), "active\n");
    assert_eq!(seen(&pids[0]), "good\n");
    rollback(laptop, &["cancel", "--machine", "desk"]).ends_with(0).says(&["in place now"]);
    assert_eq!(seen(&pids[0]), "bad\n");
    rollback(laptop, &["confirm", "--machine", "desk"]).ends_with(0);

    unit("keeps", "MountFlags=private\nPrivateMounts=yes");
    let named = format!("used by `sleep` (pid {}, root)", pid("keeps"));
    rollback(laptop, &to).ends_with(0).says(&["start desk anew", &named]);
    assert_eq!(seen(&pids[0]), "bad\n");
    root(desk, "systemctl stop keeps");
    // Who asks for something else has nothing exchanged.
    let other = ["nothing-of-this-name", "--subvol", "@home", "--machine", "desk"];
    assert_ne!(rollback(laptop, &other).code, Some(0));
    assert_eq!(seen(&pids[0]), "bad\n");
    rollback(laptop, &to).ends_with(0).says(&["in place now"]);
    assert_eq!(seen(&pids[0]), "good\n");
    rollback(laptop, &["confirm", "--machine", "desk"]).ends_with(0);
    root(desk, "systemctl stop hears");
    assert_eq!(beside(desk), "");
    assert_nothing_runs(&[laptop, desk], SOON);
}

#[test]
fn a_home_that_is_away_since_the_agent_was_killed_is_mounted_by_a_timer() {
    let Some(lab) = WITH_SERVICES.take() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "echo good >letter");
    first_sync(&lab);
    run(desk, &Cmd::new("pc-switcher").args(["snapshots", "good"]).as_alice()).ends_with(0);
    alice(desk, "echo bad >letter");
    without_logind(desk);
    // Once the timer is there the home goes, and with it whoever would mount it.
    let wrapper = "/usr/local/sbin/systemd-run";
    let script = "#!/bin/sh\n/usr/bin/systemd-run \"$@\" || exit\n\
        case \"$*\" in *pc-switcher-mounts-*) umount /home && kill -9 \"$(awk '/^PPid:/ { print $2 }' /proc/$PPID/status)\"; esac\n";
    desk.write_file(wrapper, script.as_bytes(), 0o755, "root").unwrap();
    let to = ["good", "--subvol", "@home", "--machine", "desk"];
    let ended = rollback(laptop, &to);
    assert_ne!(ended.code, Some(0), "{}", ended.text);
    root(desk, &format!("rm {wrapper}"));
    wait_for("the home", MINUTE, || root(desk, "findmnt -rno FSROOT /home || true") == "/@home\n");
    assert_eq!(alice(desk, "cat letter"), "good\n");
    let timers = || root(desk, "systemctl list-units --all --no-legend 'pc-switcher-mounts-*'");
    wait_for("the timer's end", MINUTE, || timers().is_empty());
    rollback(laptop, &["status", "--machine", "desk"]).ends_with(0).says(&["it is in place now"]);
    rollback(laptop, &["cancel", "--machine", "desk"]).ends_with(0).says(&["in place now"]);
    assert_eq!((alice(desk, "cat letter").as_str(), timers().as_str()), ("bad\n", ""));
    rollback(laptop, &["confirm", "--machine", "desk"]).ends_with(0);
    assert_eq!(beside(desk), "");
    assert_nothing_runs(&[laptop, desk], SOON);
}

#[test]
fn work_in_the_place_of_a_subvolume_that_comes_late_stays_and_both_are_told() {
    let Some(lab) = lab() else { return };
    let desk = lab.desk();
    first_sync(&lab);
    run(desk, &Cmd::new("pc-switcher").args(["snapshots", "good"]).as_alice()).ends_with(0);
    alice(desk, "btrfs -q subvolume create guest; echo mine >guest/file");
    rollback(desk, &["good", "--subvol", "@home"]).ends_with(0);
    // Nothing starts units on this machine: somebody works in its place before it comes.
    restart(desk);
    alice(desk, "mkdir guest; echo late >guest/late");
    root(
        desk,
        "pc-switcher agent --redo-rollback 2>&1 | grep -q '/home/alice/guest` stays in the former tree'",
    );
    rollback(desk, &["status"]).ends_with(0).says(&[
        "`/home/alice/guest` is still in the tree that is not in place",
        "a directory that is not empty",
    ]);
    rollback(desk, &["confirm"]).ends_with(1).says(&["`alice/guest` is a subvolume inside of"]);
    alice(desk, "mv guest mine");
    rollback(desk, &["confirm"]).ends_with(0);
    assert_eq!(alice(desk, "cat guest/file mine/late"), "mine\nlate\n");
    assert_eq!(beside(desk), "");
}
