//! What a doctor finds on real machines, that it writes nothing, and that what it says mends it.

use pc_switcher_testkit::lab::{Cmd, Machine};
use serde_json::Value;

use crate::hosts::{
    BY_THEN, Ran, SOON, alice, assert_moved, assert_nothing_runs, configure, cut_off_commit, dawdle,
    first_sync, lab, line, picture, root, run, sync,
};

fn doctor(machine: &Machine, words: &[&str]) -> Ran {
    run(machine, &Cmd::new("pc-switcher").arg("doctor").args(words.iter().copied()).as_alice())
}

/// Returns what is found, `MACHINE CHECK`, without what depends on the host that runs this lab.
fn found(machine: &Machine, words: &[&str]) -> Vec<String> {
    let ran = doctor(machine, &[words, &["--json"]].concat());
    let json: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.text));
    let findings = json["findings"].as_array().unwrap().iter();
    findings
        .filter(|finding| !["clock", "room", "rights"].iter().any(|check| finding["check"] == *check))
        .map(|finding| {
            format!("{} {}", finding["hostname"].as_str().unwrap(), finding["check"].as_str().unwrap())
        })
        .collect()
}

#[test]
fn a_doctor_writes_nothing_on_either_machine() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    let before = [laptop, desk].map(picture);
    assert_eq!(found(laptop, &["desk"]), ["desk program", "desk past"]);
    assert_eq!([laptop, desk].map(picture), before);
    assert_nothing_runs(&[laptop, desk], SOON);
}

#[test]
fn what_a_doctor_finds_is_mended_by_what_it_says() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    assert_eq!(found(laptop, &["desk"]), [""; 0]);
    assert_eq!(found(laptop, &[]), [""; 0]);
    doctor(laptop, &[]).says(&["fix: sudo chmod 700 /.snapshots"]);
    root(laptop, "chmod 700 /.snapshots");
    assert!(!doctor(laptop, &[]).text.contains("chmod 700"));

    root(desk, "btrfs quota enable /; echo 'UUID=1 / btrfs rw,subvolid=256,subvol=/@ 0 0' >>/etc/fstab");
    root(desk, "echo MaxSessions 1 >/etc/ssh/sshd_config.d/a-few.conf; rm /home/alice/.ssh/known_hosts");
    root(desk, "btrfs subvolume create /home/alice/images; chown alice: /home/alice/images");
    configure(desk, "[user-data]\nexclude = [\"*.iso\"]\nnested = \"skip\"\n");
    let all = ["desk fstab", "desk layout", "desk quotas", "desk sshd", "desk config", "desk way-back"];
    assert_eq!(found(laptop, &["desk"]), all);
    let said = doctor(laptop, &["desk"]).ends_with(3);
    said.says(&["sudo btrfs quota disable /", "/etc/fstab:", "`/home/alice/images`", "findings to mend"]);

    root(desk, "btrfs quota disable /; rm /etc/ssh/sshd_config.d/a-few.conf; rmdir /home/alice/images");
    let line = root(desk, "grep -n subvolid= /etc/fstab | cut -d: -f1");
    root(desk, &format!("sed -i -E '{}s/,subvolid=[0-9]+|subvolid=[0-9]+,//' /etc/fstab", line.trim()));
    alice(desk, "rm .config/pc-switcher/config.toml");
    assert_eq!(found(laptop, &["desk"]), ["desk way-back"]);
    assert_nothing_runs(&[laptop, desk], SOON);
}

#[test]
fn a_doctor_names_a_common_past_that_was_lost() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    root(desk, "btrfs subvolume delete /.snapshots/@home-postsync-*");
    // It was marked as good, so its pin still has what was removed.
    assert_eq!(found(laptop, &["desk"]), ["desk past", "desk good"]);
    doctor(laptop, &["desk"])
        .ends_with(3)
        .says(&["the last sync of laptop and desk cannot be used: desk:", "its pin stands in"]);
    sync(laptop, "desk", &[]).ends_with(7).says(&["cannot be used: desk:"]);
}

#[test]
fn a_doctor_finishes_a_commit_that_was_cut_off_and_names_staging_that_nobody_knows() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    cut_off_commit(&lab);
    let status = || run(desk, &Cmd::new("pc-switcher").arg("status").as_alice()).ends_with(0);
    status().says(&["Left behind: sync", "was cut off", "`pc-switcher doctor` brings it to its end now"]);
    doctor(laptop, &["desk"]).says(&["desk:", "syncs: sync", "the commit is finished now"]);
    let old = root(desk, "grep -Lr second /home/alice/many | wc -l");
    assert_eq!(old.trim(), "0", "the whole tree is new");
    status().says(&["the commit is finished now"]);
    root(desk, "mkdir -p /home/.pc-switcher/stage-deadbeef/0");
    doctor(desk, &[]).ends_with(3).says(&["fix: sudo rm -r /home/.pc-switcher/stage-deadbeef"]);
    root(desk, "rm -r /home/.pc-switcher/stage-deadbeef");
    assert!(!found(desk, &[]).contains(&"desk staging".to_owned()));
    sync(laptop, "desk", &[]).ends_with(0).says(&["is finished now"]);
    assert!(!found(desk, &[]).contains(&"desk syncs".to_owned()), "the sync has said it");
    assert_moved(laptop, desk);
    assert_nothing_runs(&[laptop, desk], SOON);
}

#[test]
fn a_doctor_who_comes_while_a_sync_runs_calls_it_running() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    dawdle(laptop, 12, "");
    let running = laptop.spawn(&line("desk", &[])).unwrap();
    running.expect("stage: module:dummy-success", BY_THEN).unwrap();
    let ran = doctor(desk, &[]).says(&["a sync is under way"]);
    assert!(!ran.text.contains("did not end"), "{}", ran.text);
    let output = running.wait().unwrap();
    assert_eq!(output.code(), Some(0), "{}{}", output.error_text(), output.text());
}

#[test]
fn a_doctor_who_reaches_nobody_says_so() {
    let Some(lab) = lab() else { return };
    // What was found here is told all the same.
    doctor(lab.laptop(), &["nowhere.invalid"]).ends_with(4).says(&["laptop:", "nowhere.invalid"]);
    doctor(lab.laptop(), &["laptop"]).ends_with(2).says(&["the target is this machine itself, laptop"]);
    root(lab.desk(), "rm /etc/sudoers.d/alice");
    doctor(lab.laptop(), &["desk"]).ends_with(3).says(&["desk", "sudo"]);
}
