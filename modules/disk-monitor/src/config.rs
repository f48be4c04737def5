//! The table `[disk]`: typed, with its defaults and its JSON Schema.

use std::num::NonZeroU64;
use std::time::Duration;

use pc_switcher_contract::Threshold;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What `[disk]` says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiskConfig {
    /// Free space wanted on both machines before a sync begins: a fraction, bytes, or a size as `50GiB`.
    pub min_free: Threshold,
    /// A running sync is stopped below this: a fraction, bytes, or a size as `10GiB`.
    pub reserve_minimum: Threshold,
    /// Seconds between two looks at a running sync.
    pub check_interval: NonZeroU64,
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            min_free: Threshold::Share(0.20),
            reserve_minimum: Threshold::Bytes(10 << 30),
            check_interval: const { NonZeroU64::new(30).unwrap() },
        }
    }
}

impl DiskConfig {
    /// Returns the JSON Schema of the table.
    pub fn schema() -> Value {
        schemars::generate::SchemaSettings::draft2020_12()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator()
            .into_root_schema_for::<Self>()
            .to_value()
    }

    /// Returns the time between two looks.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.check_interval.get())
    }
}
