//! One of `[[vaults]]`: where it is, and what reaching it takes.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::schema_of;
use crate::error::{Result, usage};
use crate::store::s3::{Bucket, Credentials, CredentialsFrom, Endpoint, Location, S3Options};
use crate::store::ssh::SshPlace;

/// One of `[[vaults]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultSettings {
    /// For people, and for `--vault`.
    pub name: String,
    /// What sort of place it is.
    #[serde(rename = "type")]
    pub kind: VaultKind,
    /// The directory, or `s3:https://host/bucket/prefix`, or `ssh://host/directory`.
    #[serde(default, skip_serializing_if = "is_nowhere")]
    #[schemars(with = "String")]
    pub root: PathBuf,
    /// Whether a backup fails without it.
    #[serde(default = "yes")]
    pub required: bool,
    /// How many copies of the catalogue it keeps.
    #[serde(default = "ten")]
    #[schemars(range(min = 1))]
    pub keep_metadata_versions: usize,
    /// The server of the buckets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub endpoint: Option<String>,
    /// Its region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub region: Option<String>,
    /// Whether buckets are parts of paths and not of the server's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub path_style: Option<bool>,
    /// Where contents of files are put.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub storage_class: Option<String>,
    /// Certificates that are trusted beside the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub ca_file: Option<PathBuf>,
    /// Who we are for the server: `env` or `file:PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub credentials: Option<String>,
    /// The bucket of the repository; another way to say `root`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Spot")]
    pub content: Option<Spot>,
    /// The bucket of what machines keep of their own, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Spot")]
    pub metadata: Option<Spot>,
}

/// A part of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Spot {
    /// The bucket.
    pub bucket: String,
    /// What all names in it begin with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Who we are there, if not who we are elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub credentials: Option<String>,
}

/// What sort of place a vault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VaultKind {
    /// A directory, on a disk of its own if it shall survive this one.
    Filesystem,
    /// Buckets of a server that speaks S3.
    S3,
    /// A directory of another machine that `ssh` leads to.
    Ssh,
}

/// What does not fit in the settings of a vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The key that it is about, if that is there.
    pub key: Option<&'static str>,
    /// What it is; goes on after the name of the vault.
    pub why: String,
}

fn mistake(key: &'static str, why: impl Into<String>) -> Mistake {
    Mistake { key: Some(key), why: why.into() }
}

impl VaultSettings {
    /// Returns the JSON Schema of one of `[[vaults]]`.
    pub fn schema() -> Value {
        schema_of::<Self>()
    }

    /// Returns what holds where nothing else is said.
    pub fn defaults() -> Value {
        json!({ "required": yes(), "keep_metadata_versions": ten() })
    }

    /// Says everything that is wrong with one of `[[vaults]]`.
    pub fn mistakes_of(table: &Value) -> Vec<Mistake> {
        match Self::deserialize(table) {
            Ok(vault) => vault.mistakes(),
            Err(error) => vec![Mistake { key: None, why: error.to_string() }],
        }
    }

    /// Returns how a text that names a place is meant.
    pub fn kind_of(root: &str) -> VaultKind {
        match () {
            () if Location::is_meant(root) => VaultKind::S3,
            () if SshPlace::is_meant(root) => VaultKind::Ssh,
            () => VaultKind::Filesystem,
        }
    }

    /// Proves that the settings fit each other, and says where the vault is in one way only.
    pub(super) fn settle(&mut self) -> std::result::Result<(), String> {
        if let Some(Mistake { why, .. }) = self.mistakes().into_iter().next() {
            return Err(why);
        }
        match self.kind {
            VaultKind::Filesystem => {}
            VaultKind::Ssh => self.root = SshPlace::parse(&self.root.to_string_lossy())?.to_string().into(),
            VaultKind::S3 => self.root = self.content_place().map_err(|wrong| wrong.why)?.to_string().into(),
        }
        Ok(())
    }

    /// Returns everything in which the settings do not fit each other.
    fn mistakes(&self) -> Vec<Mistake> {
        let mut all = Vec::new();
        if self.name.is_empty() || self.name.contains(['/', '\n']) {
            all.push(mistake("name", "has no name that a vault can have"));
        }
        let root = self.root.to_string_lossy();
        let wrong_root = match (self.kind, Self::kind_of(&root)) {
            (VaultKind::Filesystem | VaultKind::Ssh, VaultKind::S3) => {
                Some("has the root of one with `type = \"s3\"`".into())
            }
            (VaultKind::Filesystem, VaultKind::Ssh) => {
                Some("has the root of one with `type = \"ssh\"`".into())
            }
            (VaultKind::Filesystem, _) if !self.root.is_absolute() => {
                Some("has a root that is not absolute".into())
            }
            (VaultKind::Filesystem, _) => None,
            (VaultKind::Ssh, _) => {
                SshPlace::parse(&root).err().map(|why| format!("has no place on another machine: {why}"))
            }
            (VaultKind::S3, _) => None,
        };
        all.extend(wrong_root.map(|why: String| mistake("root", why)));
        if self.kind != VaultKind::S3 {
            let foreign = self.said_of_s3();
            all.extend(
                foreign.map(|key| mistake(key, format!("is a directory: `{key}` is for `type = \"s3\"`"))),
            );
            return all;
        }
        match self.content_place() {
            Err(wrong) => all.push(wrong),
            Ok(_) => all.extend(self.metadata_place().err()),
        }
        if self.ca_file.as_ref().is_some_and(|path| !path.is_absolute()) {
            all.push(mistake("ca_file", "has a `ca_file` that is not absolute"));
        }
        let of = |spot: &Option<Spot>| spot.as_ref().and_then(|spot| spot.credentials.clone());
        for (key, from) in [
            ("credentials", self.credentials.clone()),
            ("content", of(&self.content)),
            ("metadata", of(&self.metadata)),
        ] {
            let wrong = from.and_then(|from| from.parse::<CredentialsFrom>().err());
            all.extend(wrong.map(|why| mistake(key, why)));
        }
        all
    }

