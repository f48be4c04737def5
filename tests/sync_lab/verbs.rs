//! What a person does with sets between syncs: takes one, looks what changed, brings files back, on this machine and the other.

use std::thread;
use std::time::Duration;

use pc_switcher_testkit::lab::{Cmd, Machine};
use serde_json::Value;

use crate::hosts::{
    BY_THEN, Ran, SOON, alice, assert_moved, assert_nothing_runs, configure, first_sync, lab, root, run, sync,
};

fn store(machine: &Machine, words: &[&str]) -> Ran {
    run(machine, &Cmd::new("pc-switcher").arg("snapshots").args(words.iter().copied()).as_alice())
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.text))
}

fn names(machine: &Machine) -> Vec<String> {
    let list = json(&store(machine, &["list", "--json"]).ends_with(0));
    let sets = list["sets"].as_array().unwrap();
    sets.iter().filter_map(|set| set["name"].as_str()).map(str::to_owned).collect()
}

#[test]
fn a_file_that_was_lost_on_the_desk_comes_back_and_the_next_sync_is_in_order() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(
        laptop,
        "mkdir -p work/deep; echo one >work/plan; echo two >work/deep/b; ln work/plan work/deep/hard",
    );
    let first = first_sync(&lab);
    let (_, rest) = first.stdout.split_once("(session ").unwrap();
    let session = &rest[..8];
    let both = format!("{session}..{session}");
    store(laptop, &["diff", &both, "--machine", "desk"])
        .ends_with(0)
        .says(&["created /home/alice/work/deep/hard"]);

    store(laptop, &["create", "before-lunch", "--note", "all is well", "--machine", "desk"])
        .ends_with(0)
        .says(&["(`before-lunch`) is taken of @ @home"]);
    alice(desk, "rm -r work/deep; echo three >work/plan");
    let changed = store(laptop, &["diff", "before-lunch", "--path", "/home/alice/work", "--machine", "desk"]);
    let wanted = [
        "changed   /home/alice/work/plan",
        "deleted   /home/alice/work/deep/",
        "deleted   /home/alice/work/deep/b",
        "deleted   /home/alice/work/deep/hard",
    ];
    let changed = changed.ends_with(0);
    let mut lines: Vec<&str> = changed.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, wanted);
    let versions =
        store(laptop, &["versions", "/home/alice/work/plan", "--machine", "desk", "--json"]).ends_with(0);
    let versions = json(&versions);
    assert_eq!(versions["versions"].as_array().unwrap().len(), 2, "{versions:#}");
    assert_eq!(
        (&versions["versions"][0]["now"], &versions["versions"][1]["now"]),
        (&true.into(), &false.into())
    );

    let back =
        store(laptop, &["restore", "before-lunch", "/home/alice/work", "--in-place", "--machine", "desk"]);
    back.ends_with(0).says(&["`/home/alice/work` is restored", "holds what was there before, until"]);
    let seen = alice(desk, "cat work/plan work/deep/b; stat -c '%U %h' work/deep/hard; ls -A work");
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["one", "two", "alice", "2", "deep", "plan"]);
    let beside = store(desk, &["restore", "before-lunch", "/home/alice/work/plan"]).ends_with(0);
    assert!(beside.stdout.contains("is restored as `/home/alice/work/plan.restored-"), "{}", beside.text);
    alice(desk, "rm work/plan.restored-*");
    store(laptop, &["verify", "--machine", "desk"]).ends_with(0).says(&["all as they were taken"]);

    alice(laptop, "echo four >work/new");
    // What is as it was before is no conflict, though it is another inode.
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
    assert_eq!(names(desk), ["before-lunch"], "a sync removes no set that was taken by hand");
    assert_nothing_runs(&[laptop, desk], SOON);
}

#[test]
fn a_component_comes_back_in_its_place_and_the_machine_stays_who_it_is() {
    let Some(lab) = lab() else { return };
    let laptop = lab.laptop();
    root(laptop, "echo good >/etc/printer.conf; mkdir -p /opt/tool; echo 1 >/opt/tool/version");
    store(laptop, &["create", "then"]).ends_with(0);
    root(
        laptop,
        "echo bad >/etc/printer.conf; rm -r /opt/tool; echo of-now >/etc/ssh/ssh_host_lab_key.pub; \
         echo '# of now' >>/etc/hostname",
    );
    let who = "cat /etc/machine-id /etc/hostname /etc/ssh/ssh_host_*";
    let before = root(laptop, who);
    store(laptop, &["restore", "then", "--component", "confg"])
        .ends_with(2)
        .says(&["there is no component `confg`", "did you mean `config`?"]);
    let words = "pc-switcher snapshots restore then --component config --component apps --in-place";
    run(laptop, &Cmd::new("sudo").args(words.split(' ')).as_alice()).ends_with(0).says(&[
        "`/etc` is restored",
        "`/opt` is restored",
        "belongs to this machine and stayed as it is",
        "holds what was there before, until",
    ]);
    assert_eq!(root(laptop, "cat /etc/printer.conf /opt/tool/version"), "good\n1\n");
    assert_eq!(root(laptop, who), before);
}

