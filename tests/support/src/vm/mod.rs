//! A machine with a kernel of its own (qemu), for what the lab cannot show: a start from the boot loader or the initramfs on. With KVM
//! where that brings a kernel to its first words, otherwise by translation, which is ten times slower.
//!
//! Kernel and initramfs are read from `@` on its disk before each start, as a boot loader would; or a boot loader reads them. What
//! the machine is to do is a shell script on a second disk, which the last unit of each start runs; what it says, and what kernel and
//! initramfs say, comes back by the serial line. The disk is mounted here between two starts.

mod disk;
mod machine;
mod room;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use self::disk::Disk;
pub use self::disk::Mounted;
use self::room::Room;
use crate::lab::error::{LabError, Result};
use crate::lab::tool;

pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// For so long a start may take: by translation on a busy host even one that makes an initramfs is over then.
const PATIENCE: Duration = Duration::from_secs(1200);

/// The size of the second disk.
const TASK: u64 = 65_536;

/// What spares a kernel work, or a person reading.
const COMMAND_LINE: &str = "ro console=ttyS0 panic=1 loglevel=4 systemd.show_status=false mitigations=off nokaslr \
    cryptomgr.notests raid=noautodetect audit=0 apparmor=0 fsck.mode=skip \
    modprobe.blacklist=ata_piix,i2c_piix4,pcspkr,psmouse";

/// A machine that is off.
pub struct Vm {
    disk: Disk,
    has_kvm: bool,
    /// Whether what is on its disk brings up the kernel.
    has_loader: bool,
    /// A third disk.
    more: Option<PathBuf>,
    /// What `/` is on, if it is not its disk.
    root: Option<String>,
    /// The subvolume of its disk that holds kernel and initramfs, and where in that.
    kernels: (String, &'static str),
    name: String,
    // After all that lies in it.
    room: Rc<Room>,
}

/// How a start ended.
#[derive(Debug)]
pub struct Ended {
    /// All that came by the serial line.
    pub said: String,
    /// Whether it ended by itself: switched off, or started anew after a panic.
    pub by_itself: bool,
    /// How long it took.
    pub took: Duration,
}

/// Returns why there can be no such machine here, if so.
pub fn why_not() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("root is needed".into());
    }
    for program in [QEMU, "mmdebstrap", "mkfs.btrfs", "mkfs.ext4"] {
        if !tool::is_installed(program) {
            return Some(format!("`{program}` is not installed"));
        }
    }
    None
}

impl Vm {
    /// Makes one: takes a minute, some more for the first of its kind, and 3 GB for as long as it lives. The calling thread gets a mount
    /// namespace of its own.
    ///
    /// # Errors
    /// If a package or a tool is missing.
    pub fn make() -> Result<Self> {
        let room = Rc::new(Room::make()?);
        let name = "vm".to_owned();
        let disk = Disk::make(&room, &name)?;
        machine::furnish(&disk.mount("subvol=@")?, &disk.uuid)?;
        let kernels = ("@".to_owned(), "boot");
        let mut this =
            Self { disk, has_kvm: false, has_loader: false, more: None, root: None, kernels, name, room };
        this.take_kernel()?;
        this.has_kvm = this.is_kvm_of_use()?;
        eprintln!(
            "the machine runs {}",
            if this.has_kvm { "with KVM" } else { "by translation, since KVM starts no kernel here" }
        );
        Ok(this)
    }

