//! What lies beside a set, since nothing can be written into it.
//!
//! | file | says |
//! |---|---|
//! | `intent` | what belongs to the set, written before the first member is born |
//! | `meta.json` | what was taken, and what people said of it |
//! | `toc` | that the set is whole: last to come, first to go |
//! | `packages` | which packages were installed, a line each |
//! | `pinned` | that a pin of the record holds: it can be taken away where nothing can be written any more |
//! | `good` | that the mark of a good set holds, for the same reason |
//! | `foreign` | that the members are another tool's |
//! | `lock` | held shared by whoever works with the set |

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use pc_switcher_contract::{SetId, SnapshotMember, SnapshotName, SnapshotSet};
use serde::{Deserialize, Serialize};

use super::apart::Home;
use super::system::{LIST, Looked, Recorded};
use crate::linux::state::{is_unfinished, sync_dir, write_file, write_to_rename};
use crate::proto::{GoodBy, Maker, Words};

/// The record.
const META: &str = "meta.json";

/// The record until it is whole.
const HALF_META: &str = ".meta.json~";

/// The `toc` of a set that is about to be whole.
const HALF_TOC: &str = ".toc~";

/// Its presence says that a pin of the record holds, if the record asks for it.
const PINNED: &str = "pinned";

/// Its presence says that the mark of a good set holds, if the record has one.
const GOOD: &str = "good";

/// Its presence says that the members are another tool's.
const FOREIGN: &str = "foreign";

/// The format that this program writes.
const FORMAT: u32 = 1;

/// What belongs to a set that may be half made or half removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Intent {
    format: u32,
    /// The members.
    pub(super) members: Vec<Planned>,
}

/// One member as it was meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Planned {
    /// The name under which it is to stand.
    pub(super) name: SnapshotName,
    /// The uuid of the subvolume it is taken of, 32 hex digits.
    pub(super) source_uuid: String,
    /// Where it is to stand, if that is not the snapshot directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) home: Option<Home>,
}

impl Intent {
    /// Makes an intent.
    pub(super) fn new(members: Vec<Planned>) -> Self {
        Self { format: FORMAT, members }
    }

    /// Returns the intent of a set that was taken.
    pub(super) fn of(set: &SnapshotSet) -> Self {
        let planned = set.members.iter().map(|member| Planned {
            name: member.name.clone(),
            source_uuid: member.source_uuid.clone(),
            home: Home::of(member),
        });
        Self::new(planned.collect())
    }

    /// Returns the other file systems that it names.
    pub(super) fn homes(&self) -> impl Iterator<Item = &Home> {
        self.members.iter().filter_map(|planned| planned.home.as_ref())
    }

    /// Reads what belongs to a set, `None` if that is not known.
    pub(super) fn read(path: &Path, id: &SetId) -> Option<Self> {
        let intent: Intent = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        intent.members.iter().all(|planned| id.covers(&planned.name)).then_some(intent)
    }

    /// Writes it, durably.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        write_file(path, &json(self))
    }
}

/// What is known of a whole set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    format: u32,
    /// Whether somebody asked that it stays.
    #[serde(default)]
    pub(super) pinned: bool,
    /// What people said of it.
    #[serde(default)]
    pub(super) words: Words,
    /// The set.
    pub(super) set: SnapshotSet,
    /// Whether `pinned` beside it has to be there for it to be pinned.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) marked: bool,
    /// Whether `good` beside it has to be there for its mark of a good set to hold.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) marked_good: bool,
    /// What its hard pin holds, if it has one; it is pinned then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) pin: Vec<SnapshotMember>,
    /// Whether nobody asked for the hard pin: it came with the mark of a good set, and goes with that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) good_pin: bool,
    /// Whose it is, if not ours: then only its maker removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) maker: Option<Maker>,
    /// Which system it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) system: Option<Recorded>,
}

