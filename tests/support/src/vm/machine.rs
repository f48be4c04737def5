//! What is in a machine: packages, mounts, and no unit more than it takes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::disk::Mounted;
use crate::lab::error::{LabError, Result};
use crate::lab::tool::run;
use crate::lab::{base, place};

const PACKAGES: [&str; 12] = [
    "btrfs-progs",
    "busybox",
    "cryptsetup-initramfs",
    "grub-pc-bin",
    "grub2-common",
    "initramfs-tools",
    "kmod",
    "linux-image-cloud-amd64",
    "lz4",
    "sudo",
    "systemd-sysv",
    "udev",
];

/// Units that nothing here needs: by translation each program that is started takes a part of a second.
const MASKED: [&str; 23] = [
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "cryptdisks-early.service",
    "cryptdisks.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "kmod-static-nodes.service",
    // It would hang up the line that the second disk speaks on.
    "serial-getty@ttyS0.service",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-binfmt.service",
    "systemd-logind.service",
    "systemd-networkd.service",
    "systemd-pcrphase.service",
    "systemd-pstore.service",
    "systemd-tmpfiles-clean.timer",
];

/// The unit that does what the second disk says.
const UNIT: &str = "\
[Unit]
Description=Do what the second disk says
After=multi-user.target

[Service]
Type=oneshot
Environment=HOME=/root
ExecStart=/bin/sh -c 'tr -d \"\\\\000\" </dev/vdb >/run/task && sh /run/task >/dev/ttyS0 2>&1'

[Install]
WantedBy=multi-user.target
";

/// What the initramfs has of modules: as few as it takes, for those who translate.
const MODULES: &str = "virtio_pci\nvirtio_blk\nbtrfs\n";

/// Returns a tarball of a system, and makes it first if the cache has none of this recipe.
fn tarball() -> Result<PathBuf> {
    let codename = base::codename()?;
    let recipe = blake3::hash([&[codename.as_str()][..], &PACKAGES].concat().join(" ").as_bytes()).to_hex();
    let cache = place::cache_dir();
    let path = cache.join(format!("vm-{}.tar", &recipe[..16]));
    fs::create_dir_all(&cache).map_err(LabError::path("make", &cache))?;
    let lock_path = cache.join("vm.lock");
    let lock = File::create(&lock_path).map_err(LabError::path("make", &lock_path))?;
    lock.lock().map_err(LabError::path("lock", &lock_path))?;
    if !path.exists() {
        let partial = cache.join("vm-partial.tar");
        base::mmdebstrap(&codename, &partial, &PACKAGES, &[])?;
        fs::rename(&partial, &path).map_err(LabError::path("rename", &partial))?;
    }
    Ok(path)
}

/// Puts a system into an empty tree, on a disk whose file system has this uuid.
pub(super) fn furnish(root: &Mounted, uuid: &str) -> Result<()> {
    let to = root.at("");
    let tar = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-x", "-f"].map(Path::new);
    run("tar", tar.into_iter().chain([tarball()?.as_path(), Path::new("-C"), &to]))?;
    let mount = |point: &str, name: &str| format!("UUID={uuid} {point} btrfs subvol={name} 0 0\n");
    let fstab = [mount("/", "@"), mount("/home", "@home"), mount("/.snapshots", "@snapshots")].concat();
    root.write("etc/fstab", &fstab)?;
    root.write("etc/hostname", "vm\n")?;
    root.write("etc/initramfs-tools/modules", MODULES)?;
    // Taken apart in no time, and made in little.
    root.write("etc/initramfs-tools/conf.d/small", "MODULES=list\nCOMPRESS=lz4\nBUSYBOX=y\n")?;
    root.write("etc/systemd/system/vm-task.service", UNIT)?;
    // systemd would make subvolumes of them, which stand in the way of each rollback.
    for dir in
        [".snapshots", "var/lib/portables", "var/lib/machines", "etc/systemd/system/multi-user.target.wants"]
    {
        fs::create_dir_all(root.at(dir)).map_err(LabError::path("make", root.at(dir)))?;
    }
    let units = root.at("etc/systemd/system");
    let mut links = vec![("../vm-task.service", units.join("multi-user.target.wants/vm-task.service"))];
    links.extend(MASKED.iter().map(|name| ("/dev/null", units.join(name))));
    for (to, link) in links {
        // A package may have enabled or masked it.
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(to, &link).map_err(LabError::path("make", &link))?;
    }
    run(
        "chroot",
        [to.as_path(), Path::new("update-initramfs"), Path::new("-u"), Path::new("-k"), Path::new("all")],
    )
    .map(drop)
}
