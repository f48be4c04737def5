//! What the front receives. The first byte chooses: a whole conversation, or the body of one type.

use std::sync::Arc;

use pc_switcher_agent::client::{AgentConn, ConnOptions};
use pc_switcher_agent::proto::{
    Activated, AgentError, AgentHello, ApplyNews, ApplyReport, ApplyRequest, Blocks, ChangedDir, Diagnosis,
    ExecItem, Layout, Listings, LockReply, MachineFacts, Patience, Redone, RuleSet, Shares, SpaceReport,
    StreamFrame, Tree, WalkSummary, Writer,
};
use pc_switcher_agent::typed::{Agent, Applying};
use pc_switcher_contract::{AgentLink, BytePath, SnapshotSet};
use tokio::runtime::Builder;

use super::frames::one;

/// Reads the bytes as the front would.
pub fn run(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 20 {
        0 => conversation(body),
        1 => drop(one::<AgentHello>(body)),
        2 => drop(one::<MachineFacts>(body)),
        3 => drop(one::<LockReply>(body)),
        4 => drop(one::<Layout>(body)),
        5 => drop(one::<Vec<SpaceReport>>(body)),
        6 => drop(one::<SnapshotSet>(body)),
        7 => drop(one::<Listings>(body)),
        8 => drop(one::<WalkSummary>(body)),
        9 => drop(one::<StreamFrame>(body)),
        10 => drop(one::<Vec<(u32, Option<[u8; 32]>)>>(body)),
        11 => drop(one::<ApplyNews>(body)),
        12 => drop(one::<ApplyReport>(body)),
        13 => redone(body),
        14 => drop(one::<Option<Vec<u8>>>(body)),
        15 => drop(one::<Vec<String>>(body)),
        16 => drop(one::<ExecItem>(body)),
        17 => drop(one::<Activated>(body)),
        18 => drop(one::<Diagnosis>(body)),
        _ => {
            one::<Vec<Writer>>(body);
            one::<Vec<ChangedDir>>(body);
            one::<Vec<Shares>>(body);
            one::<Blocks>(body);
            one::<AgentError>(body);
            one::<Result<(), String>>(body);
        }
    }
}

/// What a person is told never breaks a line or its key its directory.
fn redone(body: &[u8]) {
    for redone in one::<Vec<Redone>>(body).unwrap_or_default() {
        assert!(!redone.explain().is_empty());
        assert_eq!(redone.key().matches('/').count(), 1);
    }
}

/// The whole front, with every sort of call open: whatever comes, all of them end.
fn conversation(body: &[u8]) {
    let runtime = Builder::new_current_thread().enable_time().build();
    let runtime = runtime.unwrap_or_else(|error| unreachable!("a runtime without threads: {error}"));
    let input: Arc<[u8]> = body.into();
    runtime.block_on(async move {
        let options = ConnOptions::new("desk", "0.1.0");
        let input = std::io::Cursor::new(input);
        let Ok((conn, _)) = AgentConn::start(input, tokio::io::sink(), options).await else { return };
        let link: Arc<dyn AgentLink> = conn.clone();
        calls(&Agent::new(&link)).await;
        conn.lost().await;
    });
}

/// Calls 1 to 7, opened one after the other before anything is read.
async fn calls(agent: &Agent) {
    let tree = Tree { root: "/home".into(), prefix: BytePath::default(), rules: RuleSet::default() };
    let apply = ApplyRequest {
        session: "0a1b2c3d".parse().unwrap_or_else(|_| unreachable!("eight digits")),
        parts: Vec::new(),
        pre_set: None,
    };
    let walk = agent.walk(tree).await;
    let read = agent.read("/home".into()).await;
    let digest = agent.digest("/home".into()).await;
    let apply = agent.apply(apply).await;
    let (Ok(mut walk), Ok((_wants, mut read)), Ok((_digests, mut digest)), Ok((_sink, mut apply))) =
        (walk, read, digest, apply)
    else {
        return;
    };
    let walked = async {
        let mut listings = 0_usize;
        while let Ok(Some(listing)) = walk.next().await {
            assert!(!listing.more, "a piece was handed on");
            listings += 1;
        }
        listings
    };
    let readers = async {
        while let Ok(Some(_)) = read.next().await {}
        while let Ok(Some(_)) = digest.next().await {}
        while let Ok(Applying::News(_)) = apply.next().await {}
    };
    let answers = tokio::join!(
        walked,
        readers,
        agent.facts(),
        agent.history_list(3),
        agent.redo(Patience::TryAgainLater)
    );
    drop(answers);
}
