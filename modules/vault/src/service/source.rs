//! What a backup looks at: all of a tracked directory, or what the file system names as changed since a snapshot of which the
//! catalogue knows everything.
//!
//! Such a base is recorded when a backup came to its end: whatever the catalogue says of a path is then what the snapshot holds, or
//! the path was changed since, or it is among those that are looked at again. A path that nobody names is therefore as the catalogue
//! says, unless another backup stored it meanwhile; then it is looked at, too. Where anything of it is not certain, all is looked at; and so it is once a week, to prove
//! that nothing was missed.
//!
//! While a backup goes on already, the snapshot that it reads can be the base, with all that it looks at noted as to be looked at again: then the one
//! before it may go, which takes the file system a while, and if the backup ends early nothing is forgotten.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use pc_switcher_contract::{BytePath, SetId, SnapshotSet};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ignored::FILE;
use super::{Service, TrackedReport};
use crate::catalogue::Directory;
use crate::engine::Trouble;
use crate::error::Result;
use crate::format::Id;

/// How the rules of ignoring are read; another number makes all old bases worth nothing.
const RULES: u32 = 2;
/// More paths to be looked at again are as good as all of them.
const MOST_AGAIN: usize = 1000;
/// Of more paths than these no base is moved.
const MOST_MOVED: usize = 5000;
/// After this time all is looked at, to prove that nothing was missed.
const PROVED: SignedDuration = SignedDuration::from_hours(7 * 24);
/// What trees do not tell of: staging of syncs.
const STAGING: &str = ".pc-switcher";

/// Where a tracked directory is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The snapshots.
    pub set: SnapshotSet,
    /// The directory and the subvolumes in it, as they are now on the machine, each with its place in the snapshots.
    pub parts: Vec<(BytePath, BytePath)>,
}

/// A directory in which something may differ from what a base has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Where it is now on the machine.
    pub path: PathBuf,
    /// Whether anything below it may differ.
    pub whole: bool,
    /// The names in it that may differ.
    pub names: Vec<OsString>,
    /// Those of files whose content was written while size and times stayed as they were.
    pub silent: Vec<OsString>,
}

/// From what a tracked directory is backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The directory.
    pub directory: PathBuf,
    /// Where it is read.
    pub place: Place,
    /// What changed since the base of this set, if somebody knows.
    pub told: Option<(SetId, Vec<Told>)>,
}

/// What the catalogue keeps of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Recorded {
    place: Place,
    rules: String,
    /// What could not be stored.
    again: Vec<BytePath>,
    /// What is looked at by the backup in which this became the base before that came to its end.
    #[serde(default)]
    moved: Looks,
    /// When all was looked at.
    walked: i64,
    /// When this was recorded, and the number of the last command then.
    at: i64,
    operation: i64,
}

/// Paths that are looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub(super) struct Looks {
    /// Each with whether all below it is, too.
    paths: BTreeMap<PathBuf, bool>,
    silent: HashSet<PathBuf>,
    /// When all was looked at last, in seconds.
    walked: i64,
}

/// As they are written, for names are bytes.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Written {
    paths: Vec<(BytePath, bool)>,
    silent: Vec<BytePath>,
}

impl From<Looks> for Written {
    fn from(looks: Looks) -> Self {
        let paths = looks.paths.iter().map(|(path, deep)| (BytePath::from(path.as_path()), *deep));
        let silent = looks.silent.iter().map(|path| BytePath::from(path.as_path()));
        Self { paths: paths.collect(), silent: silent.collect() }
    }
}

impl From<Written> for Looks {
    fn from(written: Written) -> Self {
        let paths = written.paths.iter().map(|(path, deep)| (path.as_path().to_owned(), *deep));
        let silent = written.silent.iter().map(|path| path.as_path().to_owned());
        Self { paths: paths.collect(), silent: silent.collect(), walked: 0 }
    }
}

impl Looks {
    fn tell(&mut self, told: &[Told]) {
        for Told { path, whole, names, silent } in told {
            // What it says of what is left out holds for all below it.
            let is_whole = *whole || names.iter().any(|name| name == FILE);
            self.add(path.clone(), is_whole);
            names.iter().for_each(|name| self.add(path.join(name), false));
            self.silent.extend(silent.iter().map(|name| path.join(name)));
            silent.iter().for_each(|name| self.add(path.join(name), false));
        }
    }

