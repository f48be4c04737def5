//! The gates of this module: what it must not do without the user's word.

use pc_switcher_agent::proto::{FileTime, Op, UserFact};
use pc_switcher_contract::{BytePath, Gate, GateKind, Hostname, PairEnd, Role};

use crate::config::UserDataConfig;
use crate::parts::PartPair;
use crate::roots::place_of;
use crate::survey::{ConflictItem, Ours, Survey};

/// The file that each vault on a disk has in its directory.
const VAULT_MARKER: &str = "pc-switcher-vault";

/// Who is who at a gate.
#[derive(Debug, Clone, Copy)]
pub struct Hosts<'a> {
    /// Where the user worked.
    pub source: &'a Hostname,
    /// Where the user goes.
    pub target: &'a Hostname,
}

/// Whether the source's part looks replaced: it holds nothing though the target's does, or it is another subvolume than
/// last time. `end` is the source's end of the last sync; `then` says where the part lay at that time, on the source and on the
/// target: what is not mounted lies on another subvolume, on the target as well.
pub fn replaced_source(
    hosts: Hosts,
    part: &PartPair,
    end: Option<&PairEnd>,
    then: Option<[&(String, String); 2]>,
) -> Option<Gate> {
    // A subvolume inside the folder's one comes and goes as directories do, and nothing has to be mounted for it.
    if part.is_nested {
        return None;
    }
    let mut findings = Vec::new();
    for (hostname, now, then) in then.into_iter().flat_map(|[source, target]| {
        [(hosts.source, &part.source, source), (hosts.target, &part.target, target)]
    }) {
        let now = place_of(now);
        if now != *then {
            findings.push(format!(
                "{hostname}: `{}` lies on {} now, and lay on {} at the last sync; is everything mounted?",
                part.root,
                in_words(&now),
                in_words(then)
            ));
        }
    }
    if part.source.is_empty && !part.target.is_empty {
        findings.push(format!("{}: `{}` is empty; is it mounted?", hosts.source, part.root));
    }
    let set = end.and_then(|end| end.set.as_ref());
    let before = set.and_then(|set| set.member(part.source.subvolume.as_ref()?));
    if let Some(before) = before.filter(|before| before.source_uuid != part.source.subvolume_uuid) {
        findings.push(format!(
            "{}: `{}` is another subvolume than at the last sync of {}",
            hosts.source, part.root, before.name.stamp
        ));
    }
    (!findings.is_empty()).then(|| Gate {
        kind: GateKind::ReplacedSource,
        summary: None,
        findings,
        consequence: format!(
            "`{}` on {} becomes what it is on {} now",
            part.root, hosts.target, hosts.source
        ),
    })
}

/// Says where a part lies: the subvolume or the sort of file system, and the place in it.
fn in_words((holder, inside): &(String, String)) -> String {
    if inside.is_empty() { format!("`{holder}`") } else { format!("`{holder}` as `{inside}`") }
}

/// Whether paths are synced that were not synced before: for them there is no common past, so nothing would be a conflict.
/// `without_base` are the parts that the last sync did not hold.
pub fn new_paths(hosts: Hosts, rules_changed: bool, without_base: &[BytePath]) -> Option<Gate> {
    let mut findings = Vec::new();
    if rules_changed {
        findings.push(
            "the folders, the rules or the people on the machines are others than at the last sync"
                .to_owned(),
        );
    }
    findings.extend(without_base.iter().map(|root| format!("`{root}` was not part of the last sync")));
    (!findings.is_empty()).then(|| Gate {
        kind: GateKind::FirstSync,
        summary: None,
        findings,
        consequence: format!(
            "where {} has something in paths that were not synced before, it becomes what it is on {}",
            hosts.target, hosts.source
        ),
    })
}

/// Whether a person of the synced folders has other ids on the other machine: files travel with numbers, not names.
pub fn id_mismatch(
    hosts: Hosts,
    folders: &[BytePath],
    ours: &[UserFact],
    theirs: &[UserFact],
) -> Option<Gate> {
    let concerned = |user: &&UserFact| {
        folders.iter().any(|folder| user.home.is_within(folder) || folder.is_within(&user.home))
    };
    let mut findings = Vec::new();
    for user in ours.iter().filter(concerned) {
        let by_name = theirs.iter().find(|other| other.name == user.name);
        let by_id = theirs.iter().find(|other| other.uid == user.uid);
        match (by_name, by_id) {
            (Some(other), _) if (other.uid, other.gid) != (user.uid, user.gid) => findings.push(format!(
                "`{}` is {}:{} on {} and {}:{} on {}",
                user.name, user.uid, user.gid, hosts.source, other.uid, other.gid, hosts.target
            )),
            (None, Some(other)) => findings.push(format!(
                "{} is `{}` on {} and `{}` on {}",
                user.uid, user.name, hosts.source, other.name, hosts.target
            )),
            _ => {}
        }
    }
    (!findings.is_empty()).then(|| Gate {
        kind: GateKind::IdMismatch,
        summary: None,
        findings,
        consequence: format!(
            "files keep their numbers, so on {} they belong to whoever has these ids there",
            hosts.target
        ),
    })
}

