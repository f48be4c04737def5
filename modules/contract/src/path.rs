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
    /// Bytes on the wire; in readable formats the escaped text.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
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

/// Reads back what `Display` wrote, as far as it can be told apart from plain text.
fn unescape(text: &str) -> BytePath {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at..].starts_with(b"\\x") && at + 4 <= bytes.len())
            .then(|| std::str::from_utf8(&bytes[at + 2..at + 4]).ok())
            .flatten()
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match (hex, bytes.get(at..at + 2)) {
            (Some(byte), _) => {
                out.push(byte);
                at += 4;
            }
            (None, Some(b"\\n")) => {
                out.push(b'\n');
                at += 2;
            }
            (None, Some(b"\\t")) => {
                out.push(b'\t');
                at += 2;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    BytePath(out)
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
