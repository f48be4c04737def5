//! What may take the place of a catalogue that went back, without anybody who is asked.
//!
//! That is the newest copy in the vaults, and it may only if that can be shown to be what became of the catalogue that is there: a command in
//! the history of both is where they parted, and what was done here since is no more than tracking and adding, which is carried over as it
//! is. And it must be this machine that went back: two that share an id (a copy of a disk or of a virtual machine, two containers) look the
//! same to a vault. Whatever is not certain is refused, which leaves it to a person.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use pc_switcher_contract::{ErrorKind, ModuleError};

use super::copies::{self, Author};
use super::vaults::{self, Passphrase};
use super::{Ask, Service, VaultSettings, forget};
use crate::catalogue::{Catalogue, Command, Directory, Operation, StagedItem, Tracked, VaultState};
use crate::error::Result;
use crate::format::Id;
use crate::repo::{Repository, Who};

/// All of them.
const ALL: usize = usize::MAX >> 1;

/// What may take the place of the catalogue.
pub(super) struct Successor {
    pub(super) catalogue: Catalogue,
    /// Where it lies.
    pub(super) path: PathBuf,
    /// Where it comes from.
    pub(super) vault: String,
    /// Its commands have higher numbers than this one.
    pub(super) last: i64,
    /// What is to be said of it.
    pub(super) said: Vec<String>,
}

/// A vault that could be asked.
struct Asked {
    name: String,
    vault_id: String,
    repo: Repository,
}

/// The newest copy in a vault.
struct Copy<'a> {
    of: &'a Asked,
    number: i64,
    catalogue: Catalogue,
    path: PathBuf,
    last: Command,
    /// When it was stored at the latest, if the catalogue does not know of it.
    is_newer: Option<Timestamp>,
}

/// Says that only a person may do it.
pub(super) fn refused(why: impl Into<String>) -> ModuleError {
    ModuleError::new(ErrorKind::Invalid, why)
}

/// A copy of which the bytes are not as they should be is left to a person; one that cannot be fetched now ends the run.
fn unread(vault: &str) -> impl Fn(ModuleError) -> ModuleError {
    move |error| match error.kind {
        ErrorKind::Failed => {
            refused(format!("the newest copy in the vault `{vault}` cannot be read: {}", error.message))
        }
        _ => error,
    }
}

impl Service {
    /// Makes what may take the place of the catalogue, in a directory for that; writes nowhere else.
    ///
    /// # Errors
    /// Why nothing may (`Invalid`), or if a vault or the disk fails, or the run was cancelled.
    pub(super) fn successor(&self, passphrase: &mut Passphrase<'_>, scratch: &Path) -> Result<Successor> {
        self.catalogue.prove_sound().map_err(|error| match error.kind {
            ErrorKind::Failed => refused(error.message),
            _ => error,
        })?;
        let asked = self.ask_all(passphrase)?;
        let mut copies = Vec::new();
        for (number, one) in asked.iter().enumerate() {
            if self.around.stop.is_asked() {
                return Err(ModuleError::cancelled());
            }
            copies.extend(self.newest_in(one, scratch.join(format!("copy{number}.db")))?);
        }
        let began = |copy: &Copy<'_>| (copy.last.1.parse::<Timestamp>().unwrap_or_default(), copy.number);
        let newer = (0..copies.len()).filter(|at| copies[*at].is_newer.is_some());
        let Some(best) = newer.max_by_key(|at| began(&copies[*at])) else {
            return Err(refused("no vault knows more than it any more"));
        };
        let best = copies.swap_remove(best);
        for other in &copies {
            if !best.catalogue.knows_command(&other.last)? {
                let (one, two) = (&best.of.name, &other.of.name);
                return Err(refused(format!(
                    "the vaults `{one}` and `{two}` hold copies of different histories"
                )));
            }
        }
        for one in &asked {
            self.prove_nothing_came_after(&best, one)?;
        }
        self.prove_all_asked(&best.catalogue, &asked)?;
        let Copy { of: Asked { name: vault, .. }, mut catalogue, path, .. } = best;
        let names: Vec<(String, String)> =
            asked.iter().map(|one| (one.name.clone(), one.vault_id.clone())).collect();
        catalogue.call_vaults(&names)?;
        let said = self.carry_over(&mut catalogue)?;
        let mut last = 0;
        for one in &asked {
            let uploaded = copies::versions(one.repo.store(), &self.host_id)?.pop().unwrap_or(0);
            last = last.max(uploaded);
            let state = VaultState { vault_id: one.vault_id.clone(), uploaded, pending: true };
            catalogue.set_vault_state(&one.name, &state)?;
        }
        Ok(Successor { catalogue, path, vault: vault.clone(), last, said })
    }

