//! UTC time stamps as they stand in snapshot names.

use std::fmt;
use std::str::FromStr;

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::ids::IdError;

/// A UTC instant to the second, written `20251115T120000Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UtcStamp(Timestamp);

impl UtcStamp {
    /// Makes a stamp of the given instant, cut to the second.
    pub fn new(at: Timestamp) -> Self {
        Self(Timestamp::from_second(at.as_second()).unwrap_or(at))
    }

    /// Returns the instant.
    pub fn timestamp(self) -> Timestamp {
        self.0
    }
}

impl fmt::Display for UtcStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").fmt(f)
    }
}

impl FromStr for UtcStamp {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = || IdError { what: "UTC stamp", text: text.to_owned(), why: "YYYYMMDDTHHMMSSZ is wanted" };
        // Signs and spaces would be read, too, but not written again.
        let is_digit = |(at, byte): (usize, u8)| matches!(at, 8 | 15) || byte.is_ascii_digit();
        if text.len() != 16 || !text.bytes().enumerate().all(is_digit) {
            return Err(bad());
        }
        let date = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text).map_err(|_| bad())?;
        date.to_zoned(TimeZone::UTC).map(|zoned| Self(zoned.timestamp())).map_err(|_| bad())
    }
}

impl TryFrom<String> for UtcStamp {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<UtcStamp> for String {
    fn from(stamp: UtcStamp) -> String {
        stamp.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_what_it_wrote() {
        let stamp: UtcStamp = "20251115T120000Z".parse().unwrap();
        assert_eq!(stamp.to_string(), "20251115T120000Z");
        for bad in [
            "20251115T120000",
            "2025-11-15T12:00:00Z",
            "20251315T120000Z",
            "-0251121T060002Z",
            "20251115T12000 Z",
        ] {
            assert!(bad.parse::<UtcStamp>().is_err(), "{bad}");
        }
    }
}
