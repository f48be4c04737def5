//! Fills a machine's fresh disk: the base tree plus what makes it this machine (name, keys, alice's rights).
//!
//! Works on a mounted tree and is run inside the hub.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use super::{
    error::{LabError, Result},
    options::{LabOptions, MachineName, SnapshotDir, Sudo},
    tool,
};

/// Part of the key of a pristine disk: raise it when this module writes something else.
pub(super) const VERSION: &str = "2";

const ALICE: u32 = 1000;

/// Key files of both machines, made once per lab.
pub(super) struct Identities {
    dir: PathBuf,
}

impl Identities {
    /// Makes the keys of both machines below `dir`.
    pub(super) fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(LabError::path("create", dir))?;
        let identities = Self { dir: dir.to_owned() };
        for machine in MachineName::ALL {
            for owner in ["alice", "host"] {
                let comment = format!("{owner}@{}", machine.as_str());
                let path = identities.private_key(machine, owner);
                // A key of a former lab must not answer for a new disk.
                let _ = fs::remove_file(&path);
                let path = path.to_string_lossy();
                tool::run(
                    "ssh-keygen",
                    ["-q", "-t", "ed25519", "-N", "", "-C", comment.as_str(), "-f", &*path],
                )?;
            }
        }
        Ok(identities)
    }

    fn private_key(&self, machine: MachineName, owner: &str) -> PathBuf {
        self.dir.join(format!("{}-{owner}", machine.as_str()))
    }

    fn read(&self, machine: MachineName, owner: &str) -> Result<(String, String)> {
        let private = self.private_key(machine, owner);
        let public = private.with_extension("pub");
        let read = |path: &Path| fs::read_to_string(path).map_err(LabError::path("read", path));
        Ok((read(&private)?, read(&public)?))
    }

    fn known_hosts(&self) -> Result<String> {
        let mut text = String::new();
        for machine in MachineName::ALL {
            let (_, public) = self.read(machine, "host")?;
            let key = public.split(' ').take(2).collect::<Vec<_>>().join(" ");
            text.push_str(&format!("{},{} {key}\n", machine.hostnames().join(","), machine.address()));
        }
        Ok(text)
    }
}

/// Writes the base tree and the machine's own files below `root`, where its subvolumes are mounted.
pub(super) fn fill(
    root: &Path,
    machine: MachineName,
    options: &LabOptions,
    base: &Path,
    identities: &Identities,
) -> Result<()> {
    let (root_text, base_text) = (root.to_string_lossy(), base.to_string_lossy());
    tool::run(
        "tar",
        [
            "--extract",
            "--numeric-owner",
            "--xattrs",
            "--xattrs-include=*",
            "--file",
            &*base_text,
            "-C",
            &*root_text,
        ],
    )?;
    let tree = Tree { root };
    let name = machine.as_str();
    tree.write("etc/hostname", &format!("{name}\n"), 0o644, 0)?;
    tree.write("etc/hosts", &hosts(), 0o644, 0)?;
    tree.write("etc/fstab", "", 0o644, 0)?;
    tree.write("etc/machine-id", &format!("{}\n", machine_id()?), 0o444, 0)?;
    let (private, public) = identities.read(machine, "host")?;
    tree.write("etc/ssh/ssh_host_ed25519_key", &private, 0o600, 0)?;
    tree.write("etc/ssh/ssh_host_ed25519_key.pub", &public, 0o644, 0)?;
    tree.append("etc/ssh/sshd_config.d/lab.conf", sshd_extra(options))?;
    match options.sudo {
        Sudo::NoPassword => {
            tree.write("etc/sudoers.d/alice", "alice ALL=(ALL:ALL) NOPASSWD: ALL\n", 0o440, 0)?
        }
        Sudo::Password => tree.write("etc/sudoers.d/alice", "alice ALL=(ALL:ALL) ALL\n", 0o440, 0)?,
        Sudo::Refused => {}
    }
    let (private, public) = identities.read(machine, "alice")?;
    tree.dir("home/alice/.ssh", 0o700, ALICE)?;
    tree.write("home/alice/.ssh/id_ed25519", &private, 0o600, ALICE)?;
    tree.write("home/alice/.ssh/id_ed25519.pub", &public, 0o644, ALICE)?;
    tree.write("home/alice/.ssh/known_hosts", &identities.known_hosts()?, 0o644, ALICE)?;
    tree.write("home/alice/.ssh/config", "Host laptop desk target-host\n    User alice\n", 0o600, ALICE)?;
    let both = MachineName::ALL.map(|peer| identities.read(peer, "alice").map(|(_, public)| public));
    let [laptop, desk] = both;
    tree.write("home/alice/.ssh/authorized_keys", &format!("{}{}", laptop?, desk?), 0o600, ALICE)?;
    if options.snapshot_dir == SnapshotDir::Plain {
        tree.dir(".snapshots", 0o755, 0)?;
    }
    Ok(())
}

/// Without logind nobody else tells a session where its runtime directory is.
fn sshd_extra(options: &LabOptions) -> &'static str {
    match options.init {
        super::options::Init::Tiny => "Match User alice\n    SetEnv XDG_RUNTIME_DIR=/run/user/1000\n",
        super::options::Init::Systemd => "",
    }
}

fn hosts() -> String {
    let mut text = "127.0.0.1 localhost\n".to_owned();
    for machine in MachineName::ALL {
        text.push_str(&format!("{} {}\n", machine.address(), machine.hostnames().join(" ")));
    }
    text
}

fn machine_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    Ok(fs::read_to_string(path).map_err(LabError::path("read", path))?.trim().replace('-', ""))
}

/// Writes files with mode and owner below a root.
struct Tree<'a> {
    root: &'a Path,
}

impl Tree<'_> {
    fn write(&self, path: &str, text: &str, mode: u32, owner: u32) -> Result<()> {
        let path = self.root.join(path);
        fs::write(&path, text).map_err(LabError::path("write", &path))?;
        set_access(&path, mode, owner)
    }

    fn append(&self, path: &str, text: &str) -> Result<()> {
        let path = self.root.join(path);
        let before = fs::read_to_string(&path).map_err(LabError::path("read", &path))?;
        fs::write(&path, before + text).map_err(LabError::path("write", &path))
    }

    fn dir(&self, path: &str, mode: u32, owner: u32) -> Result<()> {
        let path = self.root.join(path);
        fs::create_dir_all(&path).map_err(LabError::path("create", &path))?;
        set_access(&path, mode, owner)
    }
}

fn set_access(path: &Path, mode: u32, owner: u32) -> Result<()> {
    chown(path, Some(owner), Some(owner)).map_err(LabError::path("set the owner of", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(LabError::path("set the mode of", path))
}
