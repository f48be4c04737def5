//! Folders without snapshots on either machine or on both: what holds for them all the same.

use std::time::Duration;

use pc_switcher_testkit::{
    lab::{HomeDisk, Lab, Machine, MachineName, SharedLab},
    manifest::{ManifestOptions, TreeManifest, assert_same_tree},
};
use rustix::process::Signal;

use crate::hosts::{
    Ran, SOON, alice, assert_moved, assert_nothing_runs, configure, home, install, kill, line, options, root,
    sync,
};

static FROM_EXT4: SharedLab =
    SharedLab::new(|| options("plain-from").home(MachineName::Laptop, HomeDisk::Ext4), both);
static TO_XFS: SharedLab =
    SharedLab::new(|| options("plain-to").home(MachineName::Desk, HomeDisk::Xfs), both);
static NOWHERE: SharedLab =
    SharedLab::new(|| options("plain-both").ext4(MachineName::Laptop).ext4(MachineName::Desk), both);

const MINUTE: Duration = Duration::from_secs(60);
const FLAG: &str = "--allow-no-snapshots";
const ALLOWED: &str = "allow_no_snapshots = true\n";

fn both(lab: &Lab) -> pc_switcher_testkit::lab::Result<()> {
    install(lab.laptop())
}

/// Makes both machines know each other, and lets them sync without a flag from then on.
#[track_caller]
fn begin(lab: &Lab) -> Ran {
    // Before anything is mirrored: a directory that is made later changes the time of the one that holds it.
    for machine in [lab.laptop(), lab.desk()] {
        configure(machine, ALLOWED);
    }
    sync(lab.laptop(), "desk", &["--allow-first-sync"]).ends_with(0)
}

/// All that a run which must write nothing could leave on a machine.
fn picture(machine: &Machine) -> Vec<TreeManifest> {
    let trees = ["/home", "/root", "/etc", "/usr/local", "/var/lib/pc-switcher"];
    let there = trees.into_iter().filter(|dir| machine.exists(dir).unwrap());
    there.map(|dir| machine.manifest(dir, &ManifestOptions::new()).unwrap()).collect()
}

/// There, again, back and there again, with work in between.
#[track_caller]
fn to_and_fro(lab: &Lab) {
    let (laptop, desk) = (lab.laptop(), lab.desk());
    begin(lab);
    assert_moved(laptop, desk);
    sync(laptop, "desk", &[]).ends_with(0).says(&["nothing to change"]);
    assert_moved(laptop, desk);
    alice(
        desk,
        "echo back >notes/back; rm src/project/README.md; mkdir new; echo x >new/file; chmod 600 new/file",
    );
    sync(desk, "laptop", &[]).ends_with(0);
    assert_moved(desk, laptop);
    alice(laptop, "echo again >notes/back; mv new newer; ln notes/back notes/other");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
    sync(desk, "laptop", &[]).ends_with(0).says(&["nothing to change"]);
    // Those of the last session, and of the last one in the other direction.
    for machine in [laptop, desk] {
        let kept =
            root(machine, "ls /var/lib/pc-switcher/manifests 2>/dev/null | cut -d - -f 1 | sort -u | wc -l");
        assert!(matches!(kept.trim(), "0" | "1" | "2"), "{}: {kept}", machine.hostname());
    }
}

#[test]
fn homes_move_from_ext4_to_btrfs_and_back() {
    let Some(lab) = FROM_EXT4.take() else { return };
    to_and_fro(&lab);
}

#[test]
fn homes_move_from_btrfs_to_xfs_and_back() {
    let Some(lab) = TO_XFS.take() else { return };
    to_and_fro(&lab);
}

#[test]
fn homes_move_between_machines_that_have_no_btrfs_at_all() {
    let Some(lab) = NOWHERE.take() else { return };
    to_and_fro(&lab);
}

#[test]
fn of_an_image_that_both_machines_have_only_the_blocks_that_differ_go_over() {
    let Some(lab) = FROM_EXT4.take() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    begin(&lab);
    let received = |machine: &Machine| -> u64 {
        let all = "cat /sys/class/net/*/statistics/rx_bytes | awk '{ sum += $1 } END { print sum }'";
        root(machine, all).trim().parse().unwrap()
    };
    alice(laptop, "head -c 256M /dev/urandom >disk.img");
    sync(laptop, "desk", &[]).ends_with(0);
    // A hundredth of it, here and there; and on the way back, where the target has no snapshots.
    for (from, to) in [(laptop, desk), (desk, laptop)] {
        alice(
            from,
            "for n in $(seq 41); do dd if=/dev/urandom of=disk.img bs=64k count=1 seek=$((n * 97)) conv=notrunc status=none; done; \
             fallocate -p -o 200M -l 5M disk.img",
        );
        let so_far = received(to);
        sync(from, to.hostname(), &[]).ends_with(0);
        let bytes = received(to) - so_far;
        assert!(bytes < 5 << 20, "{bytes} bytes for 2.7 MB that changed");
        assert_moved(from, to);
    }
}

