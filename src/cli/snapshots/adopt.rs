//! `snapshots adopt`: what others took is listed, and what we lost comes back.

use std::ffi::OsString;

use pc_switcher_agent::proto::{AdoptRequest, Adopted, Maker};
use pc_switcher_contract::{BytePath, Hostname};
use serde_json::json;

use super::restore::absolute;
use super::{Where, settings, with_agent};
use crate::cli::{CliError, Context, Exit};
use crate::doctor::quoted;

/// List snapshots of other tools, or lost ones of our own again
///
/// Those of other tools stay where they are and theirs: `list`, `show`, `diff`, `versions` and `restore` work with them, and
/// nothing of pc-switcher ever removes or changes one. What its tool removes leaves the list by itself; what it takes later is
/// listed when you adopt again. An `orphan` is a snapshot with a name of ours whose record was lost: it gets a new one, if it
/// never was changed, and is pinned: `unpin` leaves it to `keep`. With --dir sets are taken of what has such a name there, as
/// where `snapshot_dir` was before; what they are taken of stays there.
#[derive(Debug, Clone, clap::Args)]
pub struct AdoptArgs {
    /// Whose
    #[arg(long, value_name = "MAKER", value_parser = ["snapper", "btrbk", "timeshift", "yabsnap", "orphan"])]
    from: String,
    /// Where they lie, if that is no usual place; may be given several times
    #[arg(long = "dir", value_name = "DIR")]
    dirs: Vec<OsString>,
    #[command(flatten)]
    place: Where,
}

/// Adopts, and prints what is listed now and what was left alone.
///
/// # Errors
/// If a directory cannot be read, or the machine cannot be reached.
pub fn run(args: &AdoptArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = settings(context)?;
    let from = maker(&args.from);
    let dirs = args.dirs.iter().map(|dir| absolute(dir, context)).collect::<Result<Vec<_>, _>>()?;
    let snapshot_dir = BytePath::from(config.snapshot_dir.as_path());
    let request = AdoptRequest { snapshot_dir, from, dirs };
    let (hostname, adopted) = with_agent(&args.place, context, async |agent, _| {
        Ok((agent.hostname().clone(), agent.adopt(request).await?))
    })?;
    if context.global.json {
        let left = adopted.left.iter().map(|(path, why)| json!({ "path": path.to_string(), "why": why }));
        context.print_json(&json!({
            "machine": hostname,
            "from": from.as_str(),
            "sets": adopted.sets,
            "known": adopted.known,
            "looked": adopted.looked.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "left": left.collect::<Vec<_>>(),
        }))?;
        return Ok(Exit::Completed);
    }
    for (path, why) in &adopted.left {
        writeln!(context.err, "warning: {hostname}: `{path}` is left alone: {why}")?;
    }
    for line in lines(&hostname, from, &adopted) {
        writeln!(context.out, "{line}")?;
    }
    if from == Maker::Orphan && !args.dirs.is_empty() {
        for line in leftovers(&hostname, &adopted) {
            writeln!(context.out, "{line}")?;
        }
    }
    Ok(Exit::Completed)
}

fn maker(word: &str) -> Maker {
    let all = [Maker::Snapper, Maker::Btrbk, Maker::Timeshift, Maker::Yabsnap];
    all.into_iter().find(|maker| maker.as_str() == word).unwrap_or(Maker::Orphan)
}

fn lines(hostname: &Hostname, from: Maker, adopted: &Adopted) -> Vec<String> {
    let mut said: Vec<String> =
        adopted.sets.iter().map(|id| format!("{hostname}: {id} of {from} is listed from now on")).collect();
    if adopted.known > 0 {
        let (sets, were) = if adopted.known == 1 { ("set", "was") } else { ("sets", "were") };
        said.push(format!("{hostname}: {} {sets} of {from} {were} listed before", adopted.known));
    }
    if said.is_empty() && adopted.left.is_empty() {
        let looked: Vec<String> = adopted.looked.iter().map(|dir| format!("`{dir}`")).collect();
        said.push(match looked.is_empty() {
            true => format!(
                "{hostname}: nothing of {from} lies in its usual places; `--dir DIR` names another one"
            ),
            false => format!("{hostname}: nothing of {from} lies in {}", looked.join(", ")),
        });
    }
    said
}

/// Removes snapshots and pins of ours from a directory, and then the directory.
const REMOVE: &str = "cd \"$1\" && { chattr -i .pc-switcher/pins/* 2>/dev/null; find . -mindepth 1 -maxdepth 4 -inum 256 -prune -exec \
                      btrfs subvolume delete {} + && cd / && rm -r \"$1\"; }";

/// Says what may become of the directories from which sets came in.
fn leftovers(hostname: &Hostname, adopted: &Adopted) -> Vec<String> {
    if adopted.sets.is_empty() && adopted.known == 0 {
        return Vec::new();
    }
    if !adopted.left.is_empty() {
        return vec![format!("{hostname}: keep where they came from: what was left alone is nowhere else")];
    }
    let mut said = vec![format!("{hostname}: what they came from is not needed any more; this removes it:")];
    said.extend(adopted.looked.iter().map(|dir| format!("  sudo sh -c '{REMOVE}' sh {}", quoted(dir))));
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_to_remove_what_sets_came_from_is_said_once_nothing_else_is_there() {
        let desk: Hostname = "desk".parse().unwrap();
        let mut adopted = Adopted { looked: vec!["/old snaps".into()], ..Adopted::default() };
        assert_eq!(leftovers(&desk, &adopted), Vec::<String>::new());
        adopted.known = 1;
        let said = leftovers(&desk, &adopted);
        assert!(
            said[1].starts_with("  sudo sh -c 'cd \"$1\" && ") && said[1].ends_with("' sh '/old snaps'"),
            "{said:?}"
        );
        adopted.left.push(("/old snaps/1".into(), "it is no snapshot of pc-switcher".into()));
        assert_eq!(
            leftovers(&desk, &adopted),
            ["desk: keep where they came from: what was left alone is nowhere else"]
        );
    }

    #[test]
    fn what_was_adopted_is_named_and_so_is_where_nothing_was_found() {
        let desk: Hostname = "desk".parse().unwrap();
        let mut adopted = Adopted { looked: vec!["/.snapshots".into()], ..Adopted::default() };
        assert_eq!(lines(&desk, Maker::Btrbk, &adopted), ["desk: nothing of btrbk lies in `/.snapshots`"]);
        adopted.sets.push("20251115T120000Z-abc12345-manual".parse().unwrap());
        adopted.known = 2;
        let said = lines(&desk, Maker::Snapper, &adopted);
        assert_eq!(said[0], "desk: 20251115T120000Z-abc12345-manual of snapper is listed from now on");
        assert_eq!(said[1], "desk: 2 sets of snapper were listed before");
    }

    #[test]
    fn every_maker_has_its_word() {
        for maker_ in [Maker::Snapper, Maker::Btrbk, Maker::Timeshift, Maker::Yabsnap, Maker::Orphan] {
            assert_eq!(maker(maker_.as_str()), maker_);
        }
    }
}
