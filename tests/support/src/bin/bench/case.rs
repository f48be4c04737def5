//! What is asked of the tools, and in which home.

use clap::ValueEnum;

use super::tool::Tool;

/// What is asked of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Case {
    /// The target is empty
    First,
    /// Both are the same
    NoChange,
    /// A day's work on one file in a hundred, and in the databases
    Changed,
    /// One block of 64 KiB in a hundred of a large image was written, here and there
    Image,
    /// The directory that holds a third of all files has another name
    Renamed,
    /// Both are the same, and no machine remembers a sync: everything is compared
    Fallback,
    /// Finding what a day's work changed, by the agent alone, beside its own walk of everything
    Detection,
    /// The first part of that, the search of the tree alone, beside the agent's walk of everything
    Search,
    /// A day's work in a home of a million small files; what counts is the memory of each process
    Memory,
}

impl Case {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::First,
        Self::NoChange,
        Self::Changed,
        Self::Image,
        Self::Renamed,
        Self::Fallback,
        Self::Detection,
        Self::Search,
        Self::Memory,
    ];

    /// Returns its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first sync",
            Self::NoChange => "no change",
            Self::Changed => "1 % changed",
            Self::Image => "image, 1 % of blocks",
            Self::Renamed => "directory renamed",
            Self::Fallback => "no base, no change",
            Self::Detection => "change detection",
            Self::Search => "generation search",
            Self::Memory => "memory, 1 % changed",
        }
    }

    /// Returns the home that it is measured in.
    pub fn scene(self) -> Scene {
        match self {
            Self::First | Self::NoChange | Self::Changed | Self::Renamed | Self::Fallback => Scene::Home,
            Self::Image => Scene::Image,
            Self::Detection | Self::Search | Self::Memory => Scene::Tiny,
        }
    }

    /// Whether it is about the agent alone, on the machine that is to be synced.
    pub fn is_detection(self) -> bool {
        matches!(self, Self::Detection | Self::Search)
    }

    /// Returns the tools that can be asked for the same, ours left out.
    pub fn peers(self) -> &'static [Tool] {
        match self {
            Self::NoChange => &[Tool::Rsync, Tool::RsyncOpen, Tool::Send, Tool::Unison],
            Self::First | Self::Changed | Self::Renamed => &[Tool::Rsync, Tool::Send, Tool::Unison],
            Self::Image => &[Tool::Rsync, Tool::RsyncWhole, Tool::Send, Tool::Unison],
            // `send` cannot do without a base, and Unison has its archives.
            Self::Fallback | Self::Memory => &[Tool::Rsync],
            Self::Detection | Self::Search => &[Tool::OwnWalk],
        }
    }
}

/// A home, and what both machines begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scene {
    /// Files of all sorts.
    Home,
    /// A disk image alone.
    Image,
    /// Many small files.
    Tiny,
}

impl Scene {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Home, Self::Image, Self::Tiny];

    /// Returns the name under which the lab keeps it.
    pub fn saved(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Image => "image",
            Self::Tiny => "tiny",
        }
    }
}
