//! Passes content from the source's agent on to the target's.

use std::collections::{HashMap, HashSet};

use pc_switcher_agent::proto::{BlocksWant, Identity, ReadWant, StreamFrame, decode, encode};
use pc_switcher_agent::typed::{Agent, ApplySink, ReadStream};
use pc_switcher_contract::{BytePath, ErrorKind, ModuleContext, ModuleError, Role};

use super::{Broken, Load, Meter, up};
use crate::batches::batches;
use crate::rough::Rough;
use crate::shares::Built;

/// Files that are made of others at once, and ranges of one frame, at most.
const OPEN: usize = 64;
const CLONES: usize = 4096;
/// Wishes of one message, at most.
const WANTS: usize = 500;
/// Sends what changed in files of one part that are patched.
pub(super) async fn send_patches(
    ctx: &ModuleContext,
    sink: &mut ApplySink,
    meter: &mut Meter<'_>,
    load: &Load,
) -> Result<(), Broken> {
    let root = &load.part.root;
    let Some(base) = &load.source_base else {
        return Err(Broken::Other(ModuleError::failed(format!("`{root}` has nothing to patch files from"))));
    };
    let is_proven = |want: &ReadWant| load.steps.proven.contains(&want.content);
    let (proven, others): (Vec<ReadWant>, Vec<ReadWant>) =
        load.steps.patches.iter().cloned().partition(is_proven);
    let source = Agent::new(&ctx.source.agent);
    for (wants, is_proven) in [(others, false), (proven, true)] {
        if wants.is_empty() {
            continue;
        }
        let (now, base) = (load.source_root.clone(), base.clone());
        let (mut asking, read) = match is_proven {
            true => source.read_ranges(now, base).await?,
            false => source.read_delta(now, base).await?,
        };
        let ask = async {
            for batch in batches(&wants, WANTS, |want: &ReadWant| &want.path) {
                asking.send(batch).await?;
            }
            asking.finish().await
        };
        let pass = pass(ctx, sink, meter, root, &wants, read);
        tokio::try_join!(async { ask.await.map_err(Broken::from) }, pass)?;
    }
    Ok(())
}

/// Sends what files are made of, and what they have besides.
pub(super) async fn send_built(
    ctx: &ModuleContext,
    sink: &mut ApplySink,
    meter: &mut Meter<'_>,
    load: &Load,
    built: &[Built],
) -> Result<(), Broken> {
    let root = &load.part.root;
    // Every file is open on the target from its first range to its end.
    for built in built.chunks(OPEN) {
        for Built { rest, clones } in built {
            for (from, ranges) in clones {
                for ranges in ranges.chunks(CLONES) {
                    let (content, from, ranges) = (rest.content, from.clone(), ranges.to_vec());
                    up(sink, encode(&StreamFrame::Clones { content, from, ranges })).await?;
                }
            }
        }
        let want = |built: &Built| ReadWant { content: built.rest.content, path: built.rest.path.clone() };
        let wants: Vec<ReadWant> = built.iter().map(want).collect();
        let (mut asking, read) = Agent::new(&ctx.source.agent).read_rest(load.source_root.clone()).await?;
        let ask = async {
            for Built { rest, .. } in built {
                asking.send(std::slice::from_ref(rest)).await?;
            }
            asking.finish().await
        };
        let pass = pass(ctx, sink, meter, root, &wants, read);
        tokio::try_join!(async { ask.await.map_err(Broken::from) }, pass)?;
    }
    Ok(())
}

/// Passes content of a read-only snapshot on.
async fn pass(
    ctx: &ModuleContext,
    sink: &mut ApplySink,
    meter: &mut Meter<'_>,
    root: &BytePath,
    wants: &[ReadWant],
    mut read: ReadStream,
) -> Result<(), Broken> {
    let item = format!("copying {root} to {}", ctx.target.hostname);
    while let Some(frame) = read.next().await? {
        if !StreamFrame::is_content(&frame) {
            return Err(unreadable(ctx, &frame, root, wants));
        }
        meter.pass(sink, frame, &item).await?;
    }
    Ok(())
}

