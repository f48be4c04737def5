//! The table `[snapshots]`: which sets are taken by themselves, and what a set is taken apart into.

use std::collections::BTreeMap;

use pc_switcher_agent::data::rules::check;
use pc_switcher_agent::proto::{self, CopyOrder, Rule, RuleSet};
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
    /// Whether `snapshots auto on` has a set taken and marked as good some time after each start, if all that counts is well then:
    /// `healthy_after` in `[boot-protection]`.
    pub auto_good: bool,
    /// How sets are kept that people or the clock ask for: `auto` (on btrfs as snapshots, otherwise as `hardlink`), `btrfs`,
    /// `hardlink` (copies of directories that share what did not change), `archive` (the same, each file compressed), `lvm` (snapshots
    /// of the thin volumes that hold these directories).
    pub backend: Backend,
    /// What copies hold though `exclude` leaves it out, in gitignore syntax.
    pub include: Patterns,
    /// What copies leave out, in gitignore syntax; a leading slash ties a pattern to `/`: `/home/*/.cache/`.
    pub exclude: Patterns,
    /// How hard `archive` and `snapshots export` compress: a level of zstd, 1 to 19.
    #[schemars(range(min = 1, max = 19))]
    pub compression_level: i32,
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
            auto_good: false,
            backend: Backend::default(),
            include: Patterns::default(),
            exclude: Patterns::default(),
            compression_level: 6,
            components: Components::default(),
        }
    }
}

/// How sets are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// As snapshots where the snapshot directory lies on btrfs, otherwise as copies.
    #[default]
    Auto,
    /// As snapshots.
    Btrfs,
    /// As copies that share what did not change.
    Hardlink,
    /// As copies whose files are compressed.
    Archive,
    /// As snapshots of thin volumes of LVM.
    Lvm,
}

/// Patterns in gitignore syntax.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Patterns(Vec<String>);

impl TryFrom<Vec<String>> for Patterns {
    type Error = String;

    fn try_from(all: Vec<String>) -> Result<Self, String> {
        all.iter().try_for_each(|pattern| match pattern.starts_with('!') {
            true => Err(format!(
                "`{pattern}` begins with `!`: what is to be kept stands in `include`, without it"
            )),
            false => check(pattern),
        })?;
        Ok(Self(all))
    }
}

impl From<Patterns> for Vec<String> {
    fn from(patterns: Patterns) -> Vec<String> {
        patterns.0
    }
}

impl SnapshotsConfig {
    /// Returns what is copied where sets are no snapshots: all that `components` name, and root's home, but for `exclude`. Of
    /// volumes only those are taken that somebody has named.
    pub fn copies(&self) -> CopyOrder {
        let rule = |pattern: String, reason: &str| Rule { pattern, reason: reason.to_owned() };
        let excluded =
            self.exclude.0.iter().map(|pattern| rule(pattern.clone(), "excluded by the configuration"));
        let back =
            self.include.0.iter().map(|pattern| rule(format!("!{pattern}"), "included by the configuration"));
        let mut folders = self.components.all();
        if self.backend != Backend::Lvm {
            folders.push("/root".into());
        }
        CopyOrder {
            backend: match self.backend {
                Backend::Auto => proto::Backend::Auto,
                Backend::Btrfs => proto::Backend::Btrfs,
                Backend::Hardlink => proto::Backend::Hardlink,
                Backend::Archive => proto::Backend::Archive,
                Backend::Lvm => proto::Backend::Lvm,
            },
            folders,
            rules: RuleSet { forced: Vec::new(), layered: excluded.chain(back).collect() },
            level: self.compression_level,
        }
    }

    /// Returns what is to be known of patterns that mean nothing: a snapshot of a subvolume holds all that is in it. `is_btrfs` is asked
    /// whether the snapshot directory lies on btrfs.
    pub fn idle_patterns(&self, is_btrfs: impl FnOnce() -> bool) -> Option<&'static str> {
        let has_patterns = !self.include.0.is_empty() || !self.exclude.0.is_empty();
        let is_of_snapshots = || match self.backend {
            Backend::Btrfs | Backend::Lvm => true,
            Backend::Auto => is_btrfs(),
            Backend::Hardlink | Backend::Archive => false,
        };
        (has_patterns && is_of_snapshots()).then_some(IDLE_PATTERNS)
    }

    /// Returns the JSON Schema of the table.
    pub fn schema() -> Value {
        schemars::generate::SchemaSettings::draft2020_12()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator()
            .into_root_schema_for::<Self>()
            .to_value()
    }
}

