//! A person moves there and back: what arrives, what stays, what the snapshots are.

use pc_switcher_testkit::{
    lab::Cmd,
    manifest::{ManifestOptions, TreeManifest, assert_same_tree},
};

use crate::hosts::{
    self, alice, assert_moved, assert_nothing_runs, configure, dawdle, first_sync, home, identity, lab, line,
    picture, root, run, snapshots, sync,
};

#[test]
fn a_person_moves_to_the_desk_works_there_and_moves_back_without_any_set_up() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    let keys = [identity(laptop), identity(desk)];
    let before = home(laptop);
    first_sync(&lab).says(&["a second plan is empty"]);
    assert_same_tree(&before, &home(laptop));
    assert_moved(laptop, desk);

    alice(
        desk,
        "echo more >>notes/at-the-desk; chmod 600 notes/at-the-desk; mv Mail/cur Mail/kept; rm -r shapes/many",
    );
    alice(desk, "ln links/original links/fourth; setfattr -n user.comment -v new attributes/tagged");
    sync(desk, "laptop", &[]).ends_with(0);
    assert_moved(desk, laptop);
    assert_eq!(alice(laptop, "cat notes/at-the-desk"), "more\n");
    assert!(!laptop.exists("/home/alice/shapes/many").unwrap());

    // And again in the same direction as before.
    alice(laptop, "echo most >>notes/at-the-desk");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
    assert_eq!(keys, [identity(laptop), identity(desk)]);
    assert_eq!(keys[0].len(), 4);
    assert_nothing_runs(&[laptop, desk], hosts::SOON);

    // Both machines remember all three, those that came and those that were sent.
    for machine in [laptop, desk] {
        let rows = alice(machine, "pc-switcher history --json");
        let rows: Vec<serde_json::Value> = serde_json::from_str(&rows).unwrap();
        let ways: Vec<String> =
            rows.iter().map(|row| format!("{} {}", row["source_hostname"], row["ending"])).collect();
        assert_eq!(ways, ["\"laptop\" \"completed\"", "\"desk\" \"completed\"", "\"laptop\" \"completed\""]);
        assert!(alice(machine, "pc-switcher status").starts_with("Last sync: laptop → desk"));
    }
}

#[test]
fn our_own_state_stays_wherever_the_environment_has_put_it() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    let odd =
        |target: &str, flags: &[&str]| line(target, flags).env("XDG_STATE_HOME", "/home/alice/odd/state");
    run(laptop, &odd("desk", &["--allow-first-sync"])).ends_with(0);
    run(laptop, &odd("desk", &[])).ends_with(0);
    assert!(laptop.exists("/home/alice/odd/state/pc-switcher/history.db").unwrap());
    assert!(!desk.exists("/home/alice/odd/state/pc-switcher").unwrap());
    run(desk, &line("laptop", &[])).ends_with(0);
}

#[test]
fn a_renamed_name_of_a_file_with_several_arrives() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    alice(laptop, "mkdir many; echo x >many/a; ln many/a many/b; echo y >many/c; ln many/c many/d");
    first_sync(&lab);
    alice(laptop, "mv many/a many/z; ln many/d many/e; rm many/c");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
}

#[test]
fn a_machine_far_away_gets_the_same() {
    let Some(lab) = lab() else { return };
    let _wire = lab.desk().delay(std::time::Duration::from_millis(40)).unwrap();
    first_sync(&lab);
    assert_moved(lab.laptop(), lab.desk());
}

#[test]
fn modules_run_as_the_config_lists_them_and_only_those() {
    let Some(lab) = lab() else { return };
    let laptop = lab.laptop();
    let order = |text: &str, flags: &[&str]| -> Vec<String> {
        configure(laptop, text);
        let flags = [&["--json"], flags].concat();
        let ran = sync(laptop, "desk", &flags).ends_with(0);
        let events = ran.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        events
            .filter_map(|event| Some(event["stage"].as_str()?.strip_prefix("module:")?.to_owned()))
            .collect()
    };
    let both = "[sync_modules]\nuser-data = true\ndummy-success = true\n";
    assert_eq!(order(both, &["--allow-first-sync"]), ["user-data", "dummy-success"]);
    let turned = "[sync_modules]\ndummy-success = true\nuser-data = true\n";
    assert_eq!(order(turned, &[]), ["dummy-success", "user-data"]);
    assert_eq!(order(turned, &["--skip", "dummy-success"]), ["user-data"]);
    alice(laptop, "echo later >only-later");
    assert_eq!(order(turned, &["--only", "dummy-success"]), ["dummy-success"]);
    assert!(!lab.desk().exists("/home/alice/only-later").unwrap(), "what was not asked for did not run");
    assert_eq!(order(both, &["--only", "dummy-success,user_data"]), ["user-data", "dummy-success"]);
    assert!(lab.desk().exists("/home/alice/only-later").unwrap());
    assert_eq!(order("[sync_modules]\nuser-data = false\ndummy-success = true\n", &[]), ["dummy-success"]);
}

