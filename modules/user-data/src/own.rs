//! What is our own on both machines: state, settings, and the files with secrets that settings name. Never mirrored.

use std::path::PathBuf;

use pc_switcher_agent::proto::MachineFacts;
use pc_switcher_contract::BytePath;

/// Says which paths of our own a text of settings names, whatever else is wrong with it.
pub type NamedIn = fn(&str) -> Vec<PathBuf>;

/// What is our own.
#[derive(Clone)]
pub struct Own {
    here: Vec<BytePath>,
    named_in: NamedIn,
}

impl Own {
    /// Takes what is our own where the sync is started from, wherever the environment has put it.
    pub fn new(here: Vec<BytePath>, named_in: NamedIn) -> Self {
        Self { here, named_in }
    }

    /// Returns what is our own on either machine: what one has and the other lacks would be removed on the way back.
    pub(crate) fn of(&self, machines: [&MachineFacts; 2]) -> Vec<BytePath> {
        let texts = machines.into_iter().flat_map(|facts| &facts.settings);
        let named = texts.flat_map(|text| (self.named_in)(text));
        let mut all: Vec<BytePath> =
            self.here.iter().cloned().chain(named.map(|path| BytePath::from(path.as_path()))).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}
