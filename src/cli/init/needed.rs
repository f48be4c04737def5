//! Who needs the snapshots where they lie: a rollback, whose journal is among them, and what goes back to one of their sets.

use std::path::Path;

use pc_switcher_agent::proto::{
    Armed, DeadmanOrder, RollbackLook, RollbackOrder, RollbackPhase, RollbackState, Unnamed,
};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{BytePath, ModuleError};

use crate::cli::CliError;
use crate::cli::contact::Contact;
use crate::cli::guard::open::Open;
use crate::cli::snapshots;

/// Takes this machine's lock, free again when the agent ends, and returns why its snapshots have to stay where they are, if so. What was
/// cut off stays so: its journal would not be left alone by whoever finishes it.
///
/// # Errors
/// If a sync or another command has the lock, or the agent does not answer.
pub(super) async fn hold(
    agent: &Agent,
    contact: &Contact,
    dir: &Path,
) -> Result<Option<CliError>, ModuleError> {
    snapshots::lock(agent, contact).await?;
    let dir = BytePath::from(dir);
    let look = agent.rollback(RollbackOrder::Look).await?;
    let look =
        RollbackLook { strays: agent.rollback(RollbackOrder::Strays(dir.clone())).await?.strays, ..look };
    let armed = agent.deadman(DeadmanOrder::Look).await?.armed;
    let open = Open::of(agent).await?;
    Ok(why(&look, armed.as_ref(), open.as_ref(), &dir))
}

/// Returns why the snapshots have to stay where they are, and what ends that.
fn why(look: &RollbackLook, armed: Option<&Armed>, open: Option<&Open>, dir: &BytePath) -> Option<CliError> {
    let refused = |what: String, ends: String| CliError::Refused {
        message: format!("nothing was run, and the snapshots stay where they are: {what}"),
        help: Some(format!("{ends}; then give the same command again")),
    };
    if let Some(state) = &look.state {
        return Some(refused(rollback(state, look), ends(state)));
    }
    if let Some(stray) = look.strays.iter().find(|stray| stray.why == Unnamed::Lost) {
        return Some(refused(stray.explain(), stray.fix(dir)));
    }
    if let Some(armed) = armed {
        return Some(refused(armed.explain(), "`pc-switcher rollback confirm` has that sync stay".into()));
    }
    open.map(|open| match open.explain() {
        Some(dead) => refused(dead, "do one of both".into()),
        None => refused(open.runs(), "wait for its end".into()),
    })
}

fn rollback(state: &RollbackState, look: &RollbackLook) -> String {
    let waits = if look.in_use.is_empty() { "" } else { " and waits for a restart" };
    format!(
        "rollback {} to set {} is not over{waits}, and its journal is among them",
        state.session, state.to
    )
}

fn ends(state: &RollbackState) -> String {
    match state.phase {
        RollbackPhase::Done => "`pc-switcher rollback confirm` keeps it for good, `pc-switcher rollback cancel` and a `confirm` after it \
             take it back for good"
            .into(),
        RollbackPhase::Cancelled => {
            "`pc-switcher rollback confirm` removes what it had put in place, after a restart if that is still worked on".into()
        }
        _ => "`pc-switcher rollback status` says what brings it to its end".into(),
    }
}

#[cfg(test)]
mod tests {
    use pc_switcher_agent::proto::{DeadmanState, StrayJournal};

    use super::*;

    fn refusal(look: &RollbackLook, armed: Option<&Armed>, open: Option<&Open>) -> Option<(String, String)> {
        match why(look, armed, open, &"/.snapshots".into())? {
            CliError::Refused { message, help } => Some((message, help.unwrap())),
            other => panic!("{other:?}"),
        }
    }

    fn rollback(phase: &str) -> RollbackLook {
        let text = format!(
            r#"{{"session": "abc12345", "stamp": "20251115T120000Z", "to": "20251115T120000Z-0a1b2c3d-presync", "phase": "{phase}",
            "members": [], "records": []}}"#
        );
        RollbackLook { state: Some(serde_json::from_str(&text).unwrap()), ..RollbackLook::default() }
    }

    #[test]
    fn a_rollback_that_stands_keeps_its_journal_where_it_is() {
        assert_eq!(refusal(&RollbackLook::default(), None, None), None);
        for (phase, ends) in
            [("done", "rollback cancel"), ("cancelled", "rollback confirm"), ("committed", "rollback status")]
        {
            let (message, help) = refusal(&rollback(phase), None, None).unwrap();
            assert!(
                message.contains("rollback abc12345") && message.contains("nothing was run"),
                "{message}"
            );
            assert!(help.contains(ends) && help.contains("the same command again"), "{help}");
        }
    }

    #[test]
    fn a_journal_that_nothing_names_keeps_it_unless_it_was_set_aside() {
        let with = |why| {
            let (session, place) = ("abc12345".parse().unwrap(), "/.snapshots/x.json".into());
            let strays = vec![StrayJournal { session, place, why, beside: Vec::new() }];
            refusal(&RollbackLook { strays, ..RollbackLook::default() }, None, None)
        };
        assert!(with(Unnamed::Lost).unwrap().1.contains("has it known again"));
        assert_eq!(with(Unnamed::Aside), None);
    }

    #[test]
    fn a_sync_that_is_not_confirmed_and_a_guard_keep_their_sets_where_they_are() {
        let text = r#"{"armed": {"wish": {"session": "abc12345", "from": "laptop", "limit_seconds": 120, "pre": {
            "hostname": "desk", "kind": "pre-sync", "stamp": "20251115T120000Z", "session": "abc12345", "consistent": true,
            "members": []}}, "boot_id": "one", "until_ms": null}}"#;
        let armed = DeadmanState::read(text.as_bytes()).armed;
        let (message, help) = refusal(&RollbackLook::default(), armed.as_ref(), None).unwrap();
        assert!(message.contains("sync abc12345 from laptop is not confirmed"), "{message}");
        assert!(help.contains("rollback confirm"), "{help}");
        let open = br#"{"command": "apt full-upgrade", "set": "20251115T120000Z-abc12345-autoupdate", "subvolumes": ["@"], "process": null}"#;
        let (message, _) = refusal(&RollbackLook::default(), None, Open::read(open).as_ref()).unwrap();
        assert!(message.contains("after `apt full-upgrade`"), "{message}");
    }
}
