//! How often each kind of change was made.

use std::{collections::BTreeMap, fmt};

/// Changes by kind.
#[derive(Debug, Default)]
pub struct Tally(BTreeMap<&'static str, usize>);

impl Tally {
    pub fn count(&mut self, kind: &'static str) {
        *self.0.entry(kind).or_default() += 1;
    }

    pub fn add(&mut self, other: Self) {
        for (kind, count) in other.0 {
            *self.0.entry(kind).or_default() += count;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: Vec<_> = self.0.iter().collect();
        rows.sort_by_key(|(kind, count)| (std::cmp::Reverse(**count), **kind));
        rows.into_iter().try_for_each(|(kind, count)| writeln!(f, "{count:7}  {kind}"))
    }
}