#[test]
fn nobody_gets_at_more_in_a_set_than_in_the_live_tree() {
    let Some(lab) = lab() else { return };
    let laptop = lab.laptop();
    root(laptop, "install -m 600 /dev/null /srv/secret; echo x >/srv/secret; chmod 711 /srv");
    alice(laptop, "echo mine >mine");
    store(laptop, &["create", "then"]).ends_with(0);
    root(laptop, "rm /srv/secret");
    store(laptop, &["restore", "then", "/srv/secret", "--to", "/home/alice"])
        .ends_with(1)
        .says(&["`/srv/secret` may not be read or written by you", "sudo"]);
    store(laptop, &["versions", "/root/x"])
        .ends_with(1)
        .says(&["`/root/x` may not be reached by you", "sudo"]);
    store(laptop, &["diff", "then"]).ends_with(0).says(&["in directories that you may not list"]);
    assert_eq!(alice(laptop, "ls -A | grep -c restoring || true").trim(), "0");
    let as_root = Cmd::new("sudo").args(["pc-switcher", "snapshots", "restore", "then", "/srv/secret"]);
    run(laptop, &as_root.as_alice()).ends_with(0).says(&["`/srv/secret.restored-"]);
    assert_eq!(root(laptop, "stat -c '%U %a' /srv/secret.restored-*").trim(), "root 600");
    store(laptop, &["restore", "then", "/home/alice/nothing"])
        .ends_with(2)
        .says(&["no set on that machine has it"]);
    store(laptop, &["restore", "than", "/home/alice/mine"]).ends_with(2).says(&["did you mean `then`?"]);
}

#[test]
fn an_edited_set_is_found_and_a_set_whose_time_has_ended_is_pruned() {
    let Some(lab) = lab() else { return };
    let laptop = lab.laptop();
    configure(laptop, "[btrfs-snapshots]\nkeep = \"last 1 session\"\n");
    for words in
        [&["create", "short", "--ttl", "1s"][..], &["create", "long"], &["create", "kept", "--ttl", "1s"]]
    {
        store(laptop, words).ends_with(0);
    }
    store(laptop, &["create", "x", "--ttl", "30m"]).ends_with(2).says(&["minutes or months"]);
    store(laptop, &["good", "kept"]).ends_with(0).says(&["is the last known good one"]);
    thread::sleep(Duration::from_secs(2));
    store(laptop, &["prune"]).ends_with(0).says(&["1 of 3 sets removed"]);
    assert_eq!(names(laptop).len(), 2);
    store(laptop, &["delete", "kept"]).ends_with(7).says(&["last known good"]);
    store(laptop, &["good", "--none"]).ends_with(0);
    store(laptop, &["prune"]).ends_with(0);
    assert_eq!(names(laptop), ["long"]);

    let flip = "s=$(echo /.snapshots/@home-manual-*); btrfs property set -f $s ro false; echo x >>$s/alice/.profile; \
                btrfs property set $s ro true";
    root(laptop, flip);
    store(laptop, &["verify"]).ends_with(1).says(&["laptop: set", "was changed after it was taken"]);
    store(laptop, &["restore", "long", "/home/alice/.profile"]).ends_with(1).says(&["not what was taken"]);
}

#[test]
fn the_mark_of_the_good_set_goes_from_one_to_the_next() {
    let Some(lab) = lab() else { return };
    let laptop = lab.laptop();
    store(laptop, &["good", "--none"]).ends_with(0).says(&["no set is marked"]);
    store(laptop, &["create", "fine", "--good"]).ends_with(0);
    store(laptop, &["delete", "fine"]).ends_with(7).says(&["last known good"]);
    store(laptop, &["good"]).ends_with(0).says(&["-manual is the last known good one"]);
    store(laptop, &["delete", "fine"]).ends_with(0);
    store(laptop, &["delete", "good"]).ends_with(7);
    store(laptop, &["good", "--none"]).ends_with(0);
    store(laptop, &["delete", "good"]).ends_with(2).says(&["no set on laptop is marked as good"]);
}

