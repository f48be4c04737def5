//! A home as people have it, with everything in it that a careless sync loses: written the same from the same seed.
//!
//! Invariant: [`HomeSeed::write`] depends on nothing but its seed and sizes; no clock, no random source.

mod content;
mod full;
mod odd;
mod random;
mod tree;

use std::{io, path::Path};

use self::tree::Tree;
pub use self::{
    full::{Changed, FullHome, Image},
    random::Random,
};
use crate::lab::{Cmd, LabError, Machine};

/// Describes a home; the defaults make some 400 paths with about 6 MB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HomeSeed {
    seed: u64,
    documents: usize,
    owner: u32,
}

impl HomeSeed {
    /// Describes a home of alice; other seeds give other contents, names and times.
    pub fn new(seed: u64) -> Self {
        Self { seed, documents: 120, owner: 1000 }
    }

    /// Chooses the number of ordinary documents.
    #[must_use]
    pub fn documents(self, documents: usize) -> Self {
        Self { documents, ..self }
    }

    /// Chooses who owns the home (user and group of this number).
    #[must_use]
    pub fn owner(self, owner: u32) -> Self {
        Self { owner, ..self }
    }

    /// Writes the home into the directory `home`, over what is there. Needs root, for owners and capabilities.
    pub fn write(&self, home: &Path) -> io::Result<()> {
        let mut tree = Tree::new(home, self.owner);
        let mut random = Random::new(self.seed);
        content::documents(&mut tree, &mut random, self.documents)?;
        content::repository(&mut tree, &mut random)?;
        content::maildir(&mut tree, &mut random)?;
        content::settings_and_caches(&mut tree, &mut random)?;
        odd::sparse_files(&mut tree, &mut random)?;
        odd::links(&mut tree, &mut random)?;
        odd::attributes(&mut tree, &mut random)?;
        odd::special_files(&mut tree)?;
        odd::names(&mut tree, &mut random)?;
        odd::shapes(&mut tree, &mut random)?;
        tree.set_times(&mut random, odd::TIMES)
    }
}

impl Machine {
    /// Seeds alice's home, with a real SQLite database in it. `.ssh` is left as it is: every machine has its own keys.
    pub fn seed_home(&self, seed: &HomeSeed) -> Result<(), LabError> {
        let home = self.root_path()?.join("home/alice");
        // First, since the seed sets all times in the end; a fresh file, since SQLite counts changes in it.
        let script = "mkdir -p data; rm -f data/notes.db*; sqlite3 data/notes.db";
        self.run(&Cmd::script(script).as_alice().stdin(content::database(seed.seed)))?;
        let what = format!("seed `{}` of `{}`", home.display(), self.hostname());
        seed.write(&home).map_err(LabError::io(what))
    }
}
