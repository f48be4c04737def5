//! Paths of users: bytes, since names need not be UTF-8.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A path as the kernel sees it: any bytes but NUL. Displayed with control and broken bytes escaped.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct BytePath(Vec<u8>);

impl BytePath {
    /// Makes a path of the given bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the path for the standard library.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Whether this is the empty path: the root of whatever it is relative to.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns this path with `name` below it; an empty path takes the name alone.
    pub fn join(&self, name: &[u8]) -> BytePath {
        if name.is_empty() {
            return self.clone();
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() && bytes.last() != Some(&b'/') {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        BytePath(bytes)
    }

    /// Returns the parent: empty for a single name, `None` for the empty path.
    pub fn parent(&self) -> Option<BytePath> {
        if self.0.is_empty() {
            return None;
        }
        Some(match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => BytePath(self.0[..at].to_vec()),
            None => BytePath::default(),
        })
    }

    /// Returns the last name.
    pub fn name(&self) -> &[u8] {
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => &self.0[at + 1..],
            None => &self.0,
        }
    }

    /// Whether this path is `other` or lies below it.
    pub fn is_within(&self, other: &BytePath) -> bool {
        other.is_empty()
            || self.0 == other.0
            || (self.0.starts_with(&other.0)
                && (other.0.ends_with(b"/") || self.0.get(other.0.len()) == Some(&b'/')))
    }
}

impl From<&str> for BytePath {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<&Path> for BytePath {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

impl fmt::Display for BytePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for BytePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

impl Serialize for BytePath {
    /// Bytes on the wire; in readable formats text from which they come back exactly.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&escape(&self.0))
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for BytePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = BytePath;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path")
            }
            fn visit_bytes<E: serde::de::Error>(self, value: &[u8]) -> Result<BytePath, E> {
                Ok(BytePath(value.to_vec()))
            }
            fn visit_borrowed_bytes<E: serde::de::Error>(self, value: &'de [u8]) -> Result<BytePath, E> {
                Ok(BytePath(value.to_vec()))
            }
            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<BytePath, E> {
                Ok(unescape(value))
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Visitor)
        } else {
            deserializer.deserialize_bytes(Visitor)
        }
    }
}

/// Writes bytes as text: a backslash is doubled, what is no text or controls a terminal becomes `\\x` and two hex digits.
fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    let hex = |out: &mut String, bytes: &[u8]| {
        bytes.iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    };
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c if c.is_control() => hex(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => out.push(c),
            }
        }
        hex(&mut out, chunk.invalid());
    }
    out
}

/// Reads back what [`escape`] wrote, and what older records hold: `\\n`, `\\t` and single backslashes.
fn unescape(text: &str) -> BytePath {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let (byte, taken) = match (first, after) {
            (b'\\', [b'\\', ..]) => (b'\\', 2),
            (b'\\', [b'n', ..]) => (b'\n', 2),
            (b'\\', [b't', ..]) => (b'\t', 2),
            (b'\\', [b'x', high, low, ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, 4),
                _ => (b'\\', 1),
            },
            (byte, _) => (*byte, 1),
        };
        out.push(byte);
        rest = &rest[taken..];
    }
    BytePath(out)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_bytes_never_reach_the_terminal_raw() {
        let path = BytePath::new(b"a\x1b[31m\xff\nb".to_vec());
        assert_eq!(path.to_string(), "a\\u{1b}[31m\\xff\\nb");
    }

    #[test]
    fn any_bytes_come_back_from_readable_formats() {
        let all: Vec<u8> = (1..=255).collect();
        let odd = ["/a\\nb", "/a\\\\x41", "\\", "\\x", "\\x4", "\u{7f}\u{85}é\\", "\n\t\r", ""];
        for bytes in odd.map(|text| text.as_bytes().to_vec()).into_iter().chain([all]) {
            let path = BytePath(bytes);
            let text = serde_json::to_string(&path).unwrap();
            assert_eq!(serde_json::from_str::<BytePath>(&text).unwrap(), path, "{text}");
            assert!(!text.chars().any(char::is_control));
        }
        let old: BytePath = serde_json::from_str(r#""/a\\nb\\xff\\c""#).unwrap();
        assert_eq!(old.as_bytes(), b"/a\nb\xff\\c");
    }

    #[test]
    fn parents_and_names_split_at_the_last_slash() {
        let path = BytePath::from("a/b/c");
        assert_eq!(path.parent(), Some(BytePath::from("a/b")));
        assert_eq!(path.name(), b"c");
        assert_eq!(BytePath::from("a").parent(), Some(BytePath::default()));
        assert!(
            path.is_within(&BytePath::from("a/b"))
                && !BytePath::from("a/bc").is_within(&BytePath::from("a/b"))
        );
    }
}
