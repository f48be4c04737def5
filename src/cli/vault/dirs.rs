//! Tracking, staging, and how files stand.

use std::path::{Path, PathBuf};

use pc_switcher_contract::{ErrorKind, human_bytes};
use pc_switcher_vault::catalogue::Tracked;
use pc_switcher_vault::engine::Trouble;
use pc_switcher_vault::service::AddReport;
use serde_json::{Value, json};

use super::super::{CliError, Context, Exit};
use super::setup::without_passphrase;
use super::watch::Watch;
use super::{here, open};
use crate::events::clean;

/// `dir …`.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Dir {
    Init(InitArgs),
    Status(StatusArgs),
    /// List the directories that are tracked
    List,
    Forget(ForgetArgs),
}

/// Track a directory; nothing is backed up yet
///
/// Tracked directories inside it become part of it, with their versions.
#[derive(Debug, Clone, clap::Args)]
pub struct InitArgs {
    /// The directory
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// Say that it shall be encrypted, which all that is in a vault is anyway
    #[arg(long)]
    encrypted: bool,
}

/// Show how the files of a tracked directory stand
///
/// B: backed up; M: modified since; S: staged for the next backup; ?: neither; D: gone. Needs no vault. Directories are listed
/// if they are empty.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    /// A directory or file in a tracked directory
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Leave out what is below subdirectories
    #[arg(long, conflicts_with = "recursive")]
    one_level: bool,
    /// Show what is below subdirectories, as is done anyway
    #[arg(short, long)]
    recursive: bool,
    /// Show files that are gone, too
    #[arg(long)]
    deleted: bool,
}

/// Stop tracking a directory and forget its versions; the vaults keep what they hold
#[derive(Debug, Clone, clap::Args)]
pub struct ForgetArgs {
    /// The directory; it need not be there any more
    directory: PathBuf,
}

/// Stage files for the next backup
#[derive(Debug, Clone, clap::Args)]
pub struct AddArgs {
    /// Files or directories in tracked directories
    #[arg(value_name = "FILENAME", default_value = ".")]
    paths: Vec<PathBuf>,
    /// Leave out what is below subdirectories
    #[arg(long, conflicts_with = "recursive")]
    one_level: bool,
    /// Take what is below subdirectories, as is done anyway
    #[arg(short, long)]
    recursive: bool,
}

pub(super) fn init(args: &InitArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let mut service = open(context)?;
    let tracked = service.track(&here(&args.directory)?)?;
    if args.encrypted {
        writeln!(
            context.err,
            "note: all that is in a vault is encrypted, with one key for the whole vault; `--encrypted` changes nothing"
        )?;
    }
    let (result, directory, absorbed) = match &tracked {
        Tracked::New(directory, absorbed) => ("new", directory, absorbed.clone()),
        Tracked::Already(directory) => ("already", directory, vec![]),
        Tracked::Within(directory) => ("within", directory, vec![]),
    };
    if context.global.json {
        let value = json!({ "result": result, "path": text(&directory.path), "absorbed": absorbed.iter().map(|path| text(path)).collect::<Vec<_>>() });
        return context.print_json(&value).map(|()| Exit::Completed);
    }
    let path = directory.path.display();
    match tracked {
        Tracked::New(..) => {
            writeln!(context.err, "{path} is tracked from now on; `bt add` stages its files")?
        }
        Tracked::Already(_) => writeln!(context.err, "{path} is tracked already")?,
        Tracked::Within(_) => writeln!(context.err, "it is part of {path}, which is tracked already")?,
    }
    for child in absorbed {
        writeln!(context.err, "{} became part of it, with its versions", child.display())?;
    }
    Ok(Exit::Completed)
}

pub(super) fn status(args: &StatusArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let service = open(context)?;
    let (all, troubles) =
        service.status(&here(&args.path)?, args.recursive || !args.one_level, args.deleted)?;
    if context.global.json {
        context.print_json(&json!({ "files": all, "troubles": said(&troubles) }))?;
    } else {
        context.print_lines(all.iter().map(|one| format!("{:<4}{}", one.letters(), clean(&one.path))))?;
        tell(&troubles, context)?;
    }
    Ok(ending(&troubles))
}

