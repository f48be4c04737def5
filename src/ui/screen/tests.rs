//! What a person and a program get to see.

use pc_switcher_contract::{Fraction, Hostname, ModuleResult, Progress, Reporter, SessionState};

use super::*;
use crate::events::{CoreLog, EventBus};
use crate::session::{Closing, Report, SyncSession};

#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(lock(&self.0).clone()).unwrap()
    }
}

struct Scene {
    bus: Arc<EventBus>,
    core: CoreLog,
    voice: Reporter,
    clock: Arc<Mutex<jiff::Timestamp>>,
    human: Paper,
    data: Paper,
    screen: Screen,
}

fn at(second: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_763_208_000 + second).unwrap()
}

fn desk() -> Hostname {
    "desk".parse().unwrap()
}

fn scene(mode: Mode, level: LogLevel) -> Scene {
    let clock = Arc::new(Mutex::new(at(0)));
    let read = clock.clone();
    let bus = EventBus::new("abc12345".parse().unwrap(), Arc::new(move || *lock(&read)));
    let core = bus.core("laptop".parse().unwrap());
    let (human, data) = (Paper::default(), Paper::default());
    let outputs = Outputs {
        human: Box::new(human.clone()),
        data: Box::new(data.clone()),
        bars: ProgressDrawTarget::hidden(),
    };
    let options = ScreenOptions { mode, level, colours: false, labels: Vec::new() };
    let screen = Screen::start(bus.subscribe(), options, outputs);
    let voice = core.reporter(ModuleName::literal("user-data"));
    Scene { bus, core, voice, clock, human, data, screen }
}

fn play(scene: &Scene) {
    let core = &scene.core;
    core.started("desk.local", vec![ModuleName::literal("user-data")], false);
    core.connected(desk());
    core.state(SessionState::Executing);
    core.stage("pre-snapshots");
    core.debug("not shown at INFO");
    scene.voice.log(LogLevel::Info, &desk(), "[bold]literal[/bold] {text}\nsecond line");
    scene.voice.log(LogLevel::Warning, &desk(), "cannot read `x`");
    core.module(ModuleName::literal("user-data"), ModuleResult::Success, "1,204 files, 84 MB");
    core.state(SessionState::Completed);
    core.ended(SessionState::Completed, 0);
}

fn report() -> Report {
    let session = SyncSession::new(
        "abc12345".parse().unwrap(),
        at(0),
        "laptop".parse().unwrap(),
        "desk",
        vec![ModuleName::literal("user-data")],
    );
    Report::new(&session, Closing::default(), at(5))
}

#[test]
fn plain_lines_are_stable_and_the_report_alone_is_on_stdout() {
    let scene = scene(Mode::Plain, LogLevel::Info);
    play(&scene);
    scene.screen.finish(Some(&report()));
    insta::assert_snapshot!(scene.human.text());
    assert_eq!(scene.data.text(), format!("{}\n", report().render().join("\n")));
}

#[test]
fn json_is_the_whole_stream_and_nothing_else() {
    let scene = scene(Mode::Json, LogLevel::Info);
    play(&scene);
    scene.screen.finish(Some(&report()));
    assert_eq!(scene.human.text(), "");
    let text = scene.data.text();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let types: Vec<&str> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(
        types,
        ["started", "connected", "state", "stage", "log", "log", "module", "state", "ended", "report"]
    );
    assert_eq!(lines[9]["session_id"], "abc12345");
    let (events, _) = text.trim_end().rsplit_once('\n').unwrap();
    for line in events.lines() {
        serde_json::from_str::<Event>(line).unwrap();
    }
}

#[test]
fn a_higher_level_hides_all_that_is_less_grave() {
    let scene = scene(Mode::Plain, LogLevel::Warning);
    play(&scene);
    scene.screen.finish(None);
    assert_eq!(scene.human.text(), "WARNING desk user data: cannot read `x`\n");
}

#[test]
fn a_progress_line_comes_every_five_seconds_at_most() {
    let scene = scene(Mode::Plain, LogLevel::Info);
    for second in 0..11 {
        *lock(&scene.clock) = at(second);
        let done = u64::try_from(second).unwrap() * 10;
        scene.voice.progress(Progress {
            fraction: Some(Fraction::of(done, 200)),
            item: "/home/me/x".into(),
            eta: None,
            bytes: None,
        });
        // Pausing shows what waits: the screen's own pace plays no part here.
        drop(scene.screen.handle().pause());
    }
    scene.screen.finish(None);
    let lines: Vec<String> = scene.human.text().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(lines[2], "progress: user data 50 %, /home/me/x");
}

#[test]
fn a_paused_screen_writes_nothing_and_loses_nothing() {
    let scene = scene(Mode::Plain, LogLevel::Info);
    scene.core.info("before");
    let pause = scene.screen.handle().pause();
    assert_eq!(scene.human.text(), "laptop: before\n");
    let second = scene.screen.handle().pause();
    scene.core.info("meanwhile");
    drop(second);
    std::thread::scope(|scope| {
        scope.spawn(|| scene.core.info("and from elsewhere"));
    });
    assert_eq!(scene.human.text(), "laptop: before\n");
    drop(pause);
    scene.bus.close();
    scene.screen.finish(None);
    assert_eq!(scene.human.text(), "laptop: before\nlaptop: meanwhile\nlaptop: and from elsewhere\n");
}

#[test]
fn colours_are_used_only_where_they_are_wanted() {
    let lines = Lines { level: LogLevel::Info, colours: true, labels: Vec::new() };
    let scene = scene(Mode::Plain, LogLevel::Info);
    let reader = scene.bus.subscribe();
    scene.core.warning("x");
    let event = reader.try_next().unwrap();
    assert!(lines.line(&event).unwrap().contains("\x1b[33m"));
    scene.screen.finish(None);
    assert!(!scene.human.text().contains('\x1b'));
}
