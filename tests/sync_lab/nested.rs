//! Subvolumes inside of the one that holds a home.

use std::time::Duration;

use pc_switcher_testkit::lab::{Cmd, DiskCache, HomeDisk, Lab, Machine, MachineName, SharedLab};
use pc_switcher_testkit::manifest::assert_same_tree;

use crate::hosts::{
    SOON, alice, assert_moved, assert_nothing_runs, configure, first_sync, home, install, kill, lab, line,
    options, picture, plan, root, run, snapshots, sync,
};
use crate::rollback::restart;

static TO_EXT4: SharedLab = SharedLab::new(
    || options("nested-ext4").home(MachineName::Desk, HomeDisk::Ext4),
    |lab| install(lab.laptop()),
);

const MINUTE: Duration = Duration::from_secs(60);

/// Makes a subvolume in alice's home with a few files of hers; its directory keeps the time that it has afterwards.
#[track_caller]
fn make(machine: &Machine, path: &str) {
    let first = path.split('/').next().unwrap();
    let script = format!(
        "cd /home/alice && mkdir -p $(dirname {path}) && btrfs -q subvolume create {path} && cd {path} && \
         mkdir -p dir/deep && echo in >file && echo deep >dir/deep/file && ln file other && chmod 640 file && \
         chmod 750 . && cd /home/alice && chown -R alice: {first}"
    );
    root(machine, &script);
}

#[track_caller]
fn is_subvolume(machine: &Machine, path: &str) -> bool {
    root(machine, &format!("stat -c %i /home/alice/{path}")).trim() == "256"
}

/// A laptop with one subvolume, with another one in it, and one in a directory of its own; the desk knows them.
fn begin(lab: &Lab) {
    for path in ["guest", "guest/dir/inner", "machines/new/box"] {
        make(lab.laptop(), path);
    }
    first_sync(lab);
}

#[test]
fn one_is_made_where_it_is_missing_and_the_next_sync_has_nothing_to_do() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    begin(&lab);
    for path in ["guest", "guest/dir/inner", "machines/new/box"] {
        assert!(is_subvolume(desk, path), "{path}");
    }
    assert_moved(laptop, desk);
    for machine in [laptop, desk] {
        let held = snapshots(machine);
        let inner = |name: &&String| name.starts_with("@home%2Falice%2Fguest%2Fdir%2Finner-");
        assert!(held.iter().any(|name| inner(&name)), "{held:?}");
    }
    let before = home(desk);
    sync(laptop, "desk", &[]).ends_with(0).says(&["nothing to change"]);
    assert_same_tree(&before, &home(desk));
    run(desk, &Cmd::new("pc-switcher").args(["snapshots", "verify", "--deep"]).as_alice()).ends_with(0);
}