    /// Returns where a vault of another machine is.
    ///
    /// # Errors
    /// If it is none.
    pub fn ssh(&self) -> Result<SshPlace> {
        let place = SshPlace::parse(&self.root.to_string_lossy());
        place.map_err(|why| usage(format!("the vault `{}`: {why}", self.name)))
    }

    /// Returns the keys that say something of buckets.
    fn said_of_s3(&self) -> impl Iterator<Item = &'static str> + use<> {
        let all = [
            ("endpoint", self.endpoint.is_some()),
            ("region", self.region.is_some()),
            ("path_style", self.path_style.is_some()),
            ("storage_class", self.storage_class.is_some()),
            ("ca_file", self.ca_file.is_some()),
            ("credentials", self.credentials.is_some()),
            ("content", self.content.is_some()),
            ("metadata", self.metadata.is_some()),
        ];
        all.into_iter().filter(|(_, is_said)| *is_said).map(|(name, _)| name)
    }

    fn content_place(&self) -> std::result::Result<Location, Mistake> {
        let at = |key| move |why: String| mistake(key, why);
        let named = match is_nowhere(&self.root) {
            true => None,
            false => Some(Location::parse(&self.root.to_string_lossy()).map_err(at("root"))?),
        };
        let endpoint =
            self.endpoint.as_ref().map(|text| Endpoint::parse(text).map_err(at("endpoint"))).transpose()?;
        let put_together = match (&endpoint, &self.content) {
            (Some(endpoint), Some(spot)) => {
                let place = Location::new(endpoint.clone(), &spot.bucket, &spot.prefix);
                Some(place.map_err(at("content"))?)
            }
            (None, None) => None,
            (Some(_), None) if named.is_some() => None,
            (Some(_), None) => {
                return Err(mistake("endpoint", "needs both `endpoint` and `content`, or a `root`"));
            }
            (None, Some(_)) => {
                return Err(mistake("content", "needs both `endpoint` and `content`, or a `root`"));
            }
        };
        match (named, put_together) {
            (Some(named), Some(other)) if named != other => {
                Err(mistake("root", "has a `root` that is not its `endpoint` and `content`"))
            }
            (Some(named), None) if endpoint.is_some_and(|endpoint| endpoint != named.endpoint) => {
                Err(mistake("endpoint", "has a `root` that is not at its `endpoint`"))
            }
            (Some(place), _) | (None, Some(place)) => Ok(place),
            (None, None) => {
                let why = "lacks a `root`, such as `s3:https://s3.example.org/bucket/prefix`".into();
                Err(Mistake { key: None, why })
            }
        }
    }

    fn metadata_place(&self) -> std::result::Result<Location, Mistake> {
        let content = self.content_place()?;
        match &self.metadata {
            Some(spot) => Location::new(content.endpoint, &spot.bucket, &spot.prefix)
                .map_err(|why| mistake("metadata", why)),
            None => Ok(content),
        }
    }

    /// Returns what a store in buckets is made of; `given` are the credentials of the environment.
    ///
    /// # Errors
    /// If there are no credentials, or others may read them.
    pub fn s3(&self, given: Option<&Credentials>) -> Result<S3Options> {
        let wrong = |why: String| usage(format!("the vault `{}` {why}", self.name));
        let bucket = |place: Location, spot: Option<&Spot>| -> Result<Bucket> {
            let own = spot.and_then(|spot| spot.credentials.as_ref());
            let from = own.or(self.credentials.as_ref()).map(|from| from.parse::<CredentialsFrom>());
            let from = from.transpose().map_err(wrong)?.unwrap_or_default();
            let credentials = from.fetch(given, &place.to_string())?;
            Ok(Bucket { place, credentials })
        };
        let content = bucket(self.content_place().map_err(|one| wrong(one.why))?, self.content.as_ref())?;
        let metadata = match &self.metadata {
            Some(spot) => bucket(self.metadata_place().map_err(|one| wrong(one.why))?, Some(spot))?,
            None => content.clone(),
        };
        Ok(S3Options {
            content,
            metadata,
            region: self.region.clone(),
            path_style: self.path_style,
            storage_class: self.storage_class.clone(),
            ca_file: self.ca_file.clone(),
        })
    }
}

fn is_nowhere(root: &Path) -> bool {
    root.as_os_str().is_empty()
}

fn yes() -> bool {
    true
}

fn ten() -> usize {
    10
}
