//! Asks both machines what was moved since their last sync, and looks at what the target has there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use pc_switcher_agent::proto::{DirListing, ListWant, Moved, UserFact};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{BytePath, ExecError, LogLevel, ModuleContext, ModuleError, PairRecord};

use crate::change::Judge;
use crate::moves::{Known, Moves, Planned, Seen};
use crate::parts::PartPair;
use crate::roots::{Roots, tree};
use crate::survey::in_one_message;

/// So often the target is asked: each time leads one directory up, at most.
const ROUNDS: usize = 64;

/// Names of one directory that one wish holds, at most.
const NAMES: usize = 500;

/// Where both machines have what the last sync left.
pub struct Bases {
    /// On the source.
    pub source: BytePath,
    /// On the target.
    pub target: BytePath,
}

/// Returns what is moved on the target; `ours` is what the source moved.
///
/// # Errors
/// If an agent fails or the run is stopped.
pub async fn moves(
    ctx: &ModuleContext,
    part: &PartPair,
    roots: &Roots,
    judge: Judge,
    bases: &Bases,
    ours: Option<Vec<Moved>>,
) -> Result<Moves, ModuleError> {
    let found = find(ctx, part, roots, judge, bases, ours);
    tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => Err(ModuleError::cancelled()),
        found = found => Ok(found?),
    }
}

async fn find(
    ctx: &ModuleContext,
    part: &PartPair,
    roots: &Roots,
    judge: Judge,
    bases: &Bases,
    ours: Option<Vec<Moved>>,
) -> Result<Moves, ExecError> {
    let (source, target) = (Agent::new(&ctx.source.agent), Agent::new(&ctx.target.agent));
    let (Some(ours), Some(their_tree), Some(pair)) = (ours, roots.theirs.tree(), ctx.board.pair()) else {
        return Ok(Moves::default());
    };
    if ours.is_empty() {
        return Ok(Moves::default());
    }
    // Nothing moved on a target that is as its base.
    let theirs = match judge.base_is_target {
        true => Some(Vec::new()),
        false => target.moved(bases.target.clone(), tree(part, their_tree)).await?,
    };
    let Some(theirs) = theirs else { return Ok(Moves::default()) };
    let (here, there) = tokio::try_join!(source.facts(), target.facts())?;
    let nested = ctx.board.nested().unwrap_or_default();
    let bars = Bars::of(part, &pair, here.users.iter().chain(&there.users), &nested);
    let mut known = judge.has_base.then(|| Known::new(judge.walks_base()));
    let base = roots.base.as_ref().and_then(|base| base.tree()).filter(|_| judge.walks_base());
    // What is wanted of most moves, at once.
    let first =
        ours.iter().flat_map(|moved| [Some(moved.from.clone()), Some(moved.to.clone()), moved.to.parent()]);
    let first: BTreeSet<BytePath> = first.flatten().filter(|path| !path.is_empty()).collect();
    let mut wanted: Vec<BytePath> = first.into_iter().collect();
    for _ in 0..ROUNDS {
        if let Some(known) = &mut known {
            let (now, then) = tokio::try_join!(look(&target, part, their_tree, &wanted), async {
                match base {
                    Some(base) => look(&target, part, base, &wanted).await,
                    None => Ok(vec![Seen::Nothing; wanted.len()]),
                }
            })?;
            for ((path, now), then) in wanted.into_iter().zip(now).zip(then) {
                known.add(path, now, then);
            }
        }
        match Moves::plan(ours.clone(), &theirs, known.as_mut(), |moved| bars.are_in_the_way_of(moved)) {
            Planned::Moves(moves) => {
                say(ctx, part, &moves);
                return Ok(*moves);
            }
            Planned::Wanted(_) if known.is_none() => break,
            Planned::Wanted(more) => wanted = more,
        }
    }
    Ok(Moves::default())
}