pub(super) fn list(context: &mut Context<'_>) -> Result<Exit, CliError> {
    let all = open(context)?.tracked_directories()?;
    if context.global.json {
        return context.print_json(&json!(all)).map(|()| Exit::Completed);
    }
    for line in all {
        let gone = if line.is_there { "" } else { "  (not there now)" };
        writeln!(context.out, "{}{gone}", clean(&line.path))?;
    }
    Ok(Exit::Completed)
}

pub(super) fn forget(args: &ForgetArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let path = here(&args.directory)?;
    open(context)?.forget_directory(&path)?;
    if context.global.json {
        return context.print_json(&json!({ "forgotten": text(&path) })).map(|()| Exit::Completed);
    }
    writeln!(context.err, "{} is no longer tracked", path.display())?;
    Ok(Exit::Completed)
}

pub(super) fn add(args: &AddArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let mut service = open(context)?;
    let paths = args.paths.iter().map(|path| here(path)).collect::<Result<Vec<_>, _>>()?;
    let watch = Watch::begin(without_passphrase(), context)?;
    watch.heed(service.stop());
    let deep = args.recursive || !args.one_level;
    let mut all = AddReport::default();
    let is_one = paths.len() == 1;
    for path in paths {
        let report = match service.add(&path, deep, &watch.observer()) {
            Ok(report) => report,
            // One of several that cannot be staged keeps no other from it, and is told with what became of them.
            Err(error) if !is_one && matches!(error.kind, ErrorKind::Usage | ErrorKind::Failed) => {
                all.troubles.push(Trouble { path, why: error.message });
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        all.staged += report.staged;
        all.bytes += report.bytes;
        all.directories += report.directories;
        all.unchanged += report.unchanged;
        all.troubles.extend(report.troubles);
        all.sockets.extend(report.sockets);
    }
    drop(watch);
    let AddReport { staged, bytes, directories, unchanged, troubles, sockets } = all;
    if context.global.json {
        let sockets: Vec<String> = sockets.iter().map(|path| text(path)).collect();
        context.print_json(&json!({
            "staged": staged, "bytes": bytes, "directories": directories, "unchanged": unchanged,
            "sockets": sockets, "troubles": said(&troubles),
        }))?;
    } else {
        for socket in &sockets {
            writeln!(context.err, "{} is a socket and is left out", shown(socket))?;
        }
        tell(&troubles, context)?;
        let rest =
            if unchanged > 0 { format!("; {unchanged} are backed up as they are") } else { String::new() };
        writeln!(context.out, "staged {staged} files, {}{rest}", human_bytes(bytes))?;
    }
    Ok(ending(&troubles))
}

/// Names what went wrong.
pub(super) fn tell(troubles: &[Trouble], context: &mut Context<'_>) -> Result<(), CliError> {
    for trouble in troubles {
        writeln!(context.err, "error: {}: {}", shown(&trouble.path), trouble.why)?;
    }
    match troubles.len() {
        0 => {}
        1 => writeln!(context.err, "1 file failed")?,
        count => writeln!(context.err, "{count} files failed")?,
    }
    Ok(())
}

pub(super) fn said(troubles: &[Trouble]) -> Value {
    troubles.iter().map(|trouble| json!({ "path": text(&trouble.path), "why": trouble.why })).collect()
}

pub(super) fn ending(troubles: &[Trouble]) -> Exit {
    if troubles.is_empty() { Exit::Completed } else { Exit::Failed }
}

pub(super) fn shown(path: &Path) -> String {
    clean(&path.display().to_string()).into_owned()
}

/// Returns a path for JSON, which has no bytes: what is no UTF-8 is shown as such.
pub(super) fn text(path: &Path) -> String {
    path.display().to_string()
}
