//! Takes out of snapshots what nothing holds any more.

use std::collections::HashMap;

use pc_switcher_contract::ModuleError;
use serde_json::{Map, Value, json};

use crate::engine::{Observer, check_cancelled};
use crate::error::{Result, damaged, unsteady};
use crate::format::{BlobKind, Id, NodeKind, Snapshot, Tree};
use crate::repo::{Held, Packer, Repository, Writer};
use crate::store::Kind;

/// What a snapshot is marked with of which something was lost; `restic repair snapshots` uses the same word.
pub const REPAIRED: &str = "repaired";

/// What the copy of a snapshot that went is called beside the repository.
const DROPPED: &str = "all/dropped.";

/// What became of snapshots.
#[derive(Default)]
pub(super) struct Dropped {
    /// Those that lost what is lost, each with the one in its place.
    pub(super) rewritten: Vec<(Id, Option<Id>)>,
    /// Those that went.
    pub(super) removed: Vec<String>,
}

/// Puts snapshots that lack nothing in the place of those that do, and removes those of which nothing is left and those that are
/// damaged themselves; of each that goes a copy stays beside the repository. Without a lock it only says which.
pub(super) fn drop_lost(
    repo: &Repository,
    snapshots: &[(Id, Snapshot)],
    damaged: &[String],
    alone: Option<&Held>,
    observer: &dyn Observer,
) -> Result<Dropped> {
    let mut done = Dropped::default();
    let writer = Writer::new(repo)?;
    let packer = alone.map(|_| writer.packer(BlobKind::Tree)).transpose()?;
    let mut without = Without { repo, packer, known: HashMap::new(), observer };
    let mut wanted = Vec::new();
    for (id, snapshot) in snapshots {
        match without.lost(snapshot.tree)? {
            Some(tree) if tree == snapshot.tree => {}
            tree => wanted.push((*id, snapshot, tree)),
        }
    }
    if let Some(packer) = &mut without.packer {
        packer.flush()?;
    }
    writer.index()?;
    for (id, snapshot, tree) in wanted {
        let Some(alone) = alone else {
            match tree {
                Some(_) => done.rewritten.push((id, None)),
                None => done.removed.push(id.hex()),
            }
            continue;
        };
        alone.prove()?;
        let fresh = tree.map(|tree| put_in_place_of(repo, id, snapshot, tree)).transpose()?;
        if let (Some(fresh), Some(tree)) = (fresh, tree) {
            // What takes its place is read before it goes.
            repo.load::<Snapshot>(Kind::Snapshot, &fresh.hex())?;
            repo.tree(tree)?;
        }
        remove(repo, &id.hex(), |_| true)?;
        match fresh {
            Some(_) => done.rewritten.push((id, fresh)),
            None => done.removed.push(id.hex()),
        }
    }
    for name in damaged {
        if let Some(alone) = alone {
            alone.prove()?;
            remove(repo, name, |bytes| Id::of(bytes).hex() != *name)?;
        }
        done.removed.push(name.clone());
    }
    Ok(done)
}

/// Removes a snapshot that still is what it was taken for; a copy of it stays beside the repository.
fn remove(repo: &Repository, name: &str, is_so: impl Fn(&[u8]) -> bool) -> Result<()> {
    let bytes = repo.get_or_salvage(Kind::Snapshot, name)?.unwrap_or_default();
    if !is_so(&bytes) {
        return Err(unsteady(format!("snapshot `{name}`"), &repo.store().place()));
    }
    repo.store().put(Kind::Meta, &format!("{DROPPED}{name}"), &bytes)?;
    repo.store().delete(Kind::Snapshot, name)
}

/// Writes a snapshot of what is left. What other writers say in it beside what is known here stays.
fn put_in_place_of(repo: &Repository, id: Id, snapshot: &Snapshot, tree: Id) -> Result<Id> {
    let mut fresh: Map<String, Value> = repo.load(Kind::Snapshot, &id.hex())?;
    let mut tags = snapshot.tags.clone();
    if tags.iter().all(|tag| tag != REPAIRED) {
        tags.push(REPAIRED.into());
    }
    let original = snapshot.original.unwrap_or(id);
    fresh.extend([
        ("tree".to_owned(), json!(tree)),
        ("original".into(), json!(original)),
        ("tags".into(), json!(tags)),
    ]);
    repo.save(Kind::Snapshot, &fresh)
}

/// Trees without what is lost.
struct Without<'w, 'r> {
    repo: &'r Repository,
    /// Without one nothing is written.
    packer: Option<Packer<'w, 'r>>,
    known: HashMap<Id, Option<Id>>,
    observer: &'w dyn Observer,
}

impl Without<'_, '_> {
    /// Returns the tree that has what is left of this one, which may be itself; `None` if it is lost.
    fn lost(&mut self, tree: Id) -> Result<Option<Id>> {
        if let Some(known) = self.known.get(&tree) {
            return Ok(*known);
        }
        check_cancelled(self.observer)?;
        let is_there =
            |kind: BlobKind, id: &Id| self.repo.find(kind, id).is_some() || self.repo.lies_as_other(kind, id);
        let left = match is_there(BlobKind::Tree, &tree) {
            false => None,
            true => {
                // What is there and cannot be read is not lost: that is for a run that reads everything.
                let blob = self.repo.blob(BlobKind::Tree, tree)?;
                let known = Tree::from_blob(&blob).map_err(|why| damaged(format!("tree `{tree}`"), why))?;
                // As its writer wrote it, with what is not known here.
                let mut written: Map<String, Value> =
                    serde_json::from_slice(&blob).map_err(|why| damaged(format!("tree `{tree}`"), why))?;
                let before = match written.get_mut("nodes") {
                    Some(Value::Array(nodes)) => std::mem::take(nodes),
                    _ => Vec::new(),
                };
                let (mut nodes, mut is_changed) = (Vec::with_capacity(before.len()), false);
                for (node, mut written) in known.nodes.iter().zip(before) {
                    if node.kind == NodeKind::Dir {
                        let below = node.subtree.map(|subtree| self.lost(subtree)).transpose()?.flatten();
                        let below = below.map_or_else(|| self.put(b"{\"nodes\":[]}\n"), Ok)?;
                        if node.subtree != Some(below) {
                            is_changed = true;
                            written["subtree"] = json!(below);
                        }
                    }
                    let is_whole = node.content.iter().flatten().all(|id| {
                        self.repo.find(BlobKind::Data, id).is_some()
                            || self.repo.lies_as_other(BlobKind::Data, id)
                    });
                    match is_whole {
                        true => nodes.push(written),
                        false => is_changed = true,
                    }
                }
                written.insert("nodes".into(), nodes.into());
                Some(match is_changed {
                    true => {
                        let text = serde_json::to_string(&written);
                        let text = text.map_err(|error| ModuleError::failed(error.to_string()))?;
                        self.put(format!("{text}\n").as_bytes())?
                    }
                    false => tree,
                })
            }
        };
        self.known.insert(tree, left);
        Ok(left)
    }

    fn put(&mut self, tree: &[u8]) -> Result<Id> {
        match &mut self.packer {
            Some(packer) => packer.add(tree),
            None => Ok(Id::of(tree)),
        }
    }
}