    /// Opens all vaults that are set. One that is away may know more than the others, whether it is required or not, and even if nothing is known
    /// of it here.
    fn ask_all(&self, passphrase: &mut Passphrase<'_>) -> Result<Vec<Asked>> {
        let ask = |settings: &VaultSettings| {
            let store = (self.around.stores)(settings)?;
            let vault_id = vaults::check_marker(settings, &*store, &self.catalogue)?;
            let word = passphrase(Ask::Open(settings.name.clone()))?;
            let mut repo = Repository::open(store, &word)?;
            repo.stop_when(self.around.stop.clone());
            Ok(Asked { name: settings.name.clone(), vault_id, repo })
        };
        let asked = self.settings.vaults.iter().map(ask).zip(&self.settings.vaults);
        let told = |(asked, settings): (Result<Asked>, &VaultSettings)| {
            asked.map_err(|error| match error.kind {
                ErrorKind::Cancelled => error,
                _ => refused(format!(
                    "the vault `{}` may know more, and cannot be asked now: {}",
                    settings.name, error.message
                )),
            })
        };
        asked.map(told).collect()
    }

    /// Proves that a copy knows of no vault but those that were asked, or that were out of use already when this catalogue was as it is.
    fn prove_all_asked(&self, copy: &Catalogue, asked: &[Asked]) -> Result<()> {
        let own = self.catalogue.vault_states()?;
        for (name, state) in copy.vault_states()? {
            let is_asked = asked.iter().any(|one| one.vault_id == state.vault_id);
            let is_as_then =
                |known: &VaultState| known.vault_id == state.vault_id && known.uploaded == state.uploaded;
            if state.uploaded > 0 && !is_asked && !own.iter().any(|(_, known)| is_as_then(known)) {
                return Err(refused(format!(
                    "the vault `{name}` was used after what this catalogue knows, may know more than the others, and cannot be asked now"
                )));
            }
        }
        Ok(())
    }

