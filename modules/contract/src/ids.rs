//! Names that can only be made by parsing them: a value of one of these types is valid.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

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
        self.0.contains(Self::INSIDE)
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
    fn a_module_name_is_kebab_case() {
        assert!("user-data".parse::<ModuleName>().is_ok());
        for bad in ["", "user_data", "-a", "a--b", "A"] {
            assert!(bad.parse::<ModuleName>().is_err(), "{bad}");
        }
    }
}
