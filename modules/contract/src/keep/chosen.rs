//! What one rule keeps of a row of stamps.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{Bucket, Rule};

impl Rule {
    /// Returns which of these stamps, newest first, it keeps.
    pub fn chosen(&self, stamps: &[Timestamp], now: Timestamp) -> Vec<usize> {
        match self {
            Rule::All(age) => {
                let is_young = |stamp: &Timestamp| now.duration_since(*stamp).unsigned_abs() < age.length();
                (0..stamps.len()).filter(|index| is_young(&stamps[*index])).collect()
            }
            Rule::LastSessions(count) => (0..stamps.len()).take(count.get() as usize).collect(),
            Rule::Newest { count, bucket } => {
                let mut seen = BTreeSet::new();
                let is_first = |index: &usize| seen.insert(number(*bucket, stamps[*index]));
                (0..stamps.len()).filter(is_first).take(count.get() as usize).collect()
            }
        }
    }
}

/// Returns the bucket of a stamp: a number that is the same for all in it.
fn number(bucket: Bucket, stamp: Timestamp) -> (i16, i8, i8, i8) {
    let at = stamp.to_zoned(TimeZone::UTC).datetime();
    match bucket {
        Bucket::Hour => (at.year(), at.month(), at.day(), at.hour()),
        Bucket::Day => (at.year(), at.month(), at.day(), 0),
        Bucket::Week => {
            let week = at.date().iso_week_date();
            (week.year(), week.week(), 0, 0)
        }
        Bucket::Month => (at.year(), at.month(), 0, 0),
        Bucket::Year => (at.year(), 0, 0, 0),
    }
}
