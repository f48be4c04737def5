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
    /// Where packs are put.
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

impl VaultSettings {
    /// Returns the JSON Schema of one of `[[vaults]]`.
    pub fn schema() -> Value {
        schema_of::<Self>()
    }

    /// Returns what holds where nothing else is said.
    pub fn defaults() -> Value {
        json!({ "required": yes(), "keep_metadata_versions": ten() })
    }

    /// Says what is wrong with one of `[[vaults]]`, if anything.
    ///
    /// # Errors
    /// With what it is.
    pub fn check(table: &Value) -> std::result::Result<(), String> {
        let mut vault = Self::deserialize(table).map_err(|error| error.to_string())?;
        vault.settle()
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
        if self.name.is_empty() || self.name.contains(['/', '\n']) {
            return Err("has no name that a vault can have".into());
        }
        let root = self.root.to_string_lossy();
        let meant = Self::kind_of(&root);
        match self.kind {
            VaultKind::Filesystem | VaultKind::Ssh if meant == VaultKind::S3 => {
                Err("has the root of one with `type = \"s3\"`".into())
            }
            VaultKind::Filesystem if meant == VaultKind::Ssh => {
                Err("has the root of one with `type = \"ssh\"`".into())
            }
            VaultKind::Filesystem | VaultKind::Ssh if self.says_of_s3().is_some() => {
                Err(format!("is a directory: `{}` is for `type = \"s3\"`", self.says_of_s3().unwrap_or("")))
            }
            VaultKind::Filesystem if !self.root.is_absolute() => {
                Err("has a root that is not absolute".into())
            }
            VaultKind::Filesystem => Ok(()),
            VaultKind::Ssh => {
                let place = SshPlace::parse(&root);
                let place = place.map_err(|why| format!("has no place on another machine: {why}"))?;
                self.root = place.to_string().into();
                Ok(())
            }
            VaultKind::S3 => {
                self.root = self.content_place()?.to_string().into();
                if self.ca_file.as_ref().is_some_and(|path| !path.is_absolute()) {
                    return Err("has a `ca_file` that is not absolute".into());
                }
                let own = [&self.content, &self.metadata].into_iter().flatten();
                let all = own.filter_map(|spot| spot.credentials.as_ref()).chain(&self.credentials);
                for from in all {
                    from.parse::<CredentialsFrom>()?;
                }
                self.metadata_place().map(drop)
            }
        }
    }

    /// Returns where a vault of another machine is.
    ///
    /// # Errors
    /// If it is none.
    pub fn ssh(&self) -> Result<SshPlace> {
        let place = SshPlace::parse(&self.root.to_string_lossy());
        place.map_err(|why| usage(format!("the vault `{}`: {why}", self.name)))
    }

    fn says_of_s3(&self) -> Option<&'static str> {
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
        all.iter().find(|(_, is_said)| *is_said).map(|(name, _)| *name)
    }

    fn content_place(&self) -> std::result::Result<Location, String> {
        let named = match is_nowhere(&self.root) {
            true => None,
            false => Some(Location::parse(&self.root.to_string_lossy())?),
        };
        let put_together = match (&self.endpoint, &self.content) {
            (Some(endpoint), Some(spot)) => {
                Some(Location::new(Endpoint::parse(endpoint)?, &spot.bucket, &spot.prefix)?)
            }
            (None, None) => None,
            (Some(_), None) if named.is_some() => None,
            _ => return Err("needs both `endpoint` and `content`, or a `root`".into()),
        };
        let same_server = |place: &Location| {
            self.endpoint.as_ref().is_none_or(|text| Endpoint::parse(text).as_ref() == Ok(&place.endpoint))
        };
        match (named, put_together) {
            (Some(named), Some(other)) if named != other => {
                Err("has a `root` that is not its `endpoint` and `content`".into())
            }
            (Some(named), None) if !same_server(&named) => {
                Err("has a `root` that is not at its `endpoint`".into())
            }
            (Some(place), _) | (None, Some(place)) => Ok(place),
            (None, None) => Err("lacks a `root`, such as `s3:https://s3.example.org/bucket/prefix`".into()),
        }
    }

    fn metadata_place(&self) -> std::result::Result<Location, String> {
        let content = self.content_place()?;
        match &self.metadata {
            Some(spot) => Location::new(content.endpoint, &spot.bucket, &spot.prefix),
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
        let content = bucket(self.content_place().map_err(wrong)?, self.content.as_ref())?;
        let metadata = match &self.metadata {
            Some(spot) => bucket(self.metadata_place().map_err(wrong)?, Some(spot))?,
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
