//! A machine with a kernel of its own (qemu), for what the lab cannot show: a start from the initramfs on. With KVM where that
//! brings a kernel to its first words, otherwise by translation, which is ten times slower.
//!
//! Its disk is an image with `@`, `@home` and `@snapshots`, made by mmdebstrap. Kernel and initramfs are read from `@` on that disk before
//! each start, as a boot loader would. What it is to do is a shell script on a second disk, which the last unit of each start
//! runs; what it says, and what kernel and initramfs say, comes back by the serial line. The disk is mounted here between two
//! starts, so this belongs into a mount namespace of its own (`unshare --mount`): one that others make would hold it.

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

/// For so long a start may take: by translation even one that makes an initramfs is over then.
const PATIENCE: Duration = Duration::from_secs(900);

/// What the initramfs has of modules: as few as it takes, for those who translate.
const MODULES: &str = "virtio_pci\nvirtio_blk\nbtrfs\n";

/// The size of the second disk.
const TASK: u64 = 65_536;

/// A machine that is off.
pub struct Vm {
    dir: tempfile::TempDir,
    uuid: String,
    has_kvm: bool,
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
    None
}

fn run(program: &str, args: &[&str]) -> Result<String> {
    tool::run(program, args)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl Vm {
    /// Makes one: takes some minutes, and 2 GB for as long as it lives.
    ///
    /// # Errors
    /// If a package or a tool is missing.
    pub fn make() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("pc-switcher-vm").tempdir_in("/var/tmp");
        let dir = dir.map_err(LabError::io("make a directory for a machine"))?;
        let mut this = Self { dir, uuid: String::new(), has_kvm: false };
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
        run("chroot", &[&text(&root.at("")), "update-initramfs", "-u", "-k", "all"])?;
        drop(root);
        this.take_kernel()?;
        this.has_kvm = this.is_kvm_of_use()?;
        eprintln!(
            "the machine runs {}",
            if this.has_kvm { "with KVM" } else { "by translation, since KVM starts no kernel here" }
        );
        Ok(this)
    }

    /// Whether a kernel comes so far that it misses its root. The device may be there, and a kernel hang before its first word.
    fn is_kvm_of_use(&self) -> Result<bool> {
        if File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(false);
        }
        let log = self.at("serial");
        let mut command = self.qemu(true);
        command.arg("-serial").arg(format!("file:{}", text(&log)));
        let child =
            command.arg("-kernel").arg(self.at("kernel")).args(["-append", "console=ttyS0 panic=1"]).spawn();
        ended(child.map_err(LabError::io(format!("start `{QEMU}`")))?, Duration::from_secs(20))
            .map_err(LabError::io("wait for the machine"))?;
        Ok(fs::read_to_string(&log).is_ok_and(|said| said.contains("Kernel panic")))
    }

    fn qemu(&self, has_kvm: bool) -> Command {
        let mut command = Command::new(QEMU);
        match has_kvm {
            // Some hosts name capabilities that they do not let a machine have.
            true => command.args(["-accel", "kvm", "-cpu", "host,arch-capabilities=off"]),
            false => command.args(["-accel", "tcg,thread=multi", "-cpu", "max"]),
        };
        command.args([
            "-m",
            "1024",
            "-smp",
            "2",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        command.args(["-device", "virtio-rng-pci"]).stdin(Stdio::null());
        command
    }

    /// Takes kernel and initramfs out of `@`, as a boot loader would.
    fn take_kernel(&self) -> Result<()> {
        let root = self.mount("subvol=@")?;
        let boot = root.at("boot");
        let names = fs::read_dir(&boot).map_err(LabError::path("list", &boot))?.flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let release = names.filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned)).max();
        let none = || LabError::Unavailable { why: "there is no kernel in `@/boot`".to_owned() };
        let release = release.ok_or_else(none)?;
        for (start, name) in [("vmlinuz-", "kernel"), ("initrd.img-", "initramfs")] {
            let found = boot.join(format!("{start}{release}"));
            fs::copy(&found, self.at(name)).map_err(LabError::path("copy", &found))?;
        }
        Ok(())
    }

    fn furnish(&self, root: &Mounted) -> Result<()> {
        let uuid = &self.uuid;
        let mount = |point: &str, name: &str| format!("UUID={uuid} {point} btrfs subvol={name} 0 0\n");
        let fstab = [mount("/", "@"), mount("/home", "@home"), mount("/.snapshots", "@snapshots")].concat();
        root.write("etc/fstab", &fstab)?;
        root.write("etc/hostname", "vm\n")?;
        root.write("etc/initramfs-tools/modules", MODULES)?;
        root.write("etc/initramfs-tools/conf.d/small", "MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=1\n")?;
        root.write("etc/systemd/system/vm-task.service", UNIT)?;
        // systemd would make subvolumes of them, which stand in the way of each rollback.
        for dir in [
            ".snapshots",
            "var/lib/portables",
            "var/lib/machines",
            "etc/systemd/system/multi-user.target.wants",
        ] {
            fs::create_dir_all(root.at(dir)).map_err(LabError::path("make", root.at(dir)))?;
        }
        for (to, name) in [
            ("../vm-task.service", "multi-user.target.wants/vm-task.service"),
            // It would hang up the line that the second disk speaks on.
            ("/dev/null", "serial-getty@ttyS0.service"),
        ] {
            let link = root.at("etc/systemd/system").join(name);
            std::os::unix::fs::symlink(to, &link).map_err(LabError::path("make", &link))?;
        }
        Ok(())
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
        Ok(Self { dir, uuid: self.uuid.clone(), has_kvm: self.has_kvm })
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
        self.take_kernel()?;
        let path = self.at("task");
        fs::write(&path, task).map_err(LabError::path("write", &path))?;
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(TASK))
            .map_err(LabError::path("write", &path))?;
        let log = self.at("serial");
        let command_line = format!(
            "root=UUID={} rootflags=subvol=@ ro console=ttyS0 panic=1 loglevel=4 systemd.show_status=false",
            self.uuid
        );
        let drive = |name: &str| format!("file={},if=virtio,format=raw", text(&self.at(name)));
        let child = self
            .qemu(self.has_kvm)
            .arg("-serial")
            .arg(format!("file:{}", text(&log)))
            .args(["-drive", &drive("disk"), "-drive", &drive("task"), "-append", &command_line])
            .arg("-kernel")
            .arg(self.at("kernel"))
            .arg("-initrd")
            .arg(self.at("initramfs"))
            .spawn()
            .map_err(LabError::io(format!("start `{QEMU}`")))?;
        let by_itself = ended(child, PATIENCE).map_err(LabError::io("wait for the machine"))?;
        let said = fs::read(&log).map_err(LabError::path("read", &log))?;
        Ok(Ended { said: String::from_utf8_lossy(&said).replace('\r', ""), by_itself })
    }
}

/// Waits for a machine to be off; pulls the plug of one that hangs.
fn ended(mut child: Child, patience: Duration) -> io::Result<bool> {
    let began = Instant::now();
    while began.elapsed() < patience {
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
        // A namespace that somebody made meanwhile may hold it, too: then nothing is written by the unmounting.
        let unmounted =
            run("sync", &["-f", &text(&self.point)]).and_then(|_| run("umount", &[&text(&self.point)]));
        if let Err(error) = unmounted {
            eprintln!("left mounted: {error}");
        }
    }
}
