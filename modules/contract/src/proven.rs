//! Large files whose whole content was proven to be the same on both machines at their last sync.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::ids::SessionId;
use crate::pair::{PairEnd, PairRecord};
use crate::path::BytePath;

/// A file that both machines had, byte for byte, in the sets that a record of the pair names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenFile {
    /// Where the part begins that holds it.
    pub root: BytePath,
    /// Relative to that.
    pub path: BytePath,
    /// Its size.
    pub size: u64,
    /// How often only what changed in it was read since both machines read all of it.
    pub patches: u32,
    /// When both machines read all of it, in seconds since 1970.
    pub whole: i64,
}

impl ProvenFile {
    /// Smaller files are not kept: reading them costs little.
    pub const LARGE: u64 = 1 << 20;
    /// So often only what changed is read; then it is all again, so that an error in the chain does not live for ever.
    pub const PATCHES: u32 = 20;
    /// Likewise for so many seconds: 30 days.
    pub const SECONDS: i64 = 30 * 24 * 3600;

    /// Whether all of it is to be read again, `now` being seconds since 1970. A time that has not come yet tells nothing.
    pub fn is_due(&self, now: i64) -> bool {
        self.patches >= Self::PATCHES || !(0..=Self::SECONDS).contains(&now.saturating_sub(self.whole))
    }
}

/// What was proven by the sync that wrote one record of a pair; for another record it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenList {
    /// Version of this format; of another version nothing is proven.
    pub format: u32,
    /// The session that wrote the record.
    pub session: SessionId,
    /// The uuids of the members of the sets that it names, of both ends.
    pub sets: [Vec<String>; 2],
    /// The files, those that were proven last at the beginning.
    pub files: Vec<ProvenFile>,
}

impl ProvenList {
    /// The format this build reads and writes.
    pub const FORMAT: u32 = 1;
    /// Below this lie all lists in the machine state.
    pub const KEYS: &str = "proven/";
    /// So many files are kept.
    pub const MOST: usize = 1 << 16;
    /// About so many bytes are written: it goes to a machine in one message.
    pub const BYTES: usize = 3 << 20;

    /// Makes the list that belongs to a record. Of a path that comes twice the first counts; what there is no room for goes,
    /// from the end.
    pub fn new(record: &PairRecord, files: impl IntoIterator<Item = ProvenFile>) -> Self {
        let mut seen = HashSet::new();
        let mut bytes = 0;
        let mut kept: Vec<ProvenFile> = Vec::new();
        for file in files {
            if !seen.insert(file.root.join(file.path.as_bytes())) {
                continue;
            }
            bytes += serde_json::to_string(&file).map_or(Self::BYTES, |text| text.len() + 1);
            if kept.len() == Self::MOST || bytes > Self::BYTES {
                break;
            }
            kept.push(file);
        }
        Self { format: Self::FORMAT, session: record.session.clone(), sets: sets(record), files: kept }
    }

    /// Reads a list for a record. What is damaged, of another format or of another record proves nothing.
    pub fn read(bytes: &[u8], record: &PairRecord) -> Option<Self> {
        let list: Self = serde_json::from_slice(bytes).ok()?;
        let is_its = (list.format, &list.session) == (Self::FORMAT, &record.session);
        (is_its && list.sets == sets(record)).then_some(list)
    }

