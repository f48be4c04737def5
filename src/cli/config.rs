//! `config show|validate|schema`: what applies, whether it is right, what may stand there.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use pc_switcher_agent::linux::mounts::Mounts;
use pc_switcher_btrfs_snapshots::automatic::{Backend, SnapshotsConfig};
use pc_switcher_contract::BytePath;
use serde::Deserialize as _;
use serde_json::json;

use super::{CliError, Context, Exit};
use crate::config::{self as settings, ConfigErrors};

/// Look at the configuration
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print what applies, as TOML that says where each value comes from
    Show,
    /// Check the config file and print `ok` or everything that is wrong
    Validate,
    /// Print the JSON Schema of the config file, or of one module's table
    Schema {
        /// The module
        module: Option<String>,
        /// Print the reference page instead
        #[arg(long, conflicts_with = "module")]
        markdown: bool,
    },
}

/// Runs one of the three.
///
/// # Errors
/// If the config is wrong or there is no such module.
pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    match &args.command {
        Command::Show => show(context),
        Command::Validate => validate(context),
        Command::Schema { markdown: true, .. } => {
            let page = settings::markdown(&context.specs());
            write!(context.out, "{page}")?;
            Ok(Exit::Completed)
        }
        Command::Schema { module, .. } => schema(context, module.as_deref()),
    }
}

fn show(context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = context.load_whole_config(&[], &[])?.with_vaults()?;
    if context.global.json {
        let mut value = settings::json(&config.effective);
        value["path"] = json!(config.path);
        value["modules"] = json!(config.modules);
        value["hash"] = json!(config.hash);
        context.print_json(&value)?;
    } else {
        match &config.path {
            Some(path) => writeln!(context.out, "# file: {}", path.display())?,
            None => writeln!(context.out, "# no file: built-in defaults")?,
        }
        write!(context.out, "{}", settings::toml(&config.effective, true))?;
    }
    Ok(Exit::Completed)
}

fn validate(context: &mut Context<'_>) -> Result<Exit, CliError> {
    let json = context.global.json;
    let loaded = context.load_whole_config(&[], &[]).and_then(|config| Ok(config.with_vaults()?));
    match loaded {
        Ok(config) if json => {
            let warnings = warnings(&config)?;
            context.print_json(
                &json!({ "ok": true, "path": config.path, "problems": [], "warnings": warnings }),
            )?;
            Ok(Exit::Completed)
        }
        Ok(config) => {
            for warning in warnings(&config)? {
                writeln!(context.err, "warning: {warning}")?;
            }
            writeln!(context.out, "ok")?;
            Ok(Exit::Completed)
        }
        Err(CliError::Config(ConfigErrors(problems))) if json => {
            context.print_json(&json!({ "ok": false, "problems": problems }))?;
            Ok(Exit::Usage)
        }
        Err(error) => Err(error),
    }
}

/// Returns what is to be known of a config that is right, on this machine.
fn warnings(config: &settings::Config) -> Result<Vec<String>, CliError> {
    let snapshots = SnapshotsConfig::deserialize(config.own_table(settings::tables::SNAPSHOTS));
    let snapshots = snapshots.map_err(|error| CliError::Failed(error.to_string()))?;
    let dir = super::snapshots::of(config)?.snapshot_dir;
    let idle = snapshots.idle_patterns(|| place_of(dir.as_path()) == Place::Btrfs).map(str::to_owned);
    let is_of_snapshots = matches!(snapshots.backend, Backend::Auto | Backend::Btrfs);
    // Without a mount table nobody can say where it lies.
    let mounts = Mounts::read().unwrap_or_default();
    // Without a file nobody has said anything that could be wrong.
    let place = config.path.as_ref().and_then(|_| of_snapshot_dir(dir.as_path(), is_of_snapshots, &mounts));
    Ok(idle.into_iter().chain(place).collect())
}

