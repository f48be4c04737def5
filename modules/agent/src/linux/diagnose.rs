//! Reads what a doctor looks at. Writes nothing; what cannot be read counts as not there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pc_switcher_contract::BytePath;

use super::btrfs::{Btrfs, KernelBtrfs};
use super::lvm;
use super::mounts::{Mounts, unescape};
use crate::proto::{AgentError, Diagnosis, Layers, LoginPath, Session, SwapFile, UserFact};

/// The inode number of a subvolume's root.
const SUBVOLUME_ROOT: u64 = 256;
const SESSIONS: &str = "/run/systemd/sessions";

/// Looks at this machine.
///
/// # Errors
/// If the mount table cannot be read.
pub fn diagnose() -> Result<Diagnosis, AgentError> {
    let mounts = Mounts::read()?;
    Ok(Diagnosis {
        fstab: String::from_utf8_lossy(&fs::read("/etc/fstab").unwrap_or_default()).into_owned(),
        swapfiles: swap_files(&mounts),
        quotas: quotas(&mounts),
        thin: lvm::thin(&lvm::HOST, &mounts),
        layers: layers(Path::new("/")),
        boot: boot(&mounts),
        clock_follows: clock_follows(),
        sessions: sessions(),
        logins: logins(&super::machine::users(Path::new("/etc/passwd"))?),
    })
}

/// Returns the swap files in use on btrfs.
pub(super) fn swap_files(mounts: &Mounts) -> Vec<SwapFile> {
    let swaps = fs::read("/proc/swaps").unwrap_or_default();
    swap_paths(&swaps).into_iter().filter_map(|path| swap_file(mounts, path)).collect()
}

/// Returns the files among the lines of `/proc/swaps`: path, type, size, used, priority.
fn swap_paths(swaps: &[u8]) -> Vec<BytePath> {
    let path = |line: &[u8]| {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let path = words.next()?;
        (words.next()? == b"file").then(|| BytePath::new(unescape(path)))
    };
    swaps.split(|byte| *byte == b'\n').skip(1).filter_map(path).collect()
}

fn swap_file(mounts: &Mounts, path: BytePath) -> Option<SwapFile> {
    mounts.holding(&path).filter(|mount| mount.is_btrfs())?;
    Some(SwapFile { subvolume_root: subvolume_root(path.as_path())?, path })
}

/// Returns the root of the subvolume that holds a path, which lies on btrfs.
fn subvolume_root(path: &Path) -> Option<BytePath> {
    let is_root = |dir: &&Path| {
        fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.ino() == SUBVOLUME_ROOT)
    };
    path.ancestors().skip(1).find(is_root).map(BytePath::from)
}

/// Returns the layers of containers that docker and podman keep as subvolumes, by their driver `btrfs`.
fn layers(root: &Path) -> Vec<Layers> {
    let settings = fs::read(root.join("etc/docker/daemon.json")).unwrap_or_default();
    let settings: serde_json::Value = serde_json::from_slice(&settings).unwrap_or_default();
    let docker =
        settings["data-root"].as_str().unwrap_or("/var/lib/docker").trim_start_matches('/').to_owned();
    let stores = [
        (root.join(&docker).join("btrfs/subvolumes"), root.join(&docker).join("image/btrfs")),
        (
            root.join("var/lib/containers/storage/btrfs/subvolumes"),
            root.join("var/lib/containers/storage/btrfs-layers"),
        ),
    ];
    let has_any = |dir: &Path| {
        fs::read_dir(dir).is_ok_and(|entries| {
            entries.flatten().any(|entry| entry.metadata().is_ok_and(|meta| meta.ino() == SUBVOLUME_ROOT))
        })
    };
    let found = stores.iter().filter(|(layers, _)| has_any(layers));
    found
        .filter_map(|(layers, list)| {
            Some(Layers { path: layers.as_path().into(), subvolume_root: subvolume_root(list)? })
        })
        .collect()
}

/// Returns the first mount point of every btrfs that keeps quota groups.
fn quotas(mounts: &Mounts) -> Vec<BytePath> {
    let mut seen = Vec::new();
    let mut found = Vec::new();
    for mount in mounts.visible().filter(|mount| mount.is_btrfs()) {
        let Ok(uuid) = KernelBtrfs.fs_uuid(mount.point.as_path()) else { continue };
        if seen.contains(&uuid) {
            continue;
        }
        seen.push(uuid);
        if Path::new("/sys/fs/btrfs").join(uuid.dashed()).join("qgroups").is_dir() {
            found.push(mount.point.clone());
        }
    }
    found
}

