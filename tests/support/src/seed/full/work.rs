//! A day's work in a home.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt, lchown},
    path::{Path, PathBuf},
};

use super::{
    super::random::Random,
    Changed, FullHome, OWNER, database,
    large::database_name,
    plan::{POOL, cut},
    sorts::SORTS,
};

/// Bytes that are appended or written over.
const EDIT: u64 = 200;
/// Rows of each database that are written anew, at most, and bytes of a database for each of them.
const ROWS: u64 = 200;
const BYTES_PER_ROW: u64 = 100_000;

impl FullHome {
    /// Does the work of the given day: of each 100 files one changes, none of a cache. Of those are 40 % appended to, 20 %
    /// rewritten in place, 20 % replaced by another file, 10 % new, 10 % deleted. In each database some rows change.
    pub fn work(&self, home: &Path, day: u64) -> io::Result<Changed> {
        let mut random = Random::new(self.seed ^ ((day + 1) << 32));
        let pool = self.pool();
        let mut changed = Changed::default();
        let mut met = HashSet::new();
        let wanted = self.files.div_ceil(100);
        // Files that earlier days deleted, caches, and files of two names are passed over.
        for _ in 0..wanted * 20 {
            if changed.edited + changed.created + changed.deleted >= wanted {
                break;
            }
            let Some(path) = self.draw(home, &mut random) else { continue };
            let Ok(seen) = fs::symlink_metadata(&path) else { continue };
            if seen.nlink() > 1 || seen.len() == 0 || !met.insert(path.clone()) {
                continue;
            }
            let beside = home.join(format!("{}.day-{day}", path.display()));
            let new = |random: &mut Random, length| cut(&pool, random.below(POOL / 4), length);
            match random.below(100) {
                0..40 => {
                    let bytes = new(&mut random, EDIT);
                    write_at(&path, seen.len(), bytes, seen.len() + EDIT, &mut changed)?;
                    changed.edited += 1;
                }
                40..60 => {
                    let length = EDIT.min(seen.len());
                    let at = random.below(seen.len() - length + 1);
                    write_at(&path, at, new(&mut random, length), seen.len(), &mut changed)?;
                    changed.edited += 1;
                }
                60..80 => {
                    create(&beside, new(&mut random, seen.len()), &mut changed)?;
                    fs::rename(&beside, &path)?;
                    changed.edited += 1;
                }
                80..90 => {
                    create(&beside, new(&mut random, seen.len()), &mut changed)?;
                    changed.created += 1;
                }
                _ => {
                    fs::remove_file(&path)?;
                    changed.deleted += 1;
                }
            }
        }
        if !self.is_tiny {
            let (count, bytes) = self.databases();
            for n in 0..count {
                let rows = (bytes / BYTES_PER_ROW).clamp(1, ROWS);
                database::change(&home.join(database_name(n)), rows, &mut random, &mut changed)?;
            }
        }
        Ok(changed)
    }

    /// Draws a file of the home as it was at first.
    fn draw(&self, home: &Path, random: &mut Random) -> Option<PathBuf> {
        let sort = random.below(100) as usize;
        let mut below = 0;
        let at = SORTS.iter().position(|it| {
            below += it.percent;
            sort < below
        })?;
        let count = self.count(at);
        let n = random.below(count.max(1) as u64) as usize;
        (count > 0 && !SORTS[at].is_cache).then(|| home.join(SORTS[at].name(n)))
    }
}

fn write_at(path: &Path, at: u64, bytes: &[u8], end: u64, changed: &mut Changed) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all_at(bytes, at)?;
    changed.write(at, bytes.len() as u64, end);
    Ok(())
}

fn create(path: &Path, bytes: &[u8], changed: &mut Changed) -> io::Result<()> {
    fs::write(path, bytes)?;
    lchown(path, Some(OWNER), Some(OWNER))?;
    let length = bytes.len() as u64;
    changed.write(0, length, length);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{ManifestOptions, TreeManifest};

    fn read(dir: &Path) -> TreeManifest {
        TreeManifest::read(dir, &ManifestOptions::default()).unwrap()
    }

    #[test]
    fn a_home_and_its_days_are_the_same_with_any_number_of_threads() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: files are given to another user, which takes root");
            return;
        }
        let [one, three] = [1, 3].map(|threads| {
            let dir = tempfile::tempdir().unwrap();
            let home = FullHome::new(5, 600);
            home.write(dir.path(), threads).unwrap();
            let before = read(dir.path());
            (before, [0, 1].map(|day| home.work(dir.path(), day).unwrap()), read(dir.path()))
        });
        // The top directory is the test's own.
        let differences: Vec<_> =
            one.0.diff(&three.0).into_iter().filter(|it| !it.path().is_empty()).collect();
        assert!(differences.is_empty(), "{differences:?}");
        assert_eq!(one.1, three.1);
        let contents = |tree: &TreeManifest| {
            tree.entries().map(|(path, entry)| (path.clone(), entry.kind.clone())).collect::<Vec<_>>()
        };
        assert_eq!(contents(&one.2), contents(&three.2));
        assert_ne!(contents(&one.0), contents(&one.2));
        for Changed { edited, created, deleted, written_bytes, block_bytes } in one.1 {
            // Six files, and the database.
            assert_eq!(edited + created + deleted, 7);
            assert!(written_bytes > 0 && block_bytes >= written_bytes);
        }
    }
}
