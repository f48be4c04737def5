//! Checks that people write: programs in directories that only root can write to.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Weight;

/// Where they lie, in `required.d` and `wanted.d`.
pub const HEALTH_DIR: &str = "/etc/pc-switcher/health";

/// A program that checks something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) path: PathBuf,
    pub(super) weight: Weight,
    /// Why it is not run, if so.
    pub(super) refused: Option<String>,
}

/// Returns the programs below a directory by name, those first that are required.
///
/// # Errors
/// If a directory is there and cannot be read.
pub(super) fn find(dir: &Path) -> io::Result<Vec<Script>> {
    let mut found = Vec::new();
    for (name, weight) in [("required.d", Weight::Required), ("wanted.d", Weight::Wanted)] {
        let dir = dir.join(name);
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        let of_dir = dir.ancestors().take(2).find_map(others_write);
        for path in paths {
            let refused = match fs::metadata(&path) {
                Err(error) => Some(format!("not run: `{}`: {error}", path.display())),
                Ok(seen) if !seen.is_file() || seen.permissions().mode() & 0o111 == 0 => continue,
                Ok(_) => of_dir.clone().or_else(|| others_write(&path)),
            };
            found.push(Script { path, weight, refused });
        }
    }
    Ok(found)
}

/// Says who else could write there: such a program is not run as root.
fn others_write(path: &Path) -> Option<String> {
    let is_open = |seen: Metadata| seen.uid() != 0 || seen.mode() & 0o022 != 0;
    match fs::symlink_metadata(path).map(is_open) {
        Ok(false) => None,
        Ok(true) => Some(format!("not run: `{}` must be root's and writable by nobody else", path.display())),
        Err(error) => Some(format!("not run: `{}`: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "#!/bin/true\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn programs_are_found_by_weight_and_name_and_those_that_others_can_write_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find(dir.path()).unwrap(), []);
        let at = |name: &str| dir.path().join(name);
        write(&at("wanted.d/a"), 0o755);
        write(&at("required.d/b"), 0o755);
        write(&at("required.d/a"), 0o777);
        write(&at("required.d/README"), 0o644);
        let found = find(dir.path()).unwrap();
        let seen: Vec<_> = found.iter().map(|script| (script.path.clone(), script.weight)).collect();
        let (must, may) = (Weight::Required, Weight::Wanted);
        assert_eq!(seen, [(at("required.d/a"), must), (at("required.d/b"), must), (at("wanted.d/a"), may)]);
        let is_root = rustix::process::geteuid().is_root();
        let refused: Vec<bool> = found.iter().map(|script| script.refused.is_some()).collect();
        assert_eq!(refused, [true, !is_root, !is_root]);
    }
}
