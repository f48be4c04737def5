//! The sets of snapshots that a machine keeps.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use pc_switcher_contract::{BytePath, SessionId, SetId, SnapshotName, SnapshotSet, SubvolumeName, UtcStamp};

use super::adopt::Maker;
use super::fs::RuleSet;
use super::host::TakeSet;
use super::system::System;

/// Why the machine itself cannot do without a set; the names are of the other machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Need {
    /// The next sync with it starts from this set.
    Pair(String),
    /// A sync with it that did not come to its end brought this set over.
    Attempt(String),
    /// A commit of its session is still to be brought to its end.
    Commit,
    /// Another tool took it, and only that removes it.
    Foreign(Maker),
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Need::Pair(other) => write!(f, "the next sync with {other} starts from it"),
            Need::Attempt(other) => write!(f, "an unfinished sync with {other} brought it over"),
            Need::Foreign(maker) => write!(f, "it is {maker}'s, and only {maker} removes it"),
            Need::Commit => f.write_str("its sync is still to be brought to its end"),
        }
    }
}

/// A process that works with a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its number.
    pub pid: i32,
    /// The beginning of its command line.
    pub program: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`, process {}", self.program, self.pid)
    }
}

/// A pin that binds every tool, root's too: one more snapshot of each member, in an immutable directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardPin {
    /// The directory.
    pub dir: BytePath,
    /// Members of the set that are not in it any more.
    pub lacks: Vec<SnapshotName>,
    /// Whether somebody has made the directory an ordinary one again, so that the pin binds nobody.
    pub is_open: bool,
    /// Whether it came with the mark of a good set, and goes with that; nobody asked for it.
    pub is_for_mark: bool,
}

/// How a set is to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PinOrder {
    /// Nothing of ours removes it.
    Soft,
    /// No tool removes it.
    Hard,
    /// Not any more.
    Off {
        /// Also if its pin is all that is left of a member.
        allow_loss: bool,
    },
}

/// Names a set, and how it is to be held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRequest {
    /// Which set.
    pub set: SetRequest,
    /// How it is to be held.
    pub order: PinOrder,
}

/// A set that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSet {
    /// The set as it was taken.
    pub set: SnapshotSet,
    /// How it is kept; never [`Backend::Auto`].
    pub backend: Backend,
    /// Whether somebody asked that it stays.
    pub pinned: bool,
    /// What pins it against every other tool as well, if somebody asked for that.
    pub hard: Option<HardPin>,
    /// Whether somebody works with it right now.
    pub in_use: bool,
    /// Who works with it, as far as that can be seen.
    pub holders: Vec<Holder>,
    /// Whether the list of steps of a sync lies with it: that sync changed this machine.
    pub has_steps: bool,
    /// Why the machine cannot do without it.
    pub needs: Vec<Need>,
    /// Members that are gone.
    pub missing: Vec<SnapshotName>,
    /// Members that are not to be had right now, with the reason: what their volumes lie on is not attached.
    pub away: Vec<(SnapshotName, String)>,
    /// What people said of it.
    pub words: Words,
    /// Which system it is of, as far as that was recorded.
    pub system: Option<System>,
}

impl StoredSet {
    /// Whether somebody asked that no tool removes it.
    pub fn is_pinned_hard(&self) -> bool {
        self.hard.as_ref().is_some_and(|pin| !pin.is_for_mark)
    }

    /// Returns the members that are gone, from its pin as well.
    pub fn lost(&self) -> impl Iterator<Item = &SnapshotName> {
        let is_held = |name: &&SnapshotName| self.hard.as_ref().is_some_and(|pin| !pin.lacks.contains(name));
        self.missing.iter().filter(move |name| !is_held(name))
    }
}

/// What people said of a set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Words {
    /// By which name it may be called instead of its session.
    pub name: Option<String>,
    /// What it is for.
    pub note: Option<String>,
    /// Words to find it by, each once, in order.
    pub tags: BTreeSet<String>,
    /// Until when it stays; from then on it may be pruned.
    pub until: Option<UtcStamp>,
    /// Whether it is a state of the machine that was known to be good.
    pub good: bool,
    /// Who said so, if it is.
    pub good_by: GoodBy,
}

/// Who marks a set as good. Marks of each kind are counted by themselves: none takes the place of one of another kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GoodBy {
    /// A person.
    #[default]
    Hand,
    /// A guarded command after which all was well.
    Guard,
    /// A start of the machine after which all was well.
    Boot,
    /// A sync that was confirmed.
    Sync,
}

impl fmt::Display for GoodBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GoodBy::Hand => "by hand",
            GoodBy::Guard => "by a guarded command that went well",
            GoodBy::Boot => "by a start that went well",
            GoodBy::Sync => "by a sync that was confirmed",
        })
    }
}

/// What becomes of the marks of good sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GoodMark {
    /// This set gets one. Of those that came by themselves in the same way the newest so many stay; of those of people one.
    Set {
        /// Which set.
        id: SetId,
        /// Who says so.
        by: GoodBy,
        /// So many marks that came in this way stay, this one among them.
        keep: u32,
    },
    /// This set loses it; without one all do.
    None(Option<SetId>),
}

/// What else lies in the snapshot directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strays {
    /// Sets whose record cannot be read, with the reason.
    pub damaged: Vec<(SetId, String)>,
    /// Snapshots with names of ours that belong to no set.
    pub orphans: Vec<BytePath>,
    /// Directories of pins that no set has.
    pub pins: Vec<BytePath>,
    /// Volumes of LVM that are marked as ours and belong to no set that lies here, group and name.
    pub volumes: Vec<String>,
    /// Why nobody can tell that of the volumes of LVM that are marked as ours, if so.
    pub untold_volumes: Option<String>,
    /// What is not ours.
    pub foreign: Vec<BytePath>,
    /// Why it is not known which sets are needed, if so: then none may be removed.
    pub doubt: Option<String>,
    /// Whether the machine lives on its battery: what nobody asked to be removed can wait.
    pub on_battery: bool,
}

/// Names one set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRequest {
    /// Where snapshots lie.
    pub snapshot_dir: BytePath,
    /// Which set.
    pub id: SetId,
}

/// Names a set that is to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteRequest {
    /// The set.
    pub set: SetRequest,
    /// Also if members lie on a disk that is away: they stay there, and nothing names them any more.
    pub allow_loss: bool,
}

/// Names a volume that no set of a directory has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRequest {
    /// Where snapshots lie.
    pub snapshot_dir: BytePath,
    /// Group and name.
    pub name: String,
}

/// Names sets of one directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetsRequest {
    /// Where snapshots lie.
    pub snapshot_dir: BytePath,
    /// Which sets.
    pub ids: Vec<SetId>,
}

/// How sets are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backend {
    /// As snapshots of subvolumes.
    #[default]
    Btrfs,
    /// As snapshots if the snapshot directory lies on btrfs, otherwise as [`Backend::Hardlink`].
    Auto,
    /// As copies of directories in which what did not change is a further name of what the copy before has.
    Hardlink,
    /// The same, with each file compressed.
    Archive,
    /// As snapshots of the thin volumes of LVM that hold the directories.
    Lvm,
}

/// What a set is of, and how it is kept, where it is not one of snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyOrder {
    /// How sets are kept.
    pub backend: Backend,
    /// Of which directories; those that are not there are left out, but for snapshots of volumes, which are refused then.
    pub folders: Vec<BytePath>,
    /// What is left out, by paths from `/` on.
    pub rules: RuleSet,
    /// How hard files are compressed, if they are: a level of zstd.
    pub level: i32,
}

/// A set that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedSet {
    /// The set.
    pub set: SnapshotSet,
    /// What is not in it or not as it is, a line each.
    pub notes: Vec<String>,
}

/// Asks for a stream of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRequest {
    /// Where snapshots lie.
    pub snapshot_dir: BytePath,
    /// Which set.
    pub id: SetId,
    /// The user who gets it; it must be root, since it holds what is everybody's.
    pub uid: u32,
    /// How hard it is compressed: a level of zstd.
    pub level: i32,
}

/// Says that a stream of a set comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRequest {
    /// Where snapshots lie.
    pub snapshot_dir: BytePath,
    /// The user who has it; it must be root.
    pub uid: u32,
}

/// What a stream of a set came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// The set.
    pub set: SnapshotSet,
    /// Files, directories and others.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// What is not as it was, a line each.
    pub notes: Vec<String>,
}

/// Asks for a set that people want, with what they say of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateSet {
    /// The set.
    pub set: TakeSet,
    /// What is said of it.
    pub words: Words,
    /// Whether it is to stay whatever the rules say.
    pub pinned: bool,
    /// What it is of where it is not one of snapshots.
    pub copies: CopyOrder,
}

/// Writes what a set is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnotateSet {
    /// Which set.
    pub set: SetRequest,
    /// What it is for, `None` inside if nothing any more; the note stays if this is `None`.
    pub note: Option<Option<String>>,
    /// Tags that it gets.
    pub tags: BTreeSet<String>,
    /// Tags that it loses.
    pub untags: BTreeSet<String>,
}

/// What removing all sets of a session would free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gain {
    /// The session.
    pub session: SessionId,
    /// Bytes of data on the disk of the snapshot directory that nobody else holds, one copy.
    pub data_bytes: u64,
    /// The same of other disks.
    pub elsewhere_bytes: u64,
}

/// Asks what the file system of the snapshots holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldingsRequest {
    /// Where snapshots lie.
    pub snapshot_dir: BytePath,
    /// Of which subvolumes sets are to be taken.
    pub subvolumes: Vec<SubvolumeName>,
}

/// What the file system of the snapshots holds, in bytes on the disk of one copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holdings {
    /// What sets are taken of; `None` where there is no btrfs.
    pub source_bytes: Option<u64>,
    /// What nothing but our sets holds, all of them together.
    pub snapshot_bytes: u64,
}
