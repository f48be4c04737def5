//! One sync's writing half: the plan of the real planner, through real agents, with somebody who looks on at each step.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pc_switcher_agent::data::apply::{self, Watch};
use pc_switcher_agent::data::{read, sent::Sent, walk};
use pc_switcher_agent::linux::btrfs::{Btrfs, KernelBtrfs};
use pc_switcher_agent::linux::state::StateDir;
use pc_switcher_agent::proto::{
    AgentError, AgentHello, ApplyReport, ApplyRequest, Body, Moved, Op, PROTOCOL, PartRoot, Piece, ReadWant,
    Request, RuleSet, StreamFrame, Tree, encode,
};
use pc_switcher_agent::server::{Call, Services};
use pc_switcher_agent::typed::{Agent, Applying};
use pc_switcher_contract::{AgentLink, BytePath, SnapshotKind, SnapshotMember, SnapshotSet};
use pc_switcher_testkit::model::{Cut, ModelLink};
use pc_switcher_user_data::change::Judge;
use pc_switcher_user_data::compare::{Pairing, Walk};
use pc_switcher_user_data::links::resolve;
use pc_switcher_user_data::moves::{Known, Moves, Planned, Seen};
use pc_switcher_user_data::steps::{Steps, steps};

use super::machine::Running;

pub const SESSION: &str = "0123abcd";
const PRE_SET: &str = "@home-presync-20251115T120000Z-0123abcd";

/// Smaller files are sent whole, as by a sync.
const TWO_BLOCKS: u64 = 2 * BLOCK as u64;
const BLOCK: usize = 4096;
/// Blocks of one frame.
const BLOCKS: usize = 32;

/// The agent of both sides: the source is another directory.
struct OneAgent {
    state: StateDir,
    watch: Arc<dyn Watch>,
    sent: Sent,
}

impl Services for OneAgent {
    fn hello(&self) -> AgentHello {
        AgentHello {
            protocol: PROTOCOL,
            version: "0".into(),
            hostname: "desk".parse().unwrap(),
            machine_id: String::new(),
            uid: 0,
            pid: std::process::id(),
            digest: [0; 32],
        }
    }

    fn handle(&self, request: Request, call: &Call) -> Result<Vec<u8>, AgentError> {
        Ok(match request {
            Request::Walk(request) => encode(&walk::run(&request, call)?),
            Request::Read { root } => encode(&read::run(&root, call, &self.sent)?),
            Request::Apply(request) => encode(&apply::run(&request, call, &self.state, self.watch.as_ref())?),
            other => return Err(AgentError::failed(format!("`{}` is not answered here", other.name()))),
        })
    }

    fn shut_down(&self) {}
}

/// What a sync did.
pub struct Pushed {
    pub report: ApplyReport,
    /// Steps of the plan.
    pub ops: usize,
    /// How many of them move something.
    pub moves: usize,
    /// How many make a file of the version that it replaces.
    pub patches: usize,
}

/// The steps of one part, and the contents of which only what changed is sent.
struct Plan {
    steps: Steps,
    patches: Vec<ReadWant>,
}

/// Brings the parts of a machine to what the sources are, of which each says what was moved in it.
pub fn push(sources: &[(PathBuf, Vec<Moved>)], running: &Running, watch: Arc<dyn Watch>) -> Pushed {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let services = OneAgent { state: running.state(), watch, sent: Sent::default() };
        let link = Arc::new(ModelLink::with(Arc::new(services)));
        let agent = Agent::new(&(Arc::clone(&link) as Arc<dyn AgentLink>));
        let (mut plans, mut contents, mut ops, mut moves, mut patches) = (Vec::new(), 0, 0, 0, 0);
        for ((source, moved), part) in sources.iter().zip(running.parts()) {
            let plan = plan(&agent, source, &part, contents, moved).await;
            contents += (plan.steps.wants.len() + plan.patches.len()) as u32;
            ops += plan.steps.ops.len();
            moves += plan.steps.stats.moved as usize;
            patches += plan.patches.len();
            plans.push(plan);
        }
        let roots: Vec<PathBuf> = sources.iter().map(|(source, _)| source.clone()).collect();
        let report = send(&agent, &roots, running, plans).await;
        link.cut();
        link.ended().await;
        Pushed { report, ops, moves, patches }
    })
}

