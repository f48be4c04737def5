//! What the rules of the last sync left out, under the rules of this one.
//!
//! The sets of the last sync hold everything that lay in their subvolumes, so they say nothing of whether a path was brought
//! over. The record keeps the rules for that: what they left out has no common past.

use pc_switcher_agent::data::rules::{Decision, Rules};
use pc_switcher_agent::proto::{Kind, Rule, RuleSet};
use pc_switcher_contract::{BytePath, Hostname, PairRecord, PartRecord, PartRules};

use crate::change::{Change, Found, same_rights};
use crate::parts::PartPair;
use crate::rules::rule_of_nested;

/// Returns a part's rules as a record keeps them.
pub fn kept(part: &PartPair) -> PartRules {
    let patterns = |rules: &[Rule]| rules.iter().map(|rule| rule.pattern.clone()).collect();
    PartRules {
        folder: part.folder.to_string(),
        forced: patterns(&part.rules.forced),
        layered: patterns(&part.rules.layered),
    }
}

/// Returns the rules under which the last sync compared this part, if they are known. What they left out for a part of its own
/// that lay in the same subvolume of the target was synced there, so they do not tell of it.
pub fn then(pair: &PairRecord, part: &PartPair, target: &Hostname) -> Option<Rules> {
    let root = part.root.to_string();
    let around = pair.parts.iter().find(|then| then.root == root)?;
    let kept = around.rules.as_ref()?;
    let held = |then: &&PartRecord| {
        let is_source = pair.source.hostname.same_machine(target);
        let place = |then: &PartRecord| if is_source { then.source.0.clone() } else { then.target.0.clone() };
        then.root != root && place(then) == place(around)
    };
    let folder = BytePath::from(kept.folder.as_str());
    let rule_of = |then: &PartRecord| rule_of_nested(&folder, &then.root.as_str().into());
    let synced: Vec<String> =
        pair.parts.iter().filter(held).filter_map(rule_of).map(|rule| rule.pattern).collect();
    let inside = part.root.as_bytes().strip_prefix(kept.folder.as_bytes())?;
    let prefix = BytePath::new(inside.strip_prefix(b"/").unwrap_or(inside).to_vec());
    let rule = |pattern: &String| Rule { pattern: pattern.clone(), reason: String::new() };
    let forced = kept.forced.iter().filter(|pattern| !synced.contains(pattern)).map(rule).collect();
    let layered = kept.layered.iter().map(rule).collect();
    Rules::compile(&RuleSet { forced, layered }, &prefix).ok()
}

/// What the target has where the last sync did not look counts as changed there: it is never overwritten unasked.
pub fn mark(then: &Rules, found: &mut [Found]) {
    for found in found {
        let Some(theirs) = &found.theirs else { continue };
        if matches!(&found.change, Change::Meta(ours, _) if same_rights(ours, theirs)) {
            continue;
        }
        found.touched |= is_left_out(then, found.path.as_bytes(), theirs.kind == Kind::Dir);
    }
}

/// Whether a path, or a directory above it, was left out.
pub(crate) fn is_left_out(rules: &Rules, path: &[u8], is_dir: bool) -> bool {
    let above = (0..path.len()).filter(|at| path[*at] == b'/');
    let skips = |path: &[u8], is_dir| rules.decide(path, is_dir) != Decision::Keep;
    rules.decide_root() != Decision::Keep
        || above.into_iter().any(|end| skips(&path[..end], true))
        || skips(path, is_dir)
}

#[cfg(test)]
mod tests {
    use pc_switcher_contract::PairEnd;

    use super::*;
    use crate::parts;

    /// The last sync, in which both machines had parts of these roots, each in this subvolume of the target.
    fn pair(target: &str, parts: &[(&PartPair, &str)]) -> PairRecord {
        let end = |hostname: &str| PairEnd {
            hostname: hostname.parse().unwrap(),
            machine_id: hostname.into(),
            set: None,
            manifests: Vec::new(),
        };
        let record = |(part, place): &(&PartPair, &str)| PartRecord {
            root: part.root.to_string(),
            source: ("@home".into(), String::new()),
            target: ((*place).into(), String::new()),
            entries: 1,
            rules: Some(kept(part)),
        };
        PairRecord {
            format: 1,
            session: "0a1b2c3d".parse().unwrap(),
            stamp: "20251115T120000Z".parse().unwrap(),
            source: end("laptop"),
            target: end(target),
            rule_hash: String::new(),
            unsettled: vec![],
            unsent: vec![],
            apart: vec![],
            alien: vec![],
            lacking: vec![],
            parts: parts.iter().map(record).collect(),
        }
    }

    #[test]
    fn what_the_target_had_in_a_directory_for_a_nested_subvolume_was_not_left_out() {
        let part = |root: &str| PartPair {
            folder: "/home".into(),
            root: root.into(),
            prefix: "".into(),
            source: parts::tests::part(root, Some("@home")),
            target: parts::tests::part(root, Some("@home")),
            rules: RuleSet::default(),
            is_nested: false,
            is_late: false,
            leaving: vec![],
            coming: vec![],
            is_torn: false,
        };
        let mut home = part("/home");
        let secret = Rule { pattern: "/alice/secret".into(), reason: String::new() };
        home.rules.forced = ["/home/alice/vm*", "/home/alice/own"]
            .map(|root| rule_of_nested(&"/home".into(), &root.into()).unwrap())
            .into_iter()
            .chain([secret])
            .collect();
        let inner = [part("/home/alice/vm*"), part("/home/alice/own")];
        let pair =
            pair("desk", &[(&home, "@home"), (&inner[0], "@home"), (&inner[1], "@home%2Falice%2Fown")]);
        let rules = then(&pair, &home, &"desk".parse().unwrap()).unwrap();
        let out = |path: &str| is_left_out(&rules, path.as_bytes(), false);
        assert!(!out("alice/vm*/disk"), "the target had it in a directory, which was synced");
        assert!(out("alice/own/disk"), "a subvolume there is another tree");
        assert!(out("alice/secret"));
    }

    #[test]
    fn what_lies_below_something_left_out_was_left_out_too() {
        let rule = |pattern: &str| Rule { pattern: pattern.into(), reason: String::new() };
        let set =
            RuleSet { forced: vec![rule("/alice/keys")], layered: vec![rule("*.iso"), rule("!my.iso")] };
        let rules = Rules::compile(&set, &"alice".into()).unwrap();
        let out = |path: &str| is_left_out(&rules, path.as_bytes(), false);
        assert!(out("keys") && out("keys/deep/one") && out("a/b.iso") && out("d.iso/inside"));
        assert!(!out("my.iso") && !out("a/keys.txt") && !out(""));
    }
}
