//! Puts a catalogue in the place of the one that is there, which stays beside it under another name.
//!
//! Whenever a swap is killed, the old one or the new one is in the place, whole. Only of an old one that cannot be opened, or of which nothing but
//! a log is left, the parts may have their other names by then. A log must never lie beside a file that it does not belong to, since SQLite plays
//! it back into that: so the old one is brought into one file before, while nobody else has it open, and what cannot be opened parts with its log
//! before the new one comes.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use pc_switcher_contract::ErrorKind;

use crate::catalogue::Catalogue;
use crate::error::{Result, at};

/// How the names of the files end that belong to a catalogue: what is not in it yet, what was in it before, and itself.
const ENDS: [&str; 3] = ["-wal", "-journal", ""];
/// What only says what is in a log.
const INDEX: &str = "-shm";
/// What the names of directories begin with in which a catalogue is built.
const SCRATCH: &str = ".pc-switcher-recover-";

/// Says whether a step may be taken; tests say no, or look what is there before it.
type Step<'s> = &'s mut dyn FnMut(&'static str) -> io::Result<()>;

/// Returns the name of one of the files of a catalogue.
pub(super) fn with(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Makes a directory beside a catalogue, from where another one can take its place, and removes those that killed runs left. Whoever calls
/// it has locked everybody else out.
///
/// # Errors
/// If it cannot be made.
pub(super) fn scratch_beside(place: &Path) -> Result<tempfile::TempDir> {
    let directory = holder(place);
    let failed = |error: io::Error| at("make a directory in", directory, &error);
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700)
        .create(directory)
        .map_err(failed)?;
    for entry in directory.read_dir().map_err(failed)?.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(SCRATCH))
            && entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_ours {
            // One that stays takes room and nothing else.
            fs::remove_dir_all(entry.path()).ok();
        }
    }
    tempfile::Builder::new().prefix(SCRATCH).tempdir_in(directory).map_err(failed)
}

fn holder(place: &Path) -> &Path {
    place.parent().unwrap_or(Path::new("/"))
}

/// Returns the newest catalogue that was put aside beside a place, and when.
pub(super) fn newest_aside(place: &Path) -> Option<(PathBuf, Timestamp)> {
    let own = format!("{}.", place.file_name()?.to_str()?);
    let aside = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let name = entry.file_name().into_string().ok()?;
        let (when, number) = match name.strip_prefix(&own)?.split_once('.') {
            Some((when, number)) => (when.to_owned(), number.parse::<u32>().ok()?),
            None => (name.strip_prefix(&own)?.to_owned(), 1),
        };
        let at = jiff::fmt::strtime::parse(TIME, &when).ok()?.to_datetime().ok()?;
        let at = at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
        Some(((at, number), entry.path()))
    };
    let ((at, _), path) = holder(place).read_dir().ok()?.filter_map(aside).max()?;
    Some((path, at))
}

/// How the time is written at the end of a name.
const TIME: &str = "%Y%m%dT%H%M%SZ";

/// Returns a name that nothing has.
fn free_name(place: &Path, now: Timestamp) -> PathBuf {
    let first = with(place, &now.strftime(&format!(".{TIME}")).to_string());
    let is_free = |name: &PathBuf| {
        ENDS.iter().chain([&INDEX]).all(|end| fs::symlink_metadata(with(name, end)).is_err())
    };
    let others = (2..u32::MAX).map(|number| with(&first, &format!(".{number}")));
    std::iter::once(first.clone()).chain(others).find(is_free).unwrap_or(first)
}

/// Puts a catalogue in its place that nobody has open; returns where the one is now that was there, of which `previous` is what has it open.
///
/// # Errors
/// If others have that open (`Busy`), or something cannot be written; then what was there is in its place.
pub(super) fn swap(
    fresh: &Path,
    place: &Path,
    previous: Option<Catalogue>,
    now: Timestamp,
) -> Result<Option<PathBuf>> {
    swap_by(fresh, place, previous, now, &mut |_| Ok(()))
}

