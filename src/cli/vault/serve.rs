//! `serve`: the other end of a vault on another machine.

use std::io::{BufReader, BufWriter, ErrorKind};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use pc_switcher_agent::linux::stdin::WatchedStdin;
use pc_switcher_vault::store::FsStore;
use pc_switcher_vault::store::ssh::serve::{SILENCE, Served, serve};
use rustix::event::{EventfdFlags, eventfd};

use super::super::{CliError, Context, Exit, own_name};

/// Serve a vault in a directory of this machine to another one
///
/// ssh starts it, where settings have `root = "ssh://HOST/DIRECTORY"`. Written into authorized_keys before a key, as
/// `restrict,command="/usr/local/bin/pc-switcher vault serve --append-only DIRECTORY"`, it lets that key do this and nothing else.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// The directory; it is made when the vault is
    directory: PathBuf,
    /// Let nothing be removed but locks: backups go on, and prunes run here
    #[arg(long)]
    append_only: bool,
}

pub(super) fn run(args: &ServeArgs, context: &Context<'_>) -> Result<Exit, CliError> {
    if context.env.stdin_is_terminal {
        return Err(CliError::Usage {
            message: "`vault serve` speaks with a program, not with a person".into(),
            help: Some(
                "set `root = \"ssh://HOST/DIRECTORY\"` on the other machine, and back up there".into(),
            ),
        });
    }
    let failed = |what: &str, error: std::io::Error| CliError::Failed(format!("cannot {what}: {error}"));
    let root = std::path::absolute(&args.directory).map_err(|error| failed("find the directory", error))?;
    let hostname = own_name().map_err(CliError::Failed)?;
    // Nothing tells it to go but the end of its input, and silence.
    let never = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed("wait", error.into()))?;
    let from = BufReader::with_capacity(256 << 10, WatchedStdin::new(never, SILENCE));
    let to = std::io::stdout().as_fd().try_clone_to_owned().map_err(|error| failed("answer", error))?;
    let to = BufWriter::with_capacity(256 << 10, std::fs::File::from(to));
    let store = FsStore::at(&root);
    let served = Served { store: &store, hostname: hostname.as_str(), append_only: args.append_only };
    match serve(&served, from, to) {
        Ok(()) => Ok(Exit::Completed),
        // Whoever asked is gone, or was cut off.
        Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof) => {
            Ok(Exit::Completed)
        }
        Err(error) if error.kind() == ErrorKind::TimedOut => {
            Err(CliError::Failed(format!("nothing was asked for {} s", SILENCE.as_secs())))
        }
        Err(error) => Err(failed("go on", error)),
    }
}
