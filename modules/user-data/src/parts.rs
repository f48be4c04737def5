//! Which stretch of which folder meets which on the other machine.

use pc_switcher_agent::proto::{FolderPart, Layout, RuleSet, Standing};
use pc_switcher_contract::{BytePath, Hostname, Problem, Role};

use crate::nested;

/// A stretch of a folder on both machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartPair {
    /// The configured folder.
    pub folder: BytePath,
    /// Where the part begins, the same on both machines.
    pub root: BytePath,
    /// The root relative to the folder, for the rules.
    pub prefix: BytePath,
    /// How it lies on the source.
    pub source: FolderPart,
    /// How it lies on the target.
    pub target: FolderPart,
    /// The folder's rules.
    pub rules: RuleSet,
    /// Whether a nested subvolume begins there, on one machine at least.
    pub is_nested: bool,
    /// Whether it came to its place on the target after the pre set: this run made it.
    pub is_late: bool,
    /// Nested subvolumes directly in it that are removed from the target before it is committed, relative to the root.
    pub leaving: Vec<BytePath>,
    /// Nested subvolumes directly in it that come where the target has a file, likewise.
    pub coming: Vec<BytePath>,
    /// Whether the target has it and another part in one subvolume, so that its files may have names there, too.
    pub is_torn: bool,
}

impl PartPair {
    /// Returns how it lies on the machine of that role.
    pub fn end(&self, role: Role) -> &FolderPart {
        match role {
            Role::Source => &self.source,
            Role::Target => &self.target,
        }
    }

    /// Whether the machine of that role has no tree there.
    pub fn is_missing(&self, role: Role) -> bool {
        matches!(self.end(role).standing, Standing::Missing | Standing::File)
    }

    /// Whether one machine keeps in a subvolume what the other has in a directory.
    pub fn is_mixed(&self) -> bool {
        [self.source.standing, self.target.standing].contains(&Standing::Directory)
    }

    /// Whether the machine of that role has no snapshots of it.
    pub fn is_live(&self, role: Role) -> bool {
        !has_snapshots(self.end(role))
    }
}

/// Whether a part can be snapshotted at all.
pub fn has_snapshots(part: &FolderPart) -> bool {
    part.fs_type == BTRFS
}

const BTRFS: &str = "btrfs";

/// Pairs the parts of both machines by where they begin.
///
/// # Errors
/// Every reason why a folder cannot be mirrored as it lies.
pub fn pair_parts(
    source: (&Hostname, &Layout),
    target: (&Hostname, &Layout),
    rules: impl Fn(&BytePath, &[BytePath]) -> RuleSet,
) -> Result<Vec<PartPair>, Vec<Problem>> {
    let mut problems = Vec::new();
    for (hostname, layout) in [source, target] {
        for folder in &layout.missing_folders {
            let hint = "make it, or take it out of [user-data] folders";
            problems.push(Problem::on(hostname, format!("the folder `{folder}` does not exist")).hint(hint));
        }
        for (folder, why) in &layout.unfit_folders {
            let hint = "mend it, or take it out of [user-data] folders";
            problems.push(Problem::on(hostname, format!("the folder `{folder}` {why}")).hint(hint));
        }
        for part in folders(layout) {
            problems.extend(unfit(hostname, part));
        }
    }
    let mut pairs = Vec::new();
    for (own, other, missing_on) in [(source.1, target.1, target.0), (target.1, source.1, source.0)] {
        for part in folders(own) {
            let twin = folders(other).find(|twin| twin.root == part.root);
            match twin {
                Some(twin) if std::ptr::eq(own, source.1) => {
                    let prefix = relative(&part.root, &part.folder);
                    pairs.push(PartPair {
                        folder: part.folder.clone(),
                        root: part.root.clone(),
                        rules: rules(&part.folder, &prefixes(own, &part.folder)),
                        is_nested: false,
                        is_late: false,
                        leaving: Vec::new(),
                        coming: Vec::new(),
                        is_torn: false,
                        prefix,
                        source: part.clone(),
                        target: twin.clone(),
                    });
                }
                Some(_) => {}
                None if is_named(other, &part.folder) => {}
                None => {
                    let text =
                        format!("`{}` is a mount of its own on the other machine, but not here", part.root);
                    problems.push(
                        Problem::on(missing_on, text).hint("mount it here as well, or choose folders apart"),
                    );
                }
            }
        }
    }
    if problems.is_empty() { Ok(pairs) } else { Err(problems) }
}

