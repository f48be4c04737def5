//! A machine with a kernel of its own and a thin pool of LVM, which the lab's kernel may not have: for one start, without
//! systemd.
//!
//! Its root is an image made of a tree by mmdebstrap, and nothing is mounted here for it. Its init is the script that says what it
//! is to do; what that says comes back by the serial line. A second disk, empty, is for the pool.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    lab::{
        base,
        error::{LabError, Result},
        tool,
    },
    vm::{self, Ended, QEMU},
};

const PACKAGES: [&str; 11] = [
    "busybox",
    "e2fsprogs",
    "initramfs-tools",
    "kmod",
    "linux-image-cloud-amd64",
    "lvm2",
    "sudo",
    "thin-provisioning-tools",
    "udev",
    "xfsprogs",
    "zstd",
];

/// For so long it may take, by translation as well.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What comes before all that a task says. The machine ends with it.
const BEGIN: &str = "\
#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
exec >/dev/ttyS0 2>&1 </dev/null
mountpoint -q /proc || mount -t proc proc /proc
mountpoint -q /sys || mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mountpoint -q /run || mount -t tmpfs run /run
mount -o remount,rw /
hostname thin
modprobe -a virtio_pci virtio_blk dm_mod dm_thin_pool ext4 xfs
/lib/systemd/systemd-udevd --daemon
udevadm trigger --action=add
udevadm settle
sh /task
echo b >/proc/sysrq-trigger
";

/// What the initramfs has of modules: as few as it takes.
const MODULES: &str = "virtio_pci\nvirtio_blk\next4\n";

/// A machine that is off.
pub struct ThinVm {
    dir: tempfile::TempDir,
}

/// Returns why there can be no such machine here, if so.
pub fn why_not() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("root is needed".into());
    }
    let missing = [QEMU, "mmdebstrap", "mke2fs"].into_iter().find(|program| !tool::is_installed(program));
    missing.map(|program| format!("`{program}` is not installed"))
}

impl ThinVm {
    /// Makes one that has this program and does what `task` says: takes some minutes, and 3 GB for as long as it lives.
    ///
    /// # Errors
    /// If a package or a tool is missing.
    pub fn make(program: &Path, task: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("pc-switcher-vm").tempdir_in("/var/tmp");
        let this = Self { dir: dir.map_err(LabError::io("make a directory for a machine"))? };
        let tree = this.at("tree");
        fs::create_dir(&tree).map_err(LabError::path("make", &tree))?;
        base::mmdebstrap(&base::codename()?, &tree, &PACKAGES, &[])?;
        let write = |path: &str, text: &str| {
            let path = tree.join(path);
            fs::write(&path, text).map_err(LabError::path("write", &path))
        };
        write("begin", BEGIN)?;
        write("task", task)?;
        write("etc/hostname", "thin\n")?;
        write("etc/machine-id", "00112233445566778899aabbccddeeff\n")?;
        write("etc/initramfs-tools/modules", MODULES)?;
        write("etc/initramfs-tools/conf.d/small", "MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=1\n")?;
        let into = tree.join("usr/local/bin/pc-switcher");
        fs::copy(program, &into).map_err(LabError::path("copy", program))?;
        tool::run("chmod", ["755", &text(&into), &text(&tree.join("begin"))])?;
        tool::run("chroot", [&text(&tree), "update-initramfs", "-u", "-k", "all"])?;
        vm::take_kernel(&tree.join("boot"), |name| this.at(name))?;
        for (name, size) in [("disk", 3_u64 << 30), ("pool", 2 << 30)] {
            let path = this.at(name);
            File::create(&path).and_then(|file| file.set_len(size)).map_err(LabError::path("make", &path))?;
        }
        tool::run("mke2fs", ["-q", "-F", "-t", "ext4", "-d", &text(&tree), &text(&this.at("disk"))])?;
        fs::remove_dir_all(&tree).map_err(LabError::path("remove", &tree))?;
        Ok(this)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts it and waits until it is off. Always by translation, so that it goes the same everywhere.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self) -> Result<Ended> {
        let log = self.at("serial");
        let drive = |name: &str| format!("file={},if=virtio,format=raw,cache=unsafe", text(&self.at(name)));
        let mut command = vm::bare(&log);
        command
            .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-drive", &drive("disk"), "-drive", &drive("pool")])
            .args(["-kernel", &text(&self.at("kernel")), "-initrd", &text(&self.at("initramfs"))])
            .args(["-append", "root=/dev/vda ro init=/begin console=ttyS0 panic=1 loglevel=4"]);
        vm::run(&mut command, &log, PATIENCE)
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
