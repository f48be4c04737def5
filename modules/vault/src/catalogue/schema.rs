//! The tables, and how older ones become them.

use jiff::Timestamp;
use pc_switcher_contract::ModuleError;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::Catalogue;
use super::entities::moment;
use crate::error::Result;

/// Each entry brings the format one further; entries are never changed, only added.
pub(super) const MIGRATIONS: [&str; 10] = [
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
    // Numbers instead of texts wherever a row names another one, checksums as bytes, moments in nanoseconds, and no name beside its
    // place: a third of the room, and of a new content one table is written at a random place instead of three. Nothing refers to
    // the current version any more, since nobody removes one alone: whoever forgot a directory had all files searched for each.
    "
    DROP TRIGGER files_come;
    DROP TRIGGER files_change;
    DROP TRIGGER files_go;
    DROP TRIGGER versions_change;
    DROP TRIGGER locations_change;
    DROP TRIGGER locations_go;
    DROP INDEX file_snapshots_by_content;
    DROP INDEX staged_by_place;
    DROP INDEX absences_by_file;
    ALTER TABLE contents          RENAME TO old_contents;
    ALTER TABLE content_locations RENAME TO old_content_locations;
    ALTER TABLE content_chunks    RENAME TO old_content_chunks;
    ALTER TABLE directories       RENAME TO old_directories;
    ALTER TABLE files             RENAME TO old_files;
    ALTER TABLE file_snapshots    RENAME TO old_file_snapshots;
    ALTER TABLE staged            RENAME TO old_staged;
    ALTER TABLE absences          RENAME TO old_absences;
    ALTER TABLE bases             RENAME TO old_bases;
    DROP TABLE trees;
    DROP TABLE touched;
    CREATE TABLE contents (
        number     INTEGER PRIMARY KEY,
        id         BLOB NOT NULL UNIQUE,
        size       INTEGER NOT NULL,
        created_at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE content_locations (
        content       INTEGER NOT NULL REFERENCES contents ON DELETE CASCADE,
        vault         TEXT NOT NULL,
        stored_at     INTEGER NOT NULL,
        storage_class TEXT,
        PRIMARY KEY (content, vault)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE content_chunks (
        content INTEGER NOT NULL REFERENCES contents ON DELETE CASCADE,
        vault   TEXT NOT NULL,
        seq     INTEGER NOT NULL,
        blob_id BLOB NOT NULL,
        size    INTEGER NOT NULL,
        PRIMARY KEY (content, vault, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE directories (
        id         INTEGER PRIMARY KEY,
        path       BLOB NOT NULL UNIQUE,
        created_at TEXT NOT NULL
    ) STRICT;
    CREATE TABLE files (
        id                  INTEGER PRIMARY KEY,
        directory_id        INTEGER NOT NULL REFERENCES directories ON DELETE CASCADE,
        place               BLOB NOT NULL,
        current_snapshot_id INTEGER,
        deleted             INTEGER NOT NULL DEFAULT 0,
        mount               INTEGER NOT NULL DEFAULT 0,
        UNIQUE (directory_id, place)
    ) STRICT;
    CREATE TABLE file_snapshots (
        id          INTEGER PRIMARY KEY,
        file_id     INTEGER NOT NULL REFERENCES files ON DELETE CASCADE,
        content     INTEGER NOT NULL REFERENCES contents ON DELETE RESTRICT,
        number      INTEGER NOT NULL,
        created_at  INTEGER NOT NULL,
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
        kind        TEXT NOT NULL,
        target      BLOB NOT NULL,
        device      INTEGER NOT NULL,
        links       INTEGER NOT NULL,
        UNIQUE (file_id, number)
    ) STRICT;
    CREATE TABLE staged (
        seq          INTEGER PRIMARY KEY AUTOINCREMENT,
        directory_id INTEGER NOT NULL REFERENCES directories ON DELETE CASCADE,
        place        BLOB NOT NULL,
        content_id   BLOB,
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
        xattrs       BLOB NOT NULL,
        kind         TEXT NOT NULL,
        target       BLOB NOT NULL,
        device       INTEGER NOT NULL,
        links        INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE absences (
        file_id INTEGER NOT NULL REFERENCES files ON DELETE CASCADE,
        gone_at TEXT NOT NULL,
        back_at TEXT
    ) STRICT;
    CREATE TABLE bases (
        directory_id INTEGER PRIMARY KEY REFERENCES directories ON DELETE CASCADE,
        recorded     TEXT NOT NULL
    ) STRICT;
    CREATE TABLE trees (
        vault        TEXT NOT NULL,
        directory_id INTEGER NOT NULL REFERENCES directories ON DELETE CASCADE,
        place        BLOB NOT NULL,
        tree_id      BLOB NOT NULL,
        PRIMARY KEY (directory_id, place, vault)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE touched (
        directory_id INTEGER NOT NULL,
        place        BLOB NOT NULL,
        PRIMARY KEY (directory_id, place)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO contents (id, size, created_at)
        SELECT unhex(o.id), o.size, m.nanoseconds FROM old_contents o JOIN moments m ON m.written = o.created_at;
    INSERT INTO content_locations
        SELECT c.number, o.vault, m.nanoseconds, o.storage_class FROM old_content_locations o
        JOIN contents c ON c.id = unhex(o.content_id) JOIN moments m ON m.written = o.stored_at;
    INSERT INTO content_chunks
        SELECT c.number, o.vault, o.seq, o.blob_id, o.size FROM old_content_chunks o
        JOIN contents c ON c.id = unhex(o.content_id);
    INSERT INTO directories (path, created_at) SELECT path, created_at FROM old_directories ORDER BY path;
    CREATE TEMP TABLE known_files AS SELECT row_number() OVER (ORDER BY o.directory_id, o.place) AS number, o.id FROM old_files o;
    CREATE UNIQUE INDEX known_files_by_id ON known_files (id);
    CREATE TEMP TABLE known_versions AS
        SELECT row_number() OVER (ORDER BY f.number, o.number) AS number, o.id FROM old_file_snapshots o
        JOIN known_files f ON f.id = o.file_id;
    CREATE UNIQUE INDEX known_versions_by_id ON known_versions (id);
    INSERT INTO files
        SELECT k.number, n.id, o.place, v.number, o.deleted, o.mount FROM old_files o
        JOIN known_files k ON k.id = o.id JOIN old_directories d ON d.id = o.directory_id JOIN directories n ON n.path = d.path
        LEFT JOIN known_versions v ON v.id = o.current_snapshot_id;
    INSERT INTO file_snapshots
        SELECT v.number, f.number, c.number, o.number, m.nanoseconds, o.size, o.permissions, o.uid, o.gid, o.inode, o.accessed_at,
               o.modified_at, o.changed_at, o.born_at, o.xattrs, o.kind, o.target, o.device, o.links
        FROM old_file_snapshots o JOIN known_versions v ON v.id = o.id JOIN known_files f ON f.id = o.file_id
        JOIN contents c ON c.id = unhex(o.content_id) JOIN moments m ON m.written = o.created_at;
    INSERT INTO staged
        SELECT o.seq, n.id, o.place, unhex(o.content_id), o.origin, o.size, o.permissions, o.uid, o.gid, o.inode, o.accessed_at,
               o.modified_at, o.changed_at, o.born_at, o.xattrs, o.kind, o.target, o.device, o.links
        FROM old_staged o JOIN old_directories d ON d.id = o.directory_id JOIN directories n ON n.path = d.path;
    INSERT INTO absences
        SELECT f.number, o.gone_at, o.back_at FROM old_absences o JOIN known_files f ON f.id = o.file_id ORDER BY o.rowid;
    INSERT INTO bases
        SELECT n.id, o.recorded FROM old_bases o JOIN old_directories d ON d.id = o.directory_id JOIN directories n ON n.path = d.path;
    DROP TABLE known_files;
    DROP TABLE known_versions;
    DROP TABLE old_bases;
    DROP TABLE old_absences;
    DROP TABLE old_staged;
    DROP TABLE old_file_snapshots;
    DROP TABLE old_files;
    DROP TABLE old_directories;
    DROP TABLE old_content_chunks;
    DROP TABLE old_content_locations;
    DROP TABLE old_contents;
    CREATE INDEX file_snapshots_by_content ON file_snapshots (content);
    CREATE INDEX staged_by_place ON staged (directory_id, place);
    CREATE INDEX absences_by_file ON absences (file_id);
    CREATE TRIGGER files_come AFTER INSERT ON files WHEN EXISTS (SELECT 1 FROM trees) BEGIN
        INSERT OR IGNORE INTO touched (directory_id, place) VALUES (new.directory_id, new.place);
    END;
    CREATE TRIGGER files_change AFTER UPDATE OF place, directory_id, current_snapshot_id, deleted ON files
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
    // Whether a table is referred to is not looked at while it is made anew: that would search all others for each of its rows.
    catalogue.db.pragma_update(None, "foreign_keys", "off").map_err(broken)?;
    // A directory for what is temporary may be full, which would be said of the catalogue.
    catalogue.db.pragma_update(None, "temp_store", "memory").map_err(broken)?;
    bring_up(catalogue)?;
    catalogue.db.pragma_update(None, "temp_store", "default").map_err(broken)?;
    catalogue.db.pragma_update(None, "foreign_keys", "on").map_err(broken)
}

/// Whether a catalogue is there that an older program wrote.
pub(super) fn is_older(db: &Connection) -> rusqlite::Result<bool> {
    let version = db.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))?;
    Ok((1..MIGRATIONS.len() as i64).contains(&version))
}

/// The version of which moments are texts.
const TEXTS: usize = 9;

fn bring_up(catalogue: &mut Catalogue) -> Result<()> {
    let path = catalogue.path.clone();
    let broken = |error: rusqlite::Error| super::broken(&path, &error);
    let begun = catalogue.db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(broken)?;
    let version: i64 = begun.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(broken)?;
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if version > MIGRATIONS.len() {
        let message = format!("the catalogue `{}` comes from a newer pc-switcher", path.display());
        return Err(ModuleError::failed(message).hint("install that version here, too"));
    }
    for (number, migration) in MIGRATIONS.iter().enumerate().skip(version) {
        if number == TEXTS {
            note_moments(&begun).map_err(broken)?;
        }
        begun.execute_batch(migration).map_err(broken)?;
    }
    begun.execute_batch("DROP TABLE IF EXISTS temp.moments").map_err(broken)?;
    begun.pragma_update(None, "user_version", MIGRATIONS.len() as i64).map_err(broken)?;
    begun.commit().map_err(broken)
}

/// Reads the moments that there are, of which SQLite knows no fractions below a millisecond.
fn note_moments(begun: &Transaction<'_>) -> rusqlite::Result<()> {
    begun.execute_batch(
        "CREATE TEMP TABLE moments (written TEXT PRIMARY KEY NOT NULL, nanoseconds INTEGER NOT NULL)",
    )?;
    let sql = "SELECT created_at FROM contents UNION SELECT stored_at FROM content_locations
               UNION SELECT created_at FROM file_snapshots";
    let all: Vec<String> =
        begun.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut note = begun.prepare("INSERT INTO moments (written, nanoseconds) VALUES (?1, ?2)")?;
    for written in all {
        let at = written.parse::<Timestamp>().unwrap_or_default();
        note.execute((&written, moment(at)))?;
    }
    Ok(())
}
