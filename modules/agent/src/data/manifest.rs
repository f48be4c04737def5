//! What a walk of a live tree listed, kept in the machine state: the base of the next sync where no snapshot can be one.
//!
//! A record is its length, its kind, eight bytes of the BLAKE3 digest of the file up to its end, and its postcard bytes. The
//! first one names the key, the last one says that all is there. So a manifest that is cut, damaged, or another one's is
//! known as such before anything is judged by it.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};

use crate::linux::state::{Draft, StateDir};
use crate::proto::{AgentError, WalkSummary, decode, encode};
use crate::server::Call;

/// The format that this build reads and writes.
const FORMAT: u32 = 1;

/// Bytes before a record's own: length, kind, digest.
const HEAD: usize = 4 + 1 + SUM;
const SUM: usize = 8;

/// No record is longer.
const MAX_RECORD: usize = 16 << 20;

/// Kinds of records.
const BEGIN: u8 = 0;
const LISTINGS: u8 = 1;
const END: u8 = 2;

/// Writes a manifest. Dropping it leaves nothing behind.
pub struct Writer {
    draft: Draft,
    hash: blake3::Hasher,
}

impl Writer {
    /// Begins the manifest of a key.
    ///
    /// # Errors
    /// If the machine state cannot be written.
    pub fn create(state: &StateDir, key: &str) -> Result<Self, AgentError> {
        let mut writer = Self { draft: state.draft(key)?, hash: blake3::Hasher::new() };
        writer.append(BEGIN, &encode(&(FORMAT, key)))?;
        Ok(writer)
    }

    /// Adds encoded [`crate::proto::Listings`].
    ///
    /// # Errors
    /// If the machine state cannot be written.
    pub fn add(&mut self, listings: &[u8]) -> Result<(), AgentError> {
        self.append(LISTINGS, listings)
    }

    /// Ends it; durable when it returns.
    ///
    /// # Errors
    /// If the machine state cannot be written.
    pub fn finish(mut self, summary: WalkSummary) -> Result<(), AgentError> {
        self.append(END, &encode(&summary))?;
        self.draft.finish().map_err(|error| failed(&error))
    }

    fn append(&mut self, kind: u8, body: &[u8]) -> Result<(), AgentError> {
        let len = (body.len() as u32).to_le_bytes();
        self.hash.update(&len).update(&[kind]).update(body);
        let sum = self.hash.finalize();
        let kind = [kind];
        let parts = [&len, kind.as_slice(), &sum.as_bytes()[..SUM], body];
        parts.into_iter().try_for_each(|part| self.draft.write_all(part)).map_err(|error| failed(&error))
    }
}

fn failed(error: &io::Error) -> AgentError {
    AgentError::io("cannot write a manifest", error)
}

/// Answers [`crate::proto::Request::Kept`].
///
/// # Errors
/// If it is not there or not whole, or the caller gave up.
pub fn run(key: &str, call: &Call, state: &StateDir) -> Result<WalkSummary, AgentError> {
    let file = state.open(key)?.ok_or_else(|| AgentError::failed(missing(key)))?;
    read(file, key, |listings| call.item_raw(listings))?.map_err(AgentError::failed)
}

/// Answers [`crate::proto::Request::CheckKept`].
///
/// # Errors
/// If the disk cannot be read.
pub fn check(key: &str, state: &StateDir) -> Result<Result<(), String>, AgentError> {
    let Some(file) = state.open(key)? else { return Ok(Err(missing(key))) };
    Ok(read(file, key, |_| Ok(()))?.map(drop))
}

fn missing(key: &str) -> String {
    format!("its manifest `{key}` is not there any more")
}

