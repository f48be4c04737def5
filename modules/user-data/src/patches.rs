//! Which large files are sent as what changed in them: those that nobody changed on the target since the last sync, so that
//! the version there is the one that the source had then.

use std::collections::{BTreeMap, HashMap, HashSet};

use pc_switcher_agent::proto::{Kind, ReadWant};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{BytePath, ModuleContext, ModuleError, PairRecord, Role};

use crate::change::{Change, Found};
use crate::compare::Walk;
use crate::moves::Moves;
use crate::parts::PartPair;
use crate::roots::Roots;
use crate::survey::base_of;

/// Smaller files are sent whole: asking costs more.
const LARGE: u64 = 1 << 20;

/// So many directories that moved are asked about, at most.
const PLACES: usize = 64;

/// What can be patched.
#[derive(Debug, Default)]
pub struct Patches {
    /// Where the source has the older versions.
    pub base: Option<BytePath>,
    /// How many bytes changed of each file, relative to the part's root.
    pub bytes: HashMap<BytePath, u64>,
}

/// A file of which only what changed is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// The number its content travels under.
    pub content: u32,
    /// Its path relative to the part's root.
    pub path: BytePath,
    /// Where both machines had its older version.
    pub then: BytePath,
}

/// Directories that hold the newer versions of files and the older ones, under the same names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tops {
    now: BytePath,
    then: BytePath,
}

impl Tops {
    /// Returns both in the trees of the newer and the older versions.
    pub fn of(&self, newer: &BytePath, older: &BytePath) -> [BytePath; 2] {
        let inside = |root: &BytePath, top: &BytePath| match top.is_empty() {
            true => root.clone(),
            false => root.join(top.as_bytes()),
        };
        [inside(newer, &self.now), inside(older, &self.then)]
    }
}

/// Brings files together whose directories moved alike. One that has another name than its older version is in none.
pub fn by_place(patches: &[Patch]) -> BTreeMap<Tops, Vec<ReadWant>> {
    let mut places: BTreeMap<Tops, Vec<ReadWant>> = BTreeMap::new();
    for Patch { content, path, then } in patches {
        let (mut now_top, mut then_top) = (path.clone(), then.clone());
        if path == then {
            (now_top, then_top) = Default::default();
        }
        while !now_top.is_empty() && !then_top.is_empty() && now_top.name() == then_top.name() {
            now_top = now_top.parent().unwrap_or_default();
            then_top = then_top.parent().unwrap_or_default();
        }
        let rest = path.as_bytes().get(now_top.as_bytes().len()..).unwrap_or_default();
        let rest = BytePath::new(rest.strip_prefix(b"/").unwrap_or(rest));
        if !rest.is_empty() {
            let tops = Tops { now: now_top, then: then_top };
            places.entry(tops).or_default().push(ReadWant { content: *content, path: rest });
        }
    }
    places
}

/// Asks the source how much of its large files changed.
///
/// # Errors
/// If the agent fails or the run is stopped.
pub async fn ask(
    ctx: &ModuleContext,
    part: &PartPair,
    roots: &Roots,
    found: &[Found],
    moves: &Moves,
) -> Result<Patches, ModuleError> {
    let Some(pair) = ctx.board.pair() else { return Ok(Patches::default()) };
    let Some(base) = base(ctx, part, &pair) else { return Ok(Patches::default()) };
    let different: HashSet<&BytePath> = pair.unsettled.iter().chain(&pair.apart).collect();
    let is_same_then = |found: &&Found| !different.contains(&part.root.join(found.path.as_bytes()));
    let candidates: Vec<&Found> = found.iter().filter(|found| can_be(found)).filter(is_same_then).collect();
    // What moved has its older version where the target still has it.
    let patch = |(found, content): (&&Found, u32)| Patch {
        content,
        path: found.path.clone(),
        then: moves.stands(Walk::Target, &found.path),
    };
    let wants: Vec<Patch> = candidates.iter().zip(0..).map(patch).collect();
    let source = Agent::new(ctx.agent(Role::Source));
    let mut told = HashMap::new();
    for (tops, wants) in by_place(&wants).into_iter().take(PLACES) {
        let [now, then] = tops.of(&roots.source, &base);
        told.extend(tokio::select! {
            biased;
            () = ctx.cancel.cancelled() => return Err(ModuleError::cancelled()),
            told = source.delta(now, then, &wants) => told?,
        });
    }
    let bytes = candidates.iter().zip(0..).filter_map(|(found, at)| {
        let changed = *told.get(&at)?;
        is_worth_it(size(found)?, changed).then(|| (found.path.clone(), changed))
    });
    Ok(Patches { bytes: bytes.collect(), base: Some(base) })
}

