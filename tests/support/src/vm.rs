//! A machine with a kernel of its own (qemu with KVM), for what the lab cannot show: a start from the initramfs on.
//!
//! Its disk is an image with `@`, `@home` and `@snapshots`, made by mmdebstrap. Kernel and initramfs are read from `@` on that disk before
//! each start, as a boot loader would. What it is to do is a shell script on a second disk, which the last unit of each start
//! runs; what it says, and what kernel and initramfs say, comes back by the serial line.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::lab::{
    base,
    error::{LabError, Result},
    tool,
};

const PACKAGES: [&str; 9] = [
    "btrfs-progs",
    "busybox",
    "initramfs-tools",
    "kmod",
    "linux-image-cloud-amd64",
    "sudo",
    "systemd-sysv",
    "udev",
    "zstd",
];

const QEMU: &str = "qemu-system-x86_64";

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

/// The size of the second disk.
const TASK: u64 = 65_536;

/// A machine that is off.
pub struct Vm {
    dir: tempfile::TempDir,
    uuid: String,
}

/// What is mounted of its disk; it goes with this.
pub struct Mounted {
    point: PathBuf,
}

/// How a start ended.
#[derive(Debug)]
pub struct Ended {
    /// All that came by the serial line.
    pub said: String,
    /// Whether it ended by itself: switched off, or started anew after a panic.
    pub by_itself: bool,
}

/// Returns why there can be no such machine here, if so.
pub fn why_not() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("root is needed".into());
    }
    for program in [QEMU, "mmdebstrap", "mkfs.btrfs"] {
        if !tool::is_installed(program) {
            return Some(format!("`{program}` is not installed"));
        }
    }
    let kvm = File::options().read(true).write(true).open("/dev/kvm");
    kvm.err().map(|error| format!("no KVM: `/dev/kvm`: {error}"))
}

