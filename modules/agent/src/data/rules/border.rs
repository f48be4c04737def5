//! Tells whether rules say the same of everything below two directories.
//!
//! A rule looks at the names along a path. What it has seen of it, when it comes to a directory, is all that the directory's
//! own place means to what lies below: two directories at which every rule has come equally far are the same to all of them.

/// A rule that looks at more than a last name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Road(Option<Vec<String>>);

impl Road {
    /// Reads a floating pattern; `None` if it looks at last names alone.
    pub(super) fn of(pattern: &str) -> Option<Road> {
        let body = pattern.strip_prefix('!').unwrap_or(pattern);
        let body = body.strip_suffix('/').unwrap_or(body);
        if !body.contains('/') {
            return None;
        }
        // What else a name may look like than what is said is not judged here.
        if body.contains(['[', '{', '\\', '?']) {
            return Some(Road(None));
        }
        let names: Vec<String> = body.strip_prefix('/').unwrap_or(body).split('/').map(Into::into).collect();
        if names.iter().any(|name| name.is_empty() || (name != "**" && name.contains("**"))) {
            return Some(Road(None));
        }
        if let [gap, _] = &names[..]
            && gap == "**"
        {
            return None;
        }
        Some(Road(Some(names)))
    }

    /// Whether it says the same below both directories, given by their names from the folder's root.
    pub(super) fn is_same(&self, one: &[&[u8]], other: &[&[u8]]) -> bool {
        match &self.0 {
            Some(names) => reached(names, one) == reached(names, other),
            None => one == other,
        }
    }
}

/// Returns how far a pattern can have come after a path: for each of its places, whether it may stand there.
fn reached(pattern: &[String], path: &[&[u8]]) -> Vec<bool> {
    let mut at = vec![false; pattern.len() + 1];
    at[0] = true;
    skip_gaps(pattern, &mut at);
    for name in path {
        let mut next = vec![false; pattern.len() + 1];
        for (place, want) in pattern.iter().enumerate().filter(|(place, _)| at[*place]) {
            if want == "**" {
                next[place] = true;
            } else if fits(want.as_bytes(), name) {
                next[place + 1] = true;
            }
        }
        skip_gaps(pattern, &mut next);
        at = next;
    }
    // At its end it has matched the directory itself and says nothing of what is below.
    at.pop();
    at
}

/// A gap may also be none.
fn skip_gaps(pattern: &[String], at: &mut [bool]) {
    for (place, want) in pattern.iter().enumerate() {
        at[place + 1] |= at[place] && want == "**";
    }
}

/// Whether a name is what a pattern with stars says.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|skip| fits(rest, &name[skip..])),
        Some((byte, rest)) => {
            name.split_first().is_some_and(|(first, name)| first == byte && fits(rest, name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_same(pattern: &str, one: &str, other: &str) -> bool {
        let names = |path: &'static str| path.split('/').map(str::as_bytes).collect::<Vec<_>>();
        let [one, other] = [one, other].map(|path| names(path.to_owned().leak()));
        Road::of(pattern).is_none_or(|road| road.is_same(&one, &other))
    }

    #[test]
    fn rules_that_look_at_last_names_are_the_same_everywhere() {
        for pattern in ["*.log", "node_modules/", "!keep", "**/cache", "[ab].txt"] {
            assert_eq!(Road::of(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn a_directory_that_a_rule_looks_for_is_not_like_another() {
        assert!(is_same("**/.cache/*", "ann/work", "ann/play"));
        assert!(!is_same("**/.cache/*", "ann/.cache", "ann/cache-old"));
        assert!(!is_same("**/.ssh/id_*", "ann/keys", "ann/.ssh"));
        assert!(is_same("**/.config/app", "ann/x/y", "y"));
        assert!(!is_same("**/.config/*/lock", "ann/.config/one", "ann/one"));
        assert!(is_same("**/.config/*/lock", "ann/.config/one", "ann/.config/two"));
        assert!(!is_same("**/.config/**/lock", "ann/.config/one/deep", "ann/one"));
        assert!(is_same("**/.config/**/lock", "ann/.config/one/deep", "ann/.config/two"));
        assert!(!is_same("/ann/big", "ann", "bob"));
        assert!(is_same("/ann/big", "bob", "eve/deep"));
        assert!(!is_same("/ann/big/**", "ann/big/x", "ann/x"));
        assert!(!is_same("/a*n/big", "ann", "axm"), "the whole name counts");
        assert!(!is_same("/ann/b[i]g", "bob", "eve"), "in doubt they are not");
    }
}
