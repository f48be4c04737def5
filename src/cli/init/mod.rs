//! `init`: writes the annotated default config, whole or not at all, and offers to give snapshots a place of their own.

mod needed;
mod place;

use std::io::Write;
use std::path::{Path, PathBuf};

use pc_switcher_agent::linux::mounts::Mounts;
use pc_switcher_btrfs_snapshots::automatic::{Backend, SnapshotsConfig};
use serde::Deserialize as _;

use self::place::{Made, Making, Place};
use super::snapshots::{Where, with_agent_in};
use super::{CliError, Context, Exit};
use crate::config::{DEFAULT_TOML, tables};
use crate::paths;

/// Write the annotated default config
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Replace a config file that is there already
    #[arg(long)]
    force: bool,
    /// Give snapshots a subvolume of their own without asking; a config file that is there stays
    #[arg(long)]
    make_snapshot_dir: bool,
}

/// Writes the file.
///
/// # Errors
/// If there is one already and neither `--force` nor `--make-snapshot-dir` is given, if it cannot be written, if a command fails that was
/// to be run, or if somebody needs the snapshots where they lie.
pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let path = match &context.global.config {
        Some(path) => path.clone(),
        None => paths::config_file(&context.env).map_err(|error| CliError::Usage {
            message: error.to_string(),
            help: Some("name the file with --config".into()),
        })?,
    };
    // A link, as keepers of dotfiles make them, stays a link.
    let place = path.canonicalize().unwrap_or_else(|_| path.clone());
    let stays = args.make_snapshot_dir && !args.force && place.exists();
    let written = if stays { Ok(()) } else { write_whole(&place, args.force) };
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => CliError::Usage {
            message: format!("`{}` exists already", path.display()),
            help: Some("`pc-switcher init --force` replaces it".into()),
        },
        _ => CliError::Failed(format!("cannot write `{}`: {error}", path.display())),
    })?;
    if !stays {
        writeln!(context.err, "wrote {}", path.display())?;
    }
    let config = match context.load_config(&[], &[]) {
        Ok(config) => config,
        // Whoever uses it next is told what is wrong with the rest of it.
        Err(_) if !args.make_snapshot_dir => return Ok(Exit::Completed),
        Err(error) => return Err(error),
    };
    let snapshots = SnapshotsConfig::deserialize(config.own_table(tables::SNAPSHOTS));
    let snapshots = snapshots.map_err(|error| CliError::Failed(error.to_string()))?;
    if !matches!(snapshots.backend, Backend::Auto | Backend::Btrfs) {
        // Copies lie anywhere.
        return Ok(Exit::Completed);
    }
    give_a_place(args, super::snapshots::of(&config)?.snapshot_dir.as_path(), context)
}

/// Shows what gives the snapshots a place that no rollback reaches, and does it if somebody wants that.
fn give_a_place(args: &Args, dir: &Path, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let mounts = Mounts::read().unwrap_or_default();
    let making = match place::look(dir, &mounts, Path::new("/")) {
        Place::Fine => return Ok(Exit::Completed),
        Place::Taken(why) if args.make_snapshot_dir => return Err(CliError::Failed(why)),
        Place::Taken(_) => return Ok(Exit::Completed),
        Place::Make(making) => making,
    };
    writeln!(
        context.err,
        "`{}` is no subvolume of its own: a rollback of the system would lose the snapshots, and is refused. These commands mend it:",
        dir.display()
    )?;
    for command in &making.commands {
        writeln!(context.err, "  {}", place::shown(command))?;
    }
    let can_ask = context.env.stdin_is_terminal && context.env.stderr_is_terminal;
    if !args.make_snapshot_dir {
        if !can_ask {
            writeln!(context.err, "`pc-switcher init --make-snapshot-dir` runs them")?;
            return Ok(Exit::Completed);
        }
        write!(context.err, "Run them now? [y/N] ")?;
        context.err.flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if !matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            writeln!(context.err, "nothing was run; `pc-switcher init --make-snapshot-dir` does it later")?;
            return Ok(Exit::Completed);
        }
    }
    let is_root = context.env.uid == 0;
    // The agent has this machine's lock until all of it is done.
    with_agent_in(&Where::default(), &context.env, async |agent, contact| {
        match needed::hold(agent, contact, dir).await? {
            Some(why) => Ok(Err(why)),
            None => Ok(carry_out(&making, dir, is_root, context.err)),
        }
    })?
}

fn carry_out(making: &Making, dir: &Path, is_root: bool, said: &mut dyn Write) -> Result<Exit, CliError> {
    // Whoever had the lock before, or waited for the answer, may have seen to it.
    if place::look(dir, &Mounts::read().unwrap_or_default(), Path::new("/")) != Place::Make(making.clone()) {
        return Err(CliError::Failed(format!(
            "nothing was run: `{}` is another one than when the commands were made; give the same command again",
            dir.display()
        )));
    }
    let Made { done, failed } = place::run(making, is_root, said, &mut |command| command.status())?;
    if let Some(why) = failed {
        let before = match done {
            0 => "nothing was done before".to_owned(),
            1 => "what was done before stays".to_owned(),
            n => format!("the {n} before were done and stay"),
        };
        return Err(CliError::Failed(format!(
            "`{}` failed: {why}; {before}; `pc-switcher init --make-snapshot-dir` goes on from here",
            place::shown(&making.commands[done])
        )));
    }
    // What it says was seen, not what was asked for.
    let mounts = Mounts::read().unwrap_or_default();
    if place::look(dir, &mounts, Path::new("/")) != Place::Fine {
        return Err(CliError::Failed(format!(
            "`{}` is no subvolume of its own, though all commands were done",
            dir.display()
        )));
    }
    writeln!(said, "`{}` is a subvolume of its own now", dir.display())?;
    if making.aside.exists() {
        let aside = crate::doctor::quoted(&pc_switcher_contract::BytePath::from(making.aside.as_path()));
        writeln!(
            said,
            "what lay there is in {aside}: `pc-switcher snapshots adopt --from orphan --dir {aside}` brings its snapshots over, and says how \
             to remove what they came from"
        )?;
    }
    Ok(Exit::Completed)
}

fn write_whole(path: &Path, replace: bool) -> std::io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    std::fs::create_dir_all(&directory)?;
    let mut file = tempfile::Builder::new().prefix(".config").suffix(".new").tempfile_in(&directory)?;
    file.write_all(DEFAULT_TOML.as_bytes())?;
    file.as_file().sync_all()?;
    let kept = if replace { file.persist(path) } else { file.persist_noclobber(path) };
    kept.map(drop).map_err(|error| error.error)
}
