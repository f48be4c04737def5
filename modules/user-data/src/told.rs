//! What the machines tell of a part since their last sync, asked of both at once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use pc_switcher_agent::proto::{ChangedDir, Moved};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{BytePath, ExecError, ModuleContext, ModuleError};

use crate::moving::Bases;
use crate::parts::PartPair;
use crate::roots::{Roots, tree};

/// What was moved and what changed; each `None` if that is not known.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// What was moved on the source.
    pub moved: Option<Vec<Moved>>,
    /// The directories that changed on the source.
    pub ours: Option<Vec<ChangedDir>>,
    /// The directories that changed on the target.
    pub theirs: Option<Vec<ChangedDir>>,
    /// Files of both whose content alone was written.
    pub silent: [Vec<BytePath>; 2],
}

/// Returns the directories if these are all, and the files whose content alone was written.
fn both((dirs, are_all): (Vec<ChangedDir>, bool)) -> (Option<Vec<ChangedDir>>, Vec<BytePath>) {
    let of_dir = |dir: &ChangedDir| -> Vec<BytePath> {
        dir.silent.iter().map(|name| dir.path.join(name.as_bytes())).collect()
    };
    let silent = dirs.iter().flat_map(of_dir).collect();
    (are_all.then_some(dirs), silent)
}

/// Asks a machine which files' content alone was written between two trees.
///
/// # Errors
/// If the agent fails.
pub(crate) async fn silent(
    agent: &Agent,
    part: &PartPair,
    [then, now]: [Option<&BytePath>; 2],
) -> Result<Vec<BytePath>, ExecError> {
    let (Some(then), Some(now)) = (then, now) else { return Ok(Vec::new()) };
    Ok(both(agent.changed(then.clone(), tree(part, now)).await?).1)
}

/// What the source told in this run, by its older tree and the newer one: neither changes, so the verification need not ask
/// again.
#[derive(Debug, Default)]
pub struct Heard(Mutex<HashMap<(BytePath, BytePath), Told>>);

impl Heard {
    /// Asks both machines.
    ///
    /// # Errors
    /// If an agent fails or the run is stopped.
    pub async fn ask(
        &self,
        ctx: &ModuleContext,
        part: &PartPair,
        roots: &Roots,
        bases: &Bases,
    ) -> Result<Told, ModuleError> {
        let (Some(ours), Some(theirs)) = (roots.ours.tree(), roots.theirs.tree()) else {
            return Ok(Told::default());
        };
        let (source, target) = (Agent::new(&ctx.source.agent), Agent::new(&ctx.target.agent));
        let key = (bases.source.clone(), ours.clone());
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let here = async {
            match heard {
                Some(heard) => Ok::<_, ExecError>(heard),
                None => {
                    let (base, now) = (|| bases.source.clone(), || tree(part, ours));
                    let (moved, ours) =
                        tokio::try_join!(source.moved(base(), now()), source.changed(base(), now()))?;
                    let (ours, silent) = both(ours);
                    Ok(Told { moved, ours, theirs: None, silent: [silent, Vec::new()] })
                }
            }
        };
        let asked =
            async { tokio::try_join!(here, target.changed(bases.target.clone(), tree(part, theirs))) };
        let (here, theirs) = tokio::select! {
            biased;
            () = ctx.cancel.cancelled() => return Err(ModuleError::cancelled()),
            told = asked => told?,
        };
        if !ctx.mode.is_dry() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, here.clone());
        }
        let (theirs, silent) = both(theirs);
        let [ours, _] = here.silent;
        Ok(Told { theirs, silent: [ours, silent], ..here })
    }
}
