//! Sets on a machine without btrfs, and sets as files between one with and one without.

use std::time::Duration;

use pc_switcher_testkit::lab::{Cmd, DiskCache, Lab, Machine, MachineName, SharedLab};
use serde_json::Value;

use crate::hosts::{
    BY_THEN, Ran, SOON, alice, assert_nothing_runs, configure, install, kill, options, root, run, wait_for,
};

static PLAIN: SharedLab = SharedLab::new(|| options("copies").ext4(MachineName::Laptop), both);

fn both(lab: &Lab) -> pc_switcher_testkit::lab::Result<()> {
    install(lab.laptop())?;
    install(lab.desk())
}

fn store(machine: &Machine, words: &[&str]) -> Ran {
    let cmd = Cmd::new("pc-switcher").arg("snapshots").args(words.iter().copied()).as_alice();
    run(machine, &cmd.timeout(Duration::from_secs(180)))
}

fn sudo(machine: &Machine, words: &[&str]) -> Ran {
    let cmd = Cmd::new("sudo").args(["pc-switcher", "snapshots"]).args(words.iter().copied()).as_alice();
    run(machine, &cmd.timeout(Duration::from_secs(180)))
}

/// Takes a set, and returns its session.
fn take(machine: &Machine, words: &[&str]) -> String {
    let ran = store(machine, &[&["create", "--json"], words].concat()).ends_with(0);
    let set: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.text));
    set["session"].as_str().unwrap().to_owned()
}

fn listed(machine: &Machine) -> Vec<Value> {
    let list: Value = serde_json::from_str(&store(machine, &["list", "--json"]).ends_with(0).stdout).unwrap();
    assert!(list["orphans"].as_array().unwrap().is_empty(), "{list:#}");
    list["sets"].as_array().unwrap().clone()
}

/// Checks that all that is listed is whole, to the last byte, and that nothing else of ours is left; returns how many sets.
fn whole(machine: &Machine) -> usize {
    store(machine, &["verify", "--deep"]).ends_with(0);
    let sets = listed(machine);
    let members: usize = sets.iter().map(|set| set["members"].as_array().unwrap().len()).sum();
    let flat = root(machine, "ls -A /.snapshots | grep -vxF .pc-switcher | wc -l");
    assert_eq!(flat.trim(), members.to_string(), "{sets:#?}");
    sets.len()
}

