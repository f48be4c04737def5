use pc_switcher_agent::proto::{
    Backend, GoodBy, HardPin, Holder, Need, PackageManager, Packages, Strays, System, Words,
};
use pc_switcher_contract::{SnapshotMember, SnapshotName, SnapshotSet};

use pc_switcher_btrfs_snapshots::retention::Reason;

use super::*;
use crate::cli::{CliError, Exit};

fn stored(kind: SnapshotKind, stamp: &str) -> StoredSet {
    let member = |subvolume: &str| {
        let name: SnapshotName = format!("{subvolume}-{}-{stamp}-abc12345", kind.in_name()).parse().unwrap();
        SnapshotMember {
            path: format!("/.snapshots/{name}").as_str().into(),
            name,
            uuid: "1".repeat(32),
            source_uuid: "2".repeat(32),
            id: 300,
            otransid: 7,
            ctransid: 7,
            first_taken: None,
            apart: None,
        }
    };
    StoredSet {
        set: SnapshotSet {
            hostname: "desk".parse().unwrap(),
            kind,
            stamp: stamp.parse().unwrap(),
            session: "abc12345".parse().unwrap(),
            consistent: true,
            members: ["@", "@home"].map(member).into(),
        },
        backend: Backend::Btrfs,
        pinned: false,
        hard: None,
        in_use: false,
        holders: Vec::new(),
        has_steps: false,
        needs: Vec::new(),
        missing: Vec::new(),
        away: Vec::new(),
        words: Words::default(),
        system: None,
    }
}

fn found() -> Found {
    let mut sets = vec![
        stored(SnapshotKind::PreSync, "20251115T120000Z"),
        stored(SnapshotKind::PostSync, "20251115T120500Z"),
    ];
    sets[0].pinned = true;
    sets[1].needs.push(Need::Pair("laptop".into()));
    let strays = Strays { orphans: vec!["/.snapshots/old".into()], ..Strays::default() };
    Found { hostname: "desk".parse().unwrap(), sets, strays }
}

#[test]
fn the_list_fits_a_terminal_and_names_what_belongs_to_no_set() {
    let lines = table(&found(), &More::default());
    let wanted = [
        " SESSION   TAKEN (UTC)       KIND       OF       STATE",
        " abc12345  2025-11-15 12:00  pre-sync   @ @home  pinned",
        " abc12345  2025-11-15 12:05  post-sync  @ @home  needed",
        "orphan: /.snapshots/old",
    ];
    assert_eq!(lines, wanted);
}

#[test]
fn a_session_means_all_its_sets_and_an_unknown_word_is_refused() {
    let found = found();
    let chosen = |word: &str| found.chosen(&[word.to_owned()]).map(|chosen| chosen.len());
    assert_eq!(chosen("abc12345").unwrap(), 2);
    assert_eq!(chosen("20251115T120500Z-abc12345-postsync").unwrap(), 1);
    let error = chosen("00000000").unwrap_err();
    assert!(error.to_string().contains("on desk") && error.exit() == Exit::Usage);
}

#[test]
fn what_protects_a_set_is_said_in_words() {
    let found = found();
    assert_eq!(protection(&found.sets[0]).unwrap(), "it is pinned");
    assert_eq!(protection(&found.sets[1]).unwrap(), "the next sync with laptop starts from it");
    assert_eq!(protection(&stored(SnapshotKind::Manual, "20251115T120000Z")), None);
    let mut good = stored(SnapshotKind::Manual, "20251115T120000Z");
    good.words.good = true;
    assert_eq!(protection(&good).unwrap(), "it is the last known good one");
    good.words.good_by = GoodBy::Sync;
    assert_eq!(protection(&good).unwrap(), "it is known to be good, marked by a sync that was confirmed");
    let lines = details(&found.sets[1]);
    assert!(lines.contains(&"Needed    the next sync with laptop starts from it".to_owned()));
    assert_eq!(
        json(&found, &More::default())["sets"][1]["needed"][0],
        "the next sync with laptop starts from it"
    );
}

