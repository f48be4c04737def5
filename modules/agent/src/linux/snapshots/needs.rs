//! Which sets the machine's own records name: without them the next sync would compare everything, or take its own work for
//! somebody else's.

use pc_switcher_contract::{Attempt, PairRecord, SessionId, SetId};

use crate::data::apply::PENDING;
use crate::linux::state::StateDir;
use crate::proto::{AgentError, DeadmanState, Need};

/// Below this key lie the pair records, by the machine id of the other machine.
pub const PAIRS: &str = "pairs/";
/// Below this key lie the source's pre sets of syncs that are not recorded (yet), by the machine id of the target.
pub const ATTEMPTS: &str = "attempts/";

/// What the records of one machine name.
#[derive(Debug, Default)]
pub struct Needs {
    sets: Vec<(SetId, Need)>,
    sessions: Vec<SessionId>,
}

impl Needs {
    /// Reads the records of the machine with this id.
    ///
    /// # Errors
    /// If one cannot be read: what it names is not known then.
    pub fn read(state: &StateDir, machine_id: &str) -> Result<Self, AgentError> {
        let mut needs = Self::default();
        let mut pairs: Vec<(String, PairRecord)> = Vec::new();
        for key in state.list(PAIRS)? {
            let pair: Option<PairRecord> = read(state, &key)?;
            pairs.extend(pair.map(|pair| (key.trim_start_matches(PAIRS).to_owned(), pair)));
        }
        for (_, pair) in &pairs {
            let ours = [&pair.source, &pair.target].into_iter().find(|end| end.machine_id == machine_id);
            let theirs = [&pair.source, &pair.target].into_iter().find(|end| end.machine_id != machine_id);
            if let Some((ours, theirs)) = ours.zip(theirs) {
                let need = || Need::Pair(theirs.hostname.to_string());
                needs.sets.extend(ours.set.iter().map(|set| (set.id(), need())));
            }
        }
        for key in state.list(ATTEMPTS)? {
            let other = key.trim_start_matches(ATTEMPTS).to_owned();
            let last = pairs.iter().find(|(name, _)| *name == other).map(|(_, pair)| pair);
            let hostname = last.and_then(|last| {
                [&last.source, &last.target].into_iter().find(|end| end.machine_id != machine_id)
            });
            let name = hostname.map_or_else(
                || format!("machine {}", other.trim_end_matches(".json")),
                |end| end.hostname.to_string(),
            );
            let attempts: Vec<Attempt> = read(state, &key)?.unwrap_or_default();
            let is_open = |attempt: &&Attempt| {
                last.is_none_or(|last| attempt.session != last.session && attempt.stamp >= last.stamp)
            };
            let open = attempts.iter().filter(is_open).filter_map(|attempt| attempt.set.as_ref());
            needs.sets.extend(open.map(|set| (set.id(), Need::Attempt(name.clone()))));
        }
        for key in state.list(PENDING)? {
            needs.sessions.extend(key.rsplit('/').next().and_then(|session| session.parse().ok()));
        }
        // Without its sets nobody can take it back.
        let deadman =
            state.get(DeadmanState::KEY)?.map(|bytes| DeadmanState::read(&bytes)).unwrap_or_default();
        needs.sessions.extend(deadman.armed.map(|armed| armed.wish.session));
        Ok(needs)
    }

    /// Returns why a set is needed; nothing if it is not.
    pub fn of(&self, id: &SetId) -> Vec<Need> {
        let named = self.sets.iter().filter(|(named, _)| named == id).map(|(_, need)| need.clone());
        let pending = self.sessions.contains(&id.session).then_some(Need::Commit);
        named.chain(pending).collect()
    }
}

fn read<T: serde::de::DeserializeOwned>(state: &StateDir, key: &str) -> Result<Option<T>, AgentError> {
    let parse = |bytes: Vec<u8>| {
        serde_json::from_slice(&bytes).map_err(|error| {
            AgentError::failed(format!(
                "the record `{}` cannot be read, so which sets it names is not known: {error}; a sync with that machine \
                 writes it anew",
                state.root().join(key).display()
            ))
        })
    };
    state.get(key)?.map(parse).transpose()
}

