//! The tools of LVM and the kernel, as they are on this machine.
//!
//! No command waits for a lock by itself: whoever works with LVM at length, or hangs, would hold us up without end. One that
//! finds a lock taken is started again for a while. One that only looks is ended after its time; one that changes something
//! never is, since a live volume could stay suspended: it goes on, and is not waited for any longer.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use super::{Lvm, Mounted};
use crate::linux::state::write_file;

/// Where the tools lie.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The commands that only look.
const LOOKS: [&str; 2] = ["lvs", "vgs"];
/// The commands that would wait for locks.
const LOCKING: [&str; 5] = ["lvs", "vgs", "lvcreate", "lvchange", "lvremove"];
/// How soon it is looked again whether a command has ended.
const TICK: Duration = Duration::from_millis(5);
/// How soon one is started again that found a lock taken.
const AGAIN: Duration = Duration::from_millis(200);
/// For so long is waited for the rest of what one says that has ended: whatever it started may have its output open.
const REST: Duration = Duration::from_secs(1);

/// A rule of udev, until the machine is started anew. By the time of its set a device is known.
const RULES: &str = "/run/udev/rules.d/99-pc-switcher-volumes.rules";
const RULE: &str = "\
# Snapshots of volumes have the uuid of what they were taken of: links such as those in /dev/disk/by-uuid stay with that.
SUBSYSTEM==\"block\", ENV{DM_NAME}==\"*--[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]T[0-9][0-9][0-9][0-9][0-9][0-9]Z--????????\", \
OPTIONS+=\"link_priority=-100\", ENV{UDISKS_IGNORE}=\"1\"
";

/// The tools and the kernel.
#[derive(Debug)]
pub(crate) struct HostLvm {
    /// How long a lock is waited for, and a command that looks.
    pub(super) look: Duration,
    /// How long one is waited for that changes something.
    pub(super) change: Duration,
}

impl Lvm for HostLvm {
    fn run(&self, argv: &[&str], held: Option<&File>, stop: &dyn Fn() -> bool) -> io::Result<Vec<u8>> {
        let (program, args) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let began = Instant::now();
        loop {
            let mut command = Command::new(program);
            if LOCKING.contains(program) {
                command.args(["--config", "global/wait_for_locks=0"]);
            }
            command.args(args);
            let error = match self.once(program, command, held, stop)? {
                Ended { status, out, .. } if status.success() => return Ok(out),
                Ended { said, .. } => said,
            };
            if !is_locked_out(&error) {
                return Err(io::Error::other(format!("`{program}` says: {error}")));
            }
            if began.elapsed() >= self.look {
                return Err(busy(format!("`{program}` says: {error}")));
            }
            let since = Instant::now();
            while since.elapsed() < AGAIN.min(self.look) {
                if stop() {
                    return Err(cancelled());
                }
                thread::sleep(TICK);
            }
        }
    }

    fn has_pools(&self) -> bool {
        let devices = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
        let uuids = devices.filter_map(|device| std::fs::read(device.path().join("dm/uuid")).ok());
        // `LVM-`, the uuids of group and volume, and which part of the volume it is.
        uuids.into_iter().any(|uuid| uuid.starts_with(b"LVM-") && uuid.trim_ascii_end().ends_with(b"-tpool"))
    }

    fn mount(&self, node: &Path, fs_type: &str) -> io::Result<Mounted> {
        let fs = fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC)?;
        let made = || {
            fsconfig_set_string(&fs, "source", node)?;
            fsconfig_set_flag(&fs, "ro")?;
            if fs_type == "xfs" {
                // The volume it is a snapshot of is mounted with the same uuid; what was frozen needs no more than its log says.
                fsconfig_set_flag(&fs, "nouuid")?;
                fsconfig_set_flag(&fs, "norecovery")?;
            }
            fsconfig_create(&fs)
        };
        made().map_err(|error| {
            io::Error::new(error.kind(), format!("cannot mount `{}`: {}", node.display(), said(&fs, error)))
        })?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mount = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        let root = openat(&mount, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Mounted { root, _mount: Some(mount) })
    }

    fn set_apart(&self) {
        let path = Path::new(RULES);
        let is_there = || std::fs::read(path).is_ok_and(|there| there == RULE.as_bytes());
        if !Path::new("/run/udev").is_dir() || is_there() {
            return;
        }
        // Without it all goes as well, but for links that lead to the wrong device meanwhile.
        let _ = path.parent().map(std::fs::create_dir_all);
        if write_file(path, RULE.as_bytes()).is_ok() {
            let _ = self.run(&["udevadm", "control", "--reload"], None, &|| false);
        }
    }
}

/// What became of a command.
struct Ended {
    status: ExitStatus,
    out: Vec<u8>,
    /// What it complained of, in one line.
    said: String,
}

