//! Subvolumes inside of the two that go back: at each moment each is in one tree, with what it had.

use std::fs;
use std::path::Path;

use pc_switcher_agent::linux::btrfs::{Btrfs, FS_TREE, KernelBtrfs, SubvolumeTree};

use super::host::Host;
use crate::pool::{sh, text};

/// Where they are, below the root of a machine; the last one is read-only.
const POINTS: [&str; 3] = ["srv/data/box", "home/vm", "home/kept"];

/// Their paths in the subvolumes of the system and of the home.
const PATHS: [&str; 3] = ["srv/data/box", "vm", "kept"];

/// Makes them on a machine. No set holds what is in them.
pub fn make(root: &Path) {
    for point in POINTS {
        let path = root.join(point);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        sh("btrfs", &["--quiet", "subvolume", "create", text(&path)]);
        fs::write(path.join("name"), point).unwrap();
    }
    KernelBtrfs.set_readonly(&root.join(POINTS[2]), true).unwrap();
    KernelBtrfs.sync(root).unwrap();
}

/// Finds them below the top level of a disk: in which tree each is, and its path there.
///
/// # Errors
/// If one is not what it was.
pub fn find(top: &Path) -> Result<Vec<(String, String)>, String> {
    let tree = SubvolumeTree::new(KernelBtrfs.subvolumes(top).map_err(|error| error.to_string())?);
    let mut found = Vec::new();
    for (path, id) in tree.directly_below(FS_TREE) {
        // Sets are in the subvolume of the snapshots.
        if path.as_bytes() == b"@snapshots" {
            continue;
        }
        for (inner, _) in tree.directly_below(id) {
            let (name, inner) = (path.to_string(), inner.to_string());
            let here = top.join(&name).join(&inner);
            let point =
                POINTS[PATHS.iter().position(|path| *path == inner).ok_or(format!("`{inner}` is new"))?];
            let says = fs::read_to_string(here.join("name")).unwrap_or_default();
            if says != point {
                return Err(format!("`{name}/{inner}` says {says:?}"));
            }
            found.push((name, inner));
        }
    }
    found.sort();
    Ok(found)
}

/// Checks that each is in one tree.
pub fn each_once(host: &Host) -> Result<(), String> {
    let found = host.inside()?;
    let mut paths: Vec<&str> = found.iter().map(|(_, path)| path.as_str()).collect();
    paths.sort_unstable();
    let mut wanted = PATHS;
    wanted.sort_unstable();
    match paths == wanted {
        true => Ok(()),
        false => Err(format!("inside of the trees are {found:?}")),
    }
}

/// Checks that each is in the tree that is in place, and that the read-only one is so again.
pub fn all_in_place(host: &Host) -> Result<(), String> {
    let [system, home] = host.layout().subvolumes();
    let mut wanted = [(system, PATHS[0]), (home, PATHS[1]), (home, PATHS[2])]
        .map(|(tree, path)| (tree.to_owned(), path.to_owned()));
    wanted.sort();
    let found = host.inside()?;
    if found != wanted {
        return Err(format!("subvolumes inside are at {found:?}"));
    }
    let kept = KernelBtrfs.subvolume(&host.root().join(POINTS[2]));
    match kept.map(|info| info.readonly) {
        Ok(true) => Ok(()),
        other => Err(format!("`{}` is not read-only: {other:?}", POINTS[2])),
    }
}
