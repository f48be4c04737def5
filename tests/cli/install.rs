//! `installer/install.sh`, which brings the program to the first machine, below a root of its own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use pc_switcher_agent::linux::install::Unit;

use super::text;

/// Runs the script for a machine below `root`, and returns what it says, line by line.
fn script(root: &Path, argument: &str) -> Vec<String> {
    let output = Command::new("sh")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("installer/install.sh"))
        .arg(argument)
        .env("DESTDIR", root)
        .env_remove("SUDO_USER")
        .env_remove("SUDOERS_USER")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(str::to_owned).collect()
}

fn install(root: &Path) -> Vec<String> {
    let mut lines = script(root, env!("CARGO_BIN_EXE_pc-switcher"));
    lines.retain(|line| !line.starts_with("no sudoers line"));
    assert!(lines.pop().unwrap().ends_with("is installed"));
    lines
}

/// Makes a machine with systemd, and returns where it keeps its units.
fn with_systemd(root: &Path) -> PathBuf {
    let units = root.join("etc/systemd/system");
    fs::create_dir_all(&units).unwrap();
    fs::create_dir_all(root.join("usr/lib/systemd")).unwrap();
    fs::write(root.join("usr/lib/systemd/systemd"), "").unwrap();
    units
}

#[test]
fn the_first_machine_gets_the_unit_for_the_boot_once_and_loses_it_with_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let units = with_systemd(dir.path());
    assert_eq!(install(dir.path()).len(), 7, "binary, both links, both units, their links of the boot");
    let links = [(Unit::Redo, "multi-user"), (Unit::Rollback, "sysinit")];
    let links = links.map(|(unit, target)| units.join(format!("{target}.target.wants/{}", unit.name())));
    for (unit, link) in Unit::ALL.into_iter().zip(&links) {
        assert_eq!(fs::read_link(link).unwrap(), Path::new("..").join(unit.name()));
        assert_eq!(fs::read_to_string(link).unwrap(), unit.text());
    }
    assert_eq!(install(dir.path()), [""; 0], "a second run changes nothing");
    fs::write(units.join("pc-switcher-redo.service"), "of an older version").unwrap();
    assert_eq!(install(dir.path()).len(), 1);
    assert_eq!(fs::read_to_string(&links[0]).unwrap(), Unit::Redo.text());
    script(dir.path(), "--uninstall");
    let mut left: Vec<_> = fs::read_dir(&units).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["multi-user.target.wants", "sysinit.target.wants"]);
    for link in &links {
        assert_eq!(fs::read_dir(link.parent().unwrap()).unwrap().count(), 0);
    }
    assert!(!dir.path().join("usr/local/lib/pc-switcher").exists());
}

#[test]
fn without_systemd_the_script_writes_no_unit_and_a_masked_one_stays_masked() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(install(dir.path()).len(), 3, "binary and both links");
    assert!(!dir.path().join("etc").exists());
    let unit = with_systemd(dir.path()).join("pc-switcher-redo.service");
    symlink("/dev/null", &unit).unwrap();
    assert_eq!(install(dir.path()).len(), 2, "the other unit and its link");
    script(dir.path(), "--uninstall");
    assert_eq!(fs::read_link(&unit).unwrap(), Path::new("/dev/null"));
}
