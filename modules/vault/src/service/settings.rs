//! `bt.toml`: which vaults there are and what is never backed up.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use pc_switcher_contract::keep::Keep;
use pc_switcher_contract::{ErrorKind, ModuleError};
use serde::{Deserialize, Serialize};

use crate::error::{Result, at, usage};
use crate::store::s3::{Bucket, Credentials, CredentialsFrom, Endpoint, Location, S3Options};

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What holds for all vaults.
    #[serde(default)]
    pub vault: General,
    /// The vaults.
    #[serde(default)]
    pub vaults: Vec<VaultSettings>,
}

/// The table `[vault]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct General {
    /// How much the stage may hold.
    pub staging_max: Size,
    /// Patterns in gitignore syntax, in each tracked directory.
    pub ignore: Vec<String>,
    /// Which of this machine's snapshots `prune` keeps; all of them without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
}

impl Default for General {
    fn default() -> Self {
        Self { staging_max: Size(10 << 30), ignore: Vec::new(), keep: None }
    }
}

/// One of `[[vaults]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultSettings {
    /// For people, and for `--vault`.
    pub name: String,
    /// What sort of place it is.
    #[serde(rename = "type")]
    pub kind: VaultKind,
    /// The directory, or `s3:https://host/bucket/prefix`: what `restic -r` takes.
    #[serde(default, skip_serializing_if = "is_nowhere")]
    pub root: PathBuf,
    /// Whether a backup fails without it.
    #[serde(default = "yes")]
    pub required: bool,
    /// How many copies of the catalogue it keeps.
    #[serde(default = "ten")]
    pub keep_metadata_versions: usize,
    /// The server of the buckets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Its region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whether buckets are parts of paths and not of the server's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Where packs are put.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// Certificates that are trusted beside the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Who we are for the server: `env` or `file:PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    /// The bucket of the repository; another way to say `root`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Spot>,
    /// The bucket of what machines keep of their own, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Spot>,
}

/// A part of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spot {
    /// The bucket.
    pub bucket: String,
    /// What all names in it begin with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Who we are there, if not who we are elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
}

/// What sort of place a vault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VaultKind {
    /// A directory, on a disk of its own if it shall survive this one.
    Filesystem,
    /// Buckets of a server that speaks S3.
    S3,
}