impl Meta {
    /// Makes the record of a set that was just taken. One that is pinned at once has its mark before it.
    pub(super) fn new(set: SnapshotSet, said: &Said) -> Self {
        let (pinned, words) = (said.pinned, said.words.clone());
        let pin = Vec::new();
        Self {
            format: FORMAT,
            pinned,
            words,
            set,
            marked: pinned,
            marked_good: false,
            pin,
            good_pin: false,
            maker: None,
            system: None,
        }
    }

    /// Makes the record of a set that was just taken, with the system that it is of.
    pub(super) fn of(set: SnapshotSet, said: &Said, looked: Option<&Looked>) -> Self {
        Self { system: looked.map(|looked| looked.recorded.clone()), ..Self::new(set, said) }
    }

    /// Makes the record of what another tool took.
    pub(super) fn foreign(set: SnapshotSet, said: &Said, maker: Maker) -> Self {
        Self { maker: Some(maker), ..Self::new(set, said) }
    }
}

/// What is said of a set when it is taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Said {
    /// Whether it is to stay.
    pub(super) pinned: bool,
    /// The rest.
    pub(super) words: Words,
}

/// The directory beside a set.
#[derive(Debug, Clone)]
pub(super) struct Sidecar {
    dir: PathBuf,
}

impl Sidecar {
    /// Names it; it need not exist.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Returns the directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the file that is locked by whoever works with the set.
    pub(super) fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    fn toc(&self) -> PathBuf {
        self.dir.join("toc")
    }

    /// Whether the set is whole.
    pub(super) fn has_toc(&self) -> bool {
        fs::symlink_metadata(self.toc()).is_ok()
    }

    /// Returns what belongs to the set, `None` if that is not known.
    pub(super) fn intent(&self, id: &SetId) -> Option<Intent> {
        Intent::read(&self.dir.join("intent"), id)
    }

    /// Writes what is to belong to the set, durably.
    pub(super) fn put_intent(&self, intent: &Intent) -> io::Result<()> {
        intent.write(&self.dir.join("intent"))
    }

    /// As [`Sidecar::put_intent`], but for its name, which is durable from the next commit of the file system on.
    pub(super) fn put_intent_for_birth(&self, intent: &Intent) -> io::Result<()> {
        write_to_rename(&self.dir.join("intent"), &json(intent))
    }

    /// Reads the record of the set.
    ///
    /// # Errors
    /// If it is not there, cannot be read or is of another set.
    pub(super) fn meta(&self, id: &SetId) -> io::Result<Meta> {
        let bytes = fs::read(self.dir.join(META))?;
        let mut meta: Meta = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
        if meta.marked_good && !self.has(GOOD) {
            (meta.words.good, meta.words.good_by, meta.marked_good) = (false, GoodBy::default(), false);
        }
        if meta.marked && !self.has(PINNED) {
            (meta.pinned, meta.marked, meta.good_pin) = (false, false, false);
            meta.pin.clear();
        }
        match meta.set.id() == *id {
            true => Ok(meta),
            false => Err(io::Error::other(format!("it is the record of `{}`", meta.set.id()))),
        }
    }

    /// Writes the record of the set, durably. The caller holds the creation lock.
    pub(super) fn put_meta(&self, meta: &Meta) -> io::Result<()> {
        if meta.marked {
            self.mark_pinned()?;
        }
        if meta.marked_good {
            self.mark(GOOD)?;
        }
        let temp = self.dir.join(HALF_META);
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
        file.write_all(&json(meta))?;
        file.sync_all()?;
        fs::rename(&temp, self.dir.join(META))?;
        sync_dir(&self.dir)
    }

    /// Removes a record that was being written when somebody died. The caller holds the creation lock.
    pub(super) fn sweep(&self) {
        // There is none as a rule.
        let _ = fs::remove_file(self.dir.join(HALF_META));
    }

    /// Says durably that a pin holds of which the record is still to be written.
    pub(super) fn mark_pinned(&self) -> io::Result<()> {
        self.mark(PINNED)
    }

