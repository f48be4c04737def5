//! The agent as a process: how it ends, and that nothing it started survives it.

use std::io::{BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use pc_switcher_agent::frame::{self, FrameKind};
use pc_switcher_agent::linux::services::{AgentOptions, HistoryKeeper, main};
use pc_switcher_agent::proto::{
    ExecRequest, FrontHello, LockReply, LockRequest, MAGIC, PROTOCOL, Request, decode, encode,
};
use pc_switcher_contract::Role;

/// Not a test: what the others start. Without the variables it has nothing to do.
#[test]
fn be_the_agent() {
    let Some(dir) = std::env::var_os("AGENT_DIR") else { return };
    let millis = std::env::var("AGENT_SILENCE").unwrap().parse().unwrap();
    let mut options = AgentOptions::new("0.0.0", Box::new(NoHistory));
    options.silence = Duration::from_millis(millis);
    options.state_dir = Path::new(&dir).join("state");
    options.lock_path = Path::new(&dir).join("run/lock");
    // Above this process may be the connection of whoever runs the tests.
    options.ends_connection = false;
    let _ = main(options);
}

struct NoHistory;

impl HistoryKeeper for NoHistory {
    fn put(&self, _state_dir: &Path, _row: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn list(&self, _state_dir: &Path, _count: usize) -> Result<Vec<Vec<u8>>, String> {
        Ok(Vec::new())
    }
}

struct Agent {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    dir: tempfile::TempDir,
}

impl Agent {
    fn start(silence_ms: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // In life the agent runs on the main thread and blocks signals before there are others. Here the test runner's
        // main thread is another one, which has to be born with them blocked.
        let mut child = Command::new("env")
            .arg("--block-signal=INT,HUP,PIPE,TERM")
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "be_the_agent", "--nocapture"])
            .env("AGENT_DIR", dir.path())
            .env("AGENT_SILENCE", silence_ms.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut agent = Self { child, stdin, stdout, dir };
        agent.greet();
        agent
    }

    fn greet(&mut self) {
        let mut seen = Vec::new();
        while !seen.ends_with(MAGIC) {
            let mut byte = [0];
            self.stdout.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
        assert_eq!(frame::read(&mut self.stdout).unwrap().unwrap().kind, FrameKind::Hello);
        let hello = FrontHello {
            protocol: PROTOCOL,
            version: "0.0.0".into(),
            silence_seconds: 20,
            is_elsewhere: false,
        };
        self.send(0, FrameKind::Hello, &encode(&hello));
    }

    fn send(&mut self, call: u32, kind: FrameKind, body: &[u8]) {
        let stdin = self.stdin.as_mut().unwrap();
        frame::write(stdin, call, kind, body).unwrap();
        stdin.flush().unwrap();
    }

    fn exec(&mut self, call: u32, script: &str) {
        let request = ExecRequest {
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            stdin: Vec::new(),
            timeout_ms: 600_000,
        };
        self.send(call, FrameKind::Open, &encode(&Request::Exec(request)));
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the process's end.
    fn ends_within(&mut self, limit: Duration) -> ExitStatus {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(since.elapsed() < limit, "the agent lives after {limit:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long the `sleep`s of a test are: a number that no other test has, and no earlier run that was killed.
fn long(test: u32) -> String {
    format!("{test}.{}", std::process::id())
}

/// How many `sleep`s with this argument run.
fn sleepers(seconds: &str) -> usize {
    let wanted = format!("sleep\0{seconds}\0").into_bytes();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| *line == wanted)
        .count()
}

fn until(what: impl Fn() -> bool) {
    let since = Instant::now();
    while !what() {
        assert!(since.elapsed() < Duration::from_secs(10), "it never came");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_front_that_is_gone_leaves_no_command_and_no_daemon() {
    let (mut agent, time) = (Agent::start(60_000), long(301));
    agent.exec(
        1,
        &format!("setsid -f sleep {time} >/dev/null 2>&1 </dev/null; sleep 0.3; sleep {time} & sleep {time}"),
    );
    agent.exec(2, &format!("setsid -f setsid sh -c 'trap \"\" TERM; sleep {time}; sleep {time}'; sleep 0.3"));
    until(|| sleepers(&time) == 4);
    agent.stdin = None;
    agent.ends_within(Duration::from_secs(15));
    assert_eq!(sleepers(&time), 0);
}

/// Where a session began outside of the pid namespace its number is 0: containers are like that.
#[test]
fn a_session_from_outside_of_the_pid_namespace_is_no_hindrance() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("LAB_REQUIRED").is_none(), "only root makes a pid namespace");
        eprintln!("skipped: only root makes a pid namespace");
        return;
    }
    let run = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_front_that_is_gone_leaves_no_command_and_no_daemon"])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
    assert!(String::from_utf8_lossy(&run.stdout).contains("1 passed"));
}

#[test]
fn sigterm_ends_it_and_the_terminals_signals_do_not() {
    let (mut agent, time) = (Agent::start(60_000), long(302));
    agent.exec(1, &format!("sleep {time}"));
    until(|| sleepers(&time) == 1);
    for name in ["INT", "HUP", "PIPE"] {
        agent.signal(name);
    }
    agent.send(0, FrameKind::Ping, &[]);
    assert_eq!(frame::read(&mut agent.stdout).unwrap().unwrap().kind, FrameKind::Pong);
    agent.signal("TERM");
    assert_eq!(agent.ends_within(Duration::from_secs(15)).signal(), None, "it ended by itself");
    assert_eq!(sleepers(&time), 0);
}

#[test]
fn silence_ends_it_and_frees_the_lock() {
    let (mut agent, time) = (Agent::start(500), long(303));
    let request = LockRequest {
        session: "abc12345".parse().unwrap(),
        role: Role::Target,
        from: "laptop".parse().unwrap(),
        user: "alice".into(),
    };
    agent.send(1, FrameKind::Open, &encode(&Request::Lock(request)));
    let reply = frame::read(&mut agent.stdout).unwrap().unwrap();
    assert_eq!(decode(&reply.body), Ok(LockReply::Held));
    let lock = std::fs::File::open(agent.dir.path().join("run/lock")).unwrap();
    assert!(lock.try_lock().is_err());
    agent.exec(2, &format!("sleep {time}"));
    agent.ends_within(Duration::from_secs(15));
    lock.try_lock().unwrap();
    assert_eq!(sleepers(&time), 0);
}

#[test]
fn a_killed_agent_takes_its_command_with_it() {
    let (mut agent, time) = (Agent::start(60_000), long(304));
    agent.exec(1, &format!("exec sleep {time}"));
    until(|| sleepers(&time) == 1);
    agent.signal("KILL");
    agent.ends_within(Duration::from_secs(5));
    until(|| sleepers(&time) == 0);
}
