//! Real commands. One at a time: a shutdown ends all sessions below this process.

use crossbeam_channel::Receiver;

use super::*;
use crate::frame::{self, FrameKind};
use crate::proto::{ExecItem, decode};

static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn request(argv: &[&str], stdin: &[u8], timeout_ms: u64) -> ExecRequest {
    ExecRequest {
        program: argv[0].into(),
        args: argv[1..].iter().map(|arg| (*arg).into()).collect(),
        stdin: stdin.to_vec(),
        timeout_ms,
    }
}

fn items(wire: &Receiver<Vec<u8>>) -> (Vec<u8>, Vec<u8>) {
    let bytes: Vec<u8> = wire.try_iter().flatten().collect();
    let (mut stream, mut out, mut err) = (bytes.as_slice(), Vec::new(), Vec::new());
    while let Some(frame) = frame::read(&mut stream).unwrap() {
        assert_eq!(frame.kind, FrameKind::Item);
        match decode(&frame.body).unwrap() {
            ExecItem::Stdout(bytes) => out.extend(bytes),
            ExecItem::Stderr(bytes) => err.extend(bytes),
        }
    }
    (out, err)
}

fn run(argv: &[&str], stdin: &[u8], timeout_ms: u64) -> (Result<i32, AgentError>, Vec<u8>, Vec<u8>) {
    let (call, wire) = Call::for_test(vec![]);
    let result = Commands::default().exec(&request(argv, stdin, timeout_ms), &call);
    let (out, err) = items(&wire);
    (result, out, err)
}

fn sleepers(seconds: &str) -> usize {
    let wanted = format!("sleep\0{seconds}\0");
    let cmdline = |process: &Process| std::fs::read(format!("/proc/{}/cmdline", process.pid)).ok();
    processes::all().iter().filter_map(cmdline).filter(|line| *line == wanted.as_bytes()).count()
}

fn until(what: impl Fn() -> bool) {
    let since = Instant::now();
    while !what() {
        assert!(since.elapsed() < Duration::from_secs(5), "it never came");
        wait_a_little();
    }
}

#[test]
fn output_exit_code_and_signal_come_back() {
    let _alone = alone();
    let (code, out, err) = run(&["sh", "-c", "echo out; echo err >&2; exit 7"], b"", 0);
    assert_eq!(
        (code.unwrap(), out.as_slice(), err.as_slice()),
        (7, b"out\n".as_slice(), b"err\n".as_slice())
    );
    assert_eq!(run(&["sh", "-c", "kill -9 $$"], b"", 0).0.unwrap(), 137);
    let error = run(&["no-such-program"], b"", 0).0.unwrap_err();
    assert!(error.message.contains("`no-such-program`"), "{error}");
}

#[test]
fn arguments_are_not_read_by_a_shell_and_the_environment_is_plain() {
    let _alone = alone();
    let (_, out, _) = run(&["printf", "%s|", "$HOME; *", "a b"], b"", 0);
    assert_eq!(out, b"$HOME; *|a b|");
    let (_, out, _) = run(&["sh", "-c", "echo $LC_ALL $HOME $(umask) $(pwd)"], b"", 0);
    assert_eq!(out, b"C.UTF-8 /root 0022 /\n");
}

#[test]
fn much_input_and_much_output_do_not_block_each_other() {
    let _alone = alone();
    let input = vec![b'x'; 3 << 20];
    let (code, out, _) = run(&["cat"], &input, 20_000);
    assert_eq!((code.unwrap(), out.len()), (0, input.len()));
    // A command that never reads its input is no trouble.
    assert_eq!(run(&["true"], &input, 20_000).0.unwrap(), 0);
}

#[test]
fn a_command_that_takes_too_long_is_ended_with_all_it_started() {
    let _alone = alone();
    let (result, _, _) = run(&["sh", "-c", "sleep 3001 & sleep 3001"], b"", 300);
    assert_eq!(result.unwrap_err().kind, AgentErrorKind::Timeout);
    assert_eq!(sleepers("3001"), 0);
}

#[test]
fn one_that_ignores_sigterm_is_killed_after_the_grace() {
    let _alone = alone();
    let since = Instant::now();
    let (result, _, _) = run(&["sh", "-c", "trap '' TERM; while :; do sleep 3002; done"], b"", 200);
    assert!(result.is_err() && since.elapsed() >= GRACE);
    assert_eq!(sleepers("3002"), 0);
}

#[test]
fn what_a_command_left_in_the_background_ends_with_it_and_holds_nothing_up() {
    let _alone = alone();
    let since = Instant::now();
    let (result, out, _) = run(&["sh", "-c", "sleep 3003 & echo done"], b"", 0);
    assert_eq!((result.unwrap(), out.as_slice()), (0, b"done\n".as_slice()));
    assert!(since.elapsed() < GRACE && sleepers("3003") == 0);
}

#[test]
fn a_shutdown_ends_commands_and_orphans_and_lets_nothing_start() {
    let _alone = alone();
    signals::adopt_orphans().unwrap();
    let (call, _wire) = Call::for_test(vec![]);
    let commands = Commands::default();
    // One that daemonises: a session of its own, its parent gone. It needs a moment for that before its parent ends.
    let daemon = request(&["sh", "-c", "setsid -f sleep 3005 >/dev/null 2>&1 </dev/null; sleep 0.3"], b"", 0);
    assert_eq!(commands.exec(&daemon, &call).unwrap(), 0);
    until(|| sleepers("3005") == 1);
    thread::scope(|scope| {
        let run = scope.spawn(|| commands.exec(&request(&["sleep", "3006"], b"", 0), &call));
        until(|| sleepers("3006") == 1);
        commands.shut_down();
        assert!(run.join().unwrap().is_err());
    });
    assert_eq!((sleepers("3005"), sleepers("3006")), (0, 0));
    assert!(commands.exec(&request(&["true"], b"", 0), &call).is_err());
}
