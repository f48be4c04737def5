//! Of which large files nothing but what changed is read, since both machines are proven to have the same older version
//! (docs/adr/0014), and what of that proof holds for the next sync.

use std::collections::{HashMap, HashSet};

use pc_switcher_agent::proto::{Body, Op, Ranges, ReadWant, Since};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{
    BytePath, ExecError, LogLevel, ModuleContext, ModuleError, PairRecord, ProvenFile, Role, SnapshotKind,
};

use crate::parts::PartPair;
use crate::patches::Patches;
use crate::roots::{Roots, roots};
use crate::steps::Steps;
use crate::survey::base_of;

/// Returns the files that can be patched and of which it is proven that the target has what the source had.
///
/// # Errors
/// If an agent fails or the run is stopped.
pub async fn ask(
    ctx: &ModuleContext,
    part: &PartPair,
    roots: &Roots,
    pair: &PairRecord,
    patches: &Patches,
) -> Result<HashSet<BytePath>, ModuleError> {
    let (then, now) = (ctx.board.proven_then(), (ctx.clock)().as_second());
    let is_known = |file: &&ProvenFile| {
        file.root == part.root && patches.bytes.contains_key(&file.path) && !file.is_due(now)
    };
    let known: Vec<&ProvenFile> = then.iter().filter(is_known).collect();
    let Some((ours, theirs)) = bases(ctx, part, pair).filter(|_| !known.is_empty() && !ctx.mode.is_dry())
    else {
        return Ok(HashSet::new());
    };
    let asking = since(ctx, &known, (&roots.source, ours), (&roots.target, theirs));
    let (ours, theirs) = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(ModuleError::cancelled()),
        told = asking => told?,
    };
    let holds = |(at, file): (u32, &&ProvenFile)| {
        can_be_patched(file, ours.get(&at)?, theirs.get(&at)?).then_some(at)
    };
    let proven: HashSet<u32> = (0..).zip(&known).filter_map(holds).collect();
    Ok((0..).zip(known).filter(|(at, _)| proven.contains(at)).map(|(_, file)| file.path.clone()).collect())
}

/// Whether nothing but what changed has to be read: both machines have checksums of what they had, and the target has it still.
fn can_be_patched(file: &ProvenFile, ours: &Since, theirs: &Since) -> bool {
    let is_it = |since: &Since| since.size == file.size && since.has_sums;
    is_it(ours) && is_it(theirs) && theirs.ranges == 0 && ours.ranges as usize <= Ranges::MOST
}

/// Turns files that are patched into ones of which nothing but what changed is read.
pub fn arrange(steps: &mut Steps, proven: &HashSet<BytePath>) {
    for op in &mut steps.ops {
        if let Op::Put { path, body, .. } = op
            && let Body::Patched { content, size } = *body
            && proven.contains(path)
            && steps.patches.iter().any(|want| want.content == content)
        {
            *body = Body::Proven { content, size };
            steps.proven.insert(content);
        }
    }
}

/// Where files lie of which nothing but what changed was sent.
#[derive(Debug)]
pub struct Patched {
    /// What the source had.
    pub source_base: BytePath,
    /// What they were made of on the target.
    pub target_pre: BytePath,
    /// Relative to the part's root.
    pub paths: HashSet<BytePath>,
}

/// Returns those of some files that are on the target as they are on the source: what changed has the same digest on both, and
/// the rest is where it was.
///
/// # Errors
/// If the run is stopped.
pub async fn reread(
    ctx: &ModuleContext,
    roots: &Roots,
    patched: &Patched,
    paths: &[BytePath],
) -> Result<HashSet<BytePath>, ModuleError> {
    let mine = paths.iter().filter(|path| patched.paths.contains(*path));
    let wants: Vec<ReadWant> = (0..).zip(mine).map(|(content, path)| want(content, path)).collect();
    if wants.is_empty() {
        return Ok(HashSet::new());
    }
    let both = async {
        let (source, target) = (Agent::new(&ctx.source.agent), Agent::new(&ctx.target.agent));
        let told = source.ranges(roots.source.clone(), patched.source_base.clone(), &wants).await?;
        let (ranges, sent): (Vec<Ranges>, Vec<[u8; 32]>) = told.into_iter().unzip();
        let back = target.reread(roots.target.clone(), patched.target_pre.clone(), &ranges).await?;
        let back: HashMap<u32, [u8; 32]> = back.into_iter().collect();
        let is_same = |(ranges, sent): &(Ranges, [u8; 32])| back.get(&ranges.content) == Some(sent);
        let same = ranges.into_iter().zip(sent).filter(is_same);
        Ok::<_, ExecError>(same.map(|(ranges, _)| ranges.path).collect())
    };
    let same: Result<HashSet<BytePath>, ExecError> = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(ModuleError::cancelled()),
        same = both => same,
    };
    // Whatever went wrong: the others are read whole.
    Ok(same.unwrap_or_else(|error| {
        let text = format!("what changed in {} files cannot be looked at by itself: {error}", wants.len());
        ctx.reporter.log(LogLevel::Full, &ctx.target.hostname, text);
        HashSet::new()
    }))
}