impl HostLvm {
    /// Runs a command once.
    fn once(
        &self,
        program: &str,
        mut command: Command,
        held: Option<&File>,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<Ended> {
        let stdin = match held {
            // It reads nothing there; but the lock on what it is goes on for as long as it runs.
            Some(file) => Stdio::from(file.try_clone()?),
            None => Stdio::null(),
        };
        let started = command
            .env_clear()
            .envs([("PATH", PATH), ("LC_ALL", "C"), ("LVM_SUPPRESS_FD_WARNINGS", "1")])
            .current_dir("/")
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = started.map_err(|error| match error.kind() {
            // Not `NotFound`, by which callers tell that a volume is gone.
            io::ErrorKind::NotFound => io::Error::other(format!(
                "`{program}` is not installed: `backend = \"lvm\"` takes the package lvm2"
            )),
            kind => io::Error::new(kind, format!("cannot start `{program}`: {error}")),
        })?;
        let (out, said) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let (began, looks) = (Instant::now(), LOOKS.contains(&program));
        let limit = if looks { self.look } else { self.change };
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            let is_over = began.elapsed() >= limit;
            if looks && (is_over || stop()) {
                let _ = child.kill();
                let _ = child.wait();
                return Err(match is_over {
                    true => busy(format!("`{program}` did not end within {} s", limit.as_secs())),
                    false => cancelled(),
                });
            }
            if is_over {
                let why = format!("`{program}` has run for {} s and goes on", limit.as_secs());
                wait_elsewhere(child);
                return Err(busy(why));
            }
            thread::sleep(TICK);
        };
        let rest = |lines: Receiver<Vec<u8>>| lines.recv_timeout(REST).unwrap_or_default();
        let said = rest(said);
        let said = String::from_utf8_lossy(&said);
        let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        Ok(Ended { status, out: rest(out), said: said.join("; ") })
    }
}

/// Reads all that comes, beside whoever waits for the end.
fn collect(from: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (to, all) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            let _ = from.read_to_end(&mut bytes);
        }
        let _ = to.send(bytes);
    });
    all
}

/// Sees to the end of a command that nobody waits for any more.
fn wait_elsewhere(mut child: Child) {
    thread::spawn(move || child.wait());
}

/// Whether a command says that somebody else has a lock, and that it did nothing for that reason.
fn is_locked_out(said: &str) -> bool {
    said.contains("Can't get lock for") || said.contains("flock failed: Resource temporarily unavailable")
}

fn busy(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, format!("LVM is busy, try again later: {why}"))
}

fn cancelled() -> io::Error {
    io::Error::from_raw_os_error(libc::ECANCELED)
}

/// Returns the last thing that the kernel says of a file system that was to be mounted.
fn said(fs: impl AsFd, error: rustix::io::Errno) -> String {
    let mut last = error.to_string();
    let mut line = [0; 1024];
    while let Ok(size @ 1..) = rustix::io::read(&fs, &mut line) {
        last = format!("{error} ({})", String::from_utf8_lossy(&line[..size]).trim());
    }
    last
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const HOST: HostLvm = HostLvm { look: Duration::from_millis(300), change: Duration::from_millis(300) };

    fn never() -> bool {
        false
    }

    #[test]
    fn one_that_finds_a_lock_taken_is_started_again_until_it_gets_it_or_the_time_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let locked = "echo \"  Can't get lock for vg0\" >&2; exit 5";
        let script =
            format!("[ -e {0} ] && echo done || {{ touch {0}; {locked}; }}", dir.path().join("x").display());
        assert_eq!(HOST.run(&["sh", "-c", &script], None, &never).unwrap(), b"done\n");

        let error = HOST.run(&["sh", "-c", locked], None, &never).unwrap_err().to_string();
        assert!(error.starts_with("LVM is busy") && error.contains("Can't get lock for vg0"), "{error}");
        let stopped = HOST.run(&["sh", "-c", locked], None, &|| true).unwrap_err();
        assert_eq!(stopped.raw_os_error(), Some(libc::ECANCELED));
        let other = HOST.run(&["sh", "-c", "echo no >&2; exit 5"], None, &never).unwrap_err();
        assert_eq!(other.to_string(), "`sh` says: no");
    }

    #[test]
    fn one_that_changes_something_is_never_ended_and_holds_its_lock_as_long_as_it_runs() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, lock) = (dir.path().join("fifo"), dir.path().join("lock"));
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        let held = File::create(&lock).unwrap();
        held.lock().unwrap();
        let script = format!("read line <{}", fifo.display());
        let error = HOST.run(&["sh", "-c", &script], Some(&held), &|| true).unwrap_err().to_string();
        assert!(error.starts_with("LVM is busy") && error.contains("goes on"), "{error}");
        drop(held);
        let other = File::open(&lock).unwrap();
        assert!(other.try_lock().is_err(), "it runs on");
        std::fs::write(&fifo, "go\n").unwrap();
        other.lock().unwrap();
    }

    #[test]
    fn one_that_looks_is_ended_when_its_time_is_over_or_nobody_wants_to_know_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, lock) = (dir.path().join("fifo"), dir.path().join("lock"));
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        let script = format!("read line <{}", fifo.display());
        let run = |stop: &dyn Fn() -> bool| {
            let held = File::create(&lock).unwrap();
            held.lock().unwrap();
            let mut command = Command::new("sh");
            command.args(["-c", &script]);
            let error = HOST.once("lvs", command, Some(&held), stop).err().unwrap();
            drop(held);
            // What another test starts right now may have the lock open until it has begun.
            let (free, since) = (File::open(&lock).unwrap(), Instant::now());
            while free.try_lock().is_err() {
                assert!(since.elapsed() < Duration::from_secs(10), "it has not ended");
                thread::sleep(TICK);
            }
            error
        };
        let late = run(&never).to_string();
        assert!(late.starts_with("LVM is busy") && late.contains("`lvs` did not end"), "{late}");
        let asked = Cell::new(0);
        let stopped = run(&|| {
            asked.set(asked.get() + 1);
            asked.get() > 3
        });
        assert_eq!(stopped.raw_os_error(), Some(libc::ECANCELED));
    }
}
