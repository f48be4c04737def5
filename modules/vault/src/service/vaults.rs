//! The vaults that are set: made once by `init`, known by their marker, never made by accident.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use pc_switcher_contract::{Clock, ErrorKind, ModuleError};
use serde::{Deserialize, Serialize};

use super::settings::{VaultKind, VaultSettings};
use crate::catalogue::{Catalogue, VaultState};
use crate::error::{Result, damaged};
use crate::format::keyfile::Cost;
use crate::repo::{Repository, Who};
use crate::store::s3::{Credentials, Retries, S3Options};
use crate::store::ssh::{Dial, Hope, SshPlace};
use crate::store::{FsStore, Kind, S3Store, SshStore, Stop, Store};

/// What a marker says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    vault_id: String,
    layout: u32,
}

/// What is asked of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// The passphrase of a vault.
    Open(String),
    /// A passphrase for a new vault.
    New(String),
}

/// Answers with a passphrase.
pub type Passphrase<'a> = dyn FnMut(Ask) -> Result<Vec<u8>> + 'a;

/// Opens the place of a vault; makes nothing.
pub type OpenStore = Arc<dyn Fn(&VaultSettings) -> Result<Arc<dyn Store>> + Send + Sync>;

/// What places that are elsewhere need of this one.
#[derive(Clone)]
pub struct Outside {
    /// The credentials that the environment holds.
    pub credentials: Option<Credentials>,
    /// The time: signatures carry it.
    pub clock: Clock,
    /// Whether somebody wants a run to end.
    pub stop: Stop,
    /// Logs in to other machines.
    pub dial: Dial,
}

/// What tells one place that is elsewhere from another.
#[derive(PartialEq)]
enum Elsewhere {
    Buckets(Box<S3Options>),
    Machine(SshPlace),
}

/// Returns what opens vaults where their settings say.
pub fn where_they_lie(outside: Outside) -> OpenStore {
    // One of each: connections are kept.
    let known: Mutex<Vec<(Elsewhere, Arc<dyn Store>)>> = Mutex::default();
    Arc::new(move |settings| {
        let place = match settings.kind {
            VaultKind::Filesystem => return Ok(Arc::new(FsStore::at(&settings.root))),
            VaultKind::S3 => Elsewhere::Buckets(Box::new(settings.s3(outside.credentials.as_ref())?)),
            VaultKind::Ssh => Elsewhere::Machine(settings.ssh()?),
        };
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, store)) = known.iter().find(|(other, _)| *other == place) {
            return Ok(store.clone());
        }
        let (clock, stop) = (outside.clock.clone(), outside.stop.clone());
        let store: Arc<dyn Store> = match &place {
            Elsewhere::Buckets(options) => {
                Arc::new(S3Store::at(options.as_ref().clone(), clock, stop, Retries::default())?)
            }
            Elsewhere::Machine(place) => {
                Arc::new(SshStore::at(place.clone(), outside.dial.clone(), stop, Hope::default()))
            }
        };
        known.push((place, store.clone()));
        Ok(store)
    })
}

/// What `init` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prepared {
    /// Made a vault.
    Made,
    /// Found a repository and made it a vault.
    Adopted,
    /// Found the vault as it should be.
    Verified,
}

impl std::fmt::Display for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Made => "made",
            Self::Adopted => "adopted",
            Self::Verified => "verified",
        })
    }
}

