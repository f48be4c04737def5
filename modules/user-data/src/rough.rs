//! Which large files are sent as the blocks that differ from what the target has there, since nobody knows what both had in
//! common (docs/adr/0012).

use std::collections::{HashMap, HashSet};

use pc_switcher_agent::proto::{Body, Identity, Op, ReadWant};
use pc_switcher_contract::BytePath;

use crate::compare::Walk;
use crate::moves::Moves;
use crate::steps::Steps;

/// Smaller files are sent whole: asking costs more.
const LARGE: u64 = 1 << 20;

/// A file that goes over what the target has at its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rough {
    /// What is wanted of the source.
    pub want: ReadWant,
    /// The version of it that was planned.
    pub version: Identity,
    /// What the target has.
    pub old: Identity,
}

/// Turns large files that replace large files into ones of which blocks are sent. Of `whole` they are not: it is known that they
/// have little in common with what they replace, or somebody works on that.
pub fn arrange(steps: &mut Steps, whole: &HashSet<BytePath>, moves: &Moves) {
    let mut olds: HashMap<u32, Identity> = HashMap::new();
    for op in &mut steps.ops {
        if let Op::Put { path, body, replaces: Some(old), .. } = op
            && let Body::File { content, size } = *body
            && size.min(old.size) >= LARGE
            && !whole.contains(path)
            && moves.stands(Walk::Target, path) == *path
        {
            *body = Body::Patched { content, size };
            olds.insert(content, *old);
        }
    }
    if olds.is_empty() {
        return;
    }
    let all = std::mem::take(&mut steps.wants).into_iter().zip(std::mem::take(&mut steps.versions));
    for (want, version) in all {
        match olds.get(&want.content) {
            Some(old) => steps.rough.push(Rough { want, version, old: *old }),
            None => {
                steps.wants.push(want);
                steps.versions.push(version);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pc_switcher_agent::proto::{FileTime, Meta};

    fn version(size: u64) -> Identity {
        Identity { ino: 1, ctime: FileTime::default(), mtime: FileTime::default(), size }
    }

    #[test]
    fn large_files_that_replace_large_files_are_compared_by_blocks_and_no_others() {
        let mut steps = Steps::default();
        let cases = [
            ("image", LARGE, Some(LARGE)),
            ("small", LARGE - 1, Some(LARGE)),
            ("grown", LARGE, Some(LARGE - 1)),
            ("new", LARGE, None),
            ("other", 2 * LARGE, Some(LARGE)),
        ];
        for (content, (path, size, old)) in (5..).zip(cases) {
            let path = BytePath::from(path);
            let (body, meta) = (Body::File { content, size }, Meta::default());
            steps.ops.push(Op::Put { path: path.clone(), body, meta, replaces: old.map(version) });
            steps.wants.push(ReadWant { content, path });
            steps.versions.push(version(size));
        }
        arrange(&mut steps, &HashSet::from(["other".into()]), &Moves::default());
        let names = |wants: &[ReadWant]| -> Vec<u32> { wants.iter().map(|want| want.content).collect() };
        assert_eq!(names(&steps.wants), [6, 7, 8, 9]);
        assert_eq!(steps.versions.len(), 4);
        assert_eq!(steps.rough.len(), 1);
        assert_eq!((steps.rough[0].want.content, steps.contents()), (5, 5));
        let patched = |op: &&Op| matches!(op, Op::Put { body: Body::Patched { .. }, .. });
        assert_eq!(steps.ops.iter().filter(patched).count(), 1);
        // What is left out takes its content along.
        steps.leave_out(&HashSet::from(["image".into()]));
        assert_eq!((steps.rough.len(), steps.ops.len()), (0, 4));
    }
}
