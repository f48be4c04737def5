//! The store gives back what it got; the commands say what they should.

use std::cell::RefCell;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use pc_switcher_contract::{Ending, LogLevel, ModuleResult, Step};

use super::*;
use crate::events::{EventBus, FileLog};
use crate::session::Closing;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn process(pid: u32) -> ProcessTag {
    ProcessTag { pid, start_ticks: 7, boot_id: "boot".into() }
}

fn session(id: &str, started: &str, ending: Option<Ending>) -> SyncSession {
    let mut session = SyncSession::new(
        id.parse().unwrap(),
        at(started),
        "laptop".parse().unwrap(),
        "desk",
        vec!["packages".parse().unwrap(), "user-data".parse().unwrap()],
    );
    for step in [Step::Initialized, Step::Validated] {
        session.step(step).unwrap();
    }
    if let Some(ending) = ending {
        session.step(Step::Stop).unwrap();
        session.step(Step::End(ending)).unwrap();
        session.record("user-data".parse().unwrap(), ModuleResult::Success, "1,204 files");
        session.ended = Some(at(started) + jiff::SignedDuration::from_secs(125));
    }
    session
}

fn stored(store: &mut Store, session: &SyncSession, pid: u32) -> SessionRow {
    let mut row = row_of(session, Role::Source, "log_cli_level = \"INFO\"\n", Some(process(pid)));
    store.begin(&row).unwrap();
    if session.state().is_terminal() {
        let tally = Tally { warnings: 2, ..Tally::default() };
        let report = Report::new(session, Closing { tally, ..Closing::default() }, session.started);
        row.close(session, &report);
        store.finish(&row).unwrap();
    }
    row
}

fn store(dir: &tempfile::TempDir) -> Store {
    Store::open(&dir.path().join("state/history.db")).unwrap()
}

/// Three sessions: one that went well, one that died, one that runs.
fn three(dir: &tempfile::TempDir) -> Store {
    let mut store = store(dir);
    stored(&mut store, &session("aaaa0001", "2025-11-15T12:00:00Z", Some(Ending::Completed)), 1);
    stored(&mut store, &session("aaaa0002", "2025-11-16T12:00:00.5Z", None), 2);
    stored(&mut store, &session("aaaa0003", "2025-11-17T12:00:00Z", None), 3);
    store
}

fn alive(process: &ProcessTag) -> bool {
    process.pid == 3
}

#[test]
fn the_store_gives_back_what_it_got() {
    let dir = tempfile::tempdir().unwrap();
    let session = session("abc12345", "2025-11-15T12:00:00.123456789Z", Some(Ending::Completed));
    let row = stored(&mut store(&dir), &session, 1);
    let again = store(&dir);
    assert_eq!(again.get(&session.id).unwrap().as_ref(), Some(&row));
    assert_eq!(again.last().unwrap(), Some(row.clone()));
    assert_eq!(again.get(&"00000000".parse().unwrap()).unwrap(), None);
    assert_eq!((row.exit_code, row.warnings), (Some(0), 2));
    assert_eq!(row.report.unwrap()["source_hostname"], "laptop");
    let mode = std::fs::metadata(dir.path().join("state/history.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_history_of_an_older_version_knows_the_target_by_its_own_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut session = session("abc12345", "2025-11-15T12:00:00Z", Some(Ending::Completed));
    session.target = "me@work".into();
    session.target_hostname = Some("desk-2".parse().unwrap());
    let row = stored(&mut store(&dir), &session, 1);
    assert_eq!(row.target_for_ssh(), "me@work");
    let db = rusqlite::Connection::open(dir.path().join("state/history.db")).unwrap();
    db.execute_batch("ALTER TABLE sessions DROP COLUMN typed; PRAGMA user_version = 1").unwrap();
    let older = store(&dir).last().unwrap().unwrap();
    assert_eq!(older, SessionRow { target_typed: None, ..row });
    assert_eq!(older.target_for_ssh(), "desk-2");
}

#[test]
fn a_session_begins_once_and_must_have_begun_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = store(&dir);
    let row = stored(&mut store, &session("abc12345", "2025-11-15T12:00:00Z", None), 1);
    assert!(store.begin(&row).is_err());
    let other = SessionRow { id: "00000000".parse().unwrap(), ..row };
    assert!(matches!(store.finish(&other), Err(HistoryError::Missing(_))));
}

#[test]
fn the_newest_come_first_and_two_may_write_at_once() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for half in 0..2 {
            let dir = &dir;
            scope.spawn(move || {
                let mut store = store(dir);
                for n in (half..20).step_by(2) {
                    let session =
                        session(&format!("aaaa00{n:02}"), &format!("2025-11-15T12:00:{n:02}Z"), None);
                    stored(&mut store, &session, 1);
                }
            });
        }
    });
    let ids: Vec<String> = store(&dir).list(3).unwrap().iter().map(|row| row.id.to_string()).collect();
    assert_eq!(ids, ["aaaa0019", "aaaa0018", "aaaa0017"]);
}

