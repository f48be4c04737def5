//! What a restore leaves behind on a disk that fills up, and what the next one finds there.
//!
//! It ends at the first file for which there is no room: that file goes, those that were complete stay. The same restore once more
//! leaves alone what is there and complete, and goes on with the rest.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use pc_switcher_contract::{ErrorKind, ModuleError, human_bytes};

use super::{Observer, Sparse, Stoppable, open};
use crate::format::crypto::OVERHEAD;
use crate::format::node::timestamp;
use crate::format::{BlobKind, Id, Node};
use crate::repo::Repository;

/// A disk that filled up under a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Full {
    /// What found no room.
    pub why: String,
    /// Files that are still wanted, with the one that found no room.
    pub files_left: u64,
    /// Their bytes.
    pub bytes_left: u64,
    /// What is free there, if that is too little.
    pub free_bytes: Option<u64>,
}

impl Full {
    /// Says what is free on the disk of a directory by now.
    pub(crate) fn at(root: &Path, why: String, files_left: u64, bytes_left: u64) -> Self {
        // It may not be there itself, for want of room.
        let facts = root.ancestors().find_map(|above| rustix::fs::statvfs(above).ok());
        let free_bytes = facts
            .map(|facts| facts.f_bavail.saturating_mul(facts.f_frsize))
            // Where there is enough, it was another disk, or there is no room for one more file.
            .filter(|free| *free < bytes_left);
        Self { why, files_left, bytes_left, free_bytes }
    }

    /// Makes an error of it, which says what of `files` with so many `bytes` is there by now.
    pub fn error(&self, files: u64, bytes: u64) -> ModuleError {
        let Self { why, files_left, bytes_left, free_bytes } = self;
        let free =
            free_bytes.map_or_else(String::new, |free| format!("; {} are free there", human_bytes(free)));
        let message = format!(
            "{why}: {files} files with {} are restored, {files_left} with {} are still wanted{free}",
            human_bytes(bytes),
            human_bytes(*bytes_left)
        );
        ModuleError::new(ErrorKind::DiskSpace, message).hint(
            "make room and restore again to the same place: what is there and complete is left as it is",
        )
    }
}

/// Some file systems know no times but those of every second second.
const COARSEST: i128 = 2_000_000_000;

/// Returns the file that a restore before this one left complete, open as it was proven: with this content and, unless the content is
/// all that is wanted, about this time. Whoever cannot tell says that it is another one.
pub(crate) fn complete(
    repo: &Repository,
    path: &Path,
    node: &Node,
    content_only: bool,
    observer: &dyn Observer,
) -> Option<File> {
    let facts = fs::symlink_metadata(path).ok()?;
    let modified_at = timestamp(facts.mtime(), facts.mtime_nsec());
    let is_of_then = (modified_at.as_nanosecond() - node.mtime.as_nanosecond()).abs() < COARSEST;
    let looks_so = facts.is_file() && facts.len() == node.size && (content_only || is_of_then);
    let file = open(path, &facts).ok().filter(|_| looks_so)?;
    let is_it = has_content(repo, &file, node.content.as_deref().unwrap_or(&[]), observer);
    is_it.unwrap_or(false).then_some(file)
}

fn has_content(repo: &Repository, file: &File, chunks: &[Id], observer: &dyn Observer) -> io::Result<bool> {
    repo.load_index().map_err(io::Error::other)?;
    let mut reader = Stoppable { reader: Sparse::new(file), observer };
    let mut piece = Vec::new();
    for id in chunks {
        let place = repo.find(BlobKind::Data, id).or_else(|| repo.find(BlobKind::Tree, id));
        let Some(place) = place else { return Ok(false) };
        let sealed = (place.length as usize).saturating_sub(OVERHEAD);
        piece.resize(place.uncompressed_length.map_or(sealed, |length| length as usize), 0);
        reader.read_exact(&mut piece)?;
        if Id::of(&piece) != *id {
            return Ok(false);
        }
    }
    Ok(reader.read(&mut [0])? == 0)
}
