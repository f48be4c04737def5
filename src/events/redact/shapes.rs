//! Secrets that are known by their own look.

use std::ops::Range;

/// Prefix, least length of what follows, and whether only capitals and digits follow.
const PREFIXES: [(&str, usize, bool); 17] = [
    ("AKIA", 16, true),
    ("ASIA", 16, true),
    ("ABIA", 16, true),
    ("ACCA", 16, true),
    ("ghp_", 20, false),
    ("gho_", 20, false),
    ("ghu_", 20, false),
    ("ghs_", 20, false),
    ("ghr_", 20, false),
    ("github_pat_", 20, false),
    ("glpat-", 16, false),
    ("xoxb-", 10, false),
    ("xoxp-", 10, false),
    ("sk_live_", 10, false),
    ("hvs.", 20, false),
    ("AGE-SECRET-KEY-1", 10, true),
    ("eyJ", 30, false),
];

/// Marks access keys, tokens with a known prefix and private-key blocks.
pub(super) fn mark(text: &str, spans: &mut Vec<Range<usize>>) {
    for (prefix, least, capitals) in PREFIXES {
        for (at, _) in text.match_indices(prefix) {
            let tail = at + prefix.len();
            let fits = |c: char| match capitals {
                true => c.is_ascii_uppercase() || c.is_ascii_digit(),
                false => c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '=' | '/' | '+'),
            };
            let end = text[tail..].find(|c| !fits(c)).map_or(text.len(), |p| tail + p);
            if end - tail >= least {
                spans.push(at..end);
            }
        }
    }
    for (at, begin) in text.match_indices("-----BEGIN ") {
        let label = &text[at + begin.len()..];
        if !label.chars().take(60).collect::<String>().contains("PRIVATE KEY") {
            continue;
        }
        let end = label.find("-----END ").and_then(|p| {
            let from = at + begin.len() + p + "-----END ".len();
            text[from..].find("-----").map(|dashes| from + dashes + "-----".len())
        });
        spans.push(at..end.unwrap_or(text.len()));
    }
}
