//! What a sync must not do without the user's word, and what it does with it.

use pc_switcher_testkit::lab::Cmd;

use crate::hosts::{
    BY_THEN, HOME, SOON, alice, assert_moved, configure, dawdle, first_sync, home, lab, line, root,
    snapshots, sync, wait_for,
};

#[test]
fn a_first_sync_without_its_flag_and_without_a_terminal_is_refused() {
    let Some(lab) = lab() else { return };
    let before = home(lab.desk());
    let ran = sync(lab.laptop(), "desk", &["--yes"]).ends_with(7);
    ran.says(&["--allow-first-sync", "have never been synced with each other"]);
    assert_eq!(home(lab.desk()), before);
    assert!(snapshots(lab.desk()).is_empty());
}

#[test]
fn what_changed_on_the_target_is_named_and_never_overwritten_unasked() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    alice(laptop, "echo laptop >notes/both");
    alice(desk, "echo desk >notes/both; echo desk >.config/editor/settings.json; rm src/project/README.md");
    let before = home(desk);
    let named = [
        "/home/alice/notes/both",
        "/home/alice/.config/editor/settings.json",
        "/home/alice/src/project/README.md",
    ];
    sync(laptop, "desk", &[]).ends_with(7).says(&named).says(&["--allow-conflicts"]);
    assert_eq!(home(desk), before);
    sync(laptop, "desk", &["--allow-conflicts"]).ends_with(0).says(&named);
    assert_moved(laptop, desk);
    assert_eq!(alice(desk, "cat notes/both"), "laptop\n");
    let kept = root(desk, "ls -d /.snapshots/@home-presync-* | tail -n 1");
    let kept = kept.trim();
    let both = root(desk, &format!("cat {kept}/alice/notes/both {kept}/alice/.config/editor/settings.json"));
    assert_eq!(both, "desk\ndesk\n");
}

#[test]
fn a_mode_or_attribute_set_on_the_target_is_a_conflict_like_any_change() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "echo one >notes/mode; echo two >notes/attribute; echo three >notes/time");
    first_sync(&lab);
    alice(desk, "chmod 600 notes/mode; setfattr -n user.tag -v x notes/attribute; touch notes/time");
    root(desk, "chmod 711 /home");
    let ran = sync(laptop, "desk", &[]).ends_with(7);
    ran.says(&["/home/alice/notes/mode", "/home/alice/notes/attribute", "/home laptop: "]);
    assert_eq!(
        alice(desk, "stat -c %a notes/mode; getfattr --only-values -n user.tag notes/attribute"),
        "600\nx"
    );
    root(desk, "chmod 755 /home");
    sync(laptop, "desk", &["--allow-conflicts"]).ends_with(0);
    assert_moved(laptop, desk);
}

#[test]
fn the_home_of_somebody_else_is_not_deleted_unasked() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    root(
        desk,
        "useradd --create-home --uid 1234 carol; echo hers >/home/carol/file; chown carol: /home/carol/file",
    );
    let ran = sync(laptop, "desk", &["--allow-first-sync"]).ends_with(7);
    ran.says(&["`/home/carol`, the home of carol, is not on laptop", "--allow-mass-deletion"]);
    assert_eq!(root(desk, "cat /home/carol/file"), "hers\n");
    sync(laptop, "desk", &["--allow-first-sync", "--allow-mass-deletion"]).ends_with(0);
    assert!(!desk.exists("/home/carol").unwrap());
}

#[test]
fn the_same_change_on_both_machines_is_no_conflict() {
    let Some(lab) = lab() else { return };
    first_sync(&lab);
    for machine in [lab.laptop(), lab.desk()] {
        alice(machine, "echo same >notes/same; touch -d 2024-05-06T07:08:09Z notes/same notes");
    }
    sync(lab.laptop(), "desk", &[]).ends_with(0);
    assert_moved(lab.laptop(), lab.desk());
}

#[test]
fn a_mass_deletion_is_refused() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    alice(laptop, "rm -r shapes names src Mail Documents Pictures");
    let before = home(desk);
    sync(laptop, "desk", &[]).ends_with(7).says(&["--allow-mass-deletion", "`/home` would lose"]);
    assert_eq!(home(desk), before);
    sync(laptop, "desk", &["--allow-mass-deletion"]).ends_with(0);
    assert_moved(laptop, desk);
}