/// Moves the stamps of all snapshots, and of the records of pairs: as if the clock had stood behind until then.
const FORGE: &str = "any='[0-9]{8}T[0-9]{6}Z'
    cd /.snapshots; for name in *; do mv -n $name $(echo $name | sed -E s/$any/$later/); done
    sed -i -E s/$any/$later/g /var/lib/pc-switcher/pairs/*.json";

#[test]
fn an_edit_in_one_that_keeps_size_and_time_is_told_by_what_the_file_was_and_not_by_a_clock() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    make(laptop, "guest");
    alice(laptop, "cd guest; echo one >kept-time; touch -d 2024-05-06T07:08:09Z kept-time");
    first_sync(&lab);
    alice(laptop, "cd guest; echo two >kept-time; touch -d 2024-05-06T07:08:09Z kept-time; sleep 4");
    let later = root(laptop, "date -u -d '-1 second' +%Y%m%dT%H%M%SZ");
    for machine in [laptop, desk] {
        root(machine, &format!("later={}; {FORGE}", later.trim()));
    }
    sync(laptop, "desk", &[]).ends_with(0);
    assert_eq!(alice(desk, "cat guest/kept-time"), "two\n");
}

#[test]
fn work_in_one_goes_over_in_both_directions() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    begin(&lab);
    alice(
        laptop,
        "sleep 1.1; echo more >>guest/file; rm -r machines/new/box/dir; echo x >guest/dir/inner/new; mv guest/dir/deep guest/moved",
    );
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
    assert_eq!(alice(desk, "cat guest/other guest/moved/file guest/dir/inner/new"), "in\nmore\ndeep\nx\n");
    alice(desk, "sleep 1.1; echo back >>guest/file; chmod 600 guest/dir/inner/file; echo y >notes/y");
    make(desk, "notes/theirs");
    sync(desk, "laptop", &[]).ends_with(0);
    assert_moved(desk, laptop);
    assert!(is_subvolume(laptop, "notes/theirs"));
    sync(laptop, "desk", &[]).ends_with(0).says(&["nothing to change"]);
}

#[test]
fn what_the_desk_changed_in_one_is_a_conflict_like_any_other() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    begin(&lab);
    alice(laptop, "sleep 1.1; echo laptop >guest/file");
    alice(desk, "sleep 1.1; echo desk >guest/file");
    sync(laptop, "desk", &[]).ends_with(7).says(&["/home/alice/guest/file", "--allow-conflicts"]);
    assert_eq!(alice(desk, "cat guest/file"), "desk\n");
    let ran = sync(laptop, "desk", &["--allow-conflicts"]).ends_with(0);
    assert_moved(laptop, desk);
    let kept =
        ran.text.split('`').find(|word| word.starts_with("/.snapshots/@home%2Falice%2Fguest-presync-"));
    assert_eq!(root(desk, &format!("cat {}", kept.expect(&ran.text))), "desk\n");
}

#[test]
fn a_new_one_on_both_machines_asks_about_what_differs_and_about_nothing_else() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    for machine in [laptop, desk] {
        make(machine, "guest");
    }
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
    for machine in [laptop, desk] {
        make(machine, "two");
        alice(machine, &format!("echo {} >two/own", machine.hostname()));
    }
    let ran = sync(laptop, "desk", &[]).ends_with(7).says(&["/home/alice/two/own"]);
    assert!(!ran.text.contains("/home/alice/two/file"), "{}", ran.text);
    sync(laptop, "desk", &["--allow-conflicts"]).ends_with(0);
    assert_moved(laptop, desk);
}

#[test]
fn none_is_followed_where_the_config_says_skip_and_each_is_named() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    configure(laptop, "[user-data]\nnested = \"skip\"\n");
    make(laptop, "guest");
    first_sync(&lab).says(&["`/home/alice/guest` is a nested subvolume and is not mirrored"]);
    assert!(!desk.exists("/home/alice/guest").unwrap());
    assert!(!snapshots(laptop).iter().any(|name| name.contains("guest")), "{:?}", snapshots(laptop));
    configure(laptop, "");
    sync(laptop, "desk", &[]).ends_with(0);
    assert!(is_subvolume(desk, "guest"));
    assert_moved(laptop, desk);
}

#[test]
fn what_is_excluded_is_not_mentioned_and_what_keeps_snapshots_is_left_alone() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    configure(laptop, "[user-data]\nexclude = [\"/alice/secret\"]\n");
    for path in [".cache/one", "secret", ".local/share/containers/storage/layer", ".snapshots", "guest"] {
        make(laptop, path);
    }
    root(
        laptop,
        "cd /home/alice; btrfs -q subvolume snapshot -r guest frozen; btrfs -q subvolume snapshot -r guest .snapshots/1",
    );
    let ran = first_sync(&lab).says(&["`/home/alice/frozen` is a nested subvolume", "a read-only snapshot"]);
    ran.says(&["`/home/alice/.snapshots` is a nested subvolume", "it holds snapshots"]);
    for word in ["/.cache/one", "/secret", "/layer", ".snapshots/1"] {
        let path = format!("/home/alice{word}");
        assert!(
            !snapshots(laptop).iter().any(|name| name.contains("one") || name.contains("secret")),
            "{path}"
        );
        assert!(!desk.exists(&path).unwrap(), "{path}");
    }
    assert!(is_subvolume(desk, "guest") && !desk.exists("/home/alice/frozen").unwrap());
    let again = sync(laptop, "desk", &[]).ends_with(0).says(&["nothing to change"]);
    assert!(!again.text.contains("secret") && !again.text.contains("layer"), "{}", again.text);
}

#[test]
fn one_that_was_deleted_goes_and_its_content_stays_in_the_pre_sync_set() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    begin(&lab);
    alice(laptop, "for n in $(seq 60); do echo $n >guest/$n; done");
    sync(laptop, "desk", &[]).ends_with(0);
    root(
        laptop,
        "cd /home/alice; btrfs -q subvolume delete guest/dir/inner; btrfs -q subvolume delete guest",
    );
    alice(desk, "sleep 1.1; echo edited >guest/7");
    sync(laptop, "desk", &[]).ends_with(7).says(&["/home/alice/guest/7", "deleted on laptop"]);
    assert_eq!(alice(desk, "cat guest/7"), "edited\n");
    sync(laptop, "desk", &["--allow-conflicts"]).ends_with(0).says(&["`/home/alice/guest` is removed"]);
    assert!(!desk.exists("/home/alice/guest").unwrap());
    assert_moved(laptop, desk);
    assert_eq!(
        root(desk, "cat /.snapshots/@home%2Falice%2Fguest-presync-*/7 | grep edited | sort -u"),
        "edited\n"
    );
    // A directory that is deleted with one in it goes as well.
    root(laptop, "cd /home/alice; btrfs -q subvolume delete machines/new/box; rm -r machines");
    sync(laptop, "desk", &[]).ends_with(0);
    assert!(!desk.exists("/home/alice/machines").unwrap());
    assert_moved(laptop, desk);
    // What only the desk has, and had when nobody looked, is nobody's to delete.
    make(desk, "theirs");
    sync(laptop, "desk", &[]).ends_with(0).says(&["`/home/alice/theirs` is a nested subvolume"]);
    assert_eq!(alice(desk, "cat theirs/file"), "in\n");
}

