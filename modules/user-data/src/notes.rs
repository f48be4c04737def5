//! What people and the record of the pair are told about single paths.

use std::collections::HashSet;

use pc_switcher_agent::proto::{ApplyReport, Layout, Refusals};
use pc_switcher_contract::{BytePath, Hostname, Lacking, LogLevel, ModuleContext, human_bytes};

use crate::change::LeftAlone;
use crate::nested::Left;
use crate::parts::PartPair;
use crate::survey::{APART, Survey};
use crate::transfer::PackedBytes;

/// So many paths of a kind are said loudly.
pub const NAMED: usize = 100;

/// Names what changed on the source while it was read; the next sync brings it over.
pub fn unsent(ctx: &ModuleContext, unsent: &[(BytePath, BytePath)]) {
    for (at, (root, path)) in unsent.iter().enumerate() {
        let path = root.join(path.as_bytes());
        let level = if at < NAMED { LogLevel::Warning } else { LogLevel::Full };
        let text = format!("`{path}` changed while it was read and is left for the next sync");
        ctx.reporter.log(level, &ctx.source.hostname, text);
        ctx.board.add_unsent(path);
    }
    ctx.board.add_left(unsent.len());
}

/// Says which files that were sent `chattr` protects on the source.
pub fn frozen(ctx: &ModuleContext, paths: &[BytePath]) {
    if let Some(text) = frozen_in_words(paths) {
        ctx.reporter.log(LogLevel::Info, &ctx.source.hostname, text);
    }
}

fn frozen_in_words(paths: &[BytePath]) -> Option<String> {
    const SHOWN: usize = 3;
    let first: Vec<String> = paths.iter().take(SHOWN).map(|path| format!("`{path}`")).collect();
    let files = match paths.len() {
        0 => return None,
        1 => "1 file that was sent is".to_owned(),
        n => format!("{n} files that were sent are"),
    };
    let more = if paths.len() > SHOWN { ", …" } else { "" };
    Some(format!(
        "{files} protected by `chattr` (`+i` or `+a`), which does not go over: {}{more}",
        first.join(", ")
    ))
}

/// Says what was compressed on its way, and why.
pub fn packed(ctx: &ModuleContext, packed: Option<PackedBytes>) {
    let Some(PackedBytes { plain, sent, all, link }) = packed else { return };
    let why = link
        .map_or_else(String::new, |rate| format!("; the link took {} a second", human_bytes(rate as u64)));
    let [plain, sent, all] = [plain, sent, all].map(human_bytes);
    let text = format!("of {all} that were sent, {plain} were compressed to {sent}{why}");
    ctx.reporter.log(LogLevel::Info, &ctx.target.hostname, text);
}

/// Says where the target's versions of conflicts are that no snapshot holds.
pub fn losers(ctx: &ModuleContext, losers: Vec<(BytePath, BytePath)>, report: &ApplyReport) {
    let left: HashSet<&BytePath> = report.conflicts.iter().map(|conflict| &conflict.path).collect();
    for (path, kept) in losers.into_iter().filter(|(path, _)| !left.contains(path)) {
        let hostname = &ctx.target.hostname;
        let text = format!("`{path}`: the version of {hostname} is kept as `{kept}` until the next sync");
        ctx.reporter.log(LogLevel::Info, hostname, text.clone());
        ctx.board.add_conflict(text);
    }
}

/// Names what lies below a folder and is not mirrored with it.
pub fn left_out(ctx: &ModuleContext, hostname: &Hostname, layout: &Layout) {
    for mount in &layout.foreign {
        let text = format!("`{}` ({}) is a mount of its own and is not mirrored", mount.path, mount.fs_type);
        ctx.reporter.log(LogLevel::Warning, hostname, text);
    }
}

/// Names nested subvolumes that are not mirrored.
pub fn nested(ctx: &ModuleContext, left: &[Left]) {
    for Left { role, root, why } in left {
        let text = format!(
            "`{root}` is a nested subvolume and is not mirrored: {why}; of what `exclude` names nothing is said"
        );
        ctx.reporter.log(LogLevel::Warning, ctx.hostname(*role), text);
    }
}

/// Notes where both machines differ though nothing is to be done: the next sync looks there again.
pub fn apart(ctx: &ModuleContext, part: &PartPair, survey: &Survey) {
    let left_alone = survey.left_alone.iter().map(|left| &left.path);
    let steps = &survey.steps;
    let paths = left_alone.chain(&steps.kept).chain(&steps.blocked).chain(&survey.times);
    for path in paths.take(APART) {
        ctx.board.add_apart(part.root.join(path.as_bytes()));
    }
    for lacking in &survey.lacked.kept {
        ctx.board.add_apart(lacking.path.clone());
        ctx.board.add_lacking(lacking.clone());
    }
    for path in survey.left_alone.iter().map(|left| &left.path).chain(&steps.blocked) {
        ctx.board.add_alien(part.root.join(path.as_bytes()));
    }
}