/// What is said of patterns that mean nothing.
const IDLE_PATTERNS: &str = "`include` and `exclude` in [snapshots] mean nothing here: a snapshot of a subvolume or of a volume holds all that is in it. They hold \
     for copies: `backend = \"hardlink\"` or `\"archive\"`, or `snapshot_dir` on another file system than btrfs. What is never to be in a snapshot \
     belongs into a subvolume of its own that `subvolumes` in [btrfs-snapshots] does not name";

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
        let strange = trimmed.chars().find(|c| !is_plain(*c)).map(|c| c.escape_debug().to_string());
        let first = trimmed.split_whitespace().next();
        match strange.or_else(|| first.filter(|word| !begins_a_time(word)).map(str::to_owned)) {
            None => Ok(Self(trimmed.to_owned())),
            Some(strange) => Err(format!(
                "`{}` is no time that comes again: `{strange}` does not belong there; `daily`, `Mon..Fri 12:00` or \
                 `*:0/15` are some",
                text.escape_debug(),
            )),
        }
    }
}

/// Whether a time of systemd may begin so: a word for one, days of the week, a date or a time of day (systemd.time(7)).
fn begins_a_time(word: &str) -> bool {
    const WORDS: [&str; 13] = [
        "minutely",
        "hourly",
        "daily",
        "weekly",
        "monthly",
        "quarterly",
        "semiannually",
        "semi-annually",
        "biannually",
        "bi-annually",
        "yearly",
        "annually",
        "anually",
    ];
    const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    let word = word.to_ascii_lowercase();
    let is_day = |day: &str| DAYS.iter().any(|whole| day == *whole || day == &whole[..3]);
    let mut days =
        word.split([',', '-']).flat_map(|days| days.split("..")).filter(|day| !day.is_empty()).peekable();
    word.starts_with(|c: char| c.is_ascii_digit() || c == '*')
        || WORDS.contains(&word.as_str())
        || (days.peek().is_some() && days.all(is_day))
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
    fn copies_are_of_all_components_and_of_roots_home_with_what_is_included_last() {
        let config: SnapshotsConfig = serde_json::from_str(
            r#"{"backend": "archive", "exclude": ["/home/*/.cache/"], "include": ["keep"], "compression_level": 3}"#,
        )
        .unwrap();
        let order = config.copies();
        assert_eq!((order.backend, order.level), (proto::Backend::Archive, 3));
        let lvm: SnapshotsConfig = serde_json::from_str(r#"{"backend": "lvm"}"#).unwrap();
        assert_eq!(lvm.copies().backend, proto::Backend::Lvm);
        let folders: Vec<String> = order.folders.iter().map(ToString::to_string).collect();
        assert_eq!(folders, ["/opt", "/usr/local", "/etc", "/home", "/root"]);
        let patterns: Vec<&str> = order.rules.layered.iter().map(|rule| rule.pattern.as_str()).collect();
        assert_eq!(patterns, ["/home/*/.cache/", "!keep"]);
        assert_eq!(SnapshotsConfig::default().copies().backend, proto::Backend::Auto);
        assert_eq!(config.idle_patterns(|| true), None, "copies leave them out");
        let read = |text: &str| serde_json::from_str::<SnapshotsConfig>(text).unwrap();
        let auto = read(r#"{"exclude": ["*.iso"]}"#);
        assert!(auto.idle_patterns(|| true).is_some() && auto.idle_patterns(|| false).is_none());
        assert!(read(r#"{"include": ["a"], "backend": "btrfs"}"#).idle_patterns(|| false).is_some());
        assert_eq!(SnapshotsConfig::default().idle_patterns(|| true), None);
        for bad in [r#"{"backend": "zfs"}"#, r#"{"exclude": ["!x"]}"#, r#"{"exclude": ["[z-a]"]}"#] {
            assert!(serde_json::from_str::<SnapshotsConfig>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_schedule_is_a_time_of_systemd_and_nothing_that_a_unit_reads_otherwise() {
        for good in [
            "",
            "daily",
            "Mon..Fri 12:00",
            "*-*-01 04:00:00 Europe/Berlin",
            "*:0/15",
            "Sat *-*~07/1",
            "Sunday",
            "tue,Thu..sat 3:00",
        ] {
            assert_eq!(Schedule::try_from(good.to_owned()).map(String::from).as_deref(), Ok(good));
        }
        assert_eq!(Schedule::try_from(" daily\t".to_owned()).unwrap().as_calendar(), Some("daily"));
        assert_eq!(Schedule::default().as_calendar(), None);
        for bad in
            ["daily\nExecStart=/bin/sh", "%i", "daily;", "täglich", "nonsense", "every day", "Mo", ".."]
        {
            assert!(Schedule::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
