//! Which of a plan's steps touch what lets people in on the target.

use pc_switcher_agent::proto::Op;
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{Area, BytePath, ModuleContext, ModuleError, Vital};

use crate::parts::PartPair;
use crate::survey::Survey;

/// Says what the plan is about to touch, before its first step.
///
/// # Errors
/// If the target does not answer, or the module must not begin.
pub async fn forewarn(
    ctx: &ModuleContext,
    parts: &[PartPair],
    surveys: &[Survey],
) -> Result<(), ModuleError> {
    let users = Agent::new(&ctx.target.agent).facts().await?.users;
    let vital = Vital::of(users.iter().map(|user| &user.home));
    let mut areas: Vec<Area> = Vec::new();
    for (part, survey) in parts.iter().zip(surveys) {
        areas.extend(touched(&vital.near(&part.root), &part.root, &survey.steps.ops));
    }
    areas.sort_unstable();
    areas.dedup();
    ctx.board.about_to_change(&areas).await
}

/// Returns what the steps of a part touch, each area as often as it is touched.
fn touched<'a>(vital: &'a Vital, root: &'a BytePath, ops: &'a [Op]) -> impl Iterator<Item = Area> + 'a {
    let paths = ops.iter().flat_map(|op| paths(op).into_iter().flatten());
    paths.filter_map(move |(path, with_all)| vital.area(&root.join(path.as_bytes()), with_all))
}

/// Returns what a step changes, and whether all that is below goes with it. Metadata alone is a matter of its own: times keep nobody
/// out, and a plan that would make sshd distrust a path is refused.
fn paths(op: &Op) -> [Option<(&BytePath, bool)>; 2] {
    match op {
        Op::Put { path, replaces, .. } | Op::Link { path, replaces, .. } => {
            [Some((path, replaces.is_some())), None]
        }
        Op::SetMeta { .. } | Op::SetDir { .. } => [None, None],
        Op::Remove { path, .. } | Op::RemoveDir { path } | Op::Aside { path, .. } => {
            [Some((path, true)), None]
        }
        Op::Move { path, from: other, .. } | Op::Swap { path, with: other, .. } => {
            [Some((path, true)), Some((other, true))]
        }
    }
}

#[cfg(test)]
mod tests {
    use pc_switcher_agent::proto::{Body, FileTime, Identity, Meta};

    use super::*;

    fn identity() -> Identity {
        let time = FileTime { seconds: 1, nanos: 0 };
        Identity { ino: 1, ctime: time, mtime: time, size: 1 }
    }

    fn put(path: &str) -> Op {
        let body = Body::File { content: 0, size: 1 };
        Op::Put { path: path.into(), body, meta: Meta::default(), replaces: None }
    }

    fn set_meta(path: &str, expect: Option<Identity>) -> Op {
        Op::SetMeta { path: path.into(), meta: Meta::default(), expect }
    }

    fn areas(ops: &[Op]) -> Vec<Area> {
        let vital = Vital::of(&["/home/alice".into()]);
        touched(&vital, &"/home".into(), ops).collect()
    }

    #[test]
    fn a_plan_that_touches_a_shells_start_files_is_told_from_a_days_work() {
        assert_eq!(areas(&[put("alice/.bashrc"), put("alice/notes/a")]), [Area::Login]);
        let times = [
            set_meta("alice/.profile", Some(identity())),
            set_meta("alice", None),
            set_meta("alice/.ssh", None),
        ];
        assert_eq!(areas(&times), []);
        let moved = Op::Move {
            path: "alice/old".into(),
            from: "alice/.ssh".into(),
            expect: identity(),
            replaces: None,
        };
        assert_eq!(areas(&[moved, Op::RemoveDir { path: "alice/notes".into() }]), [Area::Ssh]);
        assert_eq!(areas(&[Op::Remove { path: "alice/.ssh".into(), expect: identity() }]), [Area::Ssh]);
        assert_eq!(areas(&[put("alice/.ssh/config"), put("alice/.ssh")]), []);
    }
}
