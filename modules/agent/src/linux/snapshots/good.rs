//! Marks of sets that are known to be good.
//!
//! A person's mark stays until the person takes it away or gives it to another set. Of marks that came by themselves only the
//! newest of each kind stay, so that they never keep more sets than that from being pruned.

use std::io;

use pc_switcher_contract::SetId;

use super::sidecar::Meta;
use super::store::Store;
use crate::proto::{AgentError, GoodBy, GoodMark};

impl Store<'_> {
    /// Marks a set as good, or takes marks away. A new mark comes before any goes: at every moment there is one.
    ///
    /// # Errors
    /// If there is no such set, it is another tool's, or a record cannot be written.
    pub(super) fn mark_good(&self, mark: &GoodMark) -> Result<(), AgentError> {
        if let GoodMark::Set { id, .. } | GoodMark::None(Some(id)) = mark {
            self.of_ours(id)?;
        }
        let _creation = self.lock()?;
        let put = |id: &SetId, good: Option<GoodBy>| {
            let mut meta = self.published(id)?;
            let (is_good, by) = (good.is_some(), good.unwrap_or_default());
            if (meta.words.good, meta.words.good_by) == (is_good, by) {
                return Ok(());
            }
            (meta.words.good, meta.words.good_by) = (is_good, by);
            let written = self.sidecar(id).put_meta(&meta);
            written.map_err(|error| AgentError::io(format!("cannot write the record of set `{id}`"), &error))
        };
        let marked = self.marked().map_err(|error| AgentError::io("cannot list the sets", &error))?;
        match mark {
            GoodMark::Set { id, by, keep } => {
                let is_hands = |meta: &Meta| {
                    meta.set.id() == *id && meta.words.good_by == GoodBy::Hand && *by != GoodBy::Hand
                };
                // What somebody said counts for more than what was found.
                if !marked.iter().any(is_hands) {
                    put(id, Some(*by))?;
                }
                let marked = self.marked().map_err(|error| AgentError::io("cannot list the sets", &error))?;
                surplus(&marked, id, *by, *keep).iter().try_for_each(|id| put(id, None))
            }
            GoodMark::None(Some(id)) => put(id, None),
            GoodMark::None(None) => marked.iter().try_for_each(|meta| put(&meta.set.id(), None)),
        }
    }

    /// Returns the sets that are marked. A record that cannot be read says nothing, so no mark either.
    fn marked(&self) -> io::Result<Vec<Meta>> {
        let metas = self.ids()?.into_iter().filter_map(|id| self.published(&id).ok());
        Ok(metas.filter(|meta| meta.words.good).collect())
    }
}

/// Returns the sets that lose a mark of this kind because `new` got one.
fn surplus(marked: &[Meta], new: &SetId, by: GoodBy, keep: u32) -> Vec<SetId> {
    let keep = match by {
        GoodBy::Hand => 1,
        _ => usize::try_from(keep.max(1)).unwrap_or(usize::MAX),
    };
    let others = marked.iter().filter(|meta| meta.words.good_by == by && meta.set.id() != *new);
    let mut others: Vec<(u64, SetId)> = others.map(|meta| (meta.set.transaction(), meta.set.id())).collect();
    // Newest first; the new one counts whatever its age.
    others.sort_by(|a, b| b.cmp(a));
    others.into_iter().skip(keep - 1).map(|(_, id)| id).collect()
}
