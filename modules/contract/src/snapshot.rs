//! Snapshots of a session: their names, members and sets.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{Hostname, IdError, SessionId, SubvolumeName};
use crate::path::BytePath;
use crate::time::UtcStamp;

/// Why a snapshot was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotKind {
    /// Before the first change of a sync.
    PreSync,
    /// After the last change of a sync.
    PostSync,
    /// Asked for by the user.
    Manual,
    /// Before an update of the system.
    AutoUpdate,
    /// Before a change of the boot configuration.
    AutoBoot,
    /// By the timer.
    Scheduled,
    /// Held by an archive run.
    Session,
    /// The state before a rollback.
    PreRollback,
}

impl SnapshotKind {
    /// All kinds, in the order of the documentation.
    pub const ALL: [SnapshotKind; 8] = [
        SnapshotKind::PreSync,
        SnapshotKind::PostSync,
        SnapshotKind::Manual,
        SnapshotKind::AutoUpdate,
        SnapshotKind::AutoBoot,
        SnapshotKind::Scheduled,
        SnapshotKind::Session,
        SnapshotKind::PreRollback,
    ];

    /// Returns the kind as it stands in a name, for example `presync`.
    pub fn in_name(self) -> &'static str {
        match self {
            SnapshotKind::PreSync => "presync",
            SnapshotKind::PostSync => "postsync",
            SnapshotKind::Manual => "manual",
            SnapshotKind::AutoUpdate => "autoupdate",
            SnapshotKind::AutoBoot => "autoboot",
            SnapshotKind::Scheduled => "scheduled",
            SnapshotKind::Session => "session",
            SnapshotKind::PreRollback => "prerollback",
        }
    }
}

/// A snapshot's file name: `{subvolume}-{kind}-{YYYYMMDDTHHMMSSZ}-{session8}`, at most 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName {
    /// The subvolume it was taken of.
    pub subvolume: SubvolumeName,
    /// Why it was taken.
    pub kind: SnapshotKind,
    /// When its set was taken.
    pub stamp: UtcStamp,
    /// The session it belongs to.
    pub session: SessionId,
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}-{}", self.subvolume, self.kind.in_name(), self.stamp, self.session)
    }
}

impl FromStr for SnapshotName {
    type Err = IdError;

    /// Reads from the right, since a subvolume's name may contain `-`.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = |why| IdError { what: "snapshot name", text: text.to_owned(), why };
        if text.len() > 255 {
            return Err(bad("it is longer than 255 bytes"));
        }
        let mut parts = text.rsplitn(4, '-');
        let session =
            parts.next().unwrap_or_default().parse().map_err(|_| bad("it ends in eight hex digits"))?;
        let stamp =
            parts.next().unwrap_or_default().parse().map_err(|_| bad("a UTC stamp stands before the id"))?;
        let word = parts.next().unwrap_or_default();
        let kind = SnapshotKind::ALL.into_iter().find(|kind| kind.in_name() == word);
        let kind = kind.ok_or_else(|| bad("a kind such as `presync` stands before the stamp"))?;
        let subvolume = parts
            .next()
            .unwrap_or_default()
            .parse()
            .map_err(|_| bad("it starts with a flat subvolume name"))?;
        Ok(Self { subvolume, kind, stamp, session })
    }
}

impl TryFrom<String> for SnapshotName {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<SnapshotName> for String {
    fn from(name: SnapshotName) -> String {
        name.to_string()
    }
}

/// One read-only snapshot of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMember {
    /// Its name below the snapshot directory.
    pub name: SnapshotName,
    /// Its full path.
    pub path: BytePath,
    /// Its own subvolume uuid, 32 hex digits.
    pub uuid: String,
    /// The uuid of the subvolume it was taken of.
    pub source_uuid: String,
    /// Its subvolume id.
    pub id: u64,
    /// The transaction in which it was taken.
    pub otransid: u64,
    /// The last transaction that changed its content; never above `otransid` in a clean set (facts/btrfs.md B29).
    pub ctransid: u64,
    /// The transaction that its state is of, where it is a snapshot of a snapshot that lay elsewhere.
    #[serde(default)]
    pub first_taken: Option<u64>,
    /// Where it lies, if that is another file system than the one of its set's directory.
    #[serde(default)]
    pub apart: Option<Apart>,
}

