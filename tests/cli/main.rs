//! The command line as a user meets it: transcripts, and what a transcript cannot show.
//!
//! The environment is our own: no config, no variables of whoever runs the tests.

mod docs;
mod early;
mod files;
mod install;
mod lines;
mod terminal;
mod vault;

use std::path::Path;
use std::process::{Command, Output};

/// Runs the program with an empty environment and `home` as its home.
fn run(home: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pc-switcher"))
        .args(args)
        .env_clear()
        .env("HOME", home)
        .current_dir(home)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn transcripts() {
    trycmd::TestCases::new()
        .env("HOME", "/nonexistent/home")
        .env("XDG_CONFIG_HOME", "")
        .env("PC_SWITCHER_TEST_MODULES", "")
        .env("COLUMNS", "80")
        .case("tests/cli/*.md");
}
