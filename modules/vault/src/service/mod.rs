//! What the commands do: set up, track, stage, back up, tell, restore.

mod backup;
mod batch;
mod changed;
mod check;
mod code;
mod copies;
mod forget;
mod from_snapshot;
mod gone;
mod holders;
mod ignored;
mod known;
mod log;
mod machines;
mod mend;
mod proof;
mod prune;
mod recover;
mod rehearse;
mod repair;
mod replay;
mod restore;
mod scan;
mod settings;
mod snapshot;
mod source;
mod stage;
mod status;
mod successor;
mod swap;
mod target;
mod track;
mod tracked;
mod vaults;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pc_switcher_contract::{Clock, ErrorKind, ModuleError};

pub use backup::{BackupReport, VaultReport};
pub use check::{Checked, InVault};
pub use code::RecoveryCode;
pub use forget::{Reason, Verdict, is_partial};
pub use from_snapshot::{SnapshotOrder, SnapshotReport};
pub use mend::{Looked, Proven};
pub use proof::Proof;
pub use prune::{PruneOrder, PruneReport, VaultPruned};
pub use recover::{RecoverOrder, RecoverReport, Source};
pub use rehearse::{RehearseOrder, RehearseReport, Rehearsed};
pub use repair::{RepairWish, Repaired};
pub use restore::{RestoreOrder, RestoreReport, Waiting, Which};
pub use settings::{Above, Every, Folder, General, Mistake, Settings, Size, Spot, VaultKind, VaultSettings};
pub use source::{Place, Reading, Told};
pub use status::{FileStatus, History, VersionLine};
pub use track::{AddReport, TrackedLine, resolve};
pub use tracked::{Preview, TrackedReport};
pub use vaults::{Ask, OpenStore, Outside, Passphrase, Prepared, where_they_lie};
pub use view::View;

use crate::catalogue::{Catalogue, Directory};
use crate::engine::Names;
use crate::error::{Result, at, usage};
use crate::format::keyfile::Cost;
use crate::repo::{Repository, Who};
use crate::store::{Kind, Stop};
use stage::Stage;

/// Where everything of one user lies.
#[derive(Debug, Clone)]
pub struct Places {
    /// `bt.toml`.
    pub config: PathBuf,
    /// The directory of the user's state; never synced.
    pub state: PathBuf,
    /// What settings say of where something lies.
    named: Named,
}

/// Directories that settings name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Named {
    base: Option<PathBuf>,
    data: Option<PathBuf>,
    stage: Option<PathBuf>,
    log: Option<PathBuf>,
}

impl Places {
    /// Returns the usual places.
    pub fn new(config: PathBuf, state: PathBuf) -> Self {
        Self { config, state, named: Named::default() }
    }

    /// Returns them as settings name them.
    fn under(&self, general: &General) -> Self {
        let named = |folder: &Folder| folder.path().map(Path::to_owned);
        let named = Named {
            base: named(&general.base_dir),
            data: named(&general.data_dir),
            stage: named(&general.staging_dir),
            log: named(&general.log_dir),
        };
        Self { named, ..self.clone() }
    }

    /// Returns the directory of the vault's state.
    pub fn base(&self) -> PathBuf {
        self.named.base.clone().unwrap_or_else(|| self.state.join("vault"))
    }

    /// Returns the catalogue.
    pub fn catalogue(&self) -> PathBuf {
        self.named.data.clone().unwrap_or_else(|| self.base()).join("catalogue.db")
    }

    /// Returns the directory of the stage.
    pub fn stage(&self) -> PathBuf {
        self.named.stage.clone().unwrap_or_else(|| self.base().join("stage"))
    }

    /// Returns the directory of the log.
    pub fn log(&self) -> PathBuf {
        self.named.log.clone().unwrap_or_else(|| self.base().join("log"))
    }

    /// Returns the file with this machine's id.
    pub fn host(&self) -> PathBuf {
        self.state.join("host.toml")
    }

    /// Returns where the vault lies that is set up when nobody names a place.
    pub fn own_vault(&self) -> PathBuf {
        self.base().join("local")
    }
}

