//! Which files are made on the target of what it has or gets in other files, since they share it on the source (docs/adr/0012).

use std::collections::{BTreeMap, HashMap, HashSet};

use pc_switcher_agent::proto::{
    Body, CloneFrom, CloneRange, Identity, Kind, Op, Origin, ReadWant, RestWant, Shares, SharesRequest,
};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{BytePath, LogLevel, ModuleContext, ModuleError, Role, human_bytes};

use crate::moves::Seen;
use crate::moving;
use crate::parts::PartPair;
use crate::roots::{Roots, tree};
use crate::steps::Steps;
use crate::survey::base_of;

/// Smaller files are sent, and so is one that shares less than that: cloning costs more.
const LARGE: u64 = 64 << 10;

/// A file may be made of others that are made of others, so often: every time the target waits for all of them.
const LEVELS: usize = 4;

/// A file that others are made of, and its ranges.
pub type Made = (CloneFrom, Vec<CloneRange>);

/// A file that is made of ranges of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// What is sent of it.
    pub rest: RestWant,
    /// What it is made of.
    pub clones: Vec<Made>,
}

/// Makes files of others where they share something on the source.
///
/// # Errors
/// If an agent fails or the run is stopped.
pub async fn arrange(
    ctx: &ModuleContext,
    part: &PartPair,
    roots: &Roots,
    changed_there: &HashSet<BytePath>,
    steps: &mut Steps,
) -> Result<(), ModuleError> {
    let asked = asked(steps);
    let (Some(ours), Some(theirs)) = (roots.ours.tree(), roots.theirs.tree()) else { return Ok(()) };
    let is_kept = [Role::Source, Role::Target].into_iter().all(|role| !part.is_live(role));
    if asked.is_empty() || !is_kept || ctx.mode.is_dry() {
        return Ok(());
    }
    let (source, target) = (Agent::new(&ctx.source.agent), Agent::new(&ctx.target.agent));
    let request = SharesRequest { tree: tree(part, ours), base: base(ctx, part) };
    let ask = async {
        let shares = source.shares(request, &asked).await?;
        let paths = paths_of(&shares);
        let there = match paths.is_empty() {
            true => Vec::new(),
            false => moving::look(&target, part, theirs, &paths).await?,
        };
        Ok::<_, pc_switcher_contract::ExecError>((shares, paths.into_iter().zip(there)))
    };
    let (shares, there) = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(ModuleError::cancelled()),
        asked = ask => asked?,
    };
    let mut versions = HashMap::new();
    for (path, seen) in there {
        if let Seen::There(entry) = seen
            && entry.kind == Kind::File
            && !changed_there.contains(&path)
        {
            versions.insert(path, (entry.size, entry.meta.mtime));
        }
    }
    let is_there = |origin: &Origin| match origin {
        Origin::File { path, size, mtime } => versions.get(path) == Some(&(*size, *mtime)),
        Origin::Asked(_) => true,
    };
    let before = steps.stats.bytes;
    rebuild(steps, shares, theirs, is_there);
    let count: usize = steps.built.iter().map(Vec::len).sum();
    if count > 0 {
        let bytes = human_bytes(before - steps.stats.bytes);
        let text = format!("{count} files below `{}` are made of others, which spares {bytes}", part.root);
        ctx.reporter.log(LogLevel::Full, &ctx.target.hostname, text);
    }
    Ok(())
}

/// Returns what the source has of the part since the last sync.
fn base(ctx: &ModuleContext, part: &PartPair) -> Option<BytePath> {
    let pair = ctx.board.pair()?;
    let root = part.root.to_string();
    let then = pair.parts.iter().find(|then| then.root == root)?;
    base_of(&pair, then, &ctx.source.hostname, &part.source)
}

/// Returns the files that may share something, in the order of their numbers.
pub fn asked(steps: &Steps) -> Vec<ReadWant> {
    let large = |(want, version): &(&ReadWant, &Identity)| (version.size >= LARGE).then(|| (*want).clone());
    let mut asked: Vec<ReadWant> =
        steps.wants.iter().zip(&steps.versions).filter_map(|both| large(&both)).collect();
    if !asked.is_empty() {
        // Others may share with what is patched.
        let sizes: HashMap<u32, u64> = steps.ops.iter().filter_map(patched).collect();
        let is_large = |want: &&ReadWant| sizes.get(&want.content).is_some_and(|size| *size >= LARGE);
        asked.extend(steps.patches.iter().filter(is_large).cloned());
        asked.sort_unstable_by_key(|want| want.content);
    }
    asked
}