    fn add(&mut self, path: PathBuf, deep: bool) {
        *self.paths.entry(path).or_default() |= deep;
    }

    /// Returns the paths, those above before those below, without what lies below one of which all is looked at.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Path, bool)> {
        let mut deep: Option<&Path> = None;
        self.paths.iter().filter_map(move |(path, is_deep)| {
            if deep.is_some_and(|deep| path.starts_with(deep)) {
                return None;
            }
            deep = is_deep.then_some(path.as_path()).or(deep);
            Some((path.as_path(), *is_deep))
        })
    }

    /// Whether a path is among them.
    pub(super) fn cover(&self, path: &Path) -> bool {
        self.paths.contains_key(path) || path.ancestors().any(|above| self.paths.get(above) == Some(&true))
    }

    /// Whether a file is to be read though it looks as it did.
    pub(super) fn is_silent(&self, path: &Path) -> bool {
        self.silent.contains(path)
    }
}

/// How a tracked directory is looked at.
#[derive(Debug, Default)]
pub(super) enum Looking {
    /// All of it.
    #[default]
    AtAll,
    /// These paths alone.
    At(Looks),
    /// All of it, and what is found elsewhere was missed.
    ToProve(Looks),
}

impl Service {
    /// Returns the bases that are recorded of these directories, for whoever can ask what changed since.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn bases(&self, directories: &[PathBuf]) -> Result<Vec<(PathBuf, Place)>> {
        let mut all = Vec::new();
        for directory in self.catalogue.directories()? {
            if directories.contains(&directory.path)
                && let Some(recorded) = self.recorded(&directory)?
            {
                all.push((directory.path, recorded.place));
            }
        }
        Ok(all)
    }

    /// Has tracked directories looked at where something changed alone, as far as that is known, and these places recorded as bases.
    pub fn look_where(&mut self, sources: Vec<Reading>) {
        self.sources = sources;
    }

    /// Makes what is read now the base of each tracked directory of which it is known where to look, with all that is looked at noted, so
    /// that the base before it is needed no more while the backup goes on. Returns the bases of all tracked directories.
    ///
    /// # Errors
    /// If another command works, or the catalogue fails.
    pub fn move_bases(&mut self) -> Result<Vec<SetId>> {
        let _lock = self.lock()?;
        let mut bases = Vec::new();
        for directory in self.catalogue.directories()? {
            let Some(mut recorded) = self.recorded(&directory)? else { continue };
            if let (Some(looks), Some(source)) = (self.looks(&directory)?, self.source(&directory)) {
                recorded.place = source.place.clone();
                recorded.moved = looks;
                let text = serde_json::to_string(&recorded);
                self.catalogue.set_base(&directory, text.ok().as_deref())?;
            }
            bases.push(recorded.place.set.id());
        }
        Ok(bases)
    }

    /// Returns where to look in a directory that is there, if that is known and not too much to be noted.
    fn looks(&self, directory: &Directory) -> Result<Option<Looks>> {
        if !self.view.real(&directory.path).is_dir() {
            return Ok(None);
        }
        Ok(match self.looking(directory)? {
            Looking::At(looks) | Looking::ToProve(looks) => Some(looks),
            Looking::AtAll => None,
        }
        .filter(|looks| looks.paths.len() <= MOST_MOVED))
    }

    /// What cannot be read was recorded by another version, and is worth nothing.
    fn recorded(&self, directory: &Directory) -> Result<Option<Recorded>> {
        Ok(self.catalogue.base(directory)?.and_then(|text| serde_json::from_str(&text).ok()))
    }

    fn source(&self, directory: &Directory) -> Option<&Reading> {
        self.sources.iter().find(|source| source.directory == directory.path)
    }

    /// Decides how a directory is looked at.
    pub(super) fn looking(&self, directory: &Directory) -> Result<Looking> {
        let Some(Reading { told: Some((since, told)), place, .. }) = self.source(directory) else {
            return Ok(Looking::AtAll);
        };
        let Some(recorded) = self.recorded(directory)? else { return Ok(Looking::AtAll) };
        let base = recorded.place.set.id();
        // What changed is told of the base before it moved, and is in what it took along.
        let is_moved = base == place.set.id();
        let is_sure = (is_moved || base == *since)
            && recorded.rules == self.digest_of_rules()
            && self.gone.is_empty()
            && self.catalogue.mounts(directory)?.is_empty()
            && !place.parts.iter().any(|(part, _)| self.has_staging(part.as_path()));
        if !is_sure {
            return Ok(Looking::AtAll);
        }
        for (part, _) in &place.parts {
            let name = part.as_path().join(STAGING);
            let name = name.strip_prefix(&directory.path).unwrap_or(&name).to_owned();
            if self.catalogue.current_file(directory, &name)?.is_some_and(|file| !file.deleted) {
                return Ok(Looking::AtAll);
            }
        }
        // A vault that came later or lost something is filled by looking at all.
        for vault in self.vaults_to_fill() {
            if self.catalogue.count_lacking(&vault)? > 0 {
                return Ok(Looking::AtAll);
            }
        }
        let mut looks = Looks { walked: recorded.walked, ..recorded.moved };
        if !is_moved {
            looks.tell(told);
        }
        for path in recorded.again.iter().map(|path| path.as_path().to_owned()) {
            // Whatever could not be read may have been named for its content alone.
            looks.silent.insert(path.clone());
            looks.add(path, true);
        }
        for name in self.catalogue.staged_names(directory)? {
            looks.add(directory.path.join(name), true);
        }
        // What another backup found after the base may be gone again, which two states of a tree do not tell.
        if self.catalogue.has_stored_since(recorded.operation)? {
            let at = Timestamp::from_second(recorded.at).unwrap_or_default();
            for name in self.catalogue.stored_since(directory, at)? {
                looks.add(directory.path.join(name), false);
            }
        }
        let walked = Timestamp::from_second(recorded.walked).unwrap_or_default();
        let since = (self.around.clock)().duration_since(walked);
        Ok(match since >= SignedDuration::ZERO && since < PROVED {
            true => Looking::At(looks),
            false => Looking::ToProve(looks),
        })
    }

    /// Returns the files of a directory that are to be read though they look as they did, however it is looked at.
    pub(super) fn told_silent(&self, directory: &Directory) -> HashSet<PathBuf> {
        let told = self.source(directory).and_then(|source| source.told.as_ref());
        let told = told.into_iter().flat_map(|(_, told)| told);
        told.flat_map(|told| told.silent.iter().map(|name| told.path.join(name))).collect()
    }

    fn has_staging(&self, part: &Path) -> bool {
        std::fs::symlink_metadata(self.view.real(&part.join(STAGING))).is_ok()
    }

    fn digest_of_rules(&self) -> String {
        let mut hash = Sha256::new().chain_update(RULES.to_le_bytes());
        for pattern in &self.settings.vault.ignore {
            hash.update(pattern.as_bytes());
            hash.update([0]);
        }
        for path in self.never() {
            hash.update([1]);
            hash.update(path.as_os_str().as_encoded_bytes());
        }
        Id(hash.finalize().into()).hex()
    }

    /// Records where directories were read as what the next backup compares with.
    pub(super) fn record_bases(
        &mut self,
        directories: &[(Directory, Looking)],
        report: &TrackedReport,
    ) -> Result<()> {
        let TrackedReport { added, proof, backup, .. } = report;
        let all = [&added.troubles, &proof.troubles, &backup.troubles];
        let troubles: Vec<&Trouble> = all.into_iter().flatten().collect();
        let now = (self.around.clock)().as_second();
        for (directory, looking) in directories {
            let Some(place) = self.source(directory).map(|source| source.place.clone()) else { continue };
            let again: Vec<BytePath> = troubles
                .iter()
                .filter(|trouble| trouble.path.starts_with(&directory.path))
                .map(|trouble| BytePath::from(trouble.path.as_path()))
                .collect();
            if again.len() > MOST_AGAIN {
                self.catalogue.set_base(directory, None)?;
                continue;
            }
            let walked = match looking {
                Looking::At(looks) => looks.walked,
                Looking::AtAll | Looking::ToProve(_) => now,
            };
            let rules = self.digest_of_rules();
            let operation = self.catalogue.last_operation()?;
            let moved = Looks::default();
            let recorded = Recorded { place, rules, again, moved, walked, at: now, operation };
            let text = serde_json::to_string(&recorded);
            self.catalogue.set_base(directory, text.ok().as_deref())?;
        }
        Ok(())
    }
}

/// Says of a path that was missed what became of it.
pub(super) fn missed(path: PathBuf, what: &str) -> Trouble {
    let why = format!(
        "{what}, and btrfs did not name it as changed; what it is now is backed up. This is a mistake of ours: please report it"
    );
    Trouble { path, why }
}
