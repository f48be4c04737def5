//! Secrets that stand behind their name: `password=…`, `--token …`, `Authorization: …`.

use std::ops::Range;

/// Parts of names whose value is a secret.
const SECRET: [&str; 16] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "apikey",
    "api_key",
    "api-key",
    "accesskey",
    "access_key",
    "access-key",
    "privatekey",
    "private_key",
    "private-key",
    "credential",
];
/// Parts of names whose value is the rest of the line.
const WHOLE_LINE: [&str; 2] = ["authorization", "cookie"];
/// Whole names whose value is a secret; longer names such as `compass` are not.
const EXACT: [&str; 3] = ["pass", "pwd", "auth"];
/// Words that stand before the secret proper.
const SCHEMES: [&str; 5] = ["bearer", "basic", "token", "negotiate", "digest"];

/// Whether the value of a key or flag of this name is a secret.
pub(super) fn is_secret_key(key: &str) -> bool {
    let lower = key.to_ascii_lowercase();
    let is_name = lower.bytes().all(|b| is_name(b) || b == b'.' || b == b' ');
    is_name
        && (SECRET.iter().chain(&WHOLE_LINE).any(|word| lower.contains(word))
            || EXACT.contains(&lower.trim_start_matches('-')))
}

/// Marks the values behind secret names.
pub(super) fn mark(text: &str, spans: &mut Vec<Range<usize>>) {
    let lower = text.to_ascii_lowercase();
    for word in SECRET {
        for (at, _) in lower.match_indices(word) {
            mark_value(&lower, at, at + word.len(), false, spans);
        }
    }
    for word in WHOLE_LINE {
        for (at, _) in lower.match_indices(word) {
            mark_value(&lower, at, at + word.len(), true, spans);
        }
    }
    for word in EXACT {
        for (at, _) in lower.match_indices(word) {
            let before = lower[..at].trim_end_matches('-').bytes().next_back();
            let after = lower.as_bytes().get(at + word.len()).copied();
            let path =
                lower[at + word.len()..].trim_start_matches(['=', ':', ' ', '"', '\'']).starts_with('/');
            let part_of_a_name = before.is_some_and(is_name) || after.is_some_and(is_name);
            if !part_of_a_name && (word != "pwd" || !path) {
                mark_value(&lower, at, at + word.len(), false, spans);
            }
        }
    }
    mark_bare_bearer(&lower, spans);
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// Marks the value of the name around `at..end`, if what follows the name is a separator.
fn mark_value(lower: &str, at: usize, end: usize, whole_line: bool, spans: &mut Vec<Range<usize>>) {
    let start = lower[..at].bytes().rposition(|b| !is_name(b)).map_or(0, |p| p + 1);
    let name_end = |from: usize, extra: u8| {
        lower[from..].bytes().position(|b| !is_name(b) && b != extra).map_or(lower.len(), |p| from + p)
    };
    let mut pos = name_end(end, b'_');
    // `a.secret.key=…` goes on over dots, but `secret.txt: permission denied` is a file.
    let dotted = name_end(end, b'.');
    if lower[dotted..].starts_with('=') {
        pos = dotted;
    }
    let is_flag = lower[start..].starts_with('-');
    let before = lower[..start].chars().next_back();
    let quoted = lower[pos..].starts_with(['"', '\'', '`', '\\']);
    let closed =
        pos + (lower[pos..].len() - lower[pos..].trim_start_matches(['"', '\'', '`', '\\', ']']).len());
    let gap = skip_blanks(lower, closed);
    let value = match lower.as_bytes().get(gap) {
        Some(b'=') => skip_blanks(
            lower,
            gap + 1 + usize::from(matches!(lower.as_bytes().get(gap + 1), Some(b'>' | b'='))),
        ),
        Some(b':') if before != Some('/') => {
            skip_blanks(lower, gap + 1 + usize::from(lower[gap + 1..].starts_with('=')))
        }
        Some(b',') if is_flag && quoted => skip_blanks(lower, gap + 1),
        Some(_) if is_flag && gap > closed => gap,
        _ => return,
    };
    let opener = before.filter(|c| matches!(c, '"' | '\'' | '`')).filter(|_| !quoted);
    let span = if whole_line { rest_of_line(lower, value, opener) } else { one_value(lower, value) };
    spans.push(span);
}

fn skip_blanks(text: &str, from: usize) -> usize {
    text.len() - text[from..].trim_start_matches([' ', '\t']).len()
}

/// To the end of the line, or to the quote that opened before the name.
fn rest_of_line(text: &str, from: usize, opener: Option<char>) -> Range<usize> {
    if text[from..].starts_with(['"', '\'']) {
        return one_value(text, from);
    }
    let line_end = text[from..].find('\n').map_or(text.len(), |p| from + p);
    let end = opener.and_then(|quote| closing_quote(&text[from..line_end], quote.encode_utf8(&mut [0; 4])));
    from..end.map_or(line_end, |p| from + p)
}

/// One word, or a quoted text; a scheme such as `Bearer` takes its word with it.
fn one_value(text: &str, from: usize) -> Range<usize> {
    let rest = &text[from..];
    let unescaped = rest.trim_start_matches('\\');
    if unescaped.starts_with(['"', '\'', '`']) {
        let start = from + (rest.len() - unescaped.len()) + 1;
        let line_end = text[start..].find('\n').map_or(text.len(), |p| start + p);
        let end = closing_quote(&text[start..line_end], &text[from..start]);
        return start..end.map_or(line_end, |p| start + p);
    }
    let word_end = |from: usize| text[from..].find(char::is_whitespace).map_or(text.len(), |p| from + p);
    let end = word_end(from);
    if SCHEMES.contains(&&text[from..end]) {
        return from..word_end(skip_blanks(text, end));
    }
    from..end
}

/// Finds the quote that really closes, with its backslashes: an apostrophe inside a password is followed by more of it.
fn closing_quote(text: &str, quote: &str) -> Option<usize> {
    text.match_indices(quote).map(|(at, _)| at).find(|&at| {
        let escaped = quote == "\"" && text[..at].ends_with('\\');
        !escaped
            && ends_here(text[at + quote.len()..].trim_start_matches(['"', '\'', '`', '\\', ')', ']', '}']))
    })
}

/// Whether a quoted value can end before `rest`: a separator counts only if a new word or value follows it.
fn ends_here(rest: &str) -> bool {
    let after = rest.strip_prefix([',', ';', ':', '.']).unwrap_or(rest);
    let opens = |c: char| after.len() < rest.len() && "\"'`\\{[".contains(c);
    after.chars().next().is_none_or(|c| c.is_whitespace() || opens(c))
}

/// Marks what follows a lone `Bearer` and looks like a token rather than prose.
fn mark_bare_bearer(lower: &str, spans: &mut Vec<Range<usize>>) {
    for (at, word) in lower.match_indices("bearer ") {
        let start = skip_blanks(lower, at + word.len());
        let end = lower[start..].find(char::is_whitespace).map_or(lower.len(), |p| start + p);
        let token = &lower[start..end];
        if token.len() >= 16 || token.bytes().any(|b| b.is_ascii_digit() || b"-_=+/".contains(&b)) {
            spans.push(start..end);
        }
    }
}
