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
    /// What went wrong beside it.
    pub warnings: Vec<String>,
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
        let mut kept = None;
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
            let made = RecoveryCode { code, vaults: done, warnings: Vec::new() };
            kept = Some(made.clone());
            Ok(made)
        };
        let tell = |made: &RecoveryCode| {
            let keys = made.vaults.iter().map(|(vault, key)| format!("the key {} of `{vault}`", &key[..8]));
            (true, keys.collect::<Vec<_>>().join(", "))
        };
        let ended = self.operation("recovery code", only.unwrap_or_default(), work, tell);
        match (ended, kept) {
            // It opens the vaults by now, and nobody can show it again.
            (Err(error), Some(made)) => {
                let text = format!(
                    "the code is made and opens the vaults, but the history does not have it: {error}"
                );
                Ok(RecoveryCode { warnings: vec![text], ..made })
            }
            (ended, _) => ended,
        }
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

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;
    use crate::store::Store as _;

    #[test]
    fn a_code_that_the_history_does_not_take_is_returned_all_the_same_and_opens_the_vault() {
        let world = World::new();
        let catalogue = world.state.path().join("vault/catalogue.db");
        let mut service = world.service(world.state.path(), world.store.clone(), std::process::id());
        let db = rusqlite::Connection::open(catalogue).unwrap();
        db.execute_batch(
            "CREATE TRIGGER full BEFORE UPDATE ON backup_operations BEGIN SELECT RAISE(ABORT, 'no room'); END",
        )
        .unwrap();
        let made = service.recovery_code(None, &mut |_| Ok(b"x".into())).unwrap();
        assert!(made.warnings[0].contains("the history does not have it"), "{made:?}");
        Repository::open(world.store.clone(), made.code.as_bytes()).unwrap();
        // One that was not made is none.
        assert!(service.recovery_code(None, &mut |_| Ok(b"wrong".into())).is_err());
        let keys = world.store.list(Kind::Key).unwrap().len();
        assert_eq!(keys, 2);
        drop(db);
    }
}
