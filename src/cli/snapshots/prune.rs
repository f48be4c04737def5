//! `snapshots prune`: what happens after each sync, by hand.

use pc_switcher_agent::proto::{Gain, StoredSet};
use pc_switcher_btrfs_snapshots::order::Preview;
use pc_switcher_btrfs_snapshots::prune::{self, Judged, Pruned, Waits};
use pc_switcher_btrfs_snapshots::thin::{self, If, Thinned, Wish};
use pc_switcher_contract::keep::Keep;
use pc_switcher_contract::{BytePath, ErrorKind, Hostname, ModuleError, SetId, Threshold, human_bytes};
use serde_json::json;

use super::{Where, lock, render, settings, with_agent};
use crate::cli::{CliError, Context, Exit};
use crate::clock;
use crate::session::text::count;

/// Remove the sets that no rule of `keep` keeps
///
/// With --free also those that only `keep_min` could spare, the ones that hold the most first, until so much is available; with
/// --dry-run as well it says which would go, in their order, and how much each holds that nothing else does.
#[derive(Debug, Clone, clap::Args)]
pub struct PruneArgs {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Say for every set why it stays or goes
    #[arg(long)]
    explain: bool,
    /// Keep the sets of the last N sessions, or what this text says, in place of `keep`: `3`, `"last 2 sessions, 7d"`
    #[arg(long, value_name = "N", value_parser = keep)]
    keep: Option<Keep>,
    /// Go on until so much is available where the snapshots lie: `40GiB`, or a share of the disk: `20%`
    #[arg(long, value_name = "SIZE")]
    free: Option<Threshold>,
    #[command(flatten)]
    place: Where,
}

/// Reads a number of sessions, or the text of a rule.
fn keep(text: &str) -> Result<Keep, String> {
    let rule = match text.parse::<u32>() {
        Ok(count) => format!("last {count} sessions"),
        Err(_) => text.to_owned(),
    };
    rule.parse().map_err(|error| format!("{error}"))
}

/// Prunes, and prints what became of what.
///
/// # Errors
/// If a sync runs, or the machine cannot be reached.
pub fn run(args: &PruneArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let mut config = settings(context)?;
    if let Some(keep) = &args.keep {
        config.keep = keep.clone();
    }
    let now = clock::system()();
    let done = with_agent(&args.place, context, async |agent, contact| {
        if !args.dry_run {
            lock(agent, contact).await?;
        }
        let mut done = Done {
            hostname: agent.hostname().clone(),
            judged: prune::look(agent, &config, now).await?,
            gains: Vec::new(),
            preview: None,
            pruned: Pruned::default(),
            thinned: None,
        };
        if let Some(free) = args.free {
            done.gains = agent.gains(BytePath::from(config.snapshot_dir.as_path())).await?;
            if args.dry_run {
                let preview = thin::preview(agent, &config, now, free, &done.judged, &done.gains).await?;
                done.preview = Some(preview);
            }
        }
        if args.dry_run {
            return Ok(done);
        }
        done.pruned =
            prune::remove(agent, &config, &done.judged.verdicts, Waits::Each, &contact.cancel).await;
        if let Some(free) = args.free {
            let wish = Wish { wanted: free, only: If::Wanted, at_most: usize::MAX };
            let mut thinned = thin::thin(agent, &config, now, wish, &contact.cancel).await?;
            done.pruned.removed.append(&mut thinned.pruned.removed);
            done.pruned.left.append(&mut thinned.pruned.left);
            done.thinned = Some(thinned);
        }
        Ok(done)
    })?;
    match context.global.json {
        true => context.print_json(&as_json(args, &done))?,
        false => print(args, context, &done)?,
    }
    if let Some(error) = done.too_little() {
        return Err(error);
    }
    match done.pruned.left.is_empty() {
        true => Ok(Exit::Completed),
        false => Ok(Exit::Failed),
    }
}

/// What was found and done.
struct Done {
    hostname: Hostname,
    judged: Judged,
    /// What each session held before anything went; empty unless space is wanted.
    gains: Vec<Gain>,
    preview: Option<Preview>,
    pruned: Pruned,
    thinned: Option<Thinned>,
}

impl Done {
    /// Says that space is wanted and is not there, or would not be.
    fn too_little(&self) -> Option<CliError> {
        let (available, when, message, help) = match (&self.preview, &self.thinned) {
            (Some(preview), _) if !preview.is_enough => {
                (preview.afterwards_bytes(), "would be", NOTHING_LEFT, MORE)
            }
            (_, Some(thinned)) if thinned.is_enough => return None,
            (_, Some(thinned)) if thinned.is_clearing => (
                thinned.available_bytes,
                "are",
                "what was removed does not show as free yet",
                "try again in a minute",
            ),
            (_, Some(thinned)) => (thinned.available_bytes, "are", NOTHING_LEFT, MORE),
            _ => return None,
        };
        let message = format!(
            "{}: {} {when} available, which is not enough: {message}{}",
            self.hostname,
            human_bytes(available),
            self.idle().map(|idle| format!("; {idle}")).unwrap_or_default()
        );
        Some(ModuleError::new(ErrorKind::DiskSpace, message).hint(help).into())
    }

