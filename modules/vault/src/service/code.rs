//! Recovery codes: another key of a vault, for paper.

use serde::Serialize;

use super::vaults::Passphrase;
use super::{Service, Surroundings};
use crate::error::{Result, no_random};
use crate::format::code;
use crate::repo::{Repository, Who};
use crate::store::Kind;

/// What `restic key list` says of who made such a key.
const MAKER: &str = "recovery-code";

/// A new recovery code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecoveryCode {
    /// The code: nobody keeps it.
    pub code: String,
    /// The vaults that it opens, each with the name of its key there.
    pub vaults: Vec<(String, String)>,
}

impl Service {
    /// Makes a code that opens each vault that is set, or the one of this name, in the place of its passphrase.
    ///
    /// # Errors
    /// If one of them cannot be used; then the code opens none.
    pub fn recovery_code(
        &mut self,
        only: Option<&str>,
        passphrase: &mut Passphrase<'_>,
    ) -> Result<RecoveryCode> {
        let chosen = self.chosen(only)?;
        let work = |service: &mut Self, _| {
            let mut opened = Vec::new();
            for settings in &chosen {
                opened.push((settings.name.clone(), service.open_vault(settings, passphrase)?));
            }
            let code = code::random().map_err(no_random)?;
            let mut done: Vec<(String, String)> = Vec::new();
            for (name, repo) in &opened {
                match service.add_code(repo, &code) {
                    Ok(key) => done.push((name.clone(), key)),
                    Err(error) => {
                        // Nobody will know the code.
                        for ((_, repo), (_, key)) in opened.iter().zip(&done) {
                            repo.store().delete(Kind::Key, key).ok();
                        }
                        return Err(error);
                    }
                }
            }
            Ok(RecoveryCode { code, vaults: done })
        };
        let tell = |made: &RecoveryCode| {
            let keys = made.vaults.iter().map(|(vault, key)| format!("the key {} of `{vault}`", &key[..8]));
            (true, keys.collect::<Vec<_>>().join(", "))
        };
        self.operation("recovery code", only.unwrap_or_default(), work, tell)
    }

    fn add_code(&self, repo: &Repository, code: &str) -> Result<String> {
        let Surroundings { who, clock, cost, .. } = &self.around;
        let held = repo.lock(who, clock)?;
        let maker = Who { username: MAKER.into(), ..who.clone() };
        let key = repo.add_key(code.as_bytes(), *cost, &maker, clock())?;
        drop(held);
        Ok(key)
    }
}
