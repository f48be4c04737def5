//! Reports as they are read.

use super::*;
use crate::events::Remembered;
use pc_switcher_contract::{Ending, SnapshotKind, SnapshotMember, Step};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn name(text: &str) -> ModuleName {
    text.parse().unwrap()
}

fn session(ending: Option<Ending>) -> SyncSession {
    let mut session = SyncSession::new(
        "abc12345".parse().unwrap(),
        at("2025-11-15T12:00:00Z"),
        "laptop".parse().unwrap(),
        "desk.local",
        vec![name("packages"), name("user-data"), name("vault-backup")],
    );
    session.target_hostname = Some("desk".parse().unwrap());
    if let Some(ending) = ending {
        for step in [Step::Initialized, Step::Validated, Step::Stop, Step::End(ending)] {
            session.step(step).unwrap();
        }
        session.ended = Some(at("2025-11-15T12:02:05Z"));
    }
    session
}

fn set(hostname: &str, kind: SnapshotKind) -> SnapshotSet {
    let stamp = "20251115T120001Z".parse().unwrap();
    let member = |subvolume: &str| {
        let name: pc_switcher_contract::SnapshotName =
            format!("{subvolume}-{}-{stamp}-abc12345", kind.in_name()).parse().unwrap();
        SnapshotMember {
            path: format!("/.snapshots/{name}").as_str().into(),
            name,
            uuid: "0".repeat(32),
            source_uuid: "1".repeat(32),
            id: 300,
            otransid: 7,
            ctransid: 7,
            first_taken: None,
            apart: None,
        }
    };
    SnapshotSet {
        hostname: hostname.parse().unwrap(),
        kind,
        stamp,
        session: "abc12345".parse().unwrap(),
        consistent: true,
        members: vec![member("@"), member("@home")],
    }
}

fn warning(message: &str, level: LogLevel) -> Remembered {
    Remembered {
        at: at("2025-11-15T12:01:00Z"),
        level,
        module: name("user-data"),
        hostname: "desk".parse().unwrap(),
        message: message.into(),
    }
}

fn shown(session: &SyncSession, closing: Closing) -> String {
    let report = Report::new(session, closing, at("2025-11-15T12:10:00Z"));
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    report.render().join("\n")
}

#[test]
fn a_sync_that_went_well() {
    let mut session = session(Some(Ending::Completed));
    session.record(name("user-data"), ModuleResult::Success, "1,204 files, 84.0 MB");
    session.record(name("packages"), ModuleResult::Skipped, "the same packages on both machines");
    session.record(name("vault-backup"), ModuleResult::Success, "");
    for (hostname, kind) in
        [("laptop", SnapshotKind::PreSync), ("desk", SnapshotKind::PreSync), ("desk", SnapshotKind::PostSync)]
    {
        session.snapshots.push(set(hostname, kind));
    }
    insta::assert_snapshot!(shown(
        &session,
        Closing {
            verified: Some(Vec::new()),
            changed: true,
            tally: Tally {
                warnings: 1,
                errors: 0,
                remembered: vec![warning(
                    "`/home/me/mail.db` is open in a program on desk; close it before you go on working there",
                    LogLevel::Warning,
                )],
            },
            log: Some("/home/me/.local/state/pc-switcher/logs/20251115T120000Z-abc12345.jsonl".into()),
            ..Closing::default()
        }
    ));
}

#[test]
fn a_sync_that_failed_says_the_reason_once_and_what_to_try() {
    let mut session = session(Some(Ending::Failed));
    session.snapshots.push(set("laptop", SnapshotKind::PreSync));
    session.record(
        name("user-data"),
        ModuleResult::Failed,
        "a summary that is longer than what is left of the line and goes on below it",
    );
    session.skip_rest("not reached");
    let reason = "desk: no space left on the disk";
    insta::assert_snapshot!(shown(
        &session,
        Closing {
            exit_code: 6,
            failure: Some(Failure {
                message: reason.into(),
                hints: vec!["free some space on desk: `pc-switcher space` says what holds it".into()],
            }),
            tally: Tally {
                warnings: 0,
                errors: 2,
                remembered: vec![
                    warning("cannot write `/home/me/x`", LogLevel::Error),
                    warning(reason, LogLevel::Critical),
                ],
            },
            conflicts: (0..12).map(|n| format!("`/home/me/{n}` changed on both machines")).collect(),
            ..Closing::default()
        }
    ));
}

#[test]
fn problems_are_all_shown_and_nothing_is_promised_about_snapshots() {
    let session = session(Some(Ending::Failed));
    let desk = "desk".parse().unwrap();
    insta::assert_snapshot!(shown(
        &session,
        Closing {
            exit_code: 3,
            problems: vec![
                Problem::on(&desk, "`/.snapshots` is missing").hint("mkdir /.snapshots"),
                Problem::general("both machines are called `desk`"),
            ],
            ..Closing::default()
        }
    ));
}

#[test]
fn stopping_and_dry_runs_are_named_as_what_they_are() {
    let aborted = shown(&session(Some(Ending::Aborted)), Closing::default());
    assert!(aborted.contains("Stopped by you: laptop → desk"), "{aborted}");
    let mut dry = session(Some(Ending::Completed));
    dry.dry_run = true;
    let dry = shown(&dry, Closing::default());
    assert!(dry.contains("nothing was written") && dry.contains("`pc-switcher sync desk.local`"), "{dry}");
    let running = shown(&session(None), Closing::default());
    assert!(running.contains("INITIALIZING"), "{running}");
}

#[test]
fn no_line_is_wider_than_the_screen() {
    let mut session = session(Some(Ending::Failed));
    session.record(name("user-data"), ModuleResult::Failed, "word ".repeat(60));
    let closing = Closing { conflicts: vec!["word ".repeat(60)], ..Closing::default() };
    for line in shown(&session, closing).lines() {
        assert!(console::measure_text_width(line.trim_end()) <= WIDTH, "{line}");
    }
}

#[test]
fn a_dry_run_that_met_closed_gates_says_what_opens_them() {
    let mut session = session(Some(Ending::Completed));
    session.dry_run = true;
    let next = |would_ask: &[GateKind]| {
        let closing = Closing { would_ask: would_ask.to_vec(), ..Closing::default() };
        Report::new(&session, closing, session.started).next.join(" ")
    };
    assert_eq!(next(&[]), "`pc-switcher sync desk.local` does it");
    let said = next(&[GateKind::FirstSync, GateKind::MassDeletion]);
    assert!(said.ends_with("it takes `--allow-first-sync --allow-mass-deletion`"), "{said}");
}
