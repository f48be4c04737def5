//! The language of the `keep` key: which sets of snapshots stay, and which snapshots of a vault.
//!
//! Pure: text in, typed rules out, and back. What else keeps a set or a snapshot is decided where those are known.
//! After a count a letter names a calendar bucket (`6m` is six months); a duration names its unit in full
//! where a letter alone would be ambiguous (`all 30min`, `all 2mo`, never `all 2m`).

mod chosen;

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A calendar bucket in UTC, of which the newest set stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bucket {
    /// `h`
    Hour,
    /// `d`
    Day,
    /// `w`
    Week,
    /// `m`
    Month,
    /// `y`
    Year,
}

/// The unit of a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// `s`
    Second,
    /// `min`
    Minute,
    /// `h`
    Hour,
    /// `d`
    Day,
    /// `w`
    Week,
    /// `mo`: 30 days.
    Month,
    /// `y`: 365 days.
    Year,
}

/// A duration as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Age {
    /// How many.
    pub count: NonZeroU32,
    /// Of what.
    pub unit: Unit,
}

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// `all 2h`: everything younger stays.
    All(Age),
    /// `last 5 sessions`: the newest sessions stay.
    LastSessions(NonZeroU32),
    /// `7d`: the newest set of each of the last days stays.
    Newest {
        /// How many buckets.
        count: NonZeroU32,
        /// Of which size.
        bucket: Bucket,
    },
}

/// The union of some rules: what one of them keeps, stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Keep(Vec<Rule>);

/// Why a text is no `keep` rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeepError {
    /// Nothing would stay.
    #[error("no rule is given; write for example `last 5 sessions, 7d, 4w, 6m`")]
    Empty,
    /// The text between two commas is none of the three forms.
    #[error("`{0}` is no rule; write `all 2h`, `last 5 sessions`, or a count with one of h d w m y")]
    Unknown(String),
    /// A count of nothing.
    #[error("the count in `{0}` must be a whole number from 1 to 4294967295")]
    Count(String),
    /// `m` in a duration.
    #[error("`m` in `{0}` could be minutes or months; write `min` or `mo`")]
    Ambiguous(String),
    /// A unit that does not exist.
    #[error("the unit in `{0}` must be one of s min h d w mo y")]
    Unit(String),
    /// A rule of that form is there already.
    #[error("`{0}` repeats a rule of the same form")]
    Repeated(String),
}

impl Keep {
    /// Returns the rules in the order in which they were written; at least one.
    pub fn rules(&self) -> &[Rule] {
        &self.0
    }

    /// Returns what stays even where space is short: `last 2 sessions`.
    pub fn least() -> Self {
        Keep(vec![Rule::LastSessions(NonZeroU32::MIN.saturating_add(1))])
    }
}

impl Default for Keep {
    fn default() -> Self {
        let count = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Keep(vec![
            Rule::LastSessions(count(5)),
            Rule::Newest { count: count(7), bucket: Bucket::Day },
            Rule::Newest { count: count(4), bucket: Bucket::Week },
            Rule::Newest { count: count(6), bucket: Bucket::Month },
        ])
    }
}

impl Age {
    /// Returns its length; months count 30 days and years 365.
    pub fn length(self) -> Duration {
        let seconds: u64 = match self.unit {
            Unit::Second => 1,
            Unit::Minute => 60,
            Unit::Hour => 3600,
            Unit::Day => 86_400,
            Unit::Week => 7 * 86_400,
            Unit::Month => 30 * 86_400,
            Unit::Year => 365 * 86_400,
        };
        Duration::from_secs(seconds * u64::from(self.count.get()))
    }
}

impl FromStr for Age {
    type Err = KeepError;

    /// Reads `30min`, `2h`, `7d`, `2mo`; refuses a bare `m`.
    fn from_str(text: &str) -> Result<Self, KeepError> {
        let (count, unit) = counted(text)?;
        let unit = match unit {
            "s" => Unit::Second,
            "min" => Unit::Minute,
            "h" => Unit::Hour,
            "d" => Unit::Day,
            "w" => Unit::Week,
            "mo" => Unit::Month,
            "y" => Unit::Year,
            "m" => return Err(KeepError::Ambiguous(text.to_owned())),
            _ => return Err(KeepError::Unit(text.to_owned())),
        };
        Ok(Age { count, unit })
    }
}

impl FromStr for Rule {
    type Err = KeepError;

    fn from_str(text: &str) -> Result<Self, KeepError> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let number = |word: &str| word.parse().map_err(|_| KeepError::Count(text.to_owned()));
        match words.as_slice() {
            ["all", age] => age.parse().map(Rule::All),
            ["last", count, "session" | "sessions"] => number(count).map(Rule::LastSessions),
            [one] => {
                let (count, letter) = counted(one).map_err(|error| match error {
                    KeepError::Unit(text) => KeepError::Unknown(text),
                    other => other,
                })?;
                let bucket = match letter {
                    "h" => Bucket::Hour,
                    "d" => Bucket::Day,
                    "w" => Bucket::Week,
                    "m" | "mo" => Bucket::Month,
                    "y" => Bucket::Year,
                    _ => return Err(KeepError::Unknown(text.to_owned())),
                };
                Ok(Rule::Newest { count, bucket })
            }
            _ => Err(KeepError::Unknown(text.to_owned())),
        }
    }
}

