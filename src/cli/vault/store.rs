//! Backups and checks.

use std::path::{Path, PathBuf};

use pc_switcher_contract::{ModuleError, SetId, human_bytes};
use pc_switcher_vault::engine::Part;
use pc_switcher_vault::service::{BackupReport, Checked, Proof, Service, TrackedReport};
use serde_json::json;

use super::super::{CliError, Context, Exit};
use super::dirs::{said, shown, tell, text};
use super::passphrase::Secret;
use super::watch::Watch;
use super::{here, open};
use crate::config::{self, Overrides};
use crate::vault::held::{Handed, HeldSet};

/// Store what is staged, from all tracked directories
///
/// With --tracked, all that changed in them is stored as well, without being copied into the stage: from a snapshot that is
/// taken for it where there is btrfs and sudo asks for no password, else from where it lies. Afterwards each vault has a snapshot of the current versions, which `restic` reads without us, and a copy of the
/// catalogue. A file that fails is named, stays staged and stops no other.
#[derive(Debug, Clone, clap::Args)]
pub struct BackupArgs {
    /// Store all that changed in tracked directories, too, as `bt add` in each of them would stage it
    #[arg(long)]
    tracked: bool,
    /// Note that what is missing in this directory is gone for good, where its disk might only not be mounted
    #[arg(long, value_name = "DIR")]
    gone: Vec<PathBuf>,
    /// Only to the vault of this name
    #[arg(long, value_name = "NAME")]
    vault: Option<String>,
    #[command(flatten)]
    secret: Secret,
}

/// Prove that what the vaults should hold is there
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArgs {
    /// Read everything, too, and prove that each byte is as it was written; of a part, such as =1/10, what was not read for
    /// longest, so that ten such checks read everything
    #[arg(long, value_name = "PART", num_args = 0..=1, require_equals = true, default_missing_value = "1/1")]
    read_data: Option<Part>,
    /// Only the vault of this name
    #[arg(long, value_name = "NAME")]
    vault: Option<String>,
    #[command(flatten)]
    secret: Secret,
}

/// What is gone may have lost its parent as well.
fn gone(path: &Path) -> Result<PathBuf, CliError> {
    here(path).or_else(|error| if path.is_absolute() { Ok(path.to_owned()) } else { Err(error) })
}

