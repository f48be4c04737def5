//! What the catalogue and the file system say together; nothing here needs a vault.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::known::Known;
use super::{Service, scan};
use crate::catalogue::{CurrentFile, FileFacts, Holder, KILLED, Operation, Version};
use crate::engine::{Trouble, kind_of};
use crate::error::{Result, usage};
use crate::format::NodeKind;
use crate::store::Depth;

/// How a file stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileStatus {
    /// Relative to the tracked directory; that of a directory ends with a slash.
    pub path: String,
    /// What it is; directories are listed if they are empty.
    #[serde(rename = "type")]
    pub kind: NodeKind,
    /// Whether there is a version of it.
    pub is_backed_up: bool,
    /// Whether a version waits for the next backup.
    pub is_staged: bool,
    /// Whether size or time differ from the current version.
    pub is_modified_since: bool,
    /// Whether it is gone.
    pub is_deleted: bool,
}

impl FileStatus {
    /// Returns the letters for people: `B`, `BM`, `S`, `BS`, `BMS`, `D` or `?`.
    pub fn letters(&self) -> String {
        if self.is_deleted {
            return "D".into();
        }
        let letters = [(self.is_backed_up, 'B'), (self.is_modified_since, 'M'), (self.is_staged, 'S')];
        let letters: String = letters.iter().filter(|(set, _)| *set).map(|(_, letter)| *letter).collect();
        if letters.is_empty() { "?".into() } else { letters }
    }
}

/// One version, for `log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionLine {
    /// Counts from 1.
    pub number: i64,
    /// When it was backed up.
    pub created_at: String,
    /// The SHA-256 of its content.
    pub checksum: String,
    /// Whether it is the one that counts.
    pub current: bool,
    /// What differs from the version before it.
    pub changed: Vec<&'static str>,
    /// The vaults from which it can be restored.
    pub vaults: Vec<String>,
    /// Those of them that must fetch it from cold storage first, by what the backup noted.
    pub after_thaw: Vec<String>,
    /// What `stat` said.
    #[serde(flatten)]
    pub facts: FileFacts,
}

/// The versions of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct History {
    /// The file.
    pub path: String,
    /// Whether it was gone at the last backup.
    pub deleted: bool,
    /// The newest first.
    pub versions: Vec<VersionLine>,
}

