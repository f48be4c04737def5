//! A mount namespace for each run: however it ends, no mount and no loop device outlives it.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

const INSIDE: &str = "PC_SWITCHER_CRASH_INSIDE";
const TOOLS: [&str; 9] =
    ["mkfs.btrfs", "mkfs.ext4", "mkfs.xfs", "btrfs", "losetup", "mount", "umount", "unshare", "setpriv"];

/// Runs the body of the test of this name in a process of its own; says why where that is not possible.
pub fn run(test: &str, body: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        return body();
    }
    if let Some(why) = missing() {
        assert!(env::var_os("LAB_REQUIRED").is_none(), "skipped although all tests are required: {why}");
        eprintln!("skipped: {why}");
        return;
    }
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"])
        .arg(env::current_exe().unwrap())
        .args([test, "--exact", "--include-ignored", "--nocapture"])
        .env(INSIDE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Line by line through this process, so that a test that passes is as quiet as the others.
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        println!("{}", line.unwrap());
    }
    assert!(child.wait().unwrap().success(), "see above");
}

fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("loop devices need root".into());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("there is no /dev/loop-control, so no loop devices".into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = |tool: &&str| env::split_paths(&path).any(|dir| dir.join(tool).exists());
    TOOLS.iter().find(|tool| !is_there(tool)).map(|tool| format!("`{tool}` is not installed"))
}
