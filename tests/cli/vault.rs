//! `bt` from an empty home to files back, and what may go wrong on the way.

mod back;
mod bucket;
mod code;
mod cold;
mod damaged;
mod full;
mod keeping;
mod killed;
mod layers;
mod machines;
mod odd;
mod partial;
mod small;
mod snapshot;
mod sparse;
mod terminal;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::text;

/// A home, with `bt` in it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        symlink(env!("CARGO_BIN_EXE_pc-switcher"), home.path("bt")).unwrap();
        fs::create_dir(home.path("docs")).unwrap();
        home
    }

    /// Returns one with a vault and `docs` tracked.
    fn ready() -> Self {
        let home = Self::new();
        home.bt(&["config", "init"]);
        home.bt(&["config", "vault", "init"]);
        home.bt(&["dir", "init"]);
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    fn put(&self, name: impl AsRef<Path>, content: &str) {
        let path = self.path("docs").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn state(&self) -> PathBuf {
        self.path(".local/state/pc-switcher/vault")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.path("bt"));
        command.args(args).env_clear().env("HOME", self.path("")).current_dir(self.path("docs"));
        command.env("PC_SWITCHER_VAULT_PASSWORD", "correct horse");
        command
    }

    /// Runs `bt` in `docs`, which must succeed, and returns what it printed.
    fn bt(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "bt {args:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs `bt` in `docs`, which must end with `code`, and returns what it said.
    fn fails(&self, code: i32, args: &[&str]) -> String {
        ended(code, args, &self.command(args).output().unwrap())
    }

    /// Backs up `good`, and not `bad`, whose copy in the stage is torn and is returned.
    fn backs_up_without_bad(&self) -> PathBuf {
        self.put("good", "good");
        self.put("bad", "bad");
        self.bt(&["add"]);
        let staged = self.state().join("stage").join(pc_switcher_vault::format::Id::of(b"bad").hex());
        fs::write(&staged, "torn").unwrap();
        assert!(self.fails(1, &["backup"]).contains("bad: its copy in the stage is damaged"));
        staged
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.bt(&[args, &["--json"]].concat())).unwrap()
    }
}

/// Returns all files below a directory.
fn walk(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// Runs restic on the vault in a directory, which must succeed; without restic nothing is said, and CI has it.
fn restic(root: &Path, args: &[&str]) -> Option<String> {
    let mut command = Command::new("restic");
    command.arg("--repo").arg(root).arg("--no-cache").args(args).env("RESTIC_PASSWORD", "correct horse");
    let Ok(output) = command.output() else {
        assert!(std::env::var_os("LAB_REQUIRED").is_none(), "restic is missing; tests/packages installs it");
        eprintln!("skipped: restic is missing; tests/packages installs it");
        return None;
    };
    assert!(output.status.success(), "restic {args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    Some(text(&output.stdout))
}

fn ended(code: i32, args: &[&str], output: &Output) -> String {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "bt {args:?}: {said}");
    said
}

#[test]
fn from_an_empty_home_to_an_older_version_back() {
    let home = Home::new();
    let said = text(&home.command(&["config", "init"]).output().unwrap().stderr);
    assert!(said.contains("does not survive the disk"), "{said}");
    assert!(home.path(".config/bt.toml").exists());
    assert!(home.bt(&["config", "list"]).contains("host_id"));
    home.bt(&["config", "vault", "init"]);
    home.bt(&["dir", "init"]);
    home.bt(&["dir", "init"]);
    home.put("notes.txt", "first\n");
    home.put("deep/er/other", "other\n");
    assert_eq!(home.bt(&["dir", "status"]), "?   deep/er/other\n?   notes.txt\n");
    assert_eq!(home.bt(&["dir", "status", "-r"]), "?   deep/er/other\n?   notes.txt\n");
    assert!(home.bt(&["add"]).starts_with("staged 2 files"));
    assert_eq!(home.bt(&["dir", "status", "--one-level"]), "S   notes.txt\n");
    assert!(home.bt(&["backup"]).starts_with("2 new versions"));
    assert_eq!(home.bt(&["dir", "status"]), "B   deep/er/other\nB   notes.txt\n");
    home.put("notes.txt", "second, and longer\n");
    assert_eq!(home.bt(&["dir", "status", "notes.txt"]), "BM  notes.txt\n");
    assert!(home.bt(&["add", "."]).contains("1 are backed up as they are"));
    assert_eq!(home.bt(&["dir", "status", "notes.txt"]), "BMS notes.txt\n");
    home.bt(&["backup"]);
    let log = home.bt(&["log", "notes.txt"]);
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines.len() == 2 && lines[0].ends_with("in local  [current]"), "{log}");
    assert!(lines[0].contains("new content, modification time"), "{log}");
    let checksum = lines[1].split("  ").nth(1).unwrap();
    let restored = home.bt(&["restore", "notes.txt", &checksum[..10]]);
    assert_eq!(
        restored.trim_end(),
        home.path("docs").join(format!("notes.txt.{checksum}")).to_str().unwrap()
    );
    assert_eq!(fs::read_to_string(restored.trim_end()).unwrap(), "first\n");
    assert!(home.fails(1, &["restore", "notes.txt", checksum]).contains("exists already"));
    assert!(!home.bt(&["dir", "status"]).contains(checksum), "restored copies are not listed");
    assert!(home.bt(&["check", "--read-data"]).starts_with("local: sound; 2 snapshots"));
    let history = home.json(&["history"]);
    assert_eq!(history[0]["operation"], "restore");
    assert!(
        history.as_array().unwrap().iter().filter(|line| line["status"] == "error").count() == 1,
        "{history}"
    );
    let again = home.json(&["backup"]);
    assert_eq!((&again["versions"], &again["vaults"][0]["snapshot"]), (&0.into(), &Value::Null));
}