/// ext4 has one block for the attributes of a file.
#[test]
fn attributes_that_the_target_cannot_hold_are_named_and_stay_where_they_came_from() {
    let Some(lab) = FROM_EXT4.take() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    begin(&lab);
    let tagged = ["tagged", "tagged/in", "tagged/in/file", "notes/old"];
    alice(
        desk,
        "mkdir -p tagged/in; echo x >tagged/in/file; echo y >notes/old; value=$(head -c 10000 /dev/zero | tr '\\0' x); \
         for path in tagged tagged/in tagged/in/file notes/old; do setfattr -n user.large -v $value $path; done; \
         setfattr -n user.small -v s tagged/in/file",
    );
    let lines = tagged.map(|path| {
        format!("laptop cannot keep attribute `user.large` of `/home/alice/{path}` (its file system says: too large)")
    });
    // The second one tries again, and is no worse.
    for _ in 0..2 {
        let ran = sync(desk, "laptop", &[]).ends_with(0).says(&lines.each_ref().map(String::as_str));
        ran.says(&["keep it on btrfs there, or exclude it", "but for 4 paths left as told above"]);
        assert_eq!(alice(laptop, "cat tagged/in/file notes/old"), "x\ny\n");
        assert_eq!(alice(laptop, "getfattr --only-values -n user.small tagged/in/file"), "s");
    }
    alice(
        laptop,
        "sleep 1.1; echo more >>tagged/in/file; chmod 700 tagged/in; touch tagged/new; setfattr -x user.small tagged/in/file",
    );
    let kept = tagged.map(|path| {
        format!(
            "`/home/alice/{path}` keeps its attribute `user.large`: the file system of laptop cannot hold it"
        )
    });
    for _ in 0..2 {
        sync(laptop, "desk", &[]).ends_with(0).says(&kept.each_ref().map(String::as_str));
        for path in tagged {
            let count = format!("getfattr --only-values -n user.large {path} | wc -c");
            assert_eq!(alice(desk, &count).trim(), "10000", "{path}");
        }
        assert_eq!(
            alice(desk, "cat tagged/in/file; stat -c %a tagged/in; ls tagged"),
            "x\nmore\n700\nin\nnew\n"
        );
        assert_eq!(alice(desk, "getfattr -n user.small tagged/in/file 2>/dev/null || echo gone"), "gone\n");
    }
    alice(
        desk,
        "setfattr -x user.large tagged; setfattr -x user.large tagged/in; rm -r notes/old tagged/in/file",
    );
    sync(desk, "laptop", &[]).ends_with(0).says(&["both machines are the same"]);
    assert_moved(desk, laptop);
}

#[test]
fn folders_without_snapshots_are_refused_unless_that_is_allowed() {
    let Some(lab) = TO_XFS.take() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    let before = home(desk);
    let finding = "desk: `/home` lies on xfs, which has no snapshots";
    let ran = sync(laptop, "desk", &["--allow-first-sync", "--yes"]).ends_with(7);
    ran.says(&[finding, FLAG, "without snapshots on desk: there is no way back to before this sync"]);
    assert_same_tree(&before, &home(desk));
    let states = [laptop, desk].map(picture);
    sync(laptop, "desk", &["--dry-run", "--allow-first-sync"]).ends_with(0).says(&[finding, FLAG]);
    assert!([laptop, desk].map(picture) == states, "a dry run wrote something");
    let ran = sync(laptop, "desk", &["--allow-first-sync", FLAG]).ends_with(0);
    ran.says(&["SKIPPED: no snapshot of `/home`, which lies on xfs"]);
    let states = [laptop, desk].map(picture);
    sync(laptop, "desk", &["--dry-run", FLAG]).ends_with(0);
    assert!([laptop, desk].map(picture) == states, "a dry run after a sync wrote something");
}

#[test]
fn what_changed_on_a_desk_without_snapshots_is_named_and_the_loser_is_where_the_report_says() {
    for lab in [&TO_XFS, &NOWHERE] {
        let Some(lab) = lab.take() else { return };
        let (laptop, desk) = (lab.laptop(), lab.desk());
        begin(&lab);
        alice(laptop, "echo laptop >notes/both; echo new >notes/new");
        alice(desk, "echo desk >notes/both; rm src/project/README.md; echo mine >notes/mine");
        let before = home(desk);
        let named = ["/home/alice/notes/both", "/home/alice/src/project/README.md", "/home/alice/notes/mine"];
        sync(laptop, "desk", &[])
            .ends_with(7)
            .says(&named)
            .says(&["--allow-conflicts", "3 paths changed on desk"]);
        assert_same_tree(&before, &home(desk));
        let ran = sync(laptop, "desk", &["--allow-conflicts"]).ends_with(0).says(&named);
        assert_moved(laptop, desk);
        for (path, text) in [("notes/both", "desk\n"), ("notes/mine", "mine\n")] {
            let flat = ran.text.split_whitespace().collect::<Vec<_>>().join(" ");
            let (_, rest) = flat
                .split_once(&format!("`/home/alice/{path}`: the version of desk is kept as `"))
                .unwrap_or_else(|| panic!("nobody says where {path} is:\n{}", ran.text));
            let kept = rest.split('`').next().unwrap();
            assert_eq!(root(desk, &format!("cat {kept}")), text, "{path} in {kept}");
        }
    }
}

