//! `doctor`: what would keep a sync or a way back from working, and how it is mended.

use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{Hostname, Machine, ModuleError, RemoteExecutor};

use super::contact::{Contact, with_machines};
use super::{CliError, Context, Exit, engine, sync};
use crate::config::Config;
use crate::doctor::{self, Place, Seen};
use crate::orchestrator::phases::{recall, refuse_self};
use crate::orchestrator::plan::RunPlan;
use crate::orchestrator::reach::Reach as _;
use crate::orchestrator::topology::Past;
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
    let (machines, lost) = with_machines(target, &context.env, async |contact| {
        let source = contact.reach.source(&contact.cancel).await?;
        let mut machines = vec![here(contact, &source, &config, &context.env).await?];
        let lost = match target {
            Some(_) => there(contact, &source, &mut machines, &config, &context.env).await.err(),
            None => None,
        };
        Ok((machines, lost))
    })?;
    let findings = doctor::judge(&machines);
    if context.global.json {
        context.print_json(&doctor::json(&machines, &findings))?;
    } else {
        for line in doctor::text(&machines, &findings) {
            writeln!(context.out, "{line}")?;
        }
    }
    match lost {
        // What was found here is worth knowing all the same.
        Some(error) => Err(error.into()),
        None if doctor::is_ill(&findings) => Ok(Exit::Invalid),
        None => Ok(Exit::Completed),
    }
}

async fn here(contact: &Contact, source: &Machine, config: &Config, env: &Env) -> Result<Seen, ModuleError> {
    doctor::look_at(&Place {
        agent: &source.agent,
        executor: source.executor.as_ref(),
        user: engine::user(env),
        sudo_asked: contact.sudo_asked(),
        config,
        is_here: true,
        from: source.hostname.clone(),
    })
    .await
}

/// Looks at the target too, and at both as a pair. This machine is the one that was looked at.
async fn there(
    contact: &Contact,
    source: &Machine,
    machines: &mut Vec<Seen>,
    config: &Config,
    env: &Env,
) -> Result<(), ModuleError> {
    let reach = &contact.reach;
    let target = reach.target(&contact.cancel).await?;
    let (agent, executor): (_, &dyn RemoteExecutor) = (Agent::new(&target.agent), target.executor.as_ref());
    refuse_self(&machines[0].facts, &agent.facts().await?)?;
    let mut seen = doctor::look_at(&Place {
        agent: &target.agent,
        executor,
        user: reach.target_user().unwrap_or_else(|| engine::user(env)),
        sudo_asked: contact.sudo_asked(),
        config,
        is_here: false,
        from: source.hostname.clone(),
    })
    .await?;
    seen.way_back = Some(doctor::way_back(executor, &source.hostname).await);
    let ours = Agent::new(&source.agent);
    if let Past::Stranger(why) = recall((&ours, &machines[0].facts), (&agent, &seen.facts)).await? {
        seen.stranger = Some(why);
    }
    machines.push(seen);
    let plan = RunPlan::build(&registry(env), &config.modules, config).map_err(ModuleError::failed)?;
    for problem in doctor::problems_of(&plan, source, &target).await {
        let at = usize::from(is_of(problem.hostname.as_ref(), &problem.message, &target.hostname));
        machines[at].problems.push(problem);
    }
    Ok(())
}

/// Whether a problem is of that machine: it says so, or its text begins with the name.
fn is_of(hostname: Option<&Hostname>, message: &str, machine: &Hostname) -> bool {
    match hostname {
        Some(hostname) => hostname.same_machine(machine),
        None => message.contains(&format!("{machine}: ")),
    }
}
