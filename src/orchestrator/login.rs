//! Whether a new login to the target works: before the work, and after it. The next sync needs one.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use pc_switcher_contract::{ModuleError, Problem};
use tokio::task::JoinHandle;

use super::phases::Prepared;
use super::plan::RunPlan;
use super::reach::SharedReach;
use super::watch::Watch;
use crate::events::CoreLog;

/// What is known of a new login after the work.
enum Login {
    Works,
    /// It would need a person, as it did before.
    Untried(String),
    Broken(String),
}

/// What came of the login that is tried before anything is changed; none if there is nothing to log in to. Whoever is about to
/// change what lets people in waits for it: later it would say nothing about before.
pub(super) type First = Shared<BoxFuture<'static, Option<Result<(), String>>>>;

/// Logins that are being tried, beside the run. Dropping this ends them.
#[derive(Default)]
pub(super) struct Logins {
    before: Option<(JoinHandle<()>, First)>,
    after: Option<JoinHandle<Option<Login>>>,
}

impl Logins {
    /// Tries one before anything is changed.
    pub(super) fn begin(&mut self, reach: &SharedReach, log: CoreLog) {
        let reach = Arc::clone(reach);
        let login = async move {
            let login = reach.fresh_login().await;
            if let Some(Ok(())) = &login {
                log.full("a new login works without a question");
            }
            login
        };
        let first = login.boxed().shared();
        self.before = Some((tokio::spawn(first.clone().map(drop)), first));
    }

    /// Returns the first one, for whoever wants to wait for it.
    pub(super) fn first(&self) -> First {
        let known = self.before.as_ref().map(|(_, first)| first.clone());
        known.unwrap_or_else(|| std::future::ready(None).boxed().shared())
    }

    /// Tries one once the modules are done, if one worked before that nobody had to answer. Where no module changed
    /// anything, that one is proof enough.
    pub(super) fn again(&mut self, reach: &SharedReach, plan: &RunPlan, prepared: &Prepared) {
        let before = self.first();
        let is_idle = plan.sequential.iter().all(|module| prepared.board.is_idle(module.name()));
        let reach = Arc::clone(reach);
        self.after = Some(tokio::spawn(async move {
            Some(match before.await? {
                Ok(()) if is_idle => Login::Works,
                Ok(()) => match reach.fresh_login().await? {
                    Ok(()) => Login::Works,
                    Err(why) => Login::Broken(why),
                },
                Err(why) => Login::Untried(why),
            })
        }));
    }

    /// Waits for the second one and says what came of it; a problem if it does not work any more.
    ///
    /// # Errors
    /// If the run is stopped meanwhile.
    pub(super) async fn judge(
        &mut self,
        watch: &mut Watch,
        prepared: &Prepared,
        log: &CoreLog,
    ) -> Result<Option<Problem>, ModuleError> {
        let Some(after) = &mut self.after else { return Ok(None) };
        let login = watch.drive(async { Ok(after.await.ok().flatten()) }).await?;
        self.after = None;
        let target = &prepared.target.hostname;
        Ok(match login {
            None => None,
            Some(Login::Works) => {
                prepared.board.add_check(format!("a new ssh login to {target} works"));
                None
            }
            Some(Login::Untried(why)) => {
                log.on(target).full(format!("a new login could not be tried without a person: {why}"));
                prepared
                    .board
                    .add_check(format!("a new ssh login to {target} was not tried: it takes a person"));
                None
            }
            Some(Login::Broken(why)) => Some(
                Problem::on(target, format!("a new ssh login does not work any more: {why}"))
                    .hint("keep this terminal open and look at `~/.ssh` and `sshd` there"),
            ),
        })
    }
}

impl Drop for Logins {
    fn drop(&mut self) {
        if let Some((login, _)) = &self.before {
            login.abort();
        }
        if let Some(login) = &self.after {
            login.abort();
        }
    }
}