#[cfg(test)]
mod tests {
    use pc_switcher_contract::{PairEnd, SnapshotKind, SnapshotSet};

    use super::*;

    fn set(session: &str, stamp: &str, kind: SnapshotKind) -> SnapshotSet {
        SnapshotSet {
            hostname: "laptop".parse().unwrap(),
            kind,
            stamp: stamp.parse().unwrap(),
            session: session.parse().unwrap(),
            consistent: true,
            members: Vec::new(),
        }
    }

    fn pair() -> PairRecord {
        let end = |name: &str, kind| PairEnd {
            hostname: name.parse().unwrap(),
            machine_id: format!("id-of-{name}"),
            set: Some(set("aaaaaaaa", "20251115T120000Z", kind)),
            manifests: Vec::new(),
        };
        PairRecord {
            format: PairRecord::FORMAT,
            session: "aaaaaaaa".parse().unwrap(),
            stamp: "20251115T120500Z".parse().unwrap(),
            source: end("laptop", SnapshotKind::PreSync),
            target: end("desk", SnapshotKind::PostSync),
            rule_hash: String::new(),
            unsettled: Vec::new(),
            unsent: Vec::new(),
            apart: Vec::new(),
            alien: Vec::new(),
            lacking: Vec::new(),
            parts: Vec::new(),
        }
    }

    fn state() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        state.put("pairs/idofdesk.json", Some(&serde_json::to_vec(&pair()).unwrap())).unwrap();
        (dir, state)
    }

    #[test]
    fn each_machine_needs_its_own_end_of_a_pair_alone() {
        let (_dir, state) = state();
        let [pre, post] = [SnapshotKind::PreSync, SnapshotKind::PostSync]
            .map(|kind| set("aaaaaaaa", "20251115T120000Z", kind).id());
        let laptop = Needs::read(&state, "id-of-laptop").unwrap();
        assert_eq!((laptop.of(&pre), laptop.of(&post)), (vec![Need::Pair("desk".into())], vec![]));
        let desk = Needs::read(&state, "id-of-desk").unwrap();
        assert_eq!((desk.of(&pre), desk.of(&post)), (vec![], vec![Need::Pair("laptop".into())]));
    }

    #[test]
    fn unfinished_syncs_after_the_last_record_and_open_commits_are_needed() {
        let (_dir, state) = state();
        let [old, new] = [("bbbbbbbb", "20251114T120000Z"), ("cccccccc", "20251116T120000Z")]
            .map(|(session, stamp)| set(session, stamp, SnapshotKind::PreSync));
        let attempts = [Some(old.clone()), Some(new.clone()), pair().source.set].map(|set| {
            let of = set.clone().unwrap();
            Attempt { session: of.session, stamp: of.stamp, set }
        });
        let attempts = serde_json::to_vec(&attempts).unwrap();
        state.put("attempts/idofdesk.json", Some(&attempts)).unwrap();
        state.put("commits/dddddddd", Some(b"whatever")).unwrap();
        let needs = Needs::read(&state, "id-of-laptop").unwrap();
        assert_eq!(needs.of(&old.id()), []);
        assert_eq!(needs.of(&new.id()), [Need::Attempt("desk".into())]);
        assert_eq!(
            needs.of(&set("dddddddd", "20251116T120000Z", SnapshotKind::PreSync).id()),
            [Need::Commit]
        );
        state.put("pairs/idofdesk.json", None).unwrap();
        let needs = Needs::read(&state, "id-of-laptop").unwrap();
        assert_eq!(needs.of(&old.id()), [Need::Attempt("machine idofdesk".into())]);
    }

    #[test]
    fn a_record_that_cannot_be_read_is_no_record_of_nothing() {
        let (_dir, state) = state();
        state.put("pairs/idoftower.json", Some(b"{")).unwrap();
        let error = Needs::read(&state, "id-of-laptop").unwrap_err();
        assert!(error.message.contains("pairs/idoftower.json"), "{error}");
    }
}
