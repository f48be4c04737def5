//! What there is of sets and rollbacks on a machine: found by looking, and only if all of it is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use pc_switcher_agent::data::apply::Unwatched;
use pc_switcher_agent::linux::rollback;
use pc_switcher_agent::linux::snapshots::check_set;
use pc_switcher_agent::proto::{RollbackOrder, RollbackState, StoredSet, Strays, TrialFor};
use pc_switcher_contract::{SetId, SnapshotMember};

use super::host::{Host, names_in, word_in};
use super::story::Lot;
use crate::camera::End;

/// The words in the members of each set.
pub type Sets = BTreeMap<SetId, Vec<u32>>;

/// A machine at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub sets: Sets,
    pub trees: Trees,
}

/// What the next start finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trees {
    /// The words in both subvolumes.
    pub words: [u32; 2],
    /// What stands beside them.
    pub beside: Vec<String>,
    /// The files of a rollback and of the machine's state.
    pub files: Vec<String>,
    /// How it stands if the rollback is one on trial.
    pub trial: Option<On>,
}

/// How a rollback on trial stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// No start with all of the new trees was seen yet.
    ToBegin(TrialFor),
    /// Its time runs in some start, or did.
    Runs(TrialFor),
    /// The machine took it back by itself.
    Returned,
}

impl On {
    fn of(state: &RollbackState) -> Option<On> {
        let trial = state.trial.as_ref()?;
        Some(match (&trial.returned, &trial.began) {
            (Some(_), _) => On::Returned,
            (None, Some(began)) if !began.is_partly => On::Runs(trial.holds),
            _ => On::ToBegin(trial.holds),
        })
    }
}

impl State {
    /// Looks at a machine on which nothing is half done.
    pub fn read(host: &Host) -> Result<State, String> {
        let (stored, strays) = host.sets()?;
        if strays != Strays::default() {
            return Err(format!("besides the sets there is {strays:?}"));
        }
        let (dir, own) = (host.snapshot_dir(), host.snapshot_dir().join(".pc-switcher"));
        let expected: BTreeSet<String> = stored.iter().map(|stored| stored.set.id().to_string()).collect();
        same("sidecars", &expected, names_in(&own.join("sets")))?;
        let members = stored.iter().flat_map(|stored| &stored.set.members);
        let mut flat: BTreeSet<String> = members.map(|member| member.name.to_string()).collect();
        flat.extend(own.exists().then(|| ".pc-switcher".to_owned()));
        same("snapshots", &flat, names_in(&dir))?;
        same("birth places", &BTreeSet::new(), names_in(&own.join("tmp")))?;
        let pinned = stored.iter().filter(|stored| stored.hard.is_some());
        same(
            "pins",
            &pinned
                .flat_map(|stored| ["", ".intent"].map(|end| format!("{}{end}", stored.set.id())))
                .collect(),
            names_in(&own.join("pins")),
        )?;
        for stored in &stored {
            let allowed = ["intent", "meta.json", "toc", "lock", "refs", "pinned", "good", "packages"];
            let names = names_in(&own.join("sets").join(stored.set.id().to_string()));
            if let Some(name) = names.iter().find(|name| !allowed.contains(&name.as_str())) {
                return Err(format!("`{name}` is left beside set `{}`", stored.set.id()));
            }
        }
        Ok(State { sets: whole(host, &stored)?, trees: Trees::read(host)? })
    }

    /// Whether this is how a piece of work must end.
    pub fn fits(&self, end: End, lot: &Lot) -> bool {
        let Lot { before, after, between, .. } = lot;
        let one_of = |is_old: bool, is_new: bool| match end {
            End::Old => is_old,
            End::New => is_new,
            End::Either => is_old || is_new,
        };
        let is_between = end != End::Old && between.as_ref() == Some(&self.trees);
        let of_sets = match end {
            _ if is_between => lie_between(&self.sets, &before.sets, &after.sets),
            End::Either => lie_between(&self.sets, &before.sets, &after.sets),
            _ => one_of(self.sets == before.sets, self.sets == after.sets),
        };
        of_sets && (is_between || one_of(self.trees == before.trees, self.trees == after.trees))
    }
}

