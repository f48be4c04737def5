//! Runs real commands.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::*;
use crate::frame::{self, FrameKind};
use crate::proto::{AgentHello, FrontHello, MAGIC, PROTOCOL, Request, decode, encode};
use crate::server::{Services, serve};

fn request(program: &str, args: &[&str], stdin: &[u8], timeout_ms: u64) -> ExecRequest {
    ExecRequest {
        program: program.into(),
        args: args.iter().map(|arg| BytePath::from(*arg)).collect(),
        stdin: stdin.to_vec(),
        timeout_ms,
    }
}

fn sh(script: &str, timeout_ms: u64) -> ExecRequest {
    request("sh", &["-c", script], b"", timeout_ms)
}

fn output(seen: &Receiver<Vec<u8>>) -> (Vec<u8>, Vec<u8>) {
    let wire: Vec<u8> = seen.try_iter().flatten().collect();
    let (mut wire, mut out, mut err) = (wire.as_slice(), Vec::new(), Vec::new());
    while let Some(frame) = frame::read(&mut wire).unwrap() {
        match decode(&frame.body).unwrap() {
            ExecItem::Stdout(bytes) => {
                assert!(bytes.len() <= CHUNK);
                out.extend(bytes);
            }
            ExecItem::Stderr(bytes) => err.extend(bytes),
        }
    }
    (out, err)
}

