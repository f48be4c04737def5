//! What no rule of `keep` keeps.

use super::*;

/// Returns a text that no compression makes small, so that it counts.
fn long(word: &str) -> String {
    let seed = word.bytes().fold(1_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()) | 1);
    let numbers = (1..1000_u64).map(|n| n.wrapping_mul(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    numbers.map(|number| format!("{number:x}")).collect()
}

/// Backs a text up as `f`.
fn back_up(home: &Home, word: &str) {
    home.put("f", &long(word));
    home.bt(&["add"]);
    home.bt(&["backup"]);
}

#[test]
fn what_no_rule_keeps_goes_and_log_and_restore_say_so() {
    let home = Home::ready();
    home.put("always", "here");
    for content in ["first", "second", "third"] {
        back_up(&home, content);
    }
    home.put("f", &long("between"));
    home.bt(&["add"]);
    back_up(&home, "fourth");
    let vaults = |version: usize| home.json(&["log", "f"])["versions"][version]["vaults"].clone();
    let before = home.bt(&["check"]);
    assert!(
        home.bt(&["prune"]).starts_with("local: 0 of 4 snapshots removed; 0 B freed"),
        "no rules are set"
    );
    let said = home.bt(&["prune", "--dry-run", "--keep", "last 1 session"]);
    assert_eq!(said.matches("goes: no rule keeps it").count(), 3, "{said}");
    assert_eq!(home.bt(&["check"]), before);
    let config = home.path(".config/bt.toml");
    let first = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        first.replace("# keep = \"all 2d, last 10 sessions, 14d, 8w, 12m, 5y\"", "keep = \"last 1 session\""),
    )
    .unwrap();
    let said = home.bt(&["prune", "--explain"]);
    assert!(
        said.contains("stays: kept by `last 1 session`") && said.contains("3 of 4 snapshots removed"),
        "{said}"
    );
    assert!(said.contains("0 B freed") && said.contains("can go from"), "{said}");
    assert_eq!(vaults(4), serde_json::json!(["local"]), "what is only marked can be restored");
    home.bt(&[
        "restore",
        "f",
        "--at",
        home.json(&["log", "f"])["versions"][4]["created_at"].as_str().unwrap(),
        "--to",
        home.path("early").to_str().unwrap(),
    ]);
    let report = home.json(&["prune", "--at-once"]);
    assert_eq!(report["vaults"][0]["versions_gone"], 3, "{report}");
    assert!(report["vaults"][0]["removed"]["bytes"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(
        (vaults(0), vaults(1)),
        (serde_json::json!(["local"]), serde_json::json!(["local"])),
        "staged twice before one backup"
    );
    assert!(home.bt(&["log", "f"]).lines().skip(2).all(|line| line.ends_with("in no vault")));
    let gone = home.json(&["log", "f"])["versions"][3]["checksum"].as_str().unwrap().to_owned();
    assert!(home.fails(1, &["restore", "f", &gone]).contains("no vault that is set holds"));
    assert!(home.bt(&["check", "--read-data"]).starts_with("local: sound; 1 snapshots"));
    if let Some(said) = restic(&home.state().join("local"), &["check", "--read-data"]) {
        assert!(!said.contains("additional files"), "{said}");
    }
    assert!(home.bt(&["add"]).starts_with("staged 0 files"));
    back_up(&home, "first");
    assert_eq!(vaults(5), serde_json::json!(["local"]), "the same content is there again");
    home.bt(&["restore", ".", "--to", home.path("back").to_str().unwrap()]);
    assert_eq!(fs::read_to_string(home.path("back/f")).unwrap(), long("first"));
}

#[test]
fn a_disk_that_was_mounted_in_a_tracked_directory_and_is_away_is_no_deletion() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let home = Home::ready();
    home.put("other", "x");
    std::fs::create_dir(home.path("docs/usb")).unwrap();
    // It is mounted for these two commands alone.
    let script = "mount -t tmpfs none usb; echo text > usb/f; \"$0\" add; \"$0\" backup";
    let given = home.command(&[]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", script]).arg(given.get_program());
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir(home.path("docs"));
    command.envs(given.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    if said.contains("Operation not permitted") || said.contains("permission denied") {
        eprintln!("skipped: nothing may be mounted here: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    for _ in 0..2 {
        let said = home.fails(1, &["backup"]);
        assert!(said.contains("is or was mounted") && said.contains("bt backup --gone"), "{said}");
        assert_eq!(home.json(&["log", "usb/f"])["deleted"], false);
    }
    assert_eq!(home.json(&["backup", "--gone", "usb"])["deleted"], 1);
    assert!(home.bt(&["backup"]).starts_with("0 new versions"));
}