#[test]
fn very_much_in_one_that_was_deleted_is_a_mass_deletion() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    make(laptop, "guest");
    alice(laptop, "cd guest; for n in $(seq 1200); do echo $n >$n; done");
    first_sync(&lab);
    root(laptop, "btrfs -q subvolume delete /home/alice/guest");
    sync(laptop, "desk", &[]).ends_with(7).says(&["`/home` would lose", "--allow-mass-deletion"]);
    assert_eq!(alice(desk, "cat guest/1200"), "1200\n");
    sync(laptop, "desk", &["--allow-mass-deletion"]).ends_with(0);
    assert_moved(laptop, desk);
}

#[test]
fn what_one_machine_keeps_in_a_directory_is_synced_as_content() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    begin(&lab);
    // The subvolume becomes a directory, then a directory becomes a subvolume.
    root(
        laptop,
        "cd /home/alice; mv guest old; cp -a old guest; btrfs -q subvolume delete old/dir/inner old",
    );
    alice(laptop, "sleep 1.1; echo plain >guest/file");
    sync(laptop, "desk", &[]).ends_with(0);
    assert!(is_subvolume(desk, "guest") && !is_subvolume(laptop, "guest"));
    assert_moved(laptop, desk);
    alice(desk, "sleep 1.1; echo back >guest/back; rm guest/other");
    sync(desk, "laptop", &[]).ends_with(0);
    assert_moved(desk, laptop);
    root(
        laptop,
        "cd /home/alice; mv notes old; btrfs -q subvolume create notes; chown alice: notes; cp -a old/. notes; rm -r old",
    );
    alice(laptop, "echo one >notes/one");
    let before = alice(desk, "ls notes");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
    assert!(!is_subvolume(desk, "notes") && before != alice(desk, "ls notes"));
}

