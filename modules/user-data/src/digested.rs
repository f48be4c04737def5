//! Which directories differ where no past tells it: both machines say of each what it can be compared by, and only the listings of
//! those that differ go over.

use std::collections::HashMap;

use pc_switcher_agent::proto::{ChangedDir, DirDigest};
use pc_switcher_agent::typed::{Agent, DirDigestStream};
use pc_switcher_contract::{BytePath, ExecError, LogLevel, ModuleContext, ModuleError};

use crate::change::Judge;
use crate::parts::PartPair;
use crate::roots::{Roots, tree};
use crate::scope::Scope;

/// From so many directories on a machine that has less than this share of the other one's ends it: what only one has is listed anyway.
const MANY: u64 = 1000;
const SHARE: u64 = 4;

/// What the digests of both trees say.
pub(crate) struct Digested {
    /// Where they differ, or may.
    pub directories: Scope,
    /// Entries of the source's tree.
    pub source_entries: u64,
    /// Entries of the target's tree.
    pub target_entries: u64,
}

/// Brings the digests of two trees together, in whatever order they come.
#[derive(Default)]
struct Meeting {
    /// Of directories that one tree has named so far: whether it was the source, and the digest.
    waiting: HashMap<BytePath, (bool, Option<[u8; 32]>)>,
    named: [u64; 2],
    both: u64,
    differing: Vec<BytePath>,
}

impl Meeting {
    fn add(&mut self, is_source: bool, DirDigest { path, digest }: DirDigest) {
        self.named[usize::from(is_source)] += 1;
        match self.waiting.remove(&path) {
            Some((was_source, other)) if was_source != is_source => {
                self.both += 1;
                if digest.is_none() || digest != other {
                    self.differing.push(path);
                }
            }
            _ => {
                self.waiting.insert(path, (is_source, digest));
            }
        }
    }

    /// Whether most differ so far, or one tree, which is over, has so little of the other one that digests tell nothing.
    fn is_in_vain(&self, source_is_over: bool, target_is_over: bool) -> bool {
        let [target, source] = self.named;
        let much = |over: u64, other: u64| other > MANY && other / SHARE > over;
        let most = self.differing.len() as u64 > self.both / 2 + MANY;
        most || source_is_over && much(source, target) || target_is_over && much(target, source)
    }
}

/// Asks both machines for the digests of a part; none where they would not help or cannot decide.
///
/// # Errors
/// If an agent fails, or the run is stopped.
pub(crate) async fn differing(
    ctx: &ModuleContext,
    part: &PartPair,
    roots: &Roots,
    judge: Judge,
) -> Result<Option<Digested>, ModuleError> {
    let decides = !judge.has_base && !judge.has_before && !judge.content && judge.source_after.is_none();
    // A file of a torn part may have names elsewhere, which only a look at all of it can tell.
    let (true, Some(ours), Some(theirs)) = (decides && !part.is_torn, roots.ours.tree(), roots.theirs.tree())
    else {
        return Ok(None);
    };
    let (source, target) = (Agent::new(&ctx.source.agent), Agent::new(&ctx.target.agent));
    let mut ours = Running::new(source.digests(tree(part, ours)).await?);
    let mut theirs = Running::new(target.digests(tree(part, theirs)).await?);
    let mut meeting = Meeting::default();
    while !(ours.is_over && theirs.is_over) {
        let (is_source, digest) = tokio::select! {
            biased;
            () = ctx.cancel.cancelled() => return Err(ModuleError::cancelled()),
            digest = ours.next(), if !ours.is_over => (true, digest?),
            digest = theirs.next(), if !theirs.is_over => (false, digest?),
        };
        if let Some(digest) = digest {
            meeting.add(is_source, digest);
        }
        if meeting.is_in_vain(ours.is_over, theirs.is_over) {
            return Ok(None);
        }
    }
    // What only one machine has is named by the directory above it, which differs.
    let Meeting { both, differing, .. } = meeting;
    let text =
        format!("{} of {both} directories of `{}` may differ, by their digests", differing.len(), part.root);
    ctx.reporter.log(LogLevel::Full, &ctx.source.hostname, text);
    // Staging lies in the root, whose own time and rights no digest holds against the other one's.
    let named = differing.into_iter().chain([BytePath::default()]);
    let directories =
        Scope::of(named.map(|path| ChangedDir { path, whole: false, names: None, silent: Vec::new() }));
    let (source_entries, target_entries) = (ours.entries(), theirs.entries());
    Ok(Some(Digested { directories, source_entries, target_entries }))
}

/// A stream that may be over.
struct Running {
    stream: DirDigestStream,
    is_over: bool,
}

impl Running {
    fn new(stream: DirDigestStream) -> Self {
        Self { stream, is_over: false }
    }

    async fn next(&mut self) -> Result<Option<DirDigest>, ExecError> {
        let digest = self.stream.next().await?;
        self.is_over = digest.is_none();
        Ok(digest)
    }

    fn entries(&self) -> u64 {
        self.stream.summary().map_or(0, |summary| summary.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(path: &str, digest: Option<u8>) -> DirDigest {
        DirDigest { path: path.into(), digest: digest.map(|byte| [byte; 32]) }
    }

    #[test]
    fn what_differs_or_cannot_be_told_is_named_in_whatever_order_it_comes() {
        let ours =
            [("", Some(1)), ("a", Some(2)), ("b", None), ("c", None), ("d", Some(3)), ("here", Some(4))];
        let theirs =
            [("there", None), ("d", Some(3)), ("c", None), ("b", Some(2)), ("a", Some(9)), ("", Some(1))];
        for source_first in [true, false] {
            let mut meeting = Meeting::default();
            for (ours, theirs) in ours.into_iter().zip(theirs) {
                let both = [(true, ours), (false, theirs)];
                let order = if source_first { [0, 1] } else { [1, 0] };
                for (is_source, (path, byte)) in order.map(|at| both[at]) {
                    meeting.add(is_source, digest(path, byte));
                }
            }
            assert_eq!((meeting.both, meeting.waiting.len()), (5, 2));
            let mut differing = meeting.differing;
            differing.sort_unstable();
            assert_eq!(differing, ["a", "b", "c"].map(BytePath::from));
        }
    }

    #[test]
    fn a_machine_that_has_next_to_nothing_or_nothing_alike_is_not_worth_digests() {
        let mut meeting = Meeting::default();
        for at in 0..=MANY {
            assert!(!meeting.is_in_vain(false, true));
            meeting.add(true, digest(&format!("{at}"), Some(1)));
        }
        assert!(meeting.is_in_vain(false, true) && !meeting.is_in_vain(false, false));
        assert!(!meeting.is_in_vain(true, false));
        let mut meeting = Meeting::default();
        for (is_source, byte) in [(true, 1), (false, 2)] {
            for at in 0..3 * MANY {
                meeting.add(is_source, digest(&format!("{at}"), Some(byte)));
            }
        }
        assert!(meeting.is_in_vain(false, false));
    }
}
