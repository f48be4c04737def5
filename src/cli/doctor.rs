//! `doctor`: what would keep a sync or a way back from working, and how it is mended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pc_switcher_contract::{ExecError, Hostname, ModuleError, RemoteExecutor};
use tokio_util::sync::CancellationToken;

use super::{CliError, Context, Exit, engine, sync};
use crate::config::Config;
use crate::doctor::{self, Place, Seen};
use crate::orchestrator::plan::RunPlan;
use crate::orchestrator::reach::Reach as _;
use crate::orchestrator::real_reach::RealReach;
use crate::paths::Env;
use crate::registry::registry;
use crate::remote::{PasswordPrompt, Reach};
use crate::ui::{FdConsole, Prompter};

/// How long agents and connection get to end by themselves.
const CLOSE: Duration = Duration::from_secs(3);

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
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| CliError::Failed(format!("cannot start: {error}")))?;
    let machines = runtime.block_on(examine(args.target.as_deref(), &config, &context.env));
    runtime.shutdown_timeout(Duration::from_millis(500));
    let machines = machines?;
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

/// Asks for sudo's password, and remembers that it did.
struct Noting {
    inner: engine::Passwords,
    asked: Arc<AtomicBool>,
}

#[async_trait]
impl PasswordPrompt for Noting {
    async fn ask(&self, prompt: String) -> Result<String, ExecError> {
        self.asked.store(true, Ordering::SeqCst);
        self.inner.ask(prompt).await
    }
}

async fn examine(target: Option<&str>, config: &Config, env: &Env) -> Result<Vec<Seen>, CliError> {
    let own = engine::own_name().map_err(CliError::Failed)?;
    let facts = engine::terminal_facts(env);
    let cancel = CancellationToken::new();
    let console = FdConsole::standard(facts)
        .map_err(|error| CliError::Failed(format!("cannot use the terminal: {error}")))?;
    let prompter = Arc::new(Prompter::new(Arc::new(console), cancel.clone()));
    // Held for the whole look: a Ctrl+C cancels, and questions end with it.
    let _interrupts = engine::listen(&prompter, &cancel)
        .map_err(|error| CliError::Failed(format!("cannot listen to signals: {error}")))?;
    let asked = Arc::new(AtomicBool::new(false));
    let prompt = Noting { inner: engine::Passwords(Arc::clone(&prompter)), asked: Arc::clone(&asked) };
    let reach = RealReach::new(
        Reach::new(engine::asking_env(env, facts), Some(Arc::new(prompt))),
        target.unwrap_or_default().into(),
        own.clone(),
        engine::user(env),
        None,
    );
    let looked = tokio::select! {
        looked = look(&reach, target.is_some(), config, env, &asked, &cancel) => looked,
        () = cancel.cancelled() => Err(ModuleError::cancelled()),
    };
    reach.close(CLOSE).await;
    prompter.restore_terminal();
    Ok(looked?)
}

async fn look(
    reach: &RealReach,
    with_target: bool,
    config: &Config,
    env: &Env,
    asked: &AtomicBool,
    cancel: &CancellationToken,
) -> Result<Vec<Seen>, ModuleError> {
    let source = reach.source(cancel).await?;
    let here = Place {
        agent: &source.agent,
        executor: source.executor.as_ref(),
        user: engine::user(env),
        sudo_asked: asked.swap(false, Ordering::SeqCst),
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
            sudo_asked: asked.swap(false, Ordering::SeqCst),
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