#[test]
fn looking_makes_no_store_and_a_newer_one_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    assert!(Store::open_existing(&path).unwrap().is_none());
    assert!(!path.exists());
    drop(Store::open(&path).unwrap());
    let db = rusqlite::Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    let Err(error) = Store::open(&path) else { panic!("it was opened") };
    assert!(matches!(error, HistoryError::Newer { found: 99, .. }), "{error}");
}

#[test]
fn a_session_without_a_process_and_without_an_ending_was_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let fates: Vec<&str> = three(&dir).list(9).unwrap().iter().map(|row| row.fate(&alive).as_str()).collect();
    assert_eq!(fates, ["running", "interrupted", "completed"]);
}

#[test]
fn a_secret_in_the_config_is_not_stored() {
    let session = session("abc12345", "2025-11-15T12:00:00Z", None);
    let row = row_of(&session, Role::Source, "password = \"hunter2\"\nurl = \"https://me:hunter2@h/\"", None);
    assert!(!row.config.contains("hunter2"), "{}", row.config);
}

#[test]
fn a_session_that_found_another_one_at_work_is_not_the_last_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = three(&dir).list(9).unwrap();
    rows[0].exit_code = Some(5);
    assert_eq!(last_at_work(&rows).map(|row| row.id.to_string()).as_deref(), Some("aaaa0002"));
    assert_eq!(last_at_work(&rows[..1]).map(|row| row.id.to_string()).as_deref(), Some("aaaa0003"));
}

fn rows(store: Option<&Store>) -> Vec<SessionRow> {
    store.map(|store| store.list(20).unwrap()).unwrap_or_default()
}

#[test]
fn what_came_here_stands_among_what_was_started_here_once_each() {
    let dir = tempfile::tempdir().unwrap();
    let own = three(&dir).list(9).unwrap();
    let other = session("bbbb0001", "2025-11-16T13:00:00Z", Some(Ending::Completed));
    let came = vec![row_of(&other, Role::Target, "", None), own[0].clone()];
    let ids = |count| -> Vec<String> {
        merge(own.clone(), came.clone(), count).iter().map(|row| row.id.to_string()).collect()
    };
    assert_eq!(ids(9), ["aaaa0003", "bbbb0001", "aaaa0002", "aaaa0001"]);
    assert_eq!(ids(2), ["aaaa0003", "bbbb0001"]);
}

