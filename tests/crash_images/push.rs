//! One sync's writing half: the plan of the real planner, through real agents.

use std::ops::AddAssign;
use std::path::Path;
use std::sync::Arc;

use pc_switcher_agent::data::apply::Watch;
use pc_switcher_agent::data::sent::Sent;
use pc_switcher_agent::linux::btrfs::{Btrfs, KernelBtrfs};
use pc_switcher_agent::proto::{
    ApplyReport, ApplyRequest, BlocksWant, PartRoot, ReadWant, RestWant, StreamFrame, decode,
};
use pc_switcher_agent::typed::{Agent, ApplySink, Applying, ReadStream, Wants};
use pc_switcher_contract::{AgentLink, BytePath, SnapshotKind, SnapshotMember, SnapshotName, SnapshotSet};
use pc_switcher_testkit::model::{Cut, ModelLink};
use pc_switcher_testkit::seed::Random;
use pc_switcher_user_data::steps::Steps;

use super::agent::OneAgent;
use super::machine::Running;
use super::plan::{Ends, plan};

pub const SESSION: &str = "0123abcd";

/// What a sync did.
pub struct Pushed {
    pub report: ApplyReport,
    /// Steps of the plan.
    pub ops: usize,
    pub counts: Counts,
}

/// How files came over.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Steps that move something.
    pub moves: usize,
    /// Files that were sent whole.
    pub files: usize,
    /// Files that were made of the version that they replace, with a digest of the whole.
    pub patches: usize,
    /// The same with a digest of what changed.
    pub proven: usize,
    /// Files that were made of others.
    pub built: usize,
}

impl Counts {
    fn of(steps: &Steps) -> Counts {
        Counts {
            moves: steps.stats.moved as usize,
            files: steps.wants.len(),
            patches: steps.patches.len() - steps.proven.len() + steps.rough.len(),
            proven: steps.proven.len(),
            built: steps.built.iter().map(Vec::len).sum(),
        }
    }

    /// Whether there was something of every kind.
    pub fn has_all(&self) -> bool {
        [self.moves, self.files, self.patches, self.proven, self.built].iter().all(|count| *count > 0)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.moves += other.moves;
        self.files += other.files;
        self.patches += other.patches;
        self.proven += other.proven;
        self.built += other.built;
    }
}

/// Brings the parts of a machine to what the source has.
pub fn push(all: &[Ends], running: &Running, watch: Arc<dyn Watch>, mut random: Random) -> Pushed {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let services = OneAgent { state: running.state(), watch, sent: Sent::default() };
        let link = Arc::new(ModelLink::with(Arc::new(services)));
        let agent = Agent::new(&(Arc::clone(&link) as Arc<dyn AgentLink>));
        let (mut plans, mut contents, mut ops, mut counts) = (Vec::new(), 0, 0, Counts::default());
        for ends in all {
            let steps = plan(&agent, ends, contents, &mut random).await;
            contents += steps.contents() as u32;
            ops += steps.ops.len();
            counts += Counts::of(&steps);
            plans.push(steps);
        }
        let report = send(&agent, all, running, &plans).await;
        link.cut();
        link.ended().await;
        Pushed { report, ops, counts }
    })
}

async fn send(agent: &Agent, all: &[Ends], running: &Running, plans: &[Steps]) -> ApplyReport {
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
    for (part, (ends, steps)) in (0..).zip(all.iter().zip(plans)) {
        if ends.has_pre_set && !(steps.patches.is_empty() && steps.rough.is_empty()) {
            sink.send(&StreamFrame::Sealed { part, root: at(&ends.target) }).await.unwrap();
        }
    }
    let (mut ops, mut contents) = (0, 0);
    for (part, steps) in (0..).zip(plans) {
        ops += steps.ops.len() as u64;
        contents += steps.contents();
        for chunk in steps.ops.chunks(50) {
            sink.send(&StreamFrame::Ops { part, ops: chunk.to_vec() }).await.unwrap();
        }
    }
    for (ends, steps) in all.iter().zip(plans) {
        send_contents(agent, &mut sink, ends, steps).await;
    }
    sink.send(&StreamFrame::Commit { ops, contents }).await.unwrap();
    sink.finish().await.unwrap();
    loop {
        if let Applying::Report(report) = stream.next().await.unwrap() {
            return report;
        }
    }
}