fn run(program: &str, args: &[&str]) -> Result<String> {
    tool::run(program, args)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl Vm {
    /// Makes one: takes a minute or two, and 2 GB for as long as it lives.
    ///
    /// # Errors
    /// If a package or a tool is missing.
    pub fn make() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("pc-switcher-vm").tempdir_in("/var/tmp");
        let dir = dir.map_err(LabError::io("make a directory for a machine"))?;
        let mut this = Self { dir, uuid: String::new() };
        let disk = this.at("disk");
        File::create(&disk).and_then(|file| file.set_len(6 << 30)).map_err(LabError::path("make", &disk))?;
        run("mkfs.btrfs", &["-q", &text(&disk)])?;
        this.uuid = run("blkid", &["-s", "UUID", "-o", "value", &text(&disk)])?.trim().to_owned();
        {
            let top = this.mount("subvolid=5")?;
            for name in ["@", "@home", "@snapshots"] {
                run("btrfs", &["-q", "subvolume", "create", &text(&top.at(name))])?;
            }
        }
        let root = this.mount("subvol=@")?;
        base::mmdebstrap(&base::codename()?, &root.at(""), &PACKAGES, &[])?;
        this.furnish(&root)?;
        drop(root);
        Ok(this)
    }

    fn furnish(&self, root: &Mounted) -> Result<()> {
        let uuid = &self.uuid;
        let mount = |point: &str, name: &str| format!("UUID={uuid} {point} btrfs subvol={name} 0 0\n");
        let fstab = [mount("/", "@"), mount("/home", "@home"), mount("/.snapshots", "@snapshots")].concat();
        root.write("etc/fstab", &fstab)?;
        root.write("etc/hostname", "vm\n")?;
        root.write("etc/systemd/system/vm-task.service", UNIT)?;
        // systemd would make subvolumes of them, which stand in the way of each rollback.
        for dir in [".snapshots", "var/lib/portables", "var/lib/machines", "etc/systemd/system/multi-user.target.wants"] {
            fs::create_dir_all(root.at(dir)).map_err(LabError::path("make", root.at(dir)))?;
        }
        let link = root.at("etc/systemd/system/multi-user.target.wants/vm-task.service");
        std::os::unix::fs::symlink("../vm-task.service", &link).map_err(LabError::path("make", &link))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes another one with a disk as this one's is now.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn copy(&self) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("pc-switcher-vm").tempdir_in("/var/tmp");
        let dir = dir.map_err(LabError::io("make a directory for a machine"))?;
        let to = text(&dir.path().join("disk"));
        run("cp", &["--sparse=always", "--reflink=auto", &text(&self.at("disk")), &to])?;
        Ok(Self { dir, uuid: self.uuid.clone() })
    }

    /// Mounts its disk here; the machine must be off meanwhile.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn mount(&self, options: &str) -> Result<Mounted> {
        let point = self.at("mounted");
        fs::create_dir_all(&point).map_err(LabError::path("make", &point))?;
        run("mount", &["-o", &format!("loop,{options}"), &text(&self.at("disk")), &text(&point)])?;
        Ok(Mounted { point })
    }

    /// Starts it once, has it do `task` if it comes so far, and waits until it is off.
    ///
    /// # Errors
    /// If it cannot be started, or there is no kernel in `@`.
    pub fn start(&self, task: &str) -> Result<Ended> {
        {
            let root = self.mount("subvol=@")?;
            for (start, name) in [("vmlinuz-", "kernel"), ("initrd.img-", "initramfs")] {
                let boot = root.at("boot");
                let found = fs::read_dir(&boot).map_err(LabError::path("list", &boot))?.flatten();
                let found = found.map(|entry| entry.path()).find(|path| {
                    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start))
                });
                let found = found.ok_or_else(|| LabError::Unavailable { why: format!("there is no `{start}…` in `@/boot`") })?;
                fs::copy(&found, self.at(name)).map_err(LabError::path("copy", &found))?;
            }
        }
        let path = self.at("task");
        fs::write(&path, task).map_err(LabError::path("write", &path))?;
        File::options().write(true).open(&path).and_then(|file| file.set_len(TASK)).map_err(LabError::path("write", &path))?;
        let log = self.at("serial");
        let command_line = format!(
            "root=UUID={} rootflags=subvol=@ ro console=ttyS0 panic=1 loglevel=4 systemd.show_status=false",
            self.uuid
        );
        let child = Command::new(QEMU)
            .args(["-enable-kvm", "-cpu", "host", "-m", "1024", "-smp", "2", "-nodefaults", "-no-user-config"])
            .args(["-display", "none", "-no-reboot", "-device", "virtio-rng-pci"])
            .arg("-serial").arg(format!("file:{}", text(&log)))
            .arg("-drive").arg(format!("file={},if=virtio,format=raw", text(&self.at("disk"))))
            .arg("-drive").arg(format!("file={},if=virtio,format=raw", text(&path)))
            .arg("-kernel").arg(self.at("kernel"))
            .arg("-initrd").arg(self.at("initramfs"))
            .args(["-append", &command_line])
            .stdin(Stdio::null())
            .spawn()
            .map_err(LabError::io(format!("start `{QEMU}`")))?;
        let by_itself = ended(child).map_err(LabError::io("wait for the machine"))?;
        let said = fs::read(&log).map_err(LabError::path("read", &log))?;
        Ok(Ended { said: String::from_utf8_lossy(&said).replace('\r', ""), by_itself })
    }
}

/// Waits for a machine to be off; pulls the plug of one that hangs.
fn ended(mut child: Child) -> io::Result<bool> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(300) {
        if child.try_wait()?.is_some() {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(50));
    }
    child.kill()?;
    child.wait().map(|_| false)
}

impl Mounted {
    /// Returns a path in it.
    pub fn at(&self, path: &str) -> PathBuf {
        self.point.join(path.trim_start_matches('/'))
    }

    /// Writes a file in it, and makes the directories above.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &str, content: &str) -> Result<()> {
        let path = self.at(path);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(LabError::path("make", dir))?;
        }
        fs::write(&path, content).map_err(LabError::path("write", &path))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = run("umount", &[&text(&self.point)]) {
            eprintln!("left mounted: {error}");
        }
    }
}
