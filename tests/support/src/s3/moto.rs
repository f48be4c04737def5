//! A second S3 server, written by others: moto, in a process of its own that ends with its input.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

const SCRIPT: &str = include_str!("moto.py");

/// A running server; ends when it is dropped.
pub struct Moto {
    endpoint: String,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Moto {
    /// Starts one; with a directory it speaks TLS and leaves its certificate there as `cert.pem`. Without moto there is none,
    /// and that is said.
    ///
    /// # Panics
    /// If it does not start, or is missing where `LAB_REQUIRED` is set.
    pub fn start(tls: Option<&Path>) -> Option<Self> {
        let Some(python) = python() else {
            assert!(std::env::var_os("LAB_REQUIRED").is_none(), "moto is missing; tests/moto installs it");
            eprintln!("skipped: moto is missing; tests/moto installs it");
            return None;
        };
        let mut command = Command::new(&python);
        command.args(["-I", "-c", SCRIPT]).args(tls).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", python.display()));
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut endpoint = String::new();
        output.read_line(&mut endpoint).unwrap();
        let endpoint = endpoint.trim().to_owned();
        assert!(endpoint.starts_with("http"), "moto did not start: {:?}", child.wait());
        Some(Self { endpoint, child, input, output })
    }

    /// Returns where it is.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Does something as the owner of the buckets, in boto3's words.
    ///
    /// # Panics
    /// If the server ended.
    pub fn owner(&mut self, call: &str, arguments: Value) -> Value {
        let line = json!({ "call": call, "arguments": arguments });
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{call}: {error}: {answer}"))
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.input.take());
        self.child.wait().ok();
    }
}

/// Returns the python that has moto: the one that is named, or that of `tests/moto` below this target directory.
fn python() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("PC_SWITCHER_MOTO") {
        return Some(named.into());
    }
    let program = std::env::current_exe().ok()?;
    let home = program.ancestors().nth(3)?.join("moto");
    home.join("version").exists().then(|| home.join("bin/python"))
}