impl FromStr for Keep {
    type Err = KeepError;

    fn from_str(text: &str) -> Result<Self, KeepError> {
        if text.trim().is_empty() {
            return Err(KeepError::Empty);
        }
        let mut rules: Vec<Rule> = Vec::new();
        for part in text.split(',').map(str::trim) {
            let rule: Rule = part.parse()?;
            if rules.iter().any(|other| same_form(other, &rule)) {
                return Err(KeepError::Repeated(part.to_owned()));
            }
            rules.push(rule);
        }
        Ok(Keep(rules))
    }
}

/// Splits `7d` into its count and what follows.
fn counted(text: &str) -> Result<(NonZeroU32, &str), KeepError> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    if count.is_empty() || unit.is_empty() {
        return Err(KeepError::Unit(text.to_owned()));
    }
    let count = count.parse().map_err(|_| KeepError::Count(text.to_owned()))?;
    Ok((count, unit))
}

fn same_form(a: &Rule, b: &Rule) -> bool {
    match (a, b) {
        (Rule::Newest { bucket: a, .. }, Rule::Newest { bucket: b, .. }) => a == b,
        _ => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Second => "s",
            Unit::Minute => "min",
            Unit::Hour => "h",
            Unit::Day => "d",
            Unit::Week => "w",
            Unit::Month => "mo",
            Unit::Year => "y",
        };
        write!(f, "{}{unit}", self.count)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::All(age) => write!(f, "all {age}"),
            Rule::LastSessions(count) => {
                write!(f, "last {count} session{}", if count.get() == 1 { "" } else { "s" })
            }
            Rule::Newest { count, bucket } => {
                let letter = match bucket {
                    Bucket::Hour => 'h',
                    Bucket::Day => 'd',
                    Bucket::Week => 'w',
                    Bucket::Month => 'm',
                    Bucket::Year => 'y',
                };
                write!(f, "{count}{letter}")
            }
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, rule) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{rule}")?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Keep {
    type Error = KeepError;
    fn try_from(text: String) -> Result<Self, KeepError> {
        text.parse()
    }
}

impl From<Keep> for String {
    fn from(keep: Keep) -> String {
        keep.to_string()
    }
}

impl schemars::JsonSchema for Keep {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Keep".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "minLength": 1,
            "examples": ["all 2h, last 5 sessions, 24h, 7d, 4w, 6m, 2y"],
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count() -> impl Strategy<Value = NonZeroU32> {
        (1..=u32::MAX).prop_map(|n| NonZeroU32::new(n).unwrap())
    }

    fn keep() -> impl Strategy<Value = Keep> {
        let unit = prop::sample::select(vec![
            Unit::Second,
            Unit::Minute,
            Unit::Hour,
            Unit::Day,
            Unit::Week,
            Unit::Month,
            Unit::Year,
        ]);
        let buckets = vec![Bucket::Hour, Bucket::Day, Bucket::Week, Bucket::Month, Bucket::Year];
        (
            prop::option::of((count(), unit).prop_map(|(count, unit)| Rule::All(Age { count, unit }))),
            prop::option::of(count().prop_map(Rule::LastSessions)),
            prop::sample::subsequence(buckets, 1..=5).prop_shuffle(),
            count(),
        )
            .prop_map(|(all, last, buckets, count)| {
                let newest = buckets.into_iter().map(|bucket| Rule::Newest { count, bucket });
                Keep(all.into_iter().chain(last).chain(newest).collect())
            })
    }

    proptest! {
        #[test]
        fn rules_read_what_they_wrote(keep in keep()) {
            prop_assert_eq!(keep.to_string().parse(), Ok(keep));
        }

        #[test]
        fn any_text_gives_rules_or_an_error_and_never_a_panic(text in ".{0,40}") {
            if let Ok(keep) = text.parse::<Keep>() {
                prop_assert!(!keep.rules().is_empty());
            }
        }
    }

    #[test]
    fn the_example_of_the_design_is_read() {
        let keep: Keep = "all 2h, last 5 sessions, 24h, 7d, 4w, 6m, 2y".parse().unwrap();
        assert_eq!(keep.rules().len(), 7);
        assert_eq!(keep.to_string(), "all 2h, last 5 sessions, 24h, 7d, 4w, 6m, 2y");
        assert_eq!(Keep::default().to_string(), "last 5 sessions, 7d, 4w, 6m");
    }

    #[test]
    fn a_bare_m_is_a_month_after_a_count_and_refused_in_a_duration() {
        assert_eq!(
            "6m".parse(),
            Ok(Rule::Newest { count: NonZeroU32::new(6).unwrap(), bucket: Bucket::Month })
        );
        assert_eq!("all 2m".parse::<Keep>(), Err(KeepError::Ambiguous("2m".into())));
        let half_hour = "all 30min".parse::<Keep>().unwrap();
        assert!(matches!(half_hour.rules(), [Rule::All(age)] if age.length() == Duration::from_secs(1800)));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for bad in [
            "",
            " ",
            "7",
            "d",
            "7d,",
            "7x",
            "0d",
            "last 0 sessions",
            "last five sessions",
            "7d, 3d",
            "all",
            "-1d",
        ] {
            assert!(bad.parse::<Keep>().is_err(), "{bad}");
        }
    }
}