fn pin_of(found: &mut Found) -> &mut HardPin {
    found.sets[0].hard.as_mut().unwrap()
}

#[test]
fn a_hard_pin_is_told_apart_from_others_and_what_is_wrong_with_it_is_said() {
    let mut found = found();
    let dir = "/.snapshots/.pc-switcher/pins/20251115T120000Z-abc12345-presync";
    let names: Vec<SnapshotName> =
        found.sets[0].set.members.iter().map(|member| member.name.clone()).collect();
    found.sets[0].hard =
        Some(HardPin { dir: dir.into(), lacks: Vec::new(), is_open: false, is_for_mark: false });
    found.sets[0].missing = vec![names[1].clone()];
    let lines = table(&found, &More::default());
    assert_eq!(lines[1], " abc12345  2025-11-15 12:00  pre-sync   @ @home  pinned hard");
    assert_eq!(protection(&found.sets[0]).unwrap(), "it is pinned hard");
    let lines = details(&found.sets[0]);
    assert!(lines.contains(&format!("Pinned    hard, in {dir}")), "{lines:?}");
    assert!(
        lines.contains(&format!("Snapshot  /.snapshots/{} (gone, its pin has it)", names[1])),
        "{lines:?}"
    );
    let value = set_json(&found.sets[0]);
    assert_eq!((&value["pinned"], &value["holders"][0]["hard"]), (&json!(true), &json!(true)));
    assert_eq!(
        value["pinned_hard"],
        json!({ "directory": dir, "immutable": true, "missing": [], "with_mark": false })
    );
    assert_eq!(set_json(&found.sets[1])["pinned_hard"], Value::Null);

    let pin = found.sets[0].hard.as_mut().unwrap();
    (pin.lacks, pin.is_open) = (vec![names[1].clone()], true);
    assert_eq!(state(&found.sets[0]), "pinned hard, its pin is open, incomplete");
    let lines = details(&found.sets[0]);
    for line in
        ["which is not immutable any more: pin it again", &format!("which has no {} any more", names[1])]
    {
        assert!(lines.contains(&format!("          {line}")), "{lines:?}");
    }
    assert!(lines.contains(&format!("Snapshot  /.snapshots/{} (gone)", names[1])), "{lines:?}");
    pin_of(&mut found).is_open = false;
    pin_of(&mut found).is_for_mark = true;
    (found.sets[0].pinned, found.sets[0].words.good) = (false, true);
    assert_eq!(state(&found.sets[0]), "good, pinned hard, incomplete");
    assert_eq!(protection(&found.sets[0]).unwrap(), "it is the last known good one");
    let lines = details(&found.sets[0]);
    assert!(
        lines.contains(&format!("Pinned    hard as long as it is marked as good, in {dir}")),
        "{lines:?}"
    );
    let value = set_json(&found.sets[0]);
    assert_eq!((&value["pinned"], &value["pinned_hard"]["with_mark"]), (&json!(false), &json!(true)));
    found.strays.pins = vec![dir.into()];
    assert!(table(&found, &More::default()).contains(&format!("pin of no set: {dir}")));
}

