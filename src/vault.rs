//! What the vault is handed of this machine: the same for `bt`, for `pc-switcher vault` and for the module of a sync.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use pc_switcher_contract::ModuleError;
use pc_switcher_vault::format::keyfile::Cost;
use pc_switcher_vault::repo::Who;
use pc_switcher_vault::secret::VARIABLE;
use pc_switcher_vault::service::{Outside, Places, Surroundings, where_they_lie};
use pc_switcher_vault::store::Stop;
use pc_switcher_vault::store::s3::Credentials;
use pc_switcher_vault::sync::Given;

use crate::cli::{own_name, user};
use crate::clock;
use crate::paths::{self, Env, NoHome};

/// Returns where everything lies; `config` are other settings than the user's own.
///
/// # Errors
/// If the environment names no home.
pub fn places(env: &Env, config: Option<PathBuf>) -> Result<Places, NoHome> {
    let config = config.map_or_else(|| paths::vault_settings(env), Ok)?;
    Ok(Places { config, state: paths::state_dir(env)? })
}

/// Returns what the service is handed.
///
/// # Errors
/// If this machine has no name.
pub fn surroundings(env: &Env, places: Places) -> Result<Surroundings, String> {
    let who = Who {
        hostname: own_name()?.to_string(),
        username: user(env),
        uid: env.uid,
        gid: rustix::process::getgid().as_raw(),
        pid: std::process::id(),
    };
    let (clock, stop) = (clock::system(), Stop::default());
    let variable = |name: &str| env.var(name).and_then(OsStr::to_str).map(str::to_owned);
    let credentials = Credentials::from_variables(variable);
    let stores = where_they_lie(Outside { credentials, clock: clock.clone(), stop: stop.clone() });
    Ok(Surroundings { places, clock, who, cost: Cost::NORMAL, stores, stop })
}

/// Returns what the module of a sync is handed; nothing is looked up before it asks.
pub fn given(env: &Env) -> Given {
    let own = env.clone();
    let surroundings = Arc::new(move || {
        let places = places(&own, None).map_err(|error| ModuleError::failed(error.to_string()))?;
        surroundings(&own, places).map_err(ModuleError::failed)
    });
    Given { surroundings, variable: env.var(VARIABLE).map(|word| word.as_bytes().to_vec()) }
}
