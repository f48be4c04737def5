//! Names in trees: bytes, written as the inside of a Go string literal so that JSON can hold them.

use std::fmt::Write as _;

/// Quotes a name.
pub fn quote(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            push(&mut out, character);
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

fn push(out: &mut String, character: char) {
    match character {
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        '\\' => out.push_str("\\\\"),
        '"' => out.push_str("\\\""),
        control if control.is_ascii_control() => {
            let _ = write!(out, "\\x{:02x}", u32::from(control));
        }
        control if control.is_control() => {
            let _ = write!(out, "\\u{:04x}", u32::from(control));
        }
        other => out.push(other),
    }
}

/// Returns the name again; `None` if it is no such literal.
pub fn unquote(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let kind = rest[at + 1..].chars().next()?;
        rest = &rest[at + 1 + kind.len_utf8()..];
        let simple = match kind {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' | '\'' | '"' => kind as u8,
            'x' => number(&mut rest, 2, 16)?.try_into().ok()?,
            'u' | 'U' => {
                let character = char::from_u32(number(&mut rest, if kind == 'u' { 4 } else { 8 }, 16)?)?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            '0'..='7' => {
                let first = kind.to_digit(8)?;
                u8::try_from(first * 64 + number(&mut rest, 2, 8)?).ok()?
            }
            _ => return None,
        };
        out.push(simple);
    }
    out.extend_from_slice(rest.as_bytes());
    Some(out)
}

fn number(rest: &mut &str, digits: usize, radix: u32) -> Option<u32> {
    let (head, tail) = rest.split_at_checked(digits)?;
    *rest = tail;
    head.bytes()
        .all(|byte| char::from(byte).is_digit(radix))
        .then(|| u32::from_str_radix(head, radix).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_quoted_as_a_go_literal() {
        assert_eq!(quote(b"a \"b\"\\\n\x01\xff"), "a \\\"b\\\"\\\\\\n\\x01\\xff");
        assert_eq!(quote("Grüße 🎉".as_bytes()), "Grüße 🎉");
        assert_eq!(quote("\u{85}".as_bytes()), "\\u0085");
    }

    #[test]
    fn all_forms_of_others_are_read_and_nonsense_is_not() {
        assert_eq!(unquote("\\u00e9\\U0001f389\\101\\x41").unwrap(), "é🎉AA".as_bytes());
        for bad in ["\\", "\\q", "\\x4", "\\xgg", "\\u12", "\\777", "\\ud800", "\\x+1"] {
            assert_eq!(unquote(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_name_comes_back(name in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(unquote(&quote(&name)), Some(name));
        }
    }
}
