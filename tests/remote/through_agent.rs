//! Commands with `sudo`: through the agent's own serving loop, with a model of what it does there.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pc_switcher::remote::LocalExecutor;
use pc_switcher_agent::client::{AgentConn, ConnOptions};
use pc_switcher_agent::proto::{AgentError, AgentHello, ExecItem, PROTOCOL, Request, encode};
use pc_switcher_agent::server::{Call, Services, serve};
use pc_switcher_contract::{Cmd, ExecError, Executor, OutputLine};

/// Says its arguments, its input on stderr, and exits 7; `hang` waits to be cancelled.
#[derive(Default)]
struct Model {
    was_cancelled: AtomicBool,
}

impl Services for Model {
    fn hello(&self) -> AgentHello {
        AgentHello {
            protocol: PROTOCOL,
            version: "0.1.0".into(),
            hostname: "here".parse().unwrap(),
            machine_id: "0".repeat(32),
            uid: 0,
            pid: 1,
            digest: [0; 32],
        }
    }

    fn handle(&self, request: Request, call: &Call) -> Result<Vec<u8>, AgentError> {
        let Request::Exec(exec) = request else { return Err(AgentError::failed("not modelled")) };
        if exec.program.as_bytes() == b"hang" {
            let _ = call.item(&ExecItem::Stdout(b"hanging\n".to_vec()));
            while !call.is_cancelled() {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            self.was_cancelled.store(true, Ordering::SeqCst);
            return Err(AgentError::cancelled());
        }
        for arg in &exec.args {
            call.item(&ExecItem::Stdout(arg.as_bytes().to_vec()))?;
        }
        call.item(&ExecItem::Stderr(exec.stdin))?;
        Ok(encode(&7_i32))
    }

    fn shut_down(&self) {}
}

async fn executor() -> (LocalExecutor, Arc<Model>, Arc<AgentConn>) {
    let (front, back) = UnixStream::pair().unwrap();
    let model = Arc::new(Model::default());
    let services: Arc<dyn Services> = Arc::<Model>::clone(&model);
    let output = Box::new(back.try_clone().unwrap());
    std::thread::spawn(move || serve(services, back, output));
    front.set_nonblocking(true).unwrap();
    let (reader, writer) = tokio::net::UnixStream::from_std(front).unwrap().into_split();
    let (link, _) = AgentConn::start(reader, writer, ConnOptions::new("here", "0.1.0")).await.unwrap();
    let executor = LocalExecutor::new("here".parse().unwrap());
    executor.set_agent(Arc::<AgentConn>::clone(&link));
    (executor, model, link)
}

#[tokio::test]
async fn a_command_with_sudo_runs_in_the_agent() {
    let (executor, _, _link) = executor().await;
    let cmd = Cmd::new("say").args(["a b", "\n"]).stdin("input").sudo();
    let output = executor.run(cmd.into()).await.unwrap();
    assert_eq!((output.code, output.stdout, output.stderr), (7, b"a b\n".to_vec(), b"input".to_vec()));
}

#[tokio::test]
async fn a_refusal_of_the_agent_is_an_error() {
    let (executor, _, link) = executor().await;
    link.close();
    let error = executor.run(Cmd::new("say").sudo().into()).await.unwrap_err();
    assert!(matches!(error, ExecError::Transport { .. }), "{error}");
}

#[tokio::test]
async fn ending_everything_ends_commands_in_the_agent_too() {
    let (executor, model, _link) = executor().await;
    let mut spawned = executor.spawn(Cmd::new("hang").sudo().into()).await.unwrap();
    assert_eq!(spawned.lines.recv().await, Some(OutputLine::Stdout(b"hanging".to_vec())));
    assert_eq!(executor.terminate_all(Duration::from_secs(1)).await, 1);
    assert_eq!(spawned.exit.await.unwrap(), Err(ExecError::Cancelled));
    let since = Instant::now();
    while !model.was_cancelled.load(Ordering::SeqCst) {
        assert!(since.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
