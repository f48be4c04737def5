//! The subvolumes of one file system as a tree of names.

use std::collections::HashMap;

use pc_switcher_contract::{BytePath, SubvolumeName};

use super::SubvolumeRef;

/// The id of the top level.
pub const FS_TREE: u64 = 5;

/// All subvolumes of a file system, by id.
#[derive(Debug, Clone, Default)]
pub struct SubvolumeTree {
    refs: HashMap<u64, SubvolumeRef>,
}

impl SubvolumeTree {
    /// Makes a tree of what [`super::Btrfs::subvolumes`] returned.
    pub fn new(refs: Vec<SubvolumeRef>) -> Self {
        Self { refs: refs.into_iter().map(|one| (one.id, one)).collect() }
    }

    /// Returns the flat name: only a subvolume that stands at the top level itself has one.
    pub fn flat_name(&self, id: u64) -> Option<SubvolumeName> {
        let one = self.refs.get(&id).filter(|one| one.parent_id == FS_TREE && one.dir.is_empty())?;
        let name: SubvolumeName = std::str::from_utf8(&one.name).ok()?.parse().ok()?;
        // The names of copies are taken.
        (!name.is_nested() && name.directory().is_none()).then_some(name)
    }

    /// Returns the name: the flat one, or for one that stands elsewhere its path, escaped (docs/adr/0011).
    pub fn name(&self, id: u64) -> Option<SubvolumeName> {
        self.flat_name(id).or_else(|| {
            let is_inside =
                self.refs.get(&id).is_some_and(|one| one.parent_id != FS_TREE || !one.dir.is_empty());
            is_inside.then(|| name_of_path(&self.path(id)?)).flatten()
        })
    }

    /// Returns the id behind a name of either sort.
    pub fn by_name(&self, name: &SubvolumeName) -> Option<u64> {
        match name.is_nested() {
            true => self.refs.keys().copied().find(|id| self.name(*id).as_ref() == Some(name)),
            false => self.by_flat_name(name),
        }
    }

    /// Returns the id behind a flat name.
    pub fn by_flat_name(&self, name: &SubvolumeName) -> Option<u64> {
        self.refs
            .values()
            .find(|one| {
                one.parent_id == FS_TREE && one.dir.is_empty() && one.name == name.as_str().as_bytes()
            })
            .map(|one| one.id)
    }

    /// Returns all flat names, sorted.
    pub fn flat_names(&self) -> Vec<SubvolumeName> {
        let mut names: Vec<_> = self.refs.keys().filter_map(|id| self.flat_name(*id)).collect();
        names.sort();
        names
    }

    /// Returns the path from the file system's top level; empty for the top level itself. `None` for one that is
    /// deleted or unknown.
    pub fn path(&self, id: u64) -> Option<BytePath> {
        self.path_from(id, FS_TREE)
    }

    /// Returns the path of `id` below the root of subvolume `above`, `None` if it is not below it.
    fn path_from(&self, id: u64, above: u64) -> Option<BytePath> {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = id;
        while at != above {
            let one = self.refs.get(&at)?;
            names.push(&one.name);
            names.push(&one.dir);
            at = one.parent_id;
            if names.len() > 2 * self.refs.len() {
                return None;
            }
        }
        Some(names.iter().rev().fold(BytePath::default(), |path, name| path.join(name)))
    }

    /// Returns the subvolumes below `inside` of subvolume `id`, relative to it and sorted; also those in others below.
    pub fn below(&self, id: u64, inside: &BytePath) -> Vec<BytePath> {
        self.nested(id, inside).into_iter().map(|(path, _)| path).collect()
    }

    /// Returns the subvolumes that stand in subvolume `id` itself, not in others below, with their paths in it; sorted.
    pub fn directly_below(&self, id: u64) -> Vec<(BytePath, u64)> {
        let inside = self.refs.values().filter(|one| one.parent_id == id);
        let mut found: Vec<(BytePath, u64)> =
            inside.map(|one| (BytePath::new(one.dir.as_slice()).join(&one.name), one.id)).collect();
        found.sort();
        found
    }

    /// As [`SubvolumeTree::below`], with the id of each.
    pub fn nested(&self, id: u64, inside: &BytePath) -> Vec<(BytePath, u64)> {
        let mut found: Vec<(BytePath, u64)> = self
            .refs
            .keys()
            .filter(|other| **other != id)
            .filter_map(|other| Some((self.path_from(*other, id)?, *other)))
            .filter(|(path, _)| path.is_within(inside) && path != inside)
            .map(|(path, other)| (relative(&path, inside), other))
            .collect();
        found.sort();
        found
    }
}

