//! Syncs that shut people out of the desk, or break what worked there: the desk takes them back by itself.

use std::time::Duration;

use pc_switcher_testkit::lab::{CableCut, DiskCache, Lab, Machine, Running};
use pc_switcher_testkit::manifest::{TreeManifest, assert_same_tree};
use rustix::process::Signal;

use crate::hosts::{
    BY_THEN, SOON, alice, assert_moved, assert_nothing_runs, configure, first_sync, home, lab, line, ours,
    root, sync, wait_for,
};
use crate::rollback::{restart, rollback};

const MINUTE: Duration = Duration::from_secs(60);

/// What the desk keeps of its dead man.
pub const STATE: &str = "/var/lib/pc-switcher/deadman";

/// No new login to the desk gets through any more; the laptop can be worked at.
const SHUT: &str = "[ \"$HOSTNAME\" != desk ] || exit 7";

/// What a sync says when it cannot be confirmed.
pub const SHUT_OUT: &str = "a new ssh login to desk does not work any more";

pub fn settings(machine: &Machine, text: &str) {
    configure(machine, &format!("[rollback]\n{text}\n"));
}

/// A bad line at the beginning of a file that shells read.
fn break_logins(machine: &Machine) {
    alice(machine, &format!("sed -i '1i {SHUT}' .bashrc; grep -q 'exit 7' .bashrc"));
}

pub fn mend_logins(machine: &Machine) {
    alice(machine, "sed -i 1d .bashrc; ! grep -q 'exit 7' .bashrc");
}

pub fn is_shut(machine: &Machine) -> bool {
    root(machine, "grep -c 'exit 7' /home/alice/.bashrc || true").trim() != "0"
}

/// Both machines know each other, the laptop holds what shuts out, and the sync that brings it over runs.
fn shutting_out(lab: &Lab, limit_seconds: u32) -> (TreeManifest, Running) {
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(lab);
    desk.sync_disk().unwrap();
    let before = home(desk);
    settings(laptop, &format!("deadman_limit = {limit_seconds}"));
    break_logins(laptop);
    alice(laptop, "echo new >notes/new; rm -r names");
    (before, laptop.spawn(&line("desk", &[])).unwrap())
}

/// The sync that shuts out waits to be confirmed.
pub fn unconfirmed(lab: &Lab, limit_seconds: u32) -> (TreeManifest, Running) {
    let (before, running) = shutting_out(lab, limit_seconds);
    running.expect(SHUT_OUT, BY_THEN).unwrap();
    assert!(is_shut(lab.desk()));
    (before, running)
}

/// The next sync says what happened, asks nothing, and brings over what is left.
pub fn assert_goes_on(lab: &Lab) {
    let (laptop, desk) = (lab.laptop(), lab.desk());
    mend_logins(laptop);
    sync(laptop, "desk", &[]).ends_with(0).says(&["from laptop was taken back at"]);
    assert_moved(laptop, desk);
    assert_nothing_runs(&[laptop, desk], SOON);
    assert!(!desk.exists(STATE).unwrap());
}

pub fn status(machine: &Machine) -> String {
    alice(machine, "pc-switcher status | tr -s ' \\n' ' '")
}

#[test]
fn a_sync_that_breaks_sshd_on_the_desk_heals_itself_and_the_laptop_learns_it() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    // The login that is tried before the work comes to alice's files long after it.
    root(desk, "sed -i '1i [ ! -e /tmp/slow ] || sleep 3' /etc/bash.bashrc");
    let (before, running) = shutting_out(&lab, 6);
    running.expect("connected: desk", BY_THEN).unwrap();
    root(desk, "touch /tmp/slow");
    running.expect(SHUT_OUT, BY_THEN).unwrap();
    let output = running.wait().unwrap();
    let text = format!("{}{}", output.error_text(), output.text());
    assert_eq!(output.code(), Some(8), "{text}");
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for said in ["nobody confirmed it within 6 s", "Rolled back: laptop → desk", "was taken back at"] {
        assert!(flat.contains(said), "`{said}` is not in:\n{text}");
    }
    assert_same_tree(&before, &home(desk));
    assert_nothing_runs(&[laptop, desk], SOON);
    assert!(status(laptop).contains("rolled back: desk took it back by itself"), "{}", status(laptop));
    let said = status(desk);
    assert!(said.contains("rolled back: desk took it back") && said.contains("was taken back at"), "{said}");
    assert!(alice(laptop, "pc-switcher history").contains("rolled back"));
    assert_goes_on(&lab);
}