    /// Fetches the newest copy in a vault, if it has any.
    fn newest_in<'a>(&self, one: &'a Asked, path: PathBuf) -> Result<Option<Copy<'a>>> {
        let (repo, host) = (&one.repo, &self.host_id);
        let Some(number) = copies::versions(repo.store(), host)?.pop() else { return Ok(None) };
        let catalogue = copies::fetch(repo, host, number, &path)
            .and_then(|()| Catalogue::open_there(&path))
            .and_then(|copy| copy.prove_sound().map(|()| copy))
            .map_err(unread(&one.name))?;
        let last = catalogue.last_command()?;
        let last =
            last.ok_or_else(|| refused(format!("the copy in the vault `{}` has no history", one.name)))?;
        let known = self.catalogue.vault_state(&one.name)?.map_or(0, |state| state.uploaded);
        let is_newer = match number > known {
            true => {
                let author = copies::author(repo, host, number).map_err(unread(&one.name))?;
                Some(stored_at(author.as_ref(), &self.around.who).map_err(refused)?)
            }
            false => None,
        };
        Ok(Some(Copy { of: one, number, catalogue, path, last, is_newer }))
    }

    /// Proves that a vault has no backup that came after a copy was stored: what it holds only a longer look would tell.
    fn prove_nothing_came_after(&self, copy: &Copy<'_>, one: &Asked) -> Result<()> {
        let (found, lost) = one.repo.snapshots_found()?;
        let name = &one.name;
        if let Some(broken) = lost.first() {
            let (what, why) = (&broken.name, &broken.why);
            return Err(refused(format!(
                "in the vault `{name}`, `{what}` {why}; `bt repair` says what can be done"
            )));
        }
        let mut own = found.iter().filter(|(_, snapshot)| forget::is_of(snapshot, &self.host_id));
        let is_later = |text: &str| {
            text.parse::<Timestamp>().ok().is_none_or(|at| copy.is_newer.is_none_or(|stored| at > stored))
        };
        match own.find(|(_, snapshot)| is_later(&snapshot.time)) {
            Some((id, snapshot)) => Err(refused(format!(
                "the snapshot `{}` of {} in the vault `{name}` came after the newest copy",
                id.short(),
                snapshot.time
            ))),
            None => Ok(()),
        }
    }

    /// Proves that a copy is what became of the catalogue, and gives it what was done here since they parted.
    fn carry_over(&self, copy: &mut Catalogue) -> Result<Vec<String>> {
        let (fork, since) = self.since(copy)?;
        since.iter().try_for_each(prove_carried)?;
        let began = |one: &Operation| {
            one.started_at.parse::<Timestamp>().map_err(|_| refused("its history has no times"))
        };
        // By a clock that was set in between the first of them may not be the earliest one.
        let began: Vec<Timestamp> = since.iter().map(began).collect::<Result<_>>()?;
        if let Some(earliest) = began.into_iter().min()
            && self.catalogue.has_recorded_since(earliest)?
        {
            return Err(refused(
                "it has versions, or says of files that they are gone, that the newest copy does not know of",
            ));
        }
        self.carry_directories(copy, fork, &since)?;
        let said = self.carry_queue(copy, &since)?;
        copy.take_operations(&since)?;
        Ok(said)
    }

    /// Returns the number of the last command that both know, and those that only the catalogue knows, the oldest first.
    fn since(&self, copy: &Catalogue) -> Result<(i64, Vec<Operation>)> {
        let known: HashSet<Command> =
            copy.operations(ALL)?.into_iter().map(|one| (one.id, one.started_at)).collect();
        let mut own = self.catalogue.operations(ALL)?;
        let Some(at) = own.iter().position(|one| known.contains(&(one.id, one.started_at.clone()))) else {
            return Err(refused("its history and that of the newest copy have no command in common"));
        };
        let fork = own[at].id;
        own.truncate(at);
        own.reverse();
        Ok((fork, own))
    }

    /// Has everything tracked that is tracked here, unless the copy says what became of it.
    fn carry_directories(&self, copy: &mut Catalogue, fork: i64, since: &[Operation]) -> Result<()> {
        let forgotten = copy.forgettings()?;
        for directory in self.catalogue.directories()? {
            let text = directory.path.display().to_string();
            if let Some(there) = copy.find_directory_by_path(&directory.path)? {
                // One that was forgotten and tracked anew lost its versions by that.
                let is_same = there.created_at == directory.created_at;
                if is_same && !self.catalogue.moments(&directory)?.is_subset(&copy.moments(&there)?) {
                    return Err(refused(format!(
                        "it knows versions below `{text}` that the newest copy does not know"
                    )));
                }
                continue;
            }
            let is_new = since
                .iter()
                .any(|one| one.operation == "dir init" && one.status == "success" && one.parameters == text);
            if is_new {
                let at =
                    directory.created_at.parse().map_err(|_| refused("its directories have no times"))?;
                if !self.catalogue.moments(&directory)?.is_empty() {
                    return Err(refused(format!(
                        "it knows versions below `{text}`, which is tracked here since then, and not in the newest copy"
                    )));
                }
                match copy.create_directory(&directory.path, at)? {
                    Tracked::New(_, absorbed) if absorbed.is_empty() => continue,
                    _ => {
                        return Err(refused(format!(
                            "`{text}` is tracked since then, and the newest copy tracks what it lies in, or what lies in it"
                        )));
                    }
                }
            }
            let is_forgotten = forgotten.iter().any(|(id, path, _)| *id > fork && *path == text);
            if !is_forgotten && copy.search_directory_for_path(&directory.path)?.is_none() {
                return Err(refused(format!(
                    "`{text}` is tracked here, and the newest copy does not say what became of it"
                )));
            }
        }
        Ok(())
    }

    /// Gives the copy what waits for the next backup, in the order in which it came; returns what is to be said.
    fn carry_queue(&self, copy: &mut Catalogue, since: &[Operation]) -> Result<Vec<String>> {
        let mut there: HashMap<(i64, PathBuf), Vec<StagedItem>> = HashMap::new();
        for item in copy.staged_after(0, ALL)? {
            there.entry((item.directory_id, item.name.clone())).or_default().push(item);
        }
        let waiting = Waiting {
            catalogue: &self.catalogue,
            // A service that only looks has a stage of its own.
            stage: self.around.places.stage(),
            directories: self.catalogue.directories()?,
            there,
            tracked: copy.directories()?,
            // Else all that waits here waited then, and the copy says what became of it.
            is_added_to: since.iter().any(|one| matches!(&*one.operation, "add" | "restore" | "proof")),
        };
        let (mut carried, mut files) = (Vec::new(), HashSet::new());
        for item in self.catalogue.staged_after(0, ALL)? {
            carried.extend(waiting.becomes(copy, item, &mut files)?);
        }
        let all = waiting.there.values().flatten();
        let lost: Vec<i64> = all.filter(|item| !waiting.is_staged(item)).map(|item| item.seq).collect();
        copy.together(|copy| {
            copy.remove_staged(&lost)?;
            carried.iter().try_for_each(|(directory, StagedItem { name, facts, content_id, .. })| {
                copy.stage_for_backup(directory, name, facts, *content_id)
            })
        })?;
        Ok(match lost.len() {
            0 => Vec::new(),
            count => vec![format!(
                "{count} files waited for a backup when the newest copy was made, and are not in the stage any more: `bt add` stages them again"
            )],
        })
    }
}

