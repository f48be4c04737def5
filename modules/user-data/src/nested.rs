//! Which nested subvolumes are mirrored with their folders: decided from the layouts of both machines.
//!
//! Where both machines have something, the content is synced, whatever each keeps it in. Nothing is made or removed for a
//! subvolume that only the target has, unless the last sync held it.

use pc_switcher_agent::proto::{FolderPart, Layout, Standing};
use pc_switcher_contract::{BytePath, Role};

use crate::parts::relative;
use crate::rules::rule_of_nested;

/// A nested subvolume that is left alone, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Where.
    pub role: Role,
    /// Its root.
    pub root: BytePath,
    /// Why.
    pub why: String,
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Nested {
    /// The roots to mirror, outer ones first.
    pub roots: Vec<BytePath>,
    /// What is left alone.
    pub left: Vec<Left>,
}

impl Nested {
    fn has_left(&self, path: &BytePath) -> bool {
        self.left.iter().any(|left| path.is_within(&left.root))
    }

    fn leave(&mut self, role: Role, root: &BytePath, why: impl Into<String>) {
        if !self.has_left(root) {
            self.left.push(Left { role, root: root.clone(), why: why.into() });
        }
    }
}

/// Returns the roots to be looked at on both machines. `is_out` says whether the rules of a folder leave a path out: of such a
/// subvolume nothing is said.
pub fn candidates(
    source: &Layout,
    target: &Layout,
    follow: bool,
    is_out: impl Fn(&BytePath, &BytePath) -> bool,
) -> Nested {
    let mut found = Nested::default();
    let mut roots = Vec::new();
    for (role, layout) in [(Role::Source, source), (Role::Target, target)] {
        for part in layout.parts.iter().filter(|part| part.standing == Standing::Folder) {
            for nested in &part.nested {
                let root = part.root.join(nested.as_bytes());
                if is_out(&part.folder, &relative(&root, &part.folder)) {
                    continue;
                }
                let closed = part.closed.iter().find(|(path, _)| path == nested);
                match closed {
                    _ if !follow => found.leave(role, &root, "`nested` in [user-data] says `skip`"),
                    Some((_, why)) => found.leave(role, &root, why.as_str()),
                    None => roots.push(root),
                }
            }
        }
    }
    roots.sort();
    roots.dedup();
    roots.retain(|root| !found.has_left(root));
    found.roots = roots;
    found
}

/// Judges the roots of [`candidates`] by how they stand on both machines. `was_followed` says whether the last sync held one.
pub fn judge(
    mut found: Nested,
    [source, target]: [&Layout; 2],
    was_followed: impl Fn(&BytePath) -> bool,
) -> Nested {
    for root in std::mem::take(&mut found.roots) {
        let ends = [source, target].map(|layout| standing(layout, &root));
        if found.has_left(&root) {
            continue;
        }
        use Standing::{Directory, File, Folder, Missing, Nested as Inner, Other};
        let can_be_said = rule_of_nested(&BytePath::default(), &root).is_some();
        match ends {
            [Some(Inner), Some(Directory)] | [Some(Directory), Some(Inner)] if !can_be_said => {
                found.leave(
                    Role::Source,
                    &root,
                    "no rule can say its path, and it is a directory on one machine",
                );
            }
            [Some(Inner), Some(Inner | Directory | Missing | File)] | [Some(Directory), Some(Inner)] => {
                found.roots.push(root);
            }
            [Some(Missing | File), Some(Inner)] if was_followed(&root) => found.roots.push(root),
            [Some(Missing), Some(Inner)] => {
                found.leave(
                    Role::Target,
                    &root,
                    "it is on this machine alone, and the last sync did not hold it",
                );
            }
            [Some(Inner), Some(Other)] => found.leave(Role::Target, &root, IN_THE_WAY),
            [Some(Other | File), Some(Inner)] => found.leave(Role::Source, &root, IN_THE_WAY),
            [Some(Folder | Directory | Missing | File | Other | Inner) | None, _] => {}
        }
    }
    found
}

