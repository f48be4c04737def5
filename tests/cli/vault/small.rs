//! What is easily forgotten: rights alone, the short name, lists, commands that were killed, copies that fail.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, chown};

use super::*;

#[test]
fn a_change_of_rights_or_owner_alone_is_a_version_and_stores_no_content() {
    let home = Home::ready();
    let big = "some text that compresses, and quite a lot of it\n".repeat(100_000);
    home.put("letter", &big);
    home.bt(&["backup", "--tracked"]);
    let letter = home.path("docs/letter");
    fs::set_permissions(&letter, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(home.bt(&["add"]).starts_with("staged 1 files"));
    let report = home.json(&["backup"]);
    assert_eq!(report["versions"], 1, "{report}");
    assert!(report["vaults"][0]["stored_bytes"].as_u64().unwrap() < 4096, "{report}");
    let versions = |home: &Home| home.json(&["log", "letter"])["versions"].as_array().unwrap().clone();
    let two = versions(&home);
    assert_eq!((two.len(), &two[0]["checksum"]), (2, &two[1]["checksum"]));
    let log = home.bt(&["log", "letter"]);
    assert!(log.lines().next().unwrap().contains("0600"), "{log}");
    let mut most = 2;
    if rustix::process::geteuid().is_root() {
        chown(&letter, Some(1234), Some(4321)).unwrap();
        let report = home.json(&["backup", "--tracked"]);
        assert_eq!(report["versions"], 1, "{report}");
        most = 3;
    }
    assert_eq!(versions(&home).len(), most);
    assert_eq!(home.json(&["backup", "--tracked"])["versions"], 0, "once is enough");
    let back = home.path("back");
    home.bt(&["restore", "letter", "--to", back.to_str().unwrap()]);
    let (one, other) = (fs::metadata(&letter).unwrap(), fs::metadata(back.join("letter")).unwrap());
    assert_eq!((one.mode(), one.uid(), one.gid()), (other.mode(), other.uid(), other.gid()));
}

#[test]
fn a_short_name_has_twelve_digits_and_is_no_file_of_its_own() {
    let home = Home::ready();
    home.put("letter", "dear");
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let sum = home.json(&["log", "letter"])["versions"][0]["checksum"].as_str().unwrap().to_owned();
    let written = home.bt(&["restore", "letter", "--short-name"]);
    let expected = home.path("docs").join(format!("letter.{}.btrestored", &sum[..12]));
    assert_eq!(written.trim_end(), expected.to_str().unwrap());
    assert_eq!(fs::read_to_string(&expected).unwrap(), "dear");
    assert_eq!(home.bt(&["dir", "status"]), "B   letter\n");
    assert!(home.bt(&["add"]).contains("staged 0 files"), "a copy is no new file");
    assert!(home.fails(1, &["restore", "letter", "--short-name"]).contains("exists already"));
    for others in [&["--to", "/tmp"][..], &["--in-place"]] {
        home.fails(2, &[&["restore", "letter", "--short-name"], others].concat());
    }
}

#[test]
fn tracked_directories_are_listed_and_forgotten_and_the_vault_keeps_what_it_has() {
    let home = Home::ready();
    let docs = home.path("docs");
    fs::create_dir(home.path("other")).unwrap();
    home.bt(&["dir", "init", "../other"]);
    let listed = home.bt(&["dir", "list"]);
    assert_eq!(listed, format!("{}\n{}\n", docs.display(), home.path("other").display()));
    home.put("letter", "dear");
    home.bt(&["backup", "--tracked"]);
    fs::remove_dir(home.path("other")).unwrap();
    assert!(home.bt(&["dir", "list"]).contains("/other  (not there now)\n"));
    assert_eq!(home.json(&["dir", "list"])[1]["is_there"], false);
    home.bt(&["dir", "forget", "../other"]);
    home.bt(&["dir", "forget", "."]);
    assert_eq!(home.bt(&["dir", "list"]), "");
    for args in [&["add"][..], &["log", "letter"], &["restore", "letter"], &["dir", "status"]] {
        assert!(home.fails(2, args).contains("bt dir init"), "{args:?}");
    }
    assert!(home.fails(2, &["dir", "forget", "."]).contains("tracked"));
    let snapshots = home.json(&["list", "--snapshots"]);
    let id = snapshots[0]["id"].as_str().unwrap();
    let back = home.path("back");
    home.bt(&["restore", "--snapshot", id, "letter", "--to", back.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(back.join("letter")).unwrap(), "dear");
    home.bt(&["dir", "init"]);
    assert_eq!(home.bt(&["dir", "status"]), "?   letter\n");
    let report = home.json(&["backup", "--tracked"]);
    assert_eq!(report["versions"], 1, "it begins anew: {report}");
    assert!(report["vaults"][0]["stored_bytes"].as_u64().unwrap() < 4096, "and stores nothing twice");
}

#[test]
fn a_command_that_was_killed_does_not_go_on_running_in_the_history() {
    let home = Home::ready();
    home.put("letter", "dear");
    home.bt(&["add"]);
    let word = home.path("word");
    rustix::fs::mknodat(rustix::fs::CWD, &word, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let mut killed = home
        .command(&["backup", "--password-file", word.to_str().unwrap()])
        .env_remove("PC_SWITCHER_VAULT_PASSWORD")
        .spawn()
        .unwrap();
    // Opens once the other end does: then it waits for its passphrase.
    let mut asked = fs::OpenOptions::new().write(true).open(&word).unwrap();
    let first = || home.json(&["history", "-n", "1"])[0].clone();
    assert_eq!((&first()["operation"], &first()["status"]), (&"backup".into(), &"running".into()));
    killed.kill().unwrap();
    killed.wait().unwrap();
    asked.write_all(b"x").unwrap_err();
    assert_eq!(first()["status"], "killed");
    home.bt(&["backup"]);
    let history = home.json(&["history", "-n", "2"]);
    assert_eq!((&history[0]["status"], &history[1]["status"]), (&"success".into(), &"killed".into()));
    assert!(history[1]["details"].as_str().unwrap().contains("nobody heard"), "{history}");
}

#[test]
fn a_copy_of_the_catalogue_that_fails_is_an_error_and_is_made_up_for() {
    let home = Home::ready();
    home.put("letter", "dear");
    home.bt(&["add"]);
    let host = home.json(&["config", "list"])["host_id"].as_str().unwrap().to_owned();
    let hosts = home.state().join("local/pc-switcher/hosts");
    fs::create_dir_all(&hosts).unwrap();
    // A file where its directory would be.
    fs::write(hosts.join(&host), "").unwrap();
    let said = home.fails(1, &["backup"]);
    assert!(said.contains("the catalogue was not copied to the vault `local`"), "{said}");
    assert_eq!(home.json(&["history", "-n", "1"])[0]["status"], "error");
    assert_eq!(home.bt(&["dir", "status"]), "B   letter\n", "the file is stored all the same");
    fs::remove_file(hosts.join(&host)).unwrap();
    home.bt(&["backup"]);
    let copies = walk(&hosts.join(&host));
    assert!(
        copies.iter().any(|path| path.file_name().unwrap().to_str().unwrap().starts_with("db.")),
        "{copies:?}"
    );
}

#[test]
fn making_a_vault_has_its_line_in_the_history() {
    let home = Home::new();
    home.bt(&["config", "init"]);
    home.bt(&["config", "vault", "init"]);
    let first = |home: &Home| home.json(&["history", "-n", "1"])[0].clone();
    let made = first(&home);
    assert_eq!((&made["operation"], &made["status"]), (&"vault init".into(), &"success".into()), "{made}");
    assert_eq!(made["details"], "local made");
    home.bt(&["config", "vault", "init"]);
    assert_eq!(first(&home)["details"], "local verified");
    let wrong = home.command(&["config", "vault", "init"]).env("PC_SWITCHER_VAULT_PASSWORD", "x").output();
    ended(3, &["config", "vault", "init"], &wrong.unwrap());
    assert_eq!(first(&home)["status"], "error");
}
