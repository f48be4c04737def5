//! CLEANUP: monitors stop, the running module is aborted, what runs is ended, the intent is taken back.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{ErrorKind, Executor, Gatekeeper, ModuleError, ModuleResult, Room};

use super::phases::Prepared;
use super::plan::RunPlan;
use super::records;
use super::room;
use super::run::Engine;

/// How long a module may take to free what it holds.
const ABORT: Duration = Duration::from_secs(5);
/// How long process groups get between TERM and KILL.
const TERM: Duration = Duration::from_secs(2);
/// How long agents and connection get to end by themselves.
pub const CLOSE: Duration = Duration::from_secs(3);

impl Engine {
    /// Starts what runs beside; a failure there ends the run.
    pub(super) fn start_monitors(
        &mut self,
        plan: &RunPlan,
        prepared: &Prepared,
        gates: &Arc<dyn Gatekeeper>,
    ) {
        for module in &plan.background {
            let ctx = prepared.context(&self.deps, module.as_ref(), gates, &self.monitors_stop);
            let brackets = room::brackets(plan, |bracket| {
                prepared.context(&self.deps, bracket, gates, &self.monitors_stop)
            });
            let (module, background) = (Arc::clone(module), self.background.clone());
            let (running, alone) = (Arc::clone(&module), Arc::clone(&self.alone));
            let task = tokio::spawn(async move {
                let (brackets, alone) = (&brackets, &alone);
                let make_room = |wanted| -> BoxFuture<'_, Result<Room, ModuleError>> {
                    Box::pin(async move {
                        let _alone = alone.lock().await;
                        room::make(brackets, wanted).await
                    })
                };
                let watched = room::attend(|| running.execute(&ctx), || ctx.board.reserve(), make_room);
                if let Err(mut error) = watched.await
                    && error.kind != ErrorKind::Cancelled
                {
                    error.message = format!("{}: {}", running.name(), error.message);
                    drop(background.send(error).await);
                }
            });
            self.monitors.push((module, task));
        }
    }

    /// Brings everything to a halt, each step within its limit.
    pub(super) async fn stop_everything(&mut self) {
        self.deps.log.stage("cleanup");
        let failed_monitor = self.background_failed;
        self.watch.cancel.cancel();
        self.monitors_stop.cancel();
        for (module, task) in std::mem::take(&mut self.monitors) {
            let abort = task.abort_handle();
            let ended = self.watch.bounded(ABORT, async move { drop(task.await) }).await;
            if !ended {
                abort.abort();
            }
            let result = if failed_monitor { ModuleResult::Failed } else { ModuleResult::Success };
            self.session.record(module.name().clone(), result, "");
        }
        if let Some((module, ctx)) = self.running.take() {
            let name = module.name().clone();
            let aborted = self.watch.bounded(ABORT, async move { module.abort(&ctx, ABORT).await }).await;
            if !aborted {
                self.deps.log.warning(format!("`{name}` did not stop in time; its processes are ended"));
            }
        }
        let Some(prepared) = &self.prepared else { return };
        let (source, target) = (Arc::clone(&prepared.source.executor), Arc::clone(&prepared.target.executor));
        self.watch
            .bounded(TERM * 2, async move {
                let target: &dyn Executor = target.as_ref();
                tokio::join!(source.terminate_all(TERM), target.terminate_all(TERM));
            })
            .await;
        self.leave_deadman().await;
        self.forget_attempt().await;
        let Some(prepared) = &self.prepared else { return };
        let agents = prepared.agents();
        // A commit that may still go on over there keeps its mark: if that machine dies now, the next run must say so.
        if std::mem::take(&mut self.intent_written) && !prepared.board.commit_pending() {
            let log = self.deps.log.clone();
            self.watch
                .bounded(CLOSE, async move {
                    let clear = async |agent: &Agent| {
                        if let Err(error) = records::clear_intent(agent).await {
                            log.on(agent.hostname()).debug(format!("the intent stays: {error}"));
                        }
                    };
                    tokio::join!(clear(&agents[0]), clear(&agents[1]));
                })
                .await;
        }
    }

    /// An attempt that never asked for a commit brought nothing over: it must not push out one that did.
    async fn forget_attempt(&mut self) {
        let Some(prepared) = self.prepared.as_ref().filter(|prepared| !prepared.board.commit_was_asked())
        else {
            return;
        };
        if !std::mem::take(&mut self.attempt_noted) {
            return;
        }
        let (attempts, facts) = (prepared.board.attempts(), prepared.target_facts.clone());
        let [source, _] = prepared.agents();
        let log = self.deps.log.clone();
        self.watch
            .bounded(CLOSE, async move {
                if let Err(error) = records::write_attempts(&source, &facts, &attempts).await {
                    log.debug(format!("the attempt stays noted: {error}"));
                }
            })
            .await;
    }
}
