//! Which sync is meant: pure.

use pc_switcher_agent::proto::StoredSet;
use pc_switcher_contract::{Hostname, SessionId, SnapshotKind, SnapshotSet};

use crate::cli::CliError;

/// Both ends of a sync on the machine that was its target.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) pre: SnapshotSet,
    pub(super) post: SnapshotSet,
}

/// Finds the sync that was named, or the last one that changed this machine. `sets` come oldest first.
///
/// # Errors
/// If there is none, it changed nothing here, or did not come to its end.
pub(super) fn choose(
    sets: &[StoredSet],
    session: Option<&SessionId>,
    hostname: &Hostname,
) -> Result<Chosen, CliError> {
    let usage = |message: String, help: String| CliError::Usage { message, help: Some(help) };
    let came = || sets.iter().filter(|stored| stored.has_steps && stored.set.kind == SnapshotKind::PreSync);
    let Some(session) = session else {
        let last =
            came().max_by_key(|stored| (stored.set.transaction(), stored.set.id())).ok_or_else(|| {
                usage(
                    format!("no sync changed anything on {hostname}, as far as its snapshots tell"),
                    "on the machine that was the target: `pc-switcher undo --machine TARGET`".into(),
                )
            })?;
        return with_post(sets, last, hostname);
    };
    if let Some(pre) = came().find(|stored| stored.set.session == *session) {
        return with_post(sets, pre, hostname);
    }
    if sets.iter().any(|stored| stored.set.session == *session) {
        return Err(usage(
            format!("session `{session}` changed nothing on {hostname}"),
            format!("if another machine was its target: `pc-switcher undo {session} --machine TARGET`"),
        ));
    }
    let known: Vec<String> = came().rev().take(5).map(|stored| format!("`{}`", stored.set.session)).collect();
    let help = match known.is_empty() {
        true => "`pc-switcher snapshots list` shows what there is".into(),
        false => format!("syncs that changed {hostname}, the newest first: {}", known.join(", ")),
    };
    Err(usage(format!("there is no session `{session}` on {hostname}"), help))
}

fn with_post(sets: &[StoredSet], pre: &StoredSet, hostname: &Hostname) -> Result<Chosen, CliError> {
    let session = &pre.set.session;
    let post = sets
        .iter()
        .find(|stored| stored.set.session == *session && stored.set.kind == SnapshotKind::PostSync);
    match post {
        Some(post) => Ok(Chosen { pre: pre.set.clone(), post: post.set.clone() }),
        None => Err(CliError::Refused {
            message: format!(
                "nothing tells what sync `{session}` left on {hostname}: it took no snapshots at its end, so what people \
                 changed since cannot be told from what it changed"
            ),
            help: Some(format!("what was there before it lies in `{}`", pre.set.members[0].path)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(session: &str, stamp: &str, kind: SnapshotKind, has_steps: bool) -> StoredSet {
        let name = format!("@home-{}-{stamp}-{session}", kind.in_name());
        let member = pc_switcher_contract::SnapshotMember {
            path: format!("/.snapshots/{name}").as_str().into(),
            name: name.parse().unwrap(),
            uuid: String::new(),
            source_uuid: String::new(),
            id: 1,
            otransid: 1,
            ctransid: 1,
            first_taken: None,
            apart: None,
        };
        let set = SnapshotSet {
            hostname: "desk".parse().unwrap(),
            kind,
            stamp: stamp.parse().unwrap(),
            session: session.parse().unwrap(),
            consistent: true,
            members: vec![member],
        };
        StoredSet {
            backend: pc_switcher_agent::proto::Backend::Btrfs,
            set,
            pinned: false,
            hard: None,
            in_use: false,
            holders: Vec::new(),
            has_steps,
            needs: vec![],
            missing: vec![],
            away: vec![],
            words: Default::default(),
            system: None,
        }
    }

    fn sets() -> Vec<StoredSet> {
        use SnapshotKind::{PostSync, PreSync};
        vec![
            stored("aaaaaaaa", "20251115T120000Z", PreSync, true),
            stored("aaaaaaaa", "20251115T120100Z", PostSync, false),
            stored("bbbbbbbb", "20251116T120000Z", PreSync, true),
            stored("bbbbbbbb", "20251116T120100Z", PostSync, false),
            stored("cccccccc", "20251117T120000Z", PreSync, false),
            stored("dddddddd", "20251110T120000Z", PreSync, true),
        ]
    }

    fn ask(session: Option<&str>) -> Result<String, String> {
        let session = session.map(|session| session.parse().unwrap());
        let mut sets = sets();
        sets.sort_by_key(|stored| stored.set.id());
        let chosen = choose(&sets, session.as_ref(), &"desk".parse().unwrap());
        chosen
            .map(|chosen| {
                assert_eq!(chosen.pre.session, chosen.post.session);
                chosen.pre.session.to_string()
            })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_name_the_last_sync_that_changed_something_is_meant() {
        assert_eq!(ask(None).unwrap(), "bbbbbbbb");
        assert_eq!(ask(Some("aaaaaaaa")).unwrap(), "aaaaaaaa");
    }

    #[test]
    fn of_two_syncs_in_one_second_or_with_a_clock_set_back_between_them_the_later_on_the_disk_is_meant() {
        use SnapshotKind::{PostSync, PreSync};
        for stamps in [["20251115T120000Z"; 2], ["20251115T120000Z", "20251114T090000Z"]] {
            // By its name the first sync would be the later one.
            let mut sets = Vec::new();
            for (n, (session, stamp)) in ["ffffffff", "00000000"].into_iter().zip(stamps).enumerate() {
                for (kind, has_steps) in [(PreSync, true), (PostSync, false)] {
                    let mut one = stored(session, stamp, kind, has_steps);
                    one.set.members[0].otransid = 10 * (n as u64 + 1) + u64::from(kind == PostSync);
                    sets.push(one);
                }
            }
            for turn in 0..sets.len() {
                sets.rotate_left(turn);
                let chosen = choose(&sets, None, &"desk".parse().unwrap()).unwrap();
                assert_eq!(chosen.pre.session.as_str(), "00000000", "{stamps:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_taken_back_here_is_refused_with_the_reason() {
        assert!(ask(Some("cccccccc")).unwrap_err().contains("changed nothing on desk"));
        assert!(ask(Some("dddddddd")).unwrap_err().contains("took no snapshots at its end"));
        assert!(ask(Some("eeeeeeee")).unwrap_err().contains("there is no session"));
    }
}
