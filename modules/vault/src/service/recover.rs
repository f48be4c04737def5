//! Builds a lost or outdated catalogue anew: from its newest copy in the vaults, and from the snapshots that came after it.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use pc_switcher_contract::{ErrorKind, ModuleError};
use serde::Serialize;

use super::stage::Stage;
use super::swap::{newest_aside, scratch_beside, swap, with};
use super::vaults::{self, Passphrase};
use super::{Service, Settings, Surroundings, VaultSettings, copies, lock, machines, read_host, replay};
use crate::catalogue::{Catalogue, StagedItem, VaultState};
use crate::engine::{Observer, Progress, Trouble};
use crate::error::{Result, at, usage};
use crate::format::BlobKind;
use crate::format::index::IndexFile;
use crate::repo::{Broken, Held, Repository};
use crate::store::Kind;

/// What is to be recovered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoverOrder {
    /// Only from the vault of this name.
    pub only: Option<String>,
    /// The machine whose versions they are, by its id, the beginning of that, or its name; this one if none is named.
    pub from: Option<String>,
    /// Whether this machine is that one from now on.
    pub take_over: bool,
}

/// Where the versions came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Source {
    /// A copy of the catalogue, and snapshots that came after it.
    Copy {
        /// The vault that it lay in.
        vault: String,
        /// Its number.
        version: i64,
    },
    /// Snapshots alone.
    Snapshots,
}

/// What was recovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoverReport {
    /// The machine whose versions they are.
    pub host: String,
    /// From where.
    pub source: Source,
    /// The directories that it tracked.
    pub directories: Vec<PathBuf>,
    /// All versions that are known by now.
    pub versions: u64,
    /// Those of them that only snapshots knew.
    pub replayed: u64,
    /// Files that wait for the next backup.
    pub staged: u64,
    /// Where the catalogue is that was there before; one that held nothing is gone.
    pub put_aside: Option<PathBuf>,
    /// What could not be read.
    pub troubles: Vec<Trouble>,
    /// What else is worth knowing.
    pub warnings: Vec<String>,
}

/// A vault that is open.
struct Open {
    settings: VaultSettings,
    vault_id: String,
    repo: Repository,
    _lock: Option<Held>,
}

