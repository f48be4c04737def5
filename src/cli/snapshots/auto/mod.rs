//! `snapshots auto`: sets that are taken by the clock and before packages change.

mod apply;
mod boot;
mod booted;
mod files;
mod packages;
mod take;

use std::path::Path;

use pc_switcher_agent::proto::{BootLook, BootOrder};
use pc_switcher_agent::typed::Agent;
use pc_switcher_btrfs_snapshots::automatic::SnapshotsConfig;
use pc_switcher_contract::{BytePath, ModuleError, ModuleName, Threshold};
use pc_switcher_disk_monitor::config::DiskConfig;
use pc_switcher_installer::STABLE_PATH;
use serde::Deserialize as _;
use serde_json::json;

use self::apply::Applier;
use self::boot::Protection;
use self::files::{Files, TIMER};
use crate::cli::contact::with_machines;
use crate::cli::{CliError, Context, Exit};
use crate::config::{self, BootConfig, HealthCheck};
use crate::orchestrator::reach::Reach as _;
use crate::paths;

/// Take sets by themselves: by the clock, and before packages change; and go back by itself when the machine does not start
///
/// What [snapshots] and [boot-protection] say is installed by `on`: timers of systemd, a hook of apt, and a part of the initramfs.
/// They work as root, with a copy of [btrfs-snapshots] and [snapshots] in /etc/pc-switcher/config.toml (and of [disk], [rollback]
/// and [boot-protection] where starts are looked at), so `on` is to be said again when these change. Such sets stay as long as a rule of `keep` keeps them, each kind by itself; each time those that none keeps are removed.
#[derive(Debug, Clone, clap::Args)]
pub struct AutoArgs {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Install what [snapshots] and [boot-protection] say, and remove what they do not say any more
    On {
        /// Say what would be done, what boot protection would go back to and what stands in the way, and write nothing
        #[arg(long)]
        dry_run: bool,
    },
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
        Some(Command::On { dry_run }) => on(*dry_run, context),
        Some(Command::Off) => off(context),
        Some(Command::Status) | None => status(context),
        Some(Command::Take(args)) => take::run(args, context),
        Some(Command::Booted) => booted::run(context),
    }
}

/// What the config says of it.
struct Wanted {
    settings: SnapshotsConfig,
    boot: BootConfig,
    required: Vec<HealthCheck>,
    reserve: Threshold,
    snapshot_dir: BytePath,
    tables: String,
}

impl Wanted {
    fn read(context: &mut Context<'_>) -> Result<Self, CliError> {
        let config = context.load_config(&[], &[])?;
        let settings = super::automatic(&config)?;
        let has_good = settings.auto_good || config.boot.enabled;
        let is_ours = |table: &&config::Table| match table.name.as_str() {
            "btrfs-snapshots" | "snapshots" => true,
            "disk" | "rollback" | "boot-protection" => has_good,
            _ => false,
        };
        let tables: Vec<config::Table> = config.effective.iter().filter(is_ours).cloned().collect();
        let disk = DiskConfig::deserialize(config.table(&ModuleName::literal("disk-monitor")));
        Ok(Self {
            settings,
            required: config.rollback.health.clone(),
            reserve: disk.map_err(|error| CliError::Failed(error.to_string()))?.reserve_minimum,
            snapshot_dir: BytePath::from(super::of(&config)?.snapshot_dir.as_path()),
            boot: config.boot,
            tables: config::toml(&tables, false),
        })
    }

    /// What it takes on this machine to be protected, if it is to be.
    fn protection<'a>(&'a self, look: Option<&'a BootLook>) -> Option<Protection<'a>> {
        let look = look.filter(|_| self.boot.enabled)?;
        Some(Protection { config: &self.boot, snapshot_dir: &self.snapshot_dir, look })
    }

    /// Returns the files that it stands for on this machine.
    fn files(&self, protection: Option<&Protection<'_>>) -> Files {
        let after = self.boot.healthy_after.seconds();
        Files::of(&self.settings, (&self.tables, after), Path::new(files::APT_DIR).is_dir(), protection)
    }
}

