//! `doctor`: what would keep a sync or a way back from working, and how it is mended.

use pc_switcher_contract::{Hostname, ModuleError, RemoteExecutor};

use super::contact::{Contact, with_machines};
use super::{CliError, Context, Exit, engine, sync};
use crate::config::Config;
use crate::doctor::{self, Place, Seen};
use crate::orchestrator::plan::RunPlan;
use crate::orchestrator::reach::Reach as _;
use crate::paths::Env;
use crate::registry::registry;

/// Look for what would keep a sync from working, and say how it is mended
///
/// Looks at this machine, and with TARGET at that one too and at both as a pair. Writes nothing on either, but for one
/// thing: a sync that was cut off is brought to its end, as the next boot or sync would, and what was done is said. Every
/// finding comes with its fix; exit code 3 if there is something to mend.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// The other machine: what your ssh understands, for example `desk` or `me@desk.lan`
    #[arg(value_parser = sync::target)]
    pub target: Option<String>,
}

/// Looks, and prints what was found.
///
/// # Errors
/// If the config is wrong, a machine cannot be reached or its agent not be started.
pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = context.load_config(&[], &[])?;
    let target = args.target.as_deref();
    let machines = with_machines(target, &context.env, async |contact| {
        look(contact, target.is_some(), &config, &context.env).await
    })?;
    let findings = doctor::judge(&machines);
    if context.global.json {
        context.print_json(&doctor::json(&machines, &findings))?;
    } else {
        for line in doctor::text(&machines, &findings) {
            writeln!(context.out, "{line}")?;
        }
    }
    Ok(if doctor::is_ill(&findings) { Exit::Invalid } else { Exit::Completed })
}

async fn look(
    contact: &Contact,
    with_target: bool,
    config: &Config,
    env: &Env,
) -> Result<Vec<Seen>, ModuleError> {
    let (reach, cancel) = (&contact.reach, &contact.cancel);
    let source = reach.source(cancel).await?;
    let here = Place {
        agent: &source.agent,
        executor: source.executor.as_ref(),
        user: engine::user(env),
        sudo_asked: contact.sudo_asked(),
        config,
        is_here: true,
        from: source.hostname.clone(),
    };
    let mut machines = vec![doctor::look_at(&here).await?];
    if with_target {
        let target = reach.target(cancel).await?;
        let executor: &dyn RemoteExecutor = target.executor.as_ref();
        let there = Place {
            agent: &target.agent,
            executor,
            user: reach.target_user().unwrap_or_else(|| engine::user(env)),
            sudo_asked: contact.sudo_asked(),
            config,
            is_here: false,
            from: source.hostname.clone(),
        };
        let mut seen = doctor::look_at(&there).await?;
        seen.way_back = Some(doctor::way_back(executor, &source.hostname).await);
        machines.push(seen);
        let plan = RunPlan::build(&registry(env), &config.modules, config).map_err(ModuleError::failed)?;
        for problem in doctor::problems_of(&plan, &source, &target).await {
            let at = usize::from(is_of(problem.hostname.as_ref(), &problem.message, &target.hostname));
            machines[at].problems.push(problem);
        }
    }
    Ok(machines)
}

/// Whether a problem is of that machine: it says so, or its text begins with the name.
fn is_of(hostname: Option<&Hostname>, message: &str, machine: &Hostname) -> bool {
    match hostname {
        Some(hostname) => hostname.same_machine(machine),
        None => message.contains(&format!("{machine}: ")),
    }
}