/// What the service is handed.
#[derive(Clone)]
pub struct Surroundings {
    /// Where everything lies.
    pub places: Places,
    /// What the main config says of vaults: before `bt.toml`.
    pub above: Above,
    /// The time.
    pub clock: Clock,
    /// Who works.
    pub who: Who,
    /// How dear a guess of a passphrase of a new vault is.
    pub cost: Cost,
    /// How the place of a vault is opened.
    pub stores: OpenStore,
    /// Whether somebody wants a run to end, for stores that wait.
    pub stop: Stop,
}

/// Everything is ready to work.
pub struct Service {
    around: Surroundings,
    settings: Settings,
    catalogue: Catalogue,
    stage: Stage,
    host_id: String,
    names: Names,
    view: View,
    /// Directories of which is said that what is missing there is gone for good.
    gone: Vec<PathBuf>,
    /// From what tracked directories are backed up, and how they are looked at, by their ids.
    sources: Vec<Reading>,
    looking: HashMap<i64, source::Looking>,
    /// What came of bringing the catalogue up to date.
    catching_up: mend::CatchingUp,
    /// What a service that only looks works with.
    _scratch: Option<tempfile::TempDir>,
}

/// What `config init` made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initialised {
    /// The machine's id.
    pub host_id: String,
    /// Where the vaults will be.
    pub roots: Vec<PathBuf>,
    /// Whether there were settings already, for example from another machine.
    pub kept: bool,
    /// Where the settings of the vaults stand.
    pub settings: PathBuf,
    /// Whether a vault lies in one of them already, as far as that is seen without contacting anybody.
    pub has_vault: bool,
}

impl Service {
    /// Writes the settings, this machine's id and an empty catalogue. Settings that came from another machine stay.
    ///
    /// # Errors
    /// If this machine is set up already, or something cannot be written.
    pub fn init(around: &Surroundings, root: Option<&Path>, name: &str) -> Result<Initialised> {
        let places = &around.places;
        let known = read_host(&places.host())?;
        let in_main = !around.above.vaults.is_empty() && !places.config.exists();
        let kept = in_main || places.config.exists();
        let places = &match kept {
            true => places.under(&Settings::read(&places.config, &around.above)?.vault),
            false => places.clone(),
        };
        if kept && (known.is_some() || places.catalogue().exists() || root.is_some()) {
            return Err(match in_main {
                false => usage(format!("`{}` exists already", places.config.display()))
                    .hint("edit it, or move it away to begin anew"),
                true => usage(format!("[[vaults]] stands in `{}` already", around.above.path.display()))
                    .hint("`bt config vault init` makes what it names; another vault is added there"),
            });
        }
        let settings = if kept {
            Settings::read(&places.config, &around.above)?
        } else {
            if let Some(odd) = root.filter(|root| root.to_str().is_none()) {
                return Err(usage(format!("`{}` is no UTF-8, which settings take", odd.display())));
            }
            let text = Settings::first(root.unwrap_or(&places.own_vault()), name);
            let settings = Settings::parse(&text, &places.config)?;
            write_new(&places.config, &text)?;
            settings
        };
        let host_id = match known {
            Some(host_id) => host_id,
            None => {
                let id = new_host_id();
                write_host(&places.host(), &id)?;
                id
            }
        };
        Catalogue::open(&places.catalogue())?;
        let is_vault = |vault: &VaultSettings| {
            let store = (vault.kind == VaultKind::Filesystem).then(|| (around.stores)(vault));
            store.is_some_and(|store| {
                store.is_ok_and(|store| matches!(store.get(Kind::Marker, ""), Ok(Some(_))))
            })
        };
        let has_vault = settings.vaults.iter().any(is_vault);
        let roots = settings.vaults.into_iter().map(|vault| vault.root).collect();
        let settings = if in_main { around.above.path.clone() } else { places.config.clone() };
        Ok(Initialised { host_id, roots, kept, settings, has_vault })
    }

