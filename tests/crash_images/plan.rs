//! The steps of one part, as the real planner makes them: with what a record of a last sync tells, or by a comparison of everything.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use pc_switcher_agent::proto::{
    Entry, FileTime, Kind, Moved, Origin, ReadWant, RuleSet, SharesRequest, Tree,
};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::BytePath;
use pc_switcher_testkit::seed::Random;
use pc_switcher_user_data::change::{Change, Found, Judge};
use pc_switcher_user_data::compare::{Pairing, Walk};
use pc_switcher_user_data::links::resolve;
use pc_switcher_user_data::moves::{Known, Moves, Planned, Seen};
use pc_switcher_user_data::steps::{Steps, steps};
use pc_switcher_user_data::{proven, rough, shares};

/// What is no longer goes over whole.
const BLOCK: u64 = 4096;

/// One part on both machines.
pub struct Ends {
    /// The source's set of this sync.
    pub source: PathBuf,
    /// What is remembered of a last sync.
    pub base: Option<Base>,
    /// Where the target's files lie as they are planned with: in the pre set, or live where there is none.
    pub target: PathBuf,
    pub has_pre_set: bool,
}

/// What both machines had after their last sync.
pub struct Base {
    /// The source's set of it.
    pub then: PathBuf,
    /// What was moved on the source since.
    pub moved: Vec<Moved>,
}

/// What files become of what changed in them.
#[derive(Default)]
struct Patches {
    /// Bytes that changed of those that are patched.
    bytes: HashMap<BytePath, u64>,
    /// Those of which most changed.
    changed: HashSet<BytePath>,
}

/// Size and time of each file of the target.
type Versions = HashMap<BytePath, (u64, FileTime)>;

/// Plans a part. Which files are taken for proven to be the same on both is drawn: all of those that are patched are.
pub async fn plan(agent: &Agent, ends: &Ends, first_content: u32, random: &mut Random) -> Steps {
    let walks = [(Walk::Source, &ends.source), (Walk::Target, &ends.target)];
    let (mut all, mut known, mut versions) = (Vec::new(), Known::new(false), Versions::new());
    for (walk, root) in walks {
        let mut listings = agent.walk(tree(root)).await.unwrap();
        while let Some(listing) = listings.next().await.unwrap() {
            for entry in listing.entries.iter().filter(|_| walk == Walk::Target) {
                let path = listing.path.join(entry.name.as_bytes());
                let there = Seen::within(Some(&listing), entry.name.as_bytes());
                if entry.kind == Kind::File {
                    versions.insert(path.clone(), (entry.size, entry.meta.mtime));
                }
                known.add(path, there, Seen::Nothing);
            }
            all.push((walk, listing));
        }
    }
    let moves = moves(ends, known);
    let mut pairing = Pairing::new(Judge::default(), &moves);
    all.into_iter().for_each(|(walk, listing)| pairing.add(walk, listing));
    let mut all = pairing.finish().unwrap();
    assert!(all.suspects.is_empty(), "nothing is compared by content: {:?}", all.suspects);
    resolve(&mut all.found, all.links, false);
    let patches = patches(agent, ends, &all.found, &moves).await;
    let mut steps = steps(all.found, &all.holding, &all.dir_meta, &patches.bytes, first_content, &moves);
    if ends.has_pre_set {
        share(agent, ends, &versions, &mut steps).await;
    }
    rough::arrange(&mut steps, &patches.changed, &moves);
    let drawn = steps.patches.iter().filter(|_| random.below(2) == 0);
    let drawn = drawn.map(|want| want.path.clone()).collect();
    proven::arrange(&mut steps, &drawn);
    steps
}

fn tree(root: &Path) -> Tree {
    Tree { root: root.into(), prefix: BytePath::default(), rules: RuleSet::default() }
}

fn moves(ends: &Ends, mut known: Known) -> Moves {
    let Some(base) = &ends.base else { return Moves::default() };
    loop {
        match Moves::plan(base.moved.clone(), &[], Some(&mut known), |_| false) {
            Planned::Moves(moves) => return *moves,
            // All that there is was listed.
            Planned::Wanted(wanted) => {
                wanted.into_iter().for_each(|path| known.add(path, Seen::Nothing, Seen::Nothing))
            }
        }
    }
}

/// Asks what changed in files of several blocks and one name that replace such.
async fn patches(agent: &Agent, ends: &Ends, found: &[Found], moves: &Moves) -> Patches {
    let Some(base) = &ends.base else { return Patches::default() };
    let is_long = |entry: &Entry| (entry.kind, entry.nlink) == (Kind::File, 1) && entry.size > BLOCK;
    let candidate = |found: &Found| match (&found.change, &found.theirs) {
        (Change::Replace(ours, _, Kind::File), Some(theirs))
            if is_long(ours) && is_long(theirs) && moves.stands(Walk::Target, &found.path) == found.path =>
        {
            Some((found.path.clone(), ours.size))
        }
        _ => None,
    };
    let candidates: Vec<(BytePath, u64)> = found.iter().filter_map(candidate).collect();
    let want = |(content, (path, _)): (u32, &(BytePath, u64))| ReadWant { content, path: path.clone() };
    let wants: Vec<ReadWant> = (0..).zip(&candidates).map(want).collect();
    let (now, then) = (ends.source.as_path().into(), base.then.as_path().into());
    let told = agent.delta(now, then, &wants).await.unwrap();
    let mut patches = Patches::default();
    for ((path, size), content) in candidates.into_iter().zip(0..) {
        let Some(bytes) = told.get(&content) else { continue };
        if *bytes <= size - size / 4 {
            patches.bytes.insert(path, *bytes);
        } else {
            patches.changed.insert(path);
        }
    }
    patches
}

/// Makes files of what the target has, or gets in others.
async fn share(agent: &Agent, ends: &Ends, versions: &Versions, steps: &mut Steps) {
    let asked = shares::asked(steps);
    if asked.is_empty() {
        return;
    }
    let base = ends.base.as_ref().map(|base| base.then.as_path().into());
    let request = SharesRequest { tree: tree(&ends.source), base };
    let told = agent.shares(request, &asked).await.unwrap();
    let is_there = |origin: &Origin| match origin {
        Origin::File { path, size, mtime } => versions.get(path) == Some(&(*size, *mtime)),
        Origin::Asked(_) => true,
    };
    shares::rebuild(steps, told, &ends.target.as_path().into(), is_there);
}