const IN_THE_WAY: &str = "something else stands there: a file, a link or a mount";

/// Returns the part that begins at a nested root.
pub fn end<'a>(layout: &'a Layout, root: &BytePath) -> Option<&'a FolderPart> {
    layout.parts.iter().find(|part| part.root == *root && part.standing != Standing::Folder)
}

fn standing(layout: &Layout, root: &BytePath) -> Option<Standing> {
    end(layout, root).map(|part| part.standing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::tests::{layout, part};

    fn holding(nested: &[&str], closed: &[(&str, &str)]) -> Layout {
        let closed = closed.iter().map(|(path, why)| ((*path).into(), (*why).into())).collect();
        let nested = nested.iter().map(|path| (*path).into()).collect();
        layout(vec![FolderPart { nested, closed, ..part("/home", Some("@home")) }])
    }

    fn standing_as(roots: &[(&str, Standing)]) -> Layout {
        layout(
            roots
                .iter()
                .map(|(root, standing)| FolderPart { standing: *standing, ..part(root, None) })
                .collect(),
        )
    }

    fn left(found: &Nested) -> Vec<(Role, String)> {
        found.left.iter().map(|left| (left.role, left.root.to_string())).collect()
    }

    #[test]
    fn what_the_rules_leave_out_is_not_mentioned_and_what_is_closed_is() {
        let ours = holding(
            &["a/.cache/x", "a/.snapshots", "a/.snapshots/1/snapshot", "a/vm", "a/vm/deep"],
            &[("a/.snapshots", "it holds snapshots"), ("a/.snapshots/1/snapshot", "a read-only snapshot")],
        );
        let theirs = holding(&["a/old", "a/vm"], &[("a/old", "a read-only snapshot")]);
        let is_out = |_: &BytePath, path: &BytePath| path.is_within(&"a/.cache".into());
        let found = candidates(&ours, &theirs, true, is_out);
        assert_eq!(found.roots, ["/home/a/vm".into(), "/home/a/vm/deep".into()]);
        assert_eq!(
            left(&found),
            [(Role::Source, "/home/a/.snapshots".into()), (Role::Target, "/home/a/old".into())]
        );
        let none = candidates(&ours, &theirs, false, is_out);
        assert_eq!((none.roots.len(), none.left.len()), (0, 3), "{none:?}");
    }

    #[test]
    fn one_that_cannot_be_written_on_the_target_is_left_alone_with_all_in_it() {
        let (ours, theirs) =
            (holding(&["vm", "vm/deep"], &[]), holding(&["vm"], &[("vm", "it is read-only")]));
        let found = candidates(&ours, &theirs, true, |_, _| false);
        assert_eq!((found.roots.len(), left(&found)), (0, vec![(Role::Target, "/home/vm".into())]));
    }

    #[test]
    fn both_machines_together_say_what_is_mirrored() {
        use Standing::{Directory, File, Missing, Nested as Inner, Other};
        let all = [Inner, Directory, Missing, File, Other];
        let mirrored = |ours, theirs, was| {
            let found = Nested { roots: vec!["/home/vm".into(), "/home/vm/deep".into()], left: vec![] };
            let layouts =
                [ours, theirs].map(|end| standing_as(&[("/home/vm", end), ("/home/vm/deep", Inner)]));
            let found = judge(found, [&layouts[0], &layouts[1]], |_| was);
            (found.roots.contains(&"/home/vm".into()), found.left.len())
        };
        for ours in all {
            for theirs in all {
                let (yes, left) = mirrored(ours, theirs, false);
                let wanted = match (ours, theirs) {
                    (Inner, Inner | Directory | Missing | File) | (Directory, Inner) => (true, 0),
                    (Inner, Other) | (Other | File | Missing, Inner) => (false, 1),
                    _ => (false, 0),
                };
                assert_eq!((yes, left), wanted, "{ours:?} {theirs:?}");
                let deleted = matches!((ours, theirs), (Missing | File, Inner));
                assert_eq!(mirrored(ours, theirs, true), if deleted { (true, 0) } else { wanted });
            }
        }
    }
}
