//! Runs tools of the host: argv only, output captured, failure told with what the tool said.

use std::process::{Command, Stdio};

use super::error::{LabError, Result};

/// Runs `program` to its end and returns its standard output.
pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(
    program: &str,
    args: impl IntoIterator<Item = S>,
) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args);
    check(&mut command)
}

/// Runs a prepared command to its end and returns its standard output.
pub(crate) fn check(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().map_err(LabError::io(format!("start `{}`", line(command))))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(LabError::Tool {
        command: line(command),
        status: output.status,
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Tells whether `program` lies in a directory where the host keeps its tools.
pub(crate) fn is_installed(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|dir| std::path::Path::new(dir).join(program).exists())
}
