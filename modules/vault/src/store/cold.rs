//! What is written at once and read only after hours: classes of storage, and how something is fetched from them.

use std::time::Duration;

use serde::Serialize;

/// How fast something is fetched; what is faster costs more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are those of the providers")]
pub enum Tier {
    Bulk,
    #[default]
    Standard,
    Expedited,
}

impl Tier {
    /// Returns the word for people.
    pub fn word(self) -> &'static str {
        match self {
            Tier::Bulk => "bulk",
            Tier::Standard => "standard",
            Tier::Expedited => "expedited",
        }
    }
}

/// How something is to be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Thaw {
    /// So many days it can be read then.
    pub days: u32,
    /// How fast.
    pub tier: Tier,
}

impl Default for Thaw {
    fn default() -> Self {
        Self { days: 7, tier: Tier::default() }
    }
}

/// Where something lies that must be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// `GLACIER`, and what is as deep.
    Archive,
    /// `DEEP_ARCHIVE`.
    Deep,
}

impl Depth {
    /// Reads a class of storage; `None` of one that can be read at once.
    pub fn of(class: &str) -> Option<Self> {
        match class {
            "GLACIER" | "ARCHIVE_ACCESS" => Some(Self::Archive),
            "DEEP_ARCHIVE" | "DEEP_ARCHIVE_ACCESS" => Some(Self::Deep),
            _ => None,
        }
    }

    /// Returns how long it takes at most until something is there, as Amazon says it.
    pub fn wait(self, tier: Tier) -> Duration {
        let minutes = match (self, tier) {
            (Self::Archive, Tier::Expedited) => 5,
            (Self::Archive, Tier::Standard) => 5 * 60,
            (Self::Archive, Tier::Bulk) => 12 * 60,
            (Self::Deep, Tier::Expedited | Tier::Standard) => 12 * 60,
            (Self::Deep, Tier::Bulk) => 48 * 60,
        };
        Duration::from_secs(minutes * 60)
    }
}

/// What became of an object that is to be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetching {
    /// It can be read.
    Readable,
    /// It was asked for now.
    Asked(Depth),
    /// It was asked for before, and is not there yet.
    UnderWay(Depth),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_at_once_is_not_cold() {
        for class in ["STANDARD", "STANDARD_IA", "GLACIER_IR", "INTELLIGENT_TIERING", ""] {
            assert_eq!(Depth::of(class), None, "{class}");
        }
        assert_eq!(Depth::of("GLACIER"), Some(Depth::Archive));
        assert_eq!(Depth::of("DEEP_ARCHIVE"), Some(Depth::Deep));
    }

    #[test]
    fn what_lies_deeper_or_is_fetched_for_less_takes_longer() {
        let tiers = [Tier::Expedited, Tier::Standard, Tier::Bulk];
        for depth in [Depth::Archive, Depth::Deep] {
            assert!(tiers.is_sorted_by_key(|tier| depth.wait(*tier)), "{depth:?}");
        }
        assert!(tiers.iter().all(|tier| Depth::Archive.wait(*tier) < Depth::Deep.wait(*tier)));
    }
}