fn history(store: Option<&Store>, json: bool) -> String {
    let mut out = Vec::new();
    let options = history_cmd::HistoryOptions { json, ..Default::default() };
    history_cmd::run(&options, &history_cmd::HistoryEnv { rows: &rows(store), alive: &alive }, &mut out)
        .unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn history_is_a_table_of_eighty_columns() {
    let dir = tempfile::tempdir().unwrap();
    let text = history(Some(&three(&dir)), false);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    insta::assert_snapshot!(text);
    let json: serde_json::Value =
        serde_json::from_str(&history(Some(&three(&tempfile::tempdir().unwrap())), true)).unwrap();
    assert_eq!(json[1]["ending"], "interrupted");
    assert_eq!(json[2]["module_results"]["user-data"], "SUCCESS");
    assert_eq!(json[2]["started"], "2025-11-15T12:00:00Z");
}

#[test]
fn an_empty_history_says_what_to_do() {
    assert_eq!(history(None, false), "No sync yet: `pc-switcher sync TARGET`\n");
    assert_eq!(history(None, true), "[]\n");
}

fn status(
    store: Option<&Store>,
    json: bool,
    alive: &dyn Fn(&ProcessTag) -> bool,
    markers: &[String],
) -> String {
    let mut out = Vec::new();
    let rows = rows(store);
    let env = status::StatusEnv {
        last: rows.first(),
        now: at("2025-11-17T15:00:00Z"),
        alive,
        lock_holder: (!markers.is_empty()).then_some("`sync` of session aaaa0003, process 3"),
        markers,
    };
    status::run(&status::StatusOptions { json }, &env, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn status_says_how_the_last_sync_stands_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = three(&dir);
    let markers = ["session aaaa0003 began to change desk and did not finish".to_owned()];
    let running = status(Some(&store), false, &alive, &markers);
    let dead = status(Some(&store), false, &|_| false, &markers);
    stored(&mut store, &session("aaaa0004", "2025-11-17T14:00:00Z", Some(Ending::Completed)), 4);
    let well = status(Some(&store), false, &alive, &[]);
    insta::assert_snapshot!([running, dead, well, status(None, false, &alive, &[])].join("---\n"));
    let json: serde_json::Value = serde_json::from_str(&status(Some(&store), true, &alive, &[])).unwrap();
    assert_eq!(json["last"]["ending"], "completed");
    let json: serde_json::Value = serde_json::from_str(&status(None, true, &alive, &[])).unwrap();
    assert!(json["last"].is_null() && json["next"][0].as_str().unwrap().contains("sync TARGET"));
}

fn logs(dir: &Path, choice: logs::LogsChoice, json: bool) -> Result<String, HistoryError> {
    let mut out = Vec::new();
    let env = logs::LogsEnv { busy: &[], dir, colours: false, wait: &|_| true };
    logs::run(&logs::LogsOptions { choice, json }, &env, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

/// Runs a small session that writes its log.
fn write_log(dir: &Path, id: &str, started: &str) {
    let now = at(started);
    let bus = EventBus::new(id.parse().unwrap(), std::sync::Arc::new(move || now));
    let own = "laptop".parse().unwrap();
    let core = bus.core("laptop".parse().unwrap());
    let log = FileLog::start(dir, now, &own, LogLevel::Full, &core);
    core.stage("pre-snapshots");
    let context = serde_json::json!({"path": "/home/me/x", "code": 13}).as_object().unwrap().clone();
    core.reporter("user-data".parse().unwrap()).log_with(
        LogLevel::Warning,
        &"desk".parse().unwrap(),
        "cannot read `x`\nsecond line",
        context,
    );
    core.ended(pc_switcher_contract::SessionState::Completed, 0);
    bus.close();
    log.finish();
}

fn two_logs() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path(), "aaaa0001", "2025-11-15T12:00:00Z");
    write_log(dir.path(), "bbbb0002", "2025-11-16T12:00:00Z");
    // What rotation does at the next start, whether or not it was quick enough above.
    let old = dir.path().join("20251115T120000Z-aaaa0001.jsonl");
    if old.exists() {
        let text = std::fs::read(&old).unwrap();
        std::fs::write(old.with_extension("jsonl.zst"), zstd::encode_all(&text[..], 3).unwrap()).unwrap();
        std::fs::remove_file(&old).unwrap();
    }
    dir
}

#[test]
fn a_log_is_printed_for_people_compressed_or_not() {
    let dir = two_logs();
    let last = logs(dir.path(), logs::LogsChoice::Last, false).unwrap();
    insta::assert_snapshot!(last);
    let old = logs(dir.path(), logs::LogsChoice::Session("aaaa0001".into()), false).unwrap();
    assert_eq!(old, last);
    assert_eq!(logs(dir.path(), logs::LogsChoice::Session("BBBB".into()), false).unwrap(), last);
}

#[test]
fn json_gives_the_raw_lines() {
    let dir = two_logs();
    let raw = logs(dir.path(), logs::LogsChoice::Session("aaaa0001".into()), true).unwrap();
    assert_eq!(raw.lines().count(), 3);
    for line in raw.lines() {
        let line: crate::events::LogLine = serde_json::from_str(line).unwrap();
        assert_eq!(line.session_id.as_str(), "aaaa0001");
    }
}

#[test]
fn without_a_choice_the_newest_are_listed() {
    let dir = two_logs();
    let text = logs(dir.path(), logs::LogsChoice::List, false).unwrap();
    let first = text.lines().next().unwrap();
    assert!(first.starts_with("bbbb0002  2025-11-16 12:00:00 UTC"), "{text}");
    let json = logs(dir.path(), logs::LogsChoice::List, true).unwrap();
    assert_eq!(json.lines().count(), 2);
    let nowhere = dir.path().join("none");
    assert!(logs(&nowhere, logs::LogsChoice::List, false).unwrap().contains("`pc-switcher sync TARGET`"));
    assert_eq!(logs(&nowhere, logs::LogsChoice::List, true).unwrap(), "");
}

#[test]
fn an_unknown_session_is_an_error_that_names_the_nearest_or_the_newest() {
    let dir = two_logs();
    let near = logs(dir.path(), logs::LogsChoice::Session("aaaa0007".into()), false).unwrap_err();
    assert_eq!(near.to_string(), "no log of session `aaaa0007`; the nearest are `aaaa0001`, `bbbb0002`");
    let far = logs(dir.path(), logs::LogsChoice::Session("99999999".into()), false).unwrap_err();
    assert_eq!(far.to_string(), "no log of session `99999999`; the newest are `bbbb0002`, `aaaa0001`");
}

#[test]
fn the_end_of_a_dead_sessions_log_is_shown_as_cut_off() {
    let dir = two_logs();
    let path = dir.path().join("20251116T120000Z-bbbb0002.jsonl");
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 20]).unwrap();
    let shown = logs(dir.path(), logs::LogsChoice::Last, false).unwrap();
    assert!(shown.trim_end().ends_with("(cut off)"), "{shown}");
    let followed = logs(dir.path(), logs::LogsChoice::Follow, false).unwrap();
    assert!(followed.ends_with("left no ending in this log\n"), "{followed}");
}

