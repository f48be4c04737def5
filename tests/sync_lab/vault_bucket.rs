//! Backups of a sync into a bucket; its server is this process, on the laptop's own loopback.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use pc_switcher_testkit::lab::CTRL_C;
use pc_switcher_testkit::s3::{ACCESS_KEY, Fault, S3Server, SECRET_KEY};

use crate::hosts::{BY_THEN, SOON, alice, assert_moved, assert_nothing_runs, lab, line, sync, wait_for};
use crate::vault::{WORD, switch_on, vault};

const BUCKET: &str = "vaults";
const KEYS: &str = "/home/alice/.config/pc-switcher/keys";

/// The sizes of all objects whose names begin so.
fn sizes(server: &S3Server, prefix: &str) -> Vec<usize> {
    let objects = server.objects(BUCKET);
    objects
        .iter()
        .filter(|(name, _)| name.starts_with(prefix))
        .map(|(_, object)| object.bytes.len())
        .collect()
}

/// Has stock restic read all that the bucket holds.
fn assert_restic_is_content(server: &S3Server) {
    let copy = tempfile::tempdir().unwrap();
    for (name, object) in server.objects(BUCKET) {
        let path = copy.path().join(&name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, object.bytes).unwrap();
    }
    let mut command = Command::new("restic");
    command
        .args(["--no-cache", "--no-lock", "check", "--read-data", "--repo"])
        .arg(copy.path().join("alice"));
    let output = command.env("RESTIC_PASSWORD", WORD).output().expect("tests/packages installs restic");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_sync_backs_up_into_a_bucket_and_ctrl_c_in_it_costs_little() {
    let Some(lab) = lab() else { return };
    let (laptop, desk) = (lab.laptop(), lab.desk());
    let server = S3Server::on(laptop.listen().unwrap(), &[BUCKET]);
    let settings = format!(
        "[sync_modules]\nvault-backup = true\nuser-data = true\n\
         [[vaults]]\nname = \"cloud\"\ntype = \"s3\"\nroot = \"s3:{}/{BUCKET}/alice\"\ncredentials = \"file:{KEYS}\"\n",
        server.endpoint()
    );
    switch_on(laptop, &settings);
    let keys = format!("aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n");
    laptop.write_file(KEYS, keys.as_bytes(), 0o600, "alice").unwrap();
    vault(laptop, &["config", "init"]).ends_with(0);
    vault(laptop, &["init"]).ends_with(0).says(&["made the vault `cloud` in s3:http://127.0.0.1:"]);
    vault(laptop, &["dir", "init", "/home/alice/notes"]).ends_with(0);
    alice(laptop, "for n in $(seq 12); do head -c 8M /dev/urandom >notes/large-$n; done");

    // Three packs arrive, and nothing more.
    let packs = AtomicUsize::new(0);
    server.fail(move |call| {
        let is_pack = call.method == "PUT" && call.path.contains("/data/");
        (is_pack && packs.fetch_add(1, Ordering::SeqCst) >= 3).then_some(Fault::Stalls)
    });
    let mut terminal = laptop.spawn_pty(&line("desk", &["--allow-first-sync", "--no-progress"])).unwrap();
    terminal.expect("stage: module:vault-backup", BY_THEN).unwrap();
    wait_for("packs", BY_THEN, || sizes(&server, "alice/data/").len() >= 3);
    terminal.send(CTRL_C).unwrap();
    let (status, screen) = terminal.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{screen}");
    assert_nothing_runs(&[laptop, desk], SOON);
    assert!(sizes(&server, "alice/locks/").is_empty(), "no lock is left");
    assert!(server.calls().iter().all(|call| call.method != "DELETE" || call.path.contains("/locks/")));

    sync(laptop, "desk", &["--allow-first-sync"])
        .ends_with(0)
        .says(&["vault-backup SUCCESS", "files came back out of the vaults"]);
    let stored: usize = sizes(&server, "alice/data/").iter().sum();
    assert!(stored < 98 << 20, "nothing is stored twice: {stored}");
    assert_restic_is_content(&server);
    assert_moved(laptop, desk);
    vault(laptop, &["restore", "/home/alice/notes/large-7", "--to", "/tmp/back"]).ends_with(0);
    assert_eq!(alice(laptop, "cmp notes/large-7 /tmp/back/large-7"), "");
}
