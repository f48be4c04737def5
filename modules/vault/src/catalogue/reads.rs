//! Which packs of a vault were read, and when.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use rusqlite::params;

use super::Catalogue;
use crate::error::Result;
use crate::format::Id;

impl Catalogue {
    /// Returns when packs of a vault were read last and found as they were written, in seconds.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn pack_reads(&self, vault: &str) -> Result<HashMap<Id, i64>> {
        let sql = "SELECT pack_id, read_at FROM pack_reads WHERE vault = ?1";
        let all: Vec<(Vec<u8>, i64)> = self.all(sql, [vault], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(all.into_iter().filter_map(|(id, at)| Some((Id::from_slice(&id)?, at))).collect())
    }

    /// Notes that these packs were read, and forgets all but those that may be known.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn note_pack_reads(&mut self, vault: &str, read: &[Id], known: &[Id], now: Timestamp) -> Result<()> {
        let known: HashSet<&Id> = known.iter().collect();
        let gone: Vec<Id> = self.pack_reads(vault)?.into_keys().filter(|id| !known.contains(id)).collect();
        self.together(|catalogue| {
            for id in read {
                let sql = "INSERT INTO pack_reads (vault, pack_id, read_at) VALUES (?1, ?2, ?3)
                           ON CONFLICT (vault, pack_id) DO UPDATE SET read_at = excluded.read_at";
                let done = catalogue.db.execute(sql, params![vault, id.0, now.as_second()]);
                catalogue.ok(done)?;
            }
            for id in &gone {
                let sql = "DELETE FROM pack_reads WHERE vault = ?1 AND pack_id = ?2";
                let done = catalogue.db.execute(sql, params![vault, id.0]);
                catalogue.ok(done)?;
            }
            Ok(())
        })
    }
}