async fn plan(agent: &Agent, source: &Path, part: &Path, first_content: u32, moved: &[Moved]) -> Plan {
    let walks = [(Walk::Source, source), (Walk::Target, part)];
    let (mut all, mut known) = (Vec::new(), Known::new(false));
    for (walk, root) in walks {
        let tree = Tree { root: root.into(), prefix: BytePath::default(), rules: RuleSet::default() };
        let mut listings = agent.walk(tree).await.unwrap();
        while let Some(listing) = listings.next().await.unwrap() {
            if walk == Walk::Target {
                for entry in &listing.entries {
                    let there = Seen::within(Some(&listing), entry.name.as_bytes());
                    known.add(listing.path.join(entry.name.as_bytes()), there, Seen::Nothing);
                }
            }
            all.push((walk, listing));
        }
    }
    let moves = loop {
        match Moves::plan(moved.to_vec(), &[], Some(&mut known), |_| false) {
            Planned::Moves(moves) => break *moves,
            // All that there is was listed.
            Planned::Wanted(wanted) => {
                wanted.into_iter().for_each(|path| known.add(path, Seen::Nothing, Seen::Nothing))
            }
        }
    };
    let mut pairing = Pairing::new(Judge::default(), &moves);
    all.into_iter().for_each(|(walk, listing)| pairing.add(walk, listing));
    let mut all = pairing.finish().unwrap();
    assert!(all.suspects.is_empty(), "nothing is compared by content: {:?}", all.suspects);
    resolve(&mut all.found, all.links, false);
    let steps = steps(all.found, &all.holding, &all.dir_meta, &HashMap::new(), first_content, &moves);
    patched(steps, source, &moves)
}

/// Makes files of several blocks and one name of the versions that they replace.
fn patched(mut steps: Steps, source: &Path, moves: &Moves) -> Plan {
    let mut patched = HashSet::new();
    for op in &mut steps.ops {
        if let Op::Put { path, body, replaces: Some(old), .. } = op
            && let Body::File { content, size } = *body
            && size.min(old.size) >= TWO_BLOCKS
            && moves.stands(Walk::Target, path) == *path
            && fs::symlink_metadata(source.join(path.as_path())).unwrap().nlink() == 1
        {
            *body = Body::Patched { content, size };
            patched.insert(content);
        }
    }
    let wants = std::mem::take(&mut steps.wants).into_iter();
    let (patches, wants) = wants.partition(|want| patched.contains(&want.content));
    Plan { steps: Steps { wants, ..steps }, patches }
}

/// Returns the blocks in which two versions of a file differ, as a source sends them.
fn pieces(content: u32, new: &Path, old: &Path) -> Vec<Piece> {
    let [new, old] = [new, old].map(|path| fs::read(path).unwrap());
    let mut pieces = Vec::new();
    for (at, block) in (0..).step_by(BLOCK).zip(new.chunks(BLOCK)) {
        if old.get(at..at + block.len()) != Some(block) {
            pieces.push(Piece { content, offset: at as u64, data: block.to_vec(), last: None });
        }
    }
    let last = Some((new.len() as u64, *blake3::hash(&new).as_bytes()));
    pieces.push(Piece { content, offset: 0, data: Vec::new(), last });
    pieces
}

async fn send(agent: &Agent, sources: &[PathBuf], running: &Running, plans: Vec<Plan>) -> ApplyReport {
    let parts = running.parts().map(|part| PartRoot {
        root: part.as_path().into(),
        subvolume_uuid: match running.layout.is_btrfs() {
            true => KernelBtrfs.subvolume(&part).unwrap().uuid.hex(),
            false => String::new(),
        },
    });
    let pre_set = running.layout.is_btrfs().then(|| pre_set(running));
    let request = ApplyRequest { session: SESSION.parse().unwrap(), parts: parts.collect(), pre_set };
    let (mut sink, mut stream) = agent.apply(request).await.unwrap();
    let (mut ops, mut contents, mut reads) = (0, 0, Vec::new());
    for (part, (Plan { steps, patches }, source)) in (0..).zip(plans.into_iter().zip(sources)) {
        ops += steps.ops.len() as u64;
        contents += (steps.wants.len() + patches.len()) as u64;
        for chunk in steps.ops.chunks(50) {
            sink.send(&StreamFrame::Ops { part, ops: chunk.to_vec() }).await.unwrap();
        }
        reads.push((source, steps.wants, patches));
    }
    for ((source, wants, patches), part) in reads.into_iter().zip(running.parts()) {
        for ReadWant { content, path } in patches {
            let [new, old] = [source, &part].map(|root| root.join(path.as_path()));
            for some in pieces(content, &new, &old).chunks(BLOCKS) {
                sink.send(&StreamFrame::Content(some.to_vec())).await.unwrap();
            }
        }
        let (mut asking, mut read) = agent.read(source.as_path().into()).await.unwrap();
        asking.send(&wants).await.unwrap();
        asking.finish().await.unwrap();
        while let Some(frame) = read.next().await.unwrap() {
            sink.send_raw(frame).await.unwrap();
        }
    }
    sink.send(&StreamFrame::Commit { ops, contents }).await.unwrap();
    sink.finish().await.unwrap();
    loop {
        if let Applying::Report(report) = stream.next().await.unwrap() {
            return report;
        }
    }
}

/// A set that says where the list of steps is kept.
pub fn pre_set(running: &Running) -> SnapshotSet {
    let member = SnapshotMember {
        name: PRE_SET.parse().unwrap(),
        path: running.root.join("snapshots").join(PRE_SET).as_path().into(),
        uuid: String::new(),
        source_uuid: String::new(),
        id: 0,
        otransid: 0,
        ctransid: 0,
    };
    SnapshotSet {
        hostname: "desk".parse().unwrap(),
        kind: SnapshotKind::PreSync,
        stamp: member.name.stamp,
        session: member.name.session.clone(),
        consistent: true,
        members: vec![member],
    }
}