    /// Adds a vault to the settings; what they say of others stays as it is written.
    ///
    /// # Errors
    /// If there are no settings yet, the place or the name does not fit, or they cannot be written.
    pub fn add_vault(around: &Surroundings, root: &Path, name: &str) -> Result<()> {
        let config = &around.places.config;
        let settings = Settings::read(config, &around.above)?;
        if !config.exists() {
            return Err(usage(format!("there is no `{}` to add it to", config.display()))
                .hint(format!("the vaults are set in `{}`", around.above.path.display())));
        }
        if settings.vaults.iter().any(|vault| vault.name == name) {
            return Err(usage(format!("a vault is called `{name}` already"))
                .hint(format!("`{}` says where it is; another name adds another one", config.display())));
        }
        if root.to_str().is_none() {
            return Err(usage(format!("`{}` is no UTF-8, which settings take", root.display())));
        }
        // Somebody may keep it elsewhere and have a link here.
        let path = config.canonicalize().map_err(|error| at("find", config, &error))?;
        let before = fs::read_to_string(&path).map_err(|error| at("read", &path, &error))?;
        let text = format!("{}\n{}", before.trim_end(), Settings::one_more(root, name));
        Settings::parse(&text, config)?;
        write_whole(&path, &text)?.persist(&path).map(drop).map_err(|error| at("write", &path, &error.error))
    }

    /// Reads the settings and opens the catalogue.
    ///
    /// # Errors
    /// If something is missing or wrong; nothing is made up for it.
    pub fn open(around: Surroundings) -> Result<Self> {
        let (around, settings, host_id) = known(around)?;
        let path = around.places.catalogue();
        // An older program that works with it must not find other tables in the middle.
        let _lock = if Catalogue::is_older(&path)? { Some(lock(&around.places.base())?) } else { None };
        let catalogue = Catalogue::open(&path)?;
        let stage = Stage::open(&around.places.stage())?;
        Ok(Self::of(around, settings, host_id, catalogue, stage, None))
    }

    /// As [`Service::open`], but works with a copy of the catalogue and writes nothing where everything lies.
    ///
    /// # Errors
    /// As [`Service::open`].
    pub fn look(around: Surroundings) -> Result<Self> {
        let (around, settings, host_id) = known(around)?;
        let scratch = tempfile::tempdir();
        let scratch = scratch.map_err(|error| at("make a directory in", &std::env::temp_dir(), &error))?;
        let catalogue = Catalogue::open_copy(&around.places.catalogue(), scratch.path())?;
        let stage = Stage::open(scratch.path())?;
        Ok(Self::of(around, settings, host_id, catalogue, stage, Some(scratch)))
    }

    fn of(
        around: Surroundings,
        settings: Settings,
        host_id: String,
        mut catalogue: Catalogue,
        stage: Stage,
        scratch: Option<tempfile::TempDir>,
    ) -> Self {
        settings.classes().for_each(|(vault, class)| catalogue.note_class(vault, class));
        let (names, view) = (Names::of_this_machine(), View::default());
        let (gone, sources, looking, catching_up) = Default::default();
        let _scratch = scratch;
        Self {
            around,
            settings,
            catalogue,
            stage,
            host_id,
            names,
            view,
            gone,
            sources,
            looking,
            catching_up,
            _scratch,
        }
    }

    /// Has tracked files read elsewhere than where they lie.
    pub fn read_from(&mut self, view: View) {
        self.view = view;
    }

    /// Has the next backup note what is missing in these directories as gone, also where it may only not be mounted.
    ///
    /// # Errors
    /// If one of them is in no tracked directory.
    pub fn take_as_gone(&mut self, directories: Vec<PathBuf>) -> Result<()> {
        directories.iter().try_for_each(|path| self.tracked(path).map(drop))?;
        self.gone = directories;
        Ok(())
    }

    /// Returns what ends a run that waits, and hears for what it does.
    pub fn stop(&self) -> &Stop {
        &self.around.stop
    }

