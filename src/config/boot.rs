//! The table `[boot-protection]`: typed, with its defaults and its JSON Schema. It belongs to no module.

use std::time::Duration;

use pc_switcher_contract::keep::Age;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What `[boot-protection]` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BootConfig {
    /// Whether `snapshots auto on` has starts counted before the root is mounted, and the last known good state put in place by
    /// itself if too many in a row were not found healthy. Needs initramfs-tools.
    pub enabled: bool,
    /// After so many such starts in a row the next one goes back, once.
    #[schemars(range(min = 1, max = 100))]
    pub max_failed_boots: u32,
    /// How long after a start it is looked at whether all that counts is well: a number with one of `s min h`. `auto_good` goes by
    /// it, too.
    pub healthy_after: HealthyAfter,
}

impl Default for BootConfig {
    fn default() -> Self {
        Self { enabled: false, max_failed_boots: 3, healthy_after: HealthyAfter::default() }
    }
}

impl BootConfig {
    /// Returns the JSON Schema of the table.
    pub fn schema() -> Value {
        schemars::generate::SchemaSettings::draft2020_12()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator()
            .into_root_schema_for::<Self>()
            .to_value()
    }
}

/// A time after a start, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct HealthyAfter(String);

/// A machine that is not looked at within a day is hardly ever.
const LONGEST: Duration = Duration::from_secs(86_400);

impl HealthyAfter {
    /// Returns it in seconds.
    pub fn seconds(&self) -> u64 {
        self.0.parse::<Age>().map_or(300, |age| age.length().as_secs())
    }
}

impl Default for HealthyAfter {
    fn default() -> Self {
        Self("5min".into())
    }
}

impl TryFrom<String> for HealthyAfter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let age: Age = text.parse().map_err(|error| format!("`{text}`: {error}"))?;
        match age.length() <= LONGEST {
            true => Ok(Self(text)),
            false => Err(format!("`{text}` is longer than a day")),
        }
    }
}

impl From<HealthyAfter> for String {
    fn from(after: HealthyAfter) -> String {
        after.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_after_a_start_has_a_unit_and_is_no_longer_than_a_day() {
        for (text, seconds) in [("5min", 300), ("90s", 90), ("2h", 7200), ("1d", 86_400)] {
            assert_eq!(HealthyAfter::try_from(text.to_owned()).unwrap().seconds(), seconds, "{text}");
        }
        for bad in ["", "5", "5m", "0min", "2d", "soon"] {
            assert!(HealthyAfter::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        assert_eq!(BootConfig::default().healthy_after.seconds(), 300);
    }
}
