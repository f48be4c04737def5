//! `snapshots auto`: sets that are taken by the clock and before packages change.

mod booted;
mod files;
mod packages;
mod take;

use std::path::Path;
use std::time::Duration;

use pc_switcher_agent::typed::Agent;
use pc_switcher_btrfs_snapshots::automatic::SnapshotsConfig;
use pc_switcher_contract::{BytePath, Cmd, Machine, ModuleError, Mutation, Output, WriteLicence};
use pc_switcher_installer::STABLE_PATH;
use serde_json::json;

use self::files::{CONFIG, Files, GOOD_SERVICE, GOOD_TIMER, HOOK, SERVICE, TIMER};
use crate::cli::contact::with_machines;
use crate::cli::{CliError, Context, Exit};
use crate::config;
use crate::orchestrator::reach::Reach as _;

/// For so long systemd may take over one step.
const PATIENCE: Duration = Duration::from_secs(60);

/// The directory that systemd makes when it runs the machine.
const BOOTED: &str = "/run/systemd/system";

/// Take sets by themselves: by the clock, and before packages change
///
/// What [snapshots] says is installed by `on`: timers of systemd, and a hook of apt. They work as root, with a copy of
/// [btrfs-snapshots] and [snapshots] in /etc/pc-switcher/config.toml (and of [disk] and [rollback] with `auto_good`), so `on` is
/// to be said again when these change. Such sets stay as long as a rule of `keep` keeps them, each kind by itself; each time those that none keeps are removed.
#[derive(Debug, Clone, clap::Args)]
pub struct AutoArgs {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Install what [snapshots] says, and remove what it does not say any more
    On,
    /// Remove all of it again; the sets stay
    Off,
    /// Say what is installed, and whether that is what [snapshots] says
    Status,
    /// What timer and hook start
    #[command(hide = true)]
    Take(take::TakeArgs),
    /// What the timer after a start starts
    #[command(hide = true)]
    Booted,
}

/// Runs the command.
///
/// # Errors
/// If the config is wrong, or this machine does not let us.
pub fn run(args: &AutoArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    match &args.command {
        Some(Command::On) => on(context),
        Some(Command::Off) => change(&Files::none(), context),
        Some(Command::Status) | None => status(context),
        Some(Command::Take(args)) => take::run(args, context),
        Some(Command::Booted) => booted::run(context),
    }
}

/// Reads the config; returns what it says of this, and the files that it stands for on this machine.
fn wanted(context: &mut Context<'_>) -> Result<(SnapshotsConfig, Files), CliError> {
    let config = context.load_config(&[], &[])?;
    let settings = super::automatic(&config)?;
    let is_ours = |table: &&config::Table| match table.name.as_str() {
        "btrfs-snapshots" | "snapshots" => true,
        "disk" | "rollback" => settings.auto_good,
        _ => false,
    };
    let tables: Vec<config::Table> = config.effective.iter().filter(is_ours).cloned().collect();
    let files = Files::of(&settings, &config::toml(&tables, false), Path::new(files::APT_DIR).is_dir());
    Ok((settings, files))
}

fn on(context: &mut Context<'_>) -> Result<Exit, CliError> {
    let (settings, files) = wanted(context)?;
    let calendar = settings.schedule.as_calendar();
    let has_hook = settings.auto_update || settings.auto_boot;
    if calendar.is_none() && !has_hook && !settings.auto_good {
        return Err(CliError::Usage {
            message: "[snapshots] says that no set is to be taken by itself".into(),
            help: Some(
                "set `schedule`, `auto_update`, `auto_boot` or `auto_good`; `snapshots auto off` removes what is installed".into(),
            ),
        });
    }
    if !Path::new(STABLE_PATH).exists() {
        return Err(CliError::Failed(format!(
            "`{STABLE_PATH}` is not there, and that is what would take the sets: install pc-switcher on this machine first"
        )));
    }
    if files.hook.is_none() && has_hook {
        let dir = files::APT_DIR;
        writeln!(context.err, "warning: there is no `{dir}`, so no hook takes sets before packages change")?;
    }
    if let Some(calendar) = calendar {
        check_calendar(calendar)?;
    }
    if settings.auto_good && !has_systemd() {
        return Err(CliError::Failed("`auto_good` needs systemd, and `systemctl` cannot be run".into()));
    }
    change(&files, context)
}

fn has_systemd() -> bool {
    let asked = std::process::Command::new("systemctl").arg("--version").output();
    asked.is_ok_and(|asked| asked.status.success())
}

/// Asks systemd whether it knows a time.
fn check_calendar(calendar: &str) -> Result<(), CliError> {
    let asked = std::process::Command::new("systemd-analyze").args(["calendar", "--", calendar]).output();
    let asked = asked.map_err(|error| {
        CliError::Failed(format!("`schedule` needs systemd, and `systemd-analyze` cannot be run: {error}"))
    })?;
    if asked.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&asked.stderr).lines().next().unwrap_or("it is refused").to_owned();
    Err(CliError::Usage {
        message: format!("`schedule` in [snapshots]: `{calendar}` is no time of systemd: {why}"),
        help: Some(
            "for example `daily`, `hourly`, `Mon..Fri 12:00`; `systemd-analyze calendar` explains one".into(),
        ),
    })
}

