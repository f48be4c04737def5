//! What a directory can be compared by with another machine's, without its listing: most are the same on both.

use serde::Serialize;

use pc_switcher_contract::BytePath;

use crate::proto::{DirDigest, DirListing, Entry, Kind, Meta, encode};

/// What two machines can have in common of an entry. Each part of it says where it ends, so different entries never encode alike.
#[derive(Serialize)]
struct Common<'a> {
    name: &'a BytePath,
    kind: Kind,
    meta: &'a Meta,
    size: u64,
    target: &'a BytePath,
}

/// Returns what stands for a listing.
pub(super) fn of(listing: DirListing) -> DirDigest {
    let DirListing { path, root, entries, skipped, .. } = listing;
    // The other names of a file are compared as well, and they may lie anywhere.
    let has_names_elsewhere = |entry: &Entry| entry.kind != Kind::Dir && entry.nlink > 1;
    let is_told = skipped.is_empty() && !entries.iter().any(has_names_elsewhere);
    let digest = is_told.then(|| {
        let mut hash = blake3::Hasher::new();
        for Entry { name, kind, meta, size, target, .. } in root.iter().chain(&entries) {
            hash.update(&encode(&Common { name, kind: *kind, meta, size: *size, target }));
        }
        *hash.finalize().as_bytes()
    });
    DirDigest { path, digest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{FileTime, Skip, SkipReason};

    fn entry(name: &str) -> Entry {
        Entry {
            name: name.into(),
            kind: Kind::File,
            meta: Meta { mode: 0o644, ..Meta::default() },
            size: 1,
            allocated: 4096,
            ctime: FileTime::default(),
            ino: 300,
            nlink: 1,
            target: BytePath::default(),
        }
    }

    fn listing(entries: Vec<Entry>) -> DirListing {
        DirListing { path: "dir".into(), root: None, entries, skipped: Vec::new(), more: false }
    }

    #[test]
    fn whatever_both_machines_can_have_in_common_counts_and_nothing_else() {
        let digest = |entry: Entry| of(listing(vec![entry])).digest.unwrap();
        let same = digest(entry("a"));
        let time = FileTime { seconds: 9, nanos: 1 };
        let own = Entry { ino: 7, ctime: time, allocated: 0, ..entry("a") };
        assert_eq!(digest(own), same);
        let meta = || entry("a").meta;
        let others = [
            entry("b"),
            Entry { kind: Kind::Symlink, ..entry("a") },
            Entry { size: 2, ..entry("a") },
            Entry { target: "x".into(), ..entry("a") },
            Entry { meta: Meta { mode: 0o600, ..meta() }, ..entry("a") },
            Entry { meta: Meta { uid: 1, ..meta() }, ..entry("a") },
            Entry { meta: Meta { gid: 1, ..meta() }, ..entry("a") },
            Entry { meta: Meta { mtime: FileTime { seconds: 0, nanos: 1 }, ..meta() }, ..entry("a") },
            Entry { meta: Meta { xattrs: vec![(b"user.a".to_vec(), Vec::new())], ..meta() }, ..entry("a") },
        ];
        let mut all: Vec<[u8; 32]> = others.into_iter().map(digest).chain([same]).collect();
        all.push(of(listing(vec![entry("a"), entry("b")])).digest.unwrap());
        all.push(of(listing(Vec::new())).digest.unwrap());
        all.push(of(DirListing { root: Some(entry("")), ..listing(Vec::new()) }).digest.unwrap());
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn where_entries_alone_do_not_tell_there_is_no_digest() {
        let skip = Skip { name: "s".into(), reason: SkipReason::Socket };
        assert_eq!(of(DirListing { skipped: vec![skip], ..listing(vec![entry("a")]) }).digest, None);
        assert_eq!(of(listing(vec![Entry { nlink: 2, ..entry("a") }])).digest, None);
        let directory = Entry { kind: Kind::Dir, nlink: 2, ..entry("a") };
        assert!(
            of(listing(vec![directory])).digest.is_some(),
            "other file systems count a directory's own entries"
        );
    }
}
