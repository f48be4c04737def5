//! `rollback status`: what of a rollback is there though the machine's own state says nothing of it.

use pc_switcher_agent::proto::{RollbackLook, RollbackOrder, StrayJournal};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::BytePath;
use serde_json::{Value, json};

use super::Done;

/// Looks for journals beside the snapshots that nothing names, if it is known where snapshots lie. What cannot be read is a problem, and
/// no error: how the rollback stands that the machine knows of is told all the same.
pub(super) async fn find(agent: &Agent, dir: Option<&BytePath>, look: RollbackLook) -> RollbackLook {
    let Some(dir) = dir else { return look };
    match agent.rollback(RollbackOrder::Strays(dir.clone())).await {
        Ok(found) => RollbackLook { strays: found.strays, ..look },
        Err(error) => RollbackLook { problems: vec![error.to_string()], ..look },
    }
}

/// Returns what is said of them.
pub(super) fn told(done: &Done, dir: Option<&BytePath>) -> Vec<String> {
    let lines = |(stray, dir): (&StrayJournal, &BytePath)| {
        [format!("{}: {}", done.hostname, stray.explain()), format!("  {}", stray.fix(dir))]
    };
    let problems = done.look.problems.iter().map(|why| format!("{}: {why}", done.hostname));
    done.look.strays.iter().zip(dir.into_iter().cycle()).flat_map(lines).chain(problems).collect()
}

/// Returns them for programs.
pub(super) fn json(strays: &[StrayJournal]) -> Value {
    let one = |stray: &StrayJournal| {
        json!({
            "session": stray.session,
            "journal": stray.place.to_string(),
            "beside": stray.beside,
            "why": stray.explain(),
        })
    };
    strays.iter().map(one).collect()
}
