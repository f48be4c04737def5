//! What is remembered of machines that were met, by what the user types for them: only what saves time at the next contact.
//! What cannot be read counts as not known, and what cannot be written is forgotten.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// So many machines are remembered; with one more, all others are forgotten.
const MOST: usize = 100;

/// What is remembered of one machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Met {
    /// Whether its processor knows AES.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) aes: Option<bool>,
}

/// Returns what is remembered of `target` in `file`.
pub(super) fn recall(file: &Path, target: &OsStr) -> Met {
    read(file).get(&*target.to_string_lossy()).copied().unwrap_or_default()
}

/// Remembers what was found out about `target`; writes only what is new, whole or not at all.
pub(super) fn remember(file: &Path, target: &OsStr, met: Met) {
    let mut all = read(file);
    let name = target.to_string_lossy().into_owned();
    if all.get(&name).copied().unwrap_or_default() == met {
        return;
    }
    if all.len() >= MOST && !all.contains_key(&name) {
        all.clear();
    }
    all.insert(name, met);
    let _ = write(file, &all);
}

fn read(file: &Path) -> BTreeMap<String, Met> {
    std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn write(file: &Path, all: &BTreeMap<String, Met>) -> std::io::Result<()> {
    let dir = file.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(dir)?;
    let mut new = tempfile::NamedTempFile::new_in(dir)?;
    new.write_all(&serde_json::to_vec(all)?)?;
    new.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_remembered_comes_back_and_damage_is_nothing_known() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/hosts.json");
        let (desk, aes) = (OsStr::new("me@desk"), |aes| Met { aes });
        assert_eq!(recall(&file, desk), aes(None));
        remember(&file, desk, aes(None));
        assert!(!file.exists(), "nothing is known and nothing is written");
        remember(&file, desk, aes(Some(false)));
        remember(&file, OsStr::new("laptop"), aes(Some(true)));
        assert_eq!([recall(&file, desk), recall(&file, OsStr::new("desk"))], [aes(Some(false)), aes(None)]);
        std::fs::write(&file, "{").unwrap();
        assert_eq!(recall(&file, desk), aes(None));
        remember(&file, desk, aes(Some(true)));
        assert_eq!(recall(&file, desk), aes(Some(true)));
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts.json");
        let name = |at: usize| format!("host-{at}");
        for at in 0..=MOST {
            remember(&file, name(at).as_ref(), Met { aes: Some(true) });
        }
        assert_eq!(read(&file).len(), 1);
        assert_eq!(recall(&file, name(MOST).as_ref()).aes, Some(true));
    }
}
