//! `recover`: a catalogue that was lost or is out of date.

use pc_switcher_vault::service::{RecoverOrder, RecoverReport, Service, Source};
use serde_json::json;

use super::super::{CliError, Context, Exit};
use super::dirs::{said, shown, tell, text};
use super::passphrase::Secret;
use super::surroundings;
use super::watch::Watch;

/// Build a lost or outdated catalogue anew from the vaults
///
/// From the newest copy that a backup left there, and from snapshots that came after it, or from snapshots alone. What waits for
/// the next backup goes on waiting, and the catalogue that was there is put aside.
#[derive(Debug, Clone, clap::Args)]
pub struct RecoverArgs {
    /// Take the versions of this machine: its id, the beginning of that, or its name if no other has it; this one has none of its own
    /// yet
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

/// How many directories are named that can be restored.
const SHOWN: usize = 10;

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
            "host_id": report.host, "source": report.source,
            "directories": report.directories.iter().map(|path| text(path)).collect::<Vec<_>>(), "versions": report.versions, "replayed": report.replayed,
            "staged": report.staged, "put_aside": report.put_aside, "troubles": said(&report.troubles),
            "warnings": report.warnings,
        }))?;
    } else {
        print(args, &report, context)?;
    }
    Ok(if report.troubles.is_empty() { Exit::Completed } else { Exit::Failed })
}

fn print(args: &RecoverArgs, report: &RecoverReport, context: &mut Context<'_>) -> Result<(), CliError> {
    for warning in &report.warnings {
        writeln!(context.err, "warning: {warning}")?;
    }
    tell(&report.troubles, context)?;
    let from = match &report.source {
        Source::Copy { vault, version } => format!("copy {version} of the catalogue in `{vault}`"),
        Source::Snapshots => "snapshots alone".into(),
    };
    let replayed = match (&report.source, report.replayed) {
        (Source::Snapshots, _) | (_, 0) => String::new(),
        (_, count) => format!("; {count} of them from snapshots that came after it"),
    };
    writeln!(context.out, "{} versions are known, from {from}{replayed}", report.versions)?;
    if let Some(path) = &report.put_aside {
        writeln!(context.err, "the catalogue that was there is {} now", path.display())?;
    }
    if args.from.is_some() {
        for directory in report.directories.iter().take(SHOWN) {
            let directory = shown(directory);
            writeln!(
                context.err,
                "next: `bt restore {directory} --in-place` brings its files back, with --to DIR elsewhere"
            )?;
        }
        let more = report.directories.len().saturating_sub(SHOWN);
        if more > 0 {
            writeln!(context.err, "{more} more directories with `bt dir list`")?;
        }
    }
    Ok(())
}