/// Returns the files of a part that were proven at the last sync and that nothing changed since, on either machine. What is in
/// `fresh` needs no other proof.
///
/// # Errors
/// If the run is stopped.
pub async fn carry(
    ctx: &ModuleContext,
    part: &PartPair,
    fresh: &HashSet<BytePath>,
) -> Result<Vec<ProvenFile>, ModuleError> {
    let then = ctx.board.proven_then();
    let is_old =
        |file: &&ProvenFile| file.root == part.root && !fresh.contains(&file.root.join(file.path.as_bytes()));
    let old: Vec<&ProvenFile> = then.iter().filter(is_old).collect();
    let bases = ctx.board.pair().and_then(|pair| bases(ctx, part, &pair));
    let Some((ours, theirs)) = bases.filter(|_| !old.is_empty()) else { return Ok(Vec::new()) };
    let Roots { source, target, .. } = roots(ctx, part, SnapshotKind::PostSync)?;
    let both = async {
        let agents = (Agent::new(&ctx.source.agent), Agent::new(&ctx.target.agent));
        let (here, there) = tokio::try_join!(
            agents.0.unchanged(ours.clone(), source.clone()),
            agents.1.unchanged(theirs.clone(), target.clone())
        )?;
        if here && there {
            return Ok(None);
        }
        since(ctx, &old, (&source, ours), (&target, theirs)).await.map(Some)
    };
    let told: Result<_, ExecError> = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(ModuleError::cancelled()),
        told = both => told,
    };
    Ok(match told {
        Ok(None) => old.into_iter().cloned().collect(),
        Ok(Some((ours, theirs))) => {
            let is_same = |told: &HashMap<u32, Since>, at, file: &ProvenFile| {
                told.get(&at).is_some_and(|since| (since.size, since.ranges) == (file.size, 0))
            };
            let stays =
                |(at, file): &(u32, &ProvenFile)| is_same(&ours, *at, file) && is_same(&theirs, *at, file);
            (0..).zip(old).filter(stays).map(|(_, file)| file.clone()).collect()
        }
        // They are read whole when they change, and proven anew.
        Err(error) => {
            let text = format!("what was proven below `{}` is forgotten: {error}", part.root);
            ctx.reporter.log(LogLevel::Full, &ctx.target.hostname, text);
            Vec::new()
        }
    })
}

/// Asks both machines how files stand to what they had after the last sync.
async fn since(
    ctx: &ModuleContext,
    files: &[&ProvenFile],
    (source, source_base): (&BytePath, BytePath),
    (target, target_base): (&BytePath, BytePath),
) -> Result<(HashMap<u32, Since>, HashMap<u32, Since>), ExecError> {
    let wants: Vec<ReadWant> = (0..).zip(files).map(|(content, file)| want(content, &file.path)).collect();
    let agents = (Agent::new(&ctx.source.agent), Agent::new(&ctx.target.agent));
    let (ours, theirs) = tokio::try_join!(
        agents.0.since(source.clone(), source_base, &wants),
        agents.1.since(target.clone(), target_base, &wants)
    )?;
    let by_number = |told: Vec<Since>| told.into_iter().map(|since| (since.content, since)).collect();
    Ok((by_number(ours), by_number(theirs)))
}

/// Returns where both machines have what they had after their last sync.
fn bases(ctx: &ModuleContext, part: &PartPair, pair: &PairRecord) -> Option<(BytePath, BytePath)> {
    if part.is_live(Role::Source) || part.is_live(Role::Target) || part.is_late {
        return None;
    }
    let root = part.root.to_string();
    let then = pair.parts.iter().find(|then| then.root == root)?;
    let ours = base_of(pair, then, &ctx.source.hostname, &part.source)?;
    Some((ours, base_of(pair, then, &ctx.target.hostname, &part.target)?))
}

fn want(content: u32, path: &BytePath) -> ReadWant {
    ReadWant { content, path: path.clone() }
}

#[cfg(test)]
mod tests {
    use pc_switcher_agent::proto::Meta;

    use super::*;

    #[test]
    fn both_machines_must_have_checksums_of_what_was_proven_and_the_target_must_have_it_still() {
        let file =
            ProvenFile { root: "/home".into(), path: "image".into(), size: 1 << 30, patches: 0, whole: 0 };
        let good = Since { content: 0, size: 1 << 30, ranges: 0, has_sums: true };
        let ours = Since { ranges: 12, ..good };
        assert!(can_be_patched(&file, &ours, &good));
        for bad in [
            Since { ranges: 1, ..good },
            Since { has_sums: false, ..good },
            Since { size: (1 << 30) - 1, ..good },
        ] {
            assert!(!can_be_patched(&file, &ours, &bad), "{bad:?}");
        }
        let many = u32::try_from(Ranges::MOST + 1).unwrap();
        for bad in [
            Since { ranges: many, ..ours },
            Since { has_sums: false, ..ours },
            Since { size: (1 << 30) + 1, ..ours },
        ] {
            assert!(!can_be_patched(&file, &bad, &good), "{bad:?}");
        }
    }

    #[test]
    fn only_files_whose_ranges_are_known_are_patched_by_them_alone() {
        let mut steps = Steps::default();
        for (content, path) in [(5, "image"), (6, "blocks"), (7, "other")] {
            let (body, path) = (Body::Patched { content, size: 1 << 30 }, BytePath::from(path));
            steps.ops.push(Op::Put { path: path.clone(), body, meta: Meta::default(), replaces: None });
            if content != 6 {
                steps.patches.push(want(content, &path));
            }
        }
        arrange(&mut steps, &HashSet::from(["image".into(), "blocks".into()]));
        let is_proven = |op: &Op| matches!(op, Op::Put { body: Body::Proven { .. }, .. });
        assert_eq!(steps.ops.iter().map(is_proven).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!((steps.proven, steps.patches.len()), (HashSet::from([5]), 2));
    }
}