fn boot(mounts: &Mounts) -> Option<(BytePath, String)> {
    let boot = BytePath::from("/boot");
    let holding = mounts.holding(&boot)?;
    (holding.point == boot).then(|| (holding.point.clone(), holding.fs_type.clone()))
}

fn clock_follows() -> bool {
    super::clock::follows_a_server().unwrap_or(false)
}

fn sessions() -> Vec<Session> {
    let Ok(entries) = fs::read_dir(SESSIONS) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
        .iter()
        .filter(|path| is_session(path))
        .filter_map(|path| session(&fs::read_to_string(path).ok()?))
        .collect()
}

/// Returns home, `.ssh` and the list of keys of everybody who has one, as they are now; links are not followed.
fn logins(users: &[UserFact]) -> Vec<LoginPath> {
    let mut found = Vec::new();
    for user in users {
        let ssh = user.home.join(b".ssh");
        let keys = ssh.join(b"authorized_keys");
        if !keys.as_path().is_file() {
            continue;
        }
        for path in [user.home.clone(), ssh, keys] {
            if let Ok(meta) = fs::symlink_metadata(path.as_path()) {
                found.push(LoginPath { user: user.uid, path, owner: meta.uid(), mode: meta.mode() & 0o7777 });
            }
        }
    }
    found
}

/// Leaves out the pipes that lie beside the files.
fn is_session(path: &Path) -> bool {
    path.extension().is_none() && path.is_file()
}

/// Reads one file of logind: a graphical session of a person that is not ending.
fn session(text: &str) -> Option<Session> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let kind = value("TYPE").filter(|kind| matches!(*kind, "x11" | "wayland" | "mir"))?;
    let is_user = value("CLASS").is_some_and(|class| class.starts_with("user"));
    let is_ending = value("STATE") == Some("closing");
    let uid = value("UID")?.parse().ok()?;
    (is_user && !is_ending).then(|| Session { uid, kind: kind.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_on_files_is_found_and_on_devices_is_not() {
        let swaps = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
            /dev/dm-1                               partition\t8388604\t\t0\t\t-2\n\
            /swap\\040dir/file                       file\t\t4194300\t\t0\t\t-3\n";
        assert_eq!(swap_paths(swaps), [BytePath::from("/swap dir/file")]);
    }

    #[test]
    fn layers_that_are_subvolumes_are_found_with_the_tree_that_lists_them() {
        let Some(image) = crate::linux::btrfs::image::Image::make(256) else { return };
        image.create("@");
        let root = image.top().join("@");
        assert_eq!(layers(&root), []);
        for dir in ["var/lib/docker/image/btrfs", "var/lib/docker/btrfs/subvolumes/no-layer"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        assert_eq!(layers(&root), [], "an empty directory is no layer");
        image.create("@/var/lib/docker/btrfs/subvolumes/0f");
        let path = root.join("var/lib/docker/btrfs/subvolumes");
        let found = Layers { path: path.as_path().into(), subvolume_root: root.as_path().into() };
        assert_eq!(layers(&root), [found]);

        // All of it is moved, into a subvolume.
        fs::create_dir_all(root.join("etc/docker")).unwrap();
        fs::write(root.join("etc/docker/daemon.json"), r#"{ "data-root": "/srv/docker" }"#).unwrap();
        fs::create_dir_all(root.join("srv")).unwrap();
        image.create("@/srv/docker");
        fs::create_dir_all(root.join("srv/docker/image/btrfs")).unwrap();
        fs::create_dir_all(root.join("srv/docker/btrfs/subvolumes")).unwrap();
        image.create("@/srv/docker/btrfs/subvolumes/0f");
        let found = layers(&root);
        assert_eq!(found[0].subvolume_root, root.join("srv/docker").as_path().into());
    }

    #[test]
    fn a_persons_desktop_is_a_session_and_a_login_by_ssh_or_the_greeter_is_none() {
        let desktop =
            "# private\nUID=1000\nUSER=alice\nACTIVE=1\nSTATE=active\nTYPE=wayland\nCLASS=user\nSEAT=seat0\n";
        assert_eq!(session(desktop), Some(Session { uid: 1000, kind: "wayland".into() }));
        for (from, to) in
            [("TYPE=wayland", "TYPE=tty"), ("CLASS=user", "CLASS=greeter"), ("active", "closing")]
        {
            assert_eq!(session(&desktop.replace(from, to)), None, "{to}");
        }
    }
}
