//! What every link to an agent promises, proven on each: the real one over a socket pair, and the modelled one.

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
use pc_switcher_testkit::model::{Cut, ModelLink};

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
            digest: [0; 32],
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
                    more: false,
                };
                for _ in 0..if endless { u64::MAX } else { 30_000 } {
                    if let Err(error) = call.item(&vec![&listing]) {
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

/// A link to the model, and what happened behind it.
struct Rig {
    link: Arc<dyn AgentLink>,
    agent: Agent,
    model: Arc<Model>,
    cut: Box<dyn Fn()>,
}

/// The real front's end, over a socket pair.
async fn over_a_pipe() -> Rig {
    let (near, far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let model = Arc::new(Model::default());
    let services = Arc::clone(&model);
    std::thread::spawn(move || {
        let mut out = far.try_clone().unwrap();
        out.write_all(b"Welcome to the machine\n").unwrap();
        serve(services, far, Box::new(out))
    });
    let (read, write) = tokio::net::UnixStream::from_std(near).unwrap().into_split();
    let (conn, hello) = AgentConn::start(read, write, ConnOptions::new("desk", "0")).await.unwrap();
    assert_eq!(hello.hostname.as_str(), "desk");
    let link: Arc<dyn AgentLink> = Arc::clone(&conn) as Arc<dyn AgentLink>;
    Rig { agent: Agent::new(&link), link, model, cut: Box::new(move || conn.close()) }
}

/// The modelled one.
async fn in_one_process() -> Rig {
    let model = Arc::new(Model::default());
    let modelled = Arc::new(ModelLink::with(Arc::clone(&model) as Arc<dyn Services>));
    let link: Arc<dyn AgentLink> = Arc::clone(&modelled) as Arc<dyn AgentLink>;
    Rig { agent: Agent::new(&link), link, model, cut: Box::new(move || modelled.cut()) }
}

/// Waits for what happens on another thread.
async fn until(happened: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.unwrap();
}

fn tree(root: &str) -> Tree {
    Tree { root: root.into(), prefix: BytePath::default(), rules: Default::default() }
}

async fn a_slow_consumer_does_not_stop_other_calls(rig: Rig) {
    let mut walk = rig.agent.walk(tree("full")).await.unwrap();
    assert!(walk.next().await.unwrap().is_some());
    // 30 MB wait for this walk; the window is 8 MiB, and other calls pass it.
    assert_eq!(rig.agent.state_get("k").await.unwrap(), Some(vec![7]));
    let mut seen = 1;
    while walk.next().await.unwrap().is_some() {
        seen += 1;
    }
    assert_eq!((seen, walk.summary().unwrap().directories), (30_000, 30_000));
}

async fn dropping_a_call_cancels_it_in_the_agent(rig: Rig) {
    let mut walk = rig.agent.walk(tree("")).await.unwrap();
    assert!(walk.next().await.unwrap().is_some());
    drop(walk);
    until(|| rig.model.cancelled.load(Ordering::SeqCst)).await;
    assert_eq!(rig.agent.state_get("k").await.unwrap(), Some(vec![7]));
}

async fn uploads_larger_than_the_window_arrive_whole(rig: Rig) {
    let put = pc_switcher_agent::proto::PutFile { path: BytePath::from("/x"), mode: 0o644, owner: None };
    let mut call = rig.link.open(encode(&Request::PutFile(put))).await.unwrap();
    for _ in 0..40 {
        call.sink.send(vec![1; 1 << 20]).await.unwrap();
    }
    call.sink.finish().await.unwrap();
    let reply = call.stream.next().await.unwrap();
    assert_eq!(reply, pc_switcher_contract::Reply::Done(encode(&(40_u64 << 20))));
}

async fn asking_more_of_a_call_that_the_agent_has_ended_hides_no_reason(rig: Rig) {
    let (mut wants, mut frames) = rig.agent.read("/x".into()).await.unwrap();
    let error = frames.next().await.unwrap_err();
    assert!(matches!(&error, ExecError::Failed { why, .. } if why == "no such snapshot"), "{error}");
    assert_eq!(wants.send::<pc_switcher_agent::proto::ReadWant>(&[]).await, Ok(()));
}

async fn a_panic_in_a_handler_fails_that_call_alone(rig: Rig) {
    let error = rig.agent.facts().await.unwrap_err();
    assert!(matches!(&error, ExecError::Failed { why, .. } if why.contains("panicked")), "{error}");
    assert_eq!(rig.agent.state_get("k").await.unwrap(), Some(vec![7]));
}

async fn a_lost_agent_ends_its_calls_on_both_sides(rig: Rig) {
    let mut walk = rig.agent.walk(tree("")).await.unwrap();
    assert!(walk.next().await.unwrap().is_some());
    (rig.cut)();
    // What was under way may still arrive.
    let lost = loop {
        if let Err(lost) = walk.next().await {
            break lost;
        }
    };
    assert!(matches!(lost, ExecError::Transport { .. }), "{lost}");
    until(|| rig.model.cancelled.load(Ordering::SeqCst) && rig.model.shut.load(Ordering::SeqCst)).await;
    assert!(matches!(rig.agent.facts().await, Err(ExecError::Transport { .. })));
}

macro_rules! contract {
    ($module:ident, $subject:expr, [$($promise:ident),* $(,)?]) => {
        mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    super::$promise($subject.await).await;
                }
            )*
        }
    };
}

