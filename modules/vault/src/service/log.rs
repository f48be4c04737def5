//! The log: a line for each command that changed something, beside the history in the catalogue, which is lost with it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use jiff::Timestamp;

/// The file in the directory of the log.
const FILE: &str = "bt.log";
/// And the one before it, once that grew to so many bytes.
const BEFORE: &str = "bt.log.1";
const MOST: u64 = 1 << 20;

/// A line of the log.
pub(super) struct Line<'l> {
    pub(super) at: Timestamp,
    pub(super) number: i64,
    pub(super) operation: &'l str,
    pub(super) parameters: &'l str,
    pub(super) success: bool,
    pub(super) details: &'l str,
}

/// Appends a line.
pub(super) fn append(directory: &Path, line: &Line<'_>) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let path = directory.join(FILE);
    if fs::metadata(&path).is_ok_and(|facts| facts.len() >= MOST) {
        fs::rename(&path, directory.join(BEFORE))?;
    }
    let level = if line.success { "INFO " } else { "ERROR" };
    let words = [line.operation, line.parameters, line.details].map(one_line);
    let [operation, parameters, details] = words;
    let at = line.at.strftime("%Y-%m-%dT%H:%M:%SZ");
    let text = format!("{at}\t{level}\t{}\t{operation}\t{parameters}\t{details}\n", line.number);
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

/// Writes what would break a line or a terminal as what it is called.
fn one_line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_one_and_a_log_that_grew_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let line = |success| Line {
            at: Timestamp::UNIX_EPOCH,
            number: 7,
            operation: "add",
            parameters: "/home/a/new\nline",
            success,
            details: "1 staged",
        };
        append(&log, &line(true)).unwrap();
        append(&log, &line(false)).unwrap();
        let text = fs::read_to_string(log.join(FILE)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "1970-01-01T00:00:00Z\tINFO \t7\tadd\t/home/a/new\\nline\t1 staged");
        assert!(lines.len() == 2 && lines[1].contains("\tERROR\t"), "{text}");
        fs::write(log.join(FILE), vec![b'x'; MOST as usize]).unwrap();
        append(&log, &line(true)).unwrap();
        assert_eq!(fs::metadata(log.join(BEFORE)).unwrap().len(), MOST);
        assert_eq!(fs::read_to_string(log.join(FILE)).unwrap().lines().count(), 1);
    }
}