/// Returns the number and the size of what a step patches.
fn patched(op: &Op) -> Option<(u32, u64)> {
    match op {
        Op::Put { body: Body::Patched { content, size } | Body::Proven { content, size }, .. } => {
            Some((*content, *size))
        }
        _ => None,
    }
}

/// Returns all files of the older snapshot, sorted.
fn paths_of(shares: &[Shares]) -> Vec<BytePath> {
    let path = |origin: &Origin| match origin {
        Origin::File { path, .. } => Some(path.clone()),
        Origin::Asked(_) => None,
    };
    let mut paths: Vec<BytePath> =
        shares.iter().flat_map(|shares| &shares.origins).filter_map(path).collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

/// Turns files that are sent into ones that are made of others. `snapshot` is where the target has its files as they are now;
/// `is_there` says which of those that others share with it has.
pub fn rebuild(
    steps: &mut Steps,
    shares: Vec<Shares>,
    snapshot: &BytePath,
    is_there: impl Fn(&Origin) -> bool,
) {
    let sent: HashMap<u32, BytePath> =
        steps.wants.iter().chain(&steps.patches).map(|want| (want.content, want.path.clone())).collect();
    let patched: HashSet<u32> = steps.patches.iter().map(|want| want.content).collect();
    // How deep each file is that is made of others.
    let mut levels: HashMap<u32, usize> = HashMap::new();
    let mut built: HashMap<u32, (usize, Built)> = HashMap::new();
    for Shares { content, origins, ranges } in shares.into_iter().filter(|s| !patched.contains(&s.content)) {
        let Some(path) = sent.get(&content) else { continue };
        let level_of = |origin: &Origin| match origin {
            Origin::Asked(other) => levels.get(other).copied().unwrap_or(0),
            Origin::File { .. } => 0,
        };
        let from = |origin: &Origin| match origin {
            Origin::Asked(other) if *other < content => sent.get(other).cloned().map(CloneFrom::New),
            Origin::File { path, .. } if is_there(origin) => {
                Some(CloneFrom::Sealed { root: snapshot.clone(), path: path.clone() })
            }
            _ => None,
        };
        let mut clones: BTreeMap<u32, Made> = BTreeMap::new();
        let (mut had, mut covered, mut level) = (Vec::new(), 0, 0);
        for range in &ranges {
            let Some(origin) = origins.get(range.origin as usize) else { continue };
            let Some(from) = from(origin).filter(|_| level_of(origin) < LEVELS) else { continue };
            level = level.max(level_of(origin));
            covered += range.len;
            had.push((range.at, range.at + range.len));
            let (_, list) = clones.entry(range.origin).or_insert_with(|| (from, Vec::new()));
            list.push((range.at, range.from_at, range.len));
        }
        if covered < LARGE {
            continue;
        }
        levels.insert(content, level + 1);
        steps.stats.bytes = steps.stats.bytes.saturating_sub(covered);
        steps.need.share(covered, had.len() as u64);
        let rest = RestWant { content, path: path.clone(), had };
        built.insert(content, (level, Built { rest, clones: clones.into_values().collect() }));
    }
    if built.is_empty() {
        return;
    }
    for op in &mut steps.ops {
        if let Op::Put { body, .. } = op
            && let Body::File { content, size } = *body
            && built.contains_key(&content)
        {
            *body = Body::Built { content, size };
        }
    }
    let wants = std::mem::take(&mut steps.wants).into_iter().zip(std::mem::take(&mut steps.versions));
    (steps.wants, steps.versions) = wants.filter(|(want, _)| !built.contains_key(&want.content)).unzip();
    steps.built = (0..LEVELS).map(|_| Vec::new()).collect();
    let mut all: Vec<(usize, Built)> = built.into_values().collect();
    all.sort_unstable_by_key(|(_, built)| built.rest.content);
    for (level, built) in all {
        steps.built[level].push(built);
    }
    steps.built.retain(|level| !level.is_empty());
}

#[cfg(test)]
mod tests;
