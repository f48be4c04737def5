//! Questions on a real pseudo terminal.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use super::*;
use crate::ui::FdConsole;

/// The user's side of a terminal.
struct User {
    keyboard: std::fs::File,
    terminal: OwnedFd,
    seen: String,
}

impl User {
    fn sit_down() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let terminal = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
        rustix::io::ioctl_fionbio(&master, true).unwrap();
        Self { keyboard: master.into(), terminal, seen: String::new() }
    }

    fn prompter(&self, cancel: &CancellationToken) -> Prompter {
        let fd = || self.terminal.try_clone().unwrap();
        Prompter::new(Arc::new(FdConsole::new(fd(), fd(), true)), cancel.clone())
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads what the terminal shows until it shows `text`.
    async fn sees(&mut self, text: &str) {
        let began = Instant::now();
        while !self.seen.contains(text) {
            assert!(began.elapsed() < Duration::from_secs(10), "no `{text}` in {:?}", self.seen);
            let mut part = [0; 1024];
            match self.keyboard.read(&mut part) {
                Ok(count) => self.seen.push_str(&String::from_utf8_lossy(&part[..count])),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.terminal).unwrap().local_modes.contains(LocalModes::ECHO)
    }
}

async fn answer(keys: &str) -> Result<bool, ModuleError> {
    let mut user = User::sit_down();
    let prompter = user.prompter(&CancellationToken::new());
    let typing = async {
        user.sees("[y/N] ").await;
        user.types(keys);
    };
    tokio::join!(prompter.confirm("Go on?"), typing).0
}

#[tokio::test]
async fn only_yes_is_yes() {
    for (keys, yes) in
        [("y\r", true), ("YES\n", true), ("n\n", false), ("\n", false), ("yikes\n", false), ("\x04", false)]
    {
        assert_eq!(answer(keys).await.unwrap(), yes, "{keys:?}");
    }
}

#[tokio::test]
async fn the_answer_is_echoed() {
    let mut user = User::sit_down();
    let prompter = user.prompter(&CancellationToken::new());
    let typing = async {
        user.sees("[y/N] ").await;
        user.types("y\n");
        user.sees("[y/N] y").await;
    };
    tokio::join!(prompter.confirm("Go on?"), typing).0.unwrap();
}

#[tokio::test]
async fn keys_typed_before_the_question_are_no_answer() {
    let mut user = User::sit_down();
    user.types("y\ny\ny\n");
    // The terminal echoes keys once they have arrived; only then are they typed ahead.
    user.sees("y\r\ny\r\ny\r\n").await;
    let prompter = user.prompter(&CancellationToken::new());
    let typing = async {
        user.sees("[y/N] ").await;
        user.types("n\n");
    };
    assert!(!tokio::join!(prompter.confirm("Go on?"), typing).0.unwrap());
}

#[tokio::test]
async fn a_cancel_ends_the_question_and_gives_the_terminal_back() {
    let mut user = User::sit_down();
    let cancel = CancellationToken::new();
    let prompter = user.prompter(&cancel);
    let stopping = async {
        user.sees("password: ").await;
        user.types("half a pass");
        let hidden = !user.echoes();
        cancel.cancel();
        hidden
    };
    let began = Instant::now();
    let (asked, hidden) = tokio::join!(prompter.password("password: "), stopping);
    assert_eq!(asked.unwrap_err().kind, ErrorKind::Cancelled);
    assert!(hidden && user.echoes());
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(prompter.confirm("again?").await.unwrap_err().kind, ErrorKind::Cancelled);
}

#[tokio::test]
async fn a_dropped_question_gives_the_terminal_back_too() {
    let mut user = User::sit_down();
    let prompter = user.prompter(&CancellationToken::new());
    {
        let mut asking = std::pin::pin!(prompter.password("password: "));
        let waiting = async { user.sees("password: ").await };
        tokio::select! {
            _ = &mut asking => panic!("nobody answered"),
            () = waiting => {}
        }
    }
    let began = Instant::now();
    while !user.echoes() {
        assert!(began.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_password_is_read_and_never_shown() {
    let mut user = User::sit_down();
    let prompter = user.prompter(&CancellationToken::new());
    let typing = async {
        user.sees("password: ").await;
        user.types("it's a s3cret\n");
    };
    let (asked, ()) = tokio::join!(prompter.password("password: "), typing);
    let secret = asked.unwrap();
    assert_eq!(secret.as_bytes(), b"it's a s3cret");
    assert_eq!(format!("{secret:?}"), "Secret(***)");
    user.sees("\n").await;
    assert!(user.echoes() && !user.seen.contains("s3cret"), "{:?}", user.seen);
}

#[tokio::test]
async fn the_end_of_input_at_a_password_is_a_cancel() {
    let mut user = User::sit_down();
    let prompter = user.prompter(&CancellationToken::new());
    let typing = async {
        user.sees("password: ").await;
        user.types("\x04");
    };
    let (asked, ()) = tokio::join!(prompter.password("password: "), typing);
    assert_eq!(asked.unwrap_err().kind, ErrorKind::Cancelled);
    assert!(user.echoes());
}

/// Set for the second process of the test below.
const CHILD: &str = "PC_SWITCHER_TEST_CHILD";

#[tokio::test]
async fn ctrl_c_at_a_password_ends_it_and_gives_the_terminal_back() {
    if std::env::var_os(CHILD).is_some() {
        return child().await;
    }
    let mut user = User::sit_down();
    let fd = || std::process::Stdio::from(user.terminal.try_clone().unwrap());
    // `setsid --ctty` makes the terminal the child's own, so that its Ctrl+C is a signal to it.
    let mut child = tokio::process::Command::new("setsid")
        .args(["--ctty", "--wait"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("ui::prompt::tests::ctrl_c_at_a_password_ends_it_and_gives_the_terminal_back")
        .env(CHILD, "1")
        .stdin(fd())
        .stdout(fd())
        .stderr(fd())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    user.sees("password: ").await;
    assert!(!user.echoes());
    user.types("abc\x03");
    user.sees("ended: Cancelled after Int Cancel").await;
    assert!(user.echoes());
    assert!(child.wait().await.unwrap().success());
}

async fn child() {
    let mut interrupts = crate::signal::Interrupts::listen().unwrap();
    let cancel = CancellationToken::new();
    let facts = crate::ui::TerminalFacts { stdin: true, stdout: true, stderr: true, ..Default::default() };
    let prompter = Prompter::new(Arc::new(FdConsole::standard(facts).unwrap()), cancel.clone());
    let watching = async {
        let interrupt = interrupts.next().await;
        cancel.cancel();
        interrupt
    };
    let (asked, (which, what)) = tokio::join!(prompter.password("password: "), watching);
    println!("ended: {:?} after {which:?} {what:?}", asked.unwrap_err().kind);
}