    /// Makes another one with a disk as this one's is now.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn copy(&self, name: &str) -> Result<Self> {
        let disk = self.disk.copy(&self.room, name)?;
        Ok(Self {
            disk,
            has_kvm: self.has_kvm,
            has_loader: self.has_loader,
            more: None,
            root: self.root.clone(),
            kernels: self.kernels.clone(),
            name: name.to_owned(),
            room: Rc::clone(&self.room),
        })
    }

    /// Adds a third disk, on which is nothing.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn add_disk(&mut self) -> Result<()> {
        let path = self.at("more");
        File::create(&path)
            .and_then(|file| file.set_len(disk::SIZE))
            .map_err(LabError::path("make", &path))?;
        self.more = Some(path);
        Ok(())
    }

    /// From now on `/` is on `root`, and kernel and initramfs in a subvolume of the first disk.
    pub fn start_on(&mut self, root: &str, subvolume: &str) {
        self.root = Some(root.to_owned());
        self.kernels = (subvolume.to_owned(), "");
    }

    /// From now on a boot loader on its disk brings up the kernel.
    pub fn start_by_its_loader(&mut self) {
        self.has_loader = true;
    }

    /// The words that a kernel of it is started with, for a boot loader.
    pub fn command_line() -> &'static str {
        COMMAND_LINE
    }

    fn at(&self, name: &str) -> PathBuf {
        self.room.at(&format!("{}.{name}", self.name))
    }

    /// Mounts its disk here; the machine must be off meanwhile.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn mount(&self, options: &str) -> Result<Mounted> {
        self.disk.mount(options)
    }

    /// Whether a kernel comes so far that it misses its root. The device may be there, and a kernel hang before its first word.
    fn is_kvm_of_use(&self) -> Result<bool> {
        if File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(false);
        }
        let log = self.at("serial");
        let mut command = self.qemu(true, &log);
        command.arg("-kernel").arg(self.at("kernel")).args(["-append", "console=ttyS0 panic=1"]);
        ended(&mut command, Duration::from_secs(20))?;
        Ok(fs::read_to_string(&log).is_ok_and(|said| said.contains("Kernel panic")))
    }

    fn qemu(&self, has_kvm: bool, log: &Path) -> Command {
        let mut command = bare(log);
        match has_kvm {
            // Some hosts name capabilities that they do not let a machine have.
            true => command.args(["-accel", "kvm", "-cpu", "host,arch-capabilities=off"]),
            // It has what checksums take, and nothing that is hard to translate.
            false => command.args(["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Nehalem"]),
        };
        command
    }

    /// Takes kernel and initramfs out of the disk, as a boot loader would.
    fn take_kernel(&self) -> Result<()> {
        let (subvolume, dir) = &self.kernels;
        let root = self.mount(&format!("subvol={subvolume}"))?;
        take_kernel(&root.at(dir), |name| self.at(name))
    }

    /// Starts it once, has it do `task` if it comes so far, and waits until it is off. A boot loader of its own has words of its own, and
    /// not `words`.
    ///
    /// # Errors
    /// If it cannot be started, or there is no kernel in `@`.
    pub fn start(&self, task: &str, words: &str) -> Result<Ended> {
        let (path, log) = (self.at("task"), self.at("serial"));
        fs::write(&path, task).map_err(LabError::path("write", &path))?;
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(TASK))
            .map_err(LabError::path("write", &path))?;
        let mut command = self.qemu(self.has_kvm, &log);
        // What a machine that ends has written is in the file: only the host must not die.
        let drive = |path: &Path| format!("file={},if=virtio,format=raw,cache=unsafe", path.display());
        for path in [&self.disk.image, &path].into_iter().chain(&self.more) {
            command.args(["-drive", &drive(path)]);
        }
        if !self.has_loader {
            self.take_kernel()?;
            let own = || format!("UUID={}", self.disk.uuid);
            let root = self.root.clone().unwrap_or_else(own);
            let line = format!("root={root} rootflags=subvol=@ {COMMAND_LINE} {words}");
            command.arg("-kernel").arg(self.at("kernel")).arg("-initrd").arg(self.at("initramfs"));
            command.args(["-append", &line]);
        }
        run(&mut command, &log, PATIENCE)
    }
}

/// Starts a machine and waits until it is off.
pub(crate) fn run(command: &mut Command, log: &Path, patience: Duration) -> Result<Ended> {
    let began = Instant::now();
    let by_itself = ended(command, patience)?;
    let said = fs::read(log).map_err(LabError::path("read", log))?;
    let said = String::from_utf8_lossy(&said).replace('\r', "");
    Ok(Ended { said, by_itself, took: began.elapsed() })
}

/// A machine that has no more than a serial line, and ends with the thread that starts it.
pub(crate) fn bare(log: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", QEMU]);
    command.args(["-m", "1024", "-smp", "2", "-nodefaults", "-no-user-config", "-display", "none"]);
    command.args(["-no-reboot", "-device", "virtio-rng-pci", "-serial"]);
    command.arg(format!("file:{}", log.display())).stdin(Stdio::null());
    command
}

/// Copies the newest kernel of a directory and its initramfs to where `to` says.
pub(crate) fn take_kernel(boot: &Path, to: impl Fn(&str) -> PathBuf) -> Result<()> {
    let names = fs::read_dir(boot).map_err(LabError::path("list", boot))?.flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let release = names.filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned)).max();
    let none = || LabError::Unavailable { why: format!("there is no kernel in {}", boot.display()) };
    let release = release.ok_or_else(none)?;
    for (start, name) in [("vmlinuz-", "kernel"), ("initrd.img-", "initramfs")] {
        let found = boot.join(format!("{start}{release}"));
        fs::copy(&found, to(name)).map_err(LabError::path("copy", &found))?;
    }
    Ok(())
}

/// Starts a machine and waits for it to be off; pulls the plug of one that hangs. Returns whether it ended by itself.
fn ended(command: &mut Command, patience: Duration) -> Result<bool> {
    let mut child = command.spawn().map_err(LabError::io(format!("start `{QEMU}`")))?;
    wait(&mut child, patience).map_err(LabError::io("wait for the machine"))
}

fn wait(child: &mut Child, patience: Duration) -> io::Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let until = Instant::now() + patience;
    let is_over = loop {
        let left = until.saturating_duration_since(Instant::now());
        let time = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&time)) {
            Ok(count) => break count > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    if !is_over {
        child.kill()?;
    }
    let status = child.wait()?;
    match is_over && !status.success() {
        true => Err(io::Error::other(format!("it ended with {status}"))),
        false => Ok(is_over),
    }
}
