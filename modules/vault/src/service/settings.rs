//! `bt.toml`: which vaults there are and what is never backed up.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use pc_switcher_contract::keep::Keep;
use pc_switcher_contract::{ErrorKind, ModuleError};
use serde::{Deserialize, Serialize};

use crate::error::{Result, at, usage};

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
    /// The directory.
    pub root: PathBuf,
    /// Whether a backup fails without it.
    #[serde(default = "yes")]
    pub required: bool,
    /// How many copies of the catalogue it keeps.
    #[serde(default = "ten")]
    pub keep_metadata_versions: usize,
}

/// What sort of place a vault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VaultKind {
    /// A directory, on a disk of its own if it shall survive this one.
    Filesystem,
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

impl Settings {
    /// Reads the text of the file.
    ///
    /// # Errors
    /// If it is wrong, with the line.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let settings: Self = toml::from_str(text).map_err(|error| {
            usage(format!("`{}` is not right: {}", path.display(), error.to_string().trim_end()))
        })?;
        let wrong = |why: String| Err(usage(format!("`{}` is not right: {why}", path.display())));
        for (index, vault) in settings.vaults.iter().enumerate() {
            if vault.name.is_empty() || vault.name.contains(['/', '\n']) {
                return wrong(format!("`{}` is no name for a vault", vault.name));
            }
            if !vault.root.is_absolute() {
                return wrong(format!("the root of the vault `{}` is not absolute", vault.name));
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
        let root = toml::Value::from(root.display().to_string());
        let name = toml::Value::from(name);
        format!(
            r#"# Settings of the vault: `pc-switcher vault` and `bt`. The passphrase is never in a file of settings.

[vault]
# How much `add` may keep in the stage until the next backup; larger files are read at the backup.
staging_max = "10GiB"
# What is never backed up, in gitignore syntax; a file `.btignore` in a directory says more for what is below it.
ignore = []
# Which backups `bt prune` keeps; without it all of them stay.
# keep = "all 2d, last 10 sessions, 14d, 8w, 12m, 5y"

# A vault is a directory in restic's format: `restic -r ROOT snapshots` works on it.
[[vaults]]
name = {name}
type = "filesystem"
root = {root}
# Whether a backup fails without it, and how many copies of the catalogue it keeps.
required = true
keep_metadata_versions = 10
"#
        )
    }
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
        assert!(parse("[vault]\nstaging_max = \"10 bananas\"\n").is_err());
        let error = parse("[vault]\nkeep = \"7x\"\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("`7x` is no rule"), "{error}");
        assert_eq!(parse("[vault]\nstaging_max = \"3MiB\"\n").unwrap().vault.staging_max, Size(3 << 20));
    }
}