/// Pairs the nested subvolumes at these roots. Those that the target does not have come last, outer ones before inner ones.
pub fn pair_nested(
    source: &Layout,
    target: &Layout,
    roots: &[BytePath],
    rules: impl Fn(&BytePath, &[BytePath]) -> RuleSet,
) -> Vec<PartPair> {
    let mut pairs = Vec::new();
    for root in roots {
        let (Some(ours), Some(theirs)) = (nested::end(source, root), nested::end(target, root)) else {
            continue;
        };
        use Standing::{Directory, File, Missing, Nested};
        let is_followed = matches!(
            (ours.standing, theirs.standing),
            (Nested, Nested | Directory | Missing | File) | (Directory | Missing | File, Nested)
        );
        if is_followed {
            pairs.push(PartPair {
                folder: ours.folder.clone(),
                root: root.clone(),
                prefix: relative(root, &ours.folder),
                rules: rules(&ours.folder, &prefixes(source, &ours.folder)),
                is_nested: true,
                is_late: false,
                leaving: Vec::new(),
                coming: Vec::new(),
                is_torn: theirs.standing == Directory,
                source: ours.clone(),
                target: theirs.clone(),
            });
        }
    }
    pairs.sort_by_key(|part| part.is_missing(Role::Target));
    pairs
}

/// Returns the parts that are folders or mounts.
fn folders(layout: &Layout) -> impl Iterator<Item = &FolderPart> {
    layout.parts.iter().filter(|part| part.standing == Standing::Folder)
}

/// Returns where the parts of a folder begin, relative to it.
fn prefixes(layout: &Layout, folder: &BytePath) -> Vec<BytePath> {
    let own = folders(layout).filter(|part| part.folder == *folder);
    own.map(|part| relative(&part.root, folder)).collect()
}

/// Whether a folder has a problem of its own already.
fn is_named(layout: &Layout, folder: &BytePath) -> bool {
    layout.missing_folders.contains(folder) || layout.unfit_folders.iter().any(|(path, _)| path == folder)
}

/// Returns what keeps one part from being snapshotted though its file system could.
fn unfit(hostname: &Hostname, part: &FolderPart) -> Option<Problem> {
    if has_snapshots(part) && part.subvolume.is_none() {
        let text = format!("`{}` lies on a subvolume without a name, which no snapshot set holds", part.root);
        return Some(
            Problem::on(hostname, text).hint("mount a named subvolume there, or choose another folder"),
        );
    }
    None
}