    /// Says why sets stay that would give no room.
    fn idle(&self) -> Option<String> {
        let is_left = |stored: &&StoredSet| !self.pruned.removed.contains(&stored.set.id());
        let idle = self.judged.sets.iter().filter(is_left).filter(|stored| !thin::gives_room(stored)).count();
        (idle > 0).then(|| {
            format!(
                "{} of volumes of LVM {}: what they hold lies in their pools, and gives no room here",
                count(idle as u64, "set"),
                if idle == 1 { "is left out" } else { "are left out" }
            )
        })
    }

    /// Returns how much only the sets of a set's session held.
    fn gain(&self, id: &SetId) -> Option<u64> {
        self.gains.iter().find(|gain| gain.session == id.session).map(|gain| gain.data_bytes)
    }
}

const NOTHING_LEFT: &str = "no set is left that the rules could spare";
const MORE: &str =
    "`pc-switcher space` shows what holds the most; `snapshots delete` and a shorter `keep_min` free more";

/// Returns a line for each session that would go, in their order.
fn step_lines(preview: &Preview) -> Vec<String> {
    let line = |step: &pc_switcher_btrfs_snapshots::order::Step| {
        let why = if step.is_kept { "`keep` keeps it, `keep_min` can spare it" } else { "no rule keeps it" };
        let (bytes, sets) = (human_bytes(step.data_bytes), count(step.sets.len() as u64, "set"));
        format!("  {bytes:>10}  session {}, {sets}: {why}", step.session)
    };
    preview.steps.iter().map(line).collect()
}

/// Returns a line for each session of which sets went, in their order.
fn removed_lines(done: &Done) -> Vec<String> {
    let mut sessions: Vec<(&SetId, u64)> = Vec::new();
    for id in &done.pruned.removed {
        match sessions.iter_mut().find(|(first, _)| first.session == id.session) {
            Some((_, sets)) => *sets += 1,
            None => sessions.push((id, 1)),
        }
    }
    let line = |(id, sets): &(&SetId, u64)| {
        let held = done.gain(id).map(|bytes| format!(", {} that nothing else held", human_bytes(bytes)));
        format!("session {}: {} removed{}", id.session, count(*sets, "set"), held.unwrap_or_default())
    };
    sessions.iter().map(line).collect()
}

fn print(args: &PruneArgs, context: &mut Context<'_>, done: &Done) -> Result<(), CliError> {
    let Done { hostname, judged, pruned, .. } = done;
    if args.explain {
        for line in render::verdicts(&judged.verdicts) {
            writeln!(context.out, "{line}")?;
        }
    }
    let going: Vec<&SetId> =
        judged.verdicts.iter().filter(|verdict| !verdict.stays).map(|verdict| &verdict.id).collect();
    let lines = match &done.preview {
        Some(preview) => step_lines(preview),
        None if args.dry_run && args.explain => Vec::new(),
        None if args.dry_run => going.iter().map(ToString::to_string).collect(),
        None => removed_lines(done),
    };
    for line in lines {
        writeln!(context.out, "{line}")?;
    }
    for (id, why) in &pruned.left {
        writeln!(context.err, "warning: {hostname}: set `{id}` is not removed: {why}")?;
    }
    let gone = match &done.preview {
        Some(preview) => preview.steps.iter().map(|step| step.sets.len()).sum(),
        None if args.dry_run => going.len(),
        None => pruned.removed.len(),
    };
    let word = if args.dry_run { "would be removed" } else { "removed" };
    writeln!(context.out, "{hostname}: {gone} of {} {word}", count(judged.sets.len() as u64, "set"))?;
    if let Some(idle) = done.idle().filter(|_| args.free.is_some() && done.too_little().is_none()) {
        writeln!(context.out, "{hostname}: {idle}")?;
    }
    if let Some(preview) = &done.preview {
        writeln!(
            context.out,
            "{hostname}: {} are available, and at least {} would be; {} are wanted",
            human_bytes(preview.available_bytes),
            human_bytes(preview.afterwards_bytes()),
            human_bytes(preview.wanted_bytes)
        )?;
    }
    Ok(())
}

