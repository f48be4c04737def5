//! `recover`: a catalogue that was lost or is out of date.

use pc_switcher_vault::service::{RecoverOrder, RecoverReport, Service, Source};
use serde_json::json;

use super::super::{CliError, Context, Exit};
use super::dirs::{said, tell};
use super::passphrase::Secret;
use super::surroundings;
use super::watch::Watch;

/// Build a lost or outdated catalogue anew from the vaults
///
/// From the newest copy that a backup left there, and from snapshots that came after it, or from snapshots alone. What waits for
/// the next backup goes on waiting, and the catalogue that was there is put aside.
#[derive(Debug, Clone, clap::Args)]
pub struct RecoverArgs {
    /// Take the versions of this machine; this one has none of its own yet
    #[arg(long, value_name = "HOST_ID")]
    from: Option<String>,
    /// Be that machine from now on; only if it is gone for good
    #[arg(long, requires = "from")]
    take_over: bool,
    /// Only from the vault of this name
    #[arg(long, value_name = "NAME")]
    vault: Option<String>,
    #[command(flatten)]
    secret: Secret,
}

pub(super) fn run(args: &RecoverArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let around = surroundings(context)?;
    let mut watch = Watch::begin(args.secret.source(&context.env), context)?;
    watch.heed(&around.stop);
    let observer = watch.observer();
    let order = RecoverOrder { only: args.vault.clone(), from: args.from.clone(), take_over: args.take_over };
    let report = Service::recover(&around, &order, &mut |ask| watch.passphrase(ask), &observer)?;
    drop(watch);
    if context.global.json {
        context.print_json(&json!({
            "source": report.source, "versions": report.versions, "replayed": report.replayed,
            "staged": report.staged, "put_aside": report.put_aside, "troubles": said(&report.troubles),
            "warnings": report.warnings,
        }))?;
    } else {
        print(&report, context)?;
    }
    Ok(if report.troubles.is_empty() { Exit::Completed } else { Exit::Failed })
}

fn print(report: &RecoverReport, context: &mut Context<'_>) -> Result<(), CliError> {
    for warning in &report.warnings {
        writeln!(context.err, "warning: {warning}")?;
    }
    tell(&report.troubles, context)?;
    let from = match &report.source {
        Source::Copy { vault, version } => format!("copy {version} in `{vault}`"),
        Source::Snapshots => "snapshots alone".into(),
    };
    writeln!(
        context.out,
        "{} versions, from {from}; {} of them from snapshots",
        report.versions, report.replayed
    )?;
    if let Some(path) = &report.put_aside {
        writeln!(context.err, "the catalogue that was there is {} now", path.display())?;
    }
    Ok(())
}