#[test]
fn who_works_at_a_desktop_of_the_target_is_asked_first() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    let seat = "UID=1000\nUSER=alice\nACTIVE=1\nSTATE=active\nTYPE=wayland\nCLASS=user\n";
    root(desk, "mkdir -p /run/systemd/sessions");
    desk.write_file("/run/systemd/sessions/7", seat.as_bytes(), 0o644, "root").unwrap();
    let ran = sync(laptop, "desk", &["--allow-first-sync"]).ends_with(7);
    ran.says(&["alice is logged in on desk (wayland desktop)", "--allow-active-session"]);
    assert!(!desk.exists("/home/alice/notes").unwrap());
    sync(laptop, "desk", &["--allow-first-sync", "--allow-active-session"]).ends_with(0);
    root(desk, "rm /run/systemd/sessions/7");
    sync(laptop, "desk", &[]).ends_with(0);
}

#[test]
fn a_plan_that_would_lock_its_user_out_is_refused_and_no_flag_helps() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    alice(laptop, "echo new >notes/new; chmod 777 .ssh");
    let before = home(desk);
    let ran = sync(laptop, "desk", &["--allow-conflicts", "--allow-first-sync"]).ends_with(7);
    ran.says(&["`/home/alice/.ssh` would belong to 1000 with mode 0777"]);
    assert_eq!(home(desk), before);
    sync(laptop, "desk", &["--dry-run"]).ends_with(7);
    alice(laptop, "chmod 700 .ssh");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
}

#[test]
fn a_login_that_stops_working_during_a_sync_is_no_success() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab)
        .says(&["a new ssh login to desk works", "written files read back from desk as they were sent"]);
    dawdle(laptop, 8, "");
    let running = laptop.spawn(&line("desk", &["--log-level", "FULL"])).unwrap();
    running.expect("a new login works without a question", BY_THEN).unwrap();
    running.expect("stage: module:dummy-success", BY_THEN).unwrap();
    root(desk, "mv /home/alice/.ssh/authorized_keys /var/tmp/");
    let output = running.wait().unwrap();
    let text = format!("{}{}", output.error_text(), output.text());
    assert_eq!(output.code(), Some(1), "{text}");
    assert!(text.contains("a new ssh login does not work any more"), "{text}");
}

#[test]
fn a_program_that_writes_to_what_is_replaced_is_named() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "echo one >notes/open");
    first_sync(&lab);
    alice(laptop, "echo two >notes/open");
    let writer = desk.spawn(&Cmd::script("exec 3>>notes/open; exec sleep 60").as_alice()).unwrap();
    wait_for("writer", BY_THEN, || {
        root(desk, "ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c notes/open || true").trim() != "0"
    });
    let ran = sync(laptop, "desk", &[]).ends_with(0);
    ran.says(&["`/home/alice/notes/open` is open for writing in `sleep`"]);
    drop(writer);
    assert_eq!(alice(desk, "cat notes/open"), "two\n");
}

#[test]
fn a_virtual_machine_that_runs_on_what_is_sent_is_named() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "head -c 200000 /dev/urandom >notes/disk.qcow2");
    // What counts is the name that the kernel gives the process.
    root(laptop, "install -m 755 /usr/bin/sleep /var/tmp/qemu-system-x86_64");
    first_sync(&lab);
    let held = "exec 3<>notes/disk.qcow2; exec /var/tmp/qemu-system-x86_64 60";
    let machine = laptop.spawn(&Cmd::script(held).as_alice()).unwrap();
    wait_for("virtual machine", BY_THEN, || {
        root(laptop, "ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c notes/disk || true").trim() != "0"
    });
    let warning =
        "`/home/alice/notes/disk.qcow2` is the disk of a virtual machine that runs (`qemu-system-x86`";
    let idle = sync(laptop, "desk", &[]).ends_with(0);
    assert!(!idle.text.contains("virtual machine"), "{}", idle.text);
    alice(laptop, "printf news | dd of=notes/disk.qcow2 bs=1 seek=5000 conv=notrunc status=none");
    sync(laptop, "desk", &["--dry-run"]).ends_with(0).says(&[warning]);
    sync(laptop, "desk", &[]).ends_with(0).says(&[warning, "as after a power cut"]);
    drop(machine);
    let sums = [laptop, desk].map(|machine| alice(machine, "sha256sum notes/disk.qcow2"));
    assert_eq!(sums[0], sums[1]);
}

#[test]
fn an_empty_source_is_refused() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    for machine in [laptop, desk] {
        root(machine, "mkdir -p '/srv/my data'");
        configure(machine, "[user-data]\nfolders = [\"/srv/my data\"]\n");
    }
    root(laptop, "echo one >'/srv/my data/one'");
    first_sync(&lab);
    assert_eq!(root(desk, "cat '/srv/my data/one'"), "one\n");
    root(laptop, "rm '/srv/my data/one'");
    sync(laptop, "desk", &[]).ends_with(7).says(&["`/srv/my data` is empty", "--allow-replaced-source"]);
    assert_eq!(root(desk, "cat '/srv/my data/one'"), "one\n");
}

