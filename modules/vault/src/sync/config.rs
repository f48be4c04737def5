//! The table `[vault-backup]`: typed, with its defaults and its JSON Schema.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What `[vault-backup]` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VaultBackupConfig {
    /// Which tracked directories are backed up, absolute; all of them if none is named.
    #[schemars(extend("uniqueItems" = true))]
    pub directories: Vec<TrackedDirectory>,
    /// The only vault that is backed up to; all that are set if none is named.
    pub vault: String,
    /// A file whose first line is the passphrase and which only its owner may read, absolute; without one the variable
    /// `PC_SWITCHER_VAULT_PASSWORD` must have it.
    pub password_file: PasswordFile,
}

impl VaultBackupConfig {
    /// Returns the JSON Schema of the table.
    pub fn schema() -> Value {
        schemars::generate::SchemaSettings::draft2020_12()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator()
            .into_root_schema_for::<Self>()
            .to_value()
    }

    /// Returns the directories that are named.
    pub fn directories(&self) -> Vec<PathBuf> {
        self.directories.iter().map(|directory| PathBuf::from(&directory.0)).collect()
    }

    /// Returns the vault that is named.
    pub fn vault(&self) -> Option<&str> {
        Some(self.vault.as_str()).filter(|name| !name.is_empty())
    }
}

/// An absolute directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = "^/"))]
pub struct TrackedDirectory(String);

impl TryFrom<String> for TrackedDirectory {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if !text.starts_with('/') {
            return Err(format!("`{text}` is no tracked directory: an absolute path is wanted, without `~`"));
        }
        // As the catalogue has it.
        let plain: PathBuf = Path::new(&text).components().collect();
        Ok(Self(plain.to_string_lossy().into_owned()))
    }
}

impl From<TrackedDirectory> for String {
    fn from(directory: TrackedDirectory) -> String {
        directory.0
    }
}

/// A file with a passphrase, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = "^(/.*)?$"))]
pub struct PasswordFile(String);

impl PasswordFile {
    /// Returns the file, if one is named.
    pub fn path(&self) -> Option<&Path> {
        Some(Path::new(&self.0)).filter(|_| !self.0.is_empty())
    }
}

impl TryFrom<String> for PasswordFile {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.is_empty() || text.starts_with('/') {
            true => Ok(Self(text)),
            false => Err(format!("`{text}` is no password file: an absolute path is wanted, without `~`")),
        }
    }
}

impl From<PasswordFile> for String {
    fn from(file: PasswordFile) -> String {
        file.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_defaults_read_back_and_paths_are_absolute() {
        let text = json!(VaultBackupConfig::default());
        assert_eq!(serde_json::from_value::<VaultBackupConfig>(text).unwrap(), VaultBackupConfig::default());
        let read = |value| serde_json::from_value::<VaultBackupConfig>(value);
        let config = read(json!({ "directories": ["/home/a/"], "password_file": "/home/a/word" })).unwrap();
        assert_eq!(config.directories(), [PathBuf::from("/home/a")]);
        assert_eq!(config.password_file.path(), Some(Path::new("/home/a/word")));
        for wrong in [json!({ "directories": ["~/a"] }), json!({ "password_file": "word" })] {
            assert!(read(wrong.clone()).unwrap_err().to_string().contains("absolute"), "{wrong}");
        }
    }
}