fn go(request: &ExecRequest) -> (Result<i32, AgentError>, Vec<u8>, Vec<u8>) {
    let groups = Groups::default();
    let (call, seen) = Call::for_test(vec![]);
    let result = run(&groups, request, &call);
    assert!(groups.lock().leaders.is_empty(), "the list is tidied");
    let (out, err) = output(&seen);
    (result, out, err)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Whether a process number belongs to something that is no zombie.
fn alive(pid: &str) -> bool {
    let stat = std::fs::read(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    let pid = pid.trim().parse().unwrap_or_default();
    processes::parse(pid, &stat).is_some_and(|process| !process.zombie)
}

#[test]
fn codes_and_signals_come_back() {
    for code in [0, 1, 7, 255] {
        assert_eq!(go(&sh(&format!("exit {code}"), 10_000)).0, Ok(code));
    }
    assert_eq!(go(&sh("kill -s SEGV $$", 10_000)).0, Ok(128 + 11));
}

#[test]
fn arguments_meet_no_shell_and_the_environment_is_ours() {
    let (result, out, _) = go(&request("printf", &["%s|", "a b", "$HOME", "*;'"], b"", 10_000));
    assert_eq!((result, text(&out)), (Ok(0), "a b|$HOME|*;'|"));
    let (_, out, _) = go(&request("env", &[], b"", 10_000));
    let mut lines: Vec<_> = text(&out).lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["HOME=/root", "LC_ALL=C.UTF-8", "LOGNAME=root", &format!("PATH={PATH}"), "USER=root"]);
    // What a command makes is for everybody, though the agent's own files are not.
    assert_eq!(go(&sh("umask", 10_000)).1, b"0022\n");
}

#[test]
fn a_program_that_is_missing_is_named() {
    let error = go(&request("no-such-program", &[], b"", 10_000)).0.unwrap_err();
    assert_eq!(error.kind, AgentErrorKind::Failed);
    assert!(error.message.starts_with("cannot start `no-such-program`: "), "{error}");
    assert!(go(&request("echo", &["a\0b"], b"", 10_000)).0.unwrap_err().message.contains("`echo`"));
}

#[test]
fn input_and_both_outputs_flow_at_once() {
    let input: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
    let script = "head -c 1000000 /dev/zero >&2; exec cat";
    let (result, out, err) = go(&request("sh", &["-c", script], &input, 60_000));
    assert_eq!(result, Ok(0));
    assert!(out == input && err.len() == 1_000_000);
    let (result, ..) = go(&request("true", &[], &input, 10_000));
    assert_eq!(result, Ok(0), "input that nobody wants is no error");
}

#[test]
fn background_children_end_with_their_group() {
    let since = Instant::now();
    let (result, out, _) = go(&sh("sleep 60 & echo $!", 30_000));
    assert_eq!(result, Ok(0));
    assert!(!alive(text(&out)) && since.elapsed() < Duration::from_secs(10));
}

#[test]
fn groups_that_a_shell_made_end_with_its_session() {
    let (result, out, _) = go(&sh("set -m; sleep 60 & echo $!; exit 3", 30_000));
    assert_eq!(result, Ok(3));
    assert!(!out.is_empty() && !alive(text(&out)));
}

#[test]
fn a_process_that_left_the_session_does_not_hold_the_call() {
    let since = Instant::now();
    let (result, out, _) = go(&sh("setsid sleep 15 & sleep 0.3; echo $!", 30_000));
    assert_eq!(result, Ok(0));
    assert!(!out.is_empty() && since.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_limit_ends_even_those_that_ignore_term() {
    let since = Instant::now();
    let (result, out, _) = go(&sh("trap '' TERM; sleep 60 & echo $!; while :; do sleep 1; done", 200));
    let error = result.unwrap_err();
    assert_eq!(error.kind, AgentErrorKind::Timeout);
    assert_eq!(error.message, "`sh` took longer than 0.2 s and was ended");
    assert!(!alive(text(&out)) && since.elapsed() >= GRACE);
}

#[test]
fn term_comes_first_and_children_of_a_dead_leader_have_their_moment_too() {
    let script = "(trap 'sleep 0.3; echo tidy; exit' TERM; while :; do sleep 0.05; done) & sleep 60";
    let (result, out, _) = go(&sh(script, 300));
    assert_eq!((result.unwrap_err().kind, text(&out)), (AgentErrorKind::Timeout, "tidy\n"));
}

#[test]
fn ending_all_ends_what_runs_and_lets_nothing_start() {
    let groups = Groups::default();
    let (call, _seen) = Call::for_test(vec![]);
    thread::scope(|scope| {
        let running = scope.spawn(|| run(&groups, &sh("sleep 60", 30_000), &call));
        while groups.lock().leaders.is_empty() {
            thread::sleep(STEP);
        }
        groups.end_all();
        assert_eq!(running.join().unwrap(), Ok(128 + 15));
    });
    let error = run(&groups, &sh("true", 1000), &call).unwrap_err();
    assert_eq!(error.kind, AgentErrorKind::Cancelled);
}

struct Only(Groups);

impl Services for Only {
    fn hello(&self) -> AgentHello {
        AgentHello {
            protocol: PROTOCOL,
            version: "0.0.0".into(),
            hostname: "laptop".parse().unwrap(),
            machine_id: String::new(),
            uid: 0,
            pid: 1,
            digest: [0; 32],
        }
    }

    fn handle(&self, request: Request, call: &Call) -> Result<Vec<u8>, AgentError> {
        let Request::Exec(request) = request else { panic!() };
        run(&self.0, &request, call).map(|code| encode(&code))
    }

    fn shut_down(&self) {
        self.0.end_all();
    }
}

#[test]
fn a_cancelled_call_ends_its_command() {
    let (mut front, agent) = UnixStream::pair().unwrap();
    let output = Box::new(agent.try_clone().unwrap());
    let server = thread::spawn(move || serve(Arc::new(Only(Groups::default())), agent, output));
    front.read_exact(&mut vec![0; MAGIC.len()]).unwrap();
    frame::read(&mut front).unwrap();
    let hello =
        FrontHello { protocol: PROTOCOL, version: "0.0.0".into(), silence_seconds: 20, is_elsewhere: false };
    frame::write(&mut front, 0, FrameKind::Hello, &encode(&hello)).unwrap();
    let exec = Request::Exec(sh("echo $$; sleep 60", 60_000));
    frame::write(&mut front, 1, FrameKind::Open, &encode(&exec)).unwrap();
    let item = frame::read(&mut front).unwrap().unwrap();
    let ExecItem::Stdout(pid) = decode(&item.body).unwrap() else { panic!() };
    assert!(alive(text(&pid)));
    let since = Instant::now();
    frame::write(&mut front, 1, FrameKind::Cancel, &[]).unwrap();
    let end = frame::read(&mut front).unwrap().unwrap();
    assert_eq!(end.kind, FrameKind::Error);
    assert_eq!(decode(&end.body), Ok(AgentError::cancelled()));
    assert!(!alive(text(&pid)) && since.elapsed() < GRACE);
    drop(front);
    server.join().unwrap().unwrap();
}
