//! The tables `[dummy-success]` and `[dummy-fail]`: typed, with their defaults and JSON Schemas.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What `[dummy-success]` says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SuccessConfig {
    /// Seconds of work.
    pub duration: Seconds,
    /// Whether the work also runs a child process on each machine.
    pub child: bool,
}

impl Default for SuccessConfig {
    fn default() -> Self {
        Self { duration: Seconds(1.0), child: false }
    }
}

/// What `[dummy-fail]` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FailConfig {
    /// In which call it fails.
    pub at: At,
    /// In which way it fails.
    pub how: How,
}

/// The call that fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum At {
    /// In `validate`.
    Validate,
    /// In `plan`.
    Plan,
    /// In `execute`.
    #[default]
    Execute,
    /// In `verify`.
    Verify,
    /// In `abort`; `execute` runs until it is stopped.
    Abort,
}

/// The way of failing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// Returns an error, or a problem where problems are returned.
    #[default]
    Error,
    /// Panics.
    Panic,
    /// Never returns and does not listen.
    Hang,
    /// Runs a child on each machine that ignores TERM, until it is stopped.
    IgnoreTerm,
    /// Logs an ERROR and returns as if nothing were wrong.
    LogError,
}

/// Seconds, fractions allowed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "f64", into = "f64")]
#[schemars(extend("minimum" = 0.0, "maximum" = 86400.0))]
pub struct Seconds(f64);

impl Seconds {
    /// Returns the duration.
    pub fn duration(self) -> Duration {
        Duration::from_secs_f64(self.0)
    }
}

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        if (0.0..=86_400.0).contains(&value) {
            Ok(Self(value))
        } else {
            Err("0 to 86400 seconds are wanted".into())
        }
    }
}

impl From<Seconds> for f64 {
    fn from(seconds: Seconds) -> f64 {
        seconds.0
    }
}

impl SuccessConfig {
    /// Returns the JSON Schema of the table.
    pub fn schema() -> Value {
        schema_of::<Self>()
    }
}

impl FailConfig {
    /// Returns the JSON Schema of the table.
    pub fn schema() -> Value {
        schema_of::<Self>()
    }
}

fn schema_of<T: JsonSchema>() -> Value {
    schemars::generate::SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}