impl VaultSettings {
    /// Proves that the settings fit each other, and says where the vault is in one way only.
    fn settle(&mut self) -> std::result::Result<(), String> {
        match self.kind {
            VaultKind::Filesystem if Location::is_meant(&self.root.to_string_lossy()) => {
                Err("has the root of one with `type = \"s3\"`".into())
            }
            VaultKind::Filesystem if self.says_of_s3().is_some() => {
                Err(format!("is a directory: `{}` is for `type = \"s3\"`", self.says_of_s3().unwrap_or("")))
            }
            VaultKind::Filesystem if !self.root.is_absolute() => {
                Err("has a root that is not absolute".into())
            }
            VaultKind::Filesystem => Ok(()),
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

/// A number of bytes, written as `10GiB` or as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl Serialize for Size {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let fitting = units.iter().find(|(_, bits)| self.0 > 0 && self.0.is_multiple_of(1 << bits));
        match fitting {
            Some((unit, bits)) => serializer.serialize_str(&format!("{}{unit}", self.0 >> bits)),
            None => serializer.serialize_u64(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Number(bytes) => Ok(Size(bytes)),
            Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let split = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(split);
        let factor = match unit.trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1_u64 << 40,
            _ => 0,
        };
        let size = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        size.filter(|size| *size > 0)
            .map(Size)
            .ok_or_else(|| format!("`{text}` is no size such as \"10GiB\""))
    }
}

/// What settings say of all vaults at first.
const FIRST: &str = r#"# Settings of the vault: `pc-switcher vault` and `bt`. The passphrase is never in a file of settings.

[vault]
# How much `add` may keep in the stage until the next backup; larger files are read at the backup.
staging_max = "10GiB"
# What is never backed up, in gitignore syntax; a file `.btignore` in a directory says more for what is below it.
ignore = []
# Which backups `bt prune` keeps; without it all of them stay.
# keep = "all 2d, last 10 sessions, 14d, 8w, 12m, 5y"
"#;

/// What settings say of a vault in a bucket at first.
const FIRST_OF_S3: &str = r#"# "env" takes AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if set, AWS_SESSION_TOKEN; "file:PATH" a file of mode 0600.
credentials = "env"
# The region, if the server wants another than its name tells.
# region = "eu-central-1"
# Whether the bucket is a part of the path and not of the server's name.
# path_style = true
# Where packs are put, for example "STANDARD_IA"; what must be fetched first ("GLACIER") makes restoring and pruning wait.
# storage_class = "STANDARD"
# The certificate of a server of one's own.
# ca_file = "/etc/ssl/own.pem"
# Copies of the catalogue in another bucket of the server.
# metadata = { bucket = "BUCKET", prefix = "PREFIX", credentials = "env" }
"#;

impl Settings {
    /// Reads the text of the file.
    ///
    /// # Errors
    /// If it is wrong, with the line.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let mut settings: Self = toml::from_str(text)
            .map_err(|error| usage(format!("`{}` is not right: {}", path.display(), told(text, &error))))?;
        let wrong = |why: String| Err(usage(format!("`{}` is not right: {why}", path.display())));
        for vault in &mut settings.vaults {
            if let Err(why) = vault.settle() {
                return wrong(format!("the vault `{}` {why}", vault.name));
            }
        }
        for (index, vault) in settings.vaults.iter().enumerate() {
            if vault.name.is_empty() || vault.name.contains(['/', '\n']) {
                return wrong(format!("`{}` is no name for a vault", vault.name));
            }
            if settings.vaults[..index].iter().any(|other| other.name == vault.name) {
                return wrong(format!("two vaults are called `{}`", vault.name));
            }
        }
        Ok(settings)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// If there is none, or it is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(ModuleError::new(ErrorKind::Usage, format!("there is no `{}`", path.display()))
                    .hint("`bt config init` writes one"))
            }
            Err(error) => Err(at("read", path, &error)),
        }
    }

    /// Returns the text of a file with one vault, with words for people.
    pub fn first(root: &Path, name: &str) -> String {
        format!("{FIRST}{}", Self::one_more(root, name))
    }

    /// Returns what a file says of one vault, with words for people.
    pub fn one_more(root: &Path, name: &str) -> String {
        let (kind, more) = match Location::is_meant(&root.to_string_lossy()) {
            true => ("s3", FIRST_OF_S3),
            false => ("filesystem", ""),
        };
        let root = toml::Value::from(root.display().to_string());
        let name = toml::Value::from(name);
        format!(
            r#"
# A vault is a repository in restic's format: `restic -r ROOT snapshots` works on it.
[[vaults]]
name = {name}
type = "{kind}"
root = {root}
# Whether a backup fails without it, and how many copies of the catalogue it keeps.
required = true
keep_metadata_versions = 10
{more}"#
        )
    }
}