/// Whether a folder loses very much: more than so many entries, or more than such a share of what the target has.
pub fn mass_deletion(
    hosts: Hosts,
    config: &UserDataConfig,
    folder: &BytePath,
    surveys: &[(&PartPair, &Survey)],
) -> Option<Gate> {
    let of_folder = || surveys.iter().filter(|(part, _)| part.folder == *folder).map(|(_, survey)| survey);
    let of_parts = || surveys.iter().map(|(part, _)| *part).filter(|part| part.folder == *folder);
    let deleted: u64 = of_folder().map(|survey| survey.steps.stats.deleted).sum();
    let there: u64 = of_folder().map(|survey| survey.target_entries).sum();
    is_mass(config, deleted, there).then(|| Gate {
        kind: GateKind::MassDeletion,
        summary: None,
        findings: vec![format!(
            "{}: `{folder}` would lose {deleted} of {there} entries ({:.0} %)",
            hosts.target,
            share(deleted, there) * 100.0
        )],
        consequence: format!("these entries are deleted on {}; {}", hosts.target, keeps(of_parts())),
    })
}

fn share(deleted: u64, there: u64) -> f64 {
    if there == 0 { 0.0 } else { deleted as f64 / there as f64 }
}

/// Whether so many deletions are asked about. A share says nothing about a handful of files; if it is most of what there is, fewer
/// are enough.
fn is_mass(config: &UserDataConfig, deleted: u64, there: u64) -> bool {
    let share = share(deleted, there);
    let handful = if share > 0.5 { 10 } else { 50 };
    deleted > config.mass_deletion_count.get()
        || share > config.mass_deletion_share.get() && deleted >= handful
}

/// Whether somebody's home on the target would be deleted because the source does not know that person.
pub fn lost_homes(hosts: Hosts, theirs: &[UserFact], surveys: &[(&PartPair, &Survey)]) -> Option<Gate> {
    let is_removed = |user: &&UserFact| {
        surveys.iter().any(|(part, survey)| {
            let removes =
                |op: &Op| matches!(op, Op::RemoveDir { path } if part.root.join(path.as_bytes()) == user.home);
            let is_emptied = part.is_missing(Role::Source) && user.home.is_within(&part.root);
            is_emptied || survey.steps.ops.iter().any(removes)
        })
    };
    let findings: Vec<String> = theirs
        .iter()
        .filter(is_removed)
        .map(|user| {
            format!(
                "{}: `{}`, the home of {}, is not on {}",
                hosts.target, user.home, user.name, hosts.source
            )
        })
        .collect();
    (!findings.is_empty()).then(|| Gate {
        kind: GateKind::MassDeletion,
        summary: None,
        findings,
        consequence: format!(
            "it is deleted on {}; {}",
            hosts.target,
            keeps(surveys.iter().map(|(part, _)| *part))
        ),
    })
}

/// Whether a vault would be removed that lies in a synced folder of the target: what is in it is the past of whoever stores there, and
/// the source knows nothing of it. No flag opens this gate.
pub fn lost_vaults(hosts: Hosts, surveys: &[(&PartPair, &Survey)]) -> Option<Gate> {
    let removed = surveys.iter().flat_map(|(part, survey)| {
        survey.steps.ops.iter().filter_map(|op| vault_of(op).map(|dir| part.root.join(dir.as_bytes())))
    });
    let findings: Vec<String> = removed
        .map(|dir| {
            format!(
                "{}: `{dir}` is a vault, and {} has none there; `exclude` in [user-data] leaves it alone, or move it out of the \
                 synced folders",
                hosts.target, hosts.source
            )
        })
        .collect();
    (!findings.is_empty()).then(|| Gate {
        kind: GateKind::LostVault,
        summary: None,
        findings,
        consequence: format!("all versions in it would be gone on {}", hosts.target),
    })
}

/// Returns the vault that loses its marker by a step.
fn vault_of(op: &Op) -> Option<BytePath> {
    match op {
        Op::Remove { path, .. } if path.name() == VAULT_MARKER.as_bytes() => path.parent(),
        _ => None,
    }
}

