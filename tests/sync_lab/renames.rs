//! What was renamed on one machine is renamed on the other, between two machines.

use std::time::Duration;

use pc_switcher_testkit::lab::{DiskCache, Machine};

use crate::hosts::{
    alice, assert_moved, assert_nothing_runs, configure, first_sync, lab, line, plan, root, run, sync,
};

/// Bytes that came over the network so far.
fn received(machine: &Machine) -> u64 {
    let all = "cat /sys/class/net/*/statistics/rx_bytes | awk '{ sum += $1 } END { print sum }'";
    root(machine, all).trim().parse().unwrap()
}

fn inode(machine: &Machine, path: &str) -> String {
    alice(machine, &format!("stat -c %i {path}"))
}

#[test]
fn a_large_directory_that_was_renamed_keeps_its_inodes_and_nearly_nothing_goes_over() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(
        laptop,
        "mkdir -p photos/2024 lib && cd photos/2024 && for n in $(seq 2000); do head -c 3000 /dev/urandom >$n.jpg; done",
    );
    first_sync(&lab);
    let before = [inode(desk, "photos/2024/7.jpg"), inode(desk, "photos/2024")];
    alice(laptop, "mv photos/2024 lib/old");
    // The dry run knows it, and nothing is counted as gone.
    assert!(
        plan(laptop, "desk").contains(&"\"move\" \"/home/alice/lib/old\"".to_owned()),
        "{:?}",
        plan(laptop, "desk")
    );
    let so_far = received(desk);
    let ran = sync(laptop, "desk", &[]).ends_with(0).says(&["1 moved"]);
    assert!(!ran.text.contains("gone") && !ran.text.contains("everything below"), "{}", ran.text);
    let bytes = received(desk) - so_far;
    assert!(bytes < 300_000, "{bytes} bytes for 6 MB of files that are there");
    assert_eq!(before, [inode(desk, "lib/old/7.jpg"), inode(desk, "lib/old")]);
    assert_moved(laptop, desk);
    // And back, into a directory that is made for it, with work below it and on it.
    alice(
        desk,
        "mkdir -p best/of; mv lib/old best/of/all; echo edited >best/of/all/7.jpg; rm best/of/all/8.jpg; chmod 711 best/of/all",
    );
    let before = inode(laptop, "lib/old/9.jpg");
    run(desk, &line("laptop", &[])).ends_with(0).says(&["1 moved"]);
    assert_eq!(before, inode(laptop, "best/of/all/9.jpg"));
    assert_moved(desk, laptop);
    run(desk, &line("laptop", &[])).ends_with(0).says(&["nothing"]);
}

#[test]
fn whatever_moves_past_each_other_arrives() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(
        laptop,
        "for d in a b one two three outer/inner/deep proj gone/kept; do mkdir -p $d; echo $d >$d/name; done; \
         echo f1 >f1; echo f2 >f2; echo over >over; echo under >under; mkdir was-dir; echo x >was-dir/x; echo f >was-file; \
         echo linked >linked; ln linked gone/link",
    );
    first_sync(&lab);
    let swap = |one: &str, two: &str| format!("mv {one} tmp; mv {two} {one}; mv tmp {two}");
    let script = [
        swap("a", "b"),
        swap("f1", "f2"),
        swap("was-dir", "was-file"),
        "mv one tmp; mv three one; mv two three; mv tmp two".into(),
        // Into its former child, into a new directory of its own name, out of one that goes, over a file.
        "mv outer/inner inner; mv outer inner/outer".into(),
        "mv proj tmp; mkdir proj; mv tmp proj/old; echo new >proj/name".into(),
        "mv gone/kept kept; rm -r gone; echo more >>kept/name".into(),
        "mv over under; chmod 600 under".into(),
    ]
    .join("; ");
    let before = ["a", "two", "outer", "proj", "over"].map(|path| inode(desk, path));
    alice(laptop, &script);
    sync(laptop, "desk", &[]).ends_with(0).says(&["moved"]);
    assert_moved(laptop, desk);
    assert_eq!(before, ["b", "three", "inner/outer", "proj/old", "under"].map(|path| inode(desk, path)));
}

#[test]
fn what_the_rules_leave_out_moves_along_and_what_crosses_them_comes_and_goes_whole() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    configure(laptop, "[user-data]\nexclude = [\"target/\", \"/alice/scratch\"]\n");
    alice(
        laptop,
        "mkdir -p crate/src scratch plain; echo fn >crate/src/main.rs; echo s >scratch/s; echo p >plain/p",
    );
    first_sync(&lab);
    alice(desk, "mkdir -p crate/target; echo built >crate/target/program");
    alice(laptop, "mv crate box; mv scratch kept; mv plain scratch");
    sync(laptop, "desk", &[]).ends_with(0).says(&["1 moved"]);
    assert_eq!(
        alice(
            desk,
            "cat box/target/program box/src/main.rs kept/s; ls -d crate plain scratch 2>/dev/null || true"
        ),
        "built\nfn\ns\n"
    );
    sync(laptop, "desk", &[]).ends_with(0).says(&["nothing"]);
}

#[test]
fn an_edit_below_a_directory_that_moves_is_asked_about() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "mkdir -p work/deep; for n in 1 2 3; do echo $n >work/deep/$n; done");
    first_sync(&lab);
    alice(laptop, "mv work play");
    alice(desk, "echo mine >work/deep/2; echo mine, too >work/new");
    let named = [
        "/home/alice/play/deep/2",
        "as `/home/alice/work/deep/2`",
        "/home/alice/play/new",
        "--allow-conflicts",
    ];
    sync(laptop, "desk", &[]).ends_with(7).says(&named);
    assert_eq!(alice(desk, "cat work/deep/* work/new"), "1\nmine\n3\nmine, too\n");
    // Another one under the name is not the one that moved.
    alice(desk, "rm work/new; mv work mine; mkdir work; echo other >work/file");
    sync(laptop, "desk", &[]).ends_with(7).says(&["/home/alice/work/file", "/home/alice/mine"]);
    assert_eq!(alice(desk, "cat work/file mine/deep/2"), "other\nmine\n");
    sync(laptop, "desk", &["--allow-conflicts"]).ends_with(0);
    assert_moved(laptop, desk);
}

#[test]
fn after_a_power_cut_in_a_commit_that_moves_the_next_sync_heals() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "mkdir many other && cd many && for n in $(seq 8000); do echo first >$n; done");
    first_sync(&lab);
    alice(
        laptop,
        "mv many moved; mv other many; cd moved && for n in $(seq 8000); do echo second-$n >$n; done; mkdir ../in; mv 7* ../in/",
    );
    desk.sync_disk().unwrap();
    let running = laptop.spawn(&line("desk", &[])).unwrap();
    running.expect("committing", Duration::from_secs(60)).unwrap();
    desk.power_cut(DiskCache::Volatile).unwrap();
    drop(running.wait().unwrap());
    desk.boot().unwrap();
    assert_nothing_runs(&[laptop], crate::hosts::SOON);
    sync(laptop, "desk", &[]).ends_with(0).says(&["was cut off while it committed"]);
    assert_moved(laptop, desk);
}
