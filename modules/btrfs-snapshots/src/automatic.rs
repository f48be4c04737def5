//! The table `[snapshots]`: which sets are taken by themselves, and what a set is taken apart into.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::components::Components;

/// What `[snapshots]` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotsConfig {
    /// When sets are taken by the clock, as systemd writes times: `daily`, `Mon..Fri 12:00`; empty: never. `snapshots auto on` installs it.
    pub schedule: Schedule,
    /// Whether `snapshots auto on` has a set taken before apt changes packages.
    pub auto_update: bool,
    /// Whether it is of a kind of its own if one of them changes how the machine boots.
    pub auto_boot: bool,
    /// What `snapshots restore --component NAME` brings back: names, each with absolute paths. `self` is pc-switcher's own.
    #[schemars(with = "BTreeMap<String, Vec<String>>")]
    pub components: Components,
}

impl Default for SnapshotsConfig {
    fn default() -> Self {
        Self {
            schedule: Schedule::default(),
            auto_update: true,
            auto_boot: true,
            components: Components::default(),
        }
    }
}

impl SnapshotsConfig {
    /// Returns the JSON Schema of the table.
    pub fn schema() -> Value {
        schemars::generate::SchemaSettings::draft2020_12()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator()
            .into_root_schema_for::<Self>()
            .to_value()
    }
}

/// A time that comes again, as systemd's `OnCalendar` takes it; what it means is systemd's to judge. Empty: never.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Schedule(String);

impl Schedule {
    /// Returns the time, if there is one.
    pub fn as_calendar(&self) -> Option<&str> {
        Some(self.0.as_str()).filter(|text| !text.is_empty())
    }
}

impl TryFrom<String> for Schedule {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let trimmed = text.trim();
        // Times of systemd have letters, digits and these; a `%` or a new line would mean something else in a unit.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || " *-/:.,~_+".contains(c);
        match trimmed.chars().find(|c| !is_plain(*c)) {
            None => Ok(Self(trimmed.to_owned())),
            Some(strange) => Err(format!(
                "`{}` is no time that comes again: `{}` does not belong there; `daily` or `Mon..Fri 12:00` are some",
                text.escape_debug(),
                strange.escape_debug()
            )),
        }
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> String {
        schedule.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_a_time_of_systemd_and_nothing_that_a_unit_reads_otherwise() {
        for good in ["", "daily", "Mon..Fri 12:00", "*-*-01 04:00:00 Europe/Berlin", "*:0/15", "Sat *-*~07/1"]
        {
            assert_eq!(Schedule::try_from(good.to_owned()).map(String::from).as_deref(), Ok(good));
        }
        assert_eq!(Schedule::try_from(" daily\t".to_owned()).unwrap().as_calendar(), Some("daily"));
        assert_eq!(Schedule::default().as_calendar(), None);
        for bad in ["daily\nExecStart=/bin/sh", "%i", "daily;", "täglich"] {
            assert!(Schedule::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