/// Returns the gate of all conflicts, with both versions of each path.
pub fn conflicts(hosts: Hosts, surveys: &[(&PartPair, &Survey)], now_seconds: i64) -> Option<Gate> {
    let lines: Vec<String> = conflict_lines(hosts, surveys, now_seconds);
    if lines.is_empty() {
        return None;
    }
    let (count, plural) = (lines.len(), if lines.len() == 1 { "" } else { "s" });
    Some(Gate {
        kind: GateKind::Conflicts,
        summary: Some(format!("{count} path{plural} changed on {} since the last sync", hosts.target)),
        findings: lines,
        consequence: format!(
            "the version of {} is taken; what {} has there is replaced: {}",
            hosts.source,
            hosts.target,
            keeps(surveys.iter().filter(|(_, survey)| !survey.conflicts.is_empty()).map(|(part, _)| *part))
        ),
    })
}

/// Says where the target's versions are after a sync.
fn keeps<'a>(parts: impl Iterator<Item = &'a PartPair> + Clone) -> String {
    let (mut live, mut sealed) = (parts.clone(), parts);
    match (sealed.any(|part| !part.is_live(Role::Target)), live.any(|part| part.is_live(Role::Target))) {
        (_, false) => "its pre-sync snapshot keeps that".into(),
        (false, true) => format!("{UNDO} keeps that until the next sync"),
        (true, true) => format!("its pre-sync snapshot keeps that, or {UNDO} until the next sync"),
    }
}

const UNDO: &str = "`.pc-switcher` in the folder";

/// Returns the gate of parts without snapshots.
pub fn no_snapshots(hosts: Hosts, parts: &[PartPair]) -> Option<Gate> {
    let mut findings = Vec::new();
    for part in parts {
        for (role, hostname) in [(Role::Source, hosts.source), (Role::Target, hosts.target)] {
            if part.is_live(role) {
                let fs_type = &part.end(role).fs_type;
                findings
                    .push(format!("{hostname}: `{}` lies on {fs_type}, which has no snapshots", part.root));
            }
        }
    }
    (!findings.is_empty()).then(|| Gate {
        kind: GateKind::NoSnapshots,
        summary: None,
        findings,
        consequence: "these folders are synced with weaker promises, which were named above".into(),
    })
}

/// Says in plain words what does not hold for folders without snapshots.
pub fn weaker_promises(hosts: Hosts, parts: &[PartPair]) -> Vec<String> {
    let is_live = |role| parts.iter().any(|part| part.is_live(role));
    let mut lines = Vec::new();
    if is_live(Role::Source) {
        lines.push(format!(
            "without snapshots on {}: its files are read while programs work on them, so they are not of one instant; one \
             that changes while it is read is named and left for the next sync",
            hosts.source
        ));
    }
    if is_live(Role::Target) {
        lines.push(format!(
            "without snapshots on {}: there is no way back to before this sync; what it replaces or deletes is kept in {UNDO} \
             until the next one, but modes, owners and times are not",
            hosts.target
        ));
    }
    if !lines.is_empty() {
        lines.push("without snapshots everything is compared in every sync, which takes longer".into());
    }
    lines
}

/// Returns a line per conflict: path, then both versions by hostname.
pub fn conflict_lines(hosts: Hosts, surveys: &[(&PartPair, &Survey)], now_seconds: i64) -> Vec<String> {
    let mut lines = Vec::new();
    for (part, survey) in surveys {
        for ConflictItem { path, stands, ours, theirs } in &survey.conflicts {
            let both = line(hosts, &part.root, ours, *theirs, now_seconds);
            let place = match stands == path {
                true => String::new(),
                false => format!(" as `{}`", part.root.join(stands.as_bytes())),
            };
            lines.push(format!("{}  {both}{place}", part.root.join(path.as_bytes())));
        }
    }
    lines
}

/// Writes what both machines have at a path below `root`.
fn line(hosts: Hosts, root: &BytePath, ours: &Ours, theirs: Option<(u64, FileTime)>, now: i64) -> String {
    let (source, target) = (hosts.source, hosts.target);
    let ours = match ours {
        Ours::Version(size, time) => format!("{source}: {}", version(*size, *time, now)),
        Ours::Link(to) => format!("{source}: another name of `{}`", root.join(to.as_bytes())),
        Ours::Deleted => format!("deleted on {source}"),
        Ours::Never => format!("not on {source}"),
    };
    let theirs = match theirs {
        Some((size, time)) => format!("{target}: {}", version(size, time, now)),
        None => format!("deleted on {target}"),
    };
    format!("{ours}  {theirs}")
}