pub(super) fn backup(args: &BackupArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let mut service = open(context)?;
    let mut watch = Watch::begin(args.secret.source(&context.env), context)?;
    watch.heed(service.stop());
    // What is tracked a catalogue that went back does not know.
    service.catch_up(args.vault.as_deref(), &mut |ask| watch.passphrase(ask))?;
    if !context.global.json {
        // Whatever becomes of the backup, that is done.
        for said in service.take_said() {
            writeln!(context.err, "warning: {said}")?;
        }
    }
    service.take_as_gone(args.gone.iter().map(|path| gone(path)).collect::<Result<_, _>>()?)?;
    let mut held = match args.tracked || service.has_unread()? {
        true => hold(&mut service, &watch, context)?,
        false => None,
    };
    // Where they cannot be moved yet, the former ones go in the end.
    if let (true, Some(held)) = (args.tracked, &mut held)
        && let Ok(bases) = service.move_bases()
    {
        watch.beside(|| held.drop_former(bases));
    }
    let set = held.as_ref().map(HeldSet::id);
    let tracked = service.tracked_paths(&[])?;
    let (observer, vault) = (watch.observer(), args.vault.as_deref());
    let done = match args.tracked {
        true => service.back_up_tracked(&[], vault, &mut |ask| watch.passphrase(ask), &observer),
        false => service
            .backup(vault, &mut |ask| watch.passphrase(ask), &observer)
            .map(|backup| TrackedReport { backup, ..TrackedReport::default() }),
    };
    let bases = service.bases(&tracked);
    let is_base = |held: &HeldSet| bases.iter().flatten().any(|(_, base)| base.set.id() == held.id());
    // Nothing reads it any more.
    drop(service);
    let released = held
        .map(|held| {
            let is_base = is_base(&held);
            watch.wait(held.release(is_base))
        })
        .transpose();
    drop(watch);
    let TrackedReport { added, proof, backup: mut report, changes_alone } = done?;
    if let Err(error) = released {
        report.warnings.push(format!("the snapshots that were read stay for a month: {error}"));
    }
    let found = std::mem::take(&mut report.troubles);
    report.troubles = added.troubles.into_iter().chain(proof.troubles.clone()).chain(found).collect();
    if context.global.json {
        print_json(&report, &proof, (set.as_ref(), changes_alone), &added.sockets, context)?;
    } else {
        for socket in &added.sockets {
            writeln!(context.err, "{} is a socket and is left out", shown(socket))?;
        }
        for warning in &report.warnings {
            writeln!(context.err, "warning: {warning}")?;
        }
        tell(&report.troubles, context)?;
        let deleted =
            if report.deleted > 0 { format!(", {} files are gone", report.deleted) } else { String::new() };
        writeln!(context.out, "{} new versions, {}{deleted}", report.versions, human_bytes(report.bytes))?;
        if proof.files > 0 {
            let (files, bytes) = (proof.files, human_bytes(proof.bytes));
            writeln!(
                context.out,
                "{files} unchanged files read again, {bytes}: they are what was backed up"
            )?;
        }
        for vault in &report.vaults {
            let snapshot = vault
                .snapshot
                .map_or_else(|| "no new snapshot".into(), |id| format!("snapshot {}", &id.hex()[..8]));
            writeln!(context.out, "{}: {} stored, {snapshot}", vault.name, human_bytes(vault.stored.bytes))?;
        }
    }
    Ok(match report.is_clean() {
        true => Exit::Completed,
        false if report.is_full => Exit::DiskSpace,
        false => Exit::Failed,
    })
}

/// Has tracked directories read in a set that is taken now, or says why they are read where they lie.
fn hold(
    service: &mut Service,
    watch: &Watch,
    context: &mut Context<'_>,
) -> Result<Option<HeldSet>, CliError> {
    let tracked = service.tracked_paths(&[])?;
    if tracked.is_empty() {
        return Ok(None);
    }
    let taken = config::load(None, &Overrides::default(), &context.specs(), &context.env)
        .map_err(|errors| {
            ModuleError::failed(errors.to_string()).hint("`pc-switcher config validate` names them")
        })
        .and_then(|config| {
            let bases = service.bases(&tracked)?;
            watch.wait(HeldSet::take(&context.env, &config, &tracked, &bases, watch.cancel()))
        });
    if watch.cancel().is_cancelled() {
        if let Ok((held, _)) = taken {
            watch.wait(held.release(false)).ok();
        }
        return Err(ModuleError::cancelled().into());
    }
    match taken {
        Ok((held, Handed { view, sources, lacking })) => {
            service.read_from(view);
            service.look_where(sources);
            for (path, why) in lacking.iter().filter(|(path, _)| tracked.contains(path)) {
                writeln!(
                    context.err,
                    "note: {} is read where it lies, not in a snapshot: {why}",
                    shown(path)
                )?;
            }
            Ok(Some(held))
        }
        Err(error) => {
            writeln!(
                context.err,
                "note: files are read where they lie, not in a snapshot: {}",
                error.message
            )?;
            Ok(None)
        }
    }
}