/// Hands out the listings of a manifest; the inner error says what is wrong with it.
fn read(
    file: File,
    key: &str,
    mut each: impl FnMut(&[u8]) -> Result<(), AgentError>,
) -> Result<Result<WalkSummary, String>, AgentError> {
    let mut file = BufReader::with_capacity(256 << 10, file);
    let mut hash = blake3::Hasher::new();
    let mut has_begun = false;
    loop {
        let Some((kind, body)) = next(&mut file, &mut hash) else {
            return Ok(Err(format!("its manifest `{key}` is cut or damaged")));
        };
        match kind {
            BEGIN if !has_begun => {
                if decode::<(u32, String)>(&body).ok() != Some((FORMAT, key.to_owned())) {
                    return Ok(Err(format!("its manifest `{key}` is of another version or another place")));
                }
                has_begun = true;
            }
            LISTINGS if has_begun => each(&body)?,
            END if has_begun => return Ok(decode(&body)),
            _ => return Ok(Err(format!("its manifest `{key}` is none"))),
        }
    }
}

/// Returns the next whole record.
fn next(file: &mut impl Read, hash: &mut blake3::Hasher) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; HEAD];
    file.read_exact(&mut head).ok()?;
    let (len, kind) = ([head[0], head[1], head[2], head[3]], head[4]);
    let size = u32::from_le_bytes(len) as usize;
    if size > MAX_RECORD {
        return None;
    }
    let mut body = vec![0; size];
    file.read_exact(&mut body).ok()?;
    hash.update(&len).update(&[kind]).update(&body);
    (hash.finalize().as_bytes()[..SUM] == head[5..]).then_some((kind, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tests::drive::raw_items;
    use crate::data::walk;
    use crate::proto::{RuleSet, Tree, WalkRequest};

    const KEY: &str = "manifests/0a1b2c3d-00";

    fn kept(root: &std::path::Path, state: &StateDir) -> (WalkSummary, Vec<Vec<u8>>) {
        let (call, seen) = Call::for_test(Vec::new());
        let tree = Tree { root: root.into(), prefix: Default::default(), rules: RuleSet::default() };
        let summary = walk::run_kept(&WalkRequest { tree }, KEY, &call, state).unwrap();
        (summary, raw_items(&seen))
    }

    #[test]
    fn what_a_walk_listed_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path().join("state"));
        let root = dir.path().join("root");
        for number in 0..300 {
            std::fs::create_dir_all(root.join(format!("{number}"))).unwrap();
            std::fs::write(root.join(format!("{number}/file")), "x").unwrap();
        }
        let (summary, mut listed) = kept(&root, &state);
        assert_eq!(check(KEY, &state).unwrap(), Ok(()));
        std::fs::remove_dir_all(&root).unwrap();
        let (call, seen) = Call::for_test(Vec::new());
        assert_eq!(run(KEY, &call, &state).unwrap(), summary);
        let mut back = raw_items(&seen);
        // Threads send and keep in an order of their own.
        listed.sort();
        back.sort();
        assert_eq!(back, listed);
    }

    #[test]
    fn a_manifest_that_is_cut_damaged_missing_or_another_ones_is_known_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path().join("state"));
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::write(dir.path().join("root/file"), "x").unwrap();
        kept(&dir.path().join("root"), &state);
        let bytes = state.get(KEY).unwrap().unwrap();
        for len in 0..bytes.len() {
            state.put(KEY, Some(&bytes[..len])).unwrap();
            assert!(check(KEY, &state).unwrap().is_err(), "cut after {len} bytes");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            state.put(KEY, Some(&damaged)).unwrap();
            assert!(check(KEY, &state).unwrap().is_err(), "damaged at {at}");
        }
        state.put("manifests/other", Some(&bytes)).unwrap();
        assert!(check("manifests/other", &state).unwrap().is_err());
        assert!(check("manifests/none", &state).unwrap().is_err());
        let (call, _) = Call::for_test(Vec::new());
        assert!(run("manifests/none", &call, &state).is_err());
    }

    #[test]
    fn a_walk_that_fails_keeps_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path().join("state"));
        let (call, _) = Call::for_test(Vec::new());
        let tree = Tree {
            root: dir.path().join("none").as_path().into(),
            prefix: Default::default(),
            rules: RuleSet::default(),
        };
        assert!(walk::run_kept(&WalkRequest { tree }, KEY, &call, &state).is_err());
        assert_eq!(state.list("").unwrap(), Vec::<String>::new());
        assert!(std::fs::read_dir(dir.path().join("state/manifests")).unwrap().next().is_none());
    }
}