#[test]
fn one_that_was_moved_arrives_at_its_new_place() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    begin(&lab);
    alice(laptop, "mv machines/new machines/renamed; mv guest/dir guest/other-dir");
    root(laptop, "mv /home/alice/guest /home/alice/guest2");
    sync(laptop, "desk", &[]).ends_with(0);
    for path in ["machines/renamed/box", "guest2", "guest2/other-dir/inner"] {
        assert!(is_subvolume(desk, path), "{path}");
    }
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
}

#[test]
fn on_a_target_without_subvolumes_it_is_a_directory() {
    let Some(lab) = TO_EXT4.take() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    for machine in [laptop, desk] {
        configure(machine, "allow_no_snapshots = true\n");
    }
    begin(&lab);
    assert_moved(laptop, desk);
    alice(desk, "sleep 1.1; echo back >>guest/file; rm -r machines");
    sync(desk, "laptop", &["--allow-conflicts"]).ends_with(0);
    assert!(is_subvolume(laptop, "guest"));
    assert_eq!(alice(laptop, "cat guest/file"), "in\nback\n");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_same_tree(&home(laptop), &home(desk));
}

#[test]
fn a_dry_run_names_what_it_would_make_and_writes_nothing() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    begin(&lab);
    make(laptop, "later");
    root(laptop, "cd /home/alice; btrfs -q subvolume delete machines/new/box");
    let before = [laptop, desk].map(picture);
    let items = plan(laptop, "desk");
    for (action, path) in [("create", "later"), ("create", "later/file"), ("delete", "machines/new/box")] {
        let wanted = format!("\"{action}\" \"/home/alice/{path}\"");
        assert!(items.contains(&wanted), "{wanted} in {items:?}");
    }
    for (before, machine) in before.into_iter().zip([laptop, desk]) {
        let now = picture(machine);
        assert!(before.1 == now.1, "{}", now.1);
        before.0.iter().zip(&now.0).for_each(|(before, now)| assert_same_tree(before, now));
    }
}

#[test]
fn after_a_kill_or_a_power_cut_the_next_sync_makes_them_whole() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    for (at, stage) in [(1, "stage"), (2, "commit"), (3, "committing")] {
        let name = format!("guest{at}");
        make(laptop, &name);
        alice(
            laptop,
            &format!("cd {name}; for n in $(seq 2000); do echo $n >$n; done; echo {at} >../notes/{at}"),
        );
        let running = laptop.spawn(&line("desk", &[])).unwrap();
        running.expect(&format!("nested subvolume `/home/alice/{name}` is made"), MINUTE).unwrap();
        match at {
            1 => drop(kill(desk, "pc-switcher agent")),
            2 => running.signal(rustix::process::Signal::KILL).unwrap(),
            _ => {
                running.expect(stage, MINUTE).unwrap();
                desk.power_cut(DiskCache::Volatile).unwrap();
            }
        }
        drop(running.wait());
        if at == 3 {
            desk.boot().unwrap();
        }
        assert_nothing_runs(&[laptop, desk], MINUTE + SOON);
        sync(laptop, "desk", &[]).ends_with(0);
        assert!(is_subvolume(desk, &name));
        assert_moved(laptop, desk);
    }
}

