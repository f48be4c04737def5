//! Which trees of a rollback something works on.

use super::checks::{self, Place};
use super::spaces::{self, Tree};
use super::steps::Names;
use super::users;
use crate::linux::btrfs::relative;
use crate::proto::{Reached, RollbackPhase, RollbackState, TreeUsers};
use pc_switcher_contract::{BytePath, SubvolumeName};

/// Returns the members whose other tree is still mounted: what runs works on it.
pub(super) fn in_use(state: &RollbackState) -> Vec<SubvolumeName> {
    checks::mounted(&places(state, |names| other(state, names)))
}

/// Returns the members whose tree in place is mounted.
pub(super) fn live_used(state: &RollbackState) -> Vec<SubvolumeName> {
    checks::mounted(&places(state, |names| names.live))
}

/// Whether something works on a tree that is in place.
pub(super) fn is_live_used(state: &RollbackState) -> bool {
    !live_used(state).is_empty()
}

/// Returns the other trees that are not mounted themselves, and in which somebody works who came there by the mount of something that
/// holds them, such as the top level. It keeps them from going, and nothing else: the machine works on those in place.
pub(super) fn reached(state: &RollbackState) -> Vec<Reached> {
    // Those are told by their mounts, if at all.
    let Ok(spaces) = spaces::all() else { return Vec::new() };
    let mounted = in_use(state);
    let mut seen = None;
    let places = places(state, |names| other(state, names));
    let found = places.iter().filter(|place| !mounted.contains(place.of)).filter_map(|place| {
        let device = checks::device_of(place.fs_uuid)?;
        let tree = Tree { device: &device, name: &place.name };
        let above = spaces::above(&spaces, &tree)?;
        let root = BytePath::from(format!("/{}", place.name).as_str());
        let at = above.point.join(relative(&root, &above.root).as_bytes());
        let users = match users::devices(place.fs_uuid, &place.name) {
            Ok(devices) if devices.is_disjoint(seen.get_or_insert_with(|| users::all_devices(&spaces))) => {
                return None;
            }
            // Who was there a moment ago may be gone.
            Ok(_) => {
                users::through(&spaces, place.fs_uuid, &place.name).ok().filter(|pids| !pids.is_empty())?
            }
            Err(_) => Vec::new(),
        };
        let users = if users.is_empty() { TreeUsers::default() } else { users::named(&users) };
        Some(Reached { name: place.of.clone(), at, users })
    });
    found.collect()
}

/// Returns the name of the tree that is not in place.
fn other(state: &RollbackState, names: Names) -> String {
    match state.phase {
        RollbackPhase::Cancelled => names.cancelled,
        _ => names.replaced,
    }
}

/// Returns where one of the trees of each member stands.
fn places(state: &RollbackState, name: impl Fn(Names) -> String) -> Vec<Place<'_>> {
    let place = |member| (member, name(Names::of(state, member)));
    let places = state.members.iter().map(place);
    places.map(|(member, name)| Place { of: &member.name, name, fs_uuid: &member.fs_uuid }).collect()
}
