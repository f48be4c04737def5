//! What a repository may hold, and what goes between a machine and one that serves a vault. The first byte chooses.

use std::io;

use pc_switcher_vault::format::blob::{decode_header, encode_header};
use pc_switcher_vault::format::index::{IndexFile, IndexedPack};
use pc_switcher_vault::format::keyfile::KeyFile;
use pc_switcher_vault::format::lock::Lock;
use pc_switcher_vault::format::{Id, RepoConfig, Snapshot, Tree, quote, unpacked};
use pc_switcher_vault::store::MemoryStore;
use pc_switcher_vault::store::ssh::serve::{Served, serve};
use pc_switcher_vault::store::ssh::wire::{Answer, Assembly, PIECE, read};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::memory::peak;

/// A document may take so many bytes for each of its own...
const PER_BYTE: usize = 64;
/// ... beside so many in any case.
const AT_LEAST: usize = 1 << 20;

/// Reads the bytes as what the first of them says.
pub fn run(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    run_as(*kind, body);
}

/// Reads the bytes as something of that kind.
pub fn run_as(kind: u8, body: &[u8]) {
    match kind % 10 {
        0 => header(body),
        1 => tree(body),
        2 => document::<IndexFile>(body),
        3 => document::<Snapshot>(body),
        4 => document::<RepoConfig>(body),
        5 => drop(within(body, || serde_json::from_slice::<KeyFile>(body))),
        6 => document::<Lock>(body),
        7 => name(body),
        8 => served(body),
        _ => answered(body),
    }
}

/// Reads something within its memory.
fn within<T>(body: &[u8], read: impl FnOnce() -> T) -> T {
    let (read, held) = peak(read);
    assert!(held <= AT_LEAST + PER_BYTE * body.len(), "{held} bytes were held for {}", body.len());
    read
}

fn header(body: &[u8]) {
    let Ok(entries) = within(body, || decode_header(body)) else { return };
    assert_eq!(encode_header(&entries), body);
    assert_eq!(IndexedPack::of(Id::default(), &entries).blobs.len(), entries.len());
}

/// A tree that is read is the same when it is written and read again, and none of its names leads out of it.
fn tree(body: &[u8]) {
    let Ok(tree) = within(body, || Tree::from_blob(body)) else { return };
    for node in &tree.nodes {
        let name = node.name.as_encoded_bytes();
        assert!(!matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0));
        let _ = (node.target(), node.permissions());
    }
    assert_eq!(tree.to_blob().and_then(|blob| Tree::from_blob(&blob)), Ok(tree));
}

/// The same of a document outside packs. What is compressed may be large, and says so only by being it.
fn document<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(body: &[u8]) {
    if body.first() == Some(&2) {
        let _ = unpacked::inflate(&body[1..], PIECE);
        return;
    }
    let Ok(read) = within(body, || unpacked::decode::<T>(body)) else { return };
    let again = unpacked::encode(&read, 1).and_then(|text| unpacked::decode::<T>(&text));
    assert_eq!(again, Ok(read));
}

fn name(body: &[u8]) {
    assert_eq!(quote::unquote(&quote::quote(body)).as_deref(), Some(body));
    if let Some(plain) = std::str::from_utf8(body).ok().and_then(quote::unquote) {
        assert_eq!(quote::unquote(&quote::quote(&plain)), Some(plain));
    }
}

/// A machine that serves, with whatever somebody asks it.
fn served(body: &[u8]) {
    let store = MemoryStore::default();
    let served = Served { store: &store, hostname: "desk", append_only: body.len().is_multiple_of(2) };
    let (_, held) = peak(|| serve(&served, body, io::sink()));
    // A frame has room before it has come, and an object is held by the store and by whoever puts it together.
    assert!(
        held <= 2 * PIECE + AT_LEAST + PER_BYTE * body.len(),
        "{held} bytes were held for {}",
        body.len()
    );
}

/// A machine that asks, with whatever it is answered.
fn answered(mut body: &[u8]) {
    let mut assembly = Assembly::default();
    while let Ok(Some(frame)) = read(&mut body) {
        if assembly.take_in::<Answer>(frame).is_err() {
            return;
        }
    }
}
