//! Which set is meant: pure.

use pc_switcher_agent::proto::StoredSet;
use pc_switcher_contract::{Hostname, SetId, SnapshotKind, SnapshotSet, SubvolumeName};

use crate::cli::CliError;

/// Finds the set that was named, or the one that was taken before a session's first change, and which of its subvolumes
/// are meant.
///
/// # Errors
/// If there is none, or it does not hold a subvolume that was named.
pub(super) fn choose(
    sets: &[StoredSet],
    what: &str,
    subvolumes: &[SubvolumeName],
    hostname: &Hostname,
) -> Result<(SnapshotSet, Vec<SubvolumeName>), CliError> {
    let by_id = what.parse::<SetId>().ok();
    let is_it = |stored: &&StoredSet| match &by_id {
        Some(id) => stored.set.id() == *id,
        // A session's sets: its end is no place to go back to unless it is named.
        None => stored.set.session.as_str() == what && stored.set.kind != SnapshotKind::PostSync,
    };
    let found = sets.iter().find(is_it).ok_or_else(|| {
        let mut known: Vec<String> =
            sets.iter().rev().map(|stored| format!("`{}`", stored.set.session)).collect();
        known.dedup();
        known.truncate(5);
        CliError::Usage {
            message: format!("there is no set or session `{what}` on {hostname}"),
            help: Some(match known.is_empty() {
                true => format!("{hostname} has no sets of snapshots at all"),
                false => {
                    format!("the newest are {}; `pc-switcher snapshots list` shows all", known.join(", "))
                }
            }),
        }
    })?;
    let held: Vec<SubvolumeName> =
        found.set.members.iter().map(|member| member.name.subvolume.clone()).collect();
    if let Some(missing) = subvolumes.iter().find(|name| !held.contains(name)) {
        let held: Vec<String> = held.iter().map(|name| format!("`{name}`")).collect();
        return Err(CliError::Usage {
            message: format!("set `{}` does not hold `{missing}`", found.set.id()),
            help: Some(format!("it holds {}", held.join(", "))),
        });
    }
    let chosen = if subvolumes.is_empty() { held } else { subvolumes.to_vec() };
    Ok((found.set.clone(), chosen))
}