/// Sends the contents of a part, in the order in which a sync does.
async fn send_contents(agent: &Agent, sink: &mut ApplySink, ends: &Ends, steps: &Steps) {
    let source = at(&ends.source);
    if !steps.wants.is_empty() {
        pass(sink, agent.read(source.clone()).await.unwrap(), &steps.wants).await;
    }
    if !steps.rough.is_empty() {
        let wants = blocks(agent, ends, steps).await;
        pass(sink, agent.read_blocks(source.clone()).await.unwrap(), &wants).await;
    }
    let is_proven = |want: &ReadWant| steps.proven.contains(&want.content);
    let (proven, patches): (Vec<ReadWant>, Vec<ReadWant>) =
        steps.patches.iter().cloned().partition(is_proven);
    if let Some(base) = &ends.base {
        let then = at(&base.then);
        pass(sink, agent.read_delta(source.clone(), then.clone()).await.unwrap(), &patches).await;
        pass(sink, agent.read_ranges(source.clone(), then).await.unwrap(), &proven).await;
    }
    for level in &steps.built {
        sink.send(&StreamFrame::Settled).await.unwrap();
        for built in level {
            for (from, ranges) in &built.clones {
                let (content, from, ranges) = (built.rest.content, from.clone(), ranges.clone());
                sink.send(&StreamFrame::Clones { content, from, ranges }).await.unwrap();
            }
        }
        let wants: Vec<RestWant> = level.iter().map(|built| built.rest.clone()).collect();
        pass(sink, agent.read_rest(source.clone()).await.unwrap(), &wants).await;
    }
}

/// Asks for contents and passes them on.
async fn pass<W: serde::Serialize>(
    sink: &mut ApplySink,
    (mut asking, mut read): (Wants, ReadStream),
    wants: &[W],
) {
    asking.send(wants).await.unwrap();
    asking.finish().await.unwrap();
    while let Some(frame) = read.next().await.unwrap() {
        match StreamFrame::is_content(&frame) {
            true => sink.send_raw(frame).await.unwrap(),
            false => {
                let said = decode::<StreamFrame>(&frame).unwrap();
                assert!(matches!(said, StreamFrame::Same(_)), "the source says {said:?}");
            }
        }
    }
}

/// Asks the target for the blocks of what goes over its versions.
async fn blocks(agent: &Agent, ends: &Ends, steps: &Steps) -> Vec<BlocksWant> {
    let wants: Vec<ReadWant> = steps.rough.iter().map(|rough| rough.want.clone()).collect();
    let (mut asking, mut told) = agent.blocks(at(&ends.target)).await.unwrap();
    asking.send(&wants).await.unwrap();
    asking.finish().await.unwrap();
    let mut all = Vec::new();
    while let Some(blocks) = told.next().await.unwrap() {
        let want = wants.iter().find(|want| want.content == blocks.content).unwrap();
        all.push(BlocksWant { path: want.path.clone(), blocks });
    }
    all
}

fn at(path: &Path) -> BytePath {
    path.into()
}

/// The set that the parts were planned with; the list of steps is kept with it.
pub fn pre_set(running: &Running) -> SnapshotSet {
    let member = |part: usize| {
        let path = running.sealed(part);
        SnapshotMember {
            name: path.file_name().unwrap().to_str().unwrap().parse().unwrap(),
            path: path.as_path().into(),
            uuid: String::new(),
            source_uuid: String::new(),
            id: 0,
            otransid: 0,
            ctransid: 0,
            first_taken: None,
            apart: None,
        }
    };
    let members: Vec<SnapshotMember> = (0..running.layout.parts().len()).map(member).collect();
    let SnapshotName { stamp, session, .. } = members[0].name.clone();
    SnapshotSet {
        hostname: "desk".parse().unwrap(),
        kind: SnapshotKind::PreSync,
        stamp,
        session,
        consistent: true,
        members,
    }
}
