//! The rules of one run: built-in lists, spelled out for each home, then the user's own.

use pc_switcher_agent::proto::{Rule, RuleSet, UserFact};
use pc_switcher_contract::BytePath;

use crate::builtin::{DEFAULTS, FORCED};
use crate::config::UserDataConfig;

/// Where staging lies while a sync runs; never mirrored, on either side.
const STAGING: &str = "/.pc-switcher";
const OWN_STATE: &str = "our own state, where the environment has put it";

/// Returns the rules of `folder`. `users` are those of both machines; `mounts` are the parts' roots relative to the folder.
/// `own` are directories of our own state, absolute, wherever the environment has put them.
pub fn rules_for(
    folder: &str,
    config: &UserDataConfig,
    users: &[UserFact],
    mounts: &[BytePath],
    own: &[BytePath],
) -> RuleSet {
    let homes = homes_in(folder, users);
    let mut forced = vec![rule(STAGING, "our own staging")];
    for mount in mounts.iter().filter(|mount| !mount.is_empty()) {
        forced.push(rule(&format!("/{}{STAGING}", escape(&mount.to_string())), "our own staging"));
    }
    let inside =
        own.iter().filter_map(|dir| dir.as_bytes().strip_prefix(folder.as_bytes())?.strip_prefix(b"/"));
    forced.extend(
        inside.map(|dir| rule(&format!("/{}", escape(&BytePath::new(dir.to_vec()).to_string())), OWN_STATE)),
    );
    // Whatever a home is called and wherever it lies: identity stays where it is.
    for pattern in ["**/.ssh/id_*", "**/.ssh/known_hosts*", "**/.ssh/authorized_keys*"] {
        forced.push(rule(pattern, "identity of this machine"));
    }
    // The other machine's environment is not known: its logs, its history and its catalogue are told by their names.
    for pattern in [
        "**/pc-switcher/history.db*",
        "**/pc-switcher/logs/*.jsonl*",
        "**/pc-switcher/host.toml",
        "**/pc-switcher/vault/catalogue.db*",
        "**/pc-switcher/vault/vault.lock",
        "**/pc-switcher/vault/stage",
    ] {
        forced.push(rule(pattern, "our own state"));
    }
    for (pattern, reason) in FORCED {
        forced.extend(
            homes.iter().filter_map(|home| home.place(pattern)).map(|pattern| rule(&pattern, reason)),
        );
    }
    let mut layered = Vec::new();
    for (pattern, reason) in DEFAULTS {
        layered.extend(
            homes.iter().filter_map(|home| home.place(pattern)).map(|pattern| rule(&pattern, reason)),
        );
    }
    layered
        .extend(config.exclude.iter().map(|pattern| rule(pattern.as_str(), "excluded by the configuration")));
    let back = |pattern: &str| rule(&format!("!{pattern}"), "included by the configuration");
    layered.extend(config.include.iter().map(|pattern| back(pattern.as_str())));
    RuleSet { forced, layered }
}

/// Returns the rule that leaves a mount below a folder alone; `None` for a name that no rule can say.
pub fn rule_of_mount(folder: &BytePath, mount: &BytePath) -> Option<Rule> {
    rule_of(folder, mount, "a mount of its own")
}

/// Returns the rule that keeps what lies at a nested subvolume's root out of the part around it: one machine has a directory
/// there. `None` for a name that no rule can say.
pub fn rule_of_nested(folder: &BytePath, root: &BytePath) -> Option<Rule> {
    rule_of(folder, root, "a subvolume on one of the machines")
}

fn rule_of(folder: &BytePath, mount: &BytePath, reason: &str) -> Option<Rule> {
    let inside = mount.as_bytes().strip_prefix(folder.as_bytes())?;
    let inside = std::str::from_utf8(inside.strip_prefix(b"/").unwrap_or(inside)).ok()?;
    // A pattern is one line.
    if inside.contains(['\n', '\r']) {
        return None;
    }
    Some(rule(&format!("/{}", escape(inside)), reason))
}

