use pc_switcher_agent::proto::{Need, Strays};
use pc_switcher_contract::{SnapshotMember, SnapshotName, SnapshotSet};

use super::*;
use crate::cli::Exit;

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
        pinned: false,
        in_use: false,
        has_steps: false,
        needs: Vec::new(),
        missing: Vec::new(),
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
    let lines = table(&found());
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
    let lines = details(&found.sets[1]);
    assert!(lines.contains(&"Needed    the next sync with laptop starts from it".to_owned()));
    assert_eq!(json(&found)["sets"][1]["needed"][0], "the next sync with laptop starts from it");
}
