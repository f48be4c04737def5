//! Names that can only be made by parsing them: a value of one of these types is valid.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::path::BytePath;

/// Why a text is not the name it should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not a {what}: {why}")]
pub struct IdError {
    /// What was wanted, for example "session id".
    pub what: &'static str,
    /// The text that was given.
    pub text: String,
    /// The rule it breaks.
    pub why: &'static str,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                match check(text) {
                    Ok(()) => Ok(Self(text.to_owned())),
                    Err(why) => Err(IdError { what: $what, text: text.to_owned(), why }),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type!(
    /// A session id: eight lower-case hex digits, taken from a random UUID.
    SessionId, "session id", |text| {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 8 && text.bytes().all(hex) { Ok(()) } else { Err("eight hex digits are wanted") }
    }
);

impl SessionId {
    /// Makes a fresh id from the given random UUID.
    pub fn from_uuid(uuid: uuid::Uuid) -> Self {
        Self(uuid.simple().to_string()[..8].to_owned())
    }
}

name_type!(
    /// A module's name in kebab-case, for example `user-data`. `core` is the orchestrator itself.
    ModuleName, "module name", |text| {
        let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let edges = text.starts_with('-') || text.ends_with('-') || text.contains("--");
        if text.is_empty() || edges || !text.bytes().all(ok) { Err("kebab-case is wanted") } else { Ok(()) }
    }
);

impl ModuleName {
    /// Makes the name from a literal that is known to be valid.
    ///
    /// # Panics
    /// If the literal is not kebab-case; every use is covered by the registry's test.
    pub fn literal(text: &'static str) -> Self {
        match text.parse() {
            Ok(name) => name,
            Err(error) => panic!("{error}"),
        }
    }
}

name_type!(
    /// The name a machine gives itself; never the alias a user typed.
    Hostname, "hostname", |text| {
        if text.is_empty() || text.len() > 253 { return Err("1 to 253 characters are wanted"); }
        let ok = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_';
        if text.bytes().all(ok) { Ok(()) } else { Err("letters, digits, `-`, `.` and `_` are allowed") }
    }
);

impl Hostname {
    /// Whether both names mean the same machine: case is folded (facts/mirror.md M50).
    pub fn same_machine(&self, other: &Hostname) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

name_type!(
    /// A flat subvolume name as in `btrfs subvolume list /`, for example `@home`.
    SubvolumeName, "flat subvolume name", |text| {
        if text.is_empty() || text.len() > 200 { return Err("1 to 200 bytes are wanted"); }
        if text == "." || text == ".." { return Err("it names a directory entry"); }
        if text.contains('/') { return Err("a flat name is wanted, not a path"); }
        if text.chars().any(char::is_control) { return Err("control characters are not allowed"); }
        Ok(())
    }
);

impl SubvolumeName {
    /// What stands between two names of a path in the name of a subvolume that lies inside another one.
    pub const INSIDE: &str = "%2F";

    /// Whether it names a subvolume inside another one, by its path with `%2F` for each slash.
    pub fn is_nested(&self) -> bool {
        self.0.contains(Self::INSIDE) && !self.0.starts_with(Self::INSIDE)
    }

    /// Makes the name that copies of a directory have where there is no btrfs: its absolute path with `%2F` for each slash, and
    /// two hex digits behind a `%` for each byte that is none of `A-Z a-z 0-9 . _ - @ +`.
    ///
    /// # Errors
    /// If the path is not absolute, or too long for a name.
    pub fn of_directory(path: &BytePath) -> Result<Self, IdError> {
        let bad = |why| IdError { what: "directory of copies", text: path.to_string(), why };
        if !path.as_bytes().starts_with(b"/") {
            return Err(bad("an absolute path is wanted"));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@+".contains(&byte);
        let letter = |byte: &u8| match plain(*byte) {
            true => char::from(*byte).to_string(),
            false => format!("%{byte:02X}"),
        };
        let name: String = path.as_bytes().iter().map(letter).collect();
        name.parse().map_err(|_| bad("its path is too long for the name of a copy"))
    }

    /// Returns it as people read it: a directory of copies by its path.
    pub fn shown(&self) -> String {
        self.directory().map_or_else(|| self.0.clone(), |path| path.to_string())
    }

    /// Returns the directory of which it names copies; `None` if it names a subvolume.
    pub fn directory(&self) -> Option<BytePath> {
        let mut path = Vec::new();
        let mut rest = self.0.strip_prefix(Self::INSIDE).map(|_| self.0.as_bytes())?;
        while let Some((first, tail)) = rest.split_first() {
            let (byte, tail) = match first {
                b'%' => {
                    let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
                    (u8::from_str_radix(digits, 16).ok()?, &tail[2..])
                }
                byte => (*byte, tail),
            };
            path.push(byte);
            rest = tail;
        }
        let names = || path[1..].split(|byte| *byte == b'/');
        let is_plain = path == b"/" || names().all(|name| !matches!(name, b"" | b"." | b".."));
        (is_plain && !path.contains(&0)).then(|| BytePath::new(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_is_eight_lower_case_hex_digits() {
        assert!("abc12345".parse::<SessionId>().is_ok());
        for bad in ["", "abc1234", "abc123456", "ABC12345", "xyz12345"] {
            assert!(bad.parse::<SessionId>().is_err(), "{bad}");
        }
        assert_eq!(SessionId::from_uuid(uuid::Uuid::nil()).as_str(), "00000000");
    }

    #[test]
    fn a_subvolume_name_is_no_path() {
        assert!("@home".parse::<SubvolumeName>().is_ok());
        for bad in ["", "@/home", "/", "..", "a\nb"] {
            assert!(bad.parse::<SubvolumeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_directory_of_copies_is_read_from_its_name_and_no_subvolume_is_taken_for_one() {
        for (path, name) in [
            ("/", "%2F"),
            ("/home", "%2Fhome"),
            ("/usr/local", "%2Fusr%2Flocal"),
            ("/srv/my data %", "%2Fsrv%2Fmy%20data%20%25"),
        ] {
            let made = SubvolumeName::of_directory(&path.into()).unwrap();
            assert_eq!((made.as_str(), made.directory()), (name, Some(path.into())));
            assert!(!made.is_nested());
        }
        let odd = BytePath::new(b"/a\xff\n".to_vec());
        assert_eq!(SubvolumeName::of_directory(&odd).unwrap().directory(), Some(odd));
        for bad in
            ["@home", "@%2Fvar%2Flib", "%2", "%2Fa%2F..", "%2Fa%2F%2Fb", "%2Fa%00", "%2Fa%2", "%2Fa%zz"]
        {
            assert_eq!(bad.parse::<SubvolumeName>().unwrap().directory(), None, "{bad}");
        }
        assert!("@%2Fvar".parse::<SubvolumeName>().unwrap().is_nested());
        for bad in ["home".to_owned(), String::new(), format!("/{}", "x".repeat(200))] {
            assert!(SubvolumeName::of_directory(&bad.as_str().into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_module_name_is_kebab_case() {
        assert!("user-data".parse::<ModuleName>().is_ok());
        for bad in ["", "user_data", "-a", "a--b", "A"] {
            assert!(bad.parse::<ModuleName>().is_err(), "{bad}");
        }
    }
}
