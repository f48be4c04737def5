//! The matcher of exclusion rules against one that is too simple to be wrong.
//!
//! Lines of text: patterns, then after an empty line paths, a directory with a slash at its end.

use pc_switcher_agent::data::rules::{Decision, Rules, check};
use pc_switcher_agent::proto::{Rule, RuleSet};
use pc_switcher_contract::BytePath;

/// More than this of anything only makes it slow.
const MOST: usize = 8;

/// Reads the bytes as patterns and paths.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (patterns, paths) = text.split_once("\n\n").unwrap_or((text, "a\na/b/\nc/a.x"));
    let patterns: Vec<&str> = patterns.lines().filter(|line| check(line).is_ok()).take(MOST).collect();
    let rule = |pattern: &&str| Rule { pattern: (*pattern).to_owned(), reason: String::new() };
    let layered: Vec<Rule> = patterns.iter().map(rule).collect();
    let rules = Rules::compile(&RuleSet { forced: Vec::new(), layered }, &BytePath::default());
    let rules = rules.unwrap_or_else(|why| panic!("each pattern was checked: {why}"));
    for path in paths.lines().take(MOST) {
        let (is_dir, path) = (path.ends_with('/'), path.trim_end_matches('/'));
        let names: Vec<&str> = path.split('/').collect();
        if path.len() > 200 || names.iter().any(|name| matches!(*name, "" | "." | "..")) {
            continue;
        }
        let decision = rules.decide(path.as_bytes(), is_dir);
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        if !rules.near(dir.as_bytes()).may_match(name.as_bytes()) {
            assert_eq!(decision, Decision::Keep, "`{path}` was said not to be near {patterns:?}");
        }
        if patterns.iter().all(|pattern| is_simple(pattern)) {
            let skip = naive(&patterns, &names, is_dir);
            assert_eq!(decision != Decision::Keep, skip, "{patterns:?} on `{path}` (directory: {is_dir})");
        }
    }
}

/// Whether the simple matcher knows everything that stands in a pattern.
fn is_simple(pattern: &str) -> bool {
    let body = pattern.strip_prefix('!').unwrap_or(pattern).trim_matches('/');
    let known = |c: char| c.is_ascii_alphanumeric() || "*?/._-".contains(c);
    body.chars().all(known)
        && pattern.len() <= 40
        && body.split('/').all(|name| !name.is_empty() && (name == "**" || !name.contains("**")))
        && pattern.matches('/').count() == pattern.trim_start_matches('!').matches('/').count()
        && !pattern.ends_with("//")
        && !pattern.trim_start_matches('!').starts_with("//")
}

/// Whether the last pattern that matches leaves the path out.
fn naive(patterns: &[&str], path: &[&str], is_dir: bool) -> bool {
    let matching = patterns.iter().rev().find(|pattern| {
        let body = pattern.strip_prefix('!').unwrap_or(pattern);
        let (body, dirs_only) = match body.strip_suffix('/') {
            Some(body) => (body, true),
            None => (body, false),
        };
        let mut names: Vec<&str> = body.split('/').collect();
        match names.first() {
            Some(&"") => drop(names.remove(0)),
            _ => names.insert(0, "**"),
        }
        (is_dir || !dirs_only) && fits(&names, path)
    });
    matching.is_some_and(|pattern| !pattern.starts_with('!'))
}

/// Whether the names of a pattern fit those of a path; `**` stands for any number of names, at the end for at least one.
fn fits(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        ([], _) => false,
        (["**"], path) => !path.is_empty(),
        (["**", rest @ ..], path) => (0..=path.len()).any(|skip| fits(rest, &path[skip..])),
        (_, []) => false,
        ([name, rest @ ..], [first, others @ ..]) => {
            fits_name(&name.chars().collect::<Vec<_>>(), &first.chars().collect::<Vec<_>>())
                && fits(rest, others)
        }
    }
}

fn fits_name(pattern: &[char], name: &[char]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        (['*', rest @ ..], name) => (0..=name.len()).any(|skip| fits_name(rest, &name[skip..])),
        (['?', rest @ ..], [_, others @ ..]) => fits_name(rest, others),
        ([c, rest @ ..], [d, others @ ..]) => c == d && fits_name(rest, others),
        _ => false,
    }
}