impl Service {
    /// Builds the catalogue anew and puts the one that is there aside.
    ///
    /// # Errors
    /// If there is nothing to build it from, or nothing to mend, or the run was cancelled; then nothing has changed.
    pub fn recover(
        around: &Surroundings,
        order: &RecoverOrder,
        passphrase: &mut Passphrase<'_>,
        observer: &dyn Observer,
    ) -> Result<RecoverReport> {
        let settings = Settings::read(&around.places.config, &around.above).map_err(|error| match around
            .places
            .config
            .exists()
        {
            true => error,
            false => ModuleError {
                hints: vec!["`bt config init --root PLACE` writes one that says where the vault lies".into()],
                ..error
            },
        })?;
        let places = &around.places.under(&settings.vault);
        let base = places.base();
        let own = read_host(&places.host())?;
        if order.take_over && order.from.is_none() {
            return Err(usage("--take-over needs --from HOST_ID"));
        }
        let stage = Stage::open(&places.stage())?;
        let _lock = lock(&base)?;
        let mut warnings = Vec::new();
        // Somebody may keep it elsewhere and have a link here.
        let place = places.catalogue();
        let place = place.canonicalize().unwrap_or(place);
        let scratch = scratch_beside(&place)?;
        let open = open_all(around, &settings, order, scratch.path(), passphrase, &mut warnings)?;
        let repos: Vec<&Repository> = open.iter().map(|vault| &vault.repo).collect();
        let host = match (&order.from, &own) {
            (Some(said), _) => machines::resolve(&repos, said)?,
            (None, Some(own)) => own.clone(),
            (None, None) => return Err(machines::nothing(&repos, None, true)),
        };
        let previous = previous(&place, &mut warnings)?;
        let is_blank = previous.as_ref().is_some_and(|known| is_blank(known).unwrap_or(false));
        let same_host = own.as_ref() == Some(&host);
        check_need(previous.as_ref(), &open, &host, same_host)?;

        let say = |text: String| observer.progress(Progress { item: text.into(), ..Progress::default() });
        say("reading the copy of the catalogue".into());
        let (source, mut fresh, path) = newest_copy(&open, &host, scratch.path(), &mut warnings)?;
        let names: Vec<(String, String)> =
            open.iter().map(|vault| (vault.settings.name.clone(), vault.vault_id.clone())).collect();
        fresh.call_vaults(&names)?;
        let before = fresh.count_versions()?;
        let tellers: Vec<replay::Teller<'_>> = open
            .iter()
            .map(|vault| replay::Teller { vault: &vault.settings.name, repo: &vault.repo })
            .collect();
        let replay::Told { troubles, skipped } = replay::snapshots(&mut fresh, &tellers, &host, observer)?;
        warnings.extend(say_skipped(&skipped));
        let versions = fresh.count_versions()?;
        if versions == 0 {
            return Err(machines::nothing(&repos, Some(&host), same_host));
        }
        let host_then =
            if order.take_over { host.clone() } else { own.clone().unwrap_or_else(super::new_host_id) };
        let mut last = 0;
        for vault in &open {
            say(format!("reading the index of `{}`", vault.settings.name));
            let (index, broken) = index_of(&vault.repo)?;
            vault.repo.know(index.iter().flat_map(|(_, file)| &file.packs));
            let is_there = |blob| {
                vault.repo.find(BlobKind::Data, &blob).is_some()
                    || vault.repo.lies_as_other(BlobKind::Data, &blob)
            };
            // What a damaged part names may be there, and where there is no index at all it says nothing.
            let gone = match broken.is_empty() && !index.is_empty() {
                true => fresh.forget_what_is_gone(&vault.settings.name, is_there)?,
                false => 0,
            };
            if gone > 0 {
                warnings.push(format!(
                    "the vault `{}` does not hold {gone} of the versions any more",
                    vault.settings.name
                ));
            }
            let uploaded = copies::versions(vault.repo.store(), &host_then)?.pop().unwrap_or(0);
            last = last.max(uploaded);
            let state = VaultState { vault_id: vault.vault_id.clone(), uploaded, pending: true };
            fresh.set_vault_state(&vault.settings.name, &state)?;
        }
        let aside = match same_host && !place.exists() {
            true => cut_off(&place, &fresh, scratch.path())?,
            false => None,
        };
        if let Err(error) =
            take_queue(&mut fresh, previous.as_ref().or(aside.as_ref()), &stage, &mut warnings)
        {
            // What cannot be read any more is what is being replaced.
            if previous.as_ref().is_none_or(|previous| previous.prove_sound().is_ok()) {
                return Err(error);
            }
            warnings.push(format!("what waited for the next backup is forgotten: {error}"));
        }
        let now = (around.clock)();
        let id = fresh.begin_operation_after(last, "recover", &host, now)?;
        let replayed = versions - before;
        fresh.end_operation(
            id,
            troubles.is_empty(),
            &format!("{versions} versions, {replayed} of them from snapshots"),
            now,
        )?;
        let staged = fresh.staged_count()?.0;
        let directories = fresh.directories()?.into_iter().map(|directory| directory.path).collect();
        fresh.into_one_file()?;
        drop((fresh, aside));

        let mut put_aside = swap(&path, &place, previous, now)?;
        if let Some(blank) = put_aside.take_if(|_| is_blank) {
            for end in ["-wal", "-journal", ""] {
                fs::remove_file(with(&blank, end)).ok();
            }
        }
        if own.as_ref() != Some(&host_then) {
            super::write_host(&places.host(), &host_then)?;
        }
        Ok(RecoverReport {
            host,
            source,
            directories,
            versions,
            replayed,
            staged,
            put_aside,
            troubles,
            warnings,
        })
    }
}