fn version(size: u64, time: FileTime, now_seconds: i64) -> String {
    format!("{size} bytes, {}", age(now_seconds - time.seconds))
}

/// Writes how long ago something was.
fn age(seconds: i64) -> String {
    match seconds {
        ..0 => "in the future".into(),
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, uid: u32) -> UserFact {
        UserFact { name: name.into(), uid, gid: uid, home: BytePath::from(format!("/home/{name}").as_str()) }
    }

    #[test]
    fn other_ids_are_named_and_people_elsewhere_do_not_count() {
        let (laptop, desk) = ("laptop".parse().unwrap(), "desk".parse().unwrap());
        let hosts = Hosts { source: &laptop, target: &desk };
        let judge = |folder: &str, ours: &[UserFact], theirs: &[UserFact]| {
            id_mismatch(hosts, &[BytePath::from(folder)], ours, theirs).map(|gate| gate.findings)
        };
        let alice = user("alice", 1000);
        assert_eq!(judge("/home", std::slice::from_ref(&alice), std::slice::from_ref(&alice)), None);
        assert_eq!(
            judge("/home", std::slice::from_ref(&alice), &[user("alice", 1001)]),
            Some(vec!["`alice` is 1000:1000 on laptop and 1001:1001 on desk".to_owned()])
        );
        assert_eq!(
            judge("/home", std::slice::from_ref(&alice), &[user("bob", 1000)]),
            Some(vec!["1000 is `alice` on laptop and `bob` on desk".to_owned()])
        );
        assert_eq!(judge("/srv", std::slice::from_ref(&alice), &[user("alice", 1001)]), None);
    }

    #[test]
    fn a_vault_that_loses_its_marker_is_told_from_a_file_that_is_removed() {
        let time = FileTime { seconds: 1, nanos: 0 };
        let expect = pc_switcher_agent::proto::Identity { ino: 1, ctime: time, mtime: time, size: 1 };
        let removed = |path: &str| vault_of(&Op::Remove { path: path.into(), expect });
        assert_eq!(removed("alice/vault/pc-switcher-vault"), Some("alice/vault".into()));
        assert_eq!(removed("pc-switcher-vault"), Some(BytePath::default()));
        assert_eq!(removed("alice/pc-switcher-vault/data"), None);
        assert_eq!(vault_of(&Op::RemoveDir { path: "alice/pc-switcher-vault".into() }), None);
    }

    #[test]
    fn many_deletions_or_most_of_what_there_is_are_asked_about_and_a_handful_is_not() {
        let config = UserDataConfig::default();
        for (deleted, there) in [(1001, 1_000_000), (50, 199), (51, 100), (41, 46), (10, 19), (56, 56)] {
            assert!(is_mass(&config, deleted, there), "{deleted} of {there}");
        }
        for (deleted, there) in [(1000, 1_000_000), (49, 100), (50, 200), (9, 9), (10, 20), (0, 0)] {
            assert!(!is_mass(&config, deleted, there), "{deleted} of {there}");
        }
    }

    #[test]
    fn a_conflict_says_what_each_machine_has() {
        let (laptop, desk) = ("laptop".parse().unwrap(), "desk".parse().unwrap());
        let at = FileTime { seconds: 940, nanos: 0 };
        let say = |ours, theirs| {
            line(Hosts { source: &laptop, target: &desk }, &"/home".into(), &ours, theirs, 1000)
        };
        assert_eq!(
            say(Ours::Version(5, at), Some((7, at))),
            "laptop: 5 bytes, 60 s ago  desk: 7 bytes, 60 s ago"
        );
        assert_eq!(say(Ours::Deleted, Some((7, at))), "deleted on laptop  desk: 7 bytes, 60 s ago");
        assert_eq!(say(Ours::Never, Some((7, at))), "not on laptop  desk: 7 bytes, 60 s ago");
        assert_eq!(say(Ours::Version(5, at), None), "laptop: 5 bytes, 60 s ago  deleted on desk");
        assert_eq!(
            say(Ours::Link("a/b".into()), None),
            "laptop: another name of `/home/a/b`  deleted on desk"
        );
    }

    #[test]
    fn ages_are_said_in_the_unit_that_fits() {
        assert_eq!(
            [-1, 5, 600, 10_000, 900_000].map(age),
            ["in the future", "5 s ago", "10 min ago", "2 h ago", "10 days ago"]
        );
    }
}
