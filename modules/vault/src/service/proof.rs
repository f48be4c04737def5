//! The proof: files that look as they did at their last backup are read again and compared, each within a span, some in each backup.
//!
//! Which are due needs no memory: each file has a moment of its own in the span, and is due in the run in which that moment falls.
//! What is remembered is when the last proof of a tracked directory began that came to its end: its line in the history.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use pc_switcher_contract::{ModuleError, human_bytes};

use super::Service;
use super::stage::{checksum, facts_of};
use crate::catalogue::{Catalogue, CurrentFile, Directory, moment_of};
use crate::engine::{Observer, Progress, Trouble};
use crate::error::Result;

const OPERATION: &str = "proof";
const DAY: i64 = 24 * 3600;
/// So small a part of the span counts in one run, at most.
const AT_ONCE: i64 = 10;

/// What was read again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proof {
    /// Files that are what was backed up.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are not, and wait for this backup.
    pub differing: u64,
    /// These, and files that cannot be read any more.
    pub troubles: Vec<Trouble>,
}

impl Proof {
    /// Adds what was read elsewhere.
    pub fn add(&mut self, other: Proof) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.differing += other.differing;
        self.troubles.extend(other.troubles);
    }

    fn tell(&self) -> (bool, String) {
        let (files, bytes, bad) = (self.files, human_bytes(self.bytes), self.troubles.len());
        // What waits may not be stored in the end: the next proof begins where this one did.
        (
            self.differing == 0,
            format!("{files} unchanged files read again, {bytes}, {bad} are not what was backed up"),
        )
    }
}

/// The time between two proofs, of which each file has a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn {
    last: i64,
    now: i64,
    span: i64,
}

impl Turn {
    /// After a long time not all is read at once, by somebody who waits for it: what was passed over waits for its next turn.
    fn of(last: i64, now: i64, span: i64) -> Self {
        Self { last: last.max(now - span / AT_ONCE), now, span }
    }

    /// Whether a file's moment has come since the last proof, or since it was read for its backup.
    fn is_due(self, file: &CurrentFile) -> bool {
        let made: Option<Timestamp> = file.version.created_at.parse().ok();
        let read = made.map_or(self.last, |made| made.as_second().clamp(self.last, self.now));
        Self { last: read, ..self }.has_passed(moment_of(file.file_id, self.span))
    }

    fn has_passed(self, moment: i64) -> bool {
        (moment - self.last - 1).rem_euclid(self.span) < self.now - self.last
    }
}

impl Service {
    /// Reads files again that look unchanged and whose turn it is. What differs waits for this backup then, and is told.
    pub(super) fn prove_below(&mut self, directory: &Directory, observer: &dyn Observer) -> Result<Proof> {
        let Some(days) = self.settings.vault.proof.0 else { return Ok(Proof::default()) };
        let (text, now) = (directory.path.display().to_string(), (self.around.clock)());
        let last = self.catalogue.last_success(OPERATION, &text)?;
        let Some(last) = last.filter(|last| *last <= now) else {
            // From here on it is known what was read when.
            let begins = |_: &mut Self, _| Ok(());
            self.operation(OPERATION, &text, begins, |()| (true, "begins".into()))?;
            return Ok(Proof::default());
        };
        let turn = Turn::of(last.as_second(), now.as_second(), i64::from(days) * DAY);
        let due = self.due(directory, turn)?;
        if due.is_empty() {
            return Ok(Proof::default());
        }
        let work = |service: &mut Self, _| service.prove(directory, &due, observer);
        self.operation(OPERATION, &text, work, Proof::tell)
    }

    fn due(&self, directory: &Directory, turn: Turn) -> Result<Vec<CurrentFile>> {
        let staged = self.catalogue.staged_places(directory, Path::new(""))?;
        let mut due = self.catalogue.files_in_turn(directory, turn.last, turn.now, turn.span)?;
        // Some were read for a backup meanwhile.
        due.retain(|file| turn.is_due(file) && !staged.contains(&Catalogue::place(&file.name)));
        Ok(due)
    }