/// Makes a vault where there is none, and proves that it can be opened and written.
///
/// # Errors
/// If something else lies there, the disk is not mounted, or the passphrase does not fit.
pub fn prepare(
    settings: &VaultSettings,
    store: Arc<dyn Store>,
    catalogue: &mut Catalogue,
    passphrase: &mut Passphrase<'_>,
    cost: Cost,
    who: &Who,
    now: Timestamp,
) -> Result<Prepared> {
    if store.get(Kind::Marker, "")?.is_some() || catalogue.vault_state(&settings.name)?.is_some() {
        open(settings, store, catalogue, passphrase)?;
        return Ok(Prepared::Verified);
    }
    let taken = store.get(Kind::Config, "")?.is_some();
    if !taken && !store.is_vacant()? {
        let message = format!("`{}` is neither empty nor a repository", settings.root.display());
        let another = if settings.kind == VaultKind::S3 { "prefix" } else { "directory" };
        return Err(ModuleError::new(ErrorKind::Invalid, message)
            .hint(format!("name another {another} as the vault's root")));
    }
    let made = if taken {
        let word = passphrase(Ask::Open(settings.name.clone()))?;
        // Nothing is made before the passphrase has proved to be the one.
        Repository::open(store.clone(), &word)?;
        store.make_ready()?;
        Prepared::Adopted
    } else {
        let word = passphrase(Ask::New(settings.name.clone()))?;
        store.make_ready()?;
        Repository::init(store.clone(), &word, cost, who, now)?;
        Prepared::Made
    };
    let marker = Marker { vault_id: uuid::Uuid::new_v4().to_string(), layout: 1 };
    let text = serde_json::to_vec(&marker).map_err(|error| ModuleError::failed(error.to_string()))?;
    store.put(Kind::Marker, "", &text)?;
    remember(settings, catalogue, marker.vault_id)?;
    Ok(made)
}

fn remember(settings: &VaultSettings, catalogue: &mut Catalogue, vault_id: String) -> Result<()> {
    let state = VaultState { vault_id, uploaded: 0, pending: false };
    catalogue.set_vault_state(&settings.name, &state)
}

/// Proves that the vault that was set up is where it should be, and returns its id; makes nothing.
///
/// # Errors
/// If it is not, or another one is.
pub fn check_marker(settings: &VaultSettings, store: &dyn Store, catalogue: &Catalogue) -> Result<String> {
    let root = settings.root.display();
    let Some(text) = store.get(Kind::Marker, "")? else {
        let message = format!("there is no vault in `{root}` (`{}`)", settings.name);
        let hint = match catalogue.vault_state(&settings.name)? {
            Some(_) if settings.kind == VaultKind::S3 => "was it removed? is `root` still the right one?",
            Some(_) => "is its disk mounted?",
            None => "`bt config vault init` makes it",
        };
        return Err(ModuleError::new(ErrorKind::Unreachable, message).hint(hint));
    };
    let marker: Marker = serde_json::from_slice(&text)
        .map_err(|error| damaged(format!("the marker of the vault in `{root}`"), error))?;
    if marker.layout != 1 {
        return Err(ModuleError::failed(format!("the vault in `{root}` has the layout {}", marker.layout))
            .hint("a newer pc-switcher made it"));
    }
    match catalogue.vault_state(&settings.name)? {
        Some(state) if state.vault_id != marker.vault_id => {
            let message = format!("another vault than `{}` lies in `{root}`", settings.name);
            let hint = match settings.kind {
                VaultKind::Filesystem => {
                    "is another disk mounted there? a vault that shall be used beside it takes another name"
                }
                VaultKind::S3 | VaultKind::Ssh => {
                    "is `root` the right one? a vault that shall be used beside it takes another name"
                }
            };
            Err(ModuleError::new(ErrorKind::Invalid, message).hint(hint))
        }
        _ => Ok(marker.vault_id),
    }
}

/// Opens a vault that was set up.
///
/// # Errors
/// If it is not there, or the passphrase does not fit.
pub fn open(
    settings: &VaultSettings,
    store: Arc<dyn Store>,
    catalogue: &mut Catalogue,
    passphrase: &mut Passphrase<'_>,
) -> Result<Repository> {
    let vault_id = check_marker(settings, &*store, catalogue)?;
    let word = passphrase(Ask::Open(settings.name.clone()))?;
    let repo = Repository::open(store, &word)?;
    if catalogue.vault_state(&settings.name)?.is_none() {
        remember(settings, catalogue, vault_id)?;
    }
    Ok(repo)
}