#[test]
fn a_machine_without_btrfs_has_sets_with_the_same_commands() {
    let Some(lab) = PLAIN.take() else { return };
    let laptop = lab.laptop();
    configure(laptop, "[snapshots]\nexclude = [\"/home/*/.cache/\"]\n");
    alice(
        laptop,
        "mkdir -p .cache; echo junk >.cache/junk; echo dear >letter; ln letter twin; setfattr -n user.mood -v good letter",
    );
    root(laptop, "echo 'a = 1' >/etc/ours.conf; mkfifo /home/alice/pipe; truncate -s 1G /home/alice/sparse");
    store(laptop, &["create", "before"]).ends_with(0).says(&[
        "(`before`) is taken of /etc",
        "/home",
        "/root",
        "/usr/local",
    ]);
    let used = || -> u64 { root(laptop, "sync; df --output=used -B1M / | tail -1").trim().parse().unwrap() };
    let so_far = used();
    alice(laptop, "echo 'dear ann' >letter; echo new >new; rm twin; touch -d 2020-01-01 notes");
    root(laptop, "sed -i s/1/2/ /etc/ours.conf");
    let second = take(laptop, &["--note", "a second one"]);
    assert!(used() < so_far + 30, "what did not change takes no space: {} MiB more", used() - so_far);
    store(laptop, &["list"]).ends_with(0).says(&["/etc", "/home", "a second one"]);
    store(laptop, &["list", "--sizes"]).ends_with(0).says(&["FREES"]);
    store(laptop, &["show", "before"]).ends_with(0).says(&[
        "/.snapshots/%2Fhome-manual-",
        "of /home",
        "one after the other",
    ]);
    assert_eq!(whole(laptop), 2);
    assert_eq!(root(laptop, "ls -d /.snapshots/%2Fhome-*/alice/.cache 2>/dev/null | wc -l"), "0\n");

    let diff = store(laptop, &["diff", &format!("before..{second}")]).ends_with(0);
    for said in ["changed   /home/alice/letter", "created   /home/alice/new", "deleted   /home/alice/twin"] {
        assert!(diff.stdout.contains(said), "{said} in\n{}", diff.text);
    }
    store(laptop, &["diff", &second]).ends_with(0);
    let versions: Value = serde_json::from_str(
        &store(laptop, &["versions", "/home/alice/letter", "--json"]).ends_with(0).stdout,
    )
    .unwrap();
    assert_eq!(versions["versions"].as_array().unwrap().len(), 2, "{versions:#}");

    store(laptop, &["restore", "before", "/home/alice/letter"]).ends_with(0);
    assert_eq!(
        alice(laptop, "cat letter.restored-*; getfattr --only-values -n user.mood letter.restored-*"),
        "dear\ngood"
    );
    store(laptop, &["restore", "before", "/home/alice/letter", "--in-place"])
        .ends_with(0)
        .says(&["is restored"]);
    assert_eq!(alice(laptop, "cat letter"), "dear\n");
    sudo(laptop, &["restore", "before", "--component", "config", "--to", "/var/tmp"]).ends_with(0);
    assert_eq!(root(laptop, "cat /var/tmp/etc/ours.conf"), "a = 1\n");
    alice(laptop, "cat /.snapshots/%2Fhome-*/alice/letter 2>&1 && exit 1; exit 0");

    store(laptop, &["pin", &second]).ends_with(0);
    store(laptop, &["delete", &second]).ends_with(7).says(&["it is pinned"]);
    store(laptop, &["unpin", &second]).ends_with(0);
    let sets = listed(laptop).len();
    store(laptop, &["pin", "--hard"]).ends_with(1).says(&["only snapshots can be pinned hard"]);
    assert_eq!(listed(laptop).len(), sets, "none is left that was taken for it");
    store(laptop, &["prune"]).ends_with(0).says(&["0 of"]);
    run(laptop, &Cmd::new("pc-switcher").args(["rollback", "before", "--plan"]).as_alice())
        .ends_with(2)
        .says(&["holds copies of directories"]);
    let forge = "cd /.snapshots/%2Fhome-*/alice && chattr -i letter && echo forged >letter";
    let write = "echo x >\"$(ls -d /.snapshots/%2Fhome-*/alice/letter | head -1)\"";
    let ran = run(laptop, &Cmd::script(write));
    assert_ne!(ran.code, Some(0), "a copy is immutable, for root as well");
    root(laptop, &forge.replace("%2Fhome-*", "$(ls /.snapshots | grep %2Fhome | head -1)"));
    store(laptop, &["verify", "--deep"]).ends_with(1).says(&["`alice/letter` in `%2Fhome-"]);
    let list: Value = serde_json::from_str(&store(laptop, &["list", "--json"]).stdout).unwrap();
    for set in list["sets"].as_array().unwrap() {
        store(laptop, &["delete", set["set"].as_str().unwrap()]).ends_with(0);
    }
    assert_eq!(
        root(
            laptop,
            "ls -A /.snapshots /.snapshots/.pc-switcher/sets /.snapshots/.pc-switcher/tmp | grep -c 2Fhome || true"
        ),
        "0\n"
    );
    assert_nothing_runs(&[laptop], SOON);
}

#[test]
fn an_archive_takes_less_and_comes_back_as_it_was() {
    let Some(lab) = PLAIN.take() else { return };
    let laptop = lab.laptop();
    configure(laptop, "[snapshots]\nbackend = \"archive\"\ncompression_level = 9\n");
    alice(laptop, "seq 2000000 >numbers; echo dear >letter");
    let first = take(laptop, &[]);
    let numbers = root(laptop, "stat -c %s /.snapshots/%2Fhome-*/alice/numbers");
    assert!(numbers.trim().parse::<u64>().unwrap() < 5 << 20, "{numbers}");
    alice(laptop, "echo 'dear ann' >letter");
    let second = take(laptop, &[]);
    assert_eq!(whole(laptop), 2);
    assert_eq!(root(laptop, "stat -c %i /.snapshots/%2Fhome-*/alice/numbers | sort -u | wc -l"), "1\n");
    store(laptop, &["diff", &format!("{first}..{second}"), "--path", "/home"])
        .ends_with(0)
        .says(&["changed /home/alice/letter"]);
    let before = alice(laptop, "sha256sum <numbers; rm numbers");
    store(laptop, &["restore", &first, "/home/alice/numbers"]).ends_with(0);
    assert_eq!(alice(laptop, "sha256sum <numbers.restored-*"), before);
    assert_eq!(root(laptop, "ls -A /.snapshots/.pc-switcher/read"), "");
}