/// Lets the desk's sshd read files of alice's home, and read them anew when they have changed, as a unit that watches them would.
fn sshd_reads_the_home(desk: &Machine) {
    let reload = "#!/bin/sh\n\
        now=$(cat /home/alice/access/*.conf 2>/dev/null | cksum)\n\
        [ \"$now\" != \"$(cat /run/access.sum 2>/dev/null)\" ] || exit 0\n\
        echo \"$now\" >/run/access.sum\n\
        kill -HUP \"$(cat /run/sshd.pid)\"\n";
    root(desk, "mkdir -p /etc/pc-switcher/health/required.d");
    desk.write_file("/etc/pc-switcher/health/required.d/reload", reload.as_bytes(), 0o755, "root").unwrap();
    root(desk, "echo 'Include /home/alice/access/*.conf' >/etc/ssh/sshd_config.d/access.conf");
    root(desk, "/etc/pc-switcher/health/required.d/reload");
}

#[test]
fn an_sshd_that_lets_nobody_in_any_more_has_the_desk_take_the_sync_back() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    sshd_reads_the_home(desk);
    let enters = "ssh -o BatchMode=yes -o ControlPath=none desk true >/dev/null 2>&1 && echo in || echo out";
    wait_for("sshd", BY_THEN, || alice(laptop, enters) == "in\n");
    first_sync(&lab);
    let before = home(desk);
    settings(laptop, "deadman = \"always\"\ndeadman_limit = 15");
    // `sshd -t` finds nothing wrong with it, and the connection that is there goes on.
    alice(laptop, "mkdir access; echo DenyUsers alice >access/a.conf; echo new >notes/new");
    let running = laptop.spawn(&line("desk", &[])).unwrap();
    running.expect(SHUT_OUT, BY_THEN).unwrap();
    assert_eq!(alice(laptop, enters), "out\n", "sshd itself refuses");
    let output = running.wait().unwrap();
    let text = format!("{}{}", output.error_text(), output.text());
    assert_eq!(output.code(), Some(8), "{text}");
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("nobody confirmed it within 15 s") && flat.contains("was taken back at"), "{text}");
    assert_same_tree(&before, &home(desk));
    root(desk, "/etc/pc-switcher/health/required.d/reload");
    wait_for("sshd", BY_THEN, || alice(laptop, enters) == "in\n");
    assert!(status(laptop).contains("rolled back: desk took it back by itself"), "{}", status(laptop));
    alice(laptop, "rm -r access");
    sync(laptop, "desk", &[]).ends_with(0).says(&["from laptop was taken back at"]);
    assert_moved(laptop, desk);
    assert_nothing_runs(&[laptop, desk], SOON);
}

#[test]
fn what_breaks_a_check_on_the_desk_is_taken_back_at_once() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    root(
        desk,
        "mkdir -p /etc/pc-switcher/health/required.d; \
         printf '#!/bin/sh\\n[ ! -e /home/alice/broken ] || { echo it is broken; exit 1; }\\n' \
         >/etc/pc-switcher/health/required.d/mine; chmod 755 /etc/pc-switcher/health/required.d/mine; \
         echo 'Include /home/alice/access/*.conf' >/etc/ssh/sshd_config.d/access.conf",
    );
    first_sync(&lab);
    let before = home(desk);
    settings(laptop, "deadman = \"always\"\ndeadman_limit = 3600");
    alice(laptop, "touch broken; echo new >notes/new");
    sync(laptop, "desk", &[])
        .ends_with(8)
        .says(&["it broke what worked before (required.d/mine: it is broken)"]);
    assert_same_tree(&before, &home(desk));
    alice(laptop, "rm broken; mkdir access; echo Nonsense yes >access/a.conf");
    sync(laptop, "desk", &[]).ends_with(8).says(&["it broke what worked before (sshd's configuration: "]);
    assert_same_tree(&before, &home(desk));
    assert_nothing_runs(&[laptop, desk], SOON);

    settings(laptop, "deadman = \"always\"\nhealth = []");
    let named =
        ["worse than before: sshd's configuration", "was taken back at", "desk works as it did before"];
    sync(laptop, "desk", &[]).ends_with(0).says(&named);
    assert_moved(laptop, desk);
    assert!(!desk.exists(STATE).unwrap());
}

