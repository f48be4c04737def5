//! `rollback confirm`: what was gone back to stays.

use pc_switcher_agent::proto::{Armed, DeadmanOrder, Reached, RollbackLook, RollbackOrder, RollbackPhase};
use pc_switcher_contract::{BytePath, SnapshotSet, SubvolumeName, UtcStamp};
use serde_json::json;

use super::{Done, begin, marks, render, say};
use crate::cli::guard::open::Open;
use crate::cli::snapshots::{Where, settings, with_agent};
use crate::cli::{CliError, Context, Exit};
use crate::clock;

/// What to confirm, and where.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Where,
    /// Only stop the machine from taking the rollback back by itself: the former trees are kept, and `rollback cancel` may
    /// still put them back. May come before the restart, too
    #[arg(long)]
    keep_former: bool,
}

/// What was confirmed.
enum What {
    /// A sync that the machine would have taken back.
    Sync(Armed),
    /// What a command did whose guard died.
    Guard(Open),
    /// A rollback, with its former trees.
    Stays,
    /// A rollback: the former trees are gone.
    Kept,
    /// What a rollback had put in place before it was taken back is gone.
    Removed,
}

/// Confirms, and prints what became of it.
///
/// # Errors
/// If there is nothing to confirm, something still works on what would be removed, or the machine cannot be reached.
pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let (config, mut unmarked) = (settings(context)?, marks::Unmarked::default());
    let (done, what) = with_agent(&args.place, context, async |agent, contact| {
        begin(agent, contact).await?;
        let look = agent.rollback(RollbackOrder::Look).await?;
        let comes_again = look.may_come_again();
        if look.moved.is_some() {
            return Ok((Done::of(agent, look), What::Kept));
        }
        let Some(before) = look.state else {
            if let Some(armed) = agent.deadman(DeadmanOrder::Look).await?.armed {
                agent.deadman(DeadmanOrder::Confirm).await?;
                return Ok((Done::of(agent, RollbackLook::default()), What::Sync(armed)));
            }
            if let Some(open) = Open::of(agent).await?.filter(|open| open.explain().is_some()) {
                Open::forget(agent).await?;
                return Ok((Done::of(agent, RollbackLook::default()), What::Guard(open)));
            }
            // The agent says that there is none.
            return Ok((Done::of(agent, agent.rollback(RollbackOrder::Stay).await?), What::Stays));
        };
        if args.keep_former {
            return Ok((Done::of(agent, agent.rollback(RollbackOrder::Stay).await?), What::Stays));
        }
        let was_cancelled = before.phase == RollbackPhase::Cancelled && !comes_again;
        let stamp = UtcStamp::new(clock::system()());
        let done = Done::of(agent, agent.rollback(RollbackOrder::Confirm(stamp)).await?);
        if done.look.state.is_none() && !was_cancelled {
            let dir = BytePath::from(config.snapshot_dir.as_path());
            let went = |name: &SubvolumeName| before.members.iter().any(|member| member.name == *name);
            // Stamps are seconds: a quick sync takes its sets before and after in the same one.
            let is_left = |set: &SnapshotSet| {
                (before.to.stamp..=before.stamp).contains(&set.stamp)
                    && set.id() != before.to
                    && set.members.iter().any(|member| went(&member.name.subvolume))
            };
            unmarked = marks::take(agent, dir, is_left).await;
        }
        Ok((done, if was_cancelled { What::Removed } else { What::Kept }))
    })?;
    let host = &done.hostname;
    if let Some(how) = &done.look.moved {
        return Err(CliError::Refused { message: format!("{host}: {how}"), help: None });
    }
    let is_over = match what {
        What::Sync(Armed { wish, .. }) => {
            let line = format!("{host}: sync {} from {} stays", wish.session, wish.from);
            return say(context, &done, vec![line]);
        }
        What::Guard(open) => {
            let line = format!("{host}: {}", open.stays());
            return say(context, &done, vec![line]);
        }
        What::Stays => {
            let line = format!("{host}: the rollback stays until somebody takes it back");
            return say(context, &done, std::iter::once(line).chain(render::status(&done)).collect());
        }
        What::Kept => "the rollback is kept, the former trees are removed",
        What::Removed => "what the rollback had put in place is removed",
    };
    if done.look.state.is_some() && done.look.in_use.is_empty() {
        let reached: Vec<String> = done.look.reached.iter().map(Reached::explain).collect();
        return Err(CliError::Refused {
            message: format!("{host}: {}", reached.join("; ")),
            help: Some(
                "nothing is removed under anybody's feet: end that, or leave the directory, and confirm again; with `--keep-former` at \
                 once"
                    .into(),
            ),
        });
    }
    if done.look.state.is_some() {
        return Err(CliError::Refused {
            message: format!(
                "{host}: something still works on the former tree of {}",
                render::names(&done.look.in_use)
            ),
            help: Some(
                "start the machine anew, look around, and confirm then; with `--keep-former` at once".into(),
            ),
        });
    }
    let kept = done.look.kept.as_ref();
    let kept = kept.map(|set| format!("  what was written to it meanwhile is kept as set {set}"));
    if context.global.json {
        let mut value = render::json(&done);
        value["unmarked"] = json!(unmarked.sets);
        if let Some(failure) = unmarked.failure(host) {
            writeln!(context.err, "warning: {failure}")?;
        }
        context.print_json(&value)?;
        return Ok(Exit::Completed);
    }
    let lines =
        std::iter::once(format!("{host}: {is_over}")).chain(kept).chain(unmarked.lines(host)).collect();
    say(context, &done, lines)
}
