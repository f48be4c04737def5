//! The config file: built-in defaults, then the file, then flags; checked as a whole, then never changed.
//!
//! Everything that is wrong is found in one pass and has its line, before any machine is contacted. Reading
//! the file is the only I/O here; [`resolve`] and everything below it are pure.

mod boot;
mod check;
mod document;
mod effective;
mod findings;
pub mod nearest;
mod probe;
mod problem;
mod reference;
mod request;
mod rollback;
mod schema;
mod select;
mod show;
mod source;
pub mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use pc_switcher_contract::{LogLevel, ModuleName, ModuleSpec};
use serde::Deserialize;
use serde_json::{Map, Value};

pub use boot::BootConfig;
pub use effective::{Entry, Origin, Table};
pub use problem::{ConfigErrors, ConfigProblem, Spot};
pub use reference::markdown;
pub use request::{Overrides, SyncRequest};
pub use rollback::{DeadmanMode, HealthCheck, RollbackConfig};
pub use schema::{SYNC_MODULES, TopLevel, whole as schema};
pub use select::find_module;
pub use show::{json, toml};
pub use source::Source;

use crate::paths::{self, Env};
use document::Document;
use effective::File;

/// The annotated defaults, as `init` writes them.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// What applies: loaded once, immutable for the whole session.
#[derive(Debug, Clone)]
pub struct Config {
    /// What the session's log file holds.
    pub log_file_level: LogLevel,
    /// What the terminal shows.
    pub log_cli_level: LogLevel,
    /// Whether a sync may run without snapshots.
    pub allow_no_snapshots: bool,
    /// The modules that are on, in the order in which they run; required ones are not among them.
    pub modules: Vec<ModuleName>,
    /// What `[rollback]` says.
    pub rollback: RollbackConfig,
    /// What `[boot-protection]` says.
    pub boot: BootConfig,
    /// The checked table of every registered module, with all defaults filled in.
    pub tables: BTreeMap<ModuleName, Value>,
    /// The checked tables that belong to no module, likewise.
    pub own_tables: BTreeMap<&'static str, Value>,
    /// The file that was read; `None` if the built-in defaults apply.
    pub path: Option<PathBuf>,
    /// Every key that applies and where it comes from.
    pub effective: Vec<Table>,
    /// What applies as TOML, for the record of a session.
    pub text: String,
    /// SHA-256 over all values that apply, whatever their order, layer or notation; 64 hex digits.
    pub hash: String,
    /// What a person should know although the config is right.
    pub warnings: Vec<ConfigProblem>,
    /// What is wrong with `bt.toml`: nothing of it applies then, which concerns those alone who use vaults.
    pub vault_problems: Vec<ConfigProblem>,
}

impl Config {
    /// Returns the checked table of a module.
    pub fn table(&self, module: &ModuleName) -> &Value {
        self.tables.get(module).unwrap_or(&Value::Null)
    }

    /// Returns the checked table of that name, which belongs to no module.
    pub fn own_table(&self, name: &str) -> &Value {
        self.own_tables.get(name).unwrap_or(&Value::Null)
    }

    /// Returns the config for those who use vaults.
    ///
    /// # Errors
    /// Everything that is wrong with `bt.toml`.
    pub fn with_vaults(self) -> Result<Self, ConfigErrors> {
        if self.vault_problems.is_empty() { Ok(self) } else { Err(ConfigErrors(self.vault_problems)) }
    }
}