/// Proves that what a command did here is carried over.
fn prove_carried(one: &Operation) -> Result<()> {
    match (&*one.operation, &*one.status) {
        ("add" | "restore" | "rehearse" | "proof" | "dir init", _) => Ok(()),
        ("backup", status) if status != "success" => Ok(()),
        ("dir forget", _) => Err(refused(format!("`{}` was forgotten here since then", one.parameters))),
        (other, _) => Err(refused(format!("`{other}` ran here since then"))),
    }
}

/// What waits here and there.
struct Waiting<'w> {
    catalogue: &'w Catalogue,
    stage: PathBuf,
    directories: Vec<Directory>,
    /// By their directory and name.
    there: HashMap<(i64, PathBuf), Vec<StagedItem>>,
    tracked: Vec<Directory>,
    is_added_to: bool,
}

impl Waiting<'_> {
    /// Whether the content of what waits is where the backup will look for it.
    fn is_staged(&self, item: &StagedItem) -> bool {
        let is_there = |content: Id| {
            fs::metadata(self.stage.join(content.hex())).is_ok_and(|facts| facts.len() == item.facts.size)
        };
        !item.facts.is_file() || item.content_id.is_none_or(is_there)
    }

    /// Returns what is to wait there for what waits here; nothing where that has it as it is. `carried` are the files of which something does.
    fn becomes(
        &self,
        copy: &Catalogue,
        item: StagedItem,
        carried: &mut HashSet<(i64, PathBuf)>,
    ) -> Result<Option<(Directory, StagedItem)>> {
        let here = self.directories.iter().find(|directory| directory.id == item.directory_id);
        let here = here.ok_or_else(|| refused("something waits of a directory that is not tracked"))?;
        let path = here.path.join(&item.name);
        let text = path.display();
        let there = self
            .tracked
            .iter()
            .find_map(|directory| Some((directory, path.strip_prefix(&directory.path).ok()?.to_owned())));
        let Some((directory, name)) = there else {
            return Err(refused(format!(
                "`{text}` waits for a backup, and the newest copy does not track it any more"
            )));
        };
        let is_it =
            |other: &StagedItem| other.content_id == item.content_id && other.facts.same_version(&item.facts);
        let file = (directory.id, name);
        let mut waits = self.there.get(&file).into_iter().flatten();
        if !self.is_added_to {
            let is_kept = match item.content_id.filter(|_| item.facts.is_file()) {
                Some(content) => {
                    !copy.locations(content)?.is_empty() || waits.any(|one| is_it(one) && self.is_staged(one))
                }
                None => true,
            };
            return match is_kept {
                true => Ok(None),
                false => Err(refused(format!(
                    "`{text}` waits for a backup, and the newest copy does not say what became of it"
                ))),
            };
        }
        if !self.is_staged(&item) {
            return Err(refused(format!("`{text}` waits for a backup, and its copy is not in the stage")));
        }
        let known = copy.current_file(directory, &file.1)?;
        match waits.next() {
            Some(other) if is_it(other) => return Ok(None),
            Some(_) => {
                return Err(refused(format!(
                    "`{text}` waits for a backup here, and otherwise in the newest copy"
                )));
            }
            None => {}
        }
        let is_stored = known.as_ref().is_some_and(|known| {
            !known.deleted
                && known.version.facts.same_version(&item.facts)
                && (!item.facts.is_file() || Some(known.version.content_id) == item.content_id)
        });
        // What comes after another one that waits is not what is current by then.
        if is_stored && !carried.contains(&file) {
            return Ok(None);
        }
        let told = |file: Option<crate::catalogue::CurrentFile>| {
            file.map(|file| (file.deleted, file.version.content_id, file.version.created_at))
        };
        match told(known) == told(self.catalogue.current_file(here, &item.name)?) {
            true => {
                carried.insert(file.clone());
                Ok(Some((directory.clone(), StagedItem { name: file.1, ..item })))
            }
            false => Err(refused(format!(
                "`{text}` waits for a backup, and was backed up, or found gone, after what this catalogue knows"
            ))),
        }
    }
}

