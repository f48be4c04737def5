//! Files whose content was written since the last sync while size and times stayed as they were: one `write` that began before a
//! snapshot and ended after it. By size and time they are what they were, and are compared by content all the same.

use std::collections::HashSet;

use pc_switcher_agent::proto::ReadWant;
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{BytePath, ModuleContext, ModuleError, Role};

use crate::change::{Change, Found, Judge};
use crate::compare::Walk;
use crate::moves::Moves;
use crate::parts::PartPair;
use crate::roots::{Listed, Roots};
use crate::survey::digests;
use crate::told;

/// Such files, by the paths that they will have.
#[derive(Debug, Default)]
pub(crate) struct Silent {
    /// Of both machines.
    pub all: HashSet<BytePath>,
    theirs: HashSet<BytePath>,
}

impl Silent {
    /// Takes what both machines told.
    pub fn of([ours, theirs]: [Vec<BytePath>; 2], moves: &Moves) -> Self {
        let theirs: HashSet<BytePath> = theirs.iter().map(|path| moves.map(Walk::Target, path)).collect();
        Self { all: ours.into_iter().chain(theirs.iter().cloned()).collect(), theirs }
    }

    /// Asks both machines, where nothing else is asked that would tell.
    ///
    /// # Errors
    /// If an agent fails or the run is stopped.
    pub async fn ask(
        ctx: &ModuleContext,
        part: &PartPair,
        roots: &Roots,
        judge: Judge,
    ) -> Result<Self, ModuleError> {
        if judge.content {
            return Ok(Self::default());
        }
        fn then(listed: Option<&Listed>) -> Option<&BytePath> {
            listed.and_then(Listed::tree)
        }
        let here = [then(roots.before.as_ref()).filter(|_| judge.has_before), roots.ours.tree()];
        let there = [then(roots.base.as_ref()).filter(|_| judge.walks_base()), roots.theirs.tree()];
        let (source, target) = (Agent::new(&ctx.source.agent), Agent::new(&ctx.target.agent));
        let both =
            async { tokio::try_join!(told::silent(&source, part, here), told::silent(&target, part, there)) };
        let (ours, theirs) = tokio::select! {
            biased;
            () = ctx.cancel.cancelled() => return Err(ModuleError::cancelled()),
            told = both => told?,
        };
        Ok(Self::of([ours, theirs], &Moves::default()))
    }

    /// Marks what such a file of the target is no more: what both had in common.
    ///
    /// # Errors
    /// If the target's agent fails or the run is stopped.
    pub async fn touch(
        &self,
        ctx: &ModuleContext,
        roots: &Roots,
        found: &mut [Found],
        moves: &Moves,
    ) -> Result<(), ModuleError> {
        let is_silent = |found: &Found| {
            let is_other = !matches!(found.change, Change::Meta(..));
            is_other && !found.touched && found.theirs.is_some() && self.theirs.contains(&found.path)
        };
        let asked: Vec<usize> = (0..found.len()).filter(|at| is_silent(&found[*at])).collect();
        if asked.is_empty() {
            return Ok(());
        }
        let wants = |walk| -> Vec<ReadWant> {
            let want =
                |at: &usize| ReadWant { content: *at as u32, path: moves.stands(walk, &found[*at].path) };
            asked.iter().map(want).collect()
        };
        let (now, then) = (wants(Walk::Target), wants(Walk::Base));
        let then = match roots.base.as_ref().and_then(Listed::tree) {
            Some(base) => digests(ctx, Role::Target, base, &then).await?,
            None => Default::default(),
        };
        let now = digests(ctx, Role::Target, &roots.target, &now).await?;
        for at in asked {
            let both = then.get(&(at as u32)).zip(now.get(&(at as u32)));
            found[at].touched = both.is_none_or(|(then, now)| then != now);
        }
        Ok(())
    }
}
