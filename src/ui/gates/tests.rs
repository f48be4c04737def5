//! Who may open a gate, and what is asked.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Mutex;

use pc_switcher_contract::LogLevel;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::events::EventBus;
use crate::ui::{Asked, Console};

/// A terminal that answers every question the same, or is none.
struct Fake {
    answer: Option<Asked>,
    shown: Mutex<String>,
}

impl Console for Fake {
    fn can_ask(&self) -> bool {
        self.answer.is_some()
    }
    fn ask(&self, prompt: &str, _echo: bool, _wake: BorrowedFd<'_>) -> io::Result<Asked> {
        self.shown.lock().unwrap().push_str(prompt);
        self.answer.clone().ok_or_else(|| io::Error::other("asked without a terminal"))
    }
    fn restore(&self) {}
}

struct Scene {
    gates: Gates,
    console: Arc<Fake>,
    bus: Arc<EventBus>,
}

fn scene(answer: Option<Asked>) -> Scene {
    let bus = EventBus::new("abc12345".parse().unwrap(), Arc::new(|| jiff::Timestamp::UNIX_EPOCH));
    let console = Arc::new(Fake { answer, shown: Mutex::default() });
    let prompter = Prompter::new(console.clone(), CancellationToken::new());
    let (source, target): (Hostname, Hostname) = ("laptop".parse().unwrap(), "desk".parse().unwrap());
    let gates = Gates {
        prompter: Arc::new(prompter),
        flags: HashSet::new(),
        dry_run: false,
        log: bus.core(source.clone()),
        source,
        target,
    };
    Scene { gates, console, bus }
}

fn line(text: &str) -> Option<Asked> {
    Some(Asked::Line(text.as_bytes().to_vec()))
}

fn gate(kind: GateKind) -> Gate {
    Gate {
        kind,
        summary: None,
        findings: vec![
            "desk has never been synced with laptop".into(),
            "user data: `/home` is overwritten".into(),
        ],
        consequence: "what is on desk now is replaced by what is on laptop; it stays in desk's snapshot"
            .into(),
    }
}

#[tokio::test]
async fn the_question_names_both_machines_the_findings_and_the_consequence() {
    let scene = scene(line("y"));
    assert_eq!(scene.gates.pass(gate(GateKind::FirstSync)).await.unwrap(), Answer::ByUser);
    insta::assert_snapshot!(scene.console.shown.lock().unwrap());
}

#[tokio::test]
async fn no_and_the_end_of_input_refuse_that_gate() {
    for answer in [line("n"), line(""), Some(Asked::End)] {
        let error = scene(answer).gates.pass(gate(GateKind::Conflicts)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused(GateKind::Conflicts));
    }
    let error = scene(Some(Asked::Woken)).gates.pass(gate(GateKind::Conflicts)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Cancelled);
}

#[tokio::test]
async fn without_a_terminal_the_hint_names_the_flag() {
    let error = scene(None).gates.pass(gate(GateKind::MassDeletion)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused(GateKind::MassDeletion));
    assert!(error.hints[0].contains("--allow-mass-deletion"), "{error:?}");
}

#[tokio::test]
async fn a_flag_is_the_answer_to_its_own_gate_alone() {
    let mut scene = scene(line("n"));
    scene.gates.flags.insert(GateKind::FirstSync);
    assert_eq!(scene.gates.pass(gate(GateKind::FirstSync)).await.unwrap(), Answer::ByFlag);
    assert!(scene.console.shown.lock().unwrap().is_empty());
    assert!(scene.gates.pass(gate(GateKind::OutOfOrder)).await.is_err());
}

#[tokio::test]
async fn a_summary_is_no_finding_and_what_is_not_shown_is_counted() {
    for (count, more) in [(1, None), (25, Some("and 5 more; `--dry-run --json` names them all"))] {
        let scene = scene(line("n"));
        let mut gate = gate(GateKind::Conflicts);
        gate.summary = Some(format!("{count} paths changed on desk since the last sync"));
        gate.findings = (0..count).map(|at| format!("/home/alice/{at}")).collect();
        let error = scene.gates.pass(gate).await.unwrap_err().to_string();
        assert!(error.ends_with("changed on desk since the last sync"), "{error}");
        let shown = scene.console.shown.lock().unwrap();
        assert_eq!(shown.matches("/home/alice/").count(), count.min(20));
        assert_eq!(
            shown.lines().find(|line| line.contains("more")),
            more.map(|more| format!("  - {more}")).as_deref()
        );
    }
}

#[tokio::test]
async fn a_dry_run_only_warns() {
    let mut scene = scene(None);
    scene.gates.dry_run = true;
    assert_eq!(scene.gates.pass(gate(GateKind::Conflicts)).await.unwrap(), Answer::DryRun);
    let tally = scene.bus.tally();
    // Each finding, and the gate itself.
    let findings = gate(GateKind::Conflicts).findings.len() as u64;
    assert_eq!((tally.warnings, tally.remembered[0].level), (findings + 1, LogLevel::Warning));
}

#[tokio::test]
async fn nothing_opens_the_gate_that_locks_the_user_out() {
    let mut scene = scene(line("y"));
    scene.gates.flags.insert(GateKind::LockOut);
    for dry_run in [false, true] {
        scene.gates.dry_run = dry_run;
        let error = scene.gates.pass(gate(GateKind::LockOut)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused(GateKind::LockOut));
    }
    assert!(scene.console.shown.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_secret_in_a_finding_is_not_shown_in_the_question() {
    let scene = scene(line("y"));
    let mut gate = gate(GateKind::Conflicts);
    gate.findings = vec!["https://me:hunter2@git.example/a".into(), "\u{1b}[2Jx".into()];
    scene.gates.pass(gate).await.unwrap();
    let shown = scene.console.shown.lock().unwrap();
    assert!(!shown.contains("hunter2") && !shown.contains('\u{1b}'), "{shown}");
}
