//! The file `config`: which format, which repository, which polynomial cuts its files.

use serde::{Deserialize, Serialize};

use super::id::Id;
use super::polynomial::Polynomial;

/// What a repository says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoConfig {
    /// The format: 1 or 2.
    pub version: u32,
    /// A random name.
    pub id: Id,
    /// Cuts files in this repository, by whichever writer.
    pub chunker_polynomial: Polynomial,
}

impl RepoConfig {
    /// Makes one for a new repository of version 2.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut id = [0; 32];
        getrandom::fill(&mut id)?;
        Ok(Self { version: 2, id: Id(id), chunker_polynomial: Polynomial::random()? })
    }
}