fn as_json(args: &PruneArgs, done: &Done) -> serde_json::Value {
    let verdict = |verdict: &pc_switcher_btrfs_snapshots::retention::Verdict| json!({ "set": verdict.id, "stays": verdict.stays, "reason": verdict.reason.to_string() });
    let left = |(id, why): &(SetId, String)| json!({ "set": id, "why": why });
    let step = |step: &pc_switcher_btrfs_snapshots::order::Step| json!({ "session": step.session, "sets": step.sets, "data_bytes": step.data_bytes, "kept": step.is_kept });
    let preview = |preview: &Preview| {
        json!({
            "steps": preview.steps.iter().map(step).collect::<Vec<_>>(),
            "available_bytes": preview.available_bytes,
            "afterwards_bytes": preview.afterwards_bytes(),
            "wanted_bytes": preview.wanted_bytes,
            "is_enough": preview.is_enough,
        })
    };
    json!({
        "machine": done.hostname,
        "dry_run": args.dry_run,
        "verdicts": done.judged.verdicts.iter().map(verdict).collect::<Vec<_>>(),
        "preview": done.preview.as_ref().map(preview),
        "available_bytes": done.thinned.as_ref().map(|thinned| thinned.available_bytes),
        "removed": done.pruned.removed,
        "left": done.pruned.left.iter().map(left).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use pc_switcher_agent::proto::Backend;

    use super::*;
    use crate::cli::snapshots::tests::stored;

    #[test]
    fn a_number_is_one_of_sessions_and_a_text_a_rule_as_in_the_config() {
        assert_eq!(keep("3").unwrap(), "last 3 sessions".parse().unwrap());
        assert_eq!(keep("last 2 sessions, 7d").unwrap(), "last 2 sessions, 7d".parse().unwrap());
        for bad in ["0", "", "many"] {
            assert!(keep(bad).is_err(), "{bad:?}");
        }
    }

    fn done(removed: &[&str]) -> Done {
        Done {
            hostname: "desk".parse().unwrap(),
            judged: Judged { sets: Vec::new(), verdicts: Vec::new(), on_battery: false },
            gains: vec![Gain {
                session: "abc12345".parse().unwrap(),
                data_bytes: 3 << 20,
                elsewhere_bytes: 0,
            }],
            preview: None,
            pruned: Pruned {
                removed: removed.iter().map(|id| id.parse().unwrap()).collect(),
                ..Pruned::default()
            },
            thinned: None,
        }
    }

    #[test]
    fn every_session_that_went_or_would_go_is_named_with_what_it_held() {
        let (pre, post) = ("20251115T120000Z-abc12345-presync", "20251115T120500Z-abc12345-postsync");
        let other = "20251116T120000Z-0000abcd-presync";
        let said = removed_lines(&done(&[pre, other, post]));
        assert_eq!(
            said,
            [
                "session abc12345: 2 sets removed, 3.0 MiB that nothing else held",
                "session 0000abcd: 1 set removed"
            ]
        );
        let step = |session: &str, sets: &[&str], is_kept| pc_switcher_btrfs_snapshots::order::Step {
            session: session.parse().unwrap(),
            sets: sets.iter().map(|id| id.parse().unwrap()).collect(),
            data_bytes: 3 << 20,
            is_kept,
        };
        let steps = vec![step("0000abcd", &[other], false), step("abc12345", &[pre, post], true)];
        let preview = Preview { steps, wanted_bytes: 1 << 30, available_bytes: 1 << 20, is_enough: false };
        let wanted = [
            "     3.0 MiB  session 0000abcd, 1 set: no rule keeps it",
            "     3.0 MiB  session abc12345, 2 sets: `keep` keeps it, `keep_min` can spare it",
        ];
        assert_eq!(step_lines(&preview), wanted);
        let error = Done { preview: Some(preview), ..done(&[]) }.too_little().unwrap();
        assert_eq!(error.exit(), Exit::DiskSpace);
        assert!(
            error.to_string().contains("desk: 7.0 MiB would be available, which is not enough"),
            "{error}"
        );
        assert!(done(&[pre]).too_little().is_none());
    }

    #[test]
    fn sets_of_volumes_are_said_to_give_no_room() {
        let mut of_volumes = stored("20251115T120000Z-abc12345-manual", 7);
        of_volumes.backend = Backend::Lvm;
        let on_btrfs = stored("20251116T120000Z-0000abcd-manual", 8);
        let judged = Judged { sets: vec![of_volumes, on_btrfs], verdicts: Vec::new(), on_battery: false };
        let preview = Preview { wanted_bytes: 1 << 30, available_bytes: 1 << 20, ..Preview::default() };
        let done = Done { judged, preview: Some(preview), ..done(&[]) };
        let error = done.too_little().unwrap().to_string();
        assert!(error.contains("1 set of volumes of LVM is left out"), "{error}");
        let removed = vec!["20251115T120000Z-abc12345-manual".parse().unwrap()];
        let done = Done { pruned: Pruned { removed, ..Pruned::default() }, ..done };
        assert_eq!(done.idle(), None, "it went by a rule");
    }
}
