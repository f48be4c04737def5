//! Which paths are left out.
//!
//! Patterns are written as in a `.gitignore`, with one difference: a slash in the middle does not anchor. `a/b` matches
//! at every depth, as `**/a/b` would; only a leading slash ties a pattern to the folder's root. So one line serves the
//! homes of all users. As in git, a trailing slash matches directories alone and `*` stops at slashes.
//!
//! `forced` patterns come first and cannot be undone. Among the `layered` ones the last match wins, and `!` re-includes.
//! A re-include reaches nothing below an excluded directory, since excluded directories are not entered. Rules come with
//! the call alone: rule files found in a tree mean nothing.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use pc_switcher_contract::BytePath;

use crate::proto::{Rule, RuleSet};

mod border;
mod near;

pub use near::Near;

/// What becomes of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision<'a> {
    /// It is mirrored.
    Keep,
    /// It is left out; the text is the rule's reason.
    Skip(&'a str),
}

/// Compiled rules of one tree.
pub struct Rules {
    prefix: Vec<u8>,
    forced: Layer,
    layered: Layer,
}

impl Rules {
    /// Compiles the rules for a tree whose root is `prefix` below the folder.
    ///
    /// # Errors
    /// If a pattern is invalid, or a forced one begins with `!`.
    pub fn compile(rules: &RuleSet, prefix: &BytePath) -> Result<Rules, String> {
        if let Some(rule) = rules.forced.iter().find(|rule| rule.pattern.starts_with('!')) {
            return Err(format!("the forced rule `{}` must not re-include", rule.pattern));
        }
        Ok(Rules {
            prefix: prefix.as_bytes().to_vec(),
            forced: Layer::compile(&rules.forced)?,
            layered: Layer::compile(&rules.layered)?,
        })
    }

    /// Decides on one path relative to the tree's root. Its parents are taken to be kept: callers go from the root down.
    pub fn decide(&self, path: &[u8], is_dir: bool) -> Decision<'_> {
        let mut whole = Vec::new();
        let path = if self.prefix.is_empty() {
            path
        } else {
            whole.extend_from_slice(&self.prefix);
            whole.push(b'/');
            whole.extend_from_slice(path);
            &whole
        };
        self.decide_in_folder(path, is_dir)
    }

    /// Tells which names in a directory of the tree need [`Rules::decide`] at all; all others are kept.
    pub fn near(&self, dir: &[u8]) -> Near<'_> {
        let outlines = self.forced.outlines.iter().chain(&self.layered.outlines);
        Near::of(outlines, &[self.prefix.as_slice(), dir].join(&b'/'))
    }

    /// Whether everything below one directory of the tree is decided on as it would be below another one. It may say no where
    /// it is so, never yes where it is not.
    pub fn say_the_same_below(&self, one: &[u8], other: &[u8]) -> bool {
        let [one, other] = [one, other].map(|dir| [self.prefix.as_slice(), dir].join(&b'/'));
        let names = |dir| <[u8]>::split(dir, |byte: &u8| *byte == b'/').filter(|name| !name.is_empty());
        let [one, other] = [&one, &other].map(|dir| names(dir).collect::<Vec<_>>());
        self.forced.roads.iter().chain(&self.layered.roads).all(|road| road.is_same(&one, &other))
    }

    /// Decides on the tree's root itself: it is left out if it or a directory above it, within the folder, is.
    pub fn decide_root(&self) -> Decision<'_> {
        let ends = (0..self.prefix.len()).filter(|at| self.prefix[*at] == b'/').chain([self.prefix.len()]);
        ends.filter(|end| *end > 0)
            .map(|end| self.decide_in_folder(&self.prefix[..end], true))
            .find(|decision| *decision != Decision::Keep)
            .unwrap_or(Decision::Keep)
    }

    fn decide_in_folder(&self, path: &[u8], is_dir: bool) -> Decision<'_> {
        let path = Path::new(OsStr::from_bytes(path));
        match self.forced.decide(path, is_dir) {
            Decision::Keep => self.layered.decide(path, is_dir),
            skip => skip,
        }
    }
}