#[test]
fn the_home_of_root_moves_too() {
    let Some(lab) = lab() else { return };
    root(lab.laptop(), "echo mine >/root/notes; mkdir -m 700 /root/deep");
    first_sync(&lab);
    assert_eq!(root(lab.desk(), "cat /root/notes; stat -c %a /root/deep"), "mine\n700\n");
}

#[test]
fn a_second_sync_changes_nothing_and_says_so() {
    let Some(lab) = lab() else { return };
    first_sync(&lab);
    let options = ManifestOptions::new;
    let before = [lab.laptop(), lab.desk()].map(|machine| machine.manifest("/home", &options()).unwrap());
    let inodes = "find /home/alice -not -path '*/.local/*' -printf '%i %C@ %p\\0' | sort -z | md5sum";
    let numbers = root(lab.desk(), inodes);
    sync(lab.laptop(), "desk", &[]).ends_with(0).says(&["nothing to change", "a second plan is empty"]);
    assert_same_tree(&before[1], &lab.desk().manifest("/home", &options()).unwrap());
    assert_eq!(root(lab.desk(), inodes), numbers);
}

#[test]
fn both_machines_keep_snapshots_with_the_documented_names_read_only() {
    let Some(lab) = lab() else { return };
    let ran = first_sync(&lab);
    let (_, rest) = ran.stdout.split_once("(session ").unwrap();
    let session = &rest[..8];
    for machine in [lab.laptop(), lab.desk()] {
        let names = snapshots(machine);
        for subvolume in ["@", "@home", "@root"] {
            for kind in ["presync", "postsync"] {
                let found = names.iter().find(|name| is_named(name, subvolume, kind, session));
                let name = found.unwrap_or_else(|| panic!("no {kind} of {subvolume} in {names:?}"));
                let ask = format!("btrfs property get -ts /.snapshots/{name} ro");
                assert_eq!(root(machine, &ask), "ro=true\n", "{name}");
            }
        }
        assert_eq!(names.len(), 6, "{names:?}");
    }
}

/// `{subvolume}-{kind}-{YYYYMMDDTHHMMSSZ}-{session}`
fn is_named(name: &str, subvolume: &str, kind: &str, session: &str) -> bool {
    let Some(stamp) = name
        .strip_prefix(&format!("{subvolume}-{kind}-"))
        .and_then(|rest| rest.strip_suffix(&format!("-{session}")))
    else {
        return false;
    };
    stamp.len() == 16
        && stamp.char_indices().all(|(at, c)| match at {
            8 => c == 'T',
            15 => c == 'Z',
            _ => c.is_ascii_digit(),
        })
}

#[test]
fn a_deletion_reaches_the_other_machine_and_its_snapshot_keeps_the_file() {
    let Some(lab) = lab() else { return };
    first_sync(&lab);
    alice(lab.laptop(), "rm .config/editor/settings.json; rm -r src/project/.git/refs; rmdir shapes/empty");
    sync(lab.laptop(), "desk", &[]).ends_with(0);
    assert_moved(lab.laptop(), lab.desk());
    let kept = root(lab.desk(), "ls /.snapshots/@home-presync-*/alice/.config/editor/settings.json");
    assert_eq!(kept.lines().count(), 1, "{kept}");
}

#[test]
fn names_with_spaces_line_breaks_and_any_bytes_arrive() {
    let Some(lab) = lab() else { return };
    first_sync(&lab);
    alice(
        lab.laptop(),
        r"mkdir $'two\nlines and a space'; echo in >$'two\nlines and a space/ \xff\t\x1b[2J '",
    );
    sync(lab.laptop(), "desk", &[]).ends_with(0);
    assert_moved(lab.laptop(), lab.desk());
    alice(lab.laptop(), r"rm -r $'two\nlines and a space'");
    sync(lab.laptop(), "desk", &[]).ends_with(0);
    assert_moved(lab.laptop(), lab.desk());
}