/// Opens all vaults that can be; a lock keeps them from being pruned meanwhile.
fn open_all(
    around: &Surroundings,
    settings: &Settings,
    order: &RecoverOrder,
    scratch: &Path,
    passphrase: &mut Passphrase<'_>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Open>> {
    // Which vaults they are is asked of the vaults: this one knows none.
    let mut blank = Catalogue::open(&scratch.join("blank.db"))?;
    let (mut open, mut why) = (Vec::new(), None);
    let chosen =
        settings.vaults.iter().filter(|vault| order.only.as_ref().is_none_or(|only| *only == vault.name));
    for vault in chosen {
        let mut open_one = || {
            let store = (around.stores)(vault)?;
            let vault_id =
                vaults::check_marker(vault, &*store, &blank).map_err(|error| match error.kind {
                    // Who looks for a vault needs no new one.
                    ErrorKind::Unreachable if matches!(store.get(Kind::Marker, ""), Ok(None)) => {
                        ModuleError {
                            hints: vec![
                                "is its disk mounted? is `root` in the settings the place where it lies now?"
                                    .into(),
                            ],
                            ..error
                        }
                    }
                    _ => error,
                })?;
            let mut repo = vaults::open(vault, store, &mut blank, passphrase)?;
            repo.stop_when(around.stop.clone());
            let lock = repo.lock_to_read(&around.who, &around.clock)?;
            Ok::<_, ModuleError>((vault_id, repo, lock))
        };
        match open_one() {
            Ok((vault_id, repo, lock)) => {
                warnings.extend(lock.warning(&vault.name));
                open.push(Open { settings: vault.clone(), vault_id, repo, _lock: lock.held() });
            }
            Err(error) if error.kind == ErrorKind::Cancelled => return Err(error),
            Err(error) => {
                warnings.push(format!("vault `{}` was left out: {error}", vault.name));
                why.get_or_insert(error);
            }
        }
    }
    match why {
        Some(error) if open.is_empty() => Err(error),
        None if open.is_empty() => Err(usage("no vault of this name is set")),
        _ => Ok(open),
    }
}

/// An index file with its name.
type Named = (String, IndexFile);

/// Returns the index files, and those that are damaged: of two lists, what either has. One may lack a file by mistake, and what only
/// that names would be taken for gone.
fn index_of(repo: &Repository) -> Result<(Vec<Named>, Vec<Broken>)> {
    let (mut found, mut broken) = repo.index_found()?;
    let known = |found: &[Named], broken: &[Broken]| -> HashSet<String> {
        let names = found.iter().map(|(name, _)| name);
        names.chain(broken.iter().map(|one| &one.name)).cloned().collect()
    };
    let first = known(&found, &broken);
    if repo.store().list(Kind::Index)?.iter().any(|(name, _)| !first.contains(name)) {
        let (more, more_broken) = repo.index_found()?;
        found.extend(more.into_iter().filter(|(name, _)| !first.contains(name)));
        broken.extend(more_broken.into_iter().filter(|one| !first.contains(&one.name)));
    }
    Ok((found, broken))
}

/// Opens the catalogue that is there, if it can be opened.
fn previous(path: &Path, warnings: &mut Vec<String>) -> Result<Option<Catalogue>> {
    if !path.exists() {
        return Ok(None);
    }
    match Catalogue::open(path) {
        Ok(previous) => Ok(Some(previous)),
        // It may be whole.
        Err(error) if matches!(error.kind, ErrorKind::Busy | ErrorKind::DiskSpace) => Err(error),
        Err(error) => {
            warnings.push(format!("what waited for the next backup is forgotten: {error}"));
            Ok(None)
        }
    }
}

/// Opens a copy of the catalogue that a recovery put aside which did not come to its end, as older programs did where the other one could not be
/// put in its place: it is newer than all that the vaults know.
fn cut_off(place: &Path, fresh: &Catalogue, scratch: &Path) -> Result<Option<Catalogue>> {
    let known = fresh.last_operation_at()?.max(fresh.newest_version()?);
    // Its name has no parts of a second.
    let is_newer = |at: &Timestamp| known.is_none_or(|known| at.as_second() >= known.as_second());
    let Some((aside, _)) = newest_aside(place).filter(|(_, at)| is_newer(at)) else { return Ok(None) };
    let directory = scratch.join("aside");
    fs::create_dir(&directory).map_err(|error| at("make the directory", &directory, &error))?;
    // One that is damaged helps nobody.
    let aside = Catalogue::open_copy(&aside, &directory).ok();
    Ok(aside.filter(|aside| aside.prove_sound().is_ok()))
}

/// Whether a catalogue knows of nothing that could be lost with it.
fn is_blank(catalogue: &Catalogue) -> Result<bool> {
    Ok(catalogue.count_versions()? == 0
        && catalogue.directories()?.is_empty()
        && catalogue.staged_count()?.0 == 0)
}

