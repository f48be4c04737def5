//! Front and agent over a real socket pair: calls, flow control, cancellation, silence.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pc_switcher_agent::client::{AgentConn, ConnOptions};
use pc_switcher_agent::proto::{
    AgentError, AgentHello, DirListing, PROTOCOL, Request, Tree, WalkRequest, WalkSummary, encode,
};
use pc_switcher_agent::server::{Call, Services, serve};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{AgentLink, BytePath, ExecError};

/// An agent that walks an endless tree, lists upload sizes as state keys, panics on facts.
#[derive(Default)]
struct Model {
    cancelled: AtomicBool,
    shut: AtomicBool,
}

impl Services for Model {
    fn hello(&self) -> AgentHello {
        AgentHello {
            protocol: PROTOCOL,
            version: "0".into(),
            hostname: "desk".parse().unwrap(),
            machine_id: "m".into(),
            uid: 0,
            pid: 1,
        }
    }

    fn handle(&self, request: Request, call: &Call) -> Result<Vec<u8>, AgentError> {
        match request {
            Request::Walk(WalkRequest { tree }) => {
                let endless = tree.root.is_empty();
                let listing = DirListing {
                    path: BytePath::new(vec![b'x'; 1000]),
                    root: None,
                    entries: vec![],
                    skipped: vec![],
                };
                for _ in 0..if endless { u64::MAX } else { 30_000 } {
                    if let Err(error) = call.item(&listing) {
                        self.cancelled.store(true, Ordering::SeqCst);
                        return Err(error);
                    }
                }
                Ok(encode(&WalkSummary { directories: 30_000, ..WalkSummary::default() }))
            }
            Request::PutFile(_) => {
                let mut bytes = 0;
                while let Some(body) = call.next_upload()? {
                    bytes += body.len() as u64;
                }
                Ok(encode(&bytes))
            }
            Request::StateGet(_) => Ok(encode(&Some(vec![7_u8]))),
            Request::Read { .. } => Err(AgentError::failed("no such snapshot")),
            _ => panic!("not modelled"),
        }
    }

    fn shut_down(&self) {
        self.shut.store(true, Ordering::SeqCst);
    }
}

struct Rig {
    conn: Arc<AgentConn>,
    agent: Agent,
    model: Arc<Model>,
    server: std::thread::JoinHandle<Result<(), String>>,
}

async fn rig(noise: &'static [u8], options: ConnOptions) -> Rig {
    let (near, far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let model = Arc::new(Model::default());
    let services = Arc::clone(&model);
    let server = std::thread::spawn(move || {
        let mut out = far.try_clone().unwrap();
        out.write_all(noise).unwrap();
        serve(services, far, Box::new(out))
    });
    let (read, write) = tokio::net::UnixStream::from_std(near).unwrap().into_split();
    let (conn, hello) = AgentConn::start(read, write, options).await.unwrap();
    assert_eq!(hello.hostname.as_str(), "desk");
    let link: Arc<dyn AgentLink> = Arc::clone(&conn) as Arc<dyn AgentLink>;
    Rig { conn, agent: Agent::new(&link), model, server }
}

fn tree(root: &str) -> Tree {
    Tree { root: root.into(), prefix: BytePath::default(), rules: Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_consumer_does_not_stop_other_calls() {
    let rig = rig(b"Welcome to the machine\n", ConnOptions::new("desk", "0")).await;
    let mut walk = rig.agent.walk(tree("full")).await.unwrap();
    assert!(walk.next().await.unwrap().is_some());
    // 30 MB wait for this walk; the window is 8 MiB, and other calls pass it.
    assert_eq!(rig.agent.state_get("k").await.unwrap(), Some(vec![7]));
    let mut seen = 1;
    while walk.next().await.unwrap().is_some() {
        seen += 1;
    }
    assert_eq!((seen, walk.summary().unwrap().directories), (30_000, 30_000));
    rig.conn.close();
    assert_eq!(rig.server.join().unwrap(), Ok(()));
    assert!(rig.model.shut.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_call_cancels_it_in_the_agent() {
    let rig = rig(b"", ConnOptions::new("desk", "0")).await;
    let mut walk = rig.agent.walk(tree("")).await.unwrap();
    assert!(walk.next().await.unwrap().is_some());
    drop(walk);
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !rig.model.cancelled.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap();
    assert_eq!(rig.agent.state_get("k").await.unwrap(), Some(vec![7]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_larger_than_the_window_arrive_whole() {
    let rig = rig(b"", ConnOptions::new("desk", "0")).await;
    let put = pc_switcher_agent::proto::PutFile { path: BytePath::from("/x"), mode: 0o644, owner: None };
    let link: Arc<dyn AgentLink> = Arc::clone(&rig.conn) as Arc<dyn AgentLink>;
    let mut call = link.open(encode(&Request::PutFile(put))).await.unwrap();
    for _ in 0..40 {
        call.sink.send(vec![1; 1 << 20]).await.unwrap();
    }
    call.sink.finish().await.unwrap();
    let reply = call.stream.next().await.unwrap();
    assert_eq!(reply, pc_switcher_contract::Reply::Done(encode(&(40_u64 << 20))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_more_of_a_call_that_the_agent_has_ended_hides_no_reason() {
    let rig = rig(b"", ConnOptions::new("desk", "0")).await;
    let (mut wants, mut frames) = rig.agent.read("/x".into()).await.unwrap();
    let error = frames.next().await.unwrap_err();
    assert!(matches!(&error, ExecError::Failed { why, .. } if why == "no such snapshot"), "{error}");
    assert_eq!(wants.send(&vec![]).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_handler_fails_that_call_alone() {
    let rig = rig(b"", ConnOptions::new("desk", "0")).await;
    let error = rig.agent.facts().await.unwrap_err();
    assert!(matches!(&error, ExecError::Failed { why, .. } if why.contains("panicked")), "{error}");
    assert_eq!(rig.agent.state_get("k").await.unwrap(), Some(vec![7]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_agent_is_lost_and_its_calls_end() {
    let (near, mut far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let silent = std::thread::spawn(move || {
        far.write_all(pc_switcher_agent::proto::MAGIC).unwrap();
        let hello = encode(&Model::default().hello());
        pc_switcher_agent::frame::write(&mut far, 0, pc_switcher_agent::frame::FrameKind::Hello, &hello)
            .unwrap();
        let mut sink = Vec::new();
        let _ = far.read_to_end(&mut sink);
    });
    let mut options = ConnOptions::new("desk", "0");
    options.silence = Duration::from_millis(300);
    let (read, write) = tokio::net::UnixStream::from_std(near).unwrap().into_split();
    let (conn, _) = AgentConn::start(read, write, options).await.unwrap();
    let link: Arc<dyn AgentLink> = Arc::clone(&conn) as Arc<dyn AgentLink>;
    let error = Agent::new(&link).facts().await.unwrap_err();
    assert!(matches!(&error, ExecError::Transport { why, .. } if why.contains("silent")), "{error}");
    assert!(matches!(conn.lost().await, ExecError::Transport { .. }));
    drop((conn, link));
    silent.join().unwrap();
}