impl Trees {
    fn read(host: &Host) -> Result<Trees, String> {
        let (names, words) = host.top();
        let usual =
            |name: &String| host.layout().subvolumes().contains(&name.as_str()) || name == "@snapshots";
        let beside = names.into_iter().filter(|name| !usual(name)).collect();
        let mut files = names_in(&host.snapshot_dir().join(".pc-switcher/rollback"));
        // Once given, a word is kept; and what somebody may have worked on is noted before a way back is begun.
        files.retain(|name| !name.starts_with("decided-") && name != "worked");
        files.extend(names_in(&host.root().join("var/lib/pc-switcher")));
        // A process that lives may be writing; here one process is all of them.
        let own = format!(".{}-", std::process::id());
        files.retain(|name| !(name.contains(&own) && name.starts_with(".rollback")));
        files.sort();
        let look = host.agent(|state| rollback::run(&RollbackOrder::Look, state, &Unwatched));
        let look = look.map_err(|error| format!("nobody can look at the rollback: {error}"))?;
        Ok(Trees { words, beside, files, trial: look.state.as_ref().and_then(On::of) })
    }
}

/// Whether each set is of before or of after, and none is gone that is of both: of several that go with one piece of work some may have
/// gone.
pub fn lie_between(found: &Sets, before: &Sets, after: &Sets) -> bool {
    let is_known =
        |(id, words): (&SetId, &Vec<u32>)| [before, after].iter().any(|sets| sets.get(id) == Some(words));
    found.iter().all(is_known)
        && before.iter().all(|(id, words)| after.get(id) != Some(words) || found.contains_key(id))
}

/// Checks that all listed sets are whole, and returns what they hold.
pub fn whole(host: &Host, stored: &[StoredSet]) -> Result<Sets, String> {
    let mut sets = Sets::new();
    for stored in stored {
        let (set, id) = (&stored.set, stored.set.id());
        let bad = |why: String| format!("set `{id}` is listed and not whole: {why}");
        if !stored.missing.is_empty() || set.members.is_empty() {
            return Err(bad(format!("{:?} missing", stored.missing)));
        }
        check_set(set).map_err(bad)?;
        let first = set.members[0].otransid;
        // On a busy machine a set may say of itself that it is of two.
        if set.consistent && set.members.iter().any(|member| member.otransid != first) {
            return Err(bad("it says that it is of one instant, and is of two".into()));
        }
        let line = |member: &SnapshotMember| format!("{} {}\n", member.uuid, member.name);
        let toc = host.snapshot_dir().join(".pc-switcher/sets").join(id.to_string()).join("toc");
        let toc = fs::read_to_string(toc).unwrap_or_default();
        if toc != set.members.iter().map(line).collect::<String>() {
            return Err(bad(format!("its toc says {toc:?}")));
        }
        let words: Vec<u32> = set.members.iter().map(|member| word_in(member.path.as_path())).collect();
        if let Some(pin) = &stored.hard {
            let copy = |member: &SnapshotMember| pin.dir.as_path().join(member.name.to_string());
            let pinned: Vec<u32> = set.members.iter().map(|member| word_in(&copy(member))).collect();
            if pin.is_open || !pin.lacks.is_empty() || pinned != words {
                return Err(bad(format!("its pin is {pin:?} with {pinned:?}")));
            }
        }
        sets.insert(id, words);
    }
    Ok(sets)
}

fn same(what: &str, expected: &BTreeSet<String>, found: Vec<String>) -> Result<(), String> {
    let found: BTreeSet<String> = found.into_iter().collect();
    match found == *expected {
        true => Ok(()),
        false => Err(format!("{what}: {found:?} where {expected:?} are of sets")),
    }
}