    fn prove(
        &mut self,
        directory: &Directory,
        due: &[CurrentFile],
        observer: &dyn Observer,
    ) -> Result<Proof> {
        let total_bytes = due.iter().map(|file| file.version.facts.size).sum();
        let (mut proof, mut read) = (Proof::default(), 0);
        for file in due {
            let path = directory.path.join(&file.name);
            let real = self.view.real(&path).into_owned();
            let seen = fs::symlink_metadata(&real).and_then(|listed| Ok((facts_of(&real, &listed)?, listed)));
            // What is gone or changed meanwhile is nothing for a proof.
            let Ok((facts, listed)) = seen else { continue };
            if !file.version.facts.same_version(&facts) {
                continue;
            }
            let sum = checksum(&real, &listed, observer);
            if observer.is_cancelled() {
                return Err(ModuleError::cancelled());
            }
            match sum {
                Ok(Some(sum)) if sum == file.version.content_id => {
                    proof.files += 1;
                    proof.bytes += facts.size;
                }
                Ok(Some(_)) => {
                    self.catalogue.stage_for_backup(directory, &file.name, &facts, None)?;
                    let why = "is not what was backed up, though neither its size nor its times changed; it becomes a new \
                               version. If nobody wrote to it, the disk is failing: `bt log` names the version before";
                    proof.differing += 1;
                    proof.troubles.push(Trouble { path: path.clone(), why: why.into() });
                }
                // It is being written: the next backup finds it.
                Ok(None) => {}
                Err(error) => {
                    let why = format!("could be read when it was backed up, and cannot be now: {error}");
                    proof.troubles.push(Trouble { path: path.clone(), why });
                }
            }
            read += facts.size;
            observer.progress(Progress { files: proof.files, bytes: read, total_bytes, item: path });
        }
        Ok(proof)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

    use super::super::TrackedReport;
    use super::super::world::{DEAD, World};
    use super::*;
    use crate::engine::Quiet;

    fn backed_up(world: &World) -> TrackedReport {
        let mut service = world.service(world.state.path(), world.store.clone(), DEAD);
        service.back_up_tracked(&[], None, &mut |_| Ok(b"x".into()), &Quiet::default()).unwrap()
    }

    /// Lets the catalogue take the file for unchanged, as a clock, a mapping or a disk may.
    fn disguise(world: &World, name: &str) {
        let path = world.home.path().join("docs").join(name);
        let before = fs::metadata(&path).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[17] ^= 1;
        fs::write(&path, bytes).unwrap();
        let time = Timespec { tv_sec: before.mtime(), tv_nsec: before.mtime_nsec() };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
        // Nobody can set the time of the last change back: the catalogue is told the one of now.
        let now = fs::metadata(&path).unwrap();
        let changed = now.ctime() * 1_000_000_000 + now.ctime_nsec();
        let db = rusqlite::Connection::open(world.state.path().join("vault/catalogue.db")).unwrap();
        let sql = "UPDATE file_snapshots SET changed_at = ?1 WHERE inode = ?2";
        assert_eq!(db.execute(sql, [changed, now.ino() as i64]).unwrap(), 1);
    }

    #[test]
    fn each_moment_of_the_span_is_passed_once_however_runs_are_apart() {
        let span = 1_000;
        for moment in [0, 1, 499, 999] {
            let mut passed = 0;
            let mut last = 12_345;
            for step in [1, 7, 250, 1, 400, 341].repeat(3) {
                let turn = Turn { last, now: last + step, span };
                passed += i32::from(turn.has_passed(moment));
                last += step;
            }
            assert_eq!(passed, 3, "{moment}: three spans went by");
        }
        let late = Turn { last: 5, now: 5 + 2 * span, span };
        assert!((0..span).all(|moment| late.has_passed(moment)));
        let at_once = Turn { last: 5, now: 5, span };
        assert!((0..span).all(|moment| !at_once.has_passed(moment)));
    }

    #[test]
    fn what_changed_and_looks_unchanged_is_found_within_the_span_stored_and_told() {
        let mut world = World::new();
        world.put(0..12, 1);
        assert_eq!(backed_up(&world).proof, Proof::default());
        disguise(&world, "3");
        let (mut read, mut again) = (0, 0);
        let mut found = Vec::new();
        // As many as the span has, so that the moment of each comes once.
        for _ in 0..18 {
            world.hour += 5 * 24;
            let report = backed_up(&world);
            assert!(report.proof.files <= 6, "not all at once: {:?}", report.proof);
            read += report.proof.files;
            assert_eq!(report.backup.versions, report.proof.troubles.len() as u64);
            // What was read in the run of the find is read once more in the next one.
            again += if report.proof.differing > 0 { report.proof.files } else { 0 };
            found.extend(report.proof.troubles);
        }
        let all = 11..=11 + again;
        assert!(
            all.contains(&read),
            "each was read once, and the one that is found is no proof: {read}, {again}"
        );
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].path.ends_with("docs/3") && found[0].why.contains("the disk is failing"));
        let service = world.service(world.state.path(), world.store.clone(), DEAD);
        let log = service.history_of(&found[0].path).unwrap();
        assert_eq!(log.versions.len(), 2, "what was backed up before is there, too");
        let told = service.operations(500).unwrap();
        assert!(told.iter().any(|one| one.operation == "proof" && one.details.contains("1 are not what")));
    }

    #[test]
    fn after_a_long_time_a_part_is_read_and_never_if_nobody_wants_it() {
        let mut world = World::new();
        world.put(0..100, 1);
        backed_up(&world);
        world.hour += 24 * 200;
        let read = backed_up(&world).proof.files;
        assert!((1..30).contains(&read), "{read}");
        let settings = world.home.path().join("bt.toml");
        let text = fs::read_to_string(&settings).unwrap();
        fs::write(&settings, text.replacen("ignore = []", "ignore = []\nproof = \"\"", 1)).unwrap();
        world.hour += 24 * 200;
        assert_eq!(backed_up(&world).proof, Proof::default());
    }

    #[test]
    fn a_proof_that_was_stopped_is_made_up_for() {
        let mut world = World::new();
        world.put(0..100, 1);
        backed_up(&world);
        world.hour += 24 * 200;
        let mut service = world.service(world.state.path(), world.store.clone(), DEAD);
        let directory = service.catalogue.directories().unwrap().remove(0);
        let stopped = Quiet(true.into());
        assert!(service.prove_below(&directory, &stopped).is_err());
        drop(service);
        assert!(backed_up(&world).proof.files > 0);
    }
}
