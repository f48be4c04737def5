//! The journal of the one rollback that a machine may have: beside the snapshots, where no rollback reaches.
//!
//! The machine state only says where that is. It is carried over into the new tree before that is put in place, so each of
//! the two trees finds the same journal.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use pc_switcher_contract::{BytePath, SessionId};

use super::stray;
use crate::linux::state::{StateDir, sync_dir};
use crate::proto::{AgentError, RollbackState};

/// The key of the machine state that says where the journal is.
pub const POINTER: &str = "rollback";

/// The directory of all keys.
const DIR: &str = "rollback";

/// What the names of a journal that was set aside begin with.
const ASIDE: &str = "aside-";

/// The key of the journal itself.
const KEY: &str = "rollback/journal.json";

/// The key that says that somebody has worked on the new trees of a rollback that was taken back.
const WORKED: &str = "rollback/worked";

/// The key that names subvolumes that are read-only, and writable while they move: a uuid a line.
const UNSEALED: &str = "rollback/unsealed";

/// The key of what goes back without a restart.
const AT_ONCE: &str = "rollback/at-once";

/// The inode of the root of each btrfs subvolume.
const SUBVOLUME_ROOT: u64 = 256;

/// Where a machine's journal is.
pub(super) struct Journal<'a> {
    state: &'a StateDir,
}

impl<'a> Journal<'a> {
    pub(super) fn of(state: &'a StateDir) -> Self {
        Self { state }
    }

    fn place(&self) -> Result<Option<StateDir>, AgentError> {
        let bytes = self.state.get(POINTER)?;
        Ok(bytes.map(|bytes| store(&BytePath::new(bytes))))
    }

    /// Returns the directory of the snapshots that the rollback is about.
    pub(super) fn snapshot_dir(&self) -> Result<BytePath, AgentError> {
        let bytes = self.state.get(POINTER)?;
        bytes.map(BytePath::new).ok_or_else(|| AgentError::failed("nothing says where the snapshots are"))
    }

    /// Says where the journal will be, durably.
    pub(super) fn begin(&self, snapshot_dir: &BytePath) -> Result<(), AgentError> {
        self.state.put(POINTER, Some(snapshot_dir.as_bytes()))
    }

    /// Returns the rollback whose journal lies beside these snapshots though the machine state does not say so: the state was lost, or
    /// somebody has put another tree in place.
    pub(super) fn stray(&self, snapshot_dir: &BytePath) -> Result<Option<RollbackState>, AgentError> {
        if self.state.get(POINTER)?.is_some() {
            return Ok(None);
        }
        let place = store(snapshot_dir);
        if place.root().is_dir() { read_from(&place, KEY) } else { Ok(None) }
    }

    /// Reads it; `None` if there is no rollback.
    pub(super) fn read(&self) -> Result<Option<RollbackState>, AgentError> {
        let Some(place) = self.place()? else { return Ok(None) };
        is_there(&place)?;
        read_from(&place, KEY)
    }

    /// Writes it, durably.
    pub(super) fn write(&self, state: &RollbackState) -> Result<(), AgentError> {
        let place = self.place()?.ok_or_else(|| AgentError::failed("nothing says where the journal is"))?;
        let bytes = serde_json::to_vec_pretty(state)
            .map_err(|error| AgentError::failed(format!("the journal cannot be written: {error}")))?;
        place.put(KEY, Some(&bytes))
    }

    /// Gives this machine's word that a rollback goes on, durably: whoever asks later gets the same answer, until the trees from
    /// before are put back here.
    pub(super) fn decide(&self, session: &SessionId) -> Result<(), AgentError> {
        let place = self.place()?.ok_or_else(|| AgentError::failed("nothing says where the journal is"))?;
        place.put(&decision(session), Some(b"commit\n"))
    }

    /// Takes that word back, durably: whoever has not heard it stays as it is.
    pub(super) fn revoke(&self, session: &SessionId) -> Result<(), AgentError> {
        self.place()?.map_or(Ok(()), |place| place.put(&decision(session), None))
    }

    /// Whether this machine gave its word.
    pub(super) fn decided(&self, session: &SessionId) -> Result<bool, AgentError> {
        let Some(place) = self.place()? else { return Ok(false) };
        Ok(place.get(&decision(session))?.is_some())
    }

    /// Notes that the new trees hold somebody's work: they only go when that is asked for.
    pub(super) fn keep(&self) -> Result<(), AgentError> {
        self.place()?.map_or(Ok(()), |place| place.put(WORKED, Some(b"worked\n")))
    }

    /// Notes that it was asked for: whoever is cut off while they go has the next redo go on with it.
    pub(super) fn keep_no_more(&self) -> Result<(), AgentError> {
        self.place()?.map_or(Ok(()), |place| place.put(WORKED, None))
    }

    /// Whether that was noted.
    pub(super) fn keeps(&self) -> Result<bool, AgentError> {
        let Some(place) = self.place()? else { return Ok(false) };
        Ok(place.get(WORKED)?.is_some())
    }

    /// Notes that these are to be read-only again, beside those that were noted already.
    pub(super) fn unseal(&self, uuids: &[String]) -> Result<(), AgentError> {
        let Some(place) = self.place()? else { return Ok(()) };
        let mut all = self.unsealed()?;
        all.extend(uuids.iter().filter(|uuid| !all.contains(uuid)).cloned().collect::<Vec<_>>());
        place.put(UNSEALED, Some((all.join("\n") + "\n").as_bytes()))
    }

