//! Restores from a snapshot that is named by its id: also one that somebody else wrote, of which the catalogue knows nothing.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use super::Service;
use super::restore::{Waiting, fetched_of};
use super::vaults::Passphrase;
use crate::engine::{Cold, Observer, RestoreSummary, Restorer, Swept};
use crate::error::{Result, usage};
use crate::format::{Id, Node, NodeKind, Snapshot};
use crate::repo::{Held, Repository};
use crate::store::{Kind, Thaw};

/// What is to be restored from a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotOrder {
    /// The id of the snapshot, or its beginning.
    pub snapshot: String,
    /// Only the vault of this name.
    pub only: Option<String>,
    /// Files and directories; each by the names that it may have there, of which the first one counts that is there. Everything if
    /// none is named.
    pub paths: Vec<Vec<PathBuf>>,
    /// Below which directory.
    pub to: PathBuf,
    /// Whether rights, owner, times and attributes are left alone.
    pub content_only: bool,
    /// How what lies in cold storage is to be fetched.
    pub thaw: Thaw,
}

/// What was restored from a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotReport {
    /// The vault that holds it.
    pub vault: String,
    /// Its id.
    pub id: Id,
    /// What it says of itself.
    pub snapshot: Snapshot,
    /// What came back.
    pub summary: RestoreSummary,
    /// What can be restored once it was fetched from cold storage.
    pub waiting: Option<Waiting>,
}

/// A snapshot that was found, in a vault that is locked as long as it is read.
struct Found {
    vault: String,
    repo: Repository,
    id: Id,
    snapshot: Snapshot,
    _lock: Option<Held>,
}

impl Service {
    /// Restores a snapshot, or what is named of it, below a directory. A single directory brings what is in it, several paths come
    /// under their own names.
    ///
    /// # Errors
    /// If there is no such snapshot or path, a vault cannot be used, or the run was cancelled.
    pub fn restore_snapshot(
        &mut self,
        order: &SnapshotOrder,
        passphrase: &mut Passphrase<'_>,
        observer: &dyn Observer,
    ) -> Result<SnapshotReport> {
        let wanted = order.snapshot.to_ascii_lowercase();
        if wanted.is_empty() || wanted.len() > 64 || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(usage(format!("`{}` is no id of a snapshot", order.snapshot))
                .hint("`bt list --snapshots` names them"));
        }
        let Found { vault, repo, id, snapshot, _lock } = self.find_snapshot(&wanted, order, passphrase)?;
        repo.load_index()?;
        let nodes = match wanted_of(&repo, (id, &snapshot), &order.paths) {
            // What tells what is in it lies in cold storage itself.
            Err(_) if repo.store().has_cold() => None,
            nodes => Some(nodes?),
        };
        let text = format!("snapshot {} to {}", id.short(), order.to.display());
        let work = |_: &mut Self, _| {
            let swept = Swept::default();
            let restorer = Restorer { repo: &repo, content_only: order.content_only, observer, swept };
            let summary = match nodes {
                Some(nodes) => restorer.nodes(nodes, &order.to)?,
                None => {
                    let cold = Cold { directories: 1, ..Cold::default() };
                    RestoreSummary { cold, ..RestoreSummary::default() }
                }
            };
            let cold = match summary.full {
                None => summary.cold.clone(),
                Some(_) => Cold::default(),
            };
            Ok((fetched_of(&vault, &repo, cold, order.thaw, observer)?, summary))
        };
        let tell = |(waiting, summary): &(Option<Waiting>, RestoreSummary)| {
            let (files, troubles) = (summary.files, summary.troubles.len());
            let room = summary
                .full
                .as_ref()
                .map_or_else(String::new, |full| format!(", no room for {} more", full.files_left));
            let cold = waiting.as_ref().map_or_else(String::new, |waiting| format!(", {}", waiting.words()));
            let is_all = troubles == 0 && summary.full.is_none() && waiting.is_none();
            (is_all, format!("{files} files, {troubles} troubles{room}{cold}"))
        };
        let (waiting, summary) = self.operation("restore", &text, work, tell)?;
        Ok(SnapshotReport { vault, id, snapshot, summary, waiting })
    }

    /// Looks for a snapshot in one vault after the other; one that cannot be used counts only if no other has it.
    fn find_snapshot(
        &mut self,
        wanted: &str,
        order: &SnapshotOrder,
        passphrase: &mut Passphrase<'_>,
    ) -> Result<Found> {
        let (mut why, mut names) = (None, Vec::new());
        for settings in self.chosen(order.only.as_deref())? {
            let vault = settings.name.clone();
            let opened = self.open_vault(&settings, passphrase).and_then(|repo| {
                let lock = repo.lock_to_read(&self.around.who, &self.around.clock)?;
                Ok((repo, lock.held()))
            });
            let (repo, _lock) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    why.get_or_insert(error);
                    continue;
                }
            };
            let listed = repo.store().list(Kind::Snapshot)?.into_iter().map(|(name, _)| name);
            let fitting: Vec<String> = listed.filter(|name| name.starts_with(wanted)).collect();
            match fitting.as_slice() {
                [] => names.push(format!("`{vault}`")),
                [only] => {
                    let id = only.parse().map_err(usage)?;
                    let snapshot = repo.load(Kind::Snapshot, only)?;
                    return Ok(Found { vault, repo, id, snapshot, _lock });
                }
                several => {
                    let several: Vec<&str> =
                        several.iter().map(|name| name.get(..16).unwrap_or(name)).collect();
                    return Err(usage(format!(
                        "several snapshots in `{vault}` begin with `{wanted}`: {}",
                        several.join(", ")
                    ))
                    .hint("name more of it"));
                }
            }
        }
        Err(why.unwrap_or_else(|| {
            usage(format!("no snapshot in {} begins with `{wanted}`", names.join(" or ")))
                .hint("`bt list --snapshots` names them")
        }))
    }
}

