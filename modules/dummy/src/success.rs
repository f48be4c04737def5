//! `dummy-success`: works for a while, says so in every allowed way, changes nothing.
//!
//! It is the template for a new module: no state between calls, everything it touches comes from the context,
//! every wait listens to the cancellation token.

use std::time::Duration;

use async_trait::async_trait;
use pc_switcher_contract::{
    Cmd, Fraction, LogLevel, Module, ModuleContext, ModuleError, ModuleName, Outcome, Plan, Problem,
    Progress, Spawned,
};

use crate::config::SuccessConfig;

/// What a child process sleeps: long, and easy to find in a list of processes.
pub const CHILD_SECONDS: &str = "86391";

/// Steps in which the work is reported.
const STEPS: u32 = 20;

/// Works for a while.
#[derive(Debug, Clone)]
pub struct DummySuccess {
    name: ModuleName,
    config: SuccessConfig,
}

impl DummySuccess {
    /// Makes the module.
    pub fn new(config: SuccessConfig) -> Self {
        Self { name: ModuleName::literal("dummy-success"), config }
    }
}

#[async_trait]
impl Module for DummySuccess {
    fn name(&self) -> &ModuleName {
        &self.name
    }

    async fn validate(&self, ctx: &ModuleContext) -> Result<Vec<Problem>, ModuleError> {
        ctx.reporter.log(LogLevel::Debug, &ctx.source.hostname, "nothing to check");
        Ok(Vec::new())
    }

    async fn plan(&self, _ctx: &ModuleContext) -> Result<Plan, ModuleError> {
        let seconds = self.config.duration.duration().as_secs_f64();
        Ok(Plan { summary: format!("would work for {seconds} s and change nothing"), ..Plan::default() })
    }

    async fn execute(&self, ctx: &ModuleContext) -> Result<Outcome, ModuleError> {
        let source = &ctx.source.hostname;
        let target = &ctx.target.hostname;
        ctx.reporter.log(LogLevel::Debug, source, "a line for whoever mends the program");
        ctx.reporter.log(LogLevel::Full, source, "a line for every step");
        ctx.reporter.log(LogLevel::Info, source, "works now");
        ctx.reporter.log(LogLevel::Warning, target, "this is only a test of warnings");
        let children = if self.config.child { Some(spawn_children(ctx, &sleeping()).await?) } else { None };
        let step = self.config.duration.duration() / STEPS;
        for done in 0..STEPS {
            ctx.reporter.progress(Progress {
                fraction: Some(Fraction::of(done.into(), STEPS.into())),
                item: format!("step {} of {STEPS}", done + 1),
                eta: Some(step * (STEPS - done)),
                bytes: None,
            });
            wait(ctx, step).await?;
        }
        drop(children);
        ctx.reporter.progress(Progress {
            fraction: Some(Fraction::ONE),
            item: "done".into(),
            eta: None,
            bytes: None,
        });
        Ok(Outcome::Done(format!("{STEPS} steps, nothing changed")))
    }

    async fn verify(&self, _ctx: &ModuleContext) -> Result<Vec<Problem>, ModuleError> {
        Ok(Vec::new())
    }

    async fn abort(&self, ctx: &ModuleContext, timeout: Duration) {
        end_children(ctx, timeout).await;
    }
}

/// Waits, unless the run is stopped.
pub(crate) async fn wait(ctx: &ModuleContext, time: Duration) -> Result<(), ModuleError> {
    tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => Err(ModuleError::cancelled()),
        () = tokio::time::sleep(time) => Ok(()),
    }
}

/// Starts the same command on both machines; they end when the answer is dropped.
pub(crate) async fn spawn_children(ctx: &ModuleContext, cmd: &Cmd) -> Result<[Spawned; 2], ModuleError> {
    let here = ctx.source.executor.spawn(cmd.clone().into()).await?;
    let there = ctx.target.executor.spawn(cmd.clone().into()).await?;
    Ok([here, there])
}

/// Ends what still runs on both machines, half of the time for each way of asking.
pub(crate) async fn end_children(ctx: &ModuleContext, timeout: Duration) {
    let grace = timeout / 2;
    tokio::join!(ctx.source.executor.terminate_all(grace), ctx.target.executor.terminate_all(grace));
}

fn sleeping() -> Cmd {
    Cmd::new("sleep").arg(CHILD_SECONDS).timeout(Duration::from_secs(86_400))
}
