//! A catalogue that went back, as after a rollback of the machine, is brought up to date before a command goes on.
//!
//! That is what `recover` does, and nobody is asked. So it must be certain that nothing is lost by it, and that it is this machine whose
//! catalogue went back: two that share an id (a copy of a disk or of a virtual machine) look the same to a vault. Whatever is not certain is
//! left to a person.

use std::path::Path;

use jiff::Timestamp;
use pc_switcher_contract::{ErrorKind, ModuleError};

use super::copies::{self, Author};
use super::recover::{self, Open, RecoverReport, Source};
use super::vaults::{self, Passphrase};
use super::{Ask, Service, Settings, VaultSettings};
use crate::catalogue::{Catalogue, Command};
use crate::engine::Observer;
use crate::error::{Result, at};
use crate::repo::{Repository, Who};

/// How far the clock may have been set since a system started, in seconds.
const SLACK: i64 = 60;

/// How a run stands to a catalogue that is older than a vault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Outdated {
    /// No vault was found that knows more.
    #[default]
    Unseen,
    /// One was found, so that the run ended before it did anything.
    Seen,
    /// It was found that nobody but a person may mend it.
    Stays,
}

/// How the newest copy in a vault stands to the catalogue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Copy {
    /// The catalogue knows all that it knows.
    Known,
    /// It goes on from the catalogue; this is the last command that it knows of.
    GoesOn(Option<Command>),
}

/// A vault that was looked at before a sync.
#[derive(Debug)]
pub struct Proven {
    /// Which one.
    pub settings: VaultSettings,
    /// What keeps a backup from it.
    pub problem: Option<ModuleError>,
    /// What a backup does beside what it always does.
    pub note: Option<String>,
}

impl Service {
    /// Runs what writes into vaults. Where one knows more of this machine than the catalogue, that is brought up to date, and the run begins
    /// anew; what is to be said of that is returned.
    ///
    /// # Errors
    /// What the run returns, or why the catalogue could not be brought up to date.
    pub(super) fn while_current<'p, T>(
        &mut self,
        passphrase: &mut Passphrase<'p>,
        observer: &dyn Observer,
        mut run: impl FnMut(&mut Self, &mut Passphrase<'p>) -> Result<T>,
    ) -> Result<(T, Vec<String>)> {
        self.outdated = Outdated::Unseen;
        let first = run(self, passphrase);
        if self.outdated != Outdated::Seen {
            return first.map(|done| (done, Vec::new()));
        }
        self.outdated = Outdated::Stays;
        match self.mend(passphrase, observer) {
            Ok(said) => run(self, passphrase).map(|done| (done, said)),
            Err(why) if why.kind == ErrorKind::Invalid => {
                let text = format!("it is not brought up to date by itself: {}", why.message);
                match run(self, passphrase) {
                    Ok(done) => Ok((done, vec![text])),
                    Err(error) => Err(error.hint(text)),
                }
            }
            Err(why) => Err(why),
        }
    }

    /// Brings the catalogue up to date.
    fn mend(&mut self, passphrase: &mut Passphrase<'_>, observer: &dyn Observer) -> Result<Vec<String>> {
        let base = self.around.places.base();
        let scratch =
            tempfile::tempdir_in(&base).map_err(|error| at("make a directory in", &base, &error))?;
        // Whoever closes a catalogue that was moved would take the log of the one away that is in its place.
        let blank = Catalogue::open(&scratch.path().join("blank.db"))?;
        drop(std::mem::replace(&mut self.catalogue, blank));
        let done = recover::by_itself(&self.around, passphrase, observer);
        self.catalogue = Catalogue::open(&self.around.places.catalogue())?;
        // What changed since a base that it knew says nothing of what is known now.
        self.looking.clear();
        self.sources.iter_mut().for_each(|source| source.told = None);
        Ok(done?.map(|report| tell(&report)).unwrap_or_default())
    }

    /// Says of each vault that is set, or of the one of this name, what keeps a backup from it, if anything; writes nothing.
    ///
    /// # Errors
    /// If no such vault is set.
    pub fn prove_vaults(&self, only: Option<&str>, passphrase: &mut Passphrase<'_>) -> Result<Vec<Proven>> {
        let prove = |settings: VaultSettings| match self.prove_vault(&settings, passphrase) {
            Ok(note) => Proven { settings, problem: None, note },
            Err(error) => Proven { settings, problem: Some(error), note: None },
        };
        Ok(self.chosen(only)?.into_iter().map(prove).collect())
    }

    fn prove_vault(
        &self,
        settings: &VaultSettings,
        passphrase: &mut Passphrase<'_>,
    ) -> Result<Option<String>> {
        let store = (self.around.stores)(settings)?;
        vaults::check_marker(settings, &*store, &self.catalogue)?;
        let word = passphrase(Ask::Open(settings.name.clone()))?;
        let repo = Repository::open(store, &word)?;
        let Some(older) = self.older(settings, &repo)? else { return Ok(None) };
        // Nothing is written where the state lies.
        let scratch = tempfile::tempdir();
        let scratch = scratch.map_err(|error| at("make a directory in", &std::env::temp_dir(), &error))?;
        match compare(&self.catalogue, &repo, &self.host_id, &self.around.who, scratch.path()) {
            Ok(Copy::Known) => Ok(None),
            Ok(Copy::GoesOn(_)) => Ok(Some(format!(
                "the catalogue is older than the vault `{}`, as after a rollback; the backup brings it up to date first",
                settings.name
            ))),
            Err(why) if why.kind != ErrorKind::Invalid => Err(why),
            Err(why) => Err(older.hint(format!("it is not brought up to date by itself: {}", why.message))),
        }
    }
}