impl Service {
    /// Returns how the files of the tracked directory stand, from `path` down.
    ///
    /// # Errors
    /// If the path is not tracked, or the catalogue fails.
    pub fn status(&self, path: &Path, deep: bool, deleted: bool) -> Result<(Vec<FileStatus>, Vec<Trouble>)> {
        let (directory, name) = self.tracked(path)?;
        let known = Known::of(&self.catalogue, &directory, &name, deep)?;
        let mut rules = self.rules(&directory)?;
        rules.enter_down_to(path, &self.view)?;
        let mut all: Vec<(PathBuf, FileStatus)> = Vec::new();
        let mut found = |path: &Path, facts: &Metadata| {
            let name = path.strip_prefix(&directory.path).unwrap_or(path).to_owned();
            if !facts.is_dir() && self.is_restored_copy(&directory, &name)? {
                return Ok(());
            }
            let is_full = |path: &Path| path.read_dir().map_or(true, |mut entries| entries.next().is_some());
            if !facts.is_dir() || !is_full(&self.view.real(path)) {
                let status = status_of(&known, &name, &self.view.real(path), facts);
                all.push((name, status));
            }
            Ok(())
        };
        let unlisted = scan::entries(&directory.path, path, deep, &self.view, &mut rules, &mut found)?;
        let mut troubles = unlisted.troubles;
        let mut below = known.all_current().filter(|file| file.name.starts_with(&name)).peekable();
        if is_gone(&self.view.real(path), NodeKind::Dir) && below.peek().is_some() {
            // Of what a backup found gone there is no current version: it comes back as it was at a moment.
            let at = if below.all(|file| file.deleted) { " --at TIME" } else { "" };
            // A file that is gone is told as such; of a directory that is, all is.
            troubles.iter_mut().filter(|one| one.path == path).for_each(|one| {
                one.why = format!(
                    "is not there; `bt dir status --deleted` lists what was, and `bt restore {}{at} --in-place` brings it back",
                    path.display()
                );
            });
        }
        if deleted {
            let here = |file: &&CurrentFile| deep || file.name.parent() == Some(name.as_path());
            let gone =
                |file: &&CurrentFile| is_gone(&directory.path.join(&file.name), file.version.facts.kind);
            for file in known.all_current().filter(here).filter(gone) {
                all.push((file.name.clone(), deleted_status(file)));
            }
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok((all.into_iter().map(|(_, status)| status).collect(), troubles))
    }

    /// Returns the versions of a file, which need not be there any more.
    ///
    /// # Errors
    /// If it is not tracked or has no versions.
    pub fn history_of(&self, path: &Path) -> Result<History> {
        let (directory, name) = self.tracked(path)?;
        let file = self.catalogue.find_file_by_path(&directory, &name)?;
        let file = file.ok_or_else(|| {
            usage(format!("there is no version of `{}`", path.display()))
                .hint("`bt add` and `bt backup` make one")
        })?;
        let versions = self.catalogue.find_file_snapshots_for_file(&file)?;
        // All at once: one query for each of a thousand versions takes longer than all else.
        let holders = self.catalogue.locations_of_versions(&file)?;
        let is_cold =
            |holder: &Holder| holder.class.as_deref().is_some_and(|class| Depth::of(class).is_some());
        let mut lines = Vec::new();
        for (index, version) in versions.iter().enumerate() {
            let names = |is: &dyn Fn(&Holder) -> bool| -> Vec<String> {
                let holders = holders.get(&version.content_id).into_iter().flatten();
                holders.filter(|holder| is(holder)).map(|holder| holder.vault.clone()).collect()
            };
            lines.push(VersionLine {
                number: version.number,
                created_at: version.created_at.clone(),
                checksum: version.content_id.hex(),
                current: Some(&version.id) == file.current_snapshot_id.as_ref(),
                changed: versions.get(index + 1).map(|before| changes(before, version)).unwrap_or_default(),
                vaults: names(&|_| true),
                after_thaw: names(&is_cold),
                facts: version.facts.clone(),
            });
        }
        Ok(History { path: path.display().to_string(), deleted: file.deleted, versions: lines })
    }

    /// Returns the last commands that changed something, the newest first.
    ///
    /// # Errors
    /// If the catalogue fails.
    pub fn operations(&self, most: usize) -> Result<Vec<Operation>> {
        let mut all = self.catalogue.operations(most)?;
        let is_running = |one: &Operation| one.status == "running";
        // Whoever works holds the lock.
        if all.iter().any(is_running) && self.lock().is_ok() {
            all.iter_mut().filter(|one| is_running(one)).for_each(|one| one.status = KILLED.into());
        }
        Ok(all)
    }
}

/// Whether there is nothing of this kind at a path any more.
pub(super) fn is_gone(path: &Path, kind: NodeKind) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match fs::symlink_metadata(path) {
        Ok(facts) => kind_of(&facts) != kind,
        Err(error) => matches!(error.kind(), NotFound | NotADirectory),
    }
}

fn status_of(known: &Known, name: &Path, real: &Path, facts: &Metadata) -> FileStatus {
    let current = known.current(name);
    let kind = kind_of(facts);
    FileStatus {
        path: shown(name, kind),
        kind,
        is_backed_up: current.is_some(),
        is_staged: known.is_staged(name),
        is_modified_since: current.is_some_and(|file| !is_same(&file.version.facts, real, facts)),
        is_deleted: false,
    }
}

