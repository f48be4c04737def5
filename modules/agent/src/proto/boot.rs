//! Boot protection: a machine that does not come to a healthy start goes back to the last known good state by itself.

use serde::{Deserialize, Serialize};

use pc_switcher_contract::{BytePath, SetId, SubvolumeName, UtcStamp};

/// One thing to do about boot protection. All of it is about the count beside the snapshots in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootOrder {
    /// Only reads what was counted.
    Count,
    /// Only looks: how it stands, and what would keep it from working.
    Look,
    /// Begins to count, from nought; what was counted stays.
    On,
    /// Counts no more.
    Off,
    /// This start went well: counts from nought again.
    Healthy,
    /// This start was looked at and is not well: it counts, however it ends.
    Red,
    /// Nobody can tell whether this start is well: it counts for nothing, and proves nothing.
    Unknown,
}

/// A subvolume that the early part of a start needs, and where it is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootTree {
    /// The flat name.
    pub name: SubvolumeName,
    /// The mount point.
    pub point: BytePath,
}

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootCount {
    /// So many starts in a row have not been found healthy, the present one included until it is.
    pub starts: u32,
    /// The newest start that was counted, by the kernel's id; empty before the first, and once that was taken off.
    pub boot_id: String,
    /// Whether that start was looked at and not found healthy, so that it counts however it ends.
    pub red: bool,
    /// What tells the trees that were started from others; empty if nobody knows. Others count from nought.
    pub trees: String,
    /// The last transaction of what holds the snapshots when that start was counted; 0 if it is not known.
    pub begun: u64,
    /// The same of the last start that was found healthy: what was in place by then has started well.
    pub proven: u64,
    /// Where the machine went by itself since the last healthy start. It goes nowhere else before the next one.
    pub went_to: Option<SetId>,
}

/// What there is of a count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Counted {
    /// None: starts are not counted.
    #[default]
    Off,
    /// Something that nobody has written so: it says nothing.
    Garbled,
    /// A count.
    So(BootCount),
}

/// How boot protection stands on a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootLook {
    /// What was counted.
    pub counted: Counted,
    /// What the early part of a start needs, `/` first.
    pub trees: Vec<BootTree>,
    /// Whether `/boot` is on another file system: then kernels do not go back with `/`.
    pub boot_apart: bool,
    /// What keeps it from being switched on at all.
    pub unfit: Vec<String>,
    /// The set that it would go back to now, and which of its subvolumes.
    pub to: Option<(SetId, Vec<SubvolumeName>)>,
    /// What would keep it from going back now.
    pub problems: Vec<String>,
}

/// That a machine went back to the last known good state by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fallback {
    /// When.
    pub at: UtcStamp,
    /// After so many starts in a row that were not found healthy.
    pub starts: u32,
    /// In this start, by the kernel's id.
    pub boot_id: String,
}

impl Counted {
    /// Says how many starts were counted.
    pub fn explain(&self) -> String {
        let count = match self {
            Counted::Off => return "starts are not counted".into(),
            Counted::Garbled => {
                return "the count of starts cannot be read; the next start begins it anew".into();
            }
            Counted::So(count) => count,
        };
        let starts = match count.starts {
            0 => "the last start was healthy".to_owned(),
            1 => "1 start was not found healthy yet".to_owned(),
            starts => format!("{starts} starts in a row were not found healthy"),
        };
        match &count.went_to {
            Some(set) => {
                format!(
                    "{starts}; it went to set {set} by itself, and goes nowhere else before a healthy start"
                )
            }
            None => starts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_told_in_words() {
        let so = |starts, went: bool| {
            let went_to = went.then(|| "20251115T120000Z-0a1b2c3d-autoboot".parse().unwrap());
            Counted::So(BootCount { starts, went_to, ..BootCount::default() }).explain()
        };
        assert_eq!(so(0, false), "the last start was healthy");
        assert_eq!(so(1, false), "1 start was not found healthy yet");
        assert!(so(4, true).starts_with("4 starts in a row were not found healthy; it went to set 2025"));
        assert!(Counted::Garbled.explain().contains("begins it anew"));
    }
}
