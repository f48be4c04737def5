//! Brings plans over: nested subvolumes that go, then what stands on both machines, then nested subvolumes that come.
//!
//! One that goes is emptied like any other part and then removed, one that comes is made empty and then filled like any other
//! part, so a stop between two steps leaves what the next sync knows how to end.

use std::sync::PoisonError;

use pc_switcher_agent::proto::{NestedOrder, Standing};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{
    BytePath, ExecError, Hostname, LogLevel, ModuleContext, ModuleError, PartRecord, Role, SnapshotKind,
};

use crate::config::Compare;
use crate::full::Places;
use crate::module::UserData;
use crate::nested;
use crate::notes;
use crate::parts::PartPair;
use crate::roots::{Roots, place_of, roots};
use crate::ruled;
use crate::survey::{Survey, survey};
use crate::transfer::{Load, Transferred, log_report, transfer, whole};
use crate::written::Written;

/// What became of the plans so far.
#[derive(Debug, Default)]
pub struct Done {
    /// Paths that were left as they are.
    pub conflicts: usize,
    /// Paths that changed on the source meanwhile.
    pub unsent: usize,
    /// Bytes that were planned and need not be sent: the target had the same there.
    pub same_bytes: u64,
}

impl Done {
    /// Adds what became of another plan.
    pub fn add(&mut self, other: Done) {
        self.conflicts += other.conflicts;
        self.unsent += other.unsent;
        self.same_bytes += other.same_bytes;
    }
}

/// Returns what the record of the pair keeps of a part with about so many entries.
pub fn record_of(part: &PartPair, entries: u64) -> PartRecord {
    PartRecord {
        root: part.root.to_string(),
        source: place_of(&part.source),
        target: place_of(&part.target),
        entries,
        rules: Some(ruled::kept(part)),
    }
}

/// Returns a part's plan, ready to be brought over.
///
/// # Errors
/// If no set of this run holds the part.
pub fn load(ctx: &ModuleContext, part: PartPair, survey: Survey) -> Result<Load, ModuleError> {
    let Roots { source: source_root, target: target_root, .. } = roots(ctx, &part, SnapshotKind::PreSync)?;
    let source_base = survey.source_base;
    let conflicts = survey.conflicts.into_iter().map(|conflict| conflict.path).collect();
    Ok(Load { part, source_root, source_base, target_root, steps: survey.steps, conflicts })
}

const REMOVED: &str = "is removed: its pre-sync snapshot keeps what was in it";

/// Says what becomes of a nested subvolume that cannot be removed.
fn stays(root: &BytePath, why: &str) -> String {
    let around = root.parent().unwrap_or_default();
    format!(
        "stays, empty: {why}; `findmnt -R {root}` and `lsattr -d {around} {root}` show what may hold it: without that the next \
         sync removes it"
    )
}

/// Returns why the agent refused something about one nested subvolume; what concerns more than that one ends the run.
fn of_itself(hostname: &Hostname, root: &BytePath, error: ExecError) -> Result<String, ModuleError> {
    const SO_FAR: &str = "what was brought over before stays, and the next sync goes on from there";
    match error {
        ExecError::Failed { why, .. } => Ok(why),
        error => Err(Places::at(hostname, root).ended(error, SO_FAR)),
    }
}

impl UserData {
    /// Brings over the plans of parts that stand on the target.
    pub(crate) async fn bring(&self, ctx: &ModuleContext, loads: Vec<Load>) -> Result<Done, ModuleError> {
        let planned = Written::planned(&loads);
        if loads.iter().all(|load| load.steps.ops.is_empty()) {
            self.note(planned);
            return Ok(Done::default());
        }
        let places = Places::of(&ctx.target.hostname, &loads);
        let transferred = transfer(ctx, loads, self.config.compress).await?;
        let Transferred { report, unsent, losers, same_bytes, packed } = transferred;
        notes::packed(ctx, packed);
        notes::unsent(ctx, &unsent);
        notes::losers(ctx, losers, &report);
        self.note(planned.without(&unsent).without_conflicts(&report));
        log_report(ctx, &report);
        whole(ctx, &report, &places)?;
        Ok(Done { conflicts: report.conflicts.len(), unsent: unsent.len(), same_bytes })
    }