fn swap_by(
    fresh: &Path,
    place: &Path,
    previous: Option<Catalogue>,
    now: Timestamp,
    step: Step<'_>,
) -> Result<Option<PathBuf>> {
    // It may come from a copy, and names all that somebody has.
    let settled = fs::set_permissions(fresh, Permissions::from_mode(0o600))
        .and_then(|()| File::open(fresh)?.sync_all());
    settled.map_err(|error| at("write", fresh, &error))?;
    let alone = previous.map(|previous| {
        previous.into_one_file()?;
        previous.keep_others_out().map(|()| previous)
    });
    let previous = match alone.transpose() {
        Ok(previous) => previous,
        // What is damaged goes as it lies there.
        Err(error) if error.kind == ErrorKind::Failed => None,
        Err(error) => return Err(error),
    };
    let aside = free_name(place, now);
    let mut swap =
        Swap { place, aside, previous, step, named: Vec::new(), taken: Vec::new(), is_in_place: false };
    match swap.run(fresh) {
        Ok(()) => Ok((!swap.named.is_empty()).then_some(swap.aside)),
        Err(error) if swap.undo().is_ok() => Err(error),
        Err(error) => {
            let aside = swap.aside.display().to_string();
            Err(error.hint(format!("what was there is `{aside}` (and `{aside}-wal`, if that is there) now")))
        }
    }
}

struct Swap<'s> {
    place: &'s Path,
    aside: PathBuf,
    /// What has the old one open, and keeps others out of it.
    previous: Option<Catalogue>,
    step: Step<'s>,
    /// What has its other name.
    named: Vec<&'static str>,
    /// What has lost its own one.
    taken: Vec<&'static str>,
    is_in_place: bool,
}

impl Swap<'_> {
    fn run(&mut self, fresh: &Path) -> Result<()> {
        let place = self.place;
        // The file comes last: where it has the other name, all has.
        for end in ENDS {
            if fs::symlink_metadata(with(place, end)).is_ok() {
                self.name(end)?;
            }
        }
        self.settle()?;
        for end in [INDEX, "-wal", "-journal"] {
            // Whoever reads an old one that is damaged may have made it just now.
            if end != INDEX && !self.named.contains(&end) && fs::symlink_metadata(with(place, end)).is_ok() {
                self.name(end)?;
            }
            self.may("remove", &with(place, end))?;
            match fs::remove_file(with(place, end)) {
                Ok(()) if end == INDEX => {}
                Ok(()) => self.taken.push(end),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at("remove", &with(place, end), &error)),
            }
        }
        self.may("rename", fresh)?;
        fs::rename(fresh, place).map_err(|error| at("put in its place", fresh, &error))?;
        self.is_in_place = true;
        self.settle()
    }

    fn may(&mut self, what: &'static str, path: &Path) -> Result<()> {
        (self.step)(what).map_err(|error| at(what, path, &error))
    }

    /// Gives one of the old files its other name beside its own one: not every file system has two names of one file.
    fn name(&mut self, end: &'static str) -> Result<()> {
        let (from, to) = (with(self.place, end), with(&self.aside, end));
        let linked = (self.step)("link").and_then(|()| fs::hard_link(&from, &to));
        if linked.is_ok() {
            self.named.push(end);
            return Ok(());
        }
        self.may("copy", &from)?;
        // From here on, what is there of it is ours.
        self.named.push(end);
        match self.previous.as_ref().filter(|_| end.is_empty()) {
            Some(previous) => previous.copy_to(&to),
            None => fs::copy(&from, &to)
                .and_then(|_| File::open(&to)?.sync_all())
                .map_err(|error| at("copy", &from, &error)),
        }
    }

    /// Has the names survive a power cut.
    fn settle(&mut self) -> Result<()> {
        let directory = holder(self.place);
        self.may("write", directory)?;
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| at("write", directory, &error))
    }

    /// Has everything be as it was. What cannot be is told, and stays under its other name.
    fn undo(&mut self) -> io::Result<()> {
        if self.is_in_place {
            match self.named.contains(&"") {
                true => fs::rename(&self.aside, self.place)?,
                false => fs::remove_file(self.place)?,
            }
        }
        for end in &self.taken {
            fs::rename(with(&self.aside, end), with(self.place, end))?;
        }
        for end in &self.named {
            match fs::remove_file(with(&self.aside, end)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        File::open(holder(self.place))?.sync_all()
    }
}

#[cfg(test)]
#[path = "swap_tests.rs"]
mod tests;
