//! Rules in gitignore syntax as they stand in the config, and what no rule may bring back.
//!
//! Identity and our own state are never mirrored: an `include` that is about them is refused here, with the
//! key and the line, instead of being silently without effect.

use ignore::gitignore::GitignoreBuilder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::builtin::FORCED;

/// Ordinary neighbours: a rule that fits one of these is a broad one, over which [`FORCED`] simply stands.
const NEUTRAL: [&str; 7] = [
    ".ssh/config",
    ".config/editor/settings.toml",
    ".config/other.toml",
    ".local/state/other/history.db",
    ".local/share/other/key",
    ".cache/other/stage",
    "notes.txt",
];

/// One line in gitignore syntax, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("minLength" = 1))]
pub struct Pattern(String);

impl Pattern {
    /// Returns the pattern.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let refuse = |why: &str| Err(format!("`{}` is not a pattern: {why}", text.escape_debug()));
        if text.trim().is_empty() {
            return refuse("it is empty");
        }
        if text.chars().any(char::is_control) {
            return refuse("control characters and line breaks are not allowed");
        }
        if text.starts_with('#') {
            return refuse("it is a comment; write `\\#` for a name that begins with `#`");
        }
        if text.contains(" #") || text.contains("\t#") {
            return refuse("a trailing comment would become part of it; put the comment behind the quotes");
        }
        if text.starts_with('!') {
            return refuse("`!` is not used here; put what must stay under `include`");
        }
        match glob(&text) {
            Ok(_) => Ok(Self(text)),
            Err(why) => refuse(&why),
        }
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.0
    }
}

/// A pattern that brings something back: never identity, never our own state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("minLength" = 1))]
pub struct IncludePattern(Pattern);

impl IncludePattern {
    /// Returns the pattern.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl TryFrom<String> for IncludePattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let pattern = Pattern::try_from(text)?;
        if is_about_identity(pattern.as_str()) {
            return Err(format!(
                "`{}` cannot be included: identity and our own state are never mirrored",
                pattern.as_str()
            ));
        }
        Ok(Self(pattern))
    }
}

impl From<IncludePattern> for String {
    fn from(pattern: IncludePattern) -> String {
        pattern.0.0
    }
}

/// Compiles one line; the error says what is wrong with it.
fn glob(text: &str) -> Result<ignore::gitignore::Gitignore, String> {
    let mut builder = GitignoreBuilder::new("");
    builder.add_line(None, text).map_err(|error| match error {
        ignore::Error::Glob { err, .. } => err,
        other => other.to_string(),
    })?;
    builder.build().map_err(|error| error.to_string())
}

/// Whether the pattern names a path of [`FORCED`], something below one, or nothing but such paths.
fn is_about_identity(pattern: &str) -> bool {
    let named = FORCED.iter().any(|(forced, _)| names(pattern, forced));
    let Ok(matcher) = glob(pattern) else { return named };
    let hits = |path: &str| {
        [path.to_owned(), format!("alice/{path}")]
            .iter()
            .any(|path| matcher.matched_path_or_any_parents(path, false).is_ignore())
    };
    let protected = FORCED.iter().flat_map(|(forced, _)| examples(forced)).any(|path| hits(&path));
    named || (protected && !NEUTRAL.iter().any(|path| hits(path)))
}

/// Whether the parts of `forced` stand in the pattern, one after the other.
fn names(pattern: &str, forced: &str) -> bool {
    let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
    let forced: Vec<&str> = forced.split('/').collect();
    let fits = |(part, glob): (&&str, &&str)| match glob.strip_suffix('*') {
        Some(prefix) => part.starts_with(prefix),
        None => part == glob,
    };
    parts.windows(forced.len()).any(|window| window.iter().zip(&forced).all(fits))
}

/// Returns paths that `forced` protects.
fn examples(forced: &str) -> Vec<String> {
    match forced.strip_suffix('*') {
        Some(stem) => ["", "rsa", "ed25519", ".old"].map(|end| format!("{stem}{end}")).to_vec(),
        None => vec![forced.to_owned(), format!("{forced}/x")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_mean_something_else_than_they_say_are_refused() {
        for bad in ["", " ", "# caches", "*.tmp # caches", "!keep", "a\nb", "[z-a]", "{a,b"] {
            assert!(Pattern::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        for good in ["*.tmp", "/alice/big/", "**/node_modules/", "a b", "name#1", "\\#odd", "\\!odd"] {
            assert!(Pattern::try_from(good.to_owned()).is_ok(), "{good}");
        }
    }

    #[test]
    fn no_include_brings_identity_back() {
        for bad in [
            ".ssh/id_rsa",
            "/alice/.ssh/id_work",
            "**/.ssh/known_hosts",
            "authorized_keys",
            "id_ed25519",
            ".ssh/known_host?",
            ".config/tailscale/",
            "/home/alice/.local/state/pc-switcher/history.db",
            "pc-switcher/",
        ] {
            assert!(IncludePattern::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_broad_include_stays_allowed() {
        for good in [".cache/mesa", ".ssh/", "*", ".config/**", ".nv/", "projects/ssh/id_list.txt"] {
            assert!(IncludePattern::try_from(good.to_owned()).is_ok(), "{good}");
        }
    }
}