/// Refuses where the catalogue that is there would be lost for nothing.
fn check_need(previous: Option<&Catalogue>, open: &[Open], host: &str, same_host: bool) -> Result<()> {
    let Some(previous) = previous else { return Ok(()) };
    if same_host && previous.prove_sound().is_err() {
        return Ok(());
    }
    let versions = previous.count_versions()?;
    if versions == 0 {
        return Ok(());
    }
    if !same_host {
        return Err(usage(format!(
            "this machine has {versions} versions of its own, which would be forgotten for those of `{host}`"
        ))
        .hint("move its catalogue away first (`bt config list` says where it is)"));
    }
    for vault in open {
        let newest = copies::versions(vault.repo.store(), host)?.pop().unwrap_or(0);
        let known = previous.vault_state(&vault.settings.name)?.map_or(0, |state| state.uploaded);
        if newest > known {
            return Ok(());
        }
    }
    Err(usage("the catalogue is there, and no vault knows more than it: there is nothing to recover").hint(
        "move it away first, if it shall be built anew all the same (`bt config list` says where it is)",
    ))
}

/// Opens the newest copy that can be read, and says where it was written to; an empty catalogue if there is none. Which of several
/// vaults has the newest is told by what the copies know: their numbers go on from each catalogue that was put back.
fn newest_copy(
    open: &[Open],
    host: &str,
    scratch: &Path,
    warnings: &mut Vec<String>,
) -> Result<(Source, Catalogue, PathBuf)> {
    let mut best: Option<(Option<Timestamp>, i64, Catalogue, PathBuf, &Open)> = None;
    for (number, vault) in open.iter().enumerate() {
        let path = scratch.join(format!("copy{number}.db"));
        let mut versions = copies::versions(vault.repo.store(), host)?;
        while let Some(version) = versions.pop() {
            let opened = copies::fetch(&vault.repo, host, version, &path)
                .and_then(|()| Catalogue::open(&path))
                .and_then(|catalogue| catalogue.prove_sound().map(|()| catalogue))
                .and_then(|catalogue| Ok((catalogue.last_operation_at()?, catalogue)));
            match opened {
                Ok((last, catalogue)) => {
                    if best.as_ref().is_none_or(|best| (last, version) > (best.0, best.1)) {
                        best = Some((last, version, catalogue, path.clone(), vault));
                    }
                    break;
                }
                // What cannot be fetched now may be the newest one.
                Err(error) if error.kind != ErrorKind::Failed => return Err(error),
                Err(error) => warnings.push(error.to_string()),
            }
            fs::remove_file(&path).ok();
        }
    }
    if let Some((_, version, catalogue, path, vault)) = best {
        return Ok((Source::Copy { vault: vault.settings.name.clone(), version }, catalogue, path));
    }
    let path = scratch.join("catalogue.db");
    Ok((Source::Snapshots, Catalogue::open(&path)?, path))
}

/// How many snapshots are named that were left out, before they are only counted.
const SHOWN: usize = 20;

/// Says which snapshots the catalogue that was built knows nothing of.
fn say_skipped(skipped: &[String]) -> Vec<String> {
    let mut said: Vec<String> = (skipped.iter().take(SHOWN))
        .map(|one| {
            format!("the snapshot {one} is of a history that the copy does not have, and older than it: `bt restore --snapshot` brings back what it holds")
        })
        .collect();
    if skipped.len() > SHOWN {
        said.push(format!("{} more such snapshots", skipped.len() - SHOWN));
    }
    said
}

/// Gives the new catalogue the queue of the one before it, as far as its files are tracked and in the stage.
fn take_queue(
    fresh: &mut Catalogue,
    previous: Option<&Catalogue>,
    stage: &Stage,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let queue = |catalogue: &Catalogue| catalogue.staged_after(0, usize::MAX >> 1);
    let waiting = queue(previous.unwrap_or(fresh))?;
    let directories = previous.unwrap_or(fresh).directories()?;
    let old: Vec<i64> = queue(fresh)?.iter().map(|item| item.seq).collect();
    let tracked = fresh.directories()?;
    let mut lost = 0;
    fresh.together(|fresh| {
        fresh.remove_staged(&old)?;
        for StagedItem { directory_id, name, content_id, facts, .. } in waiting {
            let path = directories
                .iter()
                .find(|directory| directory.id == directory_id)
                .map(|directory| &directory.path);
            let here = tracked.iter().find(|directory| Some(&directory.path) == path);
            let is_there = !facts.is_file() || content_id.is_none_or(|content| stage.path(content).exists());
            match here.filter(|_| is_there) {
                Some(directory) => fresh.stage_for_backup(directory, &name, &facts, content_id)?,
                None => lost += 1,
            }
        }
        Ok(())
    })?;
    if lost > 0 {
        warnings.push(format!(
            "{lost} files that waited for the next backup wait no longer; `bt add` stages them again"
        ));
    }
    Ok(())
}