#[test]
fn the_system_that_a_set_is_of_is_shown_as_far_as_it_is_known() {
    let mut set = stored(SnapshotKind::Manual, "20251115T120000Z");
    assert!(details(&set).iter().all(|line| !line.starts_with("Kernel")));
    assert_eq!((&set_json(&set)["kernel"], &set_json(&set)["packages"]), (&Value::Null, &Value::Null));
    let packages = Packages { manager: PackageManager::Dpkg, count: Some(2143), digest: "3f2a".into() };
    set.system = Some(System {
        kernel: "6.1.0-26-amd64".into(),
        packages: Some(packages),
        boot_kernel: Some("6.1.0-27-amd64".into()),
        fstab: Some("77ab".into()),
    });
    let lines = details(&set);
    for line in [
        "Kernel    6.1.0-26-amd64",
        "          6.1.0-27-amd64 at the next start",
        "Packages  2143 of dpkg, state 3f2a",
        "fstab     state 77ab",
    ] {
        assert!(lines.contains(&line.to_owned()), "{lines:?}");
    }
    let value = set_json(&set);
    assert_eq!(value["kernel"], "6.1.0-26-amd64");
    assert_eq!((&value["boot_kernel"], &value["fstab"]), (&json!("6.1.0-27-amd64"), &json!("77ab")));
    assert_eq!(value["packages"], json!({ "manager": "dpkg", "count": 2143, "digest": "3f2a" }));
    set.system.as_mut().unwrap().packages.as_mut().unwrap().count = None;
    assert!(details(&set).contains(&"Packages  of dpkg, state 3f2a".to_owned()));
}

#[test]
fn what_is_not_attached_is_no_incomplete_set_and_volumes_of_no_set_are_listed() {
    let mut set = stored(SnapshotKind::Manual, "20251115T120000Z");
    let why = "volume group `vg9` is not attached";
    set.away.push((set.set.members[0].name.clone(), why.to_owned()));
    assert!(state(&set).contains("not attached") && !state(&set).contains("incomplete"), "{}", state(&set));
    assert!(details(&set).iter().any(|line| line.ends_with(&format!(" ({why})"))), "{:?}", details(&set));
    assert_eq!(set_json(&set)["members"][0]["away"], why);
    let mut found = Found { sets: vec![set], ..found() };
    found.strays.volumes = vec!["vg9/home-manual".into()];
    assert!(table(&found, &More::default()).contains(&"volume of no set here: vg9/home-manual".to_owned()));
    assert_eq!(json(&found, &More::default())["volumes"], json!(["vg9/home-manual"]));
    found.strays.untold_volumes = Some("`/mnt/records` is not mounted".into());
    assert!(
        table(&found, &More::default()).iter().any(|line| line.ends_with("`/mnt/records` is not mounted"))
    );
    assert_eq!(json(&found, &More::default())["untold_volumes"], "`/mnt/records` is not mounted");
}

#[test]
fn a_program_reads_everything_that_holds_a_set() {
    let mut set = stored(SnapshotKind::PreSync, "20251115T120000Z");
    assert_eq!((&set_json(&set)["state"], &set_json(&set)["holders"]), (&json!("ready"), &json!([])));
    (set.pinned, set.words.good, set.in_use) = (true, true, true);
    set.needs.push(Need::Pair("laptop".into()));
    let kinds = |set: &StoredSet| -> Vec<Value> {
        set_json(set)["holders"].as_array().unwrap().iter().map(|holder| holder["kind"].clone()).collect()
    };
    assert_eq!(kinds(&set), ["pin", "good", "pair", "process"]);
    assert!(set_json(&set)["holders"][3].get("pid").is_none(), "it cannot be seen from here");
    set.holders = [7, 8].map(|pid| Holder { pid, program: "pc-switcher agent".into() }).into();
    assert_eq!(kinds(&set), ["pin", "good", "pair", "process", "process"]);
    let value = set_json(&set);
    assert_eq!((&value["state"], &value["holders"][2]["with"]), (&json!("archiving"), &json!("laptop")));
    assert_eq!(value["holders"][4]["why"], "`pc-switcher agent`, process 8 works with it");
    let lines = details(&set);
    assert!(lines.contains(&"In use    by `pc-switcher agent`, process 7".to_owned()), "{lines:?}");
}

fn named(name: &str, session: &str) -> StoredSet {
    let mut set = stored(SnapshotKind::Manual, "20251116T080000Z");
    set.set.session = session.parse().unwrap();
    set.words = Words {
        name: Some(name.into()),
        note: Some("the last one that prints".into()),
        tags: ["print".to_owned()].into(),
        until: Some("20251216T080000Z".parse().unwrap()),
        ..Words::default()
    };
    set
}