#[test]
fn a_second_sync_while_one_runs_is_told_who_holds_which_machine() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    dawdle(laptop, 12, "");
    let running = laptop.spawn(&line("desk", &[])).unwrap();
    running.expect("stage: module:dummy-success", BY_THEN).unwrap();
    sync(laptop, "desk", &[]).ends_with(5).says(&["another sync runs here", "to `desk`"]);
    sync(desk, "laptop", &[]).ends_with(5).says(&["desk is busy", "from laptop by alice"]);
    let output = running.wait().unwrap();
    assert_eq!(output.code(), Some(0), "{}{}", output.error_text(), output.text());
}

#[test]
fn too_little_space_before_a_sync_is_refused() {
    let Some(lab) = lab() else { return };
    root(lab.desk(), "fallocate -l 20G /var/fill");
    let ran = sync(lab.laptop(), "desk", &["--allow-first-sync"]).ends_with(6);
    ran.says(&["desk: `", " free, ", " wanted"]);
    assert!(snapshots(lab.desk()).is_empty());
}

/// Files with a megabyte of attributes each, until no more go in.
const FILL_METADATA: &str = "mkdir /var/attributes; cd /var/attributes
    for n in {1000..9999}; do
        touch $n || break
        perl -e 'print qq(# file: $ARGV[0]\n); print qq(user.$_=), q(\"), q(a) x 16000, qq(\"\n) for 1..64' $n |
            setfattr --restore=- 2>/dev/null || break
    done
    sync";

/// Small files stand in metadata, of which a full disk has little though it has gigabytes of room for data.
#[test]
fn very_many_tiny_files_that_the_desk_has_no_metadata_for_are_refused_before_anything_is_written() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    alice(laptop, "mkdir tiny; head -c 80000000 /dev/urandom | split -b 2000 -a 5 - tiny/");
    // Every second file goes again: data chunks are half empty, and no chunk is free for metadata.
    root(desk, "for n in {1..300}; do fallocate -l 100M /var/fill$n || break; done; sync");
    root(desk, "rm /var/fill*[02468]; sync");
    // Attributes fill what is free in the chunks of metadata, but for some 60 MB.
    root(desk, FILL_METADATA);
    root(desk, "cd /var/attributes; ls | tail -n 60 | xargs rm; sync");
    let before = home(desk);
    configure(laptop, "[disk]\nmin_free = \"2GiB\"\nreserve_minimum = \"1GiB\"\n");
    let ran = sync(laptop, "desk", &[]).ends_with(6);
    ran.says(&[
        "desk: `/home` has room for ",
        " of metadata (names and small files), this sync needs about ",
    ]);
    assert_eq!(home(desk), before);
    assert!(root(desk, "ls -A /home").lines().all(|name| name != ".pc-switcher"));
    // The same amount in one file fits.
    alice(laptop, "rm -r tiny; head -c 80000000 /dev/urandom >large");
    sync(laptop, "desk", &[]).ends_with(0);
}

#[test]
fn a_folder_that_is_a_file_on_the_desk_is_a_problem_that_is_named_before_anything_is_written() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    root(laptop, "mkdir /data");
    root(desk, "touch /data");
    configure(laptop, "[user-data]\nfolders = [\"/home\", \"/data\"]\n");
    let ran = sync(laptop, "desk", &["--allow-first-sync"]).ends_with(3);
    ran.says(&["desk: the folder `/data` is not a directory", "take it out of [user-data] folders"]);
    assert!(snapshots(desk).is_empty());
}

#[test]
fn space_that_runs_out_during_a_sync_stops_it() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    dawdle(laptop, 60, "[disk]\ncheck_interval = 1\n");
    let running = laptop.spawn(&line("desk", &[])).unwrap();
    running.expect("stage: module:dummy-success", BY_THEN).unwrap();
    let before = desk.manifest(HOME, &pc_switcher_testkit::manifest::ManifestOptions::new()).unwrap();
    root(desk, "fallocate -l 15G /var/fill");
    let output = running.wait().unwrap();
    assert_eq!(output.code(), Some(6), "{}{}", output.error_text(), output.text());
    let said = format!("{}{}", output.error_text(), output.text());
    let flat = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("stopped: disk-monitor: the disk-space reserve is used up"), "{said}");
    assert!(!flat.contains("stopped on request"), "{said}");
    assert_eq!(desk.manifest(HOME, &pc_switcher_testkit::manifest::ManifestOptions::new()).unwrap(), before);
    crate::hosts::assert_nothing_runs(&[laptop, desk], SOON);
}
