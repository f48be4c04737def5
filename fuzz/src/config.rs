//! The config file: any bytes give a config or problems with a place in the file, never a panic.

use std::path::Path;
use std::sync::OnceLock;

use pc_switcher::config::{ConfigErrors, ConfigProblem, Overrides, Source, json, resolve, toml};
use pc_switcher::paths::Env;
use pc_switcher::registry::registry;
use pc_switcher_contract::ModuleSpec;

fn specs() -> &'static [ModuleSpec] {
    static SPECS: OnceLock<Vec<ModuleSpec>> = OnceLock::new();
    SPECS.get_or_init(|| {
        let vars = [("PC_SWITCHER_TEST_MODULES".into(), "1".into())].into();
        registry(&Env { vars, ..Env::default() })
    })
}

/// Reads the bytes as a config file.
pub fn run(data: &[u8]) {
    let source = match Source::of_bytes(Path::new("config.toml"), data.to_vec()) {
        Ok(source) => source,
        Err(problem) => return check(&problem, &String::from_utf8_lossy(data)),
    };
    match resolve(Some(&source), &Overrides::default(), specs()) {
        Ok(config) => {
            config.warnings.iter().for_each(|problem| check(problem, &source.text));
            let again = Source { path: "again.toml".into(), text: config.text.clone() };
            let again = resolve(Some(&again), &Overrides::default(), specs());
            assert_eq!(again.map(|again| again.hash), Ok(config.hash), "{}", config.text);
            let shown = Source { path: "shown.toml".into(), text: toml(&config.effective, true) };
            assert!(resolve(Some(&shown), &Overrides::default(), specs()).is_ok(), "{}", shown.text);
            assert!(!json(&config.effective).is_null());
        }
        Err(ConfigErrors(problems)) => {
            assert!(!problems.is_empty());
            problems.iter().for_each(|problem| check(problem, &source.text));
        }
    }
}

/// Every problem stands at a place inside the file, and what a person is shown cannot steer a terminal.
fn check(problem: &ConfigProblem, text: &str) {
    let spot = problem.spot.unwrap_or_else(|| panic!("no place: {problem}"));
    let line = text.split('\n').nth(spot.line.wrapping_sub(1));
    let line = line.unwrap_or_else(|| panic!("there is no line {}: {problem}", spot.line));
    assert!((1..=line.chars().count() + 1).contains(&spot.column), "column {}: {problem}", spot.column);
    assert!(problem.to_string().chars().all(|c| c == '\n' || !c.is_control()), "{:?}", problem.to_string());
}