/// Says what is wrong with the text, with its line, unless that might hold what nobody should read on a screen.
fn told(text: &str, error: &toml::de::Error) -> String {
    let said = error.to_string();
    let is_told = !["secret", "token", "password"].iter().any(|word| said.to_lowercase().contains(word));
    if is_told {
        return said.trim_end().to_owned();
    }
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let known = error.message().split(['`', '"']).next().unwrap_or_default().trim_end();
    format!("line {}: {known}; secrets are never in settings", before.matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings> {
        Settings::parse(text, Path::new("bt.toml"))
    }

    #[test]
    fn what_is_written_first_is_right() {
        let settings = parse(&Settings::first(Path::new("/mnt/a \"b\"/v"), "usb disk")).unwrap();
        assert_eq!(settings.vaults[0].root, Path::new("/mnt/a \"b\"/v"));
        assert_eq!(settings.vaults[0].name, "usb disk");
        assert_eq!(settings.vault, General::default());
    }

    #[test]
    fn mistakes_have_their_line_and_doubles_are_found() {
        let error = parse("[vault]\nstaging_mx = 1\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("staging_mx"), "{error}");
        let vault = "[[vaults]]\nname = \"a\"\ntype = \"filesystem\"\nroot = \"/a\"\n";
        assert!(parse(vault).is_ok());
        assert!(parse(&vault.repeat(2)).unwrap_err().to_string().contains("two vaults"));
        assert!(parse(&vault.replace("\"/a\"", "\"a\"")).unwrap_err().to_string().contains("absolute"));
        assert!(
            parse(&format!("{vault}region = \"x\"\n")).unwrap_err().to_string().contains("`region` is for")
        );
        assert!(parse("[vault]\nstaging_max = \"10 bananas\"\n").is_err());
        let error = parse("[vault]\nkeep = \"7x\"\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("`7x` is no rule"), "{error}");
        assert_eq!(parse("[vault]\nstaging_max = \"3MiB\"\n").unwrap().vault.staging_max, Size(3 << 20));
    }

    fn s3(more: &str) -> Result<VaultSettings> {
        let settings = parse(&format!("[[vaults]]\nname = \"cloud\"\ntype = \"s3\"\n{more}"))?;
        Ok(settings.vaults.into_iter().next().unwrap())
    }

    #[test]
    fn a_bucket_is_named_as_restic_does_or_by_its_parts() {
        let by_root = s3("root = \"s3:s3.example.org/b/p\"\n").unwrap();
        let by_parts =
            s3("endpoint = \"https://s3.example.org\"\ncontent = { bucket = \"b\", prefix = \"p\" }\n")
                .unwrap();
        assert_eq!(by_root.root, Path::new("s3:https://s3.example.org/b/p"));
        assert_eq!(by_parts.root, by_root.root);
        let given = Credentials::from_variables(|name| Some(name.to_lowercase()));
        let (one, other) = (by_root.s3(given.as_ref()).unwrap(), by_parts.s3(given.as_ref()).unwrap());
        assert_eq!(one, other);
        assert_eq!(one.content, one.metadata, "one bucket holds both");
        let apart = s3("root = \"s3:h/b/p\"\nmetadata = { bucket = \"m\" }\n").unwrap().s3(given.as_ref());
        assert_eq!(apart.unwrap().metadata.place.to_string(), "s3:https://h/m");
    }

    #[test]
    fn what_settings_of_a_bucket_lack_is_said() {
        for (more, why) in [
            ("", "lacks a `root`"),
            ("endpoint = \"h\"\n", "both `endpoint` and `content`"),
            ("content = { bucket = \"b\" }\n", "both `endpoint` and `content`"),
            ("root = \"/mnt/usb\"\n", "does not begin with `s3:`"),
            ("root = \"s3:h/b\"\nendpoint = \"other\"\n", "not at its `endpoint`"),
            ("root = \"s3:h/b\"\nendpoint = \"h\"\ncontent = { bucket = \"c\" }\n", "is not its `endpoint`"),
            ("root = \"s3:h/b\"\nmetadata = { bucket = \"\" }\n", "is no bucket"),
            ("root = \"s3:h/b\"\ncredentials = \"AKIA:secret\"\n", "secrets are never in settings"),
            ("root = \"s3:h/b\"\nsecret_key = \"wJalr\"\n", "line 5: unknown field; secrets are never"),
            ("root = \"s3:h/b\"\nca_file = \"ca.pem\"\n", "not absolute"),
        ] {
            let error = s3(more).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("wJalr"), "{more}: {error}");
        }
        let error =
            parse("[[vaults]]\nname = \"a\"\ntype = \"filesystem\"\nroot = \"s3:h/b\"\n").unwrap_err();
        assert!(error.to_string().contains("type = \"s3\""), "{error}");
    }

    #[test]
    fn settings_of_a_bucket_can_be_printed_and_read_again() {
        let text = Settings::first(Path::new("s3:https://h/b/p"), "cloud");
        let settings = parse(&text).unwrap();
        assert_eq!(settings.vaults[0].kind, VaultKind::S3);
        let parts = "endpoint = \"h\"\ncontent = { bucket = \"b\", credentials = \"file:/x\" }\nmetadata = { bucket = \"m\" }\n";
        let settings = Settings { vaults: vec![s3(parts).unwrap()], ..settings };
        assert_eq!(parse(&toml::to_string(&settings).unwrap()).unwrap(), settings);
    }
}
