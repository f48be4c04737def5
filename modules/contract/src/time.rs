//! UTC time stamps as they stand in snapshot names.

use std::fmt;
use std::str::FromStr;

use jiff::civil::DateTime;
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
        let at = TimeZone::UTC.to_datetime(self.0);
        let (year, month, day) = (at.year(), at.month(), at.day());
        let (hour, minute, second) = (at.hour(), at.minute(), at.second());
        write!(f, "{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
    }
}

impl FromStr for UtcStamp {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = || IdError { what: "UTC stamp", text: text.to_owned(), why: "YYYYMMDDTHHMMSSZ is wanted" };
        let digits = |from: usize, to: usize| {
            let digits = text.as_bytes().get(from..to).filter(|part| part.iter().all(u8::is_ascii_digit))?;
            Some(digits.iter().fold(0_i16, |sum, digit| sum * 10 + i16::from(digit - b'0')))
        };
        let two = |from: usize| digits(from, from + 2).and_then(|number| i8::try_from(number).ok());
        // By hand: a list of a thousand sets reads thousands of them.
        let read = || {
            let date = DateTime::new(digits(0, 4)?, two(4)?, two(6)?, two(9)?, two(11)?, two(13)?, 0).ok()?;
            TimeZone::UTC.to_timestamp(date).ok()
        };
        let is_in_form = text.len() == 16 && text.as_bytes()[8] == b'T' && text.as_bytes()[15] == b'Z';
        is_in_form.then(read).flatten().map(Self).ok_or_else(bad)
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
    use proptest::prelude::*;

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
            "20251115 120000Z",
            "20251115T120000z",
            "20251115T240000Z",
            "20251115T120060Z",
            "20250229T120000Z",
            "2025111éT12000Z",
        ] {
            assert!(bad.parse::<UtcStamp>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_stamp_is_written_as_calendars_have_it_and_read_again(second in -62_000_000_000_i64..250_000_000_000) {
            let stamp = UtcStamp::new(Timestamp::from_second(second).unwrap());
            let text = stamp.to_string();
            let calendar = stamp.timestamp().to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string();
            prop_assert_eq!(&text, &calendar);
            prop_assert_eq!(text.parse::<UtcStamp>().unwrap(), stamp);
        }
    }
}
