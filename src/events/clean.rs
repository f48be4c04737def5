//! Foreign text made harmless for terminals and logs (facts/module-contract.md C51).

use std::borrow::Cow;

/// Removes control sequences and characters that move, hide or reorder text; keeps line breaks and tabs.
///
/// A carriage return counts as a line break: what it would have overwritten stays readable.
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unwanted) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => match chars.peek() {
                Some('[') => {
                    chars.next();
                    skip_csi(&mut chars);
                }
                Some(']' | 'P' | 'X' | '^' | '_') => {
                    chars.next();
                    skip_string(&mut chars);
                }
                Some('(' | ')' | '*' | '+' | '#' | '%' | ' ') => {
                    chars.next();
                    chars.next();
                }
                Some(&next) if next.is_ascii_graphic() => {
                    chars.next();
                }
                _ => {}
            },
            '\u{9b}' => skip_csi(&mut chars),
            '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => skip_string(&mut chars),
            '\r' => {
                if chars.peek() != Some(&'\n') {
                    out.push('\n');
                }
            }
            c if is_unwanted(c) => {}
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// Skips parameters and the final byte; stops before anything that cannot belong to the sequence.
fn skip_csi(chars: &mut Chars<'_>) {
    while let Some(&c) = chars.peek() {
        match c {
            '\x20'..='\x3f' => {
                chars.next();
            }
            '\x40'..='\x7e' => {
                chars.next();
                return;
            }
            _ => return,
        }
    }
}

/// Skips to the string terminator; an unfinished string ends with its line.
fn skip_string(chars: &mut Chars<'_>) {
    while let Some(&c) = chars.peek() {
        match c {
            '\n' => return,
            '\x07' | '\u{9c}' => {
                chars.next();
                return;
            }
            '\x1b' => {
                chars.next();
                if chars.peek() == Some(&'\\') {
                    chars.next();
                }
                return;
            }
            _ => {
                chars.next();
            }
        }
    }
}

fn is_unwanted(c: char) -> bool {
    let reorders = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2028}' | '\u{2029}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    (c.is_control() && c != '\n' && c != '\t') || reorders
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn colours_titles_and_cursor_moves_are_gone() {
        assert_eq!(clean("\x1b[31mred\x1b[0m \x1b]0;title\x07x\x1b]8;;http://a\x1b\\y"), "red xy");
        assert_eq!(clean("10%\r50%\r\nend\x08"), "10%\n50%\nend");
        assert_eq!(clean("a\u{202e}b\u{9b}2Jc\0"), "abc");
    }

    #[test]
    fn an_unfinished_sequence_does_not_swallow_the_next_line() {
        assert_eq!(clean("a\x1b]0;no end\nnext"), "a\nnext");
        assert_eq!(clean("a\x1b[12\nnext"), "a\nnext");
        assert_eq!(clean("\x1b"), "");
    }

    proptest! {
        #[test]
        fn nothing_unwanted_survives(text in any::<String>()) {
            prop_assert!(!clean(&text).chars().any(is_unwanted));
        }

        #[test]
        fn plain_text_is_untouched(text in "[a-zäöü €\n\t{}\\[\\]]*") {
            prop_assert!(clean(&text) == text);
        }
    }
}
