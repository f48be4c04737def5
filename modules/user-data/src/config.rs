//! The table `[user-data]`: typed, with its defaults and its JSON Schema.

use std::num::NonZeroU64;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::pattern::{IncludePattern, Pattern};

/// What `[user-data]` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UserDataConfig {
    /// Absolute folders to mirror, the same on both machines.
    pub folders: Folders,
    /// What is left alone, in gitignore syntax, on top of the built-in machine-specific list.
    #[schemars(extend("uniqueItems" = true))]
    pub exclude: Vec<Pattern>,
    /// What is mirrored although the built-in list or `exclude` leaves it alone; never identity or our own state.
    #[schemars(extend("uniqueItems" = true))]
    pub include: Vec<IncludePattern>,
    /// How two files are compared: by size and time, after the first sync only where something changed since the last one, or
    /// by the content of every file at each sync.
    pub compare: Compare,
    /// What happens to subvolumes inside the one that holds a folder: mirrored with it, or left alone and named. Those that are
    /// excluded, are read-only or keep snapshots are never mirrored.
    pub nested: NestedPolicy,
    /// Whether content is compressed on its way to the other machine: where the link is slow, always, or never.
    pub compress: Compress,
    /// A sync that would delete more files than this in one folder asks first.
    pub mass_deletion_count: NonZeroU64,
    /// A sync that would delete a larger share than this of one folder, and at least 50 entries (10 if it is more than half of all),
    /// asks first.
    pub mass_deletion_share: Share,
}

impl Default for UserDataConfig {
    fn default() -> Self {
        Self {
            folders: Folders(["/home", "/root"].map(|path| Folder(path.to_owned())).to_vec()),
            exclude: Vec::new(),
            include: Vec::new(),
            compare: Compare::default(),
            nested: NestedPolicy::default(),
            compress: Compress::default(),
            mass_deletion_count: const { NonZeroU64::new(1000).unwrap() },
            mass_deletion_share: Share(0.25),
        }
    }
}

impl UserDataConfig {
    /// Returns the JSON Schema of the table.
    pub fn schema() -> Value {
        schemars::generate::SchemaSettings::draft2020_12()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator()
            .into_root_schema_for::<Self>()
            .to_value()
    }
}

/// How files are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Compare {
    /// Equal size and time mean equal content where nobody changed anything since the last sync.
    #[default]
    Quick,
    /// Digests of all files are compared.
    Content,
}

/// Whether content is compressed on its way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Compress {
    /// While the link is slower than this machine compresses, as measured while copying.
    #[default]
    Auto,
    /// Always, but for what does not get smaller.
    On,
    /// Never.
    Off,
}

/// What happens to nested subvolumes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NestedPolicy {
    /// Each is made on the target where it is missing, and synced like the folder.
    #[default]
    Follow,
    /// Each is left alone on both machines, and named.
    Skip,
}

/// One absolute folder without `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = "^/."))]
pub struct Folder(String);

impl Folder {
    /// Returns the folder.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// Returns the folder as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What makes a machine this one: identity, programs, state of services, the kernel's own trees.
const SYSTEM: [&str; 14] = [
    "/etc",
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/boot",
    "/dev",
    "/proc",
    "/run",
    "/sys",
    "/var/lib",
    "/.snapshots",
];

impl TryFrom<String> for Folder {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let refuse = |why: &str| Err(format!("`{}` is not a folder to mirror: {why}", text.escape_debug()));
        let trimmed = text.trim_end_matches('/');
        if !text.starts_with('/') {
            return refuse("an absolute path is wanted; `~` and variables are not expanded");
        }
        if trimmed.is_empty() {
            return refuse("it cannot be `/` itself");
        }
        if trimmed.chars().any(char::is_control) {
            return refuse("control characters are not allowed");
        }
        if trimmed[1..].split('/').any(|part| matches!(part, "" | "." | "..")) {
            return refuse("`.`, `..` and empty parts are not allowed");
        }
        let part_of =
            |a: &str, b: &str| a == b || a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
        if let Some(system) =
            SYSTEM.iter().find(|system| part_of(trimmed, system) || part_of(system, trimmed))
        {
            return refuse(&format!("`{system}` belongs to the machine, not to a person"));
        }
        Ok(Self(trimmed.to_owned()))
    }
}

impl From<Folder> for String {
    fn from(folder: Folder) -> String {
        folder.0
    }
}

/// At least one folder, none inside another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<Folder>", into = "Vec<Folder>")]
#[schemars(extend("minItems" = 1, "uniqueItems" = true))]
pub struct Folders(Vec<Folder>);

impl Folders {
    /// Returns the folders in the order of the config.
    pub fn as_slice(&self) -> &[Folder] {
        &self.0
    }
}

impl TryFrom<Vec<Folder>> for Folders {
    type Error = String;

    fn try_from(folders: Vec<Folder>) -> Result<Self, String> {
        if folders.is_empty() {
            return Err("at least one folder is wanted".into());
        }
        for (at, inner) in folders.iter().enumerate() {
            for (other, outer) in folders.iter().enumerate() {
                if at != other && inner.as_path().starts_with(outer.as_path()) {
                    return Err(format!("`{}` lies inside `{}`; name the outer one only", inner.0, outer.0));
                }
            }
        }
        Ok(Self(folders))
    }
}

impl From<Folders> for Vec<Folder> {
    fn from(folders: Folders) -> Vec<Folder> {
        folders.0
    }
}

/// A share of a folder, more than 0 and at most 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "f64", into = "f64")]
#[schemars(extend("exclusiveMinimum" = 0.0, "maximum" = 1.0))]
pub struct Share(f64);

impl Share {
    /// Returns the number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Share {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        if value > 0.0 && value <= 1.0 {
            Ok(Self(value))
        } else {
            Err("a share is more than 0.0 and at most 1.0".into())
        }
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> f64 {
        share.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_defaults_read_back() {
        let text = json!(UserDataConfig::default());
        assert_eq!(serde_json::from_value::<UserDataConfig>(text).unwrap(), UserDataConfig::default());
    }

    #[test]
    fn folders_do_not_overlap() {
        let read = |value| serde_json::from_value::<Folders>(value);
        assert!(read(json!(["/home", "/root"])).is_ok());
        let why = read(json!(["/usr/local"])).unwrap_err().to_string();
        assert!(why.contains("/usr/local"), "{why}");
        for bad in [
            json!(["/usr"]),
            json!(["/.snapshots/x"]),
            json!([]),
            json!(["/home", "/home/"]),
            json!(["/home/alice", "/home"]),
            json!(["home"]),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }
}
