//! The text of a config file and the way from byte offsets to lines.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::problem::{ConfigProblem, Spot};

/// A config file as it was read.
#[derive(Debug, Clone)]
pub struct Source {
    /// Where it lies.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

impl Source {
    /// Reads a file; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read or is not UTF-8.
    pub fn read(path: &Path) -> Result<Option<Self>, ConfigProblem> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let path = Some(path.to_owned());
                return Err(ConfigProblem {
                    path,
                    ..ConfigProblem::general(format!("cannot read it: {error}"))
                });
            }
        };
        Self::of_bytes(path, bytes).map(Some)
    }

    /// Makes a source of a file's bytes.
    ///
    /// # Errors
    /// If they are not UTF-8.
    pub fn of_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, ConfigProblem> {
        String::from_utf8(bytes).map(|text| Self { path: path.to_owned(), text }).map_err(|error| {
            let good = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(&error.as_bytes()[..good]).into_owned();
            let broken = Self { path: path.to_owned(), text };
            broken.problem(Some(good), "the text is not UTF-8")
        })
    }

    /// Returns the place of a byte offset.
    pub fn spot(&self, offset: usize) -> Spot {
        let mut end = offset.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        Spot {
            line: before.bytes().filter(|byte| *byte == b'\n').count() + 1,
            column: before[start..].chars().count() + 1,
        }
    }

    /// Makes a problem of the given place.
    pub fn problem(&self, offset: Option<usize>, message: impl Into<String>) -> ConfigProblem {
        ConfigProblem {
            path: Some(self.path.clone()),
            spot: offset.map(|offset| self.spot(offset)),
            message: message.into(),
            help: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spot_counts_lines_and_characters_from_one() {
        let source = Source { path: "c".into(), text: "ä = 1\nb = 2\n".into() };
        assert_eq!(source.spot(0), Spot { line: 1, column: 1 });
        assert_eq!(source.spot(3), Spot { line: 1, column: 3 });
        assert_eq!(source.spot(7), Spot { line: 2, column: 1 });
        assert_eq!(source.spot(999), Spot { line: 3, column: 1 });
    }
}
