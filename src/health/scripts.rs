//! Checks that people write: programs in directories that only root can write to.

use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use pc_switcher_contract::{Cmd, Output};

use super::Weight;

/// Where they lie, in `required.d` and `wanted.d`.
pub const HEALTH_DIR: &str = "/etc/pc-switcher/health";

/// The directories in it, in the order in which they are looked at.
const DIRS: [(&str, Weight); 2] = [("required.d", Weight::Required), ("wanted.d", Weight::Wanted)];

/// A program that checks something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) path: PathBuf,
    pub(super) weight: Weight,
    /// Why it is not run, if so.
    pub(super) refused: Option<String>,
}

/// The command that lists a directory of checks on whatever machine: kind, owner, mode and path of each entry.
pub(super) fn list(dir: &Path) -> Cmd {
    Cmd::new("find").arg(dir).args(["-maxdepth", "2", "-printf", r"%y %U %m %p\0"]).sudo()
}

/// Reads what [`list`] said: the programs by name, those first that are required. Other files are no programs.
///
/// # Errors
/// If it could not list a directory that is there.
pub(super) fn read(dir: &Path, output: &Output) -> Result<Vec<Script>, String> {
    if output.stdout.is_empty() && output.stderr_text().contains("No such file") {
        return Ok(Vec::new());
    }
    if !output.ok() {
        return Err(output.stderr_text().trim().to_owned());
    }
    let mut seen: Vec<Seen> = output.stdout.split(|byte| *byte == 0).filter_map(Seen::read).collect();
    seen.sort_by(|one, other| one.path.cmp(&other.path));
    let mut found = Vec::new();
    for (name, weight) in DIRS {
        let below = dir.join(name);
        let above = [below.as_path(), dir];
        let mut dirs = seen.iter().filter(|one| above.contains(&one.path.as_path()));
        let of_dirs = dirs.find_map(Seen::others_write);
        for one in seen.iter().filter(|one| one.path.parent() == Some(above[0]) && one.is_program()) {
            let refused = of_dirs.clone().or_else(|| one.others_write());
            found.push(Script { path: one.path.clone(), weight, refused });
        }
    }
    Ok(found)
}

/// An entry as it was listed.
struct Seen {
    kind: u8,
    owner: u32,
    mode: u32,
    path: PathBuf,
}

impl Seen {
    fn read(line: &[u8]) -> Option<Self> {
        let mut words = line.splitn(4, |byte| *byte == b' ');
        let mut word = || words.next();
        let (kind, owner, mode) = (*word()?.first()?, word()?, word()?);
        let text = |word| std::str::from_utf8(word).ok();
        Some(Self {
            kind,
            owner: text(owner)?.parse().ok()?,
            mode: u32::from_str_radix(text(mode)?, 8).ok()?,
            path: PathBuf::from(std::ffi::OsString::from_vec(word()?.to_vec())),
        })
    }

    /// A link has a mode that lets everybody write, so none is ever followed.
    fn is_program(&self) -> bool {
        self.kind == b'l' || self.kind == b'f' && self.mode & 0o111 != 0
    }

    /// Says who else could write there: such a program is not run as root.
    fn others_write(&self) -> Option<String> {
        let is_open = self.owner != 0 || self.mode & 0o022 != 0;
        is_open
            .then(|| format!("not run: `{}` must be root's and writable by nobody else", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &[&str], code: i32, stderr: &str) -> Output {
        Output {
            command: "find".into(),
            code,
            stdout: lines.iter().flat_map(|line| [line.as_bytes(), b"\0"].concat()).collect(),
            stderr: stderr.into(),
        }
    }

    #[test]
    fn programs_are_found_by_weight_and_name_and_those_that_others_can_write_are_refused() {
        let dir = Path::new("/h");
        let lines = [
            "d 0 755 /h",
            "d 0 755 /h/wanted.d",
            "f 0 755 /h/wanted.d/a",
            "d 0 755 /h/required.d",
            "f 0 755 /h/required.d/b",
            "f 0 777 /h/required.d/a",
            "f 1000 755 /h/required.d/of alice",
            "l 0 777 /h/required.d/link",
            "f 0 644 /h/required.d/README",
            "f 0 755 /h/elsewhere",
        ];
        let found = read(dir, &said(&lines, 0, "")).unwrap();
        let seen: Vec<_> = found
            .iter()
            .map(|script| (script.path.to_str().unwrap(), script.weight, script.refused.is_some()))
            .collect();
        let (must, may) = (Weight::Required, Weight::Wanted);
        assert_eq!(
            seen,
            [
                ("/h/required.d/a", must, true),
                ("/h/required.d/b", must, false),
                ("/h/required.d/link", must, true),
                ("/h/required.d/of alice", must, true),
                ("/h/wanted.d/a", may, false),
            ]
        );
        let lines = ["d 0 777 /h", "d 0 755 /h/wanted.d", "f 0 755 /h/wanted.d/a"];
        let found = read(dir, &said(&lines, 0, "")).unwrap();
        assert!(found[0].refused.as_ref().unwrap().contains("`/h` must be root's"));
    }

    #[test]
    fn a_directory_that_is_not_there_holds_none_and_one_that_cannot_be_read_is_an_error() {
        let dir = Path::new("/h");
        assert_eq!(read(dir, &said(&[], 1, "find: '/h': No such file or directory\n")), Ok(Vec::new()));
        assert!(read(dir, &said(&["d 0 755 /h"], 1, "find: '/h/required.d': Input/output error")).is_err());
    }
}