/// Reads and checks the config: `explicit` if given, else the user's file, else the built-in defaults. Of vaults, what
/// `bt.toml` says lies below it; a slip there keeps nobody from anything but vaults.
///
/// # Errors
/// Everything that is wrong with the file and with the flags, in one pass.
pub fn load(
    explicit: Option<&Path>,
    overrides: &Overrides,
    specs: &[ModuleSpec],
    env: &Env,
) -> Result<Config, ConfigErrors> {
    let one = |problem| ConfigErrors(vec![problem]);
    let path = match explicit {
        Some(path) => path.to_owned(),
        None => paths::config_file(env).map_err(|error| {
            one(ConfigProblem::general(error.to_string()).help("name the file with --config"))
        })?,
    };
    let source = Source::read(&path).map_err(one)?;
    let below = paths::vault_settings(env).ok().map(|path| Source::read(&path)).transpose();
    let (below, unreadable) =
        below.map_or_else(|problem| (None, Some(problem)), |read| (read.flatten(), None));
    if source.is_none() && explicit.is_some() {
        let missing =
            ConfigProblem { path: Some(path), ..ConfigProblem::general("there is no such config file") };
        return Err(one(missing.help("`pc-switcher init` writes one")));
    }
    let mut config = resolve_over(source.as_ref(), below.as_ref(), overrides, specs)?;
    config.vault_problems.extend(unreadable);
    if source.is_none() {
        let note = ConfigProblem::general("there is no config file; the built-in defaults apply");
        let note = ConfigProblem { path: Some(path), ..note };
        config.warnings.push(note.help("`pc-switcher init` writes one"));
    }
    Ok(config)
}

/// What is said of vaults.
#[derive(Debug, Clone)]
pub struct Vaults {
    /// The config file, whether it is there or not.
    pub path: PathBuf,
    /// [vault], and the list of [[vaults]].
    pub tables: Vec<Table>,
}

/// Reads what the config and `bt.toml` say of vaults. What else is wrong in the config keeps nobody from their files.
///
/// # Errors
/// Everything that is wrong with what they say of vaults.
pub fn load_vaults(explicit: Option<&Path>, env: &Env) -> Result<Vaults, ConfigErrors> {
    let one = |problem| ConfigErrors(vec![problem]);
    let homeless = |error: paths::NoHome| one(ConfigProblem::general(error.to_string()));
    let path =
        explicit.map_or_else(|| paths::config_file(env), |path| Ok(path.to_owned())).map_err(homeless)?;
    let below = paths::vault_settings(env).map_err(homeless)?;
    let sources = [Source::read(&path).map_err(one)?, Source::read(&below).map_err(one)?];
    let parsed: Vec<Parsed<'_>> = [false, true]
        .into_iter()
        .zip(&sources)
        .filter_map(|(is_below, source)| {
            let source = source.as_ref()?;
            Some(Parsed { source, read: read(source, &[]), is_below })
        })
        .collect();
    let problems: Vec<ConfigProblem> = parsed
        .iter()
        .flat_map(|parsed| match parsed.is_below {
            true => parsed.problems(&[]),
            false => parsed.told(findings::problems_of_vaults(parsed.file())),
        })
        .collect();
    if !problems.is_empty() {
        return Err(ConfigErrors(problems));
    }
    let files: Vec<File<'_>> = parsed.iter().map(Parsed::file).collect();
    let defaults = |spec: tables::TableSpec| spec.defaults.as_object().cloned().unwrap_or_default();
    let general = tables::own().into_iter().find(|spec| spec.name == tables::VAULT);
    let mut found = vec![effective::merge(tables::VAULT, &general.map(defaults).unwrap_or_default(), &files)];
    found.extend(effective::merge_list(tables::VAULTS, &defaults(tables::vault()), &files));
    Ok(Vaults { path, tables: found })
}

/// Lays the layers over each other and checks them.
///
/// # Errors
/// Everything that is wrong with the file and with the flags, in the order of the file.
pub fn resolve(
    source: Option<&Source>,
    overrides: &Overrides,
    specs: &[ModuleSpec],
) -> Result<Config, ConfigErrors> {
    resolve_over(source, None, overrides, specs)
}