    fn mark(&self, name: &str) -> io::Result<()> {
        if self.has(name) {
            return Ok(());
        }
        // It is its name alone: no other that a crash could leave goes before it.
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.dir.join(name))?
            .sync_all()?;
        sync_dir(&self.dir)
    }

    /// Says durably that no pin holds. Takes no room, and works on a disk that is full.
    pub(super) fn unmark_pinned(&self) -> io::Result<()> {
        self.unmark(PINNED)
    }

    /// Says durably that no mark of a good set holds, as [`Sidecar::unmark_pinned`].
    pub(super) fn unmark_good(&self) -> io::Result<()> {
        self.unmark(GOOD)
    }

    fn unmark(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.dir.join(name)) {
            Ok(()) => sync_dir(&self.dir),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.dir.join(name)).is_ok()
    }

    /// Says durably that the members are another tool's.
    pub(super) fn mark_foreign(&self) -> io::Result<()> {
        write_file(&self.dir.join(FOREIGN), b"")
    }

    /// Whether that was said; told without reading the record.
    pub(super) fn is_foreign(&self) -> bool {
        self.has(FOREIGN)
    }

    /// Removes a directory that was made for a set of which nothing was said yet.
    pub(super) fn remove_bare(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            if name == "lock" || is_unfinished(&name, "intent") {
                fs::remove_file(self.dir.join(name))?;
            }
        }
        match fs::remove_dir(&self.dir) {
            // Somebody else put something there.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            other => other,
        }
    }

    /// Writes the record of a set whose members are still to be closed, and its `toc` under another name. Neither is durable yet.
    pub(super) fn prepare(&self, meta: &Meta) -> io::Result<Ready> {
        let write = |name: &str, bytes: &[u8]| {
            let mut file =
                File::options().write(true).create_new(true).mode(0o600).open(self.dir.join(name))?;
            file.write_all(bytes).map(|()| file)
        };
        if meta.marked {
            write(PINNED, b"")?;
        }
        let meta_file = write(META, &json(meta))?;
        Ok(Ready { files: [meta_file, write(HALF_TOC, contents(&meta.set).as_bytes())?] })
    }

    /// Takes back what was prepared, if it was; not durable yet.
    pub(super) fn unprepare(&self) -> io::Result<()> {
        for name in [HALF_TOC, META, LIST, PINNED] {
            match fs::remove_file(self.dir.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Says durably that a set is whole that was prepared. Its record has its name for good.
    pub(super) fn publish_prepared(&self) -> io::Result<()> {
        fs::rename(self.dir.join(HALF_TOC), self.toc())?;
        sync_dir(&self.dir)
    }

    /// Says durably that the set is whole.
    pub(super) fn publish(&self, set: &SnapshotSet) -> io::Result<()> {
        write_file(&self.toc(), contents(set).as_bytes())
    }

    /// Whether the `toc` says what the record says.
    pub(super) fn agrees(&self, set: &SnapshotSet) -> bool {
        fs::read(self.toc()).is_ok_and(|toc| toc == contents(set).as_bytes())
    }

    /// Says durably that the set is not whole any more.
    pub(super) fn unpublish(&self) -> io::Result<()> {
        match fs::remove_file(self.toc()) {
            Ok(()) => sync_dir(&self.dir),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes all of it, the intent last.
    pub(super) fn remove(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false if entry.file_name() == "intent" => {}
                false => fs::remove_file(entry.path())?,
            }
        }
        match fs::remove_file(self.dir.join("intent")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::remove_dir(&self.dir)
    }
}

/// What was written for a set that is about to be whole.
pub(super) struct Ready {
    files: [File; 2],
}

impl Ready {
    /// Brings its content to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.files.iter().try_for_each(File::sync_all)
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).unwrap_or_default()
}

/// Returns the text of a `toc`.
fn contents(set: &SnapshotSet) -> String {
    let line = |member: &SnapshotMember| format!("{} {}\n", member.uuid, member.name);
    set.members.iter().map(line).collect()
}
