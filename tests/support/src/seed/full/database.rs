//! SQLite databases, and rows that are written anew in them.
//!
//! Invariant: the same calls make the same bytes.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use rusqlite::{Connection, params};

use super::{super::random::Random, BLOCK, Changed};

/// Bytes of a row's text; with the rest of a row and of its page about eight rows share a page.
const TEXT: usize = 480;
const ROWS_PER_PAGE: u64 = 8;

/// Creates a database of about so many bytes and returns what it holds.
pub(super) fn create(bytes: u64, seed: u64) -> io::Result<Vec<u8>> {
    let mut random = Random::new(seed);
    aside(&[], |base| {
        base.execute_batch("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")?;
        let work = base.transaction()?;
        let mut insert = work.prepare("INSERT INTO notes VALUES (?1, ?2)")?;
        for id in 0..rows(bytes) {
            insert.execute(params![id.cast_signed(), text(&mut random)])?;
        }
        drop(insert);
        work.commit()
    })
}

/// Writes so many rows anew in one transaction; of the file the blocks that SQLite changed are written, as it would.
pub(super) fn change(path: &Path, count: u64, random: &mut Random, changed: &mut Changed) -> io::Result<()> {
    let before = fs::read(path)?;
    let rows = rows(before.len() as u64).max(1);
    let after = aside(&before, |base| {
        let work = base.transaction()?;
        for _ in 0..count {
            let id = random.below(rows).cast_signed();
            work.execute("UPDATE notes SET text = ?2 WHERE id = ?1", params![id, text(random)])?;
        }
        work.commit()
    })?;
    let file = File::options().write(true).open(path)?;
    for (n, block) in after.chunks(BLOCK as usize).enumerate() {
        let at = n * BLOCK as usize;
        if before.get(at..at + block.len()) != Some(block) {
            file.write_all_at(block, at as u64)?;
            changed.write(at as u64, block.len() as u64, after.len() as u64);
        }
    }
    changed.edited += 1;
    Ok(())
}

/// Works on a database beside the home: SQLite asks for real paths, and those of a machine, seen from the host, are none.
fn aside(
    content: &[u8],
    mut work: impl FnMut(&mut Connection) -> rusqlite::Result<()>,
) -> io::Result<Vec<u8>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("base.db");
    fs::write(&path, content)?;
    open(&path).and_then(|mut base| work(&mut base)).map_err(io::Error::other)?;
    fs::read(&path)
}

fn rows(bytes: u64) -> u64 {
    bytes / BLOCK * ROWS_PER_PAGE
}

fn text(random: &mut Random) -> String {
    let mut text = String::from_utf8_lossy(&random.prose(TEXT)).into_owned();
    text.truncate(TEXT);
    text
}

/// Leaves it to the file system when something reaches the disk.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let base = Connection::open(path)?;
    base.execute_batch("PRAGMA page_size = 4096; PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY")?;
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_the_same_each_time_and_changes_in_some_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = dir.path().join(name);
            fs::write(&path, create(1 << 20, 7).unwrap()).unwrap();
            let mut changed = Changed::default();
            change(&path, 10, &mut Random::new(3), &mut changed).unwrap();
            (fs::read(&path).unwrap(), changed)
        };
        let (one, changed) = make("one");
        assert_eq!((one.clone(), changed), make("two"));
        assert!((800 << 10..1300 << 10).contains(&one.len()), "{} bytes", one.len());
        // Ten pages at most, and the head, which counts the changes.
        assert!((2..=11).contains(&(changed.block_bytes / BLOCK)), "{changed:?}");
    }
}