fn on(is_dry: bool, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let wanted = Wanted::read(context)?;
    let settings = &wanted.settings;
    let calendar = settings.schedule.as_calendar();
    let has_hook = settings.auto_update || settings.auto_boot;
    let has_good = settings.auto_good || wanted.boot.enabled;
    if calendar.is_none() && !has_hook && !has_good {
        if Files::read() != Files::none() {
            return remove(&wanted.snapshot_dir, is_dry, context);
        }
        return Err(CliError::Usage {
            message: "[snapshots] says that no set is to be taken by itself".into(),
            help: Some(
                "nothing is installed, and nothing is to be removed; set `schedule`, `auto_update`, `auto_boot` or `auto_good` in \
                 [snapshots], or `enabled` in [boot-protection]"
                    .into(),
            ),
        });
    }
    if !Path::new(STABLE_PATH).exists() {
        return Err(CliError::Failed(format!(
            "`{STABLE_PATH}` is not there, and that is what would take the sets: install pc-switcher on this machine first"
        )));
    }
    if has_hook && !Path::new(files::APT_DIR).is_dir() {
        let dir = files::APT_DIR;
        writeln!(context.err, "warning: there is no `{dir}`, so no hook takes sets before packages change")?;
    }
    if let Some(calendar) = calendar {
        check_calendar(calendar)?;
    }
    if has_good && !has_systemd() {
        let key = if settings.auto_good { "`auto_good`" } else { "[boot-protection]" };
        return Err(CliError::Failed(format!("{key} needs systemd, and `systemctl` cannot be run")));
    }
    let home = paths::home(&context.env);
    let (changes, plan) = with_machines(None, &context.env, async |contact| {
        let machine = contact.reach.source(&contact.cancel).await?;
        let look = match wanted.boot.enabled {
            true => {
                Some(Agent::new(&machine.agent).boot(wanted.snapshot_dir.clone(), BootOrder::Look).await?)
            }
            false => None,
        };
        if let Some(look) = look.as_ref().filter(|look| !look.unfit.is_empty()) {
            return Err(ModuleError::failed(format!(
                "{}: [boot-protection] cannot be switched on: {}",
                machine.hostname,
                look.unfit.join("; ")
            )));
        }
        let red = match look {
            Some(_) => booted::trouble_of(&machine, &wanted.required, wanted.reserve, home.as_deref()).await,
            None => Vec::new(),
        };
        if let Some(why) = booted::told(red.iter().filter(|finding| booted::is_of_the_start(finding))) {
            return Err(ModuleError::failed(format!(
                "{}: [boot-protection] cannot be switched on: as it is now no start would be found healthy: {why}; mend that, or \
                 leave the check out of `health` in [rollback]",
                machine.hostname
            )));
        }
        let protection = wanted.protection(look.as_ref());
        let files = wanted.files(protection.as_ref());
        let applier = Applier { machine: &machine, snapshot_dir: &wanted.snapshot_dir, is_dry };
        Ok((applier.apply(&files).await?, protection.iter().flat_map(boot::plan).collect()))
    })?;
    say(changes, plan, context)
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

fn off(context: &mut Context<'_>) -> Result<Exit, CliError> {
    remove(&"/.snapshots".into(), false, context)
}

/// Removes all that is installed. Where starts are counted stands there, whatever the config says by now; `otherwise` is for
/// what does not say it.
fn remove(otherwise: &BytePath, is_dry: bool, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let service = Files::read().boot_service.unwrap_or_default();
    let snapshot_dir = boot::counted_in(&service).map_or_else(|| otherwise.clone(), BytePath::from);
    let changes = with_machines(None, &context.env, async |contact| {
        let machine = contact.reach.source(&contact.cancel).await?;
        Applier { machine: &machine, snapshot_dir: &snapshot_dir, is_dry }.apply(&Files::none()).await
    })?;
    say(changes, Vec::new(), context)
}

fn say(changes: Vec<String>, plan: Vec<String>, context: &mut Context<'_>) -> Result<Exit, CliError> {
    if context.global.json {
        context.print_json(&json!({ "changes": changes, "boot_protection": plan }))?;
        return Ok(Exit::Completed);
    }
    if changes.is_empty() {
        writeln!(context.out, "nothing to change")?;
    }
    for line in changes.into_iter().chain(plan) {
        writeln!(context.out, "{line}")?;
    }
    Ok(Exit::Completed)
}

fn status(context: &mut Context<'_>) -> Result<Exit, CliError> {
    let wanted = Wanted::read(context)?;
    let there = Files::read();
    // What only root sees is asked for only where there is something to see.
    let look = match wanted.boot.enabled || there.boot_service.is_some() {
        true => Some(with_machines(None, &context.env, async |contact| {
            let machine = contact.reach.source(&contact.cancel).await?;
            Ok(Agent::new(&machine.agent).boot(wanted.snapshot_dir.clone(), BootOrder::Look).await?)
        })?),
        false => None,
    };
    let protection = wanted.protection(look.as_ref());
    let wanted = wanted.files(protection.as_ref());
    let next = there.timer.is_some().then(next_time).flatten();
    let is_current = there == wanted || there == Files::none();
    let schedule = there.timer.as_deref().and_then(files::calendar_of);
    if context.global.json {
        context.print_json(&json!({
            "schedule": schedule,
            "next": next,
            "hook": there.hook.is_some(),
            "good_after_start": there.good_timer.is_some(),
            "boot_protection": look.as_ref().filter(|_| there.boot_service.is_some()),
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
    if let Some(look) = look.as_ref().filter(|_| there.boot_service.is_some()) {
        writeln!(context.out, "Boot protection  on: {}", look.counted.explain())?;
        for problem in &look.problems {
            writeln!(context.out, "                 as it stands nothing would be put back: {problem}")?;
        }
    }
    if !is_current {
        writeln!(
            context.out,
            "[snapshots], [boot-protection] or [btrfs-snapshots] say something else by now: `pc-switcher snapshots auto on` installs that"
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