/// Returns the entries that are restored.
fn wanted_of(repo: &Repository, of: (Id, &Snapshot), paths: &[Vec<PathBuf>]) -> Result<Vec<Node>> {
    let root = of.1.tree;
    let mut wanted = Vec::new();
    for path in paths {
        let mut missing = None;
        let mut found = None;
        for way in path {
            match find(repo, root, way)? {
                Ok(node) => {
                    found = Some(node);
                    break;
                }
                Err(nearest) => missing = missing.or(Some(nearest)),
            }
        }
        match (found, missing) {
            (Some(node), _) => wanted.push(node),
            (None, nearest) => {
                let shown = path.first().map(|path| path.display().to_string()).unwrap_or_default();
                let error = usage(format!("`{shown}` is not in the snapshot `{}`", of.0.short()));
                return Err(match nearest {
                    Some(nearest) => error.hint(format!("`{}` is there", nearest.display())),
                    None => error,
                });
            }
        }
    }
    match wanted.as_mut_slice() {
        [] => Ok(repo.tree(root)?.nodes),
        // The root itself, or one directory: what is in it.
        [None] => Ok(repo.tree(root)?.nodes),
        [Some(Node { kind: NodeKind::Dir, subtree: Some(tree), .. })] => Ok(repo.tree(*tree)?.nodes),
        _ => {
            let mut names = HashSet::new();
            let mut all = Vec::new();
            for node in wanted {
                let node = node.ok_or_else(|| usage("`/` is everything: name it alone"))?;
                if !names.insert(node.name.clone()) {
                    return Err(usage(format!("two of the paths are called `{}`", node.name.display()))
                        .hint("restore one after the other, each to a directory of its own"));
                }
                all.push(node);
            }
            Ok(all)
        }
    }
}

/// Returns what a path names, `None` of the root; or the nearest directory above it that is there.
fn find(repo: &Repository, root: Id, path: &Path) -> Result<std::result::Result<Option<Node>, PathBuf>> {
    let (mut tree, mut nearest, mut last) = (Some(root), PathBuf::from("/"), None);
    for part in path.components() {
        let name = match part {
            Component::Normal(name) => name,
            Component::ParentDir => return Ok(Err(nearest)),
            _ => continue,
        };
        let Some(within) = tree else { return Ok(Err(nearest)) };
        if let Some(node) = last.take() {
            let Node { name, .. } = node;
            nearest.push(name);
        }
        let Some(node) = repo.tree(within)?.find(name).cloned() else { return Ok(Err(nearest)) };
        tree = node.subtree;
        last = Some(node);
    }
    Ok(Ok(last))
}
