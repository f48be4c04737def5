//! What pruning asks of the catalogue, and tells it.

use std::collections::{BTreeSet, HashMap, HashSet};

use rusqlite::params;

use super::{Catalogue, entities};
use crate::error::Result;
use crate::format::Id;

impl Catalogue {
    /// Returns the chunks in a vault of the versions that stay; `stays` is asked once for each moment at which one was made or its
    /// content stored there.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn chunks_of_versions(&self, vault: &str, stays: impl Fn(&str) -> bool) -> Result<HashSet<Id>> {
        let mut asked: HashMap<String, bool> = HashMap::new();
        let sql = "SELECT v.created_at, l.stored_at, c.blob_id FROM file_snapshots v
                   JOIN content_locations l ON l.vault = ?1 AND l.content_id = v.content_id
                   JOIN content_chunks c ON c.vault = ?1 AND c.content_id = v.content_id";
        let found: Vec<Option<Id>> = self.all(sql, [vault], |row| {
            let mut ask = |at: String| *asked.entry(at).or_insert_with_key(|at| stays(at));
            let stays = ask(row.get("created_at")?) || ask(row.get("stored_at")?);
            let blob: Vec<u8> = row.get("blob_id")?;
            Ok(Id::from_slice(&blob).filter(|_| stays))
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Forgets that a vault holds what it does not hold any more, all or nothing, and returns how many versions that are.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn forget_what_is_gone(&mut self, vault: &str, is_there: impl Fn(Id) -> bool) -> Result<u64> {
        let sql = "SELECT content_id, blob_id FROM content_chunks WHERE vault = ?1";
        let found: Vec<Option<Id>> = self.all(sql, [vault], |row| {
            let blob: Vec<u8> = row.get("blob_id")?;
            let is_there = Id::from_slice(&blob).is_some_and(&is_there);
            Ok(if is_there { None } else { Some(entities::id(row, "content_id")?) })
        })?;
        let gone: BTreeSet<Id> = found.into_iter().flatten().collect();
        self.together(|catalogue| {
            let mut versions = 0;
            for content in gone {
                let sql = "SELECT COUNT(*) FROM file_snapshots WHERE content_id = ?1";
                let counted = catalogue.db.query_row(sql, params![content.hex()], |row| row.get::<_, i64>(0));
                versions += catalogue.ok(counted)? as u64;
                catalogue.forget_location(vault, content)?;
            }
            Ok(versions)
        })
    }
}
