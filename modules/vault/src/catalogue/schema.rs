//! The tables, and how older ones become them.

use pc_switcher_contract::ModuleError;
use rusqlite::TransactionBehavior;

use super::Catalogue;
use crate::error::Result;

/// Each entry brings the format one further; entries are never changed, only added.
pub(super) const MIGRATIONS: [&str; 9] = [
    "
    CREATE TABLE contents (
        id         TEXT PRIMARY KEY NOT NULL,
        size       INTEGER NOT NULL,
        created_at TEXT NOT NULL
    ) STRICT;
    CREATE TABLE content_locations (
        content_id    TEXT NOT NULL REFERENCES contents ON DELETE CASCADE,
        vault         TEXT NOT NULL,
        stored_at     TEXT NOT NULL,
        storage_class TEXT,
        PRIMARY KEY (content_id, vault)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE content_chunks (
        vault      TEXT NOT NULL,
        content_id TEXT NOT NULL REFERENCES contents ON DELETE CASCADE,
        seq        INTEGER NOT NULL,
        blob_id    BLOB NOT NULL,
        size       INTEGER NOT NULL,
        PRIMARY KEY (vault, content_id, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE directories (
        id         TEXT PRIMARY KEY NOT NULL,
        path       BLOB NOT NULL UNIQUE,
        created_at TEXT NOT NULL
    ) STRICT;
    CREATE TABLE files (
        id                  TEXT PRIMARY KEY NOT NULL,
        name                BLOB NOT NULL,
        place               BLOB NOT NULL,
        directory_id        TEXT NOT NULL REFERENCES directories ON DELETE CASCADE,
        current_snapshot_id TEXT REFERENCES file_snapshots ON DELETE SET NULL,
        deleted             INTEGER NOT NULL DEFAULT 0,
        UNIQUE (directory_id, place)
    ) STRICT;
    CREATE TABLE file_snapshots (
        id          TEXT PRIMARY KEY NOT NULL,
        file_id     TEXT NOT NULL REFERENCES files ON DELETE CASCADE,
        content_id  TEXT NOT NULL REFERENCES contents ON DELETE RESTRICT,
        number      INTEGER NOT NULL,
        created_at  TEXT NOT NULL,
        size        INTEGER NOT NULL,
        permissions INTEGER NOT NULL,
        uid         INTEGER NOT NULL,
        gid         INTEGER NOT NULL,
        inode       INTEGER NOT NULL,
        accessed_at INTEGER NOT NULL,
        modified_at INTEGER NOT NULL,
        changed_at  INTEGER NOT NULL,
        born_at     INTEGER,
        xattrs      BLOB NOT NULL,
        UNIQUE (file_id, number)
    ) STRICT;
    CREATE INDEX file_snapshots_by_content ON file_snapshots (content_id);
    CREATE TABLE staged (
        seq          INTEGER PRIMARY KEY AUTOINCREMENT,
        directory_id TEXT NOT NULL REFERENCES directories ON DELETE CASCADE,
        name         BLOB NOT NULL,
        place        BLOB NOT NULL,
        content_id   TEXT,
        origin       TEXT NOT NULL,
        size         INTEGER NOT NULL,
        permissions  INTEGER NOT NULL,
        uid          INTEGER NOT NULL,
        gid          INTEGER NOT NULL,
        inode        INTEGER NOT NULL,
        accessed_at  INTEGER NOT NULL,
        modified_at  INTEGER NOT NULL,
        changed_at   INTEGER NOT NULL,
        born_at      INTEGER,
        xattrs       BLOB NOT NULL
    ) STRICT;
    CREATE INDEX staged_by_place ON staged (directory_id, place);
    CREATE TABLE backup_operations (
        id          INTEGER PRIMARY KEY AUTOINCREMENT,
        started_at  TEXT NOT NULL,
        finished_at TEXT,
        operation   TEXT NOT NULL,
        parameters  TEXT NOT NULL,
        status      TEXT NOT NULL,
        details     TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE TABLE vault_state (
        vault    TEXT PRIMARY KEY NOT NULL,
        vault_id TEXT NOT NULL,
        uploaded INTEGER NOT NULL DEFAULT 0,
        pending  INTEGER NOT NULL DEFAULT 0
    ) STRICT;
",
    // What is no regular file has versions, too; of older ones nobody knows how many names they had.
    "
    ALTER TABLE file_snapshots ADD COLUMN kind   TEXT NOT NULL DEFAULT 'file';
    ALTER TABLE file_snapshots ADD COLUMN target BLOB NOT NULL DEFAULT x'';
    ALTER TABLE file_snapshots ADD COLUMN device INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE file_snapshots ADD COLUMN links  INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE staged ADD COLUMN kind   TEXT NOT NULL DEFAULT 'file';
    ALTER TABLE staged ADD COLUMN target BLOB NOT NULL DEFAULT x'';
    ALTER TABLE staged ADD COLUMN device INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE staged ADD COLUMN links  INTEGER NOT NULL DEFAULT 1;
",
    // Whether something changed since a vault's last snapshot. Of vaults from before nobody knows: one snapshot more does no harm.
    "
    ALTER TABLE vault_state ADD COLUMN due INTEGER NOT NULL DEFAULT 1;
",
    // From when to when a file was gone; of what went before nobody knows.
    "
    CREATE TABLE absences (
        file_id TEXT NOT NULL REFERENCES files ON DELETE CASCADE,
        gone_at TEXT NOT NULL,
        back_at TEXT
    ) STRICT;
    CREATE INDEX absences_by_file ON absences (file_id);
",
    // Whether something was mounted on a directory when it was last seen.
    "
    ALTER TABLE files ADD COLUMN mount INTEGER NOT NULL DEFAULT 0;
",
    // Backups that found most of a directory gone.
    "
    CREATE TABLE losses (
        at        TEXT NOT NULL,
        directory BLOB NOT NULL,
        files     INTEGER NOT NULL
    ) STRICT;
",
    // Snapshots of which all is known of a directory.
    "
    CREATE TABLE bases (
        directory_id TEXT PRIMARY KEY NOT NULL REFERENCES directories ON DELETE CASCADE,
        recorded     TEXT NOT NULL
    ) STRICT;
",
    // When packs were read last and found as they were written, in seconds.
    "
    CREATE TABLE pack_reads (
        vault   TEXT NOT NULL,
        pack_id BLOB NOT NULL,
        read_at INTEGER NOT NULL,
        PRIMARY KEY (vault, pack_id)
    ) STRICT, WITHOUT ROWID;
",
    // Trees of the last snapshots, the index files that name what is in them, and what changed since.
    "
    CREATE TABLE trees (
        vault        TEXT NOT NULL,
        directory_id TEXT NOT NULL REFERENCES directories ON DELETE CASCADE,
        place        BLOB NOT NULL,
        tree_id      BLOB NOT NULL,
        PRIMARY KEY (directory_id, place, vault)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE tree_bases (
        vault   TEXT PRIMARY KEY NOT NULL,
        indexes BLOB NOT NULL
    ) STRICT;
    CREATE TABLE touched (
        directory_id TEXT NOT NULL,
        place        BLOB NOT NULL,
        PRIMARY KEY (directory_id, place)
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER files_come AFTER INSERT ON files WHEN EXISTS (SELECT 1 FROM trees) BEGIN
        INSERT OR IGNORE INTO touched (directory_id, place) VALUES (new.directory_id, new.place);
    END;
    CREATE TRIGGER files_change AFTER UPDATE OF name, place, directory_id, current_snapshot_id, deleted ON files
        WHEN EXISTS (SELECT 1 FROM trees) BEGIN
        INSERT OR IGNORE INTO touched (directory_id, place) VALUES (old.directory_id, old.place);
        INSERT OR IGNORE INTO touched (directory_id, place) VALUES (new.directory_id, new.place);
    END;
    CREATE TRIGGER files_go AFTER DELETE ON files WHEN EXISTS (SELECT 1 FROM trees) BEGIN
        INSERT OR IGNORE INTO touched (directory_id, place) VALUES (old.directory_id, old.place);
    END;
    CREATE TRIGGER versions_change AFTER UPDATE ON file_snapshots WHEN EXISTS (SELECT 1 FROM trees) BEGIN
        DELETE FROM trees;
    END;
    CREATE TRIGGER locations_change AFTER UPDATE ON content_locations WHEN EXISTS (SELECT 1 FROM trees) BEGIN
        DELETE FROM trees;
    END;
    CREATE TRIGGER locations_go AFTER DELETE ON content_locations WHEN EXISTS (SELECT 1 FROM trees) BEGIN
        DELETE FROM trees WHERE vault = old.vault;
    END;
    CREATE TRIGGER vaults_change AFTER UPDATE OF vault, vault_id ON vault_state
        WHEN old.vault_id <> new.vault_id OR old.vault <> new.vault BEGIN
        DELETE FROM trees WHERE vault IN (old.vault, new.vault);
    END;
",
];

/// Brings the tables up to date, whole or not at all.
pub(super) fn migrate(catalogue: &mut Catalogue) -> Result<()> {
    let path = catalogue.path.clone();
    let broken = |error: rusqlite::Error| super::broken(&path, &error);
    let read = catalogue.db.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    if read.map_err(broken)? == MIGRATIONS.len() as i64 {
        // Whoever only looks writes nothing, and waits for nobody who does.
        return Ok(());
    }
    let begun = catalogue.db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(broken)?;
    let version: i64 = begun.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(broken)?;
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if version > MIGRATIONS.len() {
        let message = format!("the catalogue `{}` comes from a newer pc-switcher", path.display());
        return Err(ModuleError::failed(message).hint("install that version here, too"));
    }
    for migration in &MIGRATIONS[version..] {
        begun.execute_batch(migration).map_err(broken)?;
    }
    begun.pragma_update(None, "user_version", MIGRATIONS.len() as i64).map_err(broken)?;
    begun.commit().map_err(broken)
}