#[test]
fn a_kill_or_a_power_cut_while_copies_are_made_or_removed_leaves_whole_sets_only() {
    let Some(lab) = PLAIN.take() else { return };
    let laptop = lab.laptop();
    alice(laptop, "mkdir many && cd many && for n in $(seq 6000); do echo $n >$n; done");
    let first = take(laptop, &[]);
    let create = Cmd::new("pc-switcher").args(["snapshots", "create"]).as_alice();
    for n in 0..3 {
        alice(laptop, &format!("cd many && for n in $(seq 3000); do echo {n}-$n >$n; done"));
        let running = laptop.spawn(&create).unwrap();
        wait_for("a copy under way", BY_THEN, || {
            root(laptop, "ls -d /.snapshots/.pc-switcher/tmp/*/*/*2Fhome*/alice/many 2>/dev/null | wc -l")
                != "0\n"
        });
        if n == 2 {
            laptop.power_cut(DiskCache::Volatile).unwrap();
            let _ = running.wait();
            laptop.boot().unwrap();
        } else {
            kill(laptop, "pc-switcher agent");
            let _ = running.wait();
        }
        assert_eq!(listed(laptop).len(), 1 + n);
        take(laptop, &[]);
        assert_eq!(whole(laptop), 2 + n, "what was half made is gone");
    }
    let delete = Cmd::new("pc-switcher").args(["snapshots", "delete", &first]).as_alice();
    let running = laptop.spawn(&delete).unwrap();
    wait_for("the record gone", BY_THEN, || {
        let toc = format!("ls /.snapshots/.pc-switcher/sets/*{first}*/toc 2>/dev/null | wc -l");
        root(laptop, &toc) == "0\n"
    });
    kill(laptop, "pc-switcher agent");
    let _ = running.wait();
    take(laptop, &[]);
    assert_eq!(whole(laptop), 4);

    alice(laptop, "head -c 60M /dev/urandom >large");
    root(laptop, "sync; fallocate -l $(($(stat -f -c '%f * %S' /) - 30000000)) /fill");
    store(laptop, &["create"]).ends_with(6).says(&["the disk is full"]);
    root(laptop, "rm /fill");
    assert_eq!(whole(laptop), 4, "nothing of it is left");
    take(laptop, &[]);
    assert_eq!(whole(laptop), 5);
}

#[test]
fn a_set_goes_as_a_file_from_btrfs_to_ext4_and_back_and_a_damaged_file_is_refused() {
    let Some(lab) = PLAIN.take() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    configure(desk, "[btrfs-snapshots]\nsubvolumes = [\"@home\"]\n");
    alice(desk, "echo dear >letter; ln letter twin");
    let session = take(desk, &["from-desk", "--note", "of the desk"]);
    store(desk, &["export", "from-desk", "--output", "set.pcs"])
        .ends_with(1)
        .says(&["only root may export", "sudo"]);
    sudo(desk, &["export", "from-desk", "--output", "/home/alice/set.pcs"])
        .ends_with(0)
        .says(&["is exported to"]);
    sudo(desk, &["export", "from-desk", "--output", "/home/alice/set.pcs"])
        .ends_with(1)
        .says(&["is there already"]);
    root(desk, "chown alice /home/alice/set.pcs");
    alice(desk, "scp -q set.pcs laptop:");
    alice(
        laptop,
        "head -c 100000 set.pcs >short; cp set.pcs bad; printf x | dd of=bad bs=1 seek=100000 conv=notrunc status=none",
    );
    for file in ["short", "bad", "letter-that-is-none"] {
        alice(laptop, "echo text >letter-that-is-none");
        sudo(laptop, &["import", &format!("/home/alice/{file}")])
            .ends_with(1)
            .says(&["nothing was imported"]);
        assert_eq!(whole(laptop), 0, "{file}");
    }
    sudo(laptop, &["import", "/home/alice/set.pcs"]).ends_with(0).says(&[&session]);
    sudo(laptop, &["import", "/home/alice/set.pcs"]).ends_with(1).says(&["exists"]);
    assert_eq!(whole(laptop), 1);
    store(laptop, &["list"]).ends_with(0).says(&["from-desk", "of the desk (imported"]);
    alice(laptop, "rm -f letter");
    store(laptop, &["restore", &session, "/home/alice/letter"]).ends_with(0);
    assert_eq!(alice(laptop, "cat letter.restored-*"), "dear\n");

    // And the other way, through a pipe, to btrfs, where it is one of copies too.
    let own = take(laptop, &[]);
    let pipe =
        format!("sudo pc-switcher snapshots export {own} | ssh desk sudo pc-switcher snapshots import -");
    assert!(alice(laptop, &pipe).contains("is imported"));
    assert_eq!(whole(desk), 2);
    store(desk, &["show", &own]).ends_with(0).says(&["/.snapshots/%2Fhome-manual-"]);
    store(desk, &["delete", &own]).ends_with(0);
    store(desk, &["restore", &session, "/home/alice/twin", "--to", "/tmp"]).ends_with(0);
    assert_eq!(whole(desk), 1);
    assert_nothing_runs(&[laptop, desk], SOON);
}
