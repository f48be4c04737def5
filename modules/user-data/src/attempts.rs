//! What syncs wrote whose end could not be recorded: it stands on the target since the last recorded one, and yet it is no
//! change of anybody's.

use std::collections::{HashMap, HashSet};

use pc_switcher_agent::proto::{Entry, Kind, ReadWant};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{Attempt, BytePath, LogLevel, Manifest, ModuleContext, ModuleError, Role};

use crate::change::{Found, same_rights};
use crate::compare::Walk;
use crate::moves::Moves;
use crate::parts::PartPair;
use crate::roots::{Listed, Roots, in_set};
use crate::survey::digests;

/// Takes the mark of a conflict from every path of which the target has just the version that such a sync brought over.
/// The source's snapshots or manifests hold these versions, so nothing can be lost with them.
///
/// # Errors
/// If the source's agent fails.
pub(crate) async fn disown(
    ctx: &ModuleContext,
    part: &PartPair,
    roots: &Roots,
    moves: &Moves,
    found: &mut [Found],
) -> Result<(), ModuleError> {
    let mut disowned = 0;
    for listed in ctx.board.attempts().iter().filter_map(|attempt| listed(attempt, part)) {
        if !found.iter().any(|found| found.touched) {
            break;
        }
        let Some(brought) = versions(ctx, part, &listed, found).await? else { continue };
        let is_ours =
            |found: &Found| found.touched && is_same_version(found.theirs.as_ref(), brought.get(&found.path));
        let ours: Vec<usize> = (0..found.len()).filter(|at| is_ours(&found[*at])).collect();
        let others = edited(ctx, roots, moves, &listed, found, &ours).await?;
        for at in ours.into_iter().filter(|at| !others.contains(at)) {
            found[at].touched = false;
            disowned += 1;
        }
    }
    if disowned > 0 {
        let text = format!("{disowned} paths below `{}` are as an unfinished sync left them", part.root);
        ctx.reporter.log(LogLevel::Full, &ctx.target.hostname, text);
    }
    Ok(())
}

/// Returns those of files with the version that a sync brought over whose content is another one: programs that keep the time of what they
/// write. Where the source has no snapshots nobody knows the content any more.
async fn edited(
    ctx: &ModuleContext,
    roots: &Roots,
    moves: &Moves,
    brought: &Listed,
    found: &[Found],
    ours: &[usize],
) -> Result<HashSet<usize>, ModuleError> {
    let Some(brought) = brought.tree() else { return Ok(HashSet::new()) };
    let has_content = |entry: &Entry| entry.kind == Kind::File && entry.size > 0;
    let of_files = ours.iter().filter(|at| found[**at].theirs.as_ref().is_some_and(has_content));
    let files: Vec<usize> = of_files.copied().collect();
    if files.is_empty() {
        return Ok(HashSet::new());
    }
    let wants = |path: &dyn Fn(&BytePath) -> BytePath| -> Vec<ReadWant> {
        let want = |at: &usize| ReadWant { content: *at as u32, path: path(&found[*at].path) };
        files.iter().map(want).collect()
    };
    let (here, there) = (wants(&BytePath::clone), wants(&|path| moves.stands(Walk::Target, path)));
    let (then, now) = tokio::try_join!(
        digests(ctx, Role::Source, brought, &here),
        digests(ctx, Role::Target, &roots.target, &there)
    )?;
    let differs = |at: &usize| {
        let key = *at as u32;
        then.get(&key).zip(now.get(&key)).is_none_or(|(then, now)| then != now)
    };
    Ok(files.into_iter().filter(differs).collect())
}

/// Returns what the source listed for a sync.
fn listed(attempt: &Attempt, part: &PartPair) -> Option<Listed> {
    if part.is_live(Role::Source) {
        return Some(Listed::Again(Manifest::key_of(&attempt.session, &part.root)));
    }
    let (subvolume, inside) = (part.source.subvolume.as_ref(), &part.source.inside);
    in_set(attempt.set.as_ref()?, subvolume, inside).map(Listed::Tree)
}

/// Whether the target has what the sync brought over. Times of directories move with every entry.
fn is_same_version(theirs: Option<&Entry>, brought: Option<&Entry>) -> bool {
    match (theirs, brought) {
        (None, None) => true,
        (Some(theirs), Some(brought)) => {
            let is_dir = theirs.kind == Kind::Dir;
            let same_time = is_dir || theirs.meta.mtime == brought.meta.mtime;
            let same_content = theirs.size == brought.size && theirs.target == brought.target;
            theirs.kind == brought.kind && same_content && same_time && same_rights(theirs, brought)
        }
        _ => false,
    }
}

/// Returns what the source had at the touched paths; `None` if it could not be read whole.
async fn versions(
    ctx: &ModuleContext,
    part: &PartPair,
    listed: &Listed,
    found: &[Found],
) -> Result<Option<HashMap<BytePath, Entry>>, ModuleError> {
    let wanted: HashSet<&BytePath> =
        found.iter().filter(|found| found.touched).map(|found| &found.path).collect();
    let source = Agent::new(&ctx.source.agent);
    if let Listed::Again(key) = listed
        && source.check_kept(key.clone()).await?.is_err()
    {
        // It ended before it had compared anything, so it brought nothing over.
        return Ok(None);
    }
    let Some(mut walk) = listed.walk(&source, part).await? else { return Ok(None) };
    let mut versions = HashMap::new();
    loop {
        let listing = tokio::select! {
            biased;
            () = ctx.cancel.cancelled() => return Err(ModuleError::cancelled()),
            listing = walk.next() => listing?,
        };
        let Some(listing) = listing else { break };
        for entry in listing.entries {
            let path = listing.path.join(entry.name.as_bytes());
            if wanted.contains(&path) {
                versions.insert(path, entry);
            }
        }
    }
    let is_whole = walk.summary().is_some_and(|summary| summary.unreadable == 0);
    Ok(is_whole.then_some(versions))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pc_switcher_agent::proto::{FileTime, Meta};

    fn entry(kind: Kind, mode: u32, seconds: i64) -> Entry {
        Entry {
            name: "a".into(),
            kind,
            meta: Meta { mode, mtime: FileTime { seconds, nanos: 1 }, ..Meta::default() },
            size: 10,
            allocated: 4096,
            ctime: FileTime::default(),
            ino: 1,
            nlink: 1,
            target: BytePath::default(),
        }
    }

    #[test]
    fn only_the_very_version_that_was_brought_over_is_ours() {
        let brought = entry(Kind::File, 0o644, 5);
        let is_ours = |theirs: &Entry| is_same_version(Some(theirs), Some(&brought));
        assert!(is_ours(&Entry { ino: 9, nlink: 2, allocated: 0, ..brought.clone() }));
        assert!(!is_ours(&entry(Kind::File, 0o644, 6)), "somebody wrote to it");
        assert!(!is_ours(&entry(Kind::File, 0o600, 5)), "somebody changed its mode");
        assert!(!is_ours(&entry(Kind::Symlink, 0o644, 5)));
        assert!(!is_ours(&Entry { size: 11, ..brought.clone() }));
        assert!(!is_same_version(None, Some(&brought)), "somebody deleted it");
        assert!(!is_same_version(Some(&brought), None), "somebody made it");
        assert!(is_same_version(None, None), "the sync deleted it");
    }

    #[test]
    fn the_time_of_a_directory_says_nothing() {
        let [one, other] = [5, 6].map(|seconds| entry(Kind::Dir, 0o755, seconds));
        assert!(is_same_version(Some(&one), Some(&other)));
    }
}
