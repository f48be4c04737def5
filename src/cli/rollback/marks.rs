//! Marks of states that somebody went back behind.

use pc_switcher_agent::proto::{GoodBy, GoodMark};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{BytePath, ExecError, Hostname, SetId, SnapshotSet};

/// Which marks were taken away.
#[derive(Debug, Default)]
pub(in crate::cli) struct Unmarked {
    pub(in crate::cli) sets: Vec<SetId>,
    /// Why that could not be done of all, if so.
    failed: Option<String>,
}

impl Unmarked {
    /// Returns what is to be said of it.
    pub(in crate::cli) fn lines(&self, host: &Hostname) -> Vec<String> {
        let gone = |id| format!("{host}: set {id} is not marked as good any more: it was gone back behind");
        self.sets.iter().map(gone).chain(self.failure(host)).collect()
    }

    /// Returns what is to be said of those that stay although they should not.
    pub(in crate::cli) fn failure(&self, host: &Hostname) -> Option<String> {
        self.failed.as_ref().map(|why| {
            format!(
                "{host}: `rollback good` may lead to what was just left, since marks could not be taken away: {why}; \
                 `pc-switcher snapshots good --none` does it"
            )
        })
    }
}

/// Takes marks that came by themselves from the sets that were left: `rollback good` would lead to them again. What a person
/// marked stays.
pub(in crate::cli) async fn take(
    agent: &Agent,
    snapshot_dir: BytePath,
    is_left: impl Fn(&SnapshotSet) -> bool,
) -> Unmarked {
    let mut unmarked = Unmarked::default();
    let done = try_to(agent, snapshot_dir, is_left, &mut unmarked.sets).await;
    unmarked.failed = done.err().map(|error| error.to_string());
    unmarked
}

async fn try_to(
    agent: &Agent,
    snapshot_dir: BytePath,
    is_left: impl Fn(&SnapshotSet) -> bool,
    gone: &mut Vec<SetId>,
) -> Result<(), ExecError> {
    let (sets, _) = agent.sets(snapshot_dir.clone()).await?;
    let by_itself = sets.iter().filter(|stored| stored.words.good && stored.words.good_by != GoodBy::Hand);
    for stored in by_itself.filter(|stored| is_left(&stored.set)) {
        let id = stored.set.id();
        agent.mark_good(snapshot_dir.clone(), GoodMark::None(Some(id.clone()))).await?;
        gone.push(id);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_that_went_and_those_that_could_not_are_said() {
        let host = "desk".parse().unwrap();
        let sets = vec!["20251115T120000Z-abc12345-postsync".parse().unwrap()];
        let mut unmarked = Unmarked { sets, failed: None };
        assert_eq!(
            unmarked.lines(&host),
            [
                "desk: set 20251115T120000Z-abc12345-postsync is not marked as good any more: it was gone back behind"
            ]
        );
        unmarked.failed = Some("the disk is full".into());
        assert!(unmarked.lines(&host)[1].contains("could not be taken away: the disk is full"));
        assert!(Unmarked::default().lines(&host).is_empty());
    }
}
