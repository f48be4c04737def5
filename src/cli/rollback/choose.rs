//! Which set is meant: pure.

use pc_switcher_agent::proto::StoredSet;
use pc_switcher_contract::{SnapshotKind, SnapshotSet, SubvolumeName};

use crate::cli::CliError;
use crate::cli::snapshots::Found;

/// Finds the set that was named, or the one that was taken before a session's first change, and which of its subvolumes
/// are meant.
///
/// # Errors
/// If there is none, or it does not hold a subvolume that was named.
pub(super) fn choose(
    sets: &Found,
    what: &str,
    subvolumes: &[SubvolumeName],
) -> Result<(SnapshotSet, Vec<SubvolumeName>), CliError> {
    let meant = sets.meant(what)?;
    // A session's sets: its end is no place to go back to unless it is the set that is named, or marked as good.
    let is_session = meant.iter().any(|stored| stored.set.session.as_str() == what);
    let is_it = |stored: &&&StoredSet| !is_session || stored.set.kind != SnapshotKind::PostSync;
    let found = meant.iter().find(is_it).ok_or_else(|| CliError::Usage {
        message: format!("of session `{what}` {} has only the set after its sync", sets.hostname),
        help: Some("name that set if you want to go back to it: `pc-switcher snapshots list --json`".into()),
    })?;
    if found.set.members.iter().any(|member| member.name.subvolume.directory().is_some()) {
        return Err(CliError::Usage {
            message: format!(
                "set `{}` holds copies of directories: only snapshots of subvolumes can be gone back to as a whole",
                found.set.id()
            ),
            help: Some("`pc-switcher snapshots restore --in-place` brings back what you name".into()),
        });
    }
    let held: Vec<SubvolumeName> =
        found.set.members.iter().map(|member| member.name.subvolume.clone()).collect();
    if let Some(missing) = subvolumes.iter().find(|name| !held.contains(name)) {
        let held: Vec<String> = held.iter().map(|name| format!("`{name}`")).collect();
        return Err(CliError::Usage {
            message: format!("set `{}` does not hold `{missing}`", found.set.id()),
            help: Some(format!("it holds {}", held.join(", "))),
        });
    }
    // Those inside of others come along with them as they are, unless they are named (docs/adr/0024).
    // Those on another disk stay as they are, unless they are named: then it is said why.
    let at_hand = found.set.members.iter().filter(|member| member.apart.is_none());
    let at_hand = at_hand.map(|member| &member.name.subvolume);
    let outer: Vec<SubvolumeName> = at_hand.filter(|name| !name.is_nested()).cloned().collect();
    let all = if outer.is_empty() { held } else { outer };
    let chosen = if subvolumes.is_empty() { all } else { subvolumes.to_vec() };
    Ok((found.set.clone(), chosen))
}

/// Returns what of a set does not go back with those that were chosen since it lies on another disk; nothing if they were named: then
/// that is all that was wanted.
pub(super) fn on_another_disk(
    set: &SnapshotSet,
    named: &[SubvolumeName],
    chosen: &[SubvolumeName],
) -> Vec<SubvolumeName> {
    if !named.is_empty() {
        return Vec::new();
    }
    let apart = set.members.iter().filter(|member| member.apart.is_some());
    apart.map(|member| member.name.subvolume.clone()).filter(|name| !chosen.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use pc_switcher_agent::proto::Strays;
    use pc_switcher_contract::Apart;

    use super::*;
    use crate::cli::snapshots::tests::stored;

    #[test]
    fn what_lies_on_another_disk_stays_and_is_known_unless_others_were_named() {
        let id = "20251115T120000Z-0a1b2c3d-presync";
        let mut set = stored(id, 5).set;
        let mut system = set.members[0].clone();
        system.name.subvolume = "@".parse().unwrap();
        let order = set.members[0].order();
        set.members[0].apart = Some(Apart {
            fs_uuid: "bbbb".into(),
            dir: "/srv/@snapshots".into(),
            place_uuid: "cccc".into(),
            at: order,
        });
        set.members.push(system);
        let found = Found {
            sets: vec![StoredSet { set: set.clone(), ..stored(id, 5) }],
            hostname: set.hostname.clone(),
            strays: Strays::default(),
        };
        let (root, home): (SubvolumeName, SubvolumeName) = ("@".parse().unwrap(), "@home".parse().unwrap());
        let (_, chosen) = choose(&found, id, &[]).unwrap();
        assert_eq!(chosen, std::slice::from_ref(&root));
        assert_eq!(on_another_disk(&set, &[], &chosen), std::slice::from_ref(&home));
        assert_eq!(on_another_disk(&set, std::slice::from_ref(&root), &chosen), []);
        assert_eq!(on_another_disk(&set, &[], &[root, home]), []);
    }
}
