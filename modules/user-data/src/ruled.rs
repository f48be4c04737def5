//! What the rules of the last sync left out, under the rules of this one.
//!
//! The sets of the last sync hold everything that lay in their subvolumes, so they say nothing of whether a path was brought
//! over. The record keeps the rules for that: what they left out has no common past.

use pc_switcher_agent::data::rules::{Decision, Rules};
use pc_switcher_agent::proto::{Kind, Rule, RuleSet};
use pc_switcher_contract::{BytePath, PairRecord, PartRules};

use crate::change::{Change, Found, same_rights};
use crate::parts::PartPair;

/// Returns a part's rules as a record keeps them.
pub fn kept(part: &PartPair) -> PartRules {
    let patterns = |rules: &[Rule]| rules.iter().map(|rule| rule.pattern.clone()).collect();
    PartRules {
        folder: part.folder.to_string(),
        forced: patterns(&part.rules.forced),
        layered: patterns(&part.rules.layered),
    }
}

/// Returns the rules under which the last sync compared this part, if they are known.
pub fn then(pair: &PairRecord, part: &PartPair) -> Option<Rules> {
    let root = part.root.to_string();
    let kept = pair.parts.iter().find(|then| then.root == root)?.rules.as_ref()?;
    let inside = part.root.as_bytes().strip_prefix(kept.folder.as_bytes())?;
    let prefix = BytePath::new(inside.strip_prefix(b"/").unwrap_or(inside).to_vec());
    let rules = |patterns: &[String]| {
        let rule = |pattern: &String| Rule { pattern: pattern.clone(), reason: String::new() };
        patterns.iter().map(rule).collect()
    };
    Rules::compile(&RuleSet { forced: rules(&kept.forced), layered: rules(&kept.layered) }, &prefix).ok()
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
    use super::*;

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
