//! `snapshots export` and `import`: a set as one file, to be kept elsewhere or looked at on another machine.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use pc_switcher_agent::proto::{ExportRequest, ImportRequest};
use pc_switcher_contract::{BytePath, ModuleError, SetId};
use serde_json::json;
use tokio::sync::mpsc;

use super::{Found, Where, automatic, caller, of, settings, with_agent};
use crate::cli::{CliError, Context, Exit};
use crate::session::text::{bytes, count};

/// Bytes that travel together.
const PIECE: usize = 256 << 10;

/// Write a set as one file, compressed by zstd; only root may, since it holds what is everybody's
///
/// It can be read on any machine and any file system, by `snapshots import`. A set of snapshots becomes one of copies then.
#[derive(Debug, Clone, clap::Args)]
pub struct ExportArgs {
    /// Which set: a session (then the set before its sync), a name, or a set as `snapshots list --json` names it
    #[arg(value_name = "SET")]
    set: String,
    /// Into this file, which must not be there; otherwise to standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    place: Where,
}

/// Take a set in that was exported; only root may
///
/// It keeps its session and its time, and stays until it is deleted. Nothing is there before all of the file was read and found
/// to be what was written.
#[derive(Debug, Clone, clap::Args)]
pub struct ImportArgs {
    /// The file; `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    place: Where,
}

/// A file that is there when it is whole, or not at all.
struct Draft {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    is_done: bool,
}

impl Draft {
    fn begin(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.exporting-{}", std::process::id()));
        let file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        Ok(Self { file, temporary, path: path.to_owned(), is_done: false })
    }

    fn finish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        // A link fails where the name is taken meanwhile, which a rename would not.
        match fs::hard_link(&self.temporary, &self.path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) => fs::remove_file(&self.temporary)?,
            // Some file systems have no links.
            Err(_) => fs::rename(&self.temporary, &self.path)?,
        }
        self.is_done = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_done {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn about(path: &Path, what: &str, error: &io::Error) -> ModuleError {
    let path = BytePath::from(path);
    match error.kind() {
        io::ErrorKind::AlreadyExists => ModuleError::failed(format!("`{path}` is there already"))
            .hint("name another file, or remove that one first"),
        _ => ModuleError::failed(format!("cannot {what} `{path}`: {error}")),
    }
}

/// Writes a set.
///
/// # Errors
/// If it is not root who asks, there is no such set, or the file cannot be written.
pub fn export(args: &ExportArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let whole = context.load_config(&[], &[])?;
    let (config, level) = (of(&whole)?, automatic(&whole)?.compression_level);
    if args.output.is_none() && io::stdout().is_terminal() {
        return Err(CliError::Usage {
            message: "a set is no text for a terminal".into(),
            help: Some("`--output FILE` writes it to a file".into()),
        });
    }
    let own_uid = context.env.uid;
    let outcome = with_agent(&args.place, context, async |agent, contact| {
        let found = Found::read(agent, &config).await?;
        let id = match found.first(&args.set) {
            Ok(stored) => stored.set.id(),
            Err(error) => return Ok(Err(error)),
        };
        let uid = caller(agent, contact, own_uid).await?;
        let snapshot_dir = BytePath::from(config.snapshot_dir.as_path());
        let written = match &args.output {
            Some(path) => {
                let mut draft = Draft::begin(path).map_err(|error| about(path, "write", &error))?;
                let mut stream =
                    agent.export(ExportRequest { snapshot_dir, id: id.clone(), uid, level }).await?;
                let mut written = 0;
                while let Some(piece) = stream.next().await? {
                    draft.file.write_all(&piece).map_err(|error| about(path, "write", &error))?;
                    written += piece.len() as u64;
                }
                draft.finish().map_err(|error| about(path, "write", &error))?;
                written
            }
            None => {
                let mut stream =
                    agent.export(ExportRequest { snapshot_dir, id: id.clone(), uid, level }).await?;
                let (mut out, mut written) = (io::stdout().lock(), 0);
                let failed = |error: io::Error| about(Path::new("-"), "write", &error);
                while let Some(piece) = stream.next().await? {
                    out.write_all(&piece).map_err(failed)?;
                    written += piece.len() as u64;
                }
                out.flush().map_err(failed)?;
                written
            }
        };
        Ok(Ok((found.hostname, id, written)))
    })?;
    let (hostname, id, written) = outcome?;
    let Some(path) = &args.output else { return Ok(Exit::Completed) };
    let path = BytePath::from(path.as_path());
    match context.global.json {
        true => context.print_json(
            &json!({ "machine": hostname, "set": id, "file": path.to_string(), "bytes": written }),
        )?,
        false => writeln!(context.out, "{hostname}: {id} is exported to `{path}` ({})", bytes(written))?,
    }
    Ok(Exit::Completed)
}

/// Reads on a thread of its own, so that a Ctrl+C is heard while nothing comes.
fn pieces(mut from: Box<dyn Read + Send>) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (send, receive) = mpsc::channel(4);
    std::thread::spawn(move || {
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let read = (&mut from).take(PIECE as u64).read_to_end(&mut piece);
            let is_last = matches!(read, Ok(0) | Err(_));
            match read {
                Ok(0) => {}
                Ok(_) => {
                    if send.blocking_send(Ok(piece)).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    let _ = send.blocking_send(Err(error));
                }
            }
            if is_last {
                return;
            }
        }
    });
    receive
}

/// Takes a set in.
///
/// # Errors
/// If it is not root who asks, the file is damaged, there is such a set, or there is no room for it.
pub fn import(args: &ImportArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = settings(context)?;
    let own_uid = context.env.uid;
    let is_stdin = args.file.as_os_str() == "-";
    let from: Box<dyn Read + Send> = match is_stdin {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(&args.file).map_err(|error| about(&args.file, "read", &error))?),
    };
    let (hostname, imported) = with_agent(&args.place, context, async |agent, contact| {
        let uid = caller(agent, contact, own_uid).await?;
        let snapshot_dir = BytePath::from(config.snapshot_dir.as_path());
        let mut intake = agent.import(ImportRequest { snapshot_dir, uid }).await?;
        let mut pieces = pieces(from);
        while let Some(piece) = pieces.recv().await {
            let piece = piece.map_err(|error| about(&args.file, "read", &error))?;
            if !intake.send(piece).await? {
                break;
            }
        }
        Ok((agent.hostname().clone(), intake.finish().await?))
    })?;
    for note in &imported.notes {
        writeln!(context.err, "warning: {hostname}: {note}")?;
    }
    let id: SetId = imported.set.id();
    if context.global.json {
        context.print_json(&json!({
            "machine": hostname,
            "set": id,
            "entries": imported.entries,
            "bytes": imported.bytes,
            "notes": imported.notes,
        }))?;
        return Ok(Exit::Completed);
    }
    let entries = count(imported.entries, "entry").replace("entrys", "entries");
    let session = &imported.set.session;
    writeln!(
        context.out,
        "{hostname}: session {session} is imported ({entries}, {})",
        bytes(imported.bytes)
    )?;
    Ok(Exit::Completed)
}
