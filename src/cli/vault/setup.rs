//! Setting up: settings, vaults.

use std::path::PathBuf;

use pc_switcher_vault::service::{Prepared, Service, VaultKind, VaultSettings, is_partial};
use pc_switcher_vault::store::Depth;
use serde_json::json;

use super::super::{CliError, Context, Exit};
use super::dirs::text;
use super::passphrase::{Secret, Source};
use super::show::seconds;
use super::watch::Watch;
use super::{absolute, open, surroundings};

/// `config …`.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Config {
    Init(ConfigInitArgs),
    /// Show the settings and where everything lies
    List,
    /// Set up the vaults
    #[command(subcommand)]
    Vault(ConfigVault),
}

/// `config vault …`.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum ConfigVault {
    /// Make the vaults that are set, or prove that they are as they should be
    Init(InitArgs),
    RecoveryCode(RecoveryCodeArgs),
}

/// Print a code for paper that opens the vaults in the place of the passphrase
///
/// Another key of each vault that is set; the code is printed once and kept nowhere. `restic key remove` takes a key away.
#[derive(Debug, Clone, clap::Args)]
pub struct RecoveryCodeArgs {
    /// Only for the vault of this name
    #[arg(long, value_name = "NAME")]
    vault: Option<String>,
    #[command(flatten)]
    secret: Secret,
}

/// Write the settings, with one vault, and name this machine
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigInitArgs {
    /// Where the vault will be: a directory, best on another disk, `s3:https://HOST/BUCKET/PREFIX` or `ssh://HOST/DIRECTORY`
    #[arg(long, value_name = "PLACE")]
    root: Option<PathBuf>,
    /// What to call the vault
    #[arg(long, default_value = "local")]
    name: String,
}

/// Make the vaults that are set, or prove that they are as they should be
#[derive(Debug, Clone, clap::Args)]
pub struct InitArgs {
    /// Only the vault of this name
    #[arg(long, value_name = "NAME")]
    vault: Option<String>,
    /// Add it to the settings first, in this directory, in `s3:https://HOST/BUCKET/PREFIX` or in `ssh://HOST/DIRECTORY`
    #[arg(long, value_name = "PLACE", requires = "vault")]
    root: Option<PathBuf>,
    #[command(flatten)]
    secret: Secret,
}

/// List the vaults, and whether they can be used
#[derive(Debug, Clone, clap::Args)]
pub struct ListArgs {
    /// List the snapshots in them instead, those of other machines too
    #[arg(long)]
    snapshots: bool,
    /// Only the vault of this name
    #[arg(long, value_name = "NAME", requires = "snapshots")]
    vault: Option<String>,
    #[command(flatten)]
    secret: Secret,
}

/// Returns a place that was typed: one that is elsewhere as it is, a directory as an absolute one.
fn place(typed: Option<&PathBuf>) -> Result<Option<PathBuf>, CliError> {
    match typed {
        Some(root) if VaultSettings::kind_of(&root.to_string_lossy()) != VaultKind::Filesystem => {
            Ok(Some(root.clone()))
        }
        root => absolute(root),
    }
}

pub(super) fn config_init(args: &ConfigInitArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let around = surroundings(context)?;
    let root = place(args.root.as_ref())?;
    let made = Service::init(&around, root.as_deref(), &args.name)?;
    let config = made.settings.display().to_string();
    if context.global.json {
        let value = json!({ "config": config, "host_id": made.host_id, "roots": made.roots.iter().map(|root| text(root)).collect::<Vec<_>>(), "kept": made.kept });
        return context.print_json(&value).map(|()| Exit::Completed);
    }
    match made.kept {
        true => writeln!(context.err, "kept {config}, and named this machine {}", made.host_id)?,
        false => writeln!(context.err, "wrote {config}, and named this machine {}", made.host_id)?,
    }
    if !made.kept && args.root.is_none() {
        writeln!(
            context.err,
            "warning: the vault will be in {}, on the same disk: it brings back what was changed or deleted, but does not \
             survive the disk; set `root` to a directory on another one",
            made.roots.first().map(|root| root.display().to_string()).unwrap_or_default()
        )?;
    }
    let next = match made.has_vault {
        true => {
            "next: a vault is there already: `bt recover` brings back what a machine stored in it; to back up to it, `bt config vault init`, \
             then `bt dir init` in a directory"
        }
        false => "next: `bt config vault init`, then `bt dir init` in a directory",
    };
    writeln!(context.err, "{next}")?;
    Ok(Exit::Completed)
}

pub(super) fn config_list(context: &mut Context<'_>) -> Result<Exit, CliError> {
    let around = surroundings(context)?;
    let service = Service::open(around.clone())?;
    let (settings, places) = (service.settings(), service.places());
    if context.global.json {
        let value = json!({
            "config": text(&places.config), "host_id": service.host_id(), "base_dir": text(&places.base()),
            "catalogue": text(&places.catalogue()), "staging_dir": text(&places.stage()),
            "log_dir": text(&places.log()),
            "vault": settings.vault, "vaults": settings.vaults,
        });
        return context.print_json(&value).map(|()| Exit::Completed);
    }
    if !around.above.vault.is_empty() || !around.above.vaults.is_empty() {
        writeln!(context.out, "# {}", around.above.path.display())?;
    }
    if places.config.exists() {
        writeln!(context.out, "# {}", places.config.display())?;
    }
    writeln!(context.out, "# host_id     {}", service.host_id())?;
    writeln!(context.out, "# catalogue   {}", places.catalogue().display())?;
    writeln!(context.out, "# staging_dir {}", places.stage().display())?;
    writeln!(context.out, "# log_dir     {}\n", places.log().display())?;
    let text = toml::to_string(settings).map_err(|error| CliError::Failed(error.to_string()))?;
    write!(context.out, "{text}")?;
    Ok(Exit::Completed)
}