    /// Returns where everything lies.
    pub fn places(&self) -> &Places {
        &self.around.places
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns this machine's id.
    pub fn host_id(&self) -> &str {
        &self.host_id
    }

    /// Prepares every vault that is set, or the one of this name.
    ///
    /// # Errors
    /// If one of them cannot be prepared.
    pub fn prepare_vaults(
        &mut self,
        only: Option<&str>,
        passphrase: &mut Passphrase<'_>,
    ) -> Result<Vec<(VaultSettings, Prepared)>> {
        let chosen = self.chosen(only)?;
        let work = |service: &mut Self, _| {
            let mut done = Vec::new();
            for vault in chosen {
                let Surroundings { cost, who, clock, .. } = &service.around;
                let store = (service.around.stores)(&vault)?;
                let how =
                    vaults::prepare(&vault, store, &mut service.catalogue, passphrase, *cost, who, clock())?;
                done.push((vault, how));
            }
            Ok(done)
        };
        let tell = |done: &Vec<(VaultSettings, Prepared)>| {
            let said: Vec<String> = done.iter().map(|(vault, how)| format!("{} {how}", vault.name)).collect();
            (true, said.join(", "))
        };
        self.operation("vault init", only.unwrap_or_default(), work, tell)
    }

    /// Says of each vault that is set what stands in the way of using it, if anything.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn look_at_vaults(&self) -> Result<BTreeMap<String, Option<String>>> {
        let mut all = BTreeMap::new();
        for vault in &self.settings.vaults {
            let state = self.check_vault(vault);
            all.insert(vault.name.clone(), state.err().map(|error| error.to_string()));
        }
        Ok(all)
    }

    /// Proves that a vault is where it should be, and returns its id.
    fn check_vault(&self, vault: &VaultSettings) -> Result<String> {
        vaults::check_marker(vault, &*(self.around.stores)(vault)?, &self.catalogue)
    }

    /// Opens a vault that was set up.
    fn open_vault(&mut self, vault: &VaultSettings, passphrase: &mut Passphrase<'_>) -> Result<Repository> {
        let mut repo = vaults::open(vault, (self.around.stores)(vault)?, &mut self.catalogue, passphrase)?;
        repo.stop_when(self.around.stop.clone());
        Ok(repo)
    }

    fn chosen(&self, only: Option<&str>) -> Result<Vec<VaultSettings>> {
        let mut vaults = self.settings.vaults.clone();
        if let Some(only) = only {
            vaults.retain(|vault| vault.name == only);
        }
        if vaults.is_empty() {
            let message = match only {
                Some(only) => format!("no vault is called `{only}`"),
                None => "no vault is set".into(),
            };
            return Err(
                usage(message).hint(format!("`{}` names the vaults", self.around.places.config.display()))
            );
        }
        Ok(vaults)
    }

    /// Keeps other commands of this user that change something out.
    fn lock(&self) -> Result<fs::File> {
        lock(&self.around.places.base())
    }

    /// Returns the tracked directory that holds a path, with the path's name in it.
    fn tracked(&self, path: &Path) -> Result<(Directory, PathBuf)> {
        match self.catalogue.search_directory_for_path(path)? {
            Some(directory) => {
                let name = path.strip_prefix(&directory.path).unwrap_or(path).to_owned();
                Ok((directory, name))
            }
            None => Err(usage(format!("`{}` is in no tracked directory", path.display()))
                .hint("`bt dir init` in a directory tracks it")),
        }
    }

    /// Runs a command that changes something: alone, and with a line in the history.
    fn operation<T>(
        &mut self,
        name: &str,
        parameters: &str,
        work: impl FnOnce(&mut Self, i64) -> Result<T>,
        tell: impl FnOnce(&T) -> (bool, String),
    ) -> Result<T> {
        let _lock = self.lock()?;
        let id = self.catalogue.begin_operation(name, parameters, (self.around.clock)())?;
        let worked = work(self, id);
        let (success, details) = match &worked {
            Ok(done) => tell(done),
            Err(error) => (false, error.to_string()),
        };
        let at = (self.around.clock)();
        let noted = self.catalogue.end_operation(id, success, &details, at);
        let line = log::Line { at, number: id, operation: name, parameters, success, details: &details };
        // The history has it as well: a log that cannot be written stops nothing.
        log::append(&self.around.places.log(), &line).ok();
        // What went wrong with the work says more than that the catalogue failed as well.
        let done = worked?;
        noted.map(|()| done)
    }
}