/// Returns `path` relative to `base`, which it must lie within.
pub(crate) fn relative(path: &BytePath, base: &BytePath) -> BytePath {
    let rest = path.as_bytes().get(base.as_bytes().len()..).unwrap_or_default();
    BytePath::new(rest.strip_prefix(b"/").unwrap_or(rest))
}

/// Longest name of a path that is written out; what is longer ends in a digest.
const WRITTEN_OUT: usize = 200;
/// What a longer one keeps of the path, in bytes.
const KEPT: usize = 160;

/// Returns the name of a subvolume by its path from the top level: `%2F` for each slash, `%25` for each percent sign, and two hex
/// digits behind a percent sign for whatever is no text. No flat name has a `%2F`, and no two paths have one name.
fn name_of_path(path: &BytePath) -> Option<SubvolumeName> {
    let mut pieces: Vec<String> = Vec::new();
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("%{byte:02X}")).collect() };
    for chunk in path.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            let plain = c != '/' && c != '%' && !c.is_control();
            pieces.push(if plain { c.to_string() } else { hex(c.encode_utf8(&mut [0; 4]).as_bytes()) });
        }
        pieces.push(hex(chunk.invalid()));
    }
    let whole = pieces.concat();
    if whole.len() <= WRITTEN_OUT {
        return whole.parse().ok();
    }
    let mut short = String::new();
    for piece in pieces {
        if short.len() + piece.len() > KEPT {
            break;
        }
        short.push_str(&piece);
    }
    let digest = blake3::hash(path.as_bytes()).to_hex();
    format!("{short}{}%~{}", SubvolumeName::INSIDE, &digest[..16]).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> SubvolumeTree {
        let one = |id, parent_id, dir: &str, name: &str| SubvolumeRef {
            id,
            parent_id,
            dir: dir.into(),
            name: name.into(),
        };
        SubvolumeTree::new(vec![
            one(256, FS_TREE, "", "@"),
            one(257, FS_TREE, "", "@home"),
            one(258, FS_TREE, "sub", "@odd"),
            one(259, 257, "alice", "vm"),
            one(260, 259, "", "deep"),
            one(261, 300, "", "orphan"),
        ])
    }

    #[test]
    fn only_names_at_the_top_level_itself_are_flat() {
        let names: Vec<_> = tree().flat_names().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["@", "@home"]);
        assert_eq!(tree().by_flat_name(&"@home".parse().unwrap()), Some(257));
        assert_eq!(tree().flat_name(258), None);
        assert_eq!(tree().path(258), Some("sub/@odd".into()));
        assert_eq!(tree().path(261), None);
    }

    #[test]
    fn one_inside_another_is_named_by_its_path() {
        let (tree, name) = (tree(), |text: &str| text.parse::<SubvolumeName>().unwrap());
        for (id, text) in [
            (257, "@home"),
            (258, "sub%2F@odd"),
            (259, "@home%2Falice%2Fvm"),
            (260, "@home%2Falice%2Fvm%2Fdeep"),
        ] {
            assert_eq!((tree.name(id), tree.by_name(&name(text))), (Some(name(text)), Some(id)));
        }
        assert_eq!(
            (tree.name(FS_TREE), tree.name(261), tree.by_name(&name("@home%2Fnone"))),
            (None, None, None)
        );
    }

    #[test]
    fn no_two_paths_have_one_name_and_no_flat_name_is_one_of_them() {
        let long = ["a", "b"].map(|end| BytePath::from(format!("@home/{}/{end}", "ü/".repeat(200)).as_str()));
        let odd =
            [&b"@home/a%2Fb"[..], b"@home/a/b", b"@home/a%b", b"@home/a\nb", b"@home/a\xff", b"@home/a%FF"];
        let odd = odd.into_iter().map(BytePath::new).chain(long);
        let names: Vec<SubvolumeName> = odd.map(|path| name_of_path(&path).unwrap()).collect();
        assert_eq!(names.iter().collect::<std::collections::HashSet<_>>().len(), names.len(), "{names:?}");
        assert!(names.iter().all(SubvolumeName::is_nested));
        let one = SubvolumeRef { id: 300, parent_id: FS_TREE, dir: vec![], name: b"@home%2Fa".to_vec() };
        assert_eq!(SubvolumeTree::new(vec![one]).name(300), None);
    }

    #[test]
    fn nested_ones_are_found_below_the_folder_alone() {
        assert_eq!(tree().below(257, &"".into()), ["alice/vm".into(), "alice/vm/deep".into()]);
        assert_eq!(tree().below(257, &"alice".into()), ["vm".into(), "vm/deep".into()]);
        assert_eq!(tree().below(257, &"ali".into()), Vec::<BytePath>::new());
        assert_eq!(tree().below(259, &"".into()), ["deep".into()]);
        assert_eq!(tree().directly_below(257), [("alice/vm".into(), 259)]);
    }
}