    /// Returns those that were noted.
    pub(super) fn unsealed(&self) -> Result<Vec<String>, AgentError> {
        let Some(place) = self.place()? else { return Ok(Vec::new()) };
        let bytes = place.get(UNSEALED)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
    }

    /// Notes that they are.
    pub(super) fn sealed(&self) -> Result<(), AgentError> {
        self.place()?.map_or(Ok(()), |place| place.put(UNSEALED, None))
    }

    /// Notes what goes back without a restart, durably.
    pub(super) fn note_at_once(&self, notes: Option<&[u8]>) -> Result<(), AgentError> {
        self.place()?.map_or(Ok(()), |place| place.put(AT_ONCE, notes))
    }

    /// Returns that.
    pub(super) fn at_once(&self) -> Result<Option<Vec<u8>>, AgentError> {
        self.place()?.map_or(Ok(None), |place| place.get(AT_ONCE))
    }

    /// Removes what was being written to it when the power went, and what says where it is if it was not begun. The caller holds
    /// the machine's lock.
    pub(super) fn tidy(&self) -> Result<(), AgentError> {
        let Some(place) = self.place()? else { return Ok(()) };
        is_there(&place)?;
        place.sweep_dir(DIR);
        match place.get(KEY)? {
            None if self.is_own_subvolume()? => self.end(),
            // What lies below the mount point while the snapshots are not mounted has no journal, and says nothing of it.
            _ => Ok(()),
        }
    }

    /// Whether the snapshots are on a subvolume of their own, so that what is seen there is what was written there.
    fn is_own_subvolume(&self) -> Result<bool, AgentError> {
        let dir = self.snapshot_dir()?;
        let found =
            fs::metadata(dir.as_path()).map_err(|error| AgentError::io(format!("`{dir}`"), &error))?;
        Ok(found.ino() == SUBVOLUME_ROOT)
    }

    /// Removes what says where it is.
    pub(super) fn forget(&self) -> Result<(), AgentError> {
        self.state.put(POINTER, None)
    }

    /// Removes it, and then what says where it is.
    pub(super) fn end(&self) -> Result<(), AgentError> {
        if let Some(place) = self.place()? {
            place.put(WORKED, None)?;
            place.put(AT_ONCE, None)?;
            place.put(KEY, None)?;
        }
        self.forget()
    }
}

/// Returns where the journal beside these snapshots lies.
pub(super) fn place_of(snapshot_dir: &BytePath) -> BytePath {
    store(snapshot_dir).root().join(KEY).as_path().into()
}

/// Puts a journal that nothing names under another name, durably, with what belongs to it.
pub(super) fn set_aside(snapshot_dir: &BytePath, session: &SessionId) -> io::Result<()> {
    let dir = store(snapshot_dir).root().join(DIR);
    // The journal last: until then all of it is found again.
    for name in [WORKED, UNSEALED, AT_ONCE, KEY].map(|key| key.trim_start_matches("rollback/")) {
        stray::rename(&dir, name, &format!("{ASIDE}{session}-{name}"))?;
    }
    sync_dir(&dir)
}

/// Returns the journals that were set aside, and where they lie.
pub(super) fn aside(snapshot_dir: &BytePath) -> Result<Vec<(BytePath, RollbackState)>, AgentError> {
    let place = store(snapshot_dir);
    let is_one = |key: &String| {
        key.strip_prefix("rollback/")
            .is_some_and(|name| name.starts_with(ASIDE) && name.ends_with("journal.json"))
    };
    let keys = place.list(DIR)?.into_iter().filter(is_one);
    // One that cannot be read keeps nobody from anything, and says nothing of the others.
    let read = |key: String| {
        let state = read_from(&place, &key).ok()??;
        Some((place.root().join(key).as_path().into(), state))
    };
    Ok(keys.filter_map(read).collect())
}

fn read_from(place: &StateDir, key: &str) -> Result<Option<RollbackState>, AgentError> {
    let Some(bytes) = place.get(key)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        let path = place.root().join(key);
        AgentError::failed(format!("the journal `{}` cannot be read: {error}", path.display()))
    })
}

/// Whether this machine gave its word for a rollback, whatever became of its journal.
pub(super) fn has_decided(snapshot_dir: &BytePath, session: &SessionId) -> Result<bool, AgentError> {
    let place = store(snapshot_dir);
    is_there(&place)?;
    Ok(place.get(&decision(session))?.is_some())
}

/// A disk that is not mounted says nothing, and that is no `no`.
fn is_there(place: &StateDir) -> Result<(), AgentError> {
    if place.root().is_dir() {
        return Ok(());
    }
    Err(AgentError::failed(format!(
        "a rollback is noted in `{}`, which is not there; mount the snapshots and try again",
        place.root().display()
    )))
}

fn decision(session: &SessionId) -> String {
    format!("rollback/decided-{session}")
}

fn store(snapshot_dir: &BytePath) -> StateDir {
    StateDir::new(PathBuf::from(snapshot_dir.as_path()).join(".pc-switcher"))
}