#[test]
fn restic_alone_restores_what_bt_stored() {
    let home = Home::ready();
    home.put("a/b", "one\n");
    home.put("a.b", "two\n");
    home.put("large", &"some text\n".repeat(300_000));
    fs::set_permissions(home.path("docs/a.b"), fs::Permissions::from_mode(0o640)).unwrap();
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let root = home.state().join("local");
    if restic(&root, &["check", "--read-data"]).is_none() {
        return;
    }
    let target = home.path("back");
    restic(&root, &["restore", "latest", "--target", target.to_str().unwrap()]);
    let docs = target.join(home.path("docs").strip_prefix("/").unwrap());
    for name in ["a/b", "a.b", "large"] {
        assert_eq!(fs::read(docs.join(name)).unwrap(), fs::read(home.path("docs").join(name)).unwrap());
    }
    let (one, other) =
        (fs::metadata(docs.join("a.b")).unwrap(), fs::metadata(home.path("docs/a.b")).unwrap());
    assert_eq!(
        (one.permissions(), one.modified().unwrap()),
        (other.permissions(), other.modified().unwrap())
    );
}

#[test]
fn awkward_names_come_back_byte_for_byte() {
    let home = Home::ready();
    let names =
        [b"a_b".as_slice(), b"a%b", b"axb", b"new\nline", b"raw\xff\xfe", b" \\\"'", b"%_/in\xffside"];
    for name in names {
        home.put(OsStr::from_bytes(name), &format!("{name:?}"));
    }
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let target = home.path("back");
    home.bt(&["restore", ".", "--to", target.to_str().unwrap()]);
    for name in names {
        assert_eq!(fs::read_to_string(target.join(OsStr::from_bytes(name))).unwrap(), format!("{name:?}"));
    }
    assert_eq!(home.json(&["log", "a_b"])["versions"].as_array().unwrap().len(), 1, "`_` is no pattern");
}

#[test]
fn a_deleted_file_has_its_versions_and_comes_back_in_its_place() {
    let home = Home::ready();
    home.put("gone", "precious");
    home.put("stays", "x");
    home.bt(&["add"]);
    home.bt(&["backup"]);
    fs::remove_file(home.path("docs/gone")).unwrap();
    assert_eq!(home.bt(&["dir", "status", "--deleted"]), "D   gone\nB   stays\n");
    assert_eq!(home.json(&["backup"])["deleted"], 1);
    assert_eq!(home.json(&["log", "gone"])["deleted"], true);
    home.bt(&["restore", "gone", "--in-place"]);
    assert_eq!(fs::read_to_string(home.path("docs/gone")).unwrap(), "precious");
}