#[test]
fn what_is_written_on_the_laptop_during_a_sync_is_not_lost_on_the_way_back() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    dawdle(laptop, 3, "");
    let running = laptop.spawn(&line("desk", &[])).unwrap();
    running.expect("stage: module:dummy-success", hosts::BY_THEN).unwrap();
    alice(laptop, "echo during >notes/during; echo during >>.bash_history");
    let output = running.wait().unwrap();
    assert_eq!(output.code(), Some(0), "{}{}", output.error_text(), output.text());
    assert!(!desk.exists("/home/alice/notes/during").unwrap(), "a sync sends the state of its beginning");
    sync(desk, "laptop", &[]).ends_with(7).says(&["/home/alice/notes/during", "/home/alice/.bash_history"]);
    assert_eq!(alice(laptop, "cat notes/during; tail -n 1 .bash_history"), "during\nduring\n");
    // In the direction in which it was written, it is an ordinary change.
    configure(laptop, "");
    sync(laptop, "desk", &[]).ends_with(0);
    assert_moved(laptop, desk);
}

#[test]
fn what_is_written_on_the_desk_during_a_sync_stays_and_the_next_one_asks_about_it() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    first_sync(&lab);
    alice(laptop, "echo planned >notes/planned");
    dawdle(laptop, 3, "");
    let running = laptop.spawn(&line("desk", &[])).unwrap();
    running.expect("stage: module:dummy-success", hosts::BY_THEN).unwrap();
    alice(
        desk,
        "echo during >notes/during; echo more >>.config/editor/settings.json; rm src/project/README.md",
    );
    let output = running.wait().unwrap();
    let text = format!("{}{}", output.error_text(), output.text());
    assert_eq!(output.code(), Some(0), "{text}");
    let named = [
        "/home/alice/notes/during",
        "/home/alice/.config/editor/settings.json",
        "/home/alice/src/project/README.md",
    ];
    for path in named {
        assert!(text.contains(&format!("`{path}` changed there during the sync")), "{text}");
    }
    configure(laptop, "");
    let ran = sync(laptop, "desk", &[]).ends_with(7);
    ran.says(&named);
    assert_eq!(alice(desk, "cat notes/during; tail -n 1 .config/editor/settings.json"), "during\nmore\n");
    // On the way back it is an ordinary change.
    sync(desk, "laptop", &[]).ends_with(0);
    assert_moved(desk, laptop);
    assert_eq!(alice(laptop, "cat notes/during notes/planned"), "during\nplanned\n");
    assert!(!laptop.exists("/home/alice/src/project/README.md").unwrap());
}

#[test]
fn a_dry_run_writes_nothing_on_either_machine() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    let assert_same = |before: &[(Vec<TreeManifest>, String); 2]| {
        for (machine, (trees, subvolumes)) in [laptop, desk].into_iter().zip(before) {
            let (trees_now, subvolumes_now) = picture(machine);
            for (before, now) in trees.iter().zip(&trees_now) {
                assert_same_tree(before, now);
            }
            assert_eq!(*subvolumes, subvolumes_now);
        }
    };
    let before = [picture(laptop), picture(desk)];
    sync(laptop, "desk", &["--dry-run"]).ends_with(0).says(&["nothing was written"]);
    assert_same(&before);
    first_sync(&lab);
    alice(laptop, "echo new >notes/new; rm .bash_history; chmod 600 Documents/shared.txt");
    let before = [picture(laptop), picture(desk)];
    let ran = sync(laptop, "desk", &["--dry-run"]).ends_with(0);
    ran.says(&["create /home/alice/notes/new", "delete /home/alice/.bash_history"]);
    assert_same(&before);
    assert_nothing_runs(&[laptop, desk], hosts::SOON);
}

#[test]
fn a_german_machine_syncs_like_any_other() {
    let Some(lab) = lab() else { return };
    let german = |cmd: Cmd| cmd.env("LANG", "de_DE.UTF-8").env("LC_ALL", "de_DE.UTF-8").env("LANGUAGE", "de");
    run(lab.laptop(), &german(line("desk", &[]))).ends_with(7);
    run(lab.laptop(), &german(line("desk", &["--allow-first-sync"]))).ends_with(0);
    assert_moved(lab.laptop(), lab.desk());
}