/// Returns when a copy was stored at the latest, or why it may not have been by this machine, before this system started.
pub(super) fn stored_at(author: Option<&Author>, who: &Who) -> std::result::Result<Timestamp, String> {
    let Some(author) = author else {
        return Err("an older program stored the newest copy, which does not say where".into());
    };
    let (own, there, name) = (&who.origin, &author.origin, &author.hostname);
    if own.machine_id.is_empty() || own.boot_id.is_empty() || own.pid_namespace.is_empty() {
        return Err("this system has no id (/etc/machine-id) to tell it from others".into());
    }
    if own.machine_id != there.machine_id || who.hostname != *name {
        return Err(format!(
            "the machine `{name}` stored the newest copy, which has this one's id in the vault but is another one or was called otherwise: \
             two machines must not share an id"
        ));
    }
    if who.uid != author.uid {
        return Err(format!(
            "the user {} stored the newest copy: two users must not share an id",
            author.uid
        ));
    }
    if own.pid_namespace != there.pid_namespace {
        return Err("the newest copy was stored in another container: two must not share an id".into());
    }
    if own.boot_id == there.boot_id {
        return Err(
            "the newest copy was stored since this system started, so that no rollback of it came in between"
                .into(),
        );
    }
    if who.booted_at.is_none_or(|booted| author.at > booted.as_second()) {
        return Err(format!(
            "the newest copy was stored while this system ran, by another one that is called `{name}` as well: is one a copy of the other? \
             two machines must not share an id"
        ));
    }
    // The second in which it was stored has an end.
    Timestamp::from_second(author.at.saturating_add(1)).map_err(|error| error.to_string())
}