/// Returns the digest of all rules of a run: another digest means that the last sync saw other files.
pub fn rule_hash(sets: &[(String, RuleSet)]) -> String {
    let mut hasher = blake3::Hasher::new();
    for (folder, set) in sets {
        hasher.update(folder.as_bytes());
        for (mark, rules) in [(b"\0F", &set.forced), (b"\0L", &set.layered)] {
            // Where our state lies is a matter of each machine: the way back has other rules, and means the same.
            for rule in rules.iter().filter(|rule| rule.reason != OWN_STATE) {
                hasher.update(mark);
                hasher.update(rule.pattern.as_bytes());
            }
        }
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

fn rule(pattern: &str, reason: &str) -> Rule {
    Rule { pattern: pattern.to_owned(), reason: reason.to_owned() }
}

/// How a home lies to the folder.
enum Home {
    /// Below the folder: the pattern goes behind this prefix, for example `/alice` or `/*`.
    Below(String),
    /// The folder lies in the home, behind these parts; a pattern counts if it begins with them.
    Above(Vec<String>),
}

impl Home {
    /// Returns the home's pattern as a pattern of the folder.
    fn place(&self, pattern: &str) -> Option<String> {
        let (bang, plain) = match pattern.strip_prefix('!') {
            Some(plain) => ("!", plain),
            None => ("", pattern),
        };
        match self {
            Home::Below(prefix) => Some(format!("{bang}{prefix}/{plain}")),
            Home::Above(parts) => {
                let mut rest = plain.split('/');
                for part in parts {
                    match rest.next() {
                        Some("**") => return Some(format!("{bang}{plain}")),
                        Some(word) if word == part => {}
                        _ => return None,
                    }
                }
                let rest: Vec<&str> = rest.collect();
                (!rest.is_empty()).then(|| format!("{bang}/{}", rest.join("/")))
            }
        }
    }
}

/// Returns the homes that touch the folder. In `/home` every directory counts as one, whoever owns it.
fn homes_in(folder: &str, users: &[UserFact]) -> Vec<Home> {
    let folder = folder.trim_end_matches('/');
    let mut homes = Vec::new();
    if folder == "/home" {
        homes.push(Home::Below("/*".into()));
    }
    let mut seen: Vec<String> = Vec::new();
    for user in users {
        let home = user.home.to_string().trim_end_matches('/').to_owned();
        if home.is_empty() || seen.contains(&home) {
            continue;
        }
        if home == folder {
            homes.push(Home::Below(String::new()));
        } else if let Some(inside) = home.strip_prefix(&format!("{folder}/")) {
            if folder != "/home" || inside.contains('/') {
                homes.push(Home::Below(format!("/{}", escape(inside))));
            }
        } else if let Some(above) = folder.strip_prefix(&format!("{home}/")) {
            homes.push(Home::Above(above.split('/').map(str::to_owned).collect()));
        }
        seen.push(home);
    }
    homes
}

/// Escapes what would be a glob.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if "*?[]{}\\!#".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, home: &str) -> UserFact {
        UserFact { name: name.into(), uid: 1000, gid: 1000, home: home.into() }
    }

    fn forced(folder: &str) -> Vec<String> {
        let users = [user("root", "/root"), user("alice", "/home/alice"), user("bob", "/home/staff/bob")];
        let set = rules_for(folder, &UserDataConfig::default(), &users, &[BytePath::from("alice")], &[]);
        set.forced.into_iter().map(|rule| rule.pattern).collect()
    }

    #[test]
    fn identity_is_named_for_every_home_of_the_folder() {
        let home = forced("/home");
        for wanted in
            ["/*/.ssh/id_*", "/staff/bob/.ssh/authorized_keys*", "/.pc-switcher", "/alice/.pc-switcher"]
        {
            assert!(home.iter().any(|pattern| pattern == wanted), "{wanted} in {home:?}");
        }
        assert!(forced("/root").contains(&"/.ssh/known_hosts*".to_owned()));
    }

    #[test]
    fn a_folder_inside_a_home_keeps_the_part_of_the_rule_that_is_left() {
        let ssh = forced("/home/alice/.ssh");
        assert!(ssh.contains(&"/id_*".to_owned()), "{ssh:?}");
        let documents = forced("/home/alice/Documents");
        let expected = |pattern: &String| pattern.contains("pc-switcher") || pattern.starts_with("**/.ssh/");
        assert!(documents.iter().all(expected), "{documents:?}");
    }

    #[test]
    fn another_rule_makes_another_hash() {
        let one = vec![(
            "/home".to_owned(),
            rules_for("/home", &UserDataConfig::default(), &[], &[], &["/home/a/odd/state".into()]),
        )];
        let mut two = one.clone();
        two[0].1.layered.pop();
        assert_ne!(rule_hash(&one), rule_hash(&two));
    }

    #[test]
    fn a_name_that_no_rule_can_say_has_none() {
        let rule = |root: &[u8]| rule_of_nested(&"/home".into(), &BytePath::new(root.to_vec()));
        assert_eq!(rule(b"/home/a/vm [1]").unwrap().pattern, "/a/vm \\[1\\]");
        for root in [&b"/home/a/vm\xff"[..], b"/home/new\nline/vm", b"/home/a/vm\r"] {
            assert!(rule(root).is_none(), "{}", root.escape_ascii());
        }
    }
}
