//! Short words for the errors of this crate: all of them are [`ModuleError`]s.

use std::io;
use std::path::Path;

use pc_switcher_contract::{ErrorKind, ModuleError};

/// What everything here returns.
pub type Result<T> = std::result::Result<T, ModuleError>;

/// Makes the error of a system call at a path.
pub(crate) fn at(what: &str, path: &Path, error: &io::Error) -> ModuleError {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::DiskSpace,
        _ => ErrorKind::Failed,
    };
    ModuleError::new(kind, format!("cannot {what} `{}`: {error}", path.display()))
}

/// Makes the error of a call that nobody should make so.
pub(crate) fn usage(message: impl Into<String>) -> ModuleError {
    ModuleError::new(ErrorKind::Usage, message)
}

/// Makes the error of a repository that is not as it was written.
pub(crate) fn damaged(what: impl std::fmt::Display, why: impl std::fmt::Display) -> ModuleError {
    ModuleError::failed(format!("{what} is damaged: {why}"))
        .hint("`bt check --read-data` says what else is, `bt repair` saves what can be read")
}

/// Says the same once more.
pub(crate) fn again(error: &ModuleError) -> ModuleError {
    let same = ModuleError::new(error.kind, error.message.clone());
    error.hints.iter().fold(same, ModuleError::hint)
}

/// What is said of an object of which a second read is not what the first one was.
pub(crate) const UNSTEADY: &str = "a second read gives other bytes, so that it may be sound: the memory, the controller, the \
                                   cable or the network is failing";

/// Makes the error of a place of which two reads differ, before anything was made of them.
pub(crate) fn unsteady(what: impl std::fmt::Display, place: &str) -> ModuleError {
    ModuleError::failed(format!("`{place}` gives different bytes for the same {what}; nothing was changed")).hint(
        "the memory, the controller, the cable or the network is failing: prove that they are sound, or repair from another \
         machine, before anything is taken for damaged",
    )
}

pub(crate) fn no_random(error: getrandom::Error) -> ModuleError {
    ModuleError::failed(format!("the system has no random numbers: {error}"))
}
