//! Compares two manifests and says in words what is different.

use std::{collections::BTreeMap, fmt};

use super::{Entry, Kind, RelativePath, TreeManifest};

/// More differences than this say nothing more to a reader.
const SHOWN: usize = 40;

/// How one path differs between two trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It is in the first tree only.
    Missing(RelativePath),
    /// It is in the second tree only.
    Extra(RelativePath),
    /// It is in both and not the same.
    Changed {
        /// Where.
        path: RelativePath,
        /// What, each as `field: first, then second`.
        fields: Vec<String>,
    },
}

impl Difference {
    /// Returns the path that differs.
    pub fn path(&self) -> &RelativePath {
        match self {
            Self::Missing(path) | Self::Extra(path) | Self::Changed { path, .. } => path,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "missing  {}", path.escape_ascii()),
            Self::Extra(path) => write!(f, "extra    {}", path.escape_ascii()),
            Self::Changed { path, fields } => {
                write!(f, "changed  {}: {}", path.escape_ascii(), fields.join("; "))
            }
        }
    }
}

/// Panics with a list of what is different unless both trees are the same.
///
/// # Panics
///
/// When they are not.
#[track_caller]
pub fn assert_same_tree(expected: &TreeManifest, actual: &TreeManifest) {
    let differences = expected.diff(actual);
    if differences.is_empty() {
        return;
    }
    let shown: Vec<String> = differences.iter().take(SHOWN).map(ToString::to_string).collect();
    let hidden = differences.len().saturating_sub(SHOWN);
    let rest = if hidden > 0 { format!("\n… and {hidden} more") } else { String::new() };
    panic!("the trees differ in {} paths:\n{}{rest}", differences.len(), shown.join("\n"));
}

pub(super) fn diff(
    first: &BTreeMap<RelativePath, Entry>,
    second: &BTreeMap<RelativePath, Entry>,
) -> Vec<Difference> {
    let missing = first.keys().filter(|path| !second.contains_key(*path)).cloned().map(Difference::Missing);
    let extra = second.keys().filter(|path| !first.contains_key(*path)).cloned().map(Difference::Extra);
    let changed = first.iter().filter_map(|(path, entry)| {
        let fields = second.get(path).map(|other| fields(entry, other))?;
        (!fields.is_empty()).then(|| Difference::Changed { path: path.clone(), fields })
    });
    let mut all: Vec<Difference> = missing.chain(extra).chain(changed).collect();
    all.sort_by(|a, b| a.path().cmp(b.path()));
    all
}

fn fields(first: &Entry, second: &Entry) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |name: &str, first: String, second: String| {
        if first != second {
            found.push(format!("{name} {first}, then {second}"));
        }
    };
    compare("kind", kind(&first.kind), kind(&second.kind));
    compare("mode", format!("{:04o}", first.mode), format!("{:04o}", second.mode));
    compare("owner", format!("{}:{}", first.uid, first.gid), format!("{}:{}", second.uid, second.gid));
    compare("mtime", time(first.modified), time(second.modified));
    compare("hard link of", link(first), link(second));
    let names = first
        .attributes
        .keys()
        .chain(second.attributes.keys().filter(|name| !first.attributes.contains_key(*name)));
    for name in names {
        let value = |entry: &Entry| match entry.attributes.get(name) {
            Some(value) => format!("\"{}\"", value.escape_ascii()),
            None => "absent".to_owned(),
        };
        compare(&format!("xattr {}", name.escape_ascii()), value(first), value(second));
    }
    found
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Directory => "directory".to_owned(),
        Kind::File { bytes, digest } => format!("file of {bytes} bytes, {}", &digest.to_hex()[..12]),
        Kind::Symlink { target } => format!("symlink to {}", target.escape_ascii()),
        Kind::Fifo => "fifo".to_owned(),
        Kind::Socket => "socket".to_owned(),
        Kind::CharDevice { device } => format!("character device {device:#x}"),
        Kind::BlockDevice { device } => format!("block device {device:#x}"),
    }
}

fn time((seconds, nanoseconds): (i64, u32)) -> String {
    format!("{seconds}.{nanoseconds:09}")
}

fn link(entry: &Entry) -> String {
    entry.hard_link_of.as_ref().map_or_else(|| "none".to_owned(), |path| path.escape_ascii().to_string())
}
