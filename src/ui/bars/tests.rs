//! Bars on a terminal in memory.

use super::*;
use indicatif::InMemoryTerm;
use pc_switcher_contract::{Fraction, LogLevel, Progress};

fn event(kind: EventKind) -> Event {
    Event { seq: 1, at: jiff::Timestamp::UNIX_EPOCH, session: "abc12345".parse().unwrap(), kind }
}

fn step(module: &ModuleName, percent: u64) -> Event {
    let progress = Progress {
        fraction: Some(Fraction::of(percent, 100)),
        item: "/home/me/{x}".into(),
        eta: None,
        bytes: None,
    };
    event(EventKind::Progress { module: module.clone(), progress })
}

fn log(text: &str) -> Event {
    event(EventKind::Log {
        level: LogLevel::Info,
        module: ModuleName::literal("core"),
        hostname: "desk".parse().unwrap(),
        message: text.into(),
        context: serde_json::Map::new(),
    })
}

#[test]
fn a_bar_per_module_with_progress_lines_above_and_all_gone_when_hidden() {
    let terminal = InMemoryTerm::new(20, 80);
    let lines = Lines { level: LogLevel::Info, colours: false, labels: Vec::new() };
    let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 200);
    let mut bars = Bars::new(lines, target);
    let (data, packages) = (ModuleName::literal("user-data"), ModuleName::literal("packages"));
    let modules = vec![packages.clone(), data.clone()];
    bars.paint(&event(EventKind::Started {
        source: "laptop".parse().unwrap(),
        target: "desk".into(),
        modules,
        dry_run: false,
    }));
    bars.paint(&step(&packages, 40));
    bars.paint(&event(EventKind::Module {
        module: packages,
        result: ModuleResult::Success,
        summary: "3 packages".into(),
    }));
    bars.paint(&step(&data, 50));
    bars.paint(&log("above the bars"));
    bars.tick();
    insta::assert_snapshot!(terminal.contents());
    bars.hide();
    assert_eq!(terminal.contents().lines().last(), Some("desk: above the bars"));
    bars.paint(&step(&data, 60));
    assert!(terminal.contents().contains("60 %"), "{}", terminal.contents());
    bars.close();
    let closed = terminal.contents();
    assert!(!closed.contains("in all"), "{closed}");
    drop(bars);
    assert_eq!(terminal.contents(), closed);
}
