//! User names and passwords in URLs.

use std::ops::Range;

/// Marks the user-info of every URL.
///
/// By RFC 3986 user-info ends at the last `@` of the authority, and quotes are legal inside it; so only white space ends
/// a URL here. A password that breaks the grammar with a raw `/` is recognised by what is left not being `host:port`.
pub(super) fn mark(text: &str, spans: &mut Vec<Range<usize>>) {
    for (at, _) in text.match_indices("://") {
        let scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        if !text[..at].ends_with(scheme) {
            continue;
        }
        let start = at + 3;
        let rest = &text[start..];
        let url = &rest[..rest.find(char::is_whitespace).unwrap_or(rest.len())];
        let authority = &url[..url.find(['/', '?', '#']).unwrap_or(url.len())];
        if authority.contains('@') || !is_host_and_port(authority) {
            // The last `@` of all, not of the authority: a raw `/` may stand between two `@` of one password.
            if let Some(end) = url.rfind('@') {
                spans.push(start..start + end);
            }
        }
    }
}

fn is_host_and_port(authority: &str) -> bool {
    let after_address = authority.rfind(']').map_or(authority, |end| &authority[end + 1..]);
    match after_address.split_once(':') {
        None => true,
        Some((_, port)) => port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()),
    }
}
