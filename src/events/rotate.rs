//! Keeps the log directory small: older logs are compressed, the oldest are removed (facts/ssh.md S67).
//!
//! The log of a running session is locked by its process; a locked file is left alone.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use pc_switcher_contract::{SessionId, UtcStamp};

/// How many logs are kept, the newest first.
pub const KEEP_FILES: usize = 50;
/// How many bytes of logs are kept, the newest first; the newest log stays however large it is.
pub const KEEP_BYTES: u64 = 100 * 1024 * 1024;

const LEVEL: i32 = 6;

/// Returns when and by which session a log was written, if this is a log's name.
pub fn is_log_name(name: &str) -> Option<(UtcStamp, SessionId)> {
    let stem = name.strip_suffix(".zst").unwrap_or(name).strip_suffix(".jsonl")?;
    let (stamp, session) = stem.split_once('-')?;
    Some((stamp.parse().ok()?, session.parse().ok()?))
}

/// Compresses all logs but `current` and removes the oldest beyond the limits; stops early when told to.
pub(super) fn rotate(dir: &Path, current: &Path, stop: &AtomicBool) -> io::Result<()> {
    let mut failed = Ok(());
    for path in logs(dir)? {
        if stop.load(Ordering::Relaxed) {
            return failed;
        }
        if path != current && path.extension().is_some_and(|e| e == "jsonl") {
            failed = compress(&path, stop).and(failed);
        }
    }
    for path in surplus(&sizes(dir, current)?, KEEP_FILES, KEEP_BYTES) {
        fs::remove_file(path)?;
    }
    failed
}

fn logs(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if is_log_name(&name).is_some() {
            found.push(path);
        } else if name.strip_suffix(".tmp").and_then(is_log_name).is_some() {
            fs::remove_file(&path)?;
        }
    }
    // Names begin with the time: their order is the order of the sessions.
    found.sort();
    Ok(found)
}

/// Sizes of all logs but `current`, newest first.
fn sizes(dir: &Path, current: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut sizes = Vec::new();
    for path in logs(dir)?.into_iter().rev().filter(|path| path != current) {
        if !is_locked(&File::open(&path)?) {
            sizes.push((path.clone(), fs::metadata(&path)?.len()));
        }
    }
    Ok(sizes)
}

/// Picks what is beyond the limits; one place is taken by the log that is being written.
fn surplus(newest_first: &[(PathBuf, u64)], files: usize, bytes: u64) -> Vec<&PathBuf> {
    let mut sum = 0_u64;
    let mut over = Vec::new();
    for (index, (path, size)) in newest_first.iter().enumerate() {
        sum = sum.saturating_add(*size);
        if index + 1 >= files || (index > 0 && sum > bytes) {
            over.push(path);
        }
    }
    over
}

fn is_locked(file: &File) -> bool {
    matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock))
}

/// Writes `x.jsonl.zst` beside `x.jsonl` and removes the latter; each of the two is whole at every moment.
fn compress(path: &Path, stop: &AtomicBool) -> io::Result<()> {
    let input = File::open(path)?;
    if is_locked(&input) {
        return Ok(());
    }
    let done = path.with_extension("jsonl.zst");
    let tmp = path.with_extension("jsonl.zst.tmp");
    let output = super::log_file::create_private(&tmp)?;
    let result = (|| {
        let mut encoder = zstd::Encoder::new(&output, LEVEL)?;
        io::copy(&mut Stoppable { input, stop }, &mut encoder)?;
        encoder.finish()?;
        output.sync_all()?;
        fs::rename(&tmp, &done)
    })();
    match result {
        Ok(()) => fs::remove_file(path),
        Err(error) => {
            // The next rotation removes what cannot be removed now.
            fs::remove_file(&tmp).ok();
            if stop.load(Ordering::Relaxed) { Ok(()) } else { Err(error) }
        }
    }
}

struct Stoppable<'a> {
    input: File,
    stop: &'a AtomicBool,
}

impl io::Read for Stoppable<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("stopped on request"));
        }
        self.input.read(buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn older_logs_are_compressed_and_read_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("20251115T120000Z-abc12345.jsonl");
        let current = dir.path().join("20251116T120000Z-abc12346.jsonl");
        fs::write(&old, "{}\n".repeat(1000)).unwrap();
        fs::write(&current, "now").unwrap();
        fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        fs::write(dir.path().join("20251114T120000Z-abc12344.jsonl.zst.tmp"), "cut off").unwrap();
        rotate(dir.path(), &current, &AtomicBool::new(false)).unwrap();
        assert_eq!(
            names(dir.path()),
            ["20251115T120000Z-abc12345.jsonl.zst", "20251116T120000Z-abc12346.jsonl", "notes.txt"]
        );
        let mut text = String::new();
        zstd::Decoder::new(File::open(old.with_extension("jsonl.zst")).unwrap())
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "{}\n".repeat(1000));
    }

    #[test]
    fn the_log_of_a_running_session_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("20251115T120000Z-abc12345.jsonl");
        let held = File::create(&other).unwrap();
        held.lock().unwrap();
        rotate(dir.path(), &dir.path().join("x"), &AtomicBool::new(false)).unwrap();
        assert_eq!(names(dir.path()), ["20251115T120000Z-abc12345.jsonl"]);
    }

    #[test]
    fn fifty_logs_are_kept_the_current_one_included() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..60 {
            fs::write(dir.path().join(format!("20251115T1200{n:02}Z-abc12345.jsonl.zst")), "x").unwrap();
        }
        let current = dir.path().join("20251116T120000Z-abc12345.jsonl");
        fs::write(&current, "").unwrap();
        rotate(dir.path(), &current, &AtomicBool::new(false)).unwrap();
        let kept = names(dir.path());
        assert_eq!(kept.len(), KEEP_FILES);
        assert_eq!(kept[0], "20251115T120011Z-abc12345.jsonl.zst");
    }

    #[test]
    fn too_many_bytes_push_out_the_oldest_but_never_the_newest() {
        let sizes: Vec<_> = [("c", 200), ("b", 10), ("a", 1)].map(|(n, s)| (PathBuf::from(n), s)).into();
        assert_eq!(surplus(&sizes, 50, 100), [&PathBuf::from("b"), &PathBuf::from("a")]);
        assert_eq!(surplus(&sizes, 50, 210), [&PathBuf::from("a")]);
    }
}