/// As [`resolve`], with a file that lies below it and speaks of vaults alone.
///
/// # Errors
/// As [`resolve`], with what is wrong with that file; if nothing else is wrong, that is in the config instead.
pub fn resolve_over(
    source: Option<&Source>,
    below: Option<&Source>,
    overrides: &Overrides,
    specs: &[ModuleSpec],
) -> Result<Config, ConfigErrors> {
    let parse = |source, is_below| Parsed { source, read: read(source, specs), is_below };
    let parsed = source.map(|source| parse(source, false));
    let below = below.map(|source| parse(source, true));
    let file = parsed.as_ref().map(Parsed::file);
    let problems_of = |parsed: &Option<Parsed<'_>>| -> Vec<ConfigProblem> {
        parsed.as_ref().map(|parsed| parsed.problems(specs)).unwrap_or_default()
    };
    let (mut problems, vault_problems) = (problems_of(&parsed), problems_of(&below));
    let below = below.as_ref().filter(|_| vault_problems.is_empty());
    let files: Vec<File<'_>> = parsed.iter().chain(below).map(Parsed::file).collect();
    let mut sync_modules = effective::merge_sync_modules(specs, file);
    if problems.is_empty() && select::enabled(&sync_modules).is_empty() && overrides.only.is_empty() {
        problems.push(nothing_enabled(file, specs));
    }
    problems.extend(select::apply_flags(&mut sync_modules, specs, overrides));
    if !problems.is_empty() {
        // After what the file above it says, as both are read.
        let at = problems.iter().position(|problem| problem.path.is_none()).unwrap_or(problems.len());
        problems.splice(at..at, vault_problems);
        return Err(ConfigErrors(problems));
    }
    let warnings = file.map(|file| findings::warnings_of(file, specs)).unwrap_or_default();
    let config = assemble(&files, sync_modules, overrides, specs, warnings)?;
    Ok(Config { vault_problems, ..config })
}

/// A file with what is wrong in its syntax.
struct Parsed<'a> {
    source: &'a Source,
    read: (Document, Vec<ConfigProblem>),
    is_below: bool,
}

impl Parsed<'_> {
    fn file(&self) -> File<'_> {
        File { source: self.source, document: &self.read.0, is_below: self.is_below }
    }

    /// Returns everything that is wrong with it, in its order.
    fn problems(&self, specs: &[ModuleSpec]) -> Vec<ConfigProblem> {
        self.told(findings::problems_of(self.file(), specs))
    }

    /// Returns what is wrong with its syntax and what of the rest can be relied on, in its order.
    fn told(&self, found: Vec<ConfigProblem>) -> Vec<ConfigProblem> {
        let mut problems = self.read.1.clone();
        let broken: BTreeSet<usize> =
            problems.iter().filter_map(|problem| problem.spot).map(|spot| spot.line).collect();
        let lost_from = self.read.0.lost_from.unwrap_or(usize::MAX);
        let reliable = |spot: Spot| spot.line < lost_from && !broken.contains(&spot.line);
        problems.extend(found.into_iter().filter(|problem| problem.spot.is_none_or(reliable)));
        problems.sort_by_key(|problem| problem.spot);
        problems.into_iter().map(|problem| self.discreet(problem)).collect()
    }

    /// Shows nothing of a line whose key sounds as if nobody should read its value on a screen.
    fn discreet(&self, problem: ConfigProblem) -> ConfigProblem {
        let line =
            problem.spot.and_then(|spot| self.source.text.lines().nth(spot.line - 1)).unwrap_or_default();
        let key = line.split('=').next().unwrap_or_default().to_lowercase();
        let hides = ["secret", "token", "password"].iter().any(|word| key.contains(word));
        if !hides || key.contains("password_file") {
            return problem;
        }
        let is_of_key =
            ["unknown key", "duplicate key"].iter().any(|words| problem.message.starts_with(words));
        let message = if is_of_key { problem.message } else { "this line is not right".into() };
        ConfigProblem { message, help: Some("secrets are never in settings".into()), ..problem }
    }
}

fn read(source: &Source, specs: &[ModuleSpec]) -> (Document, Vec<ConfigProblem>) {
    let of_modules = specs.iter().flat_map(|spec| [spec.name.as_str(), spec.table]);
    let names: Vec<&str> = of_modules.chain(tables::OWN).collect();
    let (mut document, problems) = document::parse(source, &names);
    effective::canonical_levels(&mut document.root);
    (document, problems)
}

