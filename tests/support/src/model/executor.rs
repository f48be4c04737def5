//! Commands of a modelled machine: `sleep` sleeps in the runtime's time, everything else is there and succeeds at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pc_switcher_contract::{
    Action, Cmd, ExecError, Executor, Hostname, Output, RemoteExecutor, SendFile, Spawned, WriteLicence,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use super::faulty::Cut;
use super::lock;

#[derive(Default)]
struct Processes {
    next: u64,
    running: HashMap<u64, CancellationToken>,
}

/// Runs commands on a modelled machine.
pub struct ModelExecutor {
    disk: Arc<Disk>,
    processes: Arc<Mutex<Processes>>,
}

/// Ends a command when it is dropped.
struct Running {
    id: u64,
    processes: Arc<Mutex<Processes>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(stop) = lock(&self.processes).running.remove(&self.id) {
            stop.cancel();
        }
    }
}

impl ModelExecutor {
    /// Makes the executor of a machine.
    pub fn new(disk: &Arc<Disk>) -> Self {
        Self { disk: Arc::clone(disk), processes: Arc::default() }
    }

    /// Returns how many commands run.
    pub fn running(&self) -> usize {
        lock(&self.processes).running.len()
    }

    fn start(&self) -> (Running, CancellationToken) {
        let mut processes = lock(&self.processes);
        processes.next += 1;
        let (id, stop) = (processes.next, CancellationToken::new());
        processes.running.insert(id, stop.clone());
        (Running { id, processes: Arc::clone(&self.processes) }, stop)
    }
}

impl Cut for ModelExecutor {
    fn cut(&self) {
        lock(&self.processes).running.drain().for_each(|(_, stop)| stop.cancel());
    }
}

/// Works as long as the command would; the exit code is 0.
async fn work(cmd: &Cmd, hostname: &Hostname, stop: &CancellationToken) -> Result<i32, ExecError> {
    let asked = cmd.args.first().and_then(|word| word.to_str()?.parse().ok());
    let length =
        if cmd.program == "sleep" { Duration::from_secs_f64(asked.unwrap_or(0.0)) } else { Duration::ZERO };
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(ExecError::Cancelled),
        () = tokio::time::sleep(length.min(cmd.timeout)) => {
            let late = ExecError::Timeout {
                hostname: hostname.to_string(),
                what: cmd.display(),
                seconds: cmd.timeout.as_secs(),
            };
            if length > cmd.timeout { Err(late) } else { Ok(0) }
        }
    }
}

#[async_trait]
impl Executor for ModelExecutor {
    fn hostname(&self) -> &Hostname {
        self.disk.hostname()
    }

    async fn run(&self, action: Action) -> Result<Output, ExecError> {
        let (_running, stop) = self.start();
        let code = work(action.cmd(), self.hostname(), &stop).await?;
        Ok(Output { command: action.cmd().display(), code, stdout: Vec::new(), stderr: Vec::new() })
    }

    async fn spawn(&self, action: Action) -> Result<Spawned, ExecError> {
        let (running, stop) = self.start();
        let (send, exit) = oneshot::channel();
        let (open_lines, lines) = mpsc::channel(1);
        let (hostname, id, processes) = (self.hostname().clone(), running.id, Arc::clone(&self.processes));
        tokio::spawn(async move {
            let code = work(action.cmd(), &hostname, &stop).await;
            drop(open_lines);
            lock(&processes).running.remove(&id);
            let _ = send.send(code);
        });
        Ok(Spawned { lines, exit, guard: Box::new(running) })
    }

    async fn terminate_all(&self, _: Duration) -> usize {
        let running: Vec<_> = lock(&self.processes).running.drain().collect();
        running.iter().for_each(|(_, stop)| stop.cancel());
        running.len()
    }
}

#[async_trait]
impl RemoteExecutor for ModelExecutor {
    async fn send_file(&self, file: &SendFile, _: &WriteLicence) -> Result<(), ExecError> {
        let put =
            std::fs::read(&file.local).and_then(|bytes| std::fs::write(self.disk.real(&file.remote), bytes));
        put.map_err(|error| ExecError::Failed {
            hostname: self.hostname().to_string(),
            what: format!("send `{}`", file.remote),
            why: error.to_string(),
        })
    }
}