/// Returns where the source has what both had after their last sync; `None` if nothing can be patched.
fn base(ctx: &ModuleContext, part: &PartPair, pair: &PairRecord) -> Option<BytePath> {
    // After a run that was cut off, nobody knows at once which versions the target has.
    if !ctx.board.attempts().is_empty() || part.target.subvolume_uuid.is_empty() {
        return None;
    }
    let root = part.root.to_string();
    let then = pair.parts.iter().find(|then| then.root == root)?;
    base_of(pair, then, &ctx.target.hostname, &part.target)?;
    base_of(pair, then, &ctx.source.hostname, &part.source)
}

/// Whether a change is of a large file of one name that the target has as the last sync left it.
fn can_be(found: &Found) -> bool {
    let Change::Replace(ours, _, Kind::File) = &found.change else { return false };
    let is_large = |entry: &pc_switcher_agent::proto::Entry| {
        (entry.kind, entry.nlink) == (Kind::File, 1) && entry.size >= LARGE
    };
    is_large(ours) && found.theirs.as_ref().is_some_and(is_large) && found.was_there && !found.touched
}

fn size(found: &Found) -> Option<u64> {
    match &found.change {
        Change::Replace(ours, ..) => Some(ours.size),
        _ => None,
    }
}

/// A file of which most changed is sent whole: then it lies in one piece on the target.
fn is_worth_it(size: u64, changed: u64) -> bool {
    changed <= size - size / 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use pc_switcher_agent::proto::{Entry, FileTime, Identity, Meta};

    fn file(size: u64) -> Entry {
        Entry {
            name: BytePath::default(),
            kind: Kind::File,
            meta: Meta::default(),
            size,
            allocated: size,
            ctime: FileTime::default(),
            ino: 1,
            nlink: 1,
            target: BytePath::default(),
        }
    }

    #[test]
    fn only_large_files_that_the_target_left_as_they_were_can_be_patched() {
        let old = Identity { ino: 1, ctime: FileTime::default(), mtime: FileTime::default(), size: 0 };
        let good = Found {
            path: "image".into(),
            change: Change::Replace(file(LARGE), old, Kind::File),
            touched: false,
            theirs: Some(file(LARGE)),
            was_there: true,
        };
        assert!(can_be(&good));
        let linked = Entry { nlink: 2, ..file(LARGE) };
        for bad in [
            Found { touched: true, ..good.clone() },
            Found { was_there: false, ..good.clone() },
            Found { theirs: Some(file(LARGE - 1)), ..good.clone() },
            Found { theirs: Some(linked.clone()), ..good.clone() },
            Found { change: Change::Replace(linked, old, Kind::File), ..good.clone() },
            Found { change: Change::Create(file(LARGE)), ..good.clone() },
            Found { change: Change::Replace(file(LARGE), old, Kind::Dir), ..good.clone() },
        ] {
            assert!(!can_be(&bad), "{bad:?}");
        }
    }

    #[test]
    fn files_come_together_by_how_their_directories_moved() {
        let patch = |content, path: &str, then: &str| Patch { content, path: path.into(), then: then.into() };
        let places = by_place(&[
            patch(0, "vms/a", "vms/a"),
            patch(1, "new/deep/b", "old/deep/b"),
            patch(2, "new/c", "old/c"),
            patch(3, "in/d", "d"),
            patch(4, "renamed", "was"),
            patch(5, "out", "in/out"),
        ]);
        let show: Vec<String> = places
            .iter()
            .map(|(tops, wants)| {
                let [now, then] = tops.of(&"/now".into(), &"/then".into());
                let paths: Vec<String> = wants.iter().map(|want| want.path.to_string()).collect();
                format!("{now} {then} {}", paths.join(" "))
            })
            .collect();
        let expected =
            ["/now /then vms/a", "/now /then/in out", "/now/in /then d", "/now/new /then/old deep/b c"];
        assert_eq!(show, expected);
    }

    #[test]
    fn a_file_that_changed_nearly_everywhere_is_sent_whole() {
        assert!(is_worth_it(100, 75) && !is_worth_it(100, 76));
        assert!(is_worth_it(u64::MAX, 0));
    }
}
