//! `init`: writes the annotated default config, whole or not at all.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::{CliError, Context, Exit};
use crate::config::DEFAULT_TOML;
use crate::paths;

/// Write the annotated default config
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Replace a config file that is there already
    #[arg(long)]
    force: bool,
}

/// Writes the file.
///
/// # Errors
/// If there is one already and `--force` is not given, or if it cannot be written.
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
    write_whole(&place, args.force).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => CliError::Usage {
            message: format!("`{}` exists already", path.display()),
            help: Some("`pc-switcher init --force` replaces it".into()),
        },
        _ => CliError::Failed(format!("cannot write `{}`: {error}", path.display())),
    })?;
    writeln!(context.err, "wrote {}", path.display())?;
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