/// Returns what is to be known of the directory of snapshots, as far as it can be seen without root.
fn of_snapshot_dir(dir: &Path, is_of_snapshots: bool, mounts: &Mounts) -> Option<String> {
    let (shown, named) = (dir.display(), "`snapshot_dir` in [btrfs-snapshots]");
    let there = std::fs::symlink_metadata(dir);
    let is_missing = there.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    let above = dir.parent().unwrap_or(Path::new("/"));
    if there.is_ok_and(|meta| !meta.is_dir()) {
        return Some(format!("{named}: `{shown}` is no directory, so no set can be taken"));
    }
    if is_missing && !above.is_dir() {
        return Some(format!(
            "{named}: `{shown}` is not there, nor is `{}`, so no set can be taken: make that directory, or mount what is to \
             hold it",
            above.display()
        ));
    }
    match place_of(dir) {
        Place::Memory => {
            Some(format!("{named}: `{shown}` lies in memory, and its sets are gone at the next start"))
        }
        Place::Btrfs if is_of_snapshots && !is_top_level(dir, mounts) => {
            let is = if is_missing { "is not there, and will be" } else { "is" };
            Some(format!(
                "{named}: `{shown}` {is} no top-level subvolume of its own: after a rollback of the subvolume that it lies in the \
                 snapshots are in the old tree; `pc-switcher doctor` prints the commands that mend it"
            ))
        }
        Place::Btrfs | Place::Elsewhere => {
            let is_open = |meta: std::fs::Metadata| meta.uid() != 0 || meta.mode() & 0o077 != 0;
            std::fs::metadata(dir).is_ok_and(is_open).then(|| {
                format!(
                    "{named}: others than root may go into `{shown}`, and read what they could read when a set was taken: `sudo chmod 700 \
                     {shown}`, unless another tool keeps its snapshots there"
                )
            })
        }
    }
}

/// Whether a top-level subvolume is mounted at a directory.
pub(super) fn is_top_level(dir: &Path, mounts: &Mounts) -> bool {
    let dir = BytePath::from(dir);
    mounts.holding(&dir).is_some_and(|mount| {
        let root = mount.root.as_bytes().strip_prefix(b"/").unwrap_or_default();
        mount.point == dir && !root.is_empty() && !root.contains(&b'/')
    })
}

/// On what a directory lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Btrfs,
    Memory,
    Elsewhere,
}

/// Returns on what a directory lies, or will if it is made.
fn place_of(dir: &Path) -> Place {
    let stat = dir.ancestors().find_map(|path| rustix::fs::statfs(path).ok());
    match stat.and_then(|stat| u64::try_from(stat.f_type).ok()) {
        Some(0x9123_683e) => Place::Btrfs,
        // tmpfs and ramfs.
        Some(0x0102_1994 | 0x8584_58f6) => Place::Memory,
        _ => Place::Elsewhere,
    }
}

fn schema(context: &mut Context<'_>, module: Option<&str>) -> Result<Exit, CliError> {
    let specs = context.specs();
    let value = match module {
        None => settings::schema(&specs),
        Some(text) => settings::find_module(text, &specs)?.schema.clone(),
    };
    context.print_json(&value)?;
    Ok(Exit::Completed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_directory_that_cannot_hold_sets_or_not_for_long_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let none = Mounts::default();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let said = |name: &str| of_snapshot_dir(&dir.path().join(name), true, &none).unwrap_or_default();
        assert!(said("file").contains("is no directory"), "{}", said("file"));
        assert!(said("nowhere/snaps").contains("nor is"), "{}", said("nowhere/snaps"));
        if place_of(dir.path()) == Place::Btrfs {
            assert!(
                said("snaps").contains("is not there, and will be no top-level subvolume"),
                "{}",
                said("snaps")
            );
            assert_eq!(of_snapshot_dir(&dir.path().join("snaps"), false, &none), None, "copies lie anywhere");
        }
        if place_of(dir.path()) == Place::Elsewhere {
            std::fs::create_dir(dir.path().join("open")).unwrap();
            let open = dir.path().join("open");
            std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            assert!(said("open").contains("sudo chmod 700"), "{}", said("open"));
        }
        let memory = Path::new("/dev/shm");
        if place_of(memory) == Place::Memory {
            let said = of_snapshot_dir(memory, true, &none).unwrap();
            assert!(said.contains("lies in memory"), "{said}");
        }
    }

    #[test]
    fn only_a_mount_of_a_top_level_subvolume_outlives_a_rollback() {
        let table = b"20 1 0:30 /@ / rw - btrfs x rw\n21 20 0:30 /@snapshots /.snapshots rw - btrfs x rw\n\
            22 20 0:30 /@/inner /inner rw - btrfs x rw\n23 20 0:30 / /top rw - btrfs x rw\n";
        let mounts = Mounts::parse(table);
        assert!(is_top_level(Path::new("/.snapshots"), &mounts));
        for other in ["/.snapshots/inside", "/plain", "/inner", "/top"] {
            assert!(!is_top_level(Path::new(other), &mounts), "{other}");
        }
    }
}