/// Keeps other commands of this user that change something out.
fn lock(base: &Path) -> Result<fs::File> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(base);
    made.map_err(|error| at("make the directory", base, &error))?;
    let path = base.join("vault.lock");
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|error| at("open", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(ModuleError::new(ErrorKind::Busy, format!("another command works with `{}`", path.display()))
                .hint("wait for it to end"))
        }
        Err(TryLockError::Error(error)) => Err(at("lock", &path, &error)),
    }
}

/// Reads the settings and this machine's id, and looks for the catalogue.
fn known(around: Surroundings) -> Result<(Surroundings, Settings, String)> {
    let settings = Settings::read(&around.places.config, &around.above)?;
    let places = around.places.under(&settings.vault);
    let host_id = read_host(&places.host())?
        .ok_or_else(|| lost(&places.host(), "this machine's id", &places.catalogue()))?;
    if !places.catalogue().exists() {
        return Err(lost(&places.catalogue(), "the catalogue", &places.host()));
    }
    Ok((Surroundings { places, ..around }, settings, host_id))
}

fn lost(path: &Path, what: &str, other: &Path) -> ModuleError {
    ModuleError::new(ErrorKind::Invalid, format!("{what} is lost: there is no `{}`", path.display())).hint(format!(
        "`bt recover` builds it anew from a vault; or move `{}` away, too, and begin anew with `bt config init`: what the \
         vaults hold stays, and `restic` restores it",
        other.display()
    ))
}

fn read_host(path: &Path) -> Result<Option<String>> {
    #[derive(serde::Deserialize)]
    struct Host {
        host_id: String,
    }
    match fs::read_to_string(path) {
        Ok(text) => {
            let host: Host = toml::from_str(&text).map_err(|error| {
                ModuleError::failed(format!("`{}` is not right: {error}", path.display()))
            })?;
            // It becomes the name of a directory in the vaults.
            let id = uuid::Uuid::parse_str(&host.host_id).map_err(|error| {
                ModuleError::failed(format!("`{}` is not right: `{}`: {error}", path.display(), host.host_id))
            })?;
            Ok(Some(id.to_string()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at("read", path, &error)),
    }
}

fn new_host_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Names this machine.
fn write_host(path: &Path, id: &str) -> Result<()> {
    let text = format!("# Names this machine in its vaults; never copied to another.\nhost_id = \"{id}\"\n");
    let failed = |error: std::io::Error| at("write", path, &error);
    write_whole(path, &text)?.persist(path).map(drop).map_err(|error| failed(error.error))
}

/// Writes a file that must not be there yet, whole or not at all.
fn write_new(path: &Path, text: &str) -> Result<()> {
    let failed = |error: &std::io::Error| at("write", path, error);
    write_whole(path, text)?.persist_noclobber(path).map(drop).map_err(|error| failed(&error.error))
}

/// Writes a file beside where it shall be.
fn write_whole(path: &Path, text: &str) -> Result<tempfile::NamedTempFile> {
    use std::io::Write as _;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let failed = |error: &std::io::Error| at("write", path, error);
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| failed(&error))?;
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(|error| failed(&error))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.as_file().sync_all())
        .map_err(|error| failed(&error))?;
    Ok(file)
}

#[cfg(test)]
mod bucket_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod mended_tests;
#[cfg(test)]
mod read_only_tests;
#[cfg(test)]
mod recover_tests;
#[cfg(test)]
mod repair_tests;
#[cfg(test)]
mod restore_tests;
#[cfg(test)]
mod several_tests;
#[cfg(test)]
mod source_tests;
#[cfg(test)]
mod steady_tests;
#[cfg(test)]
mod trees_tests;
#[cfg(test)]
pub(crate) mod world;
