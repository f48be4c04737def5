//! The table `[btrfs-snapshots]`: typed, with its defaults and its JSON Schema.

use std::path::Path;

use pc_switcher_contract::SubvolumeName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::keep::Keep;

/// What `[btrfs-snapshots]` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BtrfsSnapshotsConfig {
    /// Subvolumes to snapshot on both machines: flat names as in `btrfs subvolume list /`.
    #[schemars(with = "Vec<String>", length(min = 1), extend("uniqueItems" = true))]
    pub subvolumes: Vec<SubvolumeName>,
    /// Directory of the snapshots, the same on both machines.
    pub snapshot_dir: SnapshotDir,
    /// Which snapshots stay, on both machines, for example `all 2h, last 5 sessions, 24h, 7d, 4w, 6m, 2y`.
    pub keep: Keep,
    /// Which snapshots stay even where space is short.
    pub keep_min: Keep,
    /// How many sets stay marked as good that a sync has marked by itself, and how many that a start has: the newest; 0: none is
    /// marked so.
    pub keep_good: u32,
}

impl Default for BtrfsSnapshotsConfig {
    fn default() -> Self {
        Self {
            subvolumes: ["@", "@home"].into_iter().filter_map(|name| name.parse().ok()).collect(),
            snapshot_dir: SnapshotDir("/.snapshots".into()),
            keep: Keep::default(),
            keep_min: Keep::least(),
            keep_good: 1,
        }
    }
}

impl BtrfsSnapshotsConfig {
    /// Returns the JSON Schema of the table.
    pub fn schema() -> Value {
        schemars::generate::SchemaSettings::draft2020_12()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator()
            .into_root_schema_for::<Self>()
            .to_value()
    }
}

/// An absolute directory without `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = "^/."))]
pub struct SnapshotDir(String);

impl SnapshotDir {
    /// Returns the directory.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl TryFrom<String> for SnapshotDir {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let refuse = |why| Err(format!("`{}` is not a snapshot directory: {why}", text.escape_debug()));
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
        Ok(Self(trimmed.to_owned()))
    }
}

impl From<SnapshotDir> for String {
    fn from(dir: SnapshotDir) -> String {
        dir.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_directory_is_absolute_and_plain() {
        assert_eq!(
            SnapshotDir::try_from("/.snapshots/".to_owned()).unwrap().as_path(),
            Path::new("/.snapshots")
        );
        for bad in ["", "/", "snapshots", "~/snap", "/a/../b", "/a//b", "/a\nb"] {
            assert!(SnapshotDir::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_defaults_name_both_subvolumes() {
        assert_eq!(BtrfsSnapshotsConfig::default().subvolumes.len(), 2);
    }
}