#[test]
fn what_is_replaced_in_its_place_is_staged_before() {
    let home = Home::ready();
    home.put("f", "old");
    home.bt(&["add", "f"]);
    home.bt(&["backup"]);
    home.put("f", "new, never added");
    home.bt(&["restore", "f", "--in-place"]);
    assert_eq!(fs::read_to_string(home.path("docs/f")).unwrap(), "old");
    assert_eq!(home.json(&["backup"])["versions"], 2);
    let log = home.json(&["log", "f"]);
    let sizes: Vec<_> = log["versions"].as_array().unwrap().iter().map(|version| &version["size"]).collect();
    assert_eq!(sizes, [3, "new, never added".len(), 3], "the restored one is the current one");
    fs::remove_file(home.path("docs/f")).unwrap();
    home.put("other", "x");
    home.bt(&["restore", "f", "--in-place"]);
    assert_eq!(fs::read_to_string(home.path("docs/f")).unwrap(), "old");
}

#[test]
fn nothing_is_restored_through_a_link() {
    let home = Home::ready();
    home.put("sub/f", "old");
    home.put("stays", "x");
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let elsewhere = home.path("elsewhere");
    fs::rename(home.path("docs/sub"), home.path("moved")).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("f"), "of somebody else").unwrap();
    symlink(&elsewhere, home.path("docs/sub")).unwrap();
    let said = home.fails(1, &["restore", ".", "--in-place"]);
    assert!(said.contains("sub` is a link"), "{said}");
    assert_eq!(fs::read_to_string(elsewhere.join("f")).unwrap(), "of somebody else");
}

#[test]
fn a_wrong_passphrase_and_none_are_refused_and_what_is_staged_stays() {
    let home = Home::ready();
    home.put("f", "x");
    home.bt(&["add"]);
    let wrong = home.command(&["backup"]).env("PC_SWITCHER_VAULT_PASSWORD", "wrong").output().unwrap();
    assert!(ended(3, &["backup"], &wrong).contains("does not open the vault"));
    let none = home.command(&["backup"]).env_remove("PC_SWITCHER_VAULT_PASSWORD").output().unwrap();
    assert!(ended(3, &["backup"], &none).contains("--password-file"));
    assert_eq!(home.bt(&["dir", "status"]), "S   f\n");
    fs::write(home.path("word"), "correct horse\n").unwrap();
    fs::set_permissions(home.path("word"), fs::Permissions::from_mode(0o600)).unwrap();
    let word = home.path("word");
    let args = ["backup", "--password-file", word.to_str().unwrap()];
    let given = home.command(&args).env("PC_SWITCHER_VAULT_PASSWORD", "wrong").output().unwrap();
    ended(0, &args, &given);
}

#[test]
fn a_vault_whose_disk_is_not_mounted_is_no_empty_vault() {
    let home = Home::ready();
    home.put("f", "x");
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let (root, away) = (home.state().join("local"), home.path("away"));
    fs::rename(&root, &away).unwrap();
    fs::create_dir(&root).unwrap();
    home.put("f", "changed");
    home.bt(&["add"]);
    assert!(home.fails(4, &["backup"]).contains("is its disk mounted?"));
    assert!(home.fails(4, &["config", "vault", "init"]).contains("is its disk mounted?"));
    assert_eq!(root.read_dir().unwrap().count(), 0, "nothing is written where the vault is not");
    assert_eq!(home.bt(&["dir", "status"]), "BMS f\n", "no vault is needed for that");
    assert!(home.bt(&["log", "f"]).contains("in local"));
    assert!(home.bt(&["list"]).contains("there is no vault"));
    fs::remove_dir(&root).unwrap();
    fs::rename(&away, &root).unwrap();
    assert!(home.bt(&["backup"]).starts_with("1 new versions"));
}

#[test]
fn a_vault_that_came_later_is_filled_by_the_next_add() {
    let home = Home::ready();
    home.put("one", "1");
    home.put("two", "2");
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let (config, root) = (home.path(".config/bt.toml"), home.path("usb"));
    let mut settings = fs::read_to_string(&config).unwrap();
    settings.push_str(&format!(
        "\n[[vaults]]\nname = \"usb\"\ntype = \"filesystem\"\nroot = \"{}\"\n",
        root.display()
    ));
    fs::write(&config, &settings).unwrap();
    home.bt(&["config", "vault", "init"]);
    let said = home.fails(1, &["backup"]);
    assert!(said.contains("the vault `usb` lacks the current versions of 2 files"), "{said}");
    assert_eq!(root.join("snapshots").read_dir().unwrap().count(), 1, "it has a snapshot all the same");
    assert!(home.fails(1, &["backup"]).contains("of 2 files"), "it is said until it is mended");
    assert!(home.bt(&["add"]).starts_with("staged 2 files"));
    assert_eq!(home.json(&["backup"])["versions"], 0, "they are the same versions");
    let held = home.json(&["log", "one"])["versions"][0]["vaults"].clone();
    assert_eq!(held, serde_json::json!(["local", "usb"]));
    assert!(home.bt(&["add"]).starts_with("staged 0 files"));
    home.bt(&["backup"]);
    fs::rename(home.state().join("local"), home.path("lost")).unwrap();
    home.bt(&["restore", ".", "--to", home.path("back").to_str().unwrap()]);
    assert_eq!(fs::read_to_string(home.path("back/two")).unwrap(), "2");
}