/// One list of patterns; the last match wins.
struct Layer {
    matcher: Gitignore,
    outlines: Vec<near::Outline>,
    roads: Vec<border::Road>,
    reasons: HashMap<String, String>,
}

impl Layer {
    fn compile(rules: &[Rule]) -> Result<Layer, String> {
        let mut builder = GitignoreBuilder::new("");
        let mut reasons = HashMap::new();
        let mut outlines = Vec::new();
        let mut roads = Vec::new();
        for rule in rules {
            check(&rule.pattern)?;
            let line = floating(&rule.pattern);
            outlines.extend(near::Outline::of(&line));
            roads.extend(border::Road::of(&line));
            builder.add_line(None, &line).map_err(|error| invalid(&rule.pattern, &error))?;
            reasons.insert(line, rule.reason.clone());
        }
        let matcher = builder.build().map_err(|error| format!("the rules cannot be compiled: {error}"))?;
        Ok(Layer { matcher, outlines, roads, reasons })
    }

    fn decide(&self, path: &Path, is_dir: bool) -> Decision<'_> {
        match self.matcher.matched(path, is_dir) {
            Match::Ignore(glob) => {
                Decision::Skip(self.reasons.get(glob.original()).map_or("", String::as_str))
            }
            Match::None | Match::Whitelist(_) => Decision::Keep,
        }
    }
}

/// Checks a pattern as a person wrote it.
///
/// # Errors
/// What is wrong with it: empty, a comment, a trailing comment, a blank at its end or an invalid glob.
pub fn check(pattern: &str) -> Result<(), String> {
    let body = pattern.strip_prefix('!').unwrap_or(pattern);
    if body.trim().trim_matches('/').is_empty() {
        return Err(format!("the pattern `{pattern}` is empty"));
    }
    if pattern.starts_with('#') {
        return Err(format!("`{pattern}` is a comment; a name that begins with # is written `\\#`"));
    }
    if let Some(at) = body.find(" #") {
        let bare = body[..at].trim_end();
        return Err(format!(
            "`{pattern}` ends in a comment, which would be part of the pattern; write `{bare}`"
        ));
    }
    if body.contains(['\n', '\r', '\0']) {
        return Err(format!("the pattern `{}` is more than one line", pattern.escape_debug()));
    }
    if body.trim_end() != body && !body.ends_with("\\ ") {
        return Err(format!("the pattern `{pattern}` ends in a blank; write `\\ ` if it is meant"));
    }
    GitignoreBuilder::new("")
        .add_line(None, &floating(pattern))
        .map(|_| ())
        .map_err(|error| invalid(pattern, &error))
}

fn invalid(pattern: &str, error: &ignore::Error) -> String {
    match error {
        ignore::Error::Glob { err, .. } => format!("the pattern `{pattern}` is invalid: {err}"),
        error => format!("the pattern `{pattern}` is invalid: {error}"),
    }
}

