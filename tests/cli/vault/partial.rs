//! What a snapshot lacks is told by the snapshot.

use std::fs;

use super::*;

/// Makes directories of which nobody can say the path of the last ones.
fn deeper_than_a_path_may_be(top: &Path) {
    use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
    fs::create_dir_all(top).unwrap();
    let name = "n".repeat(250);
    let mut at = open(top, OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..20 {
        mkdirat(&at, &name, Mode::RWXU).ok();
        at = openat(&at, &name, OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
}

#[test]
fn a_snapshot_without_a_file_is_marked_as_partial_and_the_next_whole_one_is_not() {
    let home = Home::ready();
    let torn = home.backs_up_without_bad();
    let partial = |home: &Home| -> Vec<bool> {
        let listed = home.json(&["list", "--snapshots"]);
        listed.as_array().unwrap().iter().map(|one| one["partial"].as_bool().unwrap()).collect()
    };
    assert_eq!(partial(&home), [true]);
    assert!(home.bt(&["list", "--snapshots"]).ends_with("  [partial]\n"));
    let root = home.state().join("local");
    if let Some(listed) = restic(&root, &["snapshots", "--json"]) {
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let tags = listed[0]["tags"].as_array().unwrap();
        assert!(tags.contains(&"partial".into()), "{tags:?}");
    }
    fs::remove_file(&torn).unwrap();
    home.bt(&["add", "bad"]);
    home.bt(&["backup"]);
    assert_eq!(partial(&home), [true, false]);

    // What cannot be read is not in the backup either, nor is what was named by mistake; once it goes well that is over.
    let beyond = home.path("docs/beyond");
    for (round, is_partial) in [(1, true), (2, true), (3, false)] {
        match is_partial {
            true => deeper_than_a_path_may_be(&beyond),
            false => fs::remove_dir_all(&beyond).unwrap(),
        }
        home.put("good", &format!("round {round}"));
        home.fails(1, &["add", "nothing of this name"]);
        match (round, is_partial) {
            (1, _) => drop(home.fails(1, &["backup", "--tracked"])),
            (_, true) => drop((home.fails(1, &["add"]), home.bt(&["backup"]))),
            (_, false) => drop((home.bt(&["add"]), home.bt(&["backup"]))),
        }
    }
    assert_eq!(partial(&home), [true, false, true, true, false]);

    // It is no tag that somebody gave to keep it.
    home.bt(&["prune", "--keep", "last 1 session"]);
    assert_eq!(partial(&home), [false]);
}

#[test]
fn what_could_not_be_added_is_missing_in_all_snapshots_until_it_is_added_or_gone_whichever_vault_they_are_in()
{
    let home = Home::ready();
    let partial = |home: &Home, vault: &str| -> Vec<bool> {
        let listed = home.json(&["list", "--snapshots", "--vault", vault]);
        listed.as_array().unwrap().iter().map(|one| one["partial"].as_bool().unwrap()).collect()
    };
    home.put("good", "good");
    let beyond = home.path("docs/sub/beyond");
    deeper_than_a_path_may_be(&beyond);
    home.fails(1, &["add", "sub"]);
    home.bt(&["add", "good"]);
    home.bt(&["backup"]);
    // What was added beside it is no reason to take the next one for whole.
    let back_up = |content: &str| {
        home.put("good", content);
        home.bt(&["add", "good"]);
        home.bt(&["backup"]);
    };
    back_up("better");
    assert_eq!(partial(&home, "local"), [true, true]);
    // A vault that comes later has no more than that.
    let other = home.path("other-vault");
    home.bt(&["config", "vault", "init", "--vault", "other", "--root", other.to_str().unwrap()]);
    home.fails(1, &["add"]);
    home.bt(&["backup"]);
    back_up("best");
    assert_eq!(partial(&home, "other"), [true, true]);
    // With one level of what holds it nothing is said of what is below.
    home.bt(&["add", "--one-level", "."]);
    back_up("even better");
    assert_eq!(partial(&home, "other"), [true, true, true]);
    // An `add` of what holds it has it.
    fs::remove_dir_all(&beyond).unwrap();
    home.bt(&["add"]);
    back_up("whole");
    let last = |home: &Home| ["local", "other"].map(|vault| *partial(home, vault).last().unwrap());
    assert_eq!(last(&home), [false, false]);
    // What is gone is not missing either.
    deeper_than_a_path_may_be(&beyond);
    home.fails(1, &["add", "sub/beyond"]);
    back_up("without it");
    assert_eq!(last(&home), [true, true]);
    fs::remove_dir_all(&beyond).unwrap();
    back_up("gone");
    assert_eq!(last(&home), [false, false]);
}