#[test]
fn a_sync_that_is_stopped_before_it_is_confirmed_is_taken_back_by_the_desk_alone() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    let (before, running) = unconfirmed(&lab, 10);
    running.signal(Signal::INT).unwrap();
    let output = running.wait().unwrap();
    let text = format!("{}{}", output.error_text(), output.text());
    assert_eq!(output.code(), Some(130), "{text}");
    assert!(text.contains("desk takes it back by itself in 10 s"), "{text}");
    assert_nothing_runs(&[laptop], SOON);
    let is_watcher = |command: &String| command.contains("pc-switcher agent --deadman ");
    wait_for("end of all but the watcher", BY_THEN, || ours(desk).iter().all(is_watcher));
    wait_for("healed desk", MINUTE, || !is_shut(desk));
    assert_nothing_runs(&[desk], BY_THEN);
    assert_same_tree(&before, &home(desk));
    assert!(status(desk).contains("since nobody confirmed it within 10 s"), "{}", status(desk));
    assert_goes_on(&lab);
    assert!(alice(laptop, "pc-switcher history").contains("rolled back"), "the laptop has learned it");
}

#[test]
fn a_cable_that_is_cut_before_a_sync_is_confirmed_keeps_the_desk_from_nothing() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    let (before, running) = unconfirmed(&lab, 40);
    desk.cable_cut(CableCut::Silent).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(4));
    wait_for("healed desk", Duration::from_secs(120), || !is_shut(desk));
    assert_nothing_runs(&[laptop, desk], BY_THEN);
    assert_same_tree(&before, &home(desk));
    desk.cable_restore().unwrap();
    assert_goes_on(&lab);
}

#[test]
fn a_sync_that_dies_behind_its_commit_is_taken_back_and_what_somebody_wrote_since_stays() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    let text = "[sync_modules]\nuser-data = true\ndummy-success = true\n[dummy-success]\nduration = 300\n";
    configure(laptop, &format!("{text}[rollback]\ndeadman_limit = 5\n"));
    break_logins(laptop);
    alice(laptop, "echo new >notes/new; echo new >notes/newer");
    let running = laptop.spawn(&line("desk", &[])).unwrap();
    running.expect("stage: module:dummy-success", BY_THEN).unwrap();
    alice(desk, "echo and mine >>notes/newer");
    running.signal(Signal::KILL).unwrap();
    wait_for("healed desk", Duration::from_secs(120), || !is_shut(desk));
    assert_nothing_runs(&[laptop, desk], BY_THEN);
    assert!(!desk.exists("/home/alice/notes/new").unwrap());
    assert_eq!(alice(desk, "cat notes/newer"), "new\nand mine\n");
    let said = status(desk);
    assert!(said.contains("stays as found: `/home/alice/notes/newer`"), "{said}");
    settings(laptop, "");
    mend_logins(laptop);
    sync(laptop, "desk", &[]).ends_with(7).says(&["1 path changed on desk", "/home/alice/notes/newer"]);
    sync(laptop, "desk", &["--allow-conflicts"]).ends_with(0).says(&["from laptop was taken back at"]);
    assert_moved(laptop, desk);
}

#[test]
fn after_a_power_cut_before_a_sync_is_confirmed_the_boot_takes_it_back() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    let (before, running) = unconfirmed(&lab, 3600);
    desk.power_cut(DiskCache::Volatile).unwrap();
    assert_ne!(running.wait().unwrap().code(), Some(0));
    desk.boot().unwrap();
    // What the unit starts where there is systemd.
    let said = root(desk, "pc-switcher agent --redo 2>&1");
    assert!(said.contains("was taken back at") && said.contains("started anew"), "{said}");
    assert_same_tree(&before, &home(desk));
    assert_nothing_runs(&[laptop, desk], SOON);
    assert_goes_on(&lab);
}