/// Takes away the anchor that git sees in a slash in the middle.
fn floating(pattern: &str) -> String {
    let (mark, body) = match pattern.strip_prefix('!') {
        Some(body) => ("!", body),
        None => ("", pattern),
    };
    let middle = body.strip_suffix('/').unwrap_or(body).contains('/');
    if middle && !body.starts_with('/') && !body.starts_with("**/") {
        format!("{mark}**/{body}")
    } else {
        pattern.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(forced: &[&str], layered: &[&str]) -> Rules {
        let list = |patterns: &[&str]| {
            let rule = |p: &&str| Rule { pattern: (*p).into(), reason: format!("because {p}") };
            patterns.iter().map(rule).collect()
        };
        let set = RuleSet { forced: list(forced), layered: list(layered) };
        Rules::compile(&set, &BytePath::default()).unwrap()
    }

    fn kept(rules: &Rules, path: &str) -> bool {
        rules.decide(path.trim_end_matches('/').as_bytes(), path.ends_with('/')) == Decision::Keep
    }

    #[test]
    fn a_slash_in_the_middle_does_not_anchor_and_a_leading_one_does() {
        let rules = rules(&[], &[".config/app", "/top", "only-dir/", "cache/**"]);
        for gone in ["ann/.config/app", ".config/app", "a/b/.config/app/", "top", "x/only-dir/", "u/cache/f"]
        {
            assert!(!kept(&rules, gone), "{gone}");
        }
        for stays in ["ann/top", "x/only-dir", "ann/.config/apple", "u/cache/"] {
            assert!(kept(&rules, stays), "{stays}");
        }
    }

    #[test]
    fn the_last_match_wins_but_forced_rules_stand_above() {
        let rules = rules(&[".ssh/id_*"], &["*.log", "!keep.log", ".ssh/", "!.ssh/", "!.ssh/id_*"]);
        assert!(kept(&rules, "a/keep.log") && !kept(&rules, "a/other.log") && kept(&rules, "ann/.ssh/"));
        assert_eq!(rules.decide(b"ann/.ssh/id_rsa", false), Decision::Skip("because .ssh/id_*"));
    }

    #[test]
    fn reasons_of_floating_patterns_are_found() {
        let rules = rules(&[], &["a/b", "c"]);
        assert_eq!(rules.decide(b"x/a/b", false), Decision::Skip("because a/b"));
        assert_eq!(rules.decide(b"x/c", false), Decision::Skip("because c"));
    }

    #[test]
    fn names_may_hold_any_bytes() {
        let rules = rules(&[], &["*.tmp", "we\\ ird"]);
        assert_eq!(rules.decide(b"d/\xff\n.tmp", false), Decision::Skip("because *.tmp"));
        assert_eq!(rules.decide(b"d/\xff\n.txt", false), Decision::Keep);
        assert!(!kept(&rules, "we ird"));
    }

    #[test]
    fn the_prefix_of_a_part_counts() {
        let set = RuleSet {
            forced: Vec::new(),
            layered: vec![Rule { pattern: "/ann/.cache/x".into(), reason: "r".into() }],
        };
        let compile = |prefix: &str| Rules::compile(&set, &prefix.into()).unwrap();
        assert_eq!(compile("ann/.cache").decide(b"x", false), Decision::Skip("r"));
        assert_eq!(compile("ann").decide(b"x", false), Decision::Keep);
        assert_eq!(compile("ann/.cache/x/deep").decide_root(), Decision::Skip("r"));
        assert_eq!(compile("ann/.cache").decide_root(), Decision::Keep);
    }

    #[test]
    fn few_names_of_a_home_are_near_a_rule() {
        let rules = rules(
            &["**/.ssh/id_*", "/*/.local/state/pc-switcher"],
            &["/*/.cache/*", "/*/.config/**/Singleton*", "!/*/.cache/pip", "*.iso"],
        );
        let near = |dir: &str, name: &str| rules.near(dir.as_bytes()).may_match(name.as_bytes());
        for (dir, name) in [
            ("ann/.ssh", "id_rsa"),
            ("ann/.cache", "x"),
            ("ann/.local/state", "pc-switcher"),
            ("ann/.config/a/b", "SingletonLock"),
            ("ann/src/deep", "debian.iso"),
        ] {
            assert!(near(dir, name), "{dir}/{name}");
        }
        for (dir, name) in [
            ("ann/.ssh", "config"),
            ("ann/src/deep", "x"),
            ("ann/.local", "state"),
            ("ann/.config/a/b", "Single"),
            ("", "ann"),
        ] {
            assert!(!near(dir, name), "{dir}/{name}");
        }
    }

    #[test]
    fn patterns_that_do_not_mean_what_they_say_are_refused() {
        for bad in ["", " ", "!", "/", "#x", "*.log # logs", "a\nb", "[z-a]", "{a", "x "] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        for good in ["*.log", "!/keep/", "\\#x", "a#b", "**/x/**", "end\\ ", "[a-z]?"] {
            assert_eq!(check(good), Ok(()), "{good:?}");
        }
        let forced =
            RuleSet { forced: vec![Rule { pattern: "!x".into(), reason: String::new() }], layered: vec![] };
        assert!(Rules::compile(&forced, &BytePath::default()).is_err());
    }

    proptest! {
        #[test]
        fn no_layered_rule_brings_a_forced_path_back(
            extra in proptest::collection::vec("!?/?[a-z.*/]{1,8}", 0..6),
            above in "([a-z]{1,4}/){0,3}",
        ) {
            let layered: Vec<&str> = extra.iter().map(String::as_str).filter(|p| check(p).is_ok()).collect();
            let rules = rules(&[".ssh/known_hosts"], &layered);
            let path = format!("{above}.ssh/known_hosts");
            prop_assert!(!kept(&rules, &path));
        }

        #[test]
        fn where_rules_say_the_same_below_two_directories_they_do(
            patterns in proptest::collection::vec("!?/?(a|b|a\\*|\\*|\\*\\*|\\*b|[ab])(/(a|b|a\\*|\\*|\\*\\*|\\?)){0,3}/?", 1..5),
            one in "[abc]{1,2}(/[abc]{1,2}){0,2}",
            other in "[abc]{1,2}(/[abc]{1,2}){0,2}",
            below in proptest::collection::vec("[abc]{1,2}(/[abc]{1,2}){0,2}", 12),
        ) {
            let patterns: Vec<&str> = patterns.iter().map(String::as_str).filter(|p| check(p).is_ok()).collect();
            let rules = rules(&[], &patterns);
            if rules.say_the_same_below(one.as_bytes(), other.as_bytes()) {
                for path in below.iter().flat_map(|path| [path.clone(), format!("{path}/")]) {
                    let at = |dir: &str| kept(&rules, &format!("{dir}/{path}"));
                    prop_assert_eq!(at(&one), at(&other), "{} {:?}", path, patterns);
                }
            }
        }

        #[test]
        fn a_plain_name_matches_exactly_itself_at_every_depth(
            name in "[a-z]{1,5}", other in "[a-z]{1,5}", above in "([A-Z]{1,4}/){0,3}",
        ) {
            let rules = rules(&[], &[&name]);
            let path = format!("{above}{other}");
            prop_assert_eq!(kept(&rules, &path), name != other);
        }

        #[test]
        fn what_is_not_near_is_kept(
            patterns in proptest::collection::vec("/?((\\*\\*|[ab]{1,2}|[ab*?]{1,3}|\\[a/b\\]|\\{a,b/a\\})/){0,3}(\\*\\*|[ab*?]{1,3}|\\\\a)/?", 1..4),
            prefix in "([ab]{1,2}/[ab])?",
            dir in "([ab]{1,2}(/[ab]{1,2}){0,3})?",
            name in "[ab]{1,3}",
            is_dir: bool,
        ) {
            let valid = patterns.iter().filter(|pattern| check(pattern).is_ok());
            let rule = |pattern: &String| Rule { pattern: pattern.clone(), reason: String::new() };
            let set = RuleSet { forced: Vec::new(), layered: valid.map(rule).collect() };
            let rules = Rules::compile(&set, &prefix.as_str().into()).unwrap();
            let path = if dir.is_empty() { name.clone() } else { format!("{dir}/{name}") };
            if !rules.near(dir.as_bytes()).may_match(name.as_bytes()) {
                prop_assert_eq!(rules.decide(path.as_bytes(), is_dir), Decision::Keep, "{:?}", set);
            }
        }

        #[test]
        fn checking_never_panics_and_compiling_agrees(pattern in "\\PC{0,12}") {
            let set = RuleSet {
                forced: Vec::new(),
                layered: vec![Rule { pattern: pattern.clone(), reason: String::new() }],
            };
            prop_assert_eq!(check(&pattern).is_ok(), Rules::compile(&set, &BytePath::default()).is_ok());
        }
    }
}
