//! The table `[rollback]`: typed, with its defaults and its JSON Schema. It belongs to no module.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What `[rollback]` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RollbackConfig {
    /// Whether the other machine takes a sync back by itself if it cannot be reached any more or does not work as before: where
    /// the sync touches what starts that machine or lets people in, always, or never. So it is with a rollback that nobody
    /// confirms after the restart.
    pub deadman: DeadmanMode,
    /// Seconds within which a sync must be confirmed by a new login, from its end on.
    #[schemars(range(min = 5, max = 86400))]
    pub deadman_limit: u64,
    /// Seconds within which such a rollback must be confirmed by `pc-switcher rollback confirm`, from the restart on.
    #[schemars(range(min = 5, max = 86400))]
    pub restart_limit: u64,
    /// Checks that must be as well as before, after such a sync and after a guarded command: `packages`, `sshd-config`, `ssh`,
    /// `units`, `home`, `disk-space`. Others are only named. Your own ones say it by the directory they lie in.
    #[schemars(extend("uniqueItems" = true))]
    pub health: Vec<HealthCheck>,
}

impl Default for RollbackConfig {
    fn default() -> Self {
        Self {
            deadman: DeadmanMode::default(),
            deadman_limit: 120,
            restart_limit: 600,
            health: HealthCheck::ALL.to_vec(),
        }
    }
}

impl RollbackConfig {
    /// Returns the JSON Schema of the table.
    pub fn schema() -> Value {
        schemars::generate::SchemaSettings::draft2020_12()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator()
            .into_root_schema_for::<Self>()
            .to_value()
    }

    /// Returns how long a sync may stay unconfirmed.
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.deadman_limit)
    }
}

/// When the dead man is armed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeadmanMode {
    /// Where a sync or a rollback touches what starts the machine or lets people in.
    #[default]
    Auto,
    /// In each sync and each rollback.
    Always,
    /// Never.
    Off,
}

/// A check that is shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HealthCheck {
    /// Whether packages are whole.
    Packages,
    /// Whether sshd takes its configuration.
    SshdConfig,
    /// Whether somebody answers on sshd's port.
    Ssh,
    /// Whether a unit failed that had not.
    Units,
    /// Whether the home can be read.
    Home,
    /// Whether the reserve is free.
    DiskSpace,
}

impl HealthCheck {
    /// All of them.
    pub const ALL: [HealthCheck; 6] = [
        HealthCheck::Packages,
        HealthCheck::SshdConfig,
        HealthCheck::Ssh,
        HealthCheck::Units,
        HealthCheck::Home,
        HealthCheck::DiskSpace,
    ];
}