#[test]
fn a_sync_that_cannot_be_taken_back_path_by_path_goes_back_as_a_whole() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    let (before, running) = unconfirmed(&lab, 15);
    root(desk, "truncate -s -1 $(ls -td /.snapshots/.pc-switcher/sets/*-presync/operations | head -n 1)");
    let output = running.wait().unwrap();
    let text = format!("{}{}", output.error_text(), output.text());
    assert_eq!(output.code(), Some(8), "{text}");
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("went back as a whole, start the machine anew"), "{text}");
    restart(desk);
    // What the unit of the boot starts: the trees that went back know that it is done.
    assert_eq!(root(desk, "pc-switcher agent --redo 2>&1"), "");
    assert_same_tree(&before, &home(desk));
    assert_nothing_runs(&[laptop, desk], SOON);
    assert!(status(desk).contains("went back as a whole"), "{}", status(desk));
    rollback(desk, &["confirm"]).ends_with(0).says(&["the rollback is kept"]);
    mend_logins(laptop);
    sync(laptop, "desk", &["--allow-first-sync"]).ends_with(0).says(&["from laptop was taken back at"]);
    assert_moved(laptop, desk);
}

/// Stops a sync while it looks whether the desk works.
fn stop_while_it_is_confirmed(laptop: &Machine) {
    let running = laptop.spawn(&line("desk", &[])).unwrap();
    running.expect("stage: confirm", BY_THEN).unwrap();
    running.signal(Signal::INT).unwrap();
    let output = running.wait().unwrap();
    assert_eq!(output.code(), Some(130), "{}{}", output.error_text(), output.text());
}

#[test]
fn a_sync_that_comes_after_one_that_nobody_confirmed_confirms_it_and_so_does_a_person_there() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    root(
        desk,
        "mkdir -p /etc/pc-switcher/health/required.d; \
         printf '#!/bin/sh\\n[ ! -e /home/alice/hold ] || sleep 5\\n' >/etc/pc-switcher/health/required.d/slow; \
         chmod 755 /etc/pc-switcher/health/required.d/slow",
    );
    first_sync(&lab);
    settings(laptop, "deadman = \"always\"\ndeadman_limit = 3600");
    alice(laptop, "touch hold; echo new >notes/new");
    stop_while_it_is_confirmed(laptop);
    assert!(status(desk).contains("is not confirmed: 3600 s after its end"), "{}", status(desk));
    // Whoever sits there says nothing of how it can be reached.
    sync(desk, "laptop", &["--allow-conflicts"]).ends_with(7).says(&["is not confirmed"]);
    sync(laptop, "desk", &[]).ends_with(0).says(&["that desk can be reached confirms it now"]);
    assert_moved(laptop, desk);

    alice(laptop, "echo newer >notes/new");
    stop_while_it_is_confirmed(laptop);
    rollback(desk, &["status"]).ends_with(0).says(&["there is no rollback", "is not confirmed: 3600 s"]);
    rollback(desk, &["confirm"]).ends_with(0).says(&["from laptop stays"]);
    assert_eq!(alice(desk, "cat notes/new"), "newer\n");
    assert_nothing_runs(&[laptop, desk], SOON);
    assert!(!desk.exists(STATE).unwrap());
}

#[test]
fn a_quiet_sync_that_is_to_be_confirmed_leaves_nothing_behind() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    settings(laptop, "deadman = \"always\"\ndeadman_limit = 3600");
    let named = [
        "desk works as it did before",
        "a new ssh login to desk works",
        "desk as it is now is marked as good",
    ];
    first_sync(&lab).says(&named);
    let marked = || -> Vec<String> {
        let listed = root(desk, "pc-switcher snapshots list");
        let is_good = |line: &&str| line.split([' ', ',']).any(|word| word == "good");
        listed.lines().filter(is_good).map(str::to_owned).collect()
    };
    let first = marked();
    assert!(first.len() == 1 && first[0].contains("post-sync"), "{first:?}");
    assert!(!desk.exists(STATE).unwrap());
    alice(laptop, "echo new >notes/new");
    sync(laptop, "desk", &[]).ends_with(0);
    assert!(marked().len() == 1 && marked() != first, "the older mark falls away");
    // One that is refused has changed nothing, so nothing has to be confirmed.
    alice(laptop, "rm -r shapes names src Mail Documents Pictures");
    sync(laptop, "desk", &[]).ends_with(7).says(&["--allow-mass-deletion"]);
    assert_nothing_runs(&[laptop, desk], SOON);
    assert!(!desk.exists(STATE).unwrap());

    settings(laptop, "deadman = \"off\"");
    break_logins(laptop);
    sync(laptop, "desk", &["--allow-mass-deletion"])
        .ends_with(1)
        .says(&["a new ssh login does not work any more"]);
    assert!(is_shut(desk), "nobody asked for it to be taken back");
}
