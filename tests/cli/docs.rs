//! The reference pages are what the program prints. `UPDATE_DOCS=1 cargo test --test cli` writes them anew.

use std::path::Path;

use crate::{run, text};

fn compare(page: &str, args: &[&str]) {
    let home = tempfile::tempdir().unwrap();
    let printed = text(&run(home.path(), args).stdout);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference").join(page);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &printed).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(kept == printed, "docs/reference/{page} is out of date: run with UPDATE_DOCS=1");
}

#[test]
fn the_page_of_the_commands_is_current() {
    compare("cli.md", &["util", "markdown-help"]);
}

#[test]
fn the_page_of_the_config_is_current() {
    compare("config.md", &["config", "schema", "--markdown"]);
}