fn print_json(
    report: &BackupReport,
    proof: &Proof,
    (set, changes_alone): (Option<&SetId>, u64),
    sockets: &[std::path::PathBuf],
    context: &mut Context<'_>,
) -> Result<(), CliError> {
    let vaults: Vec<_> = report
        .vaults
        .iter()
        .map(|vault| {
            let (blobs, bytes) = (vault.stored.blobs, vault.stored.bytes);
            json!({ "name": vault.name, "stored_blobs": blobs, "stored_bytes": bytes, "snapshot": vault.snapshot })
        })
        .collect();
    context.print_json(&json!({
        "versions": report.versions, "items": report.items, "bytes": report.bytes,
        "directories": report.directories, "deleted": report.deleted, "read_in": set, "changes_alone": changes_alone,
        "sockets": sockets.iter().map(|path| text(path)).collect::<Vec<_>>(),
        "proof": { "files": proof.files, "bytes": proof.bytes, "troubles": said(&proof.troubles) },
        "vaults": vaults, "troubles": said(&report.troubles), "warnings": report.warnings,
    }))
}

pub(super) fn check(args: &CheckArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let mut service = open(context)?;
    let mut watch = Watch::begin(args.secret.source(&context.env), context)?;
    watch.heed(service.stop());
    let observer = watch.observer();
    let all =
        service.check(args.vault.as_deref(), args.read_data, &mut |ask| watch.passphrase(ask), &observer)?;
    drop(watch);
    let sound = all.iter().all(|one| one.summary.problems.is_empty());
    if context.global.json {
        let line = |Checked { name, summary: found, unread, oldest, versions_gone, warnings }: &Checked| {
            json!({
                "name": name, "snapshots": found.snapshots, "packs": found.packs, "bytes": found.bytes,
                "read_bytes": found.read_bytes, "read_packs": found.read.len(), "unread_packs": unread,
                "oldest_read": oldest.map(|at| at.to_string()), "unknown_packs": found.unknown_packs,
                "problems": found.problems.kept(), "more_problems": found.problems.more(),
                "versions_gone": versions_gone, "warnings": warnings,
            })
        };
        context.print_json(&json!(all.iter().map(line).collect::<Vec<_>>()))?;
    } else {
        for one in &all {
            print_checked(args, one, context)?;
        }
    }
    Ok(if sound { Exit::Completed } else { Exit::Failed })
}

fn print_checked(args: &CheckArgs, one: &Checked, context: &mut Context<'_>) -> Result<(), CliError> {
    let Checked { name, summary: found, unread, oldest, versions_gone, warnings } = one;
    for warning in warnings {
        writeln!(context.err, "warning: {warning}")?;
    }
    for problem in found.problems.kept() {
        writeln!(context.err, "error: {name}: {problem}")?;
    }
    if found.problems.more() > 0 {
        writeln!(context.err, "error: {name}: and {} more like these", found.problems.more())?;
    }
    let mut parts =
        vec![format!("{} snapshots, {} packs, {}", found.snapshots, found.packs, human_bytes(found.bytes))];
    if let Some(part) = args.read_data {
        parts.push(format!("{} read", human_bytes(found.read_bytes)));
        if part != Part::ALL {
            parts.push(match (unread, oldest) {
                (0, Some(oldest)) => format!("each pack since {}", oldest.strftime("%Y-%m-%d %H:%M UTC")),
                _ => format!("{unread} packs never yet"),
            });
        }
    }
    let verdict = match found.problems.count() {
        0 => "sound".to_owned(),
        count => format!("{count} problems"),
    };
    writeln!(context.out, "{name}: {verdict}; {}", parts.join(", "))?;
    if !found.problems.is_empty() {
        writeln!(context.err, "`bt repair --dry-run` says what can be repaired")?;
    }
    if *versions_gone > 0 {
        writeln!(
            context.out,
            "{name}: {versions_gone} versions went with their snapshots, which another machine or program removed; the next `bt prune` \
             here notes it"
        )?;
    }
    if found.unknown_packs > 0 {
        let count = found.unknown_packs;
        writeln!(
            context.out,
            "{name}: {count} packs are in no index; a run that was killed left them; the next backup takes them up, or `bt prune` removes them"
        )?;
    }
    Ok(())
}