#[test]
fn what_a_vault_lost_is_named_left_out_of_the_snapshot_and_stored_again() {
    let home = Home::ready();
    home.put("kept/first", "precious");
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let local = home.state().join("local");
    let packs = local.join("data").read_dir().unwrap().map(|entry| entry.unwrap().path());
    for directory in packs.chain([local.join("index"), local.join("snapshots")]) {
        for entry in directory.read_dir().unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
    home.put("second", "x");
    assert!(home.bt(&["add", "second"]).starts_with("staged 1 files"));
    let said = home.fails(1, &["backup"]);
    assert!(said.contains("lost `") && said.contains("kept/first"), "{said}");
    assert!(home.bt(&["list", "--snapshots"]).ends_with("  [partial]\n"));
    assert!(home.bt(&["check"]).starts_with("local: sound; 1 snapshots"));
    assert!(home.bt(&["add"]).starts_with("staged 1 files"));
    home.bt(&["backup"]);
    assert!(home.bt(&["check", "--read-data"]).starts_with("local: sound; 2 snapshots"));
    home.bt(&["restore", ".", "--to", home.path("back").to_str().unwrap()]);
    assert_eq!(fs::read_to_string(home.path("back/kept/first")).unwrap(), "precious");
}

#[test]
fn a_tracked_directory_whose_disk_is_not_mounted_is_no_deletion() {
    let home = Home::ready();
    home.put("one", "1");
    home.put("two", "2");
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let away = home.path("away");
    fs::create_dir(&away).unwrap();
    for name in ["one", "two"] {
        fs::rename(home.path("docs").join(name), away.join(name)).unwrap();
    }
    let said = home.fails(1, &["backup"]);
    assert!(said.contains("none of the 2 files") && said.contains("bt dir forget"), "{said}");
    assert_eq!(home.json(&["log", "one"])["deleted"], false);
    fs::rename(away.join("one"), home.path("docs/one")).unwrap();
    assert_eq!(home.json(&["backup"])["deleted"], 1, "where others are left it is one");
}

#[test]
fn a_parent_that_is_tracked_later_takes_versions_and_queue_along() {
    let home = Home::ready();
    home.put("first", "1");
    home.bt(&["add"]);
    home.bt(&["backup"]);
    home.put("second", "2");
    home.bt(&["add"]);
    let parent = home.path("");
    let tracked = home.json(&["dir", "init", parent.to_str().unwrap()]);
    assert_eq!(tracked["absorbed"][0], home.path("docs").to_str().unwrap());
    assert_eq!(home.bt(&["dir", "status"]), "B   docs/first\nS   docs/second\n");
    assert_eq!(home.json(&["backup"])["versions"], 1);
    assert_eq!(home.bt(&["dir", "status"]), "B   docs/first\nB   docs/second\n");
    assert_eq!(home.json(&["dir", "init"])["result"], "within");
    assert!(!home.bt(&["dir", "status", ".."]).contains(".local/state"), "our own state is never backed up");
}

#[test]
fn a_lost_catalogue_and_one_that_is_older_than_the_vault_are_refused() {
    let home = Home::ready();
    home.put("f", "x");
    home.bt(&["add"]);
    let (catalogue, copy) = (home.state().join("catalogue.db"), home.path("copy.db"));
    fs::copy(&catalogue, &copy).unwrap();
    home.bt(&["backup"]);
    home.put("f", "y");
    home.bt(&["add"]);
    home.bt(&["backup"]);
    fs::copy(&copy, &catalogue).unwrap();
    let said = home.fails(3, &["backup"]);
    assert!(said.contains("older than the vault") && said.contains("bt recover"), "{said}");
    fs::remove_file(&catalogue).unwrap();
    for args in [&["backup"][..], &["dir", "status"], &["log", "f"]] {
        let said = home.fails(3, args);
        assert!(said.contains("the catalogue is lost") && said.contains("bt recover"), "{said}");
    }
    assert!(!catalogue.exists());
    assert!(home.bt(&["recover"]).contains("2 versions are known, from copy"));
    assert_eq!(home.bt(&["log", "f"]).lines().count(), 2);
    assert_eq!(home.bt(&["dir", "status"]), "B   f\n");
}

#[test]
fn when_the_machine_is_gone_another_one_gets_its_files_back() {
    let (gone, new) = (Home::ready(), Home::new());
    gone.put("letter", "dear");
    gone.bt(&["add"]);
    gone.bt(&["backup"]);
    let (root, host) = (new.path("disk"), gone.json(&["config", "list"])["host_id"].clone());
    let copied = Command::new("cp").arg("-a").arg(gone.state().join("local")).arg(&root).status();
    assert!(copied.unwrap().success());
    let docs = gone.path("docs");
    drop(gone);
    let said = new.fails(2, &["recover"]);
    assert!(said.contains("bt config init --root PLACE"), "{said}");
    let elsewhere = new.path("not-mounted");
    new.bt(&["config", "init", "--root", elsewhere.to_str().unwrap()]);
    let said = new.fails(4, &["recover"]);
    assert!(said.contains("is its disk mounted?") && !said.contains("vault init"), "{said}");
    fs::remove_dir_all(new.path(".config")).and_then(|()| fs::remove_dir_all(new.path(".local"))).unwrap();
    let output = new.command(&["config", "init", "--root", root.to_str().unwrap()]).output().unwrap();
    assert!(text(&output.stderr).contains("`bt recover` brings back"), "{}", text(&output.stderr));
    let said = new.fails(3, &["recover"]);
    let host = host.as_str().unwrap();
    assert!(said.contains("no vault holds anything of this machine") && said.contains(host), "{said}");
    assert!(new.fails(3, &["recover", "--from", &host[..3]]).contains("--from takes one of these"));
    let output = new.command(&["recover", "--from", &host[..8], "--take-over"]).output().unwrap();
    let said = text(&output.stderr);
    assert!(
        output.status.success() && !said.contains("that was there is"),
        "an empty one is nothing: {said}"
    );
    assert!(said.contains(&format!("`bt restore {} --in-place`", docs.display())), "{said}");
    assert!(text(&output.stdout).starts_with("1 versions are known, from copy "), "{}", text(&output.stdout));
    assert_eq!(new.json(&["config", "list"])["host_id"], host);
    assert!(!docs.parent().unwrap().exists());
    let said = new.fails(1, &["dir", "status", docs.to_str().unwrap()]);
    assert!(said.contains("is not there; `bt dir status --deleted`"), "{said}");
    new.bt(&["restore", docs.to_str().unwrap(), "--to", new.path("back").to_str().unwrap()]);
    assert_eq!(fs::read_to_string(new.path("back/letter")).unwrap(), "dear");
}

#[test]
fn a_file_that_fails_stops_no_other_and_stays_in_the_queue() {
    let home = Home::ready();
    let torn = home.backs_up_without_bad();
    assert_eq!(home.bt(&["dir", "status"]), "S   bad\nB   good\n");
    fs::remove_file(&torn).unwrap();
    home.bt(&["add", "bad"]);
    home.bt(&["backup"]);
    assert_eq!(home.bt(&["dir", "status"]), "B   bad\nB   good\n");
}

#[test]
fn slips_are_said_with_what_to_do() {
    let home = Home::new();
    assert!(home.fails(2, &["dir", "status"]).contains("bt config init"));
    home.bt(&["config", "init"]);
    assert!(home.fails(2, &["config", "init"]).contains("exists already"));
    assert!(home.fails(2, &["add"]).contains("bt dir init"));
    home.bt(&["dir", "init"]);
    home.put("f", "x");
    assert!(home.fails(1, &["add", "nothing"]).contains("No such file"));
    home.put(".btignore", "*.tmp\n");
    home.put("a.tmp", "x");
    assert!(home.fails(2, &["add", "a.tmp"]).contains("is ignored"));
    home.put("one more", "1");
    home.put("and more", "2");
    let said = home.fails(1, &["add", "one more", "a.tmp", "and more"]);
    assert!(
        said.contains("a.tmp: ") && said.contains("is ignored") && said.contains("1 file failed"),
        "{said}"
    );
    assert!(
        home.bt(&["dir", "status"]).matches("S   ").count() >= 2,
        "one of several keeps no other from it"
    );
    home.bt(&["add"]);
    assert!(home.fails(4, &["backup"]).contains("bt config vault init"));
    assert!(home.fails(2, &["restore", "nothing"]).contains("there is no version"));
    fs::write(home.path(".config/bt.toml"), "[vault]\nignroe = []\n").unwrap();
    assert!(home.fails(2, &["dir", "status"]).contains("ignroe"));
}

#[test]
fn a_full_stage_is_said_and_a_file_larger_than_it_is_read_where_it_lies() {
    let home = Home::ready();
    let config = home.path(".config/bt.toml");
    let settings = fs::read_to_string(&config).unwrap().replace("\"10GiB\"", "\"1MiB\"");
    fs::write(&config, settings).unwrap();
    home.put("small/one", &"1".repeat(700_000));
    home.put("small/two", &"2".repeat(700_000));
    assert!(home.fails(6, &["add", "small"]).contains("the stage is full"));
    assert!(!home.bt(&["dir", "status"]).contains('S'), "an add that failed leaves no trace");
    assert_eq!(home.state().join("stage").read_dir().unwrap().count(), 0);
    home.put("large", &"x".repeat(3_000_000));
    home.bt(&["add", "large"]);
    home.put("large", &"y".repeat(4_000_000));
    assert_eq!(home.json(&["backup"])["bytes"], 4_000_000);
    home.bt(&["restore", "large", "--to", home.path("back").to_str().unwrap()]);
    assert_eq!(fs::read_to_string(home.path("back/large")).unwrap(), "y".repeat(4_000_000));
}

#[test]
fn a_large_file_that_fails_waits_once_and_keeps_no_other_from_being_staged() {
    let home = Home::ready();
    let config = home.path(".config/bt.toml");
    let settings = fs::read_to_string(&config).unwrap().replace("\"10GiB\"", "\"1MiB\"");
    fs::write(&config, settings).unwrap();
    home.put("large", &"x".repeat(3_000_000));
    home.bt(&["add"]);
    home.bt(&["add"]);
    fs::remove_file(home.path("docs/large")).unwrap();
    home.put("small", "x");
    assert!(home.bt(&["add"]).starts_with("staged 1 files"), "the stage holds none of the large file");
    let said = home.fails(1, &["backup"]);
    assert_eq!(said.matches("is gone before it was read").count(), 1, "{said}");
    assert_eq!(home.bt(&["dir", "status"]), "B   small\n");
    home.bt(&["backup"]);
}

#[test]
fn settings_that_came_from_another_machine_are_kept_and_this_one_gets_its_own_name() {
    let (one, other) = (Home::ready(), Home::new());
    fs::create_dir(other.path(".config")).unwrap();
    fs::copy(one.path(".config/bt.toml"), other.path(".config/bt.toml")).unwrap();
    let made = other.json(&["config", "init"]);
    assert_eq!(made["kept"], true);
    assert_ne!(made["host_id"], one.json(&["config", "list"])["host_id"]);
    other.bt(&["config", "vault", "init"]);
    assert_eq!(other.json(&["list"])[0]["root"], one.state().join("local").to_str().unwrap());
}

#[test]
fn a_backup_that_is_interrupted_leaves_no_lock_and_the_next_one_goes_on() {
    let home = Home::ready();
    let mut seed = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as u8
    })
    .take(200 << 20)
    .collect();
    fs::write(home.path("docs/large"), noise).unwrap();
    home.bt(&["add"]);
    let mut running = home.command(&["backup"]).spawn().unwrap();
    let vault = home.state().join("local");
    let packs = || -> usize {
        let below = vault.join("data").read_dir().unwrap();
        below.map(|entry| entry.unwrap().path().read_dir().unwrap().count()).sum()
    };
    while packs() == 0 {
        assert!(running.try_wait().unwrap().is_none(), "it ended before it stored anything");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&running);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(130));
    assert_eq!(vault.join("locks").read_dir().unwrap().count(), 0);
    let kept = packs();
    let done = home.json(&["backup"]);
    assert_eq!(done["versions"], 1);
    let stored = done["vaults"][0]["stored_bytes"].as_u64().unwrap();
    assert!(
        kept > 0 && stored < (200 << 20) - (8 << 20),
        "{stored} of 200 MiB again, {kept} packs were there"
    );
    assert!(home.bt(&["check", "--read-data"]).starts_with("local: sound"));
}
