//! Taking and removing sets while somebody looks on at each step, for tests that cut the power there.

use std::path::Path;

use pc_switcher_contract::{SetId, SnapshotSet};

use super::needs::Needs;
use super::set;
use super::sidecar::Said;
use super::store::Store;
use crate::data::apply::Watch;
use crate::linux::btrfs::KernelBtrfs;
use crate::linux::machine;
use crate::linux::mounts::Mounts;
use crate::proto::{AgentError, GoodMark, PinRequest, SetRequest, SetsRequest, TakeSet};

/// As [`super::take_set`]; the set is free at once.
///
/// # Errors
/// As [`super::take_set`]. What `watch` says is not heard.
pub fn take_watched(request: &TakeSet, watch: &dyn Watch) -> Result<SnapshotSet, AgentError> {
    let after = |step| {
        let _ = watch.after(step);
    };
    let store = Store { after: &after, ..Store::new(&KernelBtrfs, request.snapshot_dir.as_path()) };
    let taken = set::take(&store, &Mounts::read()?, machine::hostname()?, request, &Said::default());
    taken.map(|(set, _)| set)
}

/// As [`super::pin_set`].
///
/// # Errors
/// As [`super::pin_set`]. What `watch` says is not heard.
pub fn pin_watched(request: &PinRequest, watch: &dyn Watch) -> Result<(), AgentError> {
    let after = |step| {
        let _ = watch.after(step);
    };
    let PinRequest { set, order } = request;
    let store = Store { after: &after, ..Store::new(&KernelBtrfs, set.snapshot_dir.as_path()) };
    store.pin_as(&set.id, order)
}

/// As [`super::delete_set`] of a set that no sync needs.
///
/// # Errors
/// As [`super::delete_set`]. What `watch` says is not heard.
pub fn delete_watched(request: &SetRequest, watch: &dyn Watch) -> Result<(), AgentError> {
    let after = |step| {
        let _ = watch.after(step);
    };
    let store = Store { after: &after, ..Store::new(&KernelBtrfs, request.snapshot_dir.as_path()) };
    store.delete(&request.id, || Ok(Vec::new()))
}

/// As [`super::delete_sets`] of sets that no sync needs.
///
/// # Errors
/// As [`super::delete_sets`]. What `watch` says is not heard.
pub fn delete_all_watched(
    request: &SetsRequest,
    watch: &dyn Watch,
) -> Result<Vec<(SetId, Option<String>)>, AgentError> {
    let after = |step| {
        let _ = watch.after(step);
    };
    let store = Store { after: &after, ..Store::new(&KernelBtrfs, request.snapshot_dir.as_path()) };
    store.delete_all(&request.ids, || Ok(Needs::default()))
}

/// As [`super::mark_good`].
///
/// # Errors
/// As [`super::mark_good`]. What `watch` says is not heard.
pub fn mark_good_watched(
    snapshot_dir: &Path,
    mark: &GoodMark,
    watch: &dyn Watch,
) -> Result<Vec<String>, AgentError> {
    let after = |step| {
        let _ = watch.after(step);
    };
    let store = Store { after: &after, ..Store::new(&KernelBtrfs, snapshot_dir) };
    store.mark_good(mark)
}
