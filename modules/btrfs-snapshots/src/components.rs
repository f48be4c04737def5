//! Parts of a machine that are brought back by one name.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use pc_switcher_contract::BytePath;
use serde::{Deserialize, Serialize};

/// The component that nobody has to name the paths of: pc-switcher's own configuration.
pub const OWN: &str = "self";

/// Names, each with absolute paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, Vec<String>>", into = "BTreeMap<String, Vec<String>>")]
pub struct Components(BTreeMap<String, Vec<String>>);

impl Components {
    /// Returns all names, [`OWN`] included.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str).chain([OWN])
    }

    /// Returns the paths of all components.
    pub fn all(&self) -> Vec<BytePath> {
        self.0.values().flatten().map(|path| BytePath::from(path.as_str())).collect()
    }

    /// Returns the paths of a component; `None` if there is none of that name, or it is [`OWN`].
    pub fn paths(&self, name: &str) -> Option<Vec<BytePath>> {
        Some(self.0.get(name)?.iter().map(|path| BytePath::from(path.as_str())).collect())
    }
}

impl Default for Components {
    fn default() -> Self {
        let of = |name: &str, paths: &[&str]| {
            (name.to_owned(), paths.iter().map(|path| (*path).to_owned()).collect())
        };
        Self(BTreeMap::from([
            of("apps", &["/opt", "/usr/local"]),
            of("config", &["/etc"]),
            of("home", &["/home"]),
        ]))
    }
}

impl TryFrom<BTreeMap<String, Vec<String>>> for Components {
    type Error = String;

    fn try_from(all: BTreeMap<String, Vec<String>>) -> Result<Self, String> {
        for (name, paths) in &all {
            let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if name.is_empty() || !name.chars().all(is_word) {
                return Err(format!(
                    "`{}` is no name of a component: a-z, 0-9 and `-` are",
                    name.escape_debug()
                ));
            }
            if name == OWN {
                return Err(format!(
                    "the component `{OWN}` is pc-switcher's own configuration; choose another name"
                ));
            }
            if paths.is_empty() {
                return Err(format!("the component `{name}` has no paths"));
            }
            if let Some(path) = paths.iter().find(|path| !is_plain(path)) {
                let path = path.escape_debug();
                return Err(format!(
                    "`{path}` in the component `{name}` is not an absolute path without `..`"
                ));
            }
        }
        Ok(Self(all))
    }
}

impl From<Components> for BTreeMap<String, Vec<String>> {
    fn from(components: Components) -> Self {
        components.0
    }
}

fn is_plain(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    parts.next() == Some(Component::RootDir)
        && parts.all(|part| matches!(part, Component::Normal(_)))
        && !path.chars().any(char::is_control)
        && path.len() > 1
        && !path.ends_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Components, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_component_has_a_plain_name_and_absolute_paths() {
        let good = read(r#"{"mail": ["/var/mail", "/etc/postfix"], "web-2": ["/srv"]}"#).unwrap();
        assert_eq!(good.names().collect::<Vec<_>>(), ["mail", "web-2", "self"]);
        assert_eq!(good.paths("mail").unwrap(), ["/var/mail", "/etc/postfix"].map(BytePath::from));
        assert_eq!((good.paths("config"), good.paths(OWN)), (None, None));
        for bad in [
            r#"{"Mail": ["/a"]}"#,
            r#"{"": ["/a"]}"#,
            r#"{"self": ["/a"]}"#,
            r#"{"mail": []}"#,
            r#"{"mail": ["a"]}"#,
            r#"{"mail": ["/"]}"#,
            r#"{"mail": ["/a/../b"]}"#,
            r#"{"mail": ["/a/"]}"#,
            r#"{"mail": ["~/a"]}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