    fn note(&self, written: Written) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).absorb(written);
    }

    /// Empties nested subvolumes that the source does not have any more, and removes them, inner ones first.
    pub(crate) async fn empty(
        &self,
        ctx: &ModuleContext,
        mut gone: Vec<Load>,
        done: &mut Done,
    ) -> Result<(), ModuleError> {
        if gone.is_empty() {
            return Ok(());
        }
        gone.sort_by(|a, b| b.part.root.cmp(&a.part.root));
        let all: Vec<BytePath> = gone.iter().map(|load| load.part.root.clone()).collect();
        let now = self.layout(ctx, Role::Target, &all).await?;
        for load in gone {
            let (root, uuid) = (load.part.root.clone(), load.part.target.subvolume_uuid.clone());
            let (level, text) = match nested::end(&now, &root) {
                Some(end) if end.subvolume_uuid == uuid => {
                    let record = record_of(&load.part, 0);
                    done.add(self.bring(ctx, vec![load]).await?);
                    let order = NestedOrder::Remove { root: root.clone(), uuid };
                    match Agent::new(&ctx.target.agent).nested(order).await {
                        Ok(true) => (LogLevel::Info, REMOVED.to_owned()),
                        Ok(false) => {
                            (LogLevel::Warning, "stays: it holds something that is not mirrored".to_owned())
                        }
                        Err(error) => {
                            let why = of_itself(&ctx.target.hostname, &root, error)?;
                            // The next sync tries again.
                            ctx.board.put_part(record);
                            (LogLevel::Warning, stays(&root, &why))
                        }
                    }
                }
                _ => (LogLevel::Warning, "is left alone: it stands elsewhere by now".to_owned()),
            };
            ctx.board.add_left(usize::from(level == LogLevel::Warning));
            ctx.reporter.log(level, &ctx.target.hostname, format!("the nested subvolume `{root}` {text}"));
        }
        Ok(())
    }

    /// Makes nested subvolumes that the target does not have, outer ones first, and fills each.
    pub(crate) async fn fill(
        &self,
        ctx: &ModuleContext,
        new: Vec<PartPair>,
        done: &mut Done,
    ) -> Result<(), ModuleError> {
        let content = self.config.compare == Compare::Content;
        for part in new {
            ctx.reporter.stage("stage");
            let part = match self.made(ctx, part).await? {
                Ok(part) => part,
                Err(text) => {
                    ctx.reporter.log(LogLevel::Warning, &ctx.target.hostname, text);
                    ctx.board.add_left(1);
                    continue;
                }
            };
            let found =
                survey(ctx, &part, &roots(ctx, &part, SnapshotKind::PreSync)?, content, 0, &self.heard)
                    .await?;
            ctx.board.put_part(record_of(&part, found.source_entries));
            notes::apart(ctx, &part, &found);
            done.add(self.bring(ctx, vec![load(ctx, part, found)?]).await?);
        }
        Ok(())
    }

    /// Makes one; the inner error says why it was not made.
    async fn made(
        &self,
        ctx: &ModuleContext,
        part: PartPair,
    ) -> Result<Result<PartPair, String>, ModuleError> {
        let (root, target) = (&part.root, Agent::new(&ctx.target.agent));
        let waits = |why: &str| {
            Ok(Err(format!("the nested subvolume `{root}` waits for the next sync, with all in it: {why}")))
        };
        let look = || self.layout(ctx, Role::Target, std::slice::from_ref(root));
        if !nested::end(&look().await?, root).is_some_and(|end| end.standing == Standing::Missing) {
            return waits("something stands there by now");
        }
        match target.nested(NestedOrder::Make(root.clone())).await {
            Ok(true) => {}
            Ok(false) => return waits("something stands there by now"),
            Err(error) => return waits(&of_itself(&ctx.target.hostname, root, error)?),
        }
        let text = format!("the nested subvolume `{root}` is made");
        ctx.reporter.log(LogLevel::Info, &ctx.target.hostname, text);
        let now = look().await?;
        match nested::end(&now, root) {
            Some(end) if matches!(end.standing, Standing::Nested | Standing::Directory) => {
                Ok(Ok(PartPair { target: end.clone(), is_late: true, ..part }))
            }
            _ => waits("it cannot be found after it was made"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pc_switcher_contract::ErrorKind;

    #[test]
    fn what_concerns_more_than_one_subvolume_ends_the_run_with_its_own_code() {
        let desk: Hostname = "desk".parse().unwrap();
        let judge = |error| of_itself(&desk, &"/home/a/vm".into(), error).map_err(|error| error.kind);
        let name = || "desk".to_owned();
        let refused = ExecError::Failed { hostname: name(), what: "nested".into(), why: "busy".into() };
        assert_eq!(judge(refused), Ok("busy".into()));
        let full = ExecError::NoSpace { hostname: name(), what: "cannot make it".into() };
        assert_eq!(judge(full), Err(ErrorKind::DiskSpace));
        let lost = ExecError::Transport { hostname: name(), why: "gone".into() };
        assert_eq!(judge(lost), Err(ErrorKind::Unreachable));
        assert_eq!(judge(ExecError::Cancelled), Err(ErrorKind::Cancelled));
    }
}
