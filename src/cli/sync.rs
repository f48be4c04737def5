//! `sync TARGET`: checks the command line and the config, then hands over to the engine.

use pc_switcher_contract::GateKind;

use super::{CliError, Context, Exit};
use crate::config::{Config, SyncRequest};
use crate::paths::Env;

/// The module that needs what is set of vaults.
const VAULT_BACKUP: &str = "vault-backup";

/// Bring another machine to the state of this one
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// The machine to go to: a host name or an alias of your ssh config
    #[arg(value_parser = target)]
    pub target: String,
    /// Show what would happen and write nothing, on either machine
    #[arg(long)]
    pub dry_run: bool,
    /// Run these modules alone, even if the config switches them off
    #[arg(long, value_name = "MODULE,…", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Leave these modules out
    #[arg(long, value_name = "MODULE,…", value_delimiter = ',')]
    pub skip: Vec<String>,
    /// Print no bars
    #[arg(long)]
    pub no_progress: bool,
    /// What the user allows beforehand.
    #[command(flatten)]
    pub gates: Gates,
}

/// One flag for each safety gate; no flag covers another.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Gates {
    /// Allow a sync of two machines that have no common past
    #[arg(long, help_heading = "Safety gates")]
    pub allow_first_sync: bool,
    /// Allow a sync although another machine synced in between
    #[arg(long, help_heading = "Safety gates")]
    pub allow_out_of_order: bool,
    /// Allow overwriting what changed on the target since the last sync
    #[arg(long, help_heading = "Safety gates")]
    pub allow_conflicts: bool,
    /// Allow deleting very much on the target
    #[arg(long, help_heading = "Safety gates")]
    pub allow_mass_deletion: bool,
    /// Allow a folder that is empty, not mounted, or on another file system than last time
    #[arg(long, help_heading = "Safety gates")]
    pub allow_replaced_source: bool,
    /// Allow a sync while a user of the synced folders works at a desktop of the target
    #[arg(long, help_heading = "Safety gates")]
    pub allow_active_session: bool,
    /// Allow users with different ids on the two machines
    #[arg(long, help_heading = "Safety gates")]
    pub allow_id_mismatch: bool,
    /// Allow folders that do not lie on btrfs, with weaker promises
    #[arg(long, help_heading = "Safety gates")]
    pub allow_no_snapshots: bool,
}

impl Gates {
    /// Returns the gates that stand open.
    pub fn open(self) -> Vec<GateKind> {
        let all = [
            (self.allow_first_sync, GateKind::FirstSync),
            (self.allow_out_of_order, GateKind::OutOfOrder),
            (self.allow_conflicts, GateKind::Conflicts),
            (self.allow_mass_deletion, GateKind::MassDeletion),
            (self.allow_replaced_source, GateKind::ReplacedSource),
            (self.allow_active_session, GateKind::ActiveSession),
            (self.allow_id_mismatch, GateKind::IdMismatch),
            (self.allow_no_snapshots, GateKind::NoSnapshots),
        ];
        all.into_iter().filter(|(open, _)| *open).map(|(_, gate)| gate).collect()
    }
}

/// Checks everything that needs no other machine, then calls `engine`, whose answer is how the run ended.
///
/// # Errors
/// If the flags or the config are wrong; then `engine` was not called and nothing was contacted.
pub fn run(
    args: &Args,
    context: &mut Context<'_>,
    engine: impl FnOnce(SyncRequest, &Config, &Env) -> Exit,
) -> Result<Exit, CliError> {
    let mut config = context.load_whole_config(&args.only, &args.skip)?;
    if config.modules.iter().any(|module| module.as_str() == VAULT_BACKUP) {
        config = config.with_vaults()?;
    } else {
        context.warn_of_vaults(&config)?;
    }
    let mut gates = args.gates;
    gates.allow_no_snapshots |= config.allow_no_snapshots;
    let request = SyncRequest {
        target: args.target.clone(),
        dry_run: args.dry_run,
        yes: context.global.yes,
        open_gates: gates.open(),
        json: context.global.json,
        progress: !args.no_progress && !context.global.json,
        modules: config.modules.clone(),
    };
    Ok(engine(request, &config, &context.env))
}

/// Checks a target before ssh sees it: it is an argument, never an option, and shows as what it is.
pub(super) fn target(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a host name or an ssh alias is wanted".into());
    }
    if text.starts_with('-') {
        return Err("it must not begin with `-`".into());
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("blanks and control characters are not allowed".into());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Global;

    #[test]
    fn a_target_is_never_an_option_and_never_hides_anything() {
        for bad in ["", "-oProxyCommand=x", "a b", "a\nb", "desk\u{1b}[2J"] {
            assert!(target(bad).is_err(), "{bad:?}");
        }
        for good in ["desk", "me@desk.lan", "ssh://me@desk:2222", "fe80::1%eth0"] {
            assert!(target(good).is_ok(), "{good}");
        }
    }

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// Runs `sync` with a config and an engine that notes what it is asked for.
    fn sync(line: &[&str], config: &str) -> (Result<Exit, CliError>, Option<SyncRequest>) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        std::fs::write(&file, config).unwrap();
        let line = Line::try_parse_from(["sync"].iter().chain(line)).unwrap();
        let global = Global { config: Some(file), ..Global::default() };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut context = Context { env: Env::default(), global, out: &mut out, err: &mut err };
        let mut asked = None;
        let result = run(&line.args, &mut context, |request, _, _| {
            asked = Some(request);
            Exit::Busy
        });
        assert!(out.is_empty());
        (result, asked)
    }

    #[test]
    fn what_is_wrong_is_found_before_anything_is_contacted() {
        for (line, config) in [
            (&["desk", "--only", "user-dat"][..], ""),
            (&["desk", "--skip", "user-data"], ""),
            (&["desk", "--skip", "disk-monitor"], ""),
            (&["desk"], "[disk]\nmin_fre = 1"),
        ] {
            let (result, asked) = sync(line, config);
            assert_eq!(result.unwrap_err().exit(), Exit::Usage, "{line:?}");
            assert_eq!(asked, None, "{line:?}");
        }
    }

    #[test]
    fn wrong_flags_and_wrong_config_come_in_one_pass() {
        let (result, _) = sync(&["desk", "--only", "x", "--skip", "y"], "[disk]\nmin_fre = 1");
        let Err(CliError::Config(errors)) = result else { panic!("{result:?}") };
        assert_eq!(errors.0.len(), 3);
    }

    #[test]
    fn the_engine_is_asked_for_what_was_typed_and_its_answer_is_the_exit() {
        let line = ["desk", "--dry-run", "--only", "user_data", "--allow-conflicts"];
        let (result, asked) = sync(&line, "allow_no_snapshots = true\n[sync_modules]\nuser-data = true");
        assert_eq!(result.unwrap(), Exit::Busy);
        let asked = asked.unwrap();
        assert_eq!((asked.target.as_str(), asked.dry_run, asked.yes), ("desk", true, false));
        assert_eq!(asked.open_gates, [GateKind::Conflicts, GateKind::NoSnapshots]);
        assert_eq!(asked.modules.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["user-data"]);
    }

    #[test]
    fn each_flag_opens_its_own_gate() {
        let one = Gates { allow_conflicts: true, ..Gates::default() };
        assert_eq!(one.open(), [GateKind::Conflicts]);
        assert!(one.open().iter().all(|gate| gate.flag() == Some("--allow-conflicts")));
        assert!(Gates::default().open().is_empty());
    }
}