#[test]
fn no_way_back_loses_one() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    begin(&lab);
    alice(laptop, "sleep 1.1; echo bad >guest/file; echo bad >notes/bad");
    make(laptop, "fresh");
    let ran = sync(laptop, "desk", &[]).ends_with(0);
    let session = ran.stdout.split_once("(session ").unwrap().1[..8].to_owned();
    let before = home(desk);
    let rollback = |more: [&str; 2]| {
        let words = ["rollback", &session, "--machine", "target", more[0], more[1]];
        run(laptop, &Cmd::new("pc-switcher").args(words).as_alice().timeout(MINUTE)).ends_with(0)
    };
    rollback(["--plan", "--subvol=@home"]).says(&[
        "3 subvolumes inside of them come along as they are",
        "`/home/alice/guest` comes along and does not go back; set ",
        " holds it by itself: `pc-switcher snapshots restore`",
        "`/home/alice/fresh` comes along and does not go back",
    ]);
    assert_same_tree(&before, &home(desk));
    run(desk, &Cmd::new("pc-switcher").args(["undo", &session]).as_alice()).ends_with(0);
    assert_eq!(
        alice(desk, "cat guest/file; test -e notes/bad || echo gone; cat fresh/file"),
        "in\ngone\nin\n"
    );
    let restore =
        ["snapshots", "restore", &session, "/home/alice/guest/dir/inner/file", "--in-place", "--yes"];
    alice(desk, "echo worse >guest/dir/inner/file");
    run(desk, &Cmd::new("pc-switcher").args(restore).as_alice()).ends_with(0);
    assert_eq!(alice(desk, "cat guest/dir/inner/file"), "in\n");

    alice(desk, "echo of now >guest/file; echo bad >notes/bad");
    rollback(["--subvol", "@home"]);
    restart(desk);
    // What the unit of the boot starts where there is systemd.
    root(desk, "pc-switcher agent --redo-rollback");
    for path in ["guest", "guest/dir/inner", "machines/new/box", "fresh"] {
        assert!(is_subvolume(desk, path), "{path}");
    }
    assert_eq!(alice(desk, "cat guest/file; test -e notes/bad || echo gone"), "of now\ngone\n");
}

#[test]
fn what_came_into_one_while_it_was_removed_is_nobodys_later() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    make(laptop, "guest");
    first_sync(&lab);
    root(laptop, "btrfs -q subvolume delete /home/alice/guest");
    let writes = "setsid sh -c 'n=0; while [ ! -e /tmp/enough ]; do n=$((n + 1)); echo x >guest/new-$((n % 20)); done' >/dev/null 2>&1 &";
    alice(desk, writes);
    sync(laptop, "desk", &["--allow-conflicts"]);
    root(desk, "touch /tmp/enough; sleep 1");
    let held = alice(desk, "ls guest | wc -l");
    assert_ne!(held.trim(), "0", "nothing came in time");
    make(laptop, "guest");
    sync(laptop, "desk", &[]).ends_with(7).says(&["/home/alice/guest/new-"]);
    assert_eq!(alice(desk, "ls guest | wc -l"), held);
}

#[test]
fn one_that_cannot_be_removed_is_named_and_the_next_sync_removes_it() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    root(
        laptop,
        "cd /home/alice && mkdir box && btrfs -q subvolume create box/held && btrfs -q subvolume create other && \
         chown alice: box box/held other && touch -d 2020-01-01 box",
    );
    first_sync(&lab);
    root(
        laptop,
        "cd /home/alice && btrfs -q subvolume delete box/held other && touch -d 2020-01-01 box && echo x >too && chown alice: too",
    );
    // Nothing goes from a directory that must not be changed.
    root(desk, "chattr +i /home/alice/box");
    let said = [
        "the nested subvolume `/home/alice/box/held` stays, empty: cannot remove",
        "lsattr -d /home/alice/box",
    ];
    sync(laptop, "desk", &[]).ends_with(0).says(&said).says(&["but for 1 path left as told"]);
    assert_eq!(alice(desk, "cat too; ls -d box/held other 2>/dev/null || true"), "x\nbox/held\n");
    root(desk, "chattr -i /home/alice/box");
    sync(laptop, "desk", &[]).ends_with(0).says(&["the nested subvolume `/home/alice/box/held` is removed"]);
    assert_moved(laptop, desk);
}
