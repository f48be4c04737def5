//! Every mistake has its line, and several come in one pass.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::{run, text};

fn bad_files() -> Vec<PathBuf> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cli/config-errors.in");
    let mut files: Vec<PathBuf> = directory.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Returns the lines that the report of a file names, and how many errors it counts.
fn report(file: &Path) -> (Vec<usize>, usize) {
    let home = tempfile::tempdir().unwrap();
    let output = run(home.path(), &["config", "validate", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{}", file.display());
    assert!(output.stdout.is_empty());
    let stderr = text(&output.stderr);
    let lines = stderr.lines().filter_map(|line| line.strip_prefix("  --> "));
    let lines = lines.filter_map(|place| place.rsplit(':').nth(1)?.parse().ok()).collect();
    (lines, stderr.matches("error: ").count())
}

#[test]
fn each_of_many_bad_configs_is_refused_with_a_line_for_every_error() {
    let files = bad_files();
    assert!(files.len() >= 20);
    for file in files {
        let (lines, errors) = report(&file);
        assert!(errors > 0 && lines.len() == errors, "{}: {lines:?}, {errors} errors", file.display());
        assert!(lines.is_sorted(), "{}: {lines:?}", file.display());
    }
}

#[test]
fn several_mistakes_come_in_one_pass() {
    let everything = bad_files().into_iter().find(|file| file.ends_with("everything.toml")).unwrap();
    let (lines, errors) = report(&everything);
    assert_eq!(errors, 10);
    assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), 10);
}