#[test]
fn names_and_notes_get_a_column_where_there_are_any() {
    let mut found = found();
    found.sets.push(named("before-upgrade", "00000001"));
    let lines = table(&found, &More::default());
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
    let text = lines.join("\n");
    for word in ["NAME: NOTE", "before-upgrade:", "until"] {
        assert!(text.contains(word), "{text}");
    }
    let lines = details(&found.sets[2]);
    assert!(lines.contains(&"Stays     until 2025-12-16 08:00 UTC".to_owned()), "{lines:?}");
    assert_eq!(set_json(&found.sets[2])["until"], "2025-12-16T08:00:00Z");
}

#[test]
fn a_name_means_its_session_unless_two_have_it() {
    let mut found = found();
    found.sets.push(named("nightly", "00000001"));
    let error = found.chosen(&["nihgtly".to_owned()]).unwrap_err();
    assert!(
        matches!(&error, CliError::Usage { help: Some(help), .. } if help.contains("`nightly`")),
        "{error:?}"
    );
    assert_eq!(found.chosen(&["nightly".to_owned()]).unwrap()[0].set.session.as_str(), "00000001");
    found.sets.push(named("nightly", "00000002"));
    let error = found.chosen(&["nightly".to_owned()]).unwrap_err();
    assert!(error.to_string().contains("2 sets on desk are called `nightly`"), "{error}");
    assert_eq!(found.chosen(&["00000002".to_owned()]).unwrap().len(), 1);
    let good = ["good".to_owned()];
    assert!(found.chosen(&good).unwrap_err().to_string().contains("no set on desk is marked as good"));
    found.sets[0].words.good = true;
    assert_eq!(found.chosen(&good).unwrap()[0].set.id(), found.sets[0].set.id());
    found.sets[1].words.good = true;
    found.sets[1].words.good_by = GoodBy::Boot;
    found.sets[1].set.members.iter_mut().for_each(|member| member.otransid = 9);
    let chosen = found.chosen(&good).unwrap();
    assert_eq!(
        (chosen.len(), chosen[0].set.id()),
        (1, found.sets[1].set.id()),
        "the newest, whoever marked it"
    );
}

#[test]
fn reasons_and_sizes_stand_beside_each_set_if_they_are_asked_for() {
    let found = found();
    let verdict = |stored: &StoredSet| Verdict {
        id: stored.set.id(),
        stays: stored.pinned,
        reason: if stored.pinned { Reason::Pinned } else { Reason::Beyond },
    };
    let judged: Vec<Verdict> = found.sets.iter().map(verdict).collect();
    let gains =
        [Gain { session: found.sets[0].set.session.clone(), data_bytes: 3 << 20, elsewhere_bytes: 0 }];
    let more = More::new(Some(&judged), Some(&gains));
    let lines = table(&found, &more);
    let text = lines.join("\n");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
    for word in ["stays: pinned", "goes: no rule keeps it", "3.0 MiB", "WHY", "FREES"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let value = json(&found, &more);
    assert_eq!(
        (&value["sets"][0]["stays"], &value["sets"][0]["frees_bytes"]),
        (&json!(true), &json!(3 << 20))
    );
    assert!(json(&found, &More::default())["sets"][0].get("reason").is_none());
}

#[test]
fn of_many_directories_as_many_are_named_as_have_room() {
    let short = |names: &[&str]| short(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    assert_eq!(short(&["@", "@home", "@root"]), "@ @home @root");
    assert_eq!(short(&["/etc", "/home", "/opt", "/root", "/usr/local"]), "/etc /home /opt +2");
    assert_eq!(short(&["@a-very-long-name-indeed", "@home"]), "@a-very-long-name-indeed @home");
    assert_eq!(short(&[]), "");
}