#[test]
fn following_ends_with_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("20251116T120000Z-bbbb0002.jsonl");
    let whole = {
        let other = tempfile::tempdir().unwrap();
        write_log(other.path(), "bbbb0002", "2025-11-16T12:00:00Z");
        std::fs::read_to_string(other.path().join("20251116T120000Z-bbbb0002.jsonl")).unwrap()
    };
    let writer = std::fs::File::create(&path).unwrap();
    writer.lock().unwrap();
    // Every wait of the follower brings another 40 bytes; lines come in pieces.
    let rest = RefCell::new(whole.as_bytes());
    let wait = |_: Duration| {
        let mut rest = rest.borrow_mut();
        let (now, later) = rest.split_at(rest.len().min(40));
        (&writer).write_all(now).unwrap();
        *rest = later;
        false
    };
    let mut out = Vec::new();
    let env = logs::LogsEnv { busy: &[], dir: dir.path(), colours: false, wait: &wait };
    logs::run(&logs::LogsOptions { choice: logs::LogsChoice::Follow, json: true }, &env, &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), whole);
}

#[test]
fn a_reader_that_goes_away_is_recognised() {
    let dir = two_logs();
    let (reader, mut writer) = std::io::pipe().unwrap();
    drop(reader);
    let env = logs::LogsEnv { busy: &[], dir: dir.path(), colours: false, wait: &|_| true };
    let options = logs::LogsOptions { choice: logs::LogsChoice::Last, json: true };
    assert!(logs::run(&options, &env, &mut writer).unwrap_err().is_broken_pipe());
}
