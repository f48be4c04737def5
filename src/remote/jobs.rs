//! Commands of one executor: started, listed, ended. What both executors share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use pc_switcher_contract::{Action, AgentLink, Cmd, ExecError, Hostname, Output, OutputLine, Spawned};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::agent_exec;
use super::channel::Channel;
use super::running::{Input, Job, LineSplitter, Stop, Taker, Verdict, drive};
use super::watchdog;

/// No output of a command that is collected may be longer; longer ones are streamed.
const COLLECT_LIMIT: usize = 256 << 20;

/// Lines that may wait for their reader.
const LINES: usize = 1024;

/// Opens a channel for a command's watchdog; the permit lives inside the channel.
pub(super) type Opener = Arc<dyn Fn(Vec<u8>) -> BoxFuture<'static, Result<Channel, ExecError>> + Send + Sync>;

#[derive(Default)]
struct Table {
    next: u64,
    stops: HashMap<u64, Arc<watch::Sender<Option<Duration>>>>,
}

/// The commands of one machine.
#[derive(Clone)]
pub(super) struct Jobs {
    hostname: Hostname,
    opener: Opener,
    agent: Arc<Mutex<Option<Arc<dyn AgentLink>>>>,
    table: Arc<Mutex<Table>>,
    ended: Arc<Notify>,
}

/// A command's place in the table. Dropping it strikes the command off.
struct Entry {
    id: u64,
    jobs: Jobs,
}

impl Drop for Entry {
    fn drop(&mut self) {
        guard(&self.jobs.table).stops.remove(&self.id);
        self.jobs.ended.notify_waiters();
    }
}

/// Ends a command when dropped.
struct StopOnDrop(Arc<watch::Sender<Option<Duration>>>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        request(&self.0, watchdog::GRACE);
    }
}

fn request(stop: &watch::Sender<Option<Duration>>, grace: Duration) {
    stop.send_if_modified(|wish| wish.is_none().then(|| *wish = Some(grace)).is_some());
}

