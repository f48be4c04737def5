//! Marks of states that somebody went back behind.

use pc_switcher_agent::proto::{GoodBy, GoodMark};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{BytePath, ExecError, SetId, SnapshotSet};

/// Takes marks that came by themselves from the sets that were left: `rollback good` would lead to them again. What a person
/// marked stays. Returns what is to be said of it.
pub(in crate::cli) async fn take(
    agent: &Agent,
    snapshot_dir: BytePath,
    is_left: impl Fn(&SnapshotSet) -> bool,
) -> Vec<String> {
    let host = agent.hostname();
    match try_to(agent, snapshot_dir, is_left).await {
        Ok(sets) => {
            let line =
                |id| format!("{host}: set {id} is not marked as good any more: it was gone back behind");
            sets.iter().map(line).collect()
        }
        Err(error) => vec![format!(
            "{host}: `rollback good` may lead to what was just left, since marks could not be taken away: {error}; \
             `pc-switcher snapshots good --none` does it"
        )],
    }
}

async fn try_to(
    agent: &Agent,
    snapshot_dir: BytePath,
    is_left: impl Fn(&SnapshotSet) -> bool,
) -> Result<Vec<SetId>, ExecError> {
    let (sets, _) = agent.sets(snapshot_dir.clone()).await?;
    let by_itself = sets.iter().filter(|stored| stored.words.good && stored.words.good_by != GoodBy::Hand);
    let left: Vec<SetId> =
        by_itself.filter(|stored| is_left(&stored.set)).map(|stored| stored.set.id()).collect();
    for id in &left {
        agent.mark_good(snapshot_dir.clone(), GoodMark::None(Some(id.clone()))).await?;
    }
    Ok(left)
}
