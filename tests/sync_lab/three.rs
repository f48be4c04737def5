//! Three machines: the laptop, and two that stand in the desk's place in turn, each with a disk of its own.

use pc_switcher_testkit::lab::{Lab, Machine};

use crate::hosts::{alice, assert_moved, first_sync, lab, root, sync};

/// Disks that are kept while another one is in the machine.
const DESK: &str = "disk-of-the-desk";
const TOWER: &str = "disk-of-the-tower";

/// Puts a fresh disk into the desk and makes another machine of it.
fn become_tower(desk: &Machine) {
    desk.restore(Lab::PRISTINE).unwrap();
    root(
        desk,
        "chmod u+w /etc/machine-id; tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id; \
         echo tower >/etc/hostname",
    );
    wake(desk);
}

/// Gives a machine the name that its disk has.
fn wake(machine: &Machine) {
    root(machine, "hostname -F /etc/hostname");
}

/// Keeps the disk that is in the desk, and puts another one in.
fn change_disk(lab: &Lab, keep: &str, put: &str) {
    lab.snapshot(keep).unwrap();
    lab.desk().restore(put).unwrap();
    wake(lab.desk());
}

/// Syncs without a question, and checks that what changed was found by the state that both machines remember.
#[track_caller]
fn by_record(from: &Machine, to: &str, flags: &[&str]) {
    sync(from, to, flags).ends_with(0);
    let log = alice(from, "pc-switcher logs --last");
    assert!(!log.contains("` is compared: "), "everything was looked at:\n{log}");
}

#[test]
fn three_machines_pass_a_home_on_and_each_pair_remembers_its_own_state() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(
        laptop,
        "mkdir -p work/deep; echo one >work/plan; echo old >work/deep/draft; echo gone >work/scrap; \
         head -c 3M /dev/urandom >work/image",
    );
    first_sync(&lab);
    assert!(
        alice(laptop, "pc-switcher logs --last").contains("` is compared: "),
        "a first sync looks at all"
    );

    lab.snapshot(DESK).unwrap();
    become_tower(desk);
    sync(laptop, "desk", &[]).ends_with(7).says(&["tower", "--allow-first-sync"]);
    sync(laptop, "desk", &["--allow-first-sync"]).ends_with(0);
    assert_moved(laptop, desk);
    alice(
        desk,
        "cd work; echo two >plan; mv deep depth; rm scrap; printf x | dd of=image bs=1 seek=2M conv=notrunc",
    );
    by_record(desk, "laptop", &[]);
    assert_moved(desk, laptop);
    alice(laptop, "echo three >work/more");

    // The desk saw nothing of it, and the laptop was somebody's target since they met.
    change_disk(&lab, TOWER, DESK);
    assert_eq!(alice(desk, "cat work/plan work/deep/draft"), "one\nold\n");
    by_record(laptop, "desk", &[]);
    assert_moved(laptop, desk);
    assert_eq!(alice(desk, "cat work/plan work/depth/draft work/more"), "two\nold\nthree\n");
    alice(desk, "echo four >work/desk; echo desk >work/plan");
    by_record(desk, "laptop", &[]);

    // Both others worked on one file since the tower left: the laptop has the desk's version, the tower has its own.
    change_disk(&lab, DESK, TOWER);
    alice(desk, "echo tower >work/plan");
    sync(laptop, "desk", &[]).ends_with(7).says(&["/home/alice/work/plan", "--allow-conflicts"]);
    assert_eq!(alice(desk, "cat work/plan"), "tower\n");
    by_record(laptop, "desk", &["--allow-conflicts"]);
    assert_moved(laptop, desk);
    assert_eq!(alice(desk, "cat work/plan work/desk"), "desk\nfour\n");
}

#[test]
fn what_a_third_machine_brought_in_between_is_out_of_order_until_its_own_flag_says_otherwise() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "mkdir work; echo one >work/plan");
    first_sync(&lab);
    lab.snapshot(DESK).unwrap();
    become_tower(desk);
    sync(laptop, "desk", &["--allow-first-sync"]).ends_with(0);
    alice(desk, "echo two >work/plan");
    by_record(desk, "laptop", &[]);

    change_disk(&lab, TOWER, DESK);
    alice(desk, "echo desk >work/desk");
    for flags in [&[][..], &["--yes", "--allow-conflicts"]] {
        sync(desk, "laptop", flags)
            .ends_with(7)
            .says(&["tower was synced to laptop", "--allow-out-of-order"]);
        assert_eq!(alice(laptop, "ls work; cat work/plan"), "plan\ntwo\n", "{flags:?}");
    }
    // It opens that gate alone: what the tower brought is a conflict like any change.
    sync(desk, "laptop", &["--allow-out-of-order"]).ends_with(7).says(&["work/plan", "--allow-conflicts"]);
    sync(desk, "laptop", &["--allow-out-of-order", "--allow-conflicts"]).ends_with(0);
    assert_moved(desk, laptop);
    assert_eq!(alice(laptop, "cat work/plan work/desk"), "one\ndesk\n");
    sync(desk, "laptop", &[]).ends_with(0);
}
