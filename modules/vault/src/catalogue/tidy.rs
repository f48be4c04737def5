//! What nobody asks for any more goes, so that a catalogue does not grow with all that ever was.

use jiff::{SignedDuration, Timestamp};
use rusqlite::params;

use super::{Catalogue, stamp};
use crate::error::Result;

/// How long commands stay in the history, and how many of them whatever their age.
const LONG: SignedDuration = SignedDuration::from_hours(365 * 24);
const LAST: i64 = 1000;

/// What went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Contents that no version has and that wait for no backup.
    pub contents: usize,
    /// Lines of the history.
    pub operations: usize,
}

impl Catalogue {
    /// Forgets contents that no version has and that wait for no backup, with where they are, and commands of long ago; all or nothing.
    /// Versions stay, also those that no vault holds any more: they are the history of files. So do backups, by which is told which
    /// versions go with which snapshot.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn tidy(&mut self, now: Timestamp) -> Result<Tidied> {
        let since = now.checked_sub(LONG).unwrap_or(Timestamp::MIN);
        self.together(|catalogue| {
            let contents = catalogue.db.execute(
                "DELETE FROM contents WHERE NOT EXISTS (SELECT 1 FROM file_snapshots v WHERE v.content = contents.number)
                     AND id NOT IN (SELECT content_id FROM staged WHERE content_id IS NOT NULL)",
                [],
            );
            let contents = catalogue.ok(contents)?;
            let operations = catalogue.db.execute(
                "DELETE FROM backup_operations WHERE started_at < ?1 AND operation NOT IN ('backup', 'recover')
                     AND id <= (SELECT MAX(id) - ?2 FROM backup_operations)",
                params![stamp(since), LAST],
            );
            Ok(Tidied { contents, operations: catalogue.ok(operations)? })
        })
    }
}
