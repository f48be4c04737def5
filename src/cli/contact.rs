//! Reaches machines for a command that may ask a person, and gives the terminal back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pc_switcher_contract::{ExecError, ModuleError};
use tokio_util::sync::CancellationToken;

use super::{CliError, engine};
use crate::orchestrator::reach::Reach as _;
use crate::orchestrator::real_reach::RealReach;
use crate::paths::Env;
use crate::remote::{PasswordPrompt, Reach};
use crate::ui::{FdConsole, Prompter};

/// How long agents and connection get to end by themselves.
const CLOSE: Duration = Duration::from_secs(3);

/// The ways to this machine and, if one was named, to another.
pub(super) struct Contact {
    /// Starts the agents.
    pub(super) reach: RealReach,
    /// Set by a Ctrl+C.
    pub(super) cancel: CancellationToken,
    /// Asks the person.
    pub(super) prompter: Arc<Prompter>,
    asked: Arc<AtomicBool>,
}

impl Contact {
    /// Whether sudo wanted a password since this was asked last.
    pub(super) fn sudo_asked(&self) -> bool {
        self.asked.swap(false, Ordering::SeqCst)
    }
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

/// Does work with the agents of this machine and of `target`, until it is done or a Ctrl+C ends it.
///
/// # Errors
/// What the work ended with, or that it could not even begin.
pub(super) fn with_machines<T>(
    target: Option<&str>,
    env: &Env,
    work: impl AsyncFnOnce(&Contact) -> Result<T, ModuleError>,
) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| CliError::Failed(format!("cannot start: {error}")))?;
    let done = runtime.block_on(contact(target, env, work));
    runtime.shutdown_timeout(Duration::from_millis(500));
    done
}

async fn contact<T>(
    target: Option<&str>,
    env: &Env,
    work: impl AsyncFnOnce(&Contact) -> Result<T, ModuleError>,
) -> Result<T, CliError> {
    let own = engine::own_name().map_err(CliError::Failed)?;
    let facts = engine::terminal_facts(env);
    let cancel = CancellationToken::new();
    let console = FdConsole::standard(facts)
        .map_err(|error| CliError::Failed(format!("cannot use the terminal: {error}")))?;
    let prompter = Arc::new(Prompter::new(Arc::new(console), cancel.clone()));
    // Held all the time: a Ctrl+C cancels, and questions end with it.
    let _interrupts = engine::listen(&prompter, &cancel)
        .map_err(|error| CliError::Failed(format!("cannot listen to signals: {error}")))?;
    let asked = Arc::new(AtomicBool::new(false));
    let prompt = Noting { inner: engine::Passwords(Arc::clone(&prompter)), asked: Arc::clone(&asked) };
    let reach = RealReach::new(
        Reach::new(engine::asking_env(env, facts), Some(Arc::new(prompt))),
        target.unwrap_or_default().into(),
        own,
        engine::user(env),
        None,
    );
    let contact = Contact { reach, cancel, prompter: Arc::clone(&prompter), asked };
    let done = tokio::select! {
        done = work(&contact) => done,
        () = contact.cancel.cancelled() => Err(ModuleError::cancelled()),
    };
    contact.reach.close(CLOSE).await;
    prompter.restore_terminal();
    Ok(done?)
}