/// Whether something is what was backed up, as far as a glance tells.
fn is_same(then: &FileFacts, real: &Path, now: &Metadata) -> bool {
    if then.kind != kind_of(now) {
        return false;
    }
    let modified_at = now.mtime().saturating_mul(1_000_000_000).saturating_add(now.mtime_nsec());
    match then.kind {
        NodeKind::File => (then.size, then.modified_at) == (now.len(), modified_at),
        NodeKind::Symlink => {
            fs::read_link(real).is_ok_and(|target| target.as_os_str().as_encoded_bytes() == then.target)
        }
        _ => {
            let device = if matches!(then.kind, NodeKind::Dev | NodeKind::CharDev) { now.rdev() } else { 0 };
            let rights = (then.permissions, then.uid, then.gid);
            rights == (now.mode() & 0o7777, now.uid(), now.gid()) && then.device == device
        }
    }
}

/// Returns a name for people.
fn shown(name: &Path, kind: NodeKind) -> String {
    format!("{}{}", name.display(), if kind == NodeKind::Dir { "/" } else { "" })
}

fn deleted_status(file: &CurrentFile) -> FileStatus {
    let kind = file.version.facts.kind;
    FileStatus {
        path: shown(&file.name, kind),
        kind,
        is_backed_up: true,
        is_staged: false,
        is_modified_since: false,
        is_deleted: true,
    }
}

/// Returns what differs between two versions, in words.
fn changes(before: &Version, after: &Version) -> Vec<&'static str> {
    let (a, b) = (&before.facts, &after.facts);
    let all = [
        (a.kind != b.kind, "kind"),
        (before.content_id != after.content_id, "content"),
        (a.target != b.target, "target"),
        (a.permissions != b.permissions, "rights"),
        ((a.uid, a.gid) != (b.uid, b.gid), "owner"),
        (a.modified_at != b.modified_at, "modification time"),
        (a.xattrs != b.xattrs, "attributes"),
    ];
    all.iter().filter(|(differs, _)| *differs).map(|(_, word)| *word).collect()
}

#[cfg(test)]
mod tests {
    use super::super::world::{World, back_up, stage};
    use super::*;
    use crate::engine::Quiet;
    use crate::service::{RestoreOrder, Which};
    use crate::store::Thaw;

    #[test]
    fn what_brings_a_directory_back_is_what_would_do_it() {
        let mut world = World::new();
        let docs = world.home.path().canonicalize().unwrap().join("docs");
        let sub = docs.join("sub");
        fs::create_dir(&sub).unwrap();
        for name in ["sub/a", "sub/b", "c"] {
            fs::write(docs.join(name), name).unwrap();
        }
        world.hour += 1;
        world.now(|service| stage(service).and_then(|()| back_up(service)));
        fs::remove_dir_all(&sub).unwrap();
        let said = |world: &World| {
            let service = world.service(world.state.path(), world.store.clone(), std::process::id());
            let (_, troubles) = service.status(&sub, true, false).unwrap();
            troubles.into_iter().map(|one| one.why).collect::<Vec<_>>().join(" ")
        };
        let restore = |world: &World, which: Which| {
            let mut service = world.service(world.state.path(), world.store.clone(), std::process::id());
            let order = RestoreOrder {
                path: sub.clone(),
                which,
                to: None,
                in_place: true,
                content_only: false,
                short_name: false,
                thaw: Thaw::default(),
            };
            service.restore(&order, &mut |_| Ok(b"x".into()), &Quiet::default())
        };
        let advice = |how: &str| format!("`bt restore {}{how} --in-place`", sub.display());
        let (plain, moment) = (advice(""), advice(" --at TIME"));
        assert!(said(&world).contains(&plain), "{}", said(&world));
        // A backup notes that all of it is gone.
        world.hour += 1;
        world.now(|service| stage(service).and_then(|()| back_up(service)));
        assert!(restore(&world, Which::Current).unwrap_err().to_string().contains("there is no version of"));
        assert!(said(&world).contains(&moment), "{}", said(&world));
        let then = jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_mins(90);
        restore(&world, Which::At(then)).unwrap();
        assert_eq!(fs::read(sub.join("b")).unwrap(), b"sub/b");
    }
}
