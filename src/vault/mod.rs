//! What the vault is handed of this machine: the same for `bt`, for `pc-switcher vault` and for the module of a sync.

pub mod held;
pub mod line;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use pc_switcher_contract::ModuleError;
use pc_switcher_vault::format::Id;
use pc_switcher_vault::format::keyfile::Cost;
use pc_switcher_vault::format::lock;
use pc_switcher_vault::repo::Who;
use pc_switcher_vault::secret::VARIABLE;
use pc_switcher_vault::service::{Above, General, Outside, Places, Surroundings, where_they_lie};
use pc_switcher_vault::store::Stop;
use pc_switcher_vault::store::s3::Credentials;
use pc_switcher_vault::sync::Given;
use serde_json::{Map, Value};

use crate::cli::{asking_env, own_name, terminal_facts, user};
use crate::clock;
use crate::config::{self, Origin, Table, Vaults, tables};
use crate::paths::{self, Env, NoHome};

/// Who can be asked when another machine wants to know who logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// The person at the terminal, if there is one.
    Person,
    /// Nobody: other things go on there.
    Nobody,
}

/// Returns where everything lies.
///
/// # Errors
/// If the environment names no home.
pub fn places(env: &Env) -> Result<Places, NoHome> {
    Ok(Places::new(paths::vault_settings(env)?, paths::state_dir(env)?))
}

/// Returns the directories of our own that settings name, as far as these can be read: they are never mirrored.
pub fn own_directories(env: &Env) -> Vec<PathBuf> {
    let config = env.config.clone().map_or_else(|| paths::config_file(env), Ok);
    let files = [config, paths::vault_settings(env)].into_iter().flatten();
    let texts = files.filter_map(|file| std::fs::read_to_string(file).ok());
    texts.flat_map(|text| General::directories_named_in(&text)).collect()
}

/// Returns what the config file itself says of vaults; what `bt.toml` says is left to whoever reads that.
pub fn above(said: &Vaults) -> Above {
    let own = |table: &Table| -> Map<String, Value> {
        let written = table.entries.iter().filter(|entry| matches!(entry.origin, Origin::File(_)));
        written.map(|entry| (entry.key.clone(), entry.value.clone())).collect()
    };
    let of = |name: &'static str| said.tables.iter().filter(move |table| table.name == name).map(own);
    Above {
        path: said.path.clone(),
        vault: of(tables::VAULT).next().unwrap_or_default(),
        vaults: of(tables::VAULTS).filter(|vault| !vault.is_empty()).map(Value::Object).collect(),
    }
}

/// Returns what the service is handed.
///
/// # Errors
/// If this machine has no name.
pub fn surroundings(env: &Env, places: Places, above: Above, asks: Asks) -> Result<Surroundings, String> {
    let who = Who {
        hostname: own_name()?.to_string(),
        username: user(env),
        uid: env.uid,
        gid: rustix::process::getgid().as_raw(),
        pid: std::process::id(),
        origin: origin(),
        booted_at: booted_at(),
    };
    let (clock, stop) = (clock::system(), Stop::default());
    let variable = |name: &str| env.var(name).and_then(OsStr::to_str).map(str::to_owned);
    let credentials = Credentials::from_variables(variable);
    let own = env.clone();
    let dial = line::dial(move || {
        let mut remote = asking_env(&own, terminal_facts(&own));
        remote.has_terminal &= asks == Asks::Person;
        remote
    });
    let stores = where_they_lie(Outside { credentials, clock: clock.clone(), stop: stop.clone(), dial });
    Ok(Surroundings { places, above, clock, who, cost: Cost::NORMAL, stores, stop })
}

/// Returns where this process runs. The id of a machine is for nobody else's eyes, so a digest stands for it.
fn origin() -> lock::Origin {
    let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let machine = read("/etc/machine-id");
    let pid_namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    lock::Origin {
        machine_id: match machine.is_empty() {
            true => machine,
            false => Id::of(format!("pc-switcher vault lock {machine}").as_bytes()).hex(),
        },
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        pid_namespace: pid_namespace.to_string_lossy().into_owned(),
    }
}

/// Returns since when this system runs, by its clock.
fn booted_at() -> Option<Timestamp> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Timestamp::from_second(seconds).ok()
}

/// Returns what the module of a sync is handed; nothing is looked up before it asks.
pub fn given(env: &Env) -> Given {
    let own = env.clone();
    // One for the whole sync: lines to other machines stay up between its phases.
    let known: Mutex<Option<Surroundings>> = Mutex::default();
    let surroundings = Arc::new(move || {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let places = places(&own).map_err(|error| ModuleError::failed(error.to_string()))?;
        let said = config::load_vaults(own.config.as_deref(), &own);
        let above = above(&said.map_err(|errors| ModuleError::failed(errors.to_string()))?);
        let made = surroundings(&own, places, above, Asks::Nobody).map_err(ModuleError::failed)?;
        *known = Some(made.clone());
        Ok(made)
    });
    Given { surroundings, variable: env.var(VARIABLE).map(|word| word.as_bytes().to_vec()) }
}