pub(super) fn init(args: &InitArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    if let (Some(root), Some(name)) = (place(args.root.as_ref())?, &args.vault) {
        Service::add_vault(&surroundings(context)?, &root, name)?;
    }
    let mut service = open(context)?;
    let mut watch = Watch::begin(args.secret.source(&context.env), context)?;
    watch.heed(service.stop());
    let done = service.prepare_vaults(args.vault.as_deref(), &mut |ask| watch.passphrase(ask))?;
    drop(watch);
    if context.global.json {
        let all: Vec<_> = done
            .iter()
            .map(|(vault, how)| json!({ "name": vault.name, "root": vault.root, "result": how }))
            .collect();
        return context.print_json(&json!(all)).map(|()| Exit::Completed);
    }
    for (vault, how) in done {
        let root = vault.root.display();
        match how {
            Prepared::Made => writeln!(context.err, "made the vault `{}` in {root}", vault.name)?,
            Prepared::Adopted => {
                writeln!(context.err, "the repository in {root} is the vault `{}` from now on", vault.name)?
            }
            Prepared::Verified => {
                writeln!(context.err, "the vault `{}` in {root} is as it should be", vault.name)?
            }
        }
    }
    Ok(Exit::Completed)
}

pub(super) fn recovery_code(args: &RecoveryCodeArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let mut service = open(context)?;
    let mut watch = Watch::begin(args.secret.source(&context.env), context)?;
    watch.heed(service.stop());
    let made = service.recovery_code(args.vault.as_deref(), &mut |ask| watch.passphrase(ask))?;
    drop(watch);
    if context.global.json {
        let vaults: Vec<_> =
            made.vaults.iter().map(|(name, key)| json!({ "name": name, "key": key })).collect();
        let all = json!({ "code": made.code, "vaults": vaults, "warnings": made.warnings });
        return context.print_json(&all).map(|()| Exit::Completed);
    }
    writeln!(context.out, "{}", made.code)?;
    for warning in &made.warnings {
        writeln!(context.err, "warning: {warning}")?;
    }
    for (name, key) in &made.vaults {
        writeln!(
            context.err,
            "it opens the vault `{name}` in the place of the passphrase; `restic key remove {}` takes it away",
            &key[..8]
        )?;
    }
    writeln!(
        context.err,
        "write it on paper, and keep that where the laptop is not: nobody can show it again"
    )?;
    Ok(Exit::Completed)
}

pub(super) fn list(args: &ListArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let mut service = open(context)?;
    if args.snapshots {
        return list_snapshots(&mut service, args, context);
    }
    let states = service.look_at_vaults()?;
    let usable = |name: &str| states.get(name).cloned().flatten();
    if context.global.json {
        let line = |vault: &pc_switcher_vault::service::VaultSettings| {
            let problem = usable(&vault.name);
            json!({ "name": vault.name, "type": vault.kind, "root": vault.root, "required": vault.required, "storage_class": vault.storage_class, "problem": problem })
        };
        let all: Vec<_> = service.settings().vaults.iter().map(line).collect();
        return context.print_json(&json!(all)).map(|()| Exit::Completed);
    }
    for vault in &service.settings().vaults {
        let mut state = usable(&vault.name).unwrap_or_else(|| "ready".into());
        if vault.storage_class.as_deref().and_then(Depth::of).is_some() {
            state.push_str("  [contents are restored after a thaw]");
        }
        writeln!(context.out, "{}  {}  {state}", vault.name, vault.root.display())?;
    }
    Ok(Exit::Completed)
}

fn list_snapshots(
    service: &mut Service,
    args: &ListArgs,
    context: &mut Context<'_>,
) -> Result<Exit, CliError> {
    let mut watch = Watch::begin(args.secret.source(&context.env), context)?;
    watch.heed(service.stop());
    let (all, problems) = service.snapshots(args.vault.as_deref(), &mut |ask| watch.passphrase(ask))?;
    drop(watch);
    // One that is damaged hides no other.
    for problem in &problems {
        writeln!(context.err, "error: {problem}")?;
    }
    let exit = if problems.is_empty() { Exit::Completed } else { Exit::Failed };
    if context.global.json {
        let line = |(vault, id, snapshot): &(
            String,
            pc_switcher_vault::format::Id,
            pc_switcher_vault::format::Snapshot,
        )| json!({ "vault": vault, "id": id, "partial": is_partial(snapshot), "snapshot": snapshot });
        return context.print_json(&json!(all.iter().map(line).collect::<Vec<_>>())).map(|()| exit);
    }
    for (vault, id, snapshot) in all {
        let paths = snapshot.paths.join(" ");
        writeln!(
            context.out,
            "{vault}  {}  {}  {}  {paths}{}",
            &id.hex()[..8],
            seconds(&snapshot.time),
            snapshot.hostname,
            if is_partial(&snapshot) { "  [partial]" } else { "" }
        )?;
    }
    Ok(exit)
}

/// For commands that never ask.
pub(super) fn without_passphrase() -> Source {
    Source::none()
}
