//! What `init` and `util man` write, and what happens when nobody reads.

use std::process::{Command, Stdio};

use crate::{run, text};

#[test]
fn init_writes_the_annotated_default_and_replaces_a_file_only_when_forced() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".config/pc-switcher/config.toml");
    assert_eq!(run(home.path(), &["init"]).status.code(), Some(0));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), include_str!("../../src/config/default.toml"));
    assert_eq!(text(&run(home.path(), &["config", "validate"]).stdout), "ok\n");

    std::fs::write(&file, "mine = 1\n").unwrap();
    let refused = run(home.path(), &["init"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("exists already"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine = 1\n");

    assert_eq!(run(home.path(), &["init", "--force"]).status.code(), Some(0));
    assert_ne!(std::fs::read_to_string(&file).unwrap(), "mine = 1\n");
    let beside: Vec<_> = file.parent().unwrap().read_dir().unwrap().collect();
    assert_eq!(beside.len(), 1, "nothing is left beside the file");
}

#[test]
fn init_keeps_a_link_a_link() {
    let home = tempfile::tempdir().unwrap();
    let real = home.path().join("dotfiles.toml");
    let link = home.path().join("link.toml");
    std::fs::write(&real, "").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    assert_eq!(run(home.path(), &["init", "--force", "--config", "link.toml"]).status.code(), Some(0));
    assert!(link.is_symlink() && std::fs::metadata(&real).unwrap().len() > 0);
}

#[test]
fn without_a_home_the_message_names_the_variables() {
    let output = Command::new(env!("CARGO_BIN_EXE_pc-switcher"))
        .args(["config", "show"])
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("neither `XDG_CONFIG_HOME` nor `HOME`"));
}

#[test]
fn a_reader_that_went_away_ends_the_program_quietly() {
    let home = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_pc-switcher"))
        .args(["config", "schema"])
        .env_clear()
        .env("HOME", home.path())
        .stdout(Stdio::from(writer))
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

#[test]
fn man_pages_and_completions_are_made_from_the_command_line() {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(run(home.path(), &["util", "man", "man/man1"]).status.code(), Some(0));
    assert!(home.path().join("man/man1/pc-switcher-config-validate.1").exists());
    let page = run(home.path(), &["util", "man"]);
    assert!(page.status.success() && text(&page.stdout).contains(".TH pc-switcher 1"), "{page:?}");
    for shell in ["bash", "zsh", "fish"] {
        let output = run(home.path(), &["util", "completions", shell]);
        assert!(output.status.success() && text(&output.stdout).contains("pc-switcher"), "{shell}");
    }
}

#[test]
fn the_test_modules_exist_behind_their_switch_alone() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("dummies.toml");
    std::fs::write(&file, "[sync_modules]\ndummy-success = true\n[dummy-fail]\nhow = 'panik'\n").unwrap();
    let with = |switch: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pc-switcher"));
        command.args(["config", "validate", "--config"]).arg(&file).env_clear();
        text(&command.env("PC_SWITCHER_TEST_MODULES", switch).output().unwrap().stderr)
    };
    assert!(with("1").contains("did you mean `panic`?"));
    assert!(with("").contains("unknown module `dummy-success`"));
    assert!(with("").contains("unknown table [dummy-fail]"));
}
