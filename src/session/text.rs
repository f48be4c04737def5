//! Numbers, times and names as people read them; the same words on bars, plain lines and reports.

use std::time::Duration;

use console::measure_text_width;
use pc_switcher_contract::{GateKind, ModuleName};

pub use pc_switcher_contract::human_bytes as bytes;

/// Returns for example `45 s`, `2 min 5 s`, `1 h 3 min`.
pub fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, 0) => format!("{m} min"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, 0, _) => format!("{h} h"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// Returns for example `1 warning`, `3 warnings`.
pub fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Returns a module's name in the user's words: the given label, or the name without dashes.
pub fn label<'a>(module: &'a ModuleName, labels: &'a [(ModuleName, String)]) -> std::borrow::Cow<'a, str> {
    match labels.iter().find(|(name, _)| name == module) {
        Some((_, label)) => label.as_str().into(),
        None => module.as_str().replace('-', " ").into(),
    }
}

/// Returns what a gate is about, as a heading.
pub fn gate(kind: GateKind) -> &'static str {
    match kind {
        GateKind::FirstSync => "first sync",
        GateKind::OutOfOrder => "out of order",
        GateKind::Conflicts => "conflicts",
        GateKind::MassDeletion => "mass deletion",
        GateKind::ReplacedSource => "source folder empty or replaced",
        GateKind::ActiveSession => "someone works there",
        GateKind::IdMismatch => "different user ids",
        GateKind::NoSnapshots => "no snapshots",
        GateKind::LockOut => "you would be locked out",
        GateKind::LostVault => "a vault would be lost",
        GateKind::Rollback => "after a rollback",
    }
}

/// Breaks text into lines of at most `width` columns at blanks; later lines begin with `indent`.
///
/// A word that is wider than the line stays whole: paths must be copyable.
pub fn wrap(text: &str, width: usize, indent: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = if lines.is_empty() { String::new() } else { indent.to_owned() };
        let mut empty = true;
        for word in paragraph.split(' ') {
            if !empty && measure_text_width(&line) + 1 + measure_text_width(word) > width {
                lines.push(std::mem::replace(&mut line, indent.to_owned()));
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
            empty = false;
        }
        lines.push(line);
    }
    lines
}

/// Breaks one line like [`wrap`], but leaves its first `keep` columns as they are and indents to them.
pub fn wrap_after(line: &str, width: usize, keep: usize) -> Vec<String> {
    let split = line.char_indices().nth(keep).map_or(line.len(), |(at, _)| at);
    let (head, tail) = line.split_at(split);
    let mut lines = wrap(tail, width.saturating_sub(keep), "");
    for (index, part) in lines.iter_mut().enumerate() {
        part.insert_str(0, if index == 0 { head } else { INDENT.get(..keep).unwrap_or(INDENT) });
    }
    lines
}

const INDENT: &str = "                                        ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short_words() {
        let shown = [0, 59, 60, 125, 3600, 3780].map(|s| duration(Duration::from_secs(s)));
        assert_eq!(shown, ["0 s", "59 s", "1 min", "2 min 5 s", "1 h", "1 h 3 min"]);
    }

    #[test]
    fn lines_are_broken_at_blanks_and_paths_stay_whole() {
        assert_eq!(wrap("aa bb cc", 5, "  "), ["aa bb", "  cc"]);
        assert_eq!(wrap("see /a/very/long/path now", 8, ""), ["see", "/a/very/long/path", "now"]);
        assert_eq!(wrap("one\ntwo", 10, "  "), ["one", "  two"]);
    }

    #[test]
    fn modules_are_named_in_the_users_words() {
        let name: ModuleName = "user-data".parse().unwrap();
        assert_eq!(label(&name, &[]), "user data");
        assert_eq!(label(&name, &[(name.clone(), "your files".into())]), "your files");
    }
}
