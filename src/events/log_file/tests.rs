//! The file's lines, its rights, its patience with full disks.

use super::*;
use crate::events::{EventBus, lock};
use pc_switcher_contract::{Fraction, ModuleResult, Progress, SessionState};
use std::sync::Mutex;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_763_208_000 + second).unwrap()
}

/// A stream whose clock is set by hand.
fn stream() -> (Arc<EventBus>, Arc<Mutex<Timestamp>>, CoreLog) {
    let clock = Arc::new(Mutex::new(at(0)));
    let read = clock.clone();
    let bus = EventBus::new("abc12345".parse().unwrap(), Arc::new(move || *lock(&read)));
    let core = bus.core("laptop".parse().unwrap());
    (bus, clock, core)
}

fn start(dir: &Path, level: LogLevel, core: &CoreLog) -> FileLog {
    FileLog::start(dir, at(0), &"laptop".parse().unwrap(), level, core)
}

#[test]
fn each_event_is_one_line_of_the_documented_schema() {
    let dir = tempfile::tempdir().unwrap();
    let (bus, clock, core) = stream();
    let log = start(&dir.path().join("logs"), LogLevel::Full, &core);
    core.started("desk", vec!["user-data".parse().unwrap()], false);
    core.connected("desk".parse().unwrap());
    core.state(SessionState::Executing);
    core.stage("pre-snapshots");
    core.debug("below the level of the file");
    let voice = core.reporter("user-data".parse().unwrap());
    *lock(&clock) = at(65);
    voice.log_with(
        LogLevel::Warning,
        &"desk".parse().unwrap(),
        "cannot read `x`",
        object(serde_json::json!({"path": "/home/me/x", "code": 13})),
    );
    core.module("user-data".parse().unwrap(), ModuleResult::Success, "1 file");
    core.ended(SessionState::Completed, 0);
    bus.close();
    let path = log.path().unwrap().to_owned();
    log.finish();
    assert_eq!(path.file_name().unwrap(), "20251115T120000Z-abc12345.jsonl");
    insta::assert_snapshot!(fs::read_to_string(path).unwrap());
}

fn object(value: serde_json::Value) -> serde_json::Map<String, serde_json::Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn only_the_owner_may_read() {
    let dir = tempfile::tempdir().unwrap();
    let (bus, _, core) = stream();
    let logs = dir.path().join("logs");
    let log = start(&logs, LogLevel::Info, &core);
    let path = log.path().unwrap().to_owned();
    assert_eq!(fs::metadata(&logs).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let other = File::open(&path).unwrap();
    assert!(other.try_lock_shared().is_err(), "a running session holds its log");
    bus.close();
    log.finish();
    other.try_lock_shared().unwrap();
}

#[test]
fn progress_is_written_once_a_second_and_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (bus, clock, core) = stream();
    let reader = bus.subscribe();
    let voice = core.reporter("user-data".parse().unwrap());
    let path = dir.path().join("log");
    let mut writer =
        Writer::new(Box::new(create_private(&path).unwrap()), "laptop".parse().unwrap(), LogLevel::Full);
    for n in 0..50_i32 {
        *lock(&clock) = at(0) + jiff::SignedDuration::from_millis(i64::from(n) * 100);
        let fraction = Some(Fraction::of(u64::try_from(n).unwrap() + 1, 50));
        voice.progress(Progress { fraction, item: "x".into(), eta: None, bytes: None });
        writer.take(&reader.try_next().unwrap());
    }
    writer.flush(&core);
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(text.lines().count(), 6, "{text}");
    assert!(text.lines().all(|line| line.contains("\"level\":\"FULL\"")));
    assert!(text.lines().last().unwrap().contains("100 %"));
}

#[test]
fn a_warning_is_in_the_file_at_once_and_the_rest_within_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let (bus, _, core) = stream();
    let log = start(dir.path(), LogLevel::Info, &core);
    let path = log.path().unwrap().to_owned();
    let within = |text: &str, limit: Duration| {
        let began = std::time::Instant::now();
        while began.elapsed() < limit {
            if fs::read_to_string(&path).unwrap().contains(text) {
                return true;
            }
            std::thread::yield_now();
        }
        false
    };
    core.info("by and by");
    core.warning("now");
    assert!(within("now", Duration::from_millis(900)));
    core.info("later");
    assert!(within("later", Duration::from_secs(5)));
    bus.close();
    log.finish();
}

#[test]
fn a_full_disk_is_one_warning_and_no_failure() {
    let (bus, _, core) = stream();
    let reader = bus.subscribe();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut writer = Writer::new(Box::new(full), "laptop".parse().unwrap(), LogLevel::Debug);
    for n in 0..5 {
        core.error(format!("{n}"));
        writer.take(&reader.try_next().unwrap());
        writer.flush(&core);
    }
    assert_eq!(bus.tally().warnings, 1);
}

#[test]
fn a_directory_that_cannot_be_made_is_one_warning_and_no_failure() {
    let (bus, _, core) = stream();
    let log = start(Path::new("/proc/no-such-place"), LogLevel::Info, &core);
    assert_eq!(log.path(), None);
    log.finish();
    assert_eq!(bus.tally().warnings, 1);
}
