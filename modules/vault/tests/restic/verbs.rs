//! What restic does to a vault of ours leaves it one.

use std::process::{Child, Stdio};

use pc_switcher_vault::engine::Quiet;
use pc_switcher_vault::error::Result;
use pc_switcher_vault::service::{Ask, PruneOrder, Reason};
use rustix::process::{Pid, Signal, kill_process};

use super::given::{Given, PASSWORD, everything, noise, same, same_below, word};

fn ids(given: &Given) -> Vec<String> {
    let listed: serde_json::Value = serde_json::from_str(&given.restic(&["snapshots", "--json"])).unwrap();
    listed.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_vault_stays_one_whatever_restic_does_with_keys_tags_and_snapshots() {
    let Some(given) = Given::new() else { return };
    everything(&given.source());
    given.set_up();
    for round in 1..=3 {
        std::fs::write(given.source().join("more"), noise(50_000, round)).unwrap();
        given.back_up();
    }

    // Both words open it.
    let another = given.path("another word");
    std::fs::write(&another, "battery staple\n").unwrap();
    given.restic(&["key", "add", "--new-password-file", another.to_str().unwrap()]);
    for given_word in [PASSWORD, "battery staple"] {
        let mut say = |_: Ask| -> Result<Vec<u8>> { Ok(given_word.into()) };
        assert_eq!(given.service().snapshots(None, &mut say).unwrap().0.len(), 3, "{given_word}");
    }
    let mut wrong = |_: Ask| -> Result<Vec<u8>> { Ok(b"neither".into()) };
    assert!(given.service().snapshots(None, &mut wrong).is_err());

    // What somebody tagged stays, under the id that it has since.
    given.restic(&["tag", "--add", "tax", &ids(&given)[0]]);
    let keep = Some("last 1 session".parse().unwrap());
    let order = PruneOrder { keep, at_once: true, ..PruneOrder::default() };
    let report = given.service().prune(&order, &mut word, &Quiet::default()).unwrap();
    let why: Vec<&Reason> = report.vaults[0].verdicts.iter().map(|verdict| &verdict.reason).collect();
    assert!(why[0] == &Reason::Tagged("tax".into()) && why[1] == &Reason::Beyond, "{why:?}");
    assert_eq!(ids(&given).len(), 2);
    given.restic(&["check", "--read-data"]);

    // A copy of it has all that it has.
    let copy = given.beside_repo("copy");
    let from = ["--from-repo", given.repo().to_str().unwrap()];
    for verb in [&["init", "--copy-chunker-params"][..], &["copy"]] {
        let output =
            copy.command(&[verb, &from].concat()).env("RESTIC_FROM_PASSWORD", PASSWORD).output().unwrap();
        assert!(output.status.success(), "{verb:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    copy.restic(&["check", "--read-data"]);
    let target = given.path("from the copy");
    copy.restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    same(&given.source(), &given.below(&target));

    // restic forgets what ours would keep, and we go on.
    given.restic(&["forget", "--keep-last", "1", "--prune", "--max-unused", "0"]);
    assert_eq!(ids(&given).len(), 1);
    let checked = given.check();
    assert!(checked.problems.is_empty(), "{:?}", checked.problems);
    std::fs::write(given.source().join("more"), noise(50_000, 4)).unwrap();
    let stored = given.back_up();
    assert_eq!(stored.versions, 1, "{stored:?}");
    given.restic(&["check", "--read-data"]);
    let target = given.path("by the catalogue");
    let restored = given.restore_versions(&target);
    assert!(restored.troubles.is_empty(), "{:?}", restored.troubles);
    same_below(&given.source(), &target);
    let target = given.path("by restic");
    given.restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    same(&given.source(), &given.below(&target));
}

/// A mounted repository.
struct Mounted(Child);

impl Drop for Mounted {
    fn drop(&mut self) {
        // It unmounts what it mounted before it ends.
        kill_process(Pid::from_child(&self.0), Signal::INT).ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_vault_can_be_mounted_where_there_is_fuse() {
    let Some(given) = Given::new() else { return };
    let has_helper = std::process::Command::new("fusermount").arg("--version").output().is_ok();
    if !has_helper || std::fs::File::open("/dev/fuse").is_err() {
        eprintln!("skipped: there is no fuse here");
        return;
    }
    everything(&given.source());
    given.set_up();
    given.back_up();
    let at = given.path("mounted");
    std::fs::create_dir(&at).unwrap();
    let mut command = given.command(&["mount", at.to_str().unwrap()]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut mounted = Mounted(child);
    let latest = at.join("snapshots/latest");
    while !latest.exists() {
        assert!(mounted.0.try_wait().unwrap().is_none(), "restic ended before it had mounted anything");
        std::thread::yield_now();
    }
    for name in ["plain", "large", "dir/inner/deep"] {
        let there = latest.join(given.source().strip_prefix("/").unwrap()).join(name);
        assert_eq!(
            std::fs::read(there).unwrap(),
            std::fs::read(given.source().join(name)).unwrap(),
            "{name}"
        );
    }
    drop(mounted);
    assert!(!latest.exists());
    assert!(given.check().problems.is_empty());
}