/// Names what stays though the source has it otherwise.
pub fn kept(ctx: &ModuleContext, part: &PartPair, survey: &Survey) {
    let mut missed = 0;
    for LeftAlone { path, reason, is_missed } in &survey.left_alone {
        missed += usize::from(*is_missed);
        let text = format!("`{}` is left alone: {reason}", part.root.join(path.as_bytes()));
        let is_loud = *is_missed && missed <= NAMED;
        let level = if is_loud { LogLevel::Warning } else { LogLevel::Full };
        ctx.reporter.log(level, &ctx.target.hostname, text);
    }
    for path in &survey.steps.kept {
        let text =
            format!("`{}` stays: it holds files that are not mirrored", part.root.join(path.as_bytes()));
        ctx.reporter.log(LogLevel::Warning, &ctx.target.hostname, text);
    }
    for path in &survey.steps.blocked {
        let path = part.root.join(path.as_bytes());
        let text = format!("`{path}` stays a directory: it holds files that are not mirrored");
        ctx.reporter.log(LogLevel::Warning, &ctx.target.hostname, text);
    }
}

/// Names what the target has, and the source cannot hold.
pub fn lacked(ctx: &ModuleContext, survey: &Survey) {
    for (at, Lacking { path, name, .. }) in survey.lacked.kept.iter().enumerate() {
        let level = if at < NAMED { LogLevel::Warning } else { LogLevel::Full };
        let source = &ctx.source.hostname;
        let text =
            format!("`{path}` keeps its attribute `{name}`: the file system of {source} cannot hold it");
        ctx.reporter.log(level, &ctx.target.hostname, text);
    }
    let paths: HashSet<&BytePath> = survey.lacked.kept.iter().map(|lacking| &lacking.path).collect();
    ctx.board.add_left(paths.len());
    for (at, Lacking { path, name, .. }) in survey.lacked.lost.iter().enumerate() {
        let level = if at < NAMED { LogLevel::Warning } else { LogLevel::Full };
        let text = format!(
            "`{path}` goes with its attribute `{name}`, which the file system of {} could not hold, and what has another name \
             there comes back without it; `pc-switcher snapshots restore` brings the old one",
            ctx.source.hostname
        );
        ctx.reporter.log(level, &ctx.target.hostname, text);
    }
}

/// Names the attributes that the target's file system does not hold; the next sync tries them again.
pub fn refused(ctx: &ModuleContext, refused: &Refusals) {
    let target = &ctx.target.hostname;
    let mut named = HashSet::new();
    for refused in refused.named() {
        let level = if named.len() < NAMED { LogLevel::Warning } else { LogLevel::Full };
        if !named.insert((&refused.path, &refused.name)) {
            continue;
        }
        ctx.reporter.log(level, target, refused.explain(target));
        ctx.board.add_apart(refused.path.clone());
        let (path, name) = (refused.path.clone(), refused.name.clone());
        ctx.board.add_lacking(Lacking { hostname: target.clone(), path, name });
    }
    if named.len() > NAMED {
        let text =
            format!("{target} cannot keep attributes of {} more paths, all in the log", named.len() - NAMED);
        ctx.reporter.log(LogLevel::Warning, target, text);
    }
    // These the verification meets: nobody could remember them.
    if let Some(others) = refused.others(target) {
        ctx.reporter.log(LogLevel::Warning, target, others);
    }
    let paths: HashSet<&BytePath> = named.into_iter().map(|(path, _)| path).collect();
    ctx.board.add_left(paths.len());
}

/// Names what somebody changed on the target while the sync ran; the next sync asks about it.
pub fn meanwhile(ctx: &ModuleContext, paths: Vec<BytePath>) {
    for (at, path) in paths.into_iter().enumerate() {
        let level = if at < NAMED { LogLevel::Warning } else { LogLevel::Full };
        let text = format!("`{path}` changed there during the sync and stays as it is");
        ctx.reporter.log(level, &ctx.target.hostname, text);
        ctx.board.add_unsettled(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_of_many_protected_files_are_named() {
        let paths: Vec<BytePath> = (0..4).map(|n| format!("/home/a/{n}").as_str().into()).collect();
        assert_eq!(frozen_in_words(&[]), None);
        let said = "1 file that was sent is protected by `chattr` (`+i` or `+a`), which does not go over: `/home/a/0`";
        assert_eq!(frozen_in_words(&paths[..1]).as_deref(), Some(said));
        let said = frozen_in_words(&paths).unwrap();
        assert!(said.starts_with("4 files that were sent are") && said.ends_with("`/home/a/2`, …"), "{said}");
    }
}
