//! What is mounted over below the folders of one machine is left alone on both.

use pc_switcher_agent::data::rules::Rules;
use pc_switcher_agent::proto::Layout;
use pc_switcher_contract::{BytePath, Hostname, ModuleContext, Problem};

use crate::parts::{PartPair, relative};
use crate::ruled;
use crate::rules::rule_of_mount;

/// Leaves the mounts of source and target alone; returns those that no rule can say.
pub(crate) fn leave_alone(
    ctx: &ModuleContext,
    parts: &mut [PartPair],
    [ours, theirs]: [&Layout; 2],
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (hostname, layout) in [(&ctx.source.hostname, ours), (&ctx.target.hostname, theirs)] {
        for mount in &layout.foreign {
            problems.extend(leave_mount_alone(ctx, hostname, parts, &mount.path));
        }
    }
    problems
}

/// Leaves a path that is mounted over on one machine alone on both, and all below it: a snapshot shows what lies under the
/// mount. Mounts come and go, so they do not belong to the rules of which the record keeps a digest; but nobody compared
/// what lies there. A problem if no rule can say its path.
fn leave_mount_alone(
    ctx: &ModuleContext,
    hostname: &Hostname,
    parts: &mut [PartPair],
    path: &BytePath,
) -> Option<Problem> {
    let held = |part: &&mut PartPair| *path != part.root && path.is_within(&part.root);
    let part = parts.iter_mut().filter(held).max_by_key(|part| part.root.as_bytes().len())?;
    if let Some(rule) = rule_of_mount(&part.folder, path) {
        part.rules.forced.push(rule);
        ctx.board.add_apart(path.clone());
        ctx.board.add_alien(path.clone());
        return None;
    }
    let inside = relative(path, &part.folder);
    let rules = Rules::compile(&part.rules, &BytePath::default());
    if rules.is_ok_and(|rules| ruled::is_left_out(&rules, inside.as_bytes(), true)) {
        return None;
    }
    let text = format!(
        "`{path}` is a mount of its own, and no rule can leave it alone: its path is no UTF-8 or has a line break"
    );
    Some(Problem::on(hostname, text).hint("give the directory another name, or exclude a directory above it"))
}