/// Says that only a person may do it.
fn refused(why: impl Into<String>) -> ModuleError {
    ModuleError::new(ErrorKind::Invalid, why)
}

/// Finds out whether the catalogue may be brought up to date by itself, and returns the last commands that the newest copies know of; none
/// if nothing is to be done, which is noted.
///
/// # Errors
/// Why it may not (`Invalid`), or if a vault or the disk fails.
pub(super) fn judge(
    previous: &mut Catalogue,
    settings: &Settings,
    open: &[Open],
    (host, who): (&str, &Who),
    scratch: &Path,
) -> Result<Option<Vec<Command>>> {
    previous.prove_sound().map_err(|error| refused(error.message))?;
    let is_open = |vault: &VaultSettings| open.iter().any(|one| one.settings.name == vault.name);
    if let Some(away) = settings.vaults.iter().find(|vault| vault.required && !is_open(vault)) {
        return Err(refused(format!("the vault `{}` may know more, and cannot be asked now", away.name)));
    }
    let (mut last, mut goes_on) = (Vec::new(), false);
    for vault in open {
        let name = &vault.settings.name;
        let newest = copies::versions(vault.repo.store(), host)?.pop().unwrap_or(0);
        let Some(state) = previous.vault_state(name)? else { continue };
        if newest <= state.uploaded {
            continue;
        }
        match compare(previous, &vault.repo, host, who, scratch)? {
            // As where one vault was away when another one's copy was taken up: it comes before what this one has.
            Copy::Known => {
                let known = crate::catalogue::VaultState { uploaded: newest, pending: true, ..state };
                previous.set_vault_state(name, &known)?;
            }
            Copy::GoesOn(command) => {
                goes_on = true;
                last.extend(command);
            }
        }
    }
    Ok(goes_on.then_some(last))
}

/// Finds out how the newest copy in a vault stands to the catalogue.
///
/// # Errors
/// If it does not go on from it, or may be that of another machine (`Invalid`), or the vault or the disk fails.
fn compare(previous: &Catalogue, repo: &Repository, host: &str, who: &Who, scratch: &Path) -> Result<Copy> {
    let newest = copies::versions(repo.store(), host)?.pop().unwrap_or_default();
    let path = scratch.join("newest.db");
    let unread = |error: ModuleError| match error.kind {
        ErrorKind::Failed => refused(format!("the newest copy cannot be read: {}", error.message)),
        _ => error,
    };
    let copy = copies::fetch(repo, host, newest, &path)
        .and_then(|()| Catalogue::open(&path))
        .and_then(|copy| copy.prove_sound().map(|()| copy))
        .map_err(unread)?;
    let last = copy.last_command()?;
    let is_known = last.as_ref().map(|last| previous.knows_command(last)).transpose()?;
    if is_known == Some(true) {
        return Ok(Copy::Known);
    }
    let author = copies::author(repo, host, newest).map_err(unread)?;
    let stored_at = is_ours(author.as_ref(), who).map_err(refused)?;
    let knows = copy.knows_moments(stored_at)?;
    match previous.moments()?.into_iter().all(knows) {
        true => Ok(Copy::GoesOn(last)),
        false => Err(refused(
            "the newest copy does not go on from this catalogue: either has versions that the other one has not",
        )),
    }
}

/// Returns when this machine stored a copy, or why it may have been another one.
fn is_ours(author: Option<&Author>, who: &Who) -> std::result::Result<Timestamp, String> {
    let Some(author) = author else {
        return Err("an older program stored the newest copy, which does not say on which machine".into());
    };
    let (own, name) = (&who.origin, &author.hostname);
    if own.machine_id != author.machine_id || who.hostname != *name {
        return Err(format!(
            "the machine `{name}` stored the newest copy, which has this one's id in the vault but is another one or was called \
             otherwise: two machines must not share an id"
        ));
    }
    // The second in which it was stored has an end.
    let stored_at = Timestamp::from_second(author.at.saturating_add(1)).unwrap_or_default();
    if own.boot_id == author.boot_id && !own.boot_id.is_empty() {
        return Ok(stored_at);
    }
    match who.booted_at {
        // Not every system has an id, and then nobody can tell.
        _ if own.machine_id.is_empty() => Err(
            "the newest copy was stored before this system started, which has no id (/etc/machine-id) to tell it from others".into(),
        ),
        Some(booted) if author.at <= booted.as_second() + SLACK => Ok(stored_at),
        _ => Err(format!(
            "the newest copy was stored while this system ran, by another one that is called `{name}` as well: is one a copy of the \
             other? two machines must not share an id"
        )),
    }
}

/// Says what was done.
fn tell(report: &RecoverReport) -> Vec<String> {
    let from = match &report.source {
        Source::Copy { vault, .. } => format!("the vault `{vault}`"),
        Source::Snapshots => "the vaults".into(),
    };
    let aside =
        report.put_aside.as_ref().map(|path| format!("; the one that was there is {} now", path.display()));
    let text = format!(
        "the catalogue was older than {from}, as after a rollback, and is up to date again: {} versions are known{}",
        report.versions,
        aside.unwrap_or_default()
    );
    std::iter::once(text).chain(report.warnings.iter().cloned()).collect()
}

#[cfg(test)]
#[path = "mend_tests.rs"]
mod tests;