/// Sends the content of one part; returns the paths that did not go over as they were planned, in a live tree.
pub(super) async fn send_content(
    ctx: &ModuleContext,
    sink: &mut ApplySink,
    meter: &mut Meter<'_>,
    load: &Load,
) -> Result<HashSet<BytePath>, Broken> {
    let (root, wants) = (&load.part.root, &load.steps.wants);
    if wants.is_empty() {
        return Ok(HashSet::new());
    }
    let is_live = load.part.is_live(Role::Source);
    let source = Agent::new(&ctx.source.agent);
    let (mut asking, mut read) = match is_live {
        true => source.read_live(load.source_root.clone()).await?,
        false => source.read(load.source_root.clone()).await?,
    };
    let ask = async {
        for batch in batches(wants, WANTS, |want: &ReadWant| &want.path) {
            asking.send(batch).await?;
        }
        asking.finish().await
    };
    let item = format!("copying {root} to {}", ctx.target.hostname);
    let places: HashMap<u32, usize> = (0..).zip(wants).map(|(at, want)| (want.content, at)).collect();
    let mut is_whole = vec![!is_live; wants.len()];
    let pass = async {
        while let Some(frame) = read.next().await? {
            if StreamFrame::is_content(&frame) {
                meter.pass(sink, frame, &item).await?;
                continue;
            }
            let whole = match decode(&frame) {
                Ok(StreamFrame::Whole(whole)) if is_live => whole,
                Ok(StreamFrame::Frozen { content }) => {
                    let path = places.get(&content).map(|at| root.join(wants[*at].path.as_bytes()));
                    meter.frozen.extend(path);
                    continue;
                }
                _ => return Err(unreadable(ctx, &frame, root, wants)),
            };
            for (content, version) in whole {
                if let Some(at) = places.get(&content)
                    && load.steps.versions[*at] == version
                {
                    is_whole[*at] = true;
                }
            }
        }
        Ok(())
    };
    tokio::try_join!(async { ask.await.map_err(Broken::from) }, pass)?;
    let left = wants.iter().zip(is_whole).filter(|(_, is_whole)| !is_whole);
    Ok(left.map(|(want, _)| want.path.clone()).collect())
}

/// Sends the blocks of files of one part that differ from what the target has; returns as [`send_content`].
pub(super) async fn send_rough(
    ctx: &ModuleContext,
    sink: &mut ApplySink,
    meter: &mut Meter<'_>,
    load: &Load,
) -> Result<HashSet<BytePath>, Broken> {
    let (root, rough) = (&load.part.root, &load.steps.rough);
    if rough.is_empty() {
        return Ok(HashSet::new());
    }
    let is_live = load.part.is_live(Role::Source);
    for Rough { want, old, .. } in rough.iter().filter(|_| is_live) {
        let (content, path, expected) = (want.content, want.path.clone(), *old);
        up(sink, encode(&StreamFrame::Over { content, path, expected })).await?;
    }
    let wants: Vec<ReadWant> = rough.iter().map(|rough| rough.want.clone()).collect();
    let by_content: HashMap<u32, &Rough> = rough.iter().map(|rough| (rough.want.content, rough)).collect();
    let (mut asking, mut told) = Agent::new(&ctx.target.agent).blocks(load.target_root.clone()).await?;
    let (mut wanted, mut read) = Agent::new(&ctx.source.agent).read_blocks(load.source_root.clone()).await?;
    let ask = async {
        for batch in batches(&wants, WANTS, |want: &ReadWant| &want.path) {
            asking.send(batch).await?;
        }
        asking.finish().await
    };
    let hand_on = async {
        while let Some(blocks) = told.next().await? {
            if let Some(rough) = by_content.get(&blocks.content) {
                wanted.send(&[BlocksWant { path: rough.want.path.clone(), blocks }]).await?;
            }
        }
        wanted.finish().await
    };
    let item = format!("comparing and copying {root} to {}", ctx.target.hostname);
    let mut whole: HashSet<u32> = HashSet::new();
    let pass = async {
        while let Some(frame) = read.next().await? {
            if StreamFrame::is_content(&frame) {
                meter.pass(sink, frame, &item).await?;
                continue;
            }
            match decode(&frame) {
                Ok(StreamFrame::Same(bytes)) => {
                    meter.same_bytes += bytes;
                    meter.add(bytes, &item);
                }
                Ok(StreamFrame::Whole(versions)) if is_live => {
                    let is_planned = |(content, version): &(u32, Identity)| {
                        by_content.get(content).is_some_and(|rough| rough.version == *version)
                    };
                    whole.extend(versions.into_iter().filter(is_planned).map(|(content, _)| content));
                }
                _ => return Err(unreadable(ctx, &frame, root, &wants)),
            }
        }
        Ok(())
    };
    tokio::try_join!(
        async { ask.await.map_err(Broken::from) },
        async { hand_on.await.map_err(Broken::from) },
        pass
    )?;
    let left = wants.into_iter().filter(|want| is_live && !whole.contains(&want.content));
    Ok(left.map(|want| want.path).collect())
}

/// A file of a read-only snapshot that cannot be read is a broken disk: nothing is committed.
fn unreadable(ctx: &ModuleContext, frame: &[u8], root: &BytePath, wants: &[ReadWant]) -> Broken {
    let text = match decode(frame) {
        Ok(StreamFrame::Unreadable { content, why }) => {
            let path =
                wants.iter().find(|want| want.content == content).map(|want| root.join(want.path.as_bytes()));
            format!("{}: cannot read `{}`: {why}", ctx.source.hostname, path.unwrap_or_default())
        }
        _ => format!("{}: the agent sent what was not asked for", ctx.source.hostname),
    };
    Broken::Other(ModuleError::new(ErrorKind::Failed, text).hint("nothing was changed on the target"))
}