/// Where a member lies that is not on the file system of its set's directory: its transactions are those of another disk, and
/// compare with nothing here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apart {
    /// The uuid of its file system.
    pub fs_uuid: String,
    /// The uuid of the subvolume that it stands in, 32 hex digits: an empty mount point for that may lie on the same file system.
    pub place_uuid: String,
    /// The directory that the record of its set lies in.
    pub dir: BytePath,
    /// The transaction of the disk of that directory when the set was taken.
    pub at: u64,
}

impl SnapshotMember {
    /// Returns the transaction of the disk that its state is of: by this members stand oldest first, and in no tree that is older
    /// anything of it is new.
    pub fn order(&self) -> u64 {
        self.first_taken.unwrap_or(self.otransid)
    }
}

/// The snapshots one machine took at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSet {
    /// Whose machine it lies on.
    pub hostname: Hostname,
    /// Why it was taken.
    pub kind: SnapshotKind,
    /// When.
    pub stamp: UtcStamp,
    /// By which session.
    pub session: SessionId,
    /// Whether all members that lie on one file system are one instant: proven by an equal `otransid`. Those of two file systems never
    /// are (facts/btrfs.md B69).
    pub consistent: bool,
    /// One per subvolume.
    pub members: Vec<SnapshotMember>,
}

impl SnapshotSet {
    /// Returns the first transaction of the disk that the state of its members is of, 0 without members: of two sets of a store the
    /// later one has the higher number, also where they have one second in common, the clock was set back between them, or one came
    /// in from elsewhere.
    pub fn transaction(&self) -> u64 {
        let of_the_dir =
            |member: &SnapshotMember| member.apart.as_ref().map_or(member.order(), |apart| apart.at);
        self.members.iter().map(of_the_dir).min().unwrap_or_default()
    }

    /// Returns the directory that its record lies in; `None` without members.
    pub fn dir(&self) -> Option<BytePath> {
        let first = self.members.first()?;
        first.apart.as_ref().map_or_else(|| first.path.parent(), |apart| Some(apart.dir.clone()))
    }

    /// Returns the members file system by file system, that of its directory first.
    pub fn by_file_system(&self) -> Vec<Vec<&SnapshotMember>> {
        let mut all: Vec<Vec<&SnapshotMember>> = Vec::new();
        let place = |member: &SnapshotMember| member.apart.as_ref().map(|apart| apart.fs_uuid.clone());
        for member in &self.members {
            match all.iter_mut().find(|group| place(group[0]) == place(member)) {
                Some(group) => group.push(member),
                None => all.push(vec![member]),
            }
        }
        all.sort_by_key(|group| place(group[0]).is_some());
        all
    }

    /// Returns it with those members alone that lie on the file system of its directory.
    pub fn at_home(&self) -> Self {
        let members = self.members.iter().filter(|member| member.apart.is_none()).cloned().collect();
        Self { members, ..self.clone() }
    }

    /// Whether its members lie on several file systems.
    pub fn is_spread(&self) -> bool {
        self.by_file_system().len() > 1
    }

    /// Returns the member taken of `subvolume`.
    pub fn member(&self, subvolume: &SubvolumeName) -> Option<&SnapshotMember> {
        self.members.iter().find(|member| member.name.subvolume == *subvolume)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_what_it_wrote_even_with_dashes_in_the_subvolume() {
        for text in ["@home-presync-20251115T120000Z-abc12345", "@my-data-postsync-20251115T120500Z-00000000"]
        {
            assert_eq!(text.parse::<SnapshotName>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_names_are_refused_with_the_rule_they_break() {
        for bad in [
            "@home-presync-20251115T120000Z-abc123",
            "@home-before-20251115T120000Z-abc12345",
            "-presync-20251115T120000Z-abc12345",
            "x",
        ] {
            assert!(bad.parse::<SnapshotName>().is_err(), "{bad}");
        }
    }
}
