//! The machine's lock: one sync per machine in either role (facts/ssh.md S35-S41).
//!
//! An OS lock on an open file, so it is gone with its process. The holder's name is written only after the lock was
//! taken and wiped before it is freed; a reader may see nothing, never somebody else's name.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::proto::{AgentError, LockHolder, LockRequest};

/// Where the lock lies.
pub const LOCK_PATH: &str = "/run/pc-switcher/lock";

/// The lock, held until it is dropped.
#[derive(Debug)]
pub struct MachineLock {
    file: File,
    holder: LockHolder,
}

/// How a try ended.
#[derive(Debug)]
pub enum Attempt {
    /// It is ours.
    Held(MachineLock),
    /// Somebody else has it; `None` if the name is not written yet.
    Busy(Option<LockHolder>),
}

impl MachineLock {
    /// Tries to take the lock; never waits.
    ///
    /// # Errors
    /// If the file cannot be made, for example without root.
    pub fn try_take(path: &Path, request: &LockRequest) -> Result<Attempt, AgentError> {
        let failed = |error: &io::Error| AgentError::io(format!("cannot lock `{}`", path.display()), error);
        let mut file = open(path).map_err(|error| failed(&error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Attempt::Busy(read_holder(&mut file))),
            Err(TryLockError::Error(error)) => return Err(failed(&error)),
        }
        let holder = LockHolder {
            session: request.session.clone(),
            role: request.role,
            from: request.from.clone(),
            user: request.user.clone(),
            pid: std::process::id(),
            since: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        };
        let text =
            serde_json::to_vec(&holder).map_err(|error| AgentError::failed(format!("holder: {error}")))?;
        // Held from here: whatever fails below frees it.
        let mut lock = MachineLock { file, holder };
        lock.write(&text).map_err(|error| failed(&error))?;
        Ok(Attempt::Held(lock))
    }

    /// Tells who holds the lock right now, without touching it; anybody may ask. The inner value is `None` while the
    /// holder has not written its name.
    pub fn look(path: &Path) -> Option<Option<LockHolder>> {
        let mut file = File::open(path).ok()?;
        // Trying the lock, be it for a moment, could make a sync that starts right now fail.
        let locks = fs::read_to_string("/proc/locks").ok()?;
        let (meta, holder) = (file.metadata().ok()?, read_holder(&mut file));
        let device = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
        is_locked(&locks, device, meta.ino()).then_some(holder)
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(text)
    }

    /// Whether this lock belongs to the session that asks.
    pub fn is_of(&self, request: &LockRequest) -> bool {
        self.holder.session == request.session && self.holder.role == request.role
    }

    /// Returns who holds it.
    pub fn holder(&self) -> &LockHolder {
        &self.holder
    }
}

impl Drop for MachineLock {
    fn drop(&mut self) {
        // The name goes before the lock does; closing frees it even if this fails.
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent()
        && !dir.exists()
    {
        match DirBuilder::new().mode(0o755).create(dir) {
            // The process's umask would leave others unable to see who holds the lock.
            Ok(()) => fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    if file.metadata()?.permissions().mode() & 0o777 != 0o644 {
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    Ok(file)
}

/// Looks for a held lock of `flock(2)` in the lines of `/proc/locks`: number, kind, mode, access, pid, device:inode, range.
fn is_locked(locks: &str, device: (u32, u32), inode: u64) -> bool {
    let wanted = format!("{:02x}:{:02x}:{inode}", device.0, device.1);
    locks.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // A waiter's line has an arrow after the number.
        words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&wanted.as_str())
    })
}

fn read_holder(file: &mut File) -> Option<LockHolder> {
    let mut text = Vec::new();
    file.take(64 << 10).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use pc_switcher_contract::Role;

    use super::*;

    fn request(session: &str) -> LockRequest {
        LockRequest {
            session: session.parse().unwrap(),
            role: Role::Target,
            from: "laptop".parse().unwrap(),
            user: "alice".into(),
        }
    }

    #[test]
    fn the_loser_learns_the_holder_and_wins_after_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/lock");
        let Attempt::Held(held) = MachineLock::try_take(&path, &request("aaaaaaaa")).unwrap() else {
            panic!()
        };
        let Attempt::Busy(Some(holder)) = MachineLock::try_take(&path, &request("bbbbbbbb")).unwrap() else {
            panic!()
        };
        assert_eq!((&holder, holder.pid), (held.holder(), std::process::id()));
        assert!(held.is_of(&request("aaaaaaaa")) && !held.is_of(&request("bbbbbbbb")));
        drop(held);
        assert_eq!(fs::read(&path).unwrap(), b"", "the name goes with the lock");
        assert!(matches!(MachineLock::try_take(&path, &request("bbbbbbbb")), Ok(Attempt::Held(_))));
    }

    #[test]
    fn a_look_names_the_holder_and_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/lock");
        assert_eq!(MachineLock::look(&path), None);
        let Attempt::Held(held) = MachineLock::try_take(&path, &request("aaaaaaaa")).unwrap() else {
            panic!()
        };
        // Some file systems show their files under a device of their own: those are no place for a lock anyway.
        if fs::read_to_string("/proc/locks")
            .unwrap()
            .contains(&format!(":{} ", fs::metadata(&path).unwrap().ino()))
        {
            let seen = MachineLock::look(&path);
            assert!(seen.is_none() || seen == Some(Some(held.holder().clone())));
        }
        drop(held);
        assert_eq!(MachineLock::look(&path), None);
    }

    #[test]
    fn a_lock_is_found_by_device_and_inode_and_a_waiter_is_none() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 00:1a:9 0 EOF\n2: FLOCK  ADVISORY  WRITE 7 00:1a:5 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 8 00:1a:6 0 EOF\n";
        assert!(is_locked(locks, (0, 0x1a), 5));
        for (device, inode) in [((0, 0x1a), 9), ((0, 0x1a), 6), ((1, 0x1a), 5), ((0, 0x1a), 55)] {
            assert!(!is_locked(locks, device, inode), "{device:?} {inode}");
        }
    }

    #[test]
    fn a_holder_that_has_not_written_its_name_is_busy_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        for text in ["", "{\"session\":", "nonsense"] {
            let file = File::create(&path).unwrap();
            file.try_lock().unwrap();
            fs::write(&path, text).unwrap();
            let attempt = MachineLock::try_take(&path, &request("aaaaaaaa")).unwrap();
            assert!(matches!(attempt, Attempt::Busy(None)), "{text}");
        }
    }

    #[test]
    fn everybody_may_read_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/lock");
        let _held = MachineLock::try_take(&path, &request("aaaaaaaa")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o644, 0o755));
    }
}
