//! The record of the last sync between two machines.

use serde::{Deserialize, Serialize};

use crate::ids::{Hostname, SessionId};
use crate::path::BytePath;
use crate::snapshot::SnapshotSet;
use crate::time::UtcStamp;

/// One machine's end of a pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairEnd {
    /// The name the machine gave itself.
    pub hostname: Hostname,
    /// Its machine id, which survives a new hostname.
    pub machine_id: String,
    /// The set both ends agree on: the source's pre set, the target's post set. None if nothing of it lies on btrfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<SnapshotSet>,
    /// What the set cannot hold: parts of folders that have no snapshots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<Manifest>,
}

/// A part of a folder without snapshots, as one walk of the session found it. Its machine keeps the listings in its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Where the part begins.
    pub root: String,
    /// When the walk began.
    pub stamp: UtcStamp,
    /// The key of the machine state below which it is kept.
    pub key: String,
}

impl Manifest {
    /// Below this lie all manifests in the machine state.
    pub const KEYS: &str = "manifests/";

    /// Returns the key of a session's manifest of a part: both are in it, so that an unfinished session's is found as well.
    pub fn key_of(session: &SessionId, root: &BytePath) -> String {
        // FNV-1a: short, and the same in every version. A collision would be refused, since a manifest names its session's part.
        let hash = root.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{}{session}-{hash:016x}", Self::KEYS)
    }
}

impl PairEnd {
    /// Returns the manifest of the part that begins at `root`.
    pub fn manifest(&self, root: &BytePath) -> Option<&Manifest> {
        self.manifests.iter().find(|manifest| manifest.root.as_bytes() == root.as_bytes())
    }
}

/// A sync that has begun to bring something over and is not recorded (yet).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The session.
    pub session: SessionId,
    /// When it began.
    pub stamp: UtcStamp,
    /// The source's pre set, if it has one. What lies on no snapshot is in the session's manifests.
    pub set: Option<SnapshotSet>,
}

/// What two machines had in common after their last sync: the source's **pre** set equals the target's **post** set.
///
/// The source's post set would hide edits made on the source while the sync ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairRecord {
    /// Version of this format; another version means a full compare.
    pub format: u32,
    /// The session that wrote it.
    pub session: SessionId,
    /// When it was written.
    pub stamp: UtcStamp,
    /// The machine that was the source.
    pub source: PairEnd,
    /// The machine that was the target.
    pub target: PairEnd,
    /// Digest of the exclusion rules that were in force.
    pub rule_hash: String,
    /// Absolute paths that somebody changed on the target while the sync ran: the target's set holds the change, so it
    /// says nothing about what both had in common there.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "exact")]
    pub unsettled: Vec<BytePath>,
    /// Absolute paths that changed on the source while they were read, and so were not brought over: the source's end says
    /// nothing about what both had in common there.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "exact")]
    pub unsent: Vec<BytePath>,
    /// Absolute paths where both machines differ though nothing was to be done: what is kept, left alone, or dated otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "exact")]
    pub apart: Vec<BytePath>,
    /// Absolute paths that were left alone on both machines, with all below them: there is no common past there, whatever
    /// the sets hold, so what the target has there is never overwritten unasked.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "exact")]
    pub alien: Vec<BytePath>,
    /// Attributes that one of the machines lacks because its file system does not hold them: nobody took them off there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacking: Vec<Lacking>,
    /// The parts of the folders that were compared.
    #[serde(default)]
    pub parts: Vec<PartRecord>,
}

/// An attribute that a machine's file system does not hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lacking {
    /// The name of the machine.
    pub hostname: Hostname,
    /// The absolute path.
    #[serde(with = "exact_one")]
    pub path: BytePath,
    /// The attribute's name.
    #[serde(with = "exact_one")]
    pub name: BytePath,
}

/// A part of the folders, as it lay when it was compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Where it begins.
    pub root: String,
    /// Subvolume and path inside, on the machine that was the source.
    pub source: (String, String),
    /// The same on the machine that was the target.
    pub target: (String, String),
    /// How many entries it held; about.
    pub entries: u64,
    /// The rules it was compared under; records of before they were kept have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<PartRules>,
}

/// The patterns that left paths out, as the module that compares reads them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRules {
    /// The folder that they are relative to.
    pub folder: String,
    /// Those that nothing brings back.
    pub forced: Vec<String>,
    /// The others; the last match wins.
    pub layered: Vec<String>,
}

/// Paths in JSON, byte for byte: text after `t:`, or hex digits after `x:`.
mod exact {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::path::BytePath;

    pub fn serialize<S: Serializer>(paths: &[BytePath], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().map(word))
    }

    pub(super) fn word(path: &BytePath) -> String {
        match std::str::from_utf8(path.as_bytes()) {
            Ok(text) => format!("t:{text}"),
            Err(_) => {
                format!("x:{}", path.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
            }
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<BytePath>, D::Error> {
        let words = Vec::<String>::deserialize(deserializer)?;
        words.iter().map(|word| read(word).ok_or_else(|| D::Error::custom("not a path"))).collect()
    }

    pub(super) fn read(word: &str) -> Option<BytePath> {
        if let Some(text) = word.strip_prefix("t:") {
            return Some(BytePath::from(text));
        }
        let hex = word.strip_prefix("x:").filter(|hex| hex.len() % 2 == 0 && hex.is_ascii())?;
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).ok();
        Some(BytePath::new((0..hex.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>()?))
    }
}

/// One of them likewise.
mod exact_one {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::exact::{read, word};
    use crate::path::BytePath;

    pub fn serialize<S: Serializer>(path: &BytePath, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&word(path))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BytePath, D::Error> {
        read(&String::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("not a path"))
    }
}

impl PairRecord {
    /// The format this build reads and writes.
    pub const FORMAT: u32 = 1;

    /// The format of a record that says nothing any more, since a machine went back behind it.
    pub const NOTHING: u32 = 0;

    /// Returns the end of the machine with this id.
    pub fn end_of(&self, machine_id: &str) -> Option<&PairEnd> {
        [&self.source, &self.target].into_iter().find(|end| end.machine_id == machine_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_each_session_has_a_manifest_of_its_own() {
        let key = |session: &str, root: &str| Manifest::key_of(&session.parse().unwrap(), &root.into());
        assert_eq!(key("abc12345", "/home"), "manifests/abc12345-b17eeef9480d2491");
        assert_ne!(key("abc12345", "/home"), key("abc12345", "/root"));
        assert_ne!(key("abc12345", "/home"), key("abc12346", "/home"));
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Paths(#[serde(with = "exact")] Vec<BytePath>);

    #[test]
    fn paths_come_back_byte_for_byte() {
        let odd = Paths(vec!["/a\\n\nb\u{1b}".into(), BytePath::new(b"/\xff\\x41".to_vec())]);
        let json = serde_json::to_string(&odd).unwrap();
        assert_eq!(serde_json::from_str::<Paths>(&json).unwrap(), odd);
        let lacking = Lacking {
            hostname: "desk".parse().unwrap(),
            path: BytePath::new(b"/\xff".to_vec()),
            name: "user.a".into(),
        };
        let json = serde_json::to_string(&lacking).unwrap();
        assert_eq!(serde_json::from_str::<Lacking>(&json).unwrap(), lacking);
        for bad in ["[\"a\"]", "[\"x:0\"]", "[\"x:zz\"]"] {
            assert!(serde_json::from_str::<Paths>(bad).is_err(), "{bad}");
        }
    }
}
