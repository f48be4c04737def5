//! `dummy-fail`: fails in the call and in the way it is told to; everywhere else it does nothing.

use std::time::Duration;

use async_trait::async_trait;
use pc_switcher_contract::{
    Cmd, LogLevel, Module, ModuleContext, ModuleError, ModuleName, Outcome, Plan, Problem,
};

use crate::config::{At, FailConfig, How};
use crate::success::{end_children, spawn_children};

/// What a child that ignores TERM sleeps: long, and easy to find in a list of processes.
pub const STUBBORN_SECONDS: &str = "86392";

/// Fails on purpose.
#[derive(Debug, Clone)]
pub struct DummyFail {
    name: ModuleName,
    config: FailConfig,
}

impl DummyFail {
    /// Makes the module.
    pub fn new(config: FailConfig) -> Self {
        Self { name: ModuleName::literal("dummy-fail"), config }
    }

    /// Fails if `call` is the one that shall fail.
    async fn reach(&self, call: At, ctx: &ModuleContext) -> Result<(), ModuleError> {
        if self.config.at != call {
            return Ok(());
        }
        match self.config.how {
            How::Error => Err(ModuleError::failed(failure(call)).hint("switch `dummy-fail` off")),
            How::Panic => panic!("{}", failure(call)),
            How::Hang => std::future::pending().await,
            How::IgnoreTerm => {
                let _children = spawn_children(ctx, &stubborn()).await?;
                ctx.cancel.cancelled().await;
                Err(ModuleError::cancelled())
            }
            How::LogError => {
                ctx.reporter.log(LogLevel::Error, &ctx.source.hostname, failure(call));
                Ok(())
            }
        }
    }

    /// As [`Self::reach`], for calls that return problems.
    async fn look(&self, call: At, ctx: &ModuleContext) -> Result<Vec<Problem>, ModuleError> {
        if self.config.at == call && self.config.how == How::Error {
            return Ok(vec![
                Problem::on(&ctx.source.hostname, failure(call)).hint("switch `dummy-fail` off"),
            ]);
        }
        self.reach(call, ctx).await.map(|()| Vec::new())
    }
}

#[async_trait]
impl Module for DummyFail {
    fn name(&self) -> &ModuleName {
        &self.name
    }

    async fn validate(&self, ctx: &ModuleContext) -> Result<Vec<Problem>, ModuleError> {
        self.look(At::Validate, ctx).await
    }

    async fn plan(&self, ctx: &ModuleContext) -> Result<Plan, ModuleError> {
        self.reach(At::Plan, ctx).await?;
        Ok(Plan { summary: "would fail as it is told to".into(), ..Plan::default() })
    }

    async fn execute(&self, ctx: &ModuleContext) -> Result<Outcome, ModuleError> {
        if self.config.at == At::Abort {
            ctx.cancel.cancelled().await;
            return Err(ModuleError::cancelled());
        }
        self.reach(At::Execute, ctx).await?;
        Ok(Outcome::Done("did not fail".into()))
    }

    async fn verify(&self, ctx: &ModuleContext) -> Result<Vec<Problem>, ModuleError> {
        self.look(At::Verify, ctx).await
    }

    async fn abort(&self, ctx: &ModuleContext, timeout: Duration) {
        end_children(ctx, timeout).await;
        if let Err(error) = self.reach(At::Abort, ctx).await {
            ctx.reporter.log(LogLevel::Error, &ctx.source.hostname, error.message);
        }
    }
}

fn failure(call: At) -> String {
    let call = match call {
        At::Validate => "validate",
        At::Plan => "plan",
        At::Execute => "execute",
        At::Verify => "verify",
        At::Abort => "abort",
    };
    format!("`dummy-fail` fails in {call}, as it was told to")
}

/// A shell that ignores TERM and goes on sleeping when its child is ended.
fn stubborn() -> Cmd {
    let script = format!("trap '' TERM; while :; do sleep {STUBBORN_SECONDS}; done");
    Cmd::new("sh").args(["-c", script.as_str()]).timeout(Duration::from_secs(86_400))
}
