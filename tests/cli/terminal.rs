//! What is seen on a terminal, and what goes on until its session ends.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(60);

/// The log of a session that is under way: its writer locks it.
fn log_in(home: &Path) -> (PathBuf, File) {
    let dir = home.join(".local/state/pc-switcher/logs");
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("20251115T120000Z-abc12345.jsonl");
    let writer = File::create(&path).unwrap();
    writer.lock().unwrap();
    (path, writer)
}

fn line(kind: &str, level: &str, message: &str, context: &str) -> String {
    format!(
        "{{\"seq\":1,\"timestamp\":\"2025-11-15T12:00:00Z\",\"kind\":\"{kind}\",\"level\":\"{level}\",\"module\":\"core\",\
         \"hostname\":\"laptop\",\"session_id\":\"abc12345\",\"message\":\"{message}\",\"context\":{context}}}\n"
    )
}

fn said(writer: &mut File, message: &str) {
    writer.write_all(line("log", "ERROR", message, "{}").as_bytes()).unwrap();
}

fn command(home: &Path, args: &[&str], vars: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pc-switcher"));
    command.args(args).env_clear().env("HOME", home).current_dir(home).envs(vars.iter().copied());
    command
}

/// Runs the program with a terminal of its own, and returns all that is seen there.
fn on_a_terminal(home: &Path, args: &[&str], vars: &[(&str, &str)]) -> String {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let terminal = || File::options().read(true).write(true).open(&name).unwrap();
    let mut child =
        command(home, args, vars).stdin(terminal()).stdout(terminal()).stderr(terminal()).spawn().unwrap();
    let mut seen = Vec::new();
    // When nobody has the terminal open any more reading fails.
    let _ = File::from(master).read_to_end(&mut seen);
    child.wait().unwrap();
    String::from_utf8(seen).unwrap()
}

#[test]
fn colours_are_for_terminals_whose_people_want_them() {
    let home = tempfile::tempdir().unwrap();
    let (_, mut writer) = log_in(home.path());
    said(&mut writer, "it went wrong");
    drop(writer);
    let log = ["logs", "--last"];
    let mistake = ["no-such-verb"];
    for args in [&log[..], &mistake[..]] {
        let plain = &[("TERM", "xterm")];
        let seen = on_a_terminal(home.path(), args, plain);
        assert!(seen.contains('\x1b'), "{args:?} is coloured: {seen:?}");
        for without in [&[("TERM", "xterm"), ("NO_COLOR", "1")][..], &[("TERM", "dumb")][..]] {
            let seen = on_a_terminal(home.path(), args, without);
            assert!(!seen.is_empty() && !seen.contains('\x1b'), "{args:?} with {without:?}: {seen:?}");
        }
        let empty = &[("TERM", "xterm"), ("NO_COLOR", "")];
        assert!(on_a_terminal(home.path(), args, empty).contains('\x1b'), "an empty one counts as not set");
    }
}

/// `logs --follow`, and the lines that it prints as they come.
struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    fn start(home: &Path) -> Self {
        let mut child = command(home, &["logs", "--follow"], &[]).stdout(Stdio::piped()).spawn().unwrap();
        let (stdout, (sender, lines)) = (child.stdout.take().unwrap(), channel());
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines }
    }

    fn next(&self) -> String {
        self.lines.recv_timeout(LIMIT).expect("another line")
    }

    /// Waits for its end: no line comes any more.
    fn ends_with(mut self, code: i32) {
        assert!(self.lines.recv_timeout(LIMIT).is_err(), "it says no more");
        assert_eq!(self.child.wait().unwrap().code(), Some(code));
    }
}

#[test]
fn a_log_is_followed_line_by_line_until_its_session_ends() {
    let home = tempfile::tempdir().unwrap();
    let (_, mut writer) = log_in(home.path());
    said(&mut writer, "the first");
    let mut follower = Follower::start(home.path());
    assert!(follower.next().contains("the first"));
    assert!(follower.child.try_wait().unwrap().is_none(), "the session goes on, and so does it");
    said(&mut writer, "the second");
    assert!(follower.next().contains("the second"));
    let end = line("ended", "INFO", "COMPLETED, exit code 0", r#"{"state":"COMPLETED","exit_code":0}"#);
    writer.write_all(end.as_bytes()).unwrap();
    assert!(follower.next().contains("COMPLETED"));
    follower.ends_with(0);
}

#[test]
fn following_ends_with_its_writer_and_at_a_ctrl_c() {
    let home = tempfile::tempdir().unwrap();
    let (_, mut writer) = log_in(home.path());
    said(&mut writer, "the only one");
    let follower = Follower::start(home.path());
    assert!(follower.next().contains("the only one"));
    drop(writer);
    assert!(follower.next().contains("left no ending in this log"));
    follower.ends_with(0);

    let (_, mut writer) = log_in(home.path());
    said(&mut writer, "another one");
    let follower = Follower::start(home.path());
    assert!(follower.next().contains("another one"));
    kill_process(Pid::from_child(&follower.child), Signal::INT).unwrap();
    follower.ends_with(130);
}
