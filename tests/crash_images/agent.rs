//! The agent of both machines, with somebody who looks on at each step of a commit.

use std::sync::Arc;

use pc_switcher_agent::data::apply::{self, Watch};
use pc_switcher_agent::data::{blocks, delta, read, sent::Sent, shares, walk};
use pc_switcher_agent::linux::btrfs::KernelBtrfs;
use pc_switcher_agent::linux::state::StateDir;
use pc_switcher_agent::linux::unchanged;
use pc_switcher_agent::proto::{AgentError, AgentHello, PROTOCOL, Request, SharesRequest, encode};
use pc_switcher_agent::server::{Call, Services};

/// One for both sides: each request names its trees.
pub struct OneAgent {
    pub state: StateDir,
    pub watch: Arc<dyn Watch>,
    pub sent: Sent,
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
        let sent = &self.sent;
        Ok(match request {
            Request::Walk(request) => encode(&walk::run(&request, call)?),
            Request::Delta { root, base } => encode(&delta::run(&root, &base, call)?),
            Request::Shares(request) => encode(&shares(&request, call)?),
            Request::Read { root } => encode(&read::run(&root, call, sent)?),
            Request::ReadDelta { root, base } => encode(&read::run_delta(&root, &base, call, sent)?),
            Request::ReadRanges { root, base } => encode(&read::run_ranges(&root, &base, call)?),
            Request::ReadRest { root } => encode(&read::run_rest(&root, call, sent)?),
            Request::Blocks { root } => encode(&blocks::run(&root, call)?),
            Request::ReadBlocks { root } => encode(&read::run_blocks(&root, call, sent)?),
            Request::Apply(request) => encode(&apply::run(&request, call, &self.state, self.watch.as_ref())?),
            other => return Err(AgentError::failed(format!("`{}` is not answered here", other.name()))),
        })
    }

    fn shut_down(&self) {}
}

fn shares(request: &SharesRequest, call: &Call) -> Result<(), AgentError> {
    let root = request.tree.root.as_path();
    let since = request.base.as_ref().and_then(|base| {
        let since = unchanged::since(&KernelBtrfs, base.as_path(), root).unwrap();
        assert!(since.is_some(), "the sets of the source are not of one subvolume");
        since
    });
    shares::run(request, since, call)
}