#[test]
fn a_manifest_that_is_torn_means_the_question_of_a_first_sync() {
    let Some(lab) = NOWHERE.take() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    begin(&lab);
    alice(laptop, "echo new >notes/new");
    root(desk, "for file in /var/lib/pc-switcher/manifests/*; do truncate --size=-9 $file; done");
    let ran = sync(laptop, "desk", &[]).ends_with(7);
    ran.says(&["--allow-first-sync", "is cut or damaged"]);
    sync(laptop, "desk", &["--allow-first-sync"]).ends_with(0);
    assert_moved(laptop, desk);
    root(laptop, "rm /var/lib/pc-switcher/manifests/*");
    sync(desk, "laptop", &[]).ends_with(7).says(&["--allow-first-sync", "is not there any more"]);
}

#[test]
fn what_is_written_all_the_time_is_never_torn_and_the_rest_arrives() {
    let Some(lab) = NOWHERE.take() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    // Each round writes the whole file anew, in place, with its own number in every line.
    let round = |number: &str| {
        format!(
            "yes $(printf %07d {number}) | head -c 8000000 | dd of=notes/whole bs=64K conv=notrunc status=none"
        )
    };
    alice(laptop, &format!("{}; echo 1 >notes/log", round("1")));
    begin(&lab);
    let writer = format!(
        "number=1; while :; do number=$((number + 1)); {}; echo $number >>notes/log; done",
        round("$number")
    );
    let before = alice(desk, "cat notes/log");
    let cmd = pc_switcher_testkit::lab::Cmd::script(&writer).as_alice().timeout(Duration::from_secs(300));
    let running = laptop.spawn(&cmd).unwrap();
    for sync_number in 0..3 {
        alice(laptop, &format!("echo quiet >notes/quiet-{sync_number}"));
        std::thread::sleep(Duration::from_secs(1));
        let ran = sync(laptop, "desk", &[]).ends_with(0);
        ran.says(&["`/home/alice/notes/whole` changed while it was read and is left for the next sync"]);
        assert_eq!(alice(desk, "sort -u notes/whole | wc -l").trim(), "1", "torn");
        assert_eq!(alice(desk, "stat -c %s notes/whole").trim(), "8000000");
        assert!(desk.exists(format!("/home/alice/notes/quiet-{sync_number}")).unwrap());
        let log = alice(desk, "cat notes/log");
        assert!(log.starts_with(&before) && log.ends_with('\n'), "{log}");
    }
    running.signal(Signal::KILL).unwrap();
    let _ = running.wait();
    alice(laptop, "sleep 1; true");
    // Whoever goes the other way is asked: the laptop has what the desk never got.
    sync(desk, "laptop", &[]).ends_with(7).says(&["/home/alice/notes/whole"]);
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
}

#[test]
fn what_is_killed_or_stopped_without_snapshots_leaves_each_path_old_or_new_and_the_next_sync_heals() {
    for lab in [&TO_XFS, &NOWHERE] {
        let Some(lab) = lab.take() else { return };
        let (laptop, desk) = (lab.laptop(), lab.desk());
        alice(laptop, "mkdir many && cd many && for n in $(seq 5000); do echo first >$n; done");
        begin(&lab);
        // What is stopped late may be there as a whole, so that the next one needs changes of its own.
        for (stage, is_stopped, text) in [("stage: stage", true, "second"), ("committing", false, "third")] {
            alice(laptop, &format!("cd many && for n in $(seq 5000); do echo {text}-$n >$n; done"));
            let running = laptop.spawn(&line("desk", &[])).unwrap();
            running.expect(stage, MINUTE).unwrap();
            if is_stopped {
                running.signal(Signal::INT).unwrap();
            } else {
                kill(desk, "pc-switcher agent");
            }
            let output = running.wait().unwrap();
            let said = format!("{}{}", output.error_text(), output.text());
            assert!(matches!(output.code(), Some(1 | 4 | 130)), "{said}");
            assert_eq!(output.code() == Some(130), is_stopped, "{said}");
            assert_nothing_runs(&[laptop, desk], SOON);
            let odd = "cd many && for n in *; do read -r text <$n; case $text in first | second-$n | third-$n) ;; *) echo $n ;; esac; done";
            assert_eq!(alice(desk, odd), "", "neither old nor new after {stage}");
        }
        sync(laptop, "desk", &[]).ends_with(0);
        assert_moved(laptop, desk);
        let left =
            root(desk, "ls -A /var/lib/pc-switcher/commits /var/lib/pc-switcher/redone 2>/dev/null || true");
        assert!(!left.lines().any(|line| !line.is_empty() && !line.starts_with('/')), "{left}");
    }
}
