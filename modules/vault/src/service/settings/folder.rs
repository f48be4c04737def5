//! A directory that somebody names, or the usual one.

use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// An absolute directory; empty where the usual one is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Folder(String);

impl Folder {
    /// Returns the directory, if one is named.
    pub fn path(&self) -> Option<&Path> {
        Some(Path::new(&self.0)).filter(|_| !self.0.is_empty())
    }
}

impl TryFrom<String> for Folder {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        match text.is_empty() || text.starts_with('/') {
            // Without slashes at its end and the like, as paths are compared.
            true => {
                Ok(Self(Path::new(&text).components().collect::<PathBuf>().to_string_lossy().into_owned()))
            }
            false => Err(format!("`{text}` is no directory: an absolute path is wanted, without `~`")),
        }
    }
}

impl From<Folder> for String {
    fn from(folder: Folder) -> String {
        folder.0
    }
}

impl JsonSchema for Folder {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Folder".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(/.*)?$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_absolute_and_none_is_the_usual_one() {
        let read = |text: &str| Folder::try_from(text.to_owned());
        assert_eq!(read("").unwrap().path(), None);
        assert_eq!(read("/home/a/bt/").unwrap().path(), Some(Path::new("/home/a/bt")));
        for text in ["~/bt", "bt"] {
            assert!(read(text).unwrap_err().contains("absolute"), "{text}");
        }
    }
}