/// Puts files in place and takes away what is not among them.
fn change(files: &Files, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let changes = with_machines(None, &context.env, async |contact| {
        let machine = contact.reach.source(&contact.cancel).await?;
        apply(&machine, files).await
    })?;
    if context.global.json {
        context.print_json(&json!({ "changes": changes }))?;
        return Ok(Exit::Completed);
    }
    if changes.is_empty() {
        writeln!(context.out, "nothing to change")?;
    }
    for line in changes {
        writeln!(context.out, "{line}")?;
    }
    Ok(Exit::Completed)
}

async fn apply(machine: &Machine, files: &Files) -> Result<Vec<String>, ModuleError> {
    let agent = Agent::new(&machine.agent);
    let is_booted = Path::new(BOOTED).is_dir();
    let timers = [(TIMER, files.timer.is_some()), (GOOD_TIMER, files.good_timer.is_some())];
    let mut changes = Vec::new();
    // What starts something goes first and comes last.
    for (path, is_wanted) in timers {
        if !is_wanted && Path::new(path).exists() {
            let now = is_booted.then_some("--now");
            let disable = Cmd::new("systemctl").arg("disable").args(now).arg(files::unit_name(path));
            elevated(machine, disable).await?;
        }
    }
    for (path, content) in [
        (CONFIG, &files.config),
        (SERVICE, &files.service),
        (TIMER, &files.timer),
        (GOOD_SERVICE, &files.good_service),
        (GOOD_TIMER, &files.good_timer),
        (HOOK, &files.hook),
    ] {
        let there = match std::fs::read(path) {
            Ok(there) => Some(there),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            // What cannot be read is not ours: ours can be read by everybody.
            Err(_) => Some(Vec::new()),
        };
        let is_ours = there.as_deref().is_none_or(files::is_ours);
        match content {
            _ if !is_ours => {
                changes.push(format!("`{path}` was not written by pc-switcher and stays as it is"))
            }
            Some(content) if there.as_deref() == Some(content.as_bytes()) => {}
            Some(content) => {
                if let Some(dir) = Path::new(path).parent() {
                    elevated(machine, Cmd::new("mkdir").arg("-p").arg("-m755").arg(dir)).await?;
                }
                agent.put_file(BytePath::from(path), 0o644, content.as_bytes()).await?;
                changes.push(format!("wrote `{path}`"));
            }
            None if there.is_none() => {}
            None => {
                elevated(machine, Cmd::new("rm").arg("-f").arg(path)).await?;
                changes.push(format!("removed `{path}`"));
            }
        }
    }
    let units = [SERVICE, TIMER, GOOD_SERVICE, GOOD_TIMER].map(|path| format!("`{path}`"));
    if is_booted && changes.iter().any(|line| units.iter().any(|unit| line.contains(unit))) {
        elevated(machine, Cmd::new("systemctl").arg("daemon-reload")).await?;
    }
    for (path, _) in timers.into_iter().filter(|(_, is_wanted)| *is_wanted) {
        let timer = files::unit_name(path);
        // Started anew, so that a new time counts from now on.
        elevated(machine, Cmd::new("systemctl").args(["enable", "--quiet", timer])).await?;
        // That of a start counts from the start: begun now it would be over at once, and mark what stands there weeks later.
        if is_booted && path != GOOD_TIMER {
            elevated(machine, Cmd::new("systemctl").args(["restart", timer])).await?;
        }
    }
    Ok(changes)
}

async fn elevated(machine: &Machine, cmd: Cmd) -> Result<Output, ModuleError> {
    let cmd = cmd.sudo().timeout(PATIENCE);
    let output = machine.executor.run(Mutation::new(cmd, &WriteLicence::grant()).into()).await?;
    match output.ok() {
        true => Ok(output),
        false => Err(ModuleError::failed(format!(
            "{}: `{}` ended with {}: {}",
            machine.hostname,
            output.command,
            output.code,
            output.stderr_text().trim()
        ))),
    }
}

fn status(context: &mut Context<'_>) -> Result<Exit, CliError> {
    let (_, wanted) = wanted(context)?;
    let there = Files::read();
    let next = there.timer.is_some().then(next_time).flatten();
    let is_current = there == wanted || there == Files::none();
    let schedule = there.timer.as_deref().and_then(files::calendar_of);
    if context.global.json {
        context.print_json(&json!({
            "schedule": schedule,
            "next": next,
            "hook": there.hook.is_some(),
            "good_after_start": there.good_timer.is_some(),
            "as_configured": there == wanted,
        }))?;
        return Ok(Exit::Completed);
    }
    match (schedule, next) {
        (None, _) => writeln!(context.out, "By the clock     off")?,
        (Some(schedule), None) => writeln!(context.out, "By the clock     {schedule}")?,
        (Some(schedule), Some(next)) => writeln!(context.out, "By the clock     {schedule}, next {next}")?,
    }
    let hook = if there.hook.is_some() { "on" } else { "off" };
    writeln!(context.out, "Before packages  {hook}")?;
    if there.good_timer.is_some() {
        writeln!(context.out, "After a start    marked as good if all is well")?;
    }
    if !is_current {
        writeln!(
            context.out,
            "[snapshots] or [btrfs-snapshots] say something else by now: `pc-switcher snapshots auto on` installs that"
        )?;
    }
    Ok(Exit::Completed)
}

/// Returns when the timer runs next, as systemd says it.
fn next_time() -> Option<String> {
    let show = ["show", "--property=NextElapseUSecRealtime", "--value", files::unit_name(TIMER)];
    let said = std::process::Command::new("systemctl")
        .args(show)
        .output()
        .ok()
        .filter(|out| out.status.success())?;
    Some(String::from_utf8_lossy(&said.stdout).trim().to_owned()).filter(|text| !text.is_empty())
}
