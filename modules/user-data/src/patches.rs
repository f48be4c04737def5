//! Which files of several blocks are sent as what changed in them: those that nobody changed on the target since the last sync, so that
//! the version there is the one that the source had then.

use std::collections::{HashMap, HashSet};

use pc_switcher_agent::proto::{Kind, ReadWant};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{BytePath, ModuleContext, ModuleError, PairRecord, Role};

use crate::change::{Change, Found};
use crate::compare::Walk;
use crate::moves::Moves;
use crate::parts::PartPair;
use crate::proven;
use crate::roots::Roots;
use crate::survey::base_of;

/// What is no longer is one block, and goes over whole.
const BLOCK: u64 = 4096;

/// What can be patched.
#[derive(Debug, Default)]
pub struct Patches {
    /// Where the source has the older versions.
    pub base: Option<BytePath>,
    /// How many bytes changed of each file, relative to the part's root.
    pub bytes: HashMap<BytePath, u64>,
    /// The files of which most changed.
    pub changed: HashSet<BytePath>,
    /// Those that can be patched by what changed alone.
    pub proven: HashSet<BytePath>,
}

/// Asks the source how much of such files changed.
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
    // What moved has its older version at another path.
    let stays = |found: &&Found| moves.stands(Walk::Target, &found.path) == found.path;
    let candidates: Vec<&Found> =
        found.iter().filter(|found| can_be(found)).filter(is_same_then).filter(stays).collect();
    if candidates.is_empty() {
        return Ok(Patches::default());
    }
    let want = |(at, found): (usize, &&Found)| ReadWant { content: at as u32, path: found.path.clone() };
    let wants: Vec<ReadWant> = candidates.iter().enumerate().map(want).collect();
    let source = Agent::new(ctx.agent(Role::Source));
    let told = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(ModuleError::cancelled()),
        told = source.delta(roots.source.clone(), base.clone(), &wants) => told?,
    };
    let mut patches = Patches { base: Some(base), ..Patches::default() };
    for (found, at) in candidates.iter().zip(0..) {
        let (Some(size), Some(bytes)) = (size(found), told.get(&at)) else { continue };
        if is_worth_it(size, *bytes) {
            patches.bytes.insert(found.path.clone(), *bytes);
        } else {
            patches.changed.insert(found.path.clone());
        }
    }
    patches.proven = proven::ask(ctx, part, roots, &pair, &patches).await?;
    Ok(patches)
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

/// Whether a change is of a file of several blocks and one name that the target has as the last sync left it.
fn can_be(found: &Found) -> bool {
    let Change::Replace(ours, _, Kind::File) = &found.change else { return false };
    let is_long = |entry: &pc_switcher_agent::proto::Entry| {
        (entry.kind, entry.nlink) == (Kind::File, 1) && entry.size > BLOCK
    };
    is_long(ours) && found.theirs.as_ref().is_some_and(is_long) && found.was_there && !found.touched
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
    fn only_files_of_several_blocks_that_the_target_left_as_they_were_can_be_patched() {
        let old = Identity { ino: 1, ctime: FileTime::default(), mtime: FileTime::default(), size: 0 };
        let good = Found {
            path: "image".into(),
            change: Change::Replace(file(BLOCK + 1), old, Kind::File),
            touched: false,
            theirs: Some(file(BLOCK + 1)),
            was_there: true,
        };
        assert!(can_be(&good));
        let linked = Entry { nlink: 2, ..file(BLOCK + 1) };
        for bad in [
            Found { touched: true, ..good.clone() },
            Found { was_there: false, ..good.clone() },
            Found { theirs: Some(file(BLOCK)), ..good.clone() },
            Found { theirs: Some(linked.clone()), ..good.clone() },
            Found { change: Change::Replace(linked, old, Kind::File), ..good.clone() },
            Found { change: Change::Create(file(BLOCK + 1)), ..good.clone() },
            Found { change: Change::Replace(file(BLOCK + 1), old, Kind::Dir), ..good.clone() },
        ] {
            assert!(!can_be(&bad), "{bad:?}");
        }
    }

    #[test]
    fn a_file_that_changed_nearly_everywhere_is_sent_whole() {
        assert!(is_worth_it(100, 75) && !is_worth_it(100, 76));
        assert!(is_worth_it(u64::MAX, 0));
    }
}
