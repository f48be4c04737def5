//! Trees of a vault's last snapshot that stand for directories in which nothing changed since.
//!
//! Triggers note which files changed, whoever changed them (`schema.rs`), so a tree that is known here after
//! [`Catalogue::forget_stale_trees`] is that of what is known of its directory.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::{OptionalExtension, params};

use super::{Catalogue, Directory, place_of};
use crate::error::Result;
use crate::format::Id;

/// A tree of a snapshot, with the directory that it stands for.
pub struct KnownTree<'d> {
    /// The tracked directory.
    pub directory: &'d Directory,
    /// Relative to that.
    pub name: std::path::PathBuf,
    /// The tree.
    pub tree: Id,
}

impl Catalogue {
    /// Forgets the trees of all directories in which something changed.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn forget_stale_trees(&mut self) -> Result<()> {
        self.together(|catalogue| {
            let touched: Vec<(i64, Vec<u8>)> =
                catalogue.all("SELECT directory_id, place FROM touched", [], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?;
            let stale: BTreeSet<(i64, &[u8])> = touched
                .iter()
                .flat_map(|(directory, place)| around(place).map(move |place| (*directory, place)))
                .collect();
            let forget = || -> rusqlite::Result<()> {
                let sql = "DELETE FROM trees WHERE directory_id = ?1 AND place = ?2";
                let mut forget = catalogue.db.prepare_cached(sql)?;
                for (directory, place) in &stale {
                    forget.execute(params![directory, place])?;
                }
                catalogue.db.execute("DELETE FROM touched", []).map(drop)
            };
            catalogue.ok(forget())
        })
    }

    /// Returns which index files name all that is in the trees of a vault.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn indexes_of_trees(&self, vault: &str) -> Result<BTreeSet<Id>> {
        let sql = "SELECT indexes FROM tree_bases WHERE vault = ?1";
        let found = self.db.query_row(sql, [vault], |row| row.get::<_, Vec<u8>>(0));
        let bytes = self.ok(found.optional())?.unwrap_or_default();
        Ok(bytes.as_chunks::<32>().0.iter().map(|id| Id(*id)).collect())
    }

    /// Returns the tree in a vault's last snapshot of a directory in a tracked one, or of that one itself.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn tree(&self, vault: &str, directory: &Directory, name: &Path) -> Result<Option<Id>> {
        let sql = "SELECT tree_id FROM trees WHERE vault = ?1 AND directory_id = ?2 AND place = ?3";
        let found = self.db.prepare_cached(sql).and_then(|mut query| {
            query
                .query_row(params![vault, directory.id, place_of(name)], |row| row.get::<_, Vec<u8>>(0))
                .optional()
        });
        Ok(self.ok(found)?.and_then(|bytes| Id::from_slice(&bytes)))
    }

    /// Forgets all trees of a vault.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn forget_trees(&mut self, vault: &str) -> Result<()> {
        let done = self.db.execute("DELETE FROM trees WHERE vault = ?1", [vault]);
        self.ok(done).map(drop)
    }

    /// Notes trees of the snapshot that a vault has now, in each of which is all that is known; these index files name what is in
    /// them and in those that were known before.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn keep_trees(&mut self, vault: &str, trees: &[KnownTree<'_>], indexes: &BTreeSet<Id>) -> Result<()> {
        let keep = |catalogue: &Self| -> rusqlite::Result<()> {
            let sql =
                "INSERT OR REPLACE INTO trees (vault, directory_id, place, tree_id) VALUES (?1, ?2, ?3, ?4)";
            let mut keep = catalogue.db.prepare_cached(sql)?;
            for KnownTree { directory, name, tree } in trees {
                keep.execute(params![vault, directory.id, place_of(name), tree.0.as_slice()])?;
            }
            let indexes: Vec<u8> = indexes.iter().flat_map(|id| id.0).collect();
            let sql = "INSERT OR REPLACE INTO tree_bases (vault, indexes) VALUES (?1, ?2)";
            catalogue.db.execute(sql, params![vault, indexes]).map(drop)
        };
        self.together(|catalogue| catalogue.ok(keep(catalogue)))
    }

    /// Whether the last snapshot of a vault is known to have all that is known of each tracked directory.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn is_whole(&self, vault: &str) -> Result<bool> {
        let sql = "SELECT NOT EXISTS (SELECT 1 FROM touched) AND NOT EXISTS
                       (SELECT 1 FROM directories d WHERE NOT EXISTS
                           (SELECT 1 FROM trees t WHERE t.vault = ?1 AND t.directory_id = d.id AND t.place = x''))";
        let found = self.db.query_row(sql, [vault], |row| row.get(0));
        self.ok(found)
    }
}

/// Returns a place and all that it is in.
fn around(place: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = place.iter().enumerate().filter(|(_, byte)| **byte == 0).map(|(at, _)| at);
    ends.chain([0, place.len()]).map(|end| &place[..end])
}