/// Returns `path` relative to `base`, which holds it.
pub(crate) fn relative(path: &BytePath, base: &BytePath) -> BytePath {
    let rest = path.as_bytes().strip_prefix(base.as_bytes()).unwrap_or_default();
    BytePath::new(rest.strip_prefix(b"/").unwrap_or(rest))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn part(root: &str, subvolume: Option<&str>) -> FolderPart {
        FolderPart {
            folder: "/home".into(),
            root: root.into(),
            subvolume: subvolume.map(|name| name.parse().unwrap()),
            inside: BytePath::default(),
            subvolume_uuid: "u".into(),
            fs_uuid: "f".into(),
            fs_type: "btrfs".into(),
            mount_point: root.into(),
            nested: vec![],
            closed: vec![],
            standing: Standing::Folder,
            is_empty: false,
            leftovers: Vec::new(),
        }
    }

    pub(crate) fn layout(parts: Vec<FolderPart>) -> Layout {
        Layout {
            parts,
            missing_folders: vec![],
            unfit_folders: vec![],
            foreign: vec![],
            subvolumes: vec![],
            missing_subvolumes: vec![],
            known_subvolumes: vec![],
            snapshot_fs_uuid: "f".into(),
            snapshot_dir_exists: true,
            snapshot_dir_own_subvolume: true,
            snapshot_dir_is_open: false,
            others: Vec::new(),
            doubled: Vec::new(),
        }
    }

    fn pairs(source: Layout, target: Layout) -> Result<Vec<PartPair>, Vec<Problem>> {
        let (laptop, desk) = ("laptop".parse().unwrap(), "desk".parse().unwrap());
        pair_parts((&laptop, &source), (&desk, &target), |_, _| RuleSet::default())
    }

    #[test]
    fn parts_meet_by_their_root_even_on_other_subvolumes() {
        let found = pairs(layout(vec![part("/home", Some("@home"))]), layout(vec![part("/home", Some("@"))]))
            .unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].target.subvolume.as_ref().unwrap().as_str(), "@");
    }

    #[test]
    fn a_part_without_snapshots_meets_one_that_has_them() {
        let plain = FolderPart { fs_type: "ext4".into(), ..part("/home", None) };
        let found = pairs(layout(vec![plain]), layout(vec![part("/home", Some("@home"))])).unwrap();
        assert!(found[0].is_live(Role::Source) && !found[0].is_live(Role::Target));
    }

    #[test]
    fn a_mount_on_one_machine_only_is_a_problem_of_the_other() {
        let source = layout(vec![part("/home", Some("@home")), part("/home/alice", Some("@alice"))]);
        let problems = pairs(source, layout(vec![part("/home", Some("@home"))])).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].to_string().starts_with("desk: `/home/alice` is a mount"), "{}", problems[0]);
    }

    #[test]
    fn a_folder_that_is_a_file_on_one_machine_is_one_problem_of_that_machine() {
        let target =
            Layout { unfit_folders: vec![("/home".into(), "is not a directory".into())], ..layout(vec![]) };
        let problems = pairs(layout(vec![part("/home", Some("@home"))]), target).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].to_string().starts_with("desk: the folder `/home` is not a directory"));
    }

    #[test]
    fn the_top_level_of_a_file_system_is_refused_as_a_root() {
        let problems =
            pairs(layout(vec![part("/home", None)]), layout(vec![part("/home", Some("@home"))])).unwrap_err();
        assert!(problems[0].to_string().contains("without a name"));
    }

    #[test]
    fn nested_ones_meet_by_their_root_and_new_ones_come_last() {
        use Standing::{Directory, Missing, Nested, Other};
        let ends = |standing: [Standing; 4]| {
            let roots = ["/home/a", "/home/b", "/home/b/c", "/home/d"];
            let nested = roots.iter().zip(standing);
            let nested =
                nested.map(|(root, standing)| FolderPart { standing, ..part(root, Some("@home%2Fx")) });
            layout(std::iter::once(part("/home", Some("@home"))).chain(nested).collect())
        };
        let (ours, theirs) =
            (ends([Nested, Nested, Nested, Missing]), ends([Missing, Directory, Other, Nested]));
        assert_eq!(pairs(ours.clone(), theirs.clone()).unwrap().len(), 1, "nested ones are no folders");
        let roots = ["/home/a", "/home/b", "/home/b/c", "/home/d"].map(BytePath::from);
        let found = pair_nested(&ours, &theirs, &roots, |_, _| RuleSet::default());
        let found: Vec<_> = found.iter().map(|part| (part.prefix.to_string(), part.is_mixed())).collect();
        assert_eq!(found, [("b".into(), true), ("d".into(), false), ("a".into(), false)]);
    }
}