macro_rules! every_promise {
    ($module:ident, $subject:expr) => {
        contract!(
            $module,
            $subject,
            [
                a_slow_consumer_does_not_stop_other_calls,
                dropping_a_call_cancels_it_in_the_agent,
                uploads_larger_than_the_window_arrive_whole,
                asking_more_of_a_call_that_the_agent_has_ended_hides_no_reason,
                a_panic_in_a_handler_fails_that_call_alone,
                a_lost_agent_ends_its_calls_on_both_sides,
            ]
        );
    };
}

every_promise!(a_real_link, over_a_pipe());
every_promise!(a_modelled_link, in_one_process());

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

/// The agent is root, and what it reads as a frame may not be the middle of a file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_follows_a_frame_that_was_cut_when_the_pipe_is_closed() {
    let (near, mut far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    pc_switcher_agent::frame::write(
        &mut {
            far.write_all(pc_switcher_agent::proto::MAGIC).unwrap();
            &far
        },
        0,
        pc_switcher_agent::frame::FrameKind::Hello,
        &encode(&Model::default().hello()),
    )
    .unwrap();
    let (read, write) = tokio::net::UnixStream::from_std(near).unwrap().into_split();
    let (conn, _) = AgentConn::start(read, write, ConnOptions::new("desk", "0")).await.unwrap();
    let link: Arc<dyn AgentLink> = Arc::clone(&conn) as Arc<dyn AgentLink>;
    let mut call = link.open(vec![7]).await.unwrap();
    // More than any buffer of the pipe takes: the first of them is cut, the others wait.
    for _ in 0..3 {
        call.sink.send(vec![1; 2 << 20]).await.unwrap();
    }
    // Until a part of the first one lies in the pipe.
    for _ in 0..6000 {
        if rustix::io::ioctl_fionread(&far).unwrap() > 64 << 10 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    conn.close();
    let mut left = Vec::new();
    far.read_to_end(&mut left).unwrap();
    let mut left = left.as_slice();
    let mut whole = 0;
    while let Ok(Some(frame)) = pc_switcher_agent::frame::read(&mut left) {
        assert!(frame.body.len() < 1 << 20, "a frame that was cut was read as whole");
        // A sign of life may come at any time.
        whole += usize::from(frame.kind != pc_switcher_agent::frame::FrameKind::Ping);
    }
    assert_eq!((whole, left), (2, &[][..]), "the greeting and the call, and what was cut up to the end");
}
