//! What is wrong with a config: where, what, and what was probably meant.

use std::fmt;
use std::path::PathBuf;

use pc_switcher_contract::BytePath;
use serde::Serialize;
use thiserror::Error;

/// A place in a text, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Spot {
    /// The line.
    pub line: usize,
    /// The character in that line.
    pub column: usize,
}

/// One thing to mend, or to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigProblem {
    /// The file; `None` for a flag.
    pub path: Option<PathBuf>,
    /// The place in the file, if it is about one.
    #[serde(flatten)]
    pub spot: Option<Spot>,
    /// What is wrong: a lower-case fragment without a period.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl ConfigProblem {
    /// Makes a problem that is about no place in a file.
    pub fn general(message: impl Into<String>) -> Self {
        Self { path: None, spot: None, message: message.into(), help: None }
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Plain(&self.message))?;
        if let Some(path) = &self.path {
            write!(f, "\n  --> {}", BytePath::from(path.as_path()))?;
            if let Some(spot) = self.spot {
                write!(f, ":{}:{}", spot.line, spot.column)?;
            }
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {}", Plain(help))?;
        }
        Ok(())
    }
}

/// Text that may quote a file: control characters are shown, never sent to the terminal.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| {
            if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") }
        })
    }
}

/// Everything that is wrong with a config, found in one pass, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the configuration has {} problem(s)", .0.len())]
pub struct ConfigErrors(pub Vec<ConfigProblem>);
