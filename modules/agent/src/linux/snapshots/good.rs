//! Marks of sets that are known to be good, and the pins that come with them.
//!
//! A person's mark stays until the person takes it away or gives it to another set. Of marks that came by themselves only the
//! newest of each kind stay, so that they never keep more sets than that from being pruned.
//!
//! The set that a person marked and the newest of all are pinned hard with their mark: whatever another tool removes, there is
//! something to go back to. Mark and pin come with one write of the record and go with one; a pin that somebody asked for is none
//! of these, and stays. Where no pin can be made the mark is given all the same, and what is said is why.

use std::io;

use pc_switcher_contract::SetId;

use super::check_member;
use super::pins::{is_full, of_this_disk};
use super::reference::Sole;
use super::sidecar::Meta;
use super::store::Store;
use crate::linux::trees::is_of_copies;
use crate::proto::{AgentError, GoodBy, GoodMark};

impl Store<'_> {
    /// Marks a set as good, or takes marks away. A new mark comes before any goes: at every moment there is one. Returns what is
    /// to be said, a line each.
    ///
    /// # Errors
    /// If there is no such set, it is another tool's, or a record cannot be written.
    pub(super) fn mark_good(&self, mark: &GoodMark) -> Result<Vec<String>, AgentError> {
        if let GoodMark::Set { id, .. } | GoodMark::None(Some(id)) = mark {
            self.of_ours(id)?;
        }
        let _creation = self.lock()?;
        let (mut notes, mut unpinnable) = (Vec::new(), None);
        match mark {
            GoodMark::Set { id, by, keep } => {
                let mut meta = self.published(id)?;
                // What somebody said counts for more than what was found.
                if !(is_by_hand(&meta) && *by != GoodBy::Hand) {
                    (meta.words.good, meta.words.good_by, meta.marked_good) = (true, *by, true);
                }
                let mut marked = self.marked()?;
                marked.retain(|other| other.set.id() != *id);
                marked.push(meta.clone());
                let is_held = to_hold(&marked).contains(id);
                if let Some(why) = self.put_mark(meta, is_held)? {
                    (notes, unpinnable) = (vec![why], Some(id));
                }
                for id in surplus(&self.marked()?, id, *by, *keep) {
                    notes.extend(self.unmark(&id)?);
                }
            }
            GoodMark::None(Some(id)) => notes.extend(self.unmark(id)?),
            GoodMark::None(None) => {
                for meta in self.marked()? {
                    notes.extend(self.unmark(&meta.set.id())?);
                }
            }
        }
        notes.extend(self.hold_good(unpinnable)?);
        Ok(notes)
    }

    /// Brings the pins of marked sets to what they should be: that of the newest may have to come, that of one before it to go. For
    /// `unpinnable` that was tried just now.
    fn hold_good(&self, unpinnable: Option<&SetId>) -> Result<Vec<String>, AgentError> {
        let marked = self.marked()?;
        let held = to_hold(&marked);
        let mut notes = Vec::new();
        let (to_come, to_go): (Vec<Meta>, Vec<Meta>) =
            marked.into_iter().partition(|meta| held.contains(&meta.set.id()));
        let is_to_pin = |meta: &Meta| meta.pin.is_empty() && unpinnable != Some(&meta.set.id());
        for meta in to_come.into_iter().filter(is_to_pin) {
            notes.extend(self.put_mark(meta, true)?);
        }
        // The one before the newest holds its own as long as that has none.
        let is_pinned = |id: &SetId| self.published(id).is_ok_and(|meta| !meta.pin.is_empty());
        if !held.iter().all(is_pinned) {
            return Ok(notes);
        }
        // One of which only the pin is left keeps it as long as it is marked.
        for mut meta in to_go.into_iter().filter(|meta| meta.good_pin && !self.is_all_by_pin(meta)) {
            let id = meta.set.id();
            self.let_go(&mut meta).map_err(|error| unwritten(&id, &error))?;
            // What stays of it is settled with the next set.
            let _ = self.settle_pin(&id);
        }
        Ok(notes)
    }

    /// Writes a record with its mark, and with a pin if it is to have one. Returns why it has none.
    fn put_mark(&self, mut meta: Meta, is_held: bool) -> Result<Option<String>, AgentError> {
        let id = meta.set.id();
        let mut why = None;
        let makes = is_held && meta.pin.is_empty();
        if makes {
            match self.check_pinnable(&meta.set).and_then(|()| self.make_pin(&meta.set)) {
                Ok(pin) => {
                    meta.pin = pin;
                    (meta.good_pin, meta.marked) = (true, true);
                }
                Err(error) => {
                    why =
                        Some(format!("set `{id}` is marked as good and not pinned hard: {}", error.message));
                }
            }
        }
        let is_new = self.published(&id)? != meta;
        let written = if is_new { self.sidecar(&id).put_meta(&meta) } else { Ok(()) };
        (self.after)("good");
        if makes {
            // What stays of a pin that the record does not name is settled with the next set.
            let _ = self.settle_pin(&id);
        }
        written.map(|()| why).map_err(|error| unwritten(&id, &error))
    }

    /// Takes a mark away, and the pin that came with it. Returns what is to be said.
    fn unmark(&self, id: &SetId) -> Result<Option<String>, AgentError> {
        let mut meta = self.published(id)?;
        if !meta.words.good {
            return Ok(None);
        }
        let stays = meta.good_pin && is_by_hand(&meta) && self.is_all_by_pin(&meta);
        (meta.words.good, meta.words.good_by, meta.marked_good) = (false, GoodBy::default(), false);
        if stays {
            // What a person has marked is not lost because another tool removed the rest of it.
            (meta.pinned, meta.good_pin, meta.marked) = (true, false, true);
            self.sidecar(id).put_meta(&meta).map_err(|error| unwritten(id, &error))?;
            return Ok(Some(format!(
                "set `{id}` is there by its pin alone, which stays; `pc-switcher snapshots unpin --allow-loss {id}` gives it up"
            )));
        }
        let (_sole, is_free) = self.may_lose(&meta).map_err(|error| unwritten(id, &error))?;
        let had_pin = meta.good_pin && is_free;
        let written = match had_pin {
            true => self.let_go(&mut meta),
            // Whoever takes or removes the next set when nobody reads in it any more lets its pin go.
            false => self.put_less(&meta),
        };
        (self.after)("unmarked");
        written.map_err(|error| unwritten(id, &error))?;
        if had_pin {
            // What stays of it is settled with the next set.
            let _ = self.settle_pin(id);
        }
        Ok(None)
    }

    /// Says durably that a set has no pin by its mark any more.
    pub(super) fn let_go(&self, meta: &mut Meta) -> io::Result<()> {
        meta.pin.clear();
        meta.good_pin = false;
        meta.marked &= meta.pinned;
        self.put_less(meta)
    }

    /// Writes a record that says less than before: where that cannot be done on a full disk, files go that its words need.
    fn put_less(&self, meta: &Meta) -> io::Result<()> {
        let sidecar = self.sidecar(&meta.set.id());
        let put = sidecar.put_meta(meta);
        if put.as_ref().is_err_and(|error| !is_full(error)) {
            return put;
        }
        let unmarked = [
            if meta.marked { Ok(()) } else { sidecar.unmark_pinned() },
            if meta.marked_good { Ok(()) } else { sidecar.unmark_good() },
        ];
        let said = sidecar.meta(&meta.set.id())?;
        match (said.words.good, said.good_pin) == (meta.words.good, meta.good_pin) {
            true => Ok(()),
            false => put.and_then(|()| unmarked.into_iter().collect()),
        }
    }

    /// Whether what a pin holds may go: not while somebody reads what only the pin has. Nobody comes to do so as long as the first
    /// of these is held.
    pub(super) fn may_lose(&self, meta: &Meta) -> io::Result<(Option<Sole>, bool)> {
        if !self.is_all_by_pin(meta) {
            return Ok((None, true));
        }
        let sole = Sole::take(&self.sidecar(&meta.set.id()))?;
        let is_free = sole.is_some();
        Ok((sole, is_free))
    }

    /// Whether a member is there by the pin alone.
    fn is_all_by_pin(&self, meta: &Meta) -> bool {
        !meta.pin.is_empty()
            && of_this_disk(&meta.set).any(|member| check_member(self.btrfs, member).is_err())
    }

    /// Whether a set is to have a pin for its mark.
    pub(super) fn is_to_hold(&self, id: &SetId) -> Result<bool, AgentError> {
        Ok(to_hold(&self.marked()?).contains(id))
    }

    /// Returns the sets that are marked. A record that cannot be read says nothing, so no mark either.
    fn marked(&self) -> Result<Vec<Meta>, AgentError> {
        let ids = self.ids().map_err(|error| AgentError::io("cannot list the sets", &error))?;
        let metas = ids.into_iter().filter_map(|id| self.published(&id).ok());
        Ok(metas.filter(|meta| meta.words.good).collect())
    }
}

fn is_by_hand(meta: &Meta) -> bool {
    meta.words.good && meta.words.good_by == GoodBy::Hand
}

fn unwritten(id: &SetId, error: &io::Error) -> AgentError {
    AgentError::io(format!("cannot write the record of set `{id}`"), error)
}

/// Returns the marked sets that are to be pinned hard: those of people, and the newest of all, to which `rollback good` goes back and
/// the boot falls back. Copies cannot be pinned so.
fn to_hold(marked: &[Meta]) -> Vec<SetId> {
    let snapshots = || marked.iter().filter(|meta| !is_of_copies(&meta.set));
    let newest = snapshots().map(|meta| (meta.set.transaction(), meta.set.id())).max().map(|(_, id)| id);
    let by_hand = snapshots().filter(|meta| is_by_hand(meta)).map(|meta| meta.set.id());
    by_hand.chain(newest).collect()
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