    /// Returns how it is written.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

fn sets(record: &PairRecord) -> [Vec<String>; 2] {
    let of = |end: &PairEnd| {
        let members = end.set.iter().flat_map(|set| &set.members);
        members.map(|member| member.uuid.clone()).collect()
    };
    [of(&record.source), of(&record.target)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{SnapshotKind, SnapshotMember, SnapshotSet};

    fn record(session: &str, uuid: &str) -> PairRecord {
        let end = |name: &str, kind| PairEnd {
            hostname: name.parse().unwrap(),
            machine_id: name.into(),
            set: Some(SnapshotSet {
                hostname: name.parse().unwrap(),
                kind,
                stamp: "20251115T120000Z".parse().unwrap(),
                session: session.parse().unwrap(),
                consistent: true,
                members: vec![SnapshotMember {
                    name: format!("@home-presync-20251115T120000Z-{session}").parse().unwrap(),
                    path: "/.snapshots/x".into(),
                    uuid: format!("{name}-{uuid}"),
                    source_uuid: "home".into(),
                    id: 300,
                    otransid: 7,
                    ctransid: 7,
                    first_taken: None,
                    apart: None,
                }],
            }),
            manifests: Vec::new(),
        };
        PairRecord {
            format: PairRecord::FORMAT,
            session: session.parse().unwrap(),
            stamp: "20251115T120500Z".parse().unwrap(),
            source: end("laptop", SnapshotKind::PreSync),
            target: end("desk", SnapshotKind::PostSync),
            rule_hash: String::new(),
            unsettled: Vec::new(),
            unsent: Vec::new(),
            apart: Vec::new(),
            alien: Vec::new(),
            lacking: Vec::new(),
            parts: Vec::new(),
        }
    }

    fn file(path: impl Into<Vec<u8>>) -> ProvenFile {
        let (root, path) = ("/home".into(), BytePath::new(path));
        ProvenFile { root, path, size: 1 << 30, patches: 3, whole: 1_763_000_000 }
    }

    #[test]
    fn a_list_counts_for_its_own_record_and_for_no_other() {
        let own = record("aaaaaaaa", "1");
        let list = ProvenList::new(&own, [file("vms/disk.img")]);
        let bytes = list.to_bytes();
        assert_eq!(ProvenList::read(&bytes, &own), Some(list.clone()));
        assert_eq!(ProvenList::read(&bytes, &record("aaaaaaab", "1")), None, "another sync");
        assert_eq!(ProvenList::read(&bytes, &record("aaaaaaaa", "2")), None, "other sets");
        let other = ProvenList { format: 2, ..list };
        assert_eq!(ProvenList::read(&other.to_bytes(), &own), None, "another format");
        for damage in [&bytes[..bytes.len() - 1], b"", b"{}", &[0; 40]] {
            assert_eq!(ProvenList::read(damage, &own), None);
        }
    }

    #[test]
    fn what_was_proven_last_stays_when_there_is_no_room_for_all() {
        let own = record("aaaaaaaa", "1");
        let names = (0..ProvenList::MOST + 9).map(|at| file(at.to_string()));
        let list = ProvenList::new(&own, names);
        assert!(list.files.len() > 20_000 && list.files.len() <= ProvenList::MOST, "{}", list.files.len());
        assert_eq!(
            (list.files[0].path.to_string(), list.files[9].path.to_string()),
            ("0".into(), "9".into())
        );
        assert!(list.to_bytes().len() < ProvenList::BYTES + 1000);
        let long = (0..2000).map(|at| file(format!("{}{at}", "x/".repeat(2000))));
        let list = ProvenList::new(&own, long);
        assert!(list.files.len() > 500 && list.to_bytes().len() < ProvenList::BYTES + 1000);
        let twice = ProvenList::new(&own, [ProvenFile { patches: 0, ..file("a") }, file("a"), file("b")]);
        assert_eq!(twice.files.iter().map(|file| file.patches).collect::<Vec<_>>(), [0, 3]);
    }

    #[test]
    fn now_and_then_all_of_a_file_is_read_again() {
        let (at, day) = (1_763_000_000, 24 * 3600);
        assert!(!file("a").is_due(at) && !file("a").is_due(at + 30 * day));
        assert!(file("a").is_due(at + 30 * day + 1) && file("a").is_due(at - 1));
        assert!(!ProvenFile { patches: 19, ..file("a") }.is_due(at));
        assert!(ProvenFile { patches: 20, ..file("a") }.is_due(at));
        assert!(ProvenFile { whole: i64::MIN, ..file("a") }.is_due(at));
    }

    #[test]
    fn any_path_comes_back() {
        let own = record("aaaaaaaa", "1");
        let all: Vec<u8> = (1..=255).chain(*b"\\x41\\n").collect();
        let list = ProvenList::new(&own, [file(all), file("a b")]);
        assert_eq!(ProvenList::read(&list.to_bytes(), &own), Some(list));
    }
}
