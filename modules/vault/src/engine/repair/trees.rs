//! Takes out of snapshots what nothing holds any more.

use std::collections::HashMap;

use crate::engine::{Observer, check_cancelled};
use crate::error::Result;
use crate::format::{BlobKind, Id, NodeKind, Snapshot, Tree};
use crate::repo::{Held, Packer, Repository, Writer};
use crate::store::Kind;

/// What a snapshot is marked with of which something was lost; `restic repair snapshots` uses the same word.
pub const REPAIRED: &str = "repaired";

/// Puts snapshots that lack nothing in the place of those that do, and removes those that are damaged themselves; without a lock
/// it only says which.
pub(super) fn drop_lost(
    repo: &Repository,
    snapshots: &[(Id, Snapshot)],
    damaged: &[String],
    alone: Option<&Held>,
    observer: &dyn Observer,
) -> Result<Vec<(Id, Option<Id>)>> {
    let mut replaced: Vec<(Id, Option<Id>)> = Vec::new();
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
            replaced.push((id, None));
            continue;
        };
        alone.prove()?;
        let fresh = tree.map(|tree| {
            let original = snapshot.original.or(Some(id));
            let mut fresh = Snapshot { tree, original, ..snapshot.clone() };
            if fresh.tags.iter().all(|tag| tag != REPAIRED) {
                fresh.tags.push(REPAIRED.into());
            }
            repo.save(Kind::Snapshot, &fresh)
        });
        let fresh = fresh.transpose()?;
        repo.store().delete(Kind::Snapshot, &id.hex())?;
        replaced.push((id, fresh));
    }
    for name in damaged {
        if let Some(alone) = alone {
            alone.prove()?;
            repo.store().delete(Kind::Snapshot, name)?;
        }
        replaced.extend(name.parse().ok().map(|id: Id| (id, None)));
    }
    Ok(replaced)
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
                let before = self.repo.tree(tree)?;
                let mut nodes = Vec::with_capacity(before.nodes.len());
                for node in &before.nodes {
                    let mut node = node.clone();
                    if node.kind == NodeKind::Dir {
                        let below = node.subtree.map(|subtree| self.lost(subtree)).transpose()?.flatten();
                        node.subtree = Some(below.map_or_else(|| self.put(&Tree::default()), Ok)?);
                    }
                    let is_whole = node.content.iter().flatten().all(|id| {
                        self.repo.find(BlobKind::Data, id).is_some()
                            || self.repo.lies_as_other(BlobKind::Data, id)
                    });
                    if is_whole {
                        nodes.push(node);
                    }
                }
                let after = Tree { nodes };
                Some(if after == before { tree } else { self.put(&after)? })
            }
        };
        self.known.insert(tree, left);
        Ok(left)
    }

    fn put(&mut self, tree: &Tree) -> Result<Id> {
        let blob = tree.to_blob().map_err(pc_switcher_contract::ModuleError::failed)?;
        match &mut self.packer {
            Some(packer) => packer.add(&blob),
            None => Ok(Id::of(&blob)),
        }
    }
}