#[test]
fn a_hard_pin_outlasts_the_tools_of_others_and_leads_back_without_the_original() {
    let Some(lab) = lab() else { return };
    let laptop = lab.laptop();
    alice(laptop, "echo dear >letter");
    store(laptop, &["create", "kept"]).ends_with(0);
    store(laptop, &["pin", "--hard", "kept"]).ends_with(0).says(&["-manual is pinned hard"]);
    store(laptop, &["list", "--why"]).ends_with(0).says(&["stays: pinned hard"]);
    let others = "for one in /.snapshots/.pc-switcher/pins/*/*; do \
                    ! btrfs subvolume delete $one 2>&1 || exit 1; ! rm -rf $one 2>/dev/null || exit 1; \
                  done >/dev/null; \
                  btrfs subvolume delete /.snapshots/@home-manual-* >/dev/null; ls -d /.snapshots/.pc-switcher/pins/*/*/ | wc -l";
    let members = json(&store(laptop, &["list", "--json"]))["sets"][0]["members"].as_array().unwrap().len();
    assert_eq!(root(laptop, others).trim(), members.to_string());
    alice(laptop, "echo spoiled >letter");
    store(laptop, &["show", "kept"])
        .ends_with(0)
        .says(&["hard, in /.snapshots/.pc-switcher/pins/", "(gone, its pin has it)"]);
    store(laptop, &["delete", "kept"]).ends_with(7).says(&["it is pinned hard"]);
    store(laptop, &["verify"]).ends_with(1).says(&["is gone; the one of its pin stands in for it"]);
    let plan = Cmd::new("pc-switcher").args(["rollback", "kept", "--plan"]).as_alice();
    run(laptop, &plan).ends_with(0).says(&["nothing stands in the way"]);
    store(laptop, &["restore", "kept", "/home/alice/letter", "--in-place"]).ends_with(0);
    assert_eq!(alice(laptop, "cat letter").trim(), "dear");

    store(laptop, &["unpin", "kept"]).ends_with(7).says(&["is all that is left of `@home-", "--allow-loss"]);
    store(laptop, &["unpin", "kept", "--allow-loss"]).ends_with(0).says(&["is unpinned"]);
    assert_eq!(root(laptop, "ls /.snapshots/.pc-switcher/pins"), "");
    store(laptop, &["delete", "kept"]).ends_with(0);
}