/// Returns the command for an error: a script is cut.
fn short(cmd: &Cmd) -> String {
    let whole = cmd.display();
    match whole.char_indices().nth(100) {
        Some((at, _)) => format!("{}…", &whole[..at]),
        None => whole,
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Jobs {
    pub(super) fn new(hostname: Hostname, opener: Opener) -> Self {
        Self { hostname, opener, agent: Arc::default(), table: Arc::default(), ended: Arc::default() }
    }

    pub(super) fn hostname(&self) -> &Hostname {
        &self.hostname
    }

    pub(super) fn set_agent(&self, agent: Arc<dyn AgentLink>) {
        *guard(&self.agent) = Some(agent);
    }

    /// Returns the agent.
    ///
    /// # Errors
    /// Before one was set.
    pub(super) fn agent(&self, what: &str) -> Result<Arc<dyn AgentLink>, ExecError> {
        guard(&self.agent).clone().ok_or_else(|| ExecError::Failed {
            hostname: self.hostname.to_string(),
            what: what.to_owned(),
            why: "it needs the agent, and none has been started".into(),
        })
    }

    fn enter(&self) -> (Entry, Arc<watch::Sender<Option<Duration>>>) {
        let stop = Arc::new(watch::Sender::new(None));
        let mut table = guard(&self.table);
        table.next += 1;
        let id = table.next;
        table.stops.insert(id, Arc::clone(&stop));
        (Entry { id, jobs: self.clone() }, stop)
    }

    fn job(&self, cmd: &Cmd, input: Input) -> Result<Job, ExecError> {
        let program = cmd.program.to_string_lossy().into_owned();
        let spec = watchdog::specification(&cmd.program, &cmd.args, input.len(), cmd.timeout);
        let spec = spec.ok_or_else(|| ExecError::Spawn {
            hostname: self.hostname.to_string(),
            program: program.clone(),
            why: "an argument holds a NUL byte".into(),
        })?;
        let (hostname, what) = (self.hostname.to_string(), short(cmd));
        Ok(Job { hostname, what, program, spec, input, limit: cmd.timeout })
    }

    async fn execute(
        &self,
        mut cmd: Cmd,
        input: Option<Input>,
        stop: Stop,
        out: &mut Taker,
        err: &mut Taker,
    ) -> Result<Verdict, ExecError> {
        if cmd.sudo {
            let agent = self.agent(&short(&cmd))?;
            return agent_exec::drive(agent.as_ref(), cmd, stop, out, err).await;
        }
        let input = input.unwrap_or_else(|| Input::Bytes(cmd.stdin.take().unwrap_or_default()));
        let job = self.job(&cmd, input)?;
        let channel = (self.opener)(job.spec.clone()).await?;
        drive(channel, job, stop, out, err).await
    }

    fn answer(&self, verdict: Verdict, what: &str, limit: Duration) -> Result<i32, ExecError> {
        match verdict {
            Verdict::Exited(code) => Ok(code),
            Verdict::Stopped => Err(ExecError::Cancelled),
            Verdict::TimedOut => Err(ExecError::Timeout {
                hostname: self.hostname.to_string(),
                what: what.to_owned(),
                seconds: limit.as_secs(),
            }),
        }
    }

    /// Runs a command to its end. Dropping the future ends the command in the background.
    pub(super) async fn run(&self, cmd: Cmd, input: Option<Input>) -> Result<Output, ExecError> {
        let (entry, stop) = self.enter();
        let wish = stop.subscribe();
        let _stop = StopOnDrop(stop);
        let jobs = self.clone();
        let task = tokio::spawn(async move {
            let _entry = entry;
            let (command, what, limit) = (cmd.display(), short(&cmd), cmd.timeout);
            let mut out = Taker::Collect(Vec::new(), COLLECT_LIMIT);
            let mut err = Taker::Collect(Vec::new(), COLLECT_LIMIT);
            let verdict = jobs.execute(cmd, input, wish, &mut out, &mut err).await?;
            let code = jobs.answer(verdict, &what, limit)?;
            Ok(Output { command, code, stdout: out.into_bytes(), stderr: err.into_bytes() })
        });
        task.await.unwrap_or(Err(ExecError::Cancelled))
    }

    /// Starts a command and streams its lines.
    pub(super) fn spawn(&self, action: &Action) -> Spawned {
        let cmd = action.cmd().clone();
        let (lines_in, lines) = mpsc::channel(LINES);
        let (exit_in, exit) = oneshot::channel();
        let (entry, stop) = self.enter();
        let wish = stop.subscribe();
        let jobs = self.clone();
        tokio::spawn(async move {
            let _entry = entry;
            let (command, limit) = (short(&cmd), cmd.timeout);
            let mut out = Taker::Lines(LineSplitter::default(), lines_in.clone(), OutputLine::Stdout);
            let mut err = Taker::Lines(LineSplitter::default(), lines_in, OutputLine::Stderr);
            let verdict = jobs.execute(cmd, None, wish, &mut out, &mut err).await;
            drop((out, err));
            let _ = exit_in.send(verdict.and_then(|verdict| jobs.answer(verdict, &command, limit)));
        });
        Spawned { lines, exit, guard: Box::new(StopOnDrop(stop)) }
    }

    /// Ends every command; returns how many there were.
    pub(super) async fn terminate_all(&self, grace: Duration) -> usize {
        let stops: Vec<_> =
            guard(&self.table).stops.iter().map(|(id, stop)| (*id, Arc::clone(stop))).collect();
        for (_, stop) in &stops {
            request(stop, grace);
        }
        let all_gone = async {
            loop {
                let ended = self.ended.notified();
                tokio::pin!(ended);
                ended.as_mut().enable();
                if stops.iter().all(|(id, _)| !guard(&self.table).stops.contains_key(id)) {
                    return;
                }
                ended.await;
            }
        };
        let _ = timeout(grace + watchdog::GRACE + Duration::from_secs(4), all_gone).await;
        stops.len()
    }
}
