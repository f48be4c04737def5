//! References to a set: shared OS locks on its `lock` file, gone with the process that holds them.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::thread;
use std::time::Duration;

use super::sidecar::Sidecar;

/// How often a lock is tried that somebody may hold only to look at it.
const TRIES: usize = 3;

/// An OS lock that ends when it is dropped, though a process that is just being started may have its file.
#[derive(Debug)]
pub(super) struct Held(File);

impl Held {
    /// Takes charge of a file that is locked.
    pub(super) fn new(file: File) -> Self {
        Self(file)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Closing frees it even if this fails, only later perhaps.
        let _ = self.0.unlock();
    }
}

/// Keeps a set from being removed until it is dropped.
#[derive(Debug)]
pub struct Reference(#[expect(dead_code, reason = "it is held, not read")] Held);

impl Reference {
    /// Takes a reference; `None` if the set is being removed.
    pub(super) fn take(sidecar: &Sidecar) -> io::Result<Option<Self>> {
        locked(sidecar, File::try_lock_shared).map(|file| file.map(Self))
    }
}

/// Holds a set that nobody else holds, and is the last to do so.
pub(super) struct Sole(#[expect(dead_code, reason = "it is held, not read")] Held);

impl Sole {
    /// Takes hold of it; `None` if somebody has a reference.
    pub(super) fn take(sidecar: &Sidecar) -> io::Result<Option<Self>> {
        locked(sidecar, File::try_lock).map(|file| file.map(Self))
    }
}

/// Whether somebody works with a set right now. Leaves nothing, not even the file that is asked.
pub(super) fn is_used(sidecar: &Sidecar) -> bool {
    let Ok(file) = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(sidecar.lock()) else {
        return false;
    };
    match try_often(&file, File::try_lock) {
        Ok(true) => {
            drop(Held::new(file));
            false
        }
        Ok(false) => true,
        Err(_) => false,
    }
}

type Lock = fn(&File) -> Result<(), TryLockError>;

/// Locks without waiting. Whether the file is still the set's is asked when it is locked.
fn locked(sidecar: &Sidecar, lock: Lock) -> io::Result<Option<Held>> {
    let path = sidecar.lock();
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)?;
    if !try_often(&file, lock)? {
        return Ok(None);
    }
    let number = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    let (own, there) = (file.metadata().map(number), std::fs::symlink_metadata(&path).map(number));
    let is_it = own.ok().zip(there.ok()).is_some_and(|(own, there)| own == there);
    let held = Held::new(file);
    Ok(is_it.then_some(held))
}

/// Whether a file could be locked.
fn try_often(file: &File, lock: Lock) -> io::Result<bool> {
    for attempt in 1..=TRIES {
        match lock(file) {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if attempt < TRIES => thread::sleep(Duration::from_millis(1)),
            Err(TryLockError::WouldBlock) => {}
        }
    }
    Ok(false)
}