/// Looks at paths, in this order.
pub(crate) async fn look(
    agent: &Agent,
    part: &PartPair,
    root: &BytePath,
    paths: &[BytePath],
) -> Result<Vec<Seen>, ExecError> {
    let mut names: BTreeMap<BytePath, Vec<BytePath>> = BTreeMap::new();
    for path in paths {
        names.entry(path.parent().unwrap_or_default()).or_default().push(BytePath::new(path.name()));
    }
    let some = |path: &BytePath, names: &[BytePath]| ListWant {
        path: path.clone(),
        whole: false,
        names: Some(names.to_vec()),
    };
    let asks = names.iter().flat_map(|(path, names)| names.chunks(NAMES).map(move |names| some(path, names)));
    let asks: Vec<ListWant> = asks.collect();
    let (mut wants, mut listings) = agent.list(tree(part, root)).await?;
    let send = async {
        for asks in asks.chunk_by(in_one_message()) {
            wants.send(asks).await?;
        }
        wants.finish().await
    };
    let receive = async {
        let mut found: HashMap<BytePath, DirListing> = HashMap::new();
        while let Some(mut listing) = listings.next().await? {
            if let Some(other) = found.remove(&listing.path) {
                listing.entries.extend(other.entries);
                listing.skipped.extend(other.skipped);
                listing.entries.sort_by(|a, b| a.name.cmp(&b.name));
            }
            found.insert(listing.path.clone(), listing);
        }
        Ok(found)
    };
    let ((), found) = tokio::try_join!(send, receive)?;
    let seen = |path: &BytePath| Seen::within(found.get(&path.parent().unwrap_or_default()), path.name());
    Ok(paths.iter().map(seen).collect())
}

/// Says what is moved.
fn say(ctx: &ModuleContext, part: &PartPair, moves: &Moves) {
    for (from, to) in &moves.pairs {
        let [from, to] = [from, to].map(|path| part.root.join(path.as_bytes()));
        ctx.reporter.log(LogLevel::Full, &ctx.target.hostname, format!("`{from}` is moved to `{to}`"));
    }
}

/// What must stay where it is.
struct Bars {
    /// Paths in which both machines differ since the last sync, homes and nested subvolumes, with everything above them.
    above: HashSet<BytePath>,
    /// What was left alone by the last sync has no common past, and nothing below it has.
    alien: HashSet<BytePath>,
}

/// Returns a path and everything above it.
fn upwards(path: &BytePath) -> impl Iterator<Item = BytePath> {
    std::iter::successors(Some(path.clone()), |path| if path.is_empty() { None } else { path.parent() })
}

impl Bars {
    fn of<'a>(
        part: &PartPair,
        pair: &PairRecord,
        users: impl Iterator<Item = &'a UserFact>,
        nested: &[BytePath],
    ) -> Self {
        let inside = |path: &BytePath| {
            let inside = path.as_bytes().get(part.root.as_bytes().len()..).unwrap_or_default();
            BytePath::new(inside.strip_prefix(b"/").unwrap_or(inside))
        };
        let here = |path: &&BytePath| path.is_within(&part.root) && **path != part.root;
        let different = [&pair.unsettled, &pair.unsent, &pair.apart, &pair.alien];
        let homes: Vec<BytePath> = users.map(|user| user.home.clone()).collect();
        // A directory takes the subvolumes in it along, and each of them is synced at its own path.
        let within = different.into_iter().flatten().chain(&homes).chain(nested).filter(here).map(inside);
        Self::with(within, pair.alien.iter().filter(here).map(inside))
    }

    fn with(within: impl Iterator<Item = BytePath>, alien: impl Iterator<Item = BytePath>) -> Self {
        Self {
            above: within.flat_map(|path| upwards(&path).collect::<Vec<_>>()).collect(),
            alien: alien.collect(),
        }
    }

    /// Whether something must not be moved: keys by which people log in lie in homes, and what both machines do not have alike
    /// would change its place with what holds it.
    fn are_in_the_way_of(&self, Moved { from, to, .. }: &Moved) -> bool {
        [from, to].into_iter().any(|path| {
            path.as_bytes().split(|byte| *byte == b'/').any(|name| name == b".ssh")
                || self.above.contains(path)
                || (!self.alien.is_empty() && upwards(path).any(|at| self.alien.contains(&at)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(from: &str, to: &str) -> Moved {
        Moved { from: from.into(), to: to.into(), is_dir: true }
    }

    #[test]
    fn what_holds_a_home_or_keys_or_what_differs_stays() {
        let paths = |paths: &[&str]| paths.iter().map(|path| BytePath::from(*path)).collect::<Vec<_>>();
        let bars = Bars::with(paths(&["ann", "bob/work/odd"]).into_iter(), paths(&["bob/vm"]).into_iter());
        for (from, to) in [
            ("ann", "eve"),
            ("eve", "ann"),
            ("bob/work", "bob/play"),
            ("bob/vm/a", "bob/b"),
            ("bob/b", "bob/vm/a"),
            ("ann/.ssh", "ann/keys"),
            ("ann/x", "ann/.ssh/x"),
        ] {
            assert!(bars.are_in_the_way_of(&moved(from, to)), "{from} {to}");
        }
        for (from, to) in [("ann/work", "ann/play"), ("bob/work/other", "bob/work/more"), ("a", "b")] {
            assert!(!bars.are_in_the_way_of(&moved(from, to)), "{from} {to}");
        }
    }
}
