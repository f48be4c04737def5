//! Whether this host can run the lab, and what a test does when it cannot.

use std::{env, fs, path::Path, process::Command};

use super::{
    error::{LabError, Result},
    place, tool,
};

/// Turns a skip into a failure.
const REQUIRED_VARIABLE: &str = "LAB_REQUIRED";
const TOOLS: &[(&str, &str)] = &[
    ("mkfs.btrfs", "btrfs-progs"),
    ("mkfs.xfs", "xfsprogs"),
    ("mmdebstrap", "mmdebstrap"),
    ("mkfs.ext4", "e2fsprogs"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("unshare", "util-linux"),
    ("ssh-keygen", "openssh-client"),
    ("tar", "tar"),
];

/// Proof that this host can run the lab.
#[derive(Debug)]
pub struct LabHost(());

/// Returns a proof that this host can run the lab. Otherwise says `skipped: why` and returns `None`, or panics when
/// `LAB_REQUIRED=1`.
pub fn require_lab() -> Option<LabHost> {
    match check() {
        Ok(()) => Some(LabHost(())),
        Err(error) if env::var_os(REQUIRED_VARIABLE).is_some_and(|value| value == "1") => {
            panic!("{REQUIRED_VARIABLE}=1, but {error}")
        }
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// Checks that the lab can run here.
pub(super) fn check() -> Result<()> {
    let unavailable = |why: String| Err(LabError::Unavailable { why });
    if !rustix::process::geteuid().is_root() {
        return unavailable("it needs root".to_owned());
    }
    let mut missing: Vec<&str> = TOOLS
        .iter()
        .filter(|(program, _)| !tool::is_installed(program))
        .map(|(_, package)| *package)
        .collect();
    missing.dedup();
    if !missing.is_empty() {
        return unavailable(format!("packages are missing, try `apt-get install {}`", missing.join(" ")));
    }
    // Kept: an empty group costs nothing, and labs come back.
    let cgroup = place::cgroup2_mount()?.join("pc-switcher-lab");
    if let Err(error) = fs::create_dir_all(&cgroup) {
        return unavailable(format!("the cgroup2 tree cannot be changed: `{}`: {error}", cgroup.display()));
    }
    if !cgroup.join("cgroup.kill").exists() {
        return unavailable("the kernel has no `cgroup.kill`: it takes Linux 5.14".to_owned());
    }
    if !Path::new("/dev/loop-control").exists() {
        return unavailable("there is no /dev/loop-control, so no loop devices".to_owned());
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork", "true"]);
    if let Err(error) = tool::check(&mut unshare) {
        return unavailable(format!("it may not make namespaces: {error}"));
    }
    Ok(())
}