fn nothing_enabled(file: Option<File<'_>>, specs: &[ModuleSpec]) -> ConfigProblem {
    let message = format!("[{SYNC_MODULES}] switches no module on");
    let problem = match file {
        Some(file) => file.source.problem(file.document.key("/sync_modules"), message),
        None => ConfigProblem::general(message),
    };
    let names: Vec<_> =
        specs.iter().filter(|spec| !spec.required).map(|spec| format!("`{}`", spec.name)).collect();
    problem.help(format!("set at least one to true: {}", names.join(", ")))
}

/// Puts the result together; the layers are known to be right.
fn assemble(
    files: &[File<'_>],
    sync_modules: Table,
    overrides: &Overrides,
    specs: &[ModuleSpec],
    warnings: Vec<ConfigProblem>,
) -> Result<Config, ConfigErrors> {
    let shipped = Shipped::read(specs);
    let file = files.iter().copied().find(|file| !file.is_below);
    let own: Vec<File<'_>> = file.into_iter().collect();
    let mut top = effective::merge("", &shipped.top, &own);
    if let Some(level) = overrides.log_cli_level {
        top.set("log_cli_level", Value::String(level.as_str().into()), Origin::Flag("--log-level"));
    }
    let broken = |error: serde_json::Error| ConfigErrors(vec![ConfigProblem::general(error.to_string())]);
    let keys = TopLevel::deserialize(top.value()).map_err(broken)?;
    let modules = select::enabled(&sync_modules);
    let mut effective = vec![top, sync_modules];
    let mut tables = BTreeMap::new();
    for spec in specs {
        let defaults = shipped.tables.get(spec.table).cloned().unwrap_or_default();
        let table = effective::merge(spec.table, &defaults, &own);
        tables.insert(spec.name.clone(), table.value());
        effective.push(table);
    }
    let mut own_tables = BTreeMap::new();
    for spec in tables::own() {
        let defaults = shipped.tables.get(spec.name).cloned().unwrap_or_default();
        let layers = if tables::BELOW.contains(&spec.name) { files } else { &own };
        let table = effective::merge(spec.name, &defaults, layers);
        own_tables.insert(spec.name, table.value());
        effective.push(table);
    }
    let vault_defaults = tables::vault().defaults.as_object().cloned().unwrap_or_default();
    effective.extend(effective::merge_list(tables::VAULTS, &vault_defaults, files));
    let rollback = RollbackConfig::deserialize(&own_tables[tables::ROLLBACK]).map_err(broken)?;
    let boot = BootConfig::deserialize(&own_tables[tables::BOOT_PROTECTION]).map_err(broken)?;
    Ok(Config {
        rollback,
        boot,
        log_file_level: keys.log_file_level,
        log_cli_level: keys.log_cli_level,
        allow_no_snapshots: keys.allow_no_snapshots,
        modules,
        tables,
        own_tables,
        path: file.map(|file| file.source.path.clone()),
        text: show::toml(&effective, false),
        hash: show::hash(&effective),
        effective,
        warnings,
        vault_problems: Vec::new(),
    })
}

/// The built-in layer.
struct Shipped {
    /// The keys before the first table.
    top: Map<String, Value>,
    /// Every table; what the shipped file does not mention comes from whoever it belongs to.
    tables: BTreeMap<&'static str, Map<String, Value>>,
}

impl Shipped {
    fn read(specs: &[ModuleSpec]) -> Self {
        let source = Source { path: "default.toml".into(), text: DEFAULT_TOML.into() };
        let (document, _) = read(&source, specs);
        let own = tables::own();
        let tables = tables::all(specs, &own).into_iter().map(|spec| {
            let mut table = spec.defaults.as_object().cloned().unwrap_or_default();
            let written = document.root.get(spec.name).and_then(Value::as_object);
            table.extend(written.cloned().unwrap_or_default());
            (spec.name, table)
        });
        let tables = tables.collect();
        Self { top: document.root.into_iter().filter(|(_, value)| !value.is_object()).collect(), tables }
    }
}

#[cfg(test)]
mod tests;
