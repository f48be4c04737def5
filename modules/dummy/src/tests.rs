//! Both modules against machines that only note what they are told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pc_switcher_contract::*;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::spec;

/// A machine whose commands never end and that counts who was told to.
struct Host {
    hostname: Hostname,
    spawned: Mutex<Vec<String>>,
    ended: Mutex<usize>,
}

impl Host {
    fn new(name: &str) -> Arc<Self> {
        Arc::new(Self { hostname: name.parse().unwrap(), spawned: Mutex::default(), ended: Mutex::default() })
    }
}

#[async_trait]
impl Executor for Host {
    fn hostname(&self) -> &Hostname {
        &self.hostname
    }
    async fn run(&self, _: Action) -> Result<Output, ExecError> {
        Err(ExecError::Cancelled)
    }
    async fn spawn(&self, action: Action) -> Result<Spawned, ExecError> {
        self.spawned.lock().unwrap().push(action.cmd().display());
        let (lines, exit) = (tokio::sync::mpsc::channel(1).1, tokio::sync::oneshot::channel().1);
        Ok(Spawned { lines, exit, guard: Box::new(()) })
    }
    async fn terminate_all(&self, _: Duration) -> usize {
        *self.ended.lock().unwrap() += 1;
        0
    }
}

#[async_trait]
impl RemoteExecutor for Host {
    async fn send_file(&self, _: &SendFile, _: &WriteLicence) -> Result<(), ExecError> {
        Ok(())
    }
}

#[async_trait]
impl AgentLink for Host {
    fn hostname(&self) -> &Hostname {
        &self.hostname
    }
    async fn open(&self, _: Vec<u8>) -> Result<AgentCall, ExecError> {
        Err(ExecError::Cancelled)
    }
}

#[async_trait]
impl Gatekeeper for Host {
    async fn pass(&self, _: Gate) -> Result<Answer, ModuleError> {
        Ok(Answer::ByFlag)
    }
}

#[derive(Default)]
struct Kept(Mutex<Vec<EventKind>>);

impl Sink for Kept {
    fn emit(&self, kind: EventKind) {
        self.0.lock().unwrap().push(kind);
    }
}

impl Kept {
    fn levels(&self) -> Vec<LogLevel> {
        let events = self.0.lock().unwrap();
        let level = |event: &EventKind| match event {
            EventKind::Log { level, .. } => Some(*level),
            _ => None,
        };
        events.iter().filter_map(level).collect()
    }
}

struct Stage {
    laptop: Arc<Host>,
    desk: Arc<Host>,
    kept: Arc<Kept>,
    ctx: ModuleContext,
}

fn stage() -> Stage {
    let (laptop, desk, kept) = (Host::new("laptop"), Host::new("desk"), Arc::new(Kept::default()));
    let ctx = ModuleContext {
        session: "abc12345".parse().unwrap(),
        source: Machine {
            hostname: laptop.hostname.clone(),
            executor: laptop.clone(),
            agent: laptop.clone(),
        },
        target: TargetMachine {
            hostname: desk.hostname.clone(),
            executor: desk.clone(),
            agent: desk.clone(),
        },
        reporter: Reporter::new("dummy-success".parse().unwrap(), kept.clone()),
        cancel: CancellationToken::new(),
        mode: RunMode::Real(WriteLicence::grant()),
        gates: desk.clone(),
        board: Arc::default(),
        clock: Arc::new(|| "2025-11-15T12:00:00Z".parse().unwrap()),
    };
    Stage { laptop, desk, kept, ctx }
}

fn fail(at: &str, how: &str) -> Arc<dyn Module> {
    (spec::fail().build)(&json!({ "at": at, "how": how })).unwrap()
}

#[tokio::test]
async fn success_reports_its_whole_progress_and_logs_no_error() {
    let stage = stage();
    let module = (spec::success().build)(&json!({ "duration": 0 })).unwrap();
    assert!(module.plan(&stage.ctx).await.unwrap().is_empty());
    assert!(matches!(module.execute(&stage.ctx).await, Ok(Outcome::Done(_))));
    assert_eq!(stage.kept.levels(), [LogLevel::Debug, LogLevel::Full, LogLevel::Info, LogLevel::Warning]);
    let events = stage.kept.0.lock().unwrap();
    let last = events.iter().rev().find_map(|event| match event {
        EventKind::Progress { progress, .. } => progress.fraction,
        _ => None,
    });
    assert_eq!(last, Some(Fraction::ONE));
}

#[tokio::test(start_paused = true)]
async fn success_with_a_child_runs_it_on_both_machines_and_abort_ends_both() {
    let stage = stage();
    let module = (spec::success().build)(&json!({ "duration": 3600, "child": true })).unwrap();
    let cancel = stage.ctx.cancel.clone();
    let (result, ()) = tokio::join!(module.execute(&stage.ctx), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        cancel.cancel();
    });
    assert_eq!(result.unwrap_err().kind, ErrorKind::Cancelled);
    module.abort(&stage.ctx, Duration::from_secs(4)).await;
    for host in [&stage.laptop, &stage.desk] {
        assert_eq!(*host.spawned.lock().unwrap(), [format!("sleep {}", crate::success::CHILD_SECONDS)]);
        assert_eq!(*host.ended.lock().unwrap(), 1);
    }
}

#[tokio::test]
async fn fail_fails_in_the_call_it_is_told_to_and_nowhere_else() {
    let stage = stage();
    let ctx = &stage.ctx;
    assert_eq!(fail("validate", "error").validate(ctx).await.unwrap().len(), 1);
    assert!(fail("plan", "error").plan(ctx).await.is_err());
    assert!(fail("execute", "error").execute(ctx).await.is_err());
    assert_eq!(fail("verify", "error").verify(ctx).await.unwrap().len(), 1);
    assert!(fail("verify", "error").execute(ctx).await.is_ok());
    assert!(fail("execute", "error").validate(ctx).await.unwrap().is_empty());
}

#[tokio::test]
async fn fail_logs_an_error_and_goes_on() {
    let stage = stage();
    assert!(fail("execute", "log-error").execute(&stage.ctx).await.is_ok());
    assert_eq!(stage.kept.levels(), [LogLevel::Error]);
    fail("abort", "error").abort(&stage.ctx, Duration::from_secs(1)).await;
    assert_eq!(stage.kept.levels(), [LogLevel::Error, LogLevel::Error]);
}

#[tokio::test(start_paused = true)]
async fn fail_hangs_although_it_is_cancelled_and_its_stubborn_child_ignores_term() {
    let stage = stage();
    stage.ctx.cancel.cancel();
    let hanging = fail("execute", "hang");
    assert!(tokio::time::timeout(Duration::from_secs(60), hanging.execute(&stage.ctx)).await.is_err());
    assert!(fail("execute", "ignore-term").execute(&stage.ctx).await.is_err());
    assert!(stage.desk.spawned.lock().unwrap()[0].contains("trap '' TERM"));
}

#[tokio::test]
async fn fail_panics_on_request() {
    let ctx = stage().ctx;
    let task = tokio::spawn(async move { fail("execute", "panic").execute(&ctx).await.is_ok() });
    assert!(task.await.unwrap_err().is_panic());
}
