//! Taking snapshots of others into the list of sets, and lost ones of our own back into it.

use std::fmt;

use serde::{Deserialize, Serialize};

use pc_switcher_contract::{BytePath, SetId};

/// Who made the snapshots that are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Maker {
    /// `snapper`: `N/snapshot` and `N/info.xml`.
    Snapper,
    /// `btrbk`: `NAME.STAMP`.
    Btrbk,
    /// `timeshift`: `DATE/@` and `DATE/info.json`.
    Timeshift,
    /// `yabsnap`: `NAME-STAMP` and `NAME-STAMP-meta.json`.
    Yabsnap,
    /// We: names of ours whose record is lost.
    Orphan,
}

impl Maker {
    /// Returns the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Maker::Snapper => "snapper",
            Maker::Btrbk => "btrbk",
            Maker::Timeshift => "timeshift",
            Maker::Yabsnap => "yabsnap",
            Maker::Orphan => "orphan",
        }
    }
}

impl fmt::Display for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Asks for the snapshots of one maker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptRequest {
    /// Where our snapshots lie.
    pub snapshot_dir: BytePath,
    /// Whose are wanted.
    pub from: Maker,
    /// Where they lie; the usual places if there are none here.
    pub dirs: Vec<BytePath>,
}

/// What became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// Sets that are listed from now on.
    pub sets: Vec<SetId>,
    /// How many were listed before.
    pub known: u64,
    /// Where was looked.
    pub looked: Vec<BytePath>,
    /// What was left alone, with the reason.
    pub left: Vec<(BytePath, String)>,
}