#[test]
fn words_tags_and_kinds_find_sets_and_what_is_lost_or_anothers_is_adopted() {
    let Some(lab) = lab() else { return };
    let laptop = lab.laptop();
    store(laptop, &["create", "one", "--tag", "work", "--note", "first"]).ends_with(0);
    alice(laptop, "echo more >more");
    store(laptop, &["create", "two", "--kind", "scheduled", "--tag", "work", "--tag", "late"]).ends_with(0);
    store(laptop, &["annotate", "one", "for the printer", "--tag", "paper", "--untag", "work"]).ends_with(0);
    let tagged = |words: &[&str]| {
        let all = [&["list", "--json"], words].concat();
        let list = json(&store(laptop, &all).ends_with(0));
        let sets = list["sets"].as_array().unwrap();
        sets.iter().map(|set| set["name"].as_str().unwrap_or("-").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(tagged(&["--tag", "paper"]), ["one"]);
    assert_eq!(tagged(&["--tag", "work"]), ["two"]);
    assert_eq!(tagged(&["--kind", "scheduled"]), ["two"]);
    assert_eq!(tagged(&["--kind", "pre-sync"]), [""; 0]);
    store(laptop, &["list", "--kind", "weekly"]).ends_with(2).says(&["one of pre-sync"]);
    store(laptop, &["show", "one"]).ends_with(0).says(&["for the printer", "Tags paper"]);
    store(laptop, &["diff", "one..two", "--stat", "--path", "/home/alice"])
        .ends_with(0)
        .says(&["laptop: ", "1 created"]);

    root(laptop, "btrfs subvolume snapshot -r /home /.snapshots/home.20250102T0304");
    store(laptop, &["adopt", "--from", "btrbk", "--dir", "/.snapshots"])
        .ends_with(0)
        .says(&["of btrbk is listed"]);
    store(laptop, &["list"]).ends_with(0).says(&["foreign: btrbk"]);
    root(laptop, "rm -r /.snapshots/.pc-switcher/sets/*-scheduled");
    store(laptop, &["list"]).ends_with(0).says(&["orphan"]);
    store(laptop, &["adopt", "--from", "orphan"]).ends_with(0).says(&["-scheduled of orphan is listed"]);
    store(laptop, &["verify"]).ends_with(0);
    root(laptop, "btrfs subvolume delete /.snapshots/home.20250102T0304");
    assert!(!store(laptop, &["list"]).ends_with(0).stdout.contains("foreign: btrbk"));
}

#[test]
fn prune_keeps_what_it_is_told_and_what_another_process_reads() {
    let Some(lab) = lab() else { return };
    let laptop = lab.laptop();
    for name in ["a", "b", "c", "d"] {
        store(laptop, &["create", name, "--kind", "scheduled"]).ends_with(0);
    }
    let guarded = Cmd::new("pc-switcher").args(["guard", "--kind", "auto-boot", "--", "true"]);
    run(laptop, &guarded.as_alice()).ends_with(0).says(&["is the last known good one"]);
    let kinds = json(&store(laptop, &["list", "--kind", "auto-boot", "--json"]).ends_with(0));
    assert!(!kinds["sets"].as_array().unwrap().is_empty());
    let list = json(&store(laptop, &["list", "--json"]).ends_with(0));
    let sets = list["sets"].as_array().unwrap();
    let set = sets.iter().find(|set| set["name"] == "b").unwrap()["set"].as_str().unwrap().to_owned();
    let lock = format!("/.snapshots/.pc-switcher/sets/{set}/lock");
    let reader =
        laptop.spawn(&Cmd::script(&format!("flock -s {lock} sh -c 'echo held; read -r _'"))).unwrap();
    reader.expect("held", BY_THEN).unwrap();
    store(laptop, &["delete", "b"]).ends_with(7).says(&["it is in use"]);
    store(laptop, &["show", "b"]).ends_with(0).says(&["In use by `flock -s"]);
    store(laptop, &["prune", "--keep", "1", "--dry-run"]).ends_with(0).says(&["would be removed"]);
    store(laptop, &["prune", "--keep", "1"]).ends_with(0).says(&["sets removed"]);
    assert_eq!(names(laptop), ["b", "c", "d"], "`keep_min` keeps two, and a reader one");
    // Its input ends, and it with that.
    reader.wait().unwrap();
    store(laptop, &["delete", "b"]).ends_with(0);
}

#[test]
fn a_good_set_that_root_deleted_by_hand_is_still_there_to_go_back_to() {
    let Some(lab) = lab() else { return };
    let laptop = lab.laptop();
    alice(laptop, "echo good >letter");
    store(laptop, &["create", "fine", "--good"]).ends_with(0);
    store(laptop, &["list"]).ends_with(0).says(&["good, pinned hard"]);
    alice(laptop, "echo bad >letter");
    root(laptop, "btrfs subvolume delete /.snapshots/@*-manual-*");
    let pins = "/.snapshots/.pc-switcher/pins/*";
    root(
        laptop,
        &format!("! btrfs subvolume delete {pins}/@home-*; ! rm -rf {pins}; ls {pins}/@home-*/alice/letter"),
    );
    let doctor = run(laptop, &Cmd::new("pc-switcher").arg("doctor").as_alice());
    doctor.says(&["something else removed", "its pin stands in"]);
    let plan = Cmd::new("pc-switcher").args(["rollback", "good", "--subvol", "@home", "--plan"]);
    run(laptop, &plan.as_alice()).ends_with(0).says(&["nothing stands in the way"]);
    let back = Cmd::new("pc-switcher").args(["rollback", "good", "--subvol", "@home"]);
    run(laptop, &back.as_alice()).ends_with(0);
    crate::rollback::restart(laptop);
    assert_eq!(alice(laptop, "cat letter"), "good\n");
    run(laptop, &Cmd::new("pc-switcher").args(["rollback", "confirm"]).as_alice()).ends_with(0);
    // A person's mark goes and leaves what its pin alone has, until it is given up.
    let ran = store(laptop, &["good", "--none", "fine"]).ends_with(0);
    ran.says(&["is there by its pin alone, which stays"]);
    store(laptop, &["unpin", "fine"]).ends_with(7);
    store(laptop, &["unpin", "--allow-loss", "fine"]).ends_with(0);
    assert_nothing_runs(&[laptop], SOON);
}
