//! The module itself: looks, plans, stores, and restores some of what it stored.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{
    BytePath, ErrorKind, ExecError, LogLevel, Module, ModuleContext, ModuleError, ModuleName, Outcome, Plan,
    PlanItem, Problem, Role, SnapshotKind, human_bytes,
};

use super::changes::readings;
use super::config::VaultBackupConfig;
use super::listen::Listener;
use super::view::view_of;
use crate::engine::Trouble;
use crate::error::Result;
use crate::secret::{self, VARIABLE};
use crate::service::{Proven, Reading, RehearseOrder, Service, Surroundings, TrackedReport, View};

/// So many paths are named; of the others people learn how many there are.
const NAMED: usize = 20;
/// How much of what was stored is restored afterwards, to see that it comes back.
const PROOF_BYTES: u64 = 32 << 20;
/// And how many files.
const PROOF_FILES: usize = 32;

/// What the module is handed by whoever knows this machine.
#[derive(Clone)]
pub struct Given {
    /// Where everything lies, and who works.
    pub surroundings: Arc<dyn Fn() -> Result<Surroundings> + Send + Sync>,
    /// What the variable with the passphrase holds.
    pub variable: Option<Vec<u8>>,
}

/// Backs up what is tracked on the source.
pub struct VaultBackup {
    name: ModuleName,
    config: VaultBackupConfig,
    given: Given,
    /// Held while a thread works.
    busy: Arc<tokio::sync::Mutex<()>>,
    /// When `execute` began to store, for `verify`.
    stored: Mutex<Option<Timestamp>>,
}

impl VaultBackup {
    /// Makes the module.
    pub fn new(config: VaultBackupConfig, given: Given) -> Self {
        let name = ModuleName::literal("vault-backup");
        Self { name, config, given, busy: Arc::default(), stored: Mutex::default() }
    }

    /// Does work that waits for disks, on a thread where it keeps nobody from anything.
    async fn aside<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let busy = Arc::clone(&self.busy).lock_owned().await;
        let done = tokio::task::spawn_blocking(move || {
            let _busy = busy;
            work()
        });
        done.await.unwrap_or_else(|error| Err(ModuleError::failed(format!("the backup ended: {error}"))))
    }

    /// Opens the catalogue; in a dry run a copy of it.
    fn opener(&self, ctx: &ModuleContext) -> impl FnOnce() -> Result<Service> + Send + use<> {
        let (surroundings, dry) = (Arc::clone(&self.given.surroundings), ctx.mode.is_dry());
        let cancel = ctx.cancel.clone();
        let (reporter, hostname) = (ctx.reporter.clone(), ctx.source.hostname.clone());
        move || {
            let service = match dry {
                true => Service::look(surroundings()?),
                false => Service::open(surroundings()?),
            }?;
            service.stop().when(move || cancel.is_cancelled());
            service.stop().tell_waits(move |text| reporter.log(LogLevel::Info, &hostname, text));
            Ok(service)
        }
    }

    fn passphrase(&self) -> Result<Vec<u8>> {
        let word = match (self.config.password_file.path(), &self.given.variable) {
            (Some(file), _) => secret::read(file)?,
            (None, variable) => variable.clone().unwrap_or_default(),
        };
        match word.is_empty() {
            false => Ok(word),
            true => Err(ModuleError::new(
                ErrorKind::Invalid,
                "there is no passphrase for the vaults, and a sync does not ask for one",
            )
            .hint(format!(
                "set `{VARIABLE}`, or name a file of mode 0600 as `password_file` in [vault-backup]"
            ))),
        }
    }

    /// Finds where tracked directories are read: in the snapshots from before the sync, as far as these hold them.
    async fn view(&self, ctx: &ModuleContext, tracked: &[PathBuf]) -> Result<(View, Vec<Reading>)> {
        let hostname = &ctx.source.hostname;
        let set = ctx.board.set(Role::Source, SnapshotKind::PreSync);
        let place = set.as_ref().and_then(|set| Some((set.id(), set.dir()?)));
        let Some((id, dir)) = place else {
            let text = "there are no snapshots of this sync: tracked directories are read where they lie";
            ctx.reporter.log(LogLevel::Warning, hostname, text);
            return Ok(Default::default());
        };
        let paths = tracked.iter().map(|path| BytePath::from(path.as_path())).collect();
        let handed = match Agent::new(&ctx.source.agent).held(dir, id, paths).await {
            Err(ExecError::Failed { why, .. }) => {
                let text = format!(
                    "tracked directories are read where they lie, not as they were before the sync: {why}"
                );
                ctx.reporter.log(LogLevel::Warning, hostname, text);
                return Ok(Default::default());
            }
            handed => handed?,
        };
        let (open, directories) = (self.opener(ctx), tracked.to_vec());
        let bases = self.aside(move || open()?.bases(&directories)).await.map_err(own_failure)?;
        let sources = match &set {
            Some(set) => readings(&Agent::new(&ctx.source.agent), set, &handed, tracked, &bases).await?,
            None => Vec::new(),
        };
        let (view, lacking) = view_of(handed);
        for (path, why) in lacking {
            // Below a tracked directory it is a mount or the like, which was never part of a snapshot.
            let level = if tracked.contains(&path) { LogLevel::Warning } else { LogLevel::Info };
            let path = BytePath::from(path.as_path());
            let text = format!("`{path}` is read where it lies, not as it was before the sync: {why}");
            ctx.reporter.log(level, hostname, text);
        }
        Ok((view, sources))
    }

    fn say(&self, ctx: &ModuleContext, troubles: &[Trouble], warnings: &[String]) {
        let log = |text: String| ctx.reporter.log(LogLevel::Warning, &ctx.source.hostname, text);
        for trouble in troubles.iter().take(NAMED) {
            log(format!("`{}` is not backed up: {}", trouble.path.display(), trouble.why));
        }
        if let Some(more) = troubles.len().checked_sub(NAMED).filter(|more| *more > 0) {
            log(format!("{more} more files are not backed up; `bt backup` names them"));
        }
        warnings.iter().cloned().for_each(log);
    }
}

/// What stands in the way on the source, as a problem of it.
fn problem(ctx: &ModuleContext, error: ModuleError) -> Problem {
    let found = Problem::on(&ctx.source.hostname, error.message);
    match error.hints.is_empty() {
        true => found,
        false => found.hint(error.hints.join("; ")),
    }
}

/// A failure of the vault is none of the other machine, whatever the vault says.
fn own_failure(error: ModuleError) -> ModuleError {
    match error.kind {
        ErrorKind::Cancelled | ErrorKind::DiskSpace => error,
        _ => ModuleError { kind: ErrorKind::Failed, ..error },
    }
}

/// Puts what was done into a line for the report.
fn describe(report: &TrackedReport) -> String {
    let TrackedReport { added, proof, backup, .. } = report;
    let mut text = format!("{} new versions, {}", backup.versions, human_bytes(backup.bytes));
    if backup.deleted > 0 {
        text.push_str(&format!(", {} files are gone", backup.deleted));
    }
    let failed = added.troubles.len() + backup.troubles.len();
    if failed > 0 {
        text.push_str(&format!(", {failed} files failed"));
    }
    if proof.files > 0 {
        text.push_str(&format!(", {} unchanged files read again", proof.files));
    }
    for vault in &backup.vaults {
        let snapshot = vault.snapshot.map_or_else(
            || "no new snapshot".to_owned(),
            |id| format!("snapshot {}", id.hex().chars().take(8).collect::<String>()),
        );
        text.push_str(&format!("; {}: {} stored, {snapshot}", vault.name, human_bytes(vault.stored.bytes)));
    }
    text
}

#[async_trait]
impl Module for VaultBackup {
    fn name(&self) -> &ModuleName {
        &self.name
    }

    async fn validate(&self, ctx: &ModuleContext) -> Result<Vec<Problem>> {
        let word = match self.passphrase() {
            Ok(word) => word,
            Err(error) => return Ok(vec![problem(ctx, error)]),
        };
        let (open, only, vault) =
            (self.opener(ctx), self.config.directories(), self.config.vault().map(ToOwned::to_owned));
        let looked = self.aside(move || {
            let service = open()?;
            let looked = service.prove_vaults(vault.as_deref(), &mut |_| Ok(word.clone()))?;
            Ok((service.prove_tracked(&only, &looked), looked.vaults))
        });
        let (tracked, vaults) = match looked.await {
            Ok(found) => found,
            Err(error) if matches!(error.kind, ErrorKind::Cancelled | ErrorKind::DiskSpace) => {
                return Err(error);
            }
            Err(error) => return Ok(vec![problem(ctx, error)]),
        };
        let none_is_usable = vaults.iter().all(|vault| vault.problem.is_some());
        let mut problems: Vec<Problem> = tracked.err().into_iter().map(|error| problem(ctx, error)).collect();
        for Proven { settings, problem: why, note } in vaults {
            if let Some(note) = note {
                ctx.reporter.log(LogLevel::Warning, &ctx.source.hostname, note);
            }
            let Some(why) = why else { continue };
            if settings.required || none_is_usable {
                let leave = "`--skip vault-backup` leaves the vaults out of this sync";
                problems.push(problem(ctx, why.hint(leave)));
            } else {
                let text = format!("the vault `{}` is left out: {why}", settings.name);
                ctx.reporter.log(LogLevel::Warning, &ctx.source.hostname, text);
            }
        }
        Ok(problems)
    }

    async fn plan(&self, ctx: &ModuleContext) -> Result<Plan> {
        let (open, only, listener) = (self.opener(ctx), self.config.directories(), Listener::of(ctx));
        let found = self.aside(move || open()?.preview(&only, &listener)).await.map_err(own_failure)?;
        let bytes = found.files.iter().map(|(_, bytes)| bytes).sum();
        let mut warnings: Vec<String> = found
            .troubles
            .iter()
            .take(NAMED)
            .map(|trouble| format!("`{}` cannot be backed up: {}", trouble.path.display(), trouble.why))
            .collect();
        if found.waiting > 0 {
            warnings.push(format!("{} files that wait for a backup already go with it", found.waiting));
        }
        Ok(Plan {
            summary: format!("{} files into the vaults, {}", found.files.len(), human_bytes(bytes)),
            counts: vec![("back-up".into(), found.files.len() as u64)],
            bytes,
            items: found
                .files
                .iter()
                .map(|(path, bytes)| PlanItem {
                    action: "back-up".into(),
                    path: BytePath::from(path.as_path()),
                    bytes: *bytes,
                })
                .collect(),
            warnings,
        })
    }

    async fn execute(&self, ctx: &ModuleContext) -> Result<Outcome> {
        ctx.board.note_idle(&self.name);
        let word = self.passphrase()?;
        let (open, only, key) = (self.opener(ctx), self.config.directories(), word.clone());
        let vault = self.config.vault().map(ToOwned::to_owned);
        // What is tracked, and from which snapshot on its changes are known, a catalogue that went back does not know.
        let caught_up = self.aside(move || {
            let mut service = open()?;
            service.catch_up(vault.as_deref(), &mut |_| Ok(key.clone()))?;
            let (tracked, behind) = (service.tracked_paths(&only), service.why_behind());
            let tracked = match (tracked, behind) {
                (Ok(tracked), Some(why)) if tracked.is_empty() => Err(why),
                (Err(_), Some(why)) => Err(why),
                (tracked, _) => tracked,
            };
            service.with_said(tracked.map(|tracked| (tracked, Vec::new())), |done, said| done.1 = said)
        });
        let (tracked, said) = caught_up.await.map_err(own_failure)?;
        self.say(ctx, &[], &said);
        if tracked.is_empty() {
            let text = "no directory is tracked; `bt dir init` in one tracks it";
            ctx.reporter.log(LogLevel::Warning, &ctx.source.hostname, text);
            return Ok(Outcome::Skipped(text.into()));
        }
        let (view, sources) = self.view(ctx, &tracked).await?;
        *self.stored.lock().unwrap_or_else(PoisonError::into_inner) = Some((ctx.clock)());
        let (open, listener) = (self.opener(ctx), Listener::of(ctx));
        let (only, vault) = (self.config.directories(), self.config.vault().map(ToOwned::to_owned));
        let stored = self.aside(move || {
            let mut service = open()?;
            service.read_from(view);
            service.look_where(sources);
            service.back_up_tracked(&only, vault.as_deref(), &mut |_| Ok(word.clone()), &listener)
        });
        let report = stored.await.map_err(own_failure)?;
        let troubles: Vec<Trouble> =
            report.added.troubles.iter().chain(&report.backup.troubles).cloned().collect();
        self.say(ctx, &troubles, &report.backup.warnings);
        for Trouble { path, why } in &report.proof.troubles {
            let text = format!("`{}` {why}", path.display());
            ctx.reporter.log(LogLevel::Warning, &ctx.source.hostname, text);
        }
        for socket in &report.added.sockets {
            let text = format!("`{}` is a socket and is left out", socket.display());
            ctx.reporter.log(LogLevel::Full, &ctx.source.hostname, text);
        }
        if report.changes_alone > 0 {
            let text = "looked where something changed since the last backup alone";
            ctx.reporter.log(LogLevel::Full, &ctx.source.hostname, text);
        }
        let text = describe(&report);
        Ok(match troubles.is_empty() && report.proof.troubles.is_empty() && report.backup.is_clean() {
            true => Outcome::Done(text),
            false if report.backup.is_full => Outcome::Partly(text, ErrorKind::DiskSpace),
            false => Outcome::Partly(text, ErrorKind::Failed),
        })
    }

    /// Restores some of what was stored.
    async fn verify(&self, ctx: &ModuleContext) -> Result<Vec<Problem>> {
        let stored = *self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(since) = stored else { return Ok(Vec::new()) };
        let word = self.passphrase()?;
        let order = RehearseOrder {
            only: self.config.vault().map(ToOwned::to_owned),
            seed: since.as_nanosecond() as u64,
            most_bytes: PROOF_BYTES,
            most_files: PROOF_FILES,
            since: Some(since),
        };
        let (open, listener) = (self.opener(ctx), Listener::of(ctx));
        let rehearsed = self.aside(move || open()?.rehearse(&order, &mut |_| Ok(word.clone()), &listener));
        let report = rehearsed.await.map_err(own_failure)?;
        let files: u64 = report.vaults.iter().map(|vault| vault.files).sum();
        if files > 0 && report.troubles.is_empty() {
            ctx.board.add_check(format!("{files} files came back out of the vaults"));
        }
        let found = |trouble: &Trouble| {
            Problem::on(&ctx.source.hostname, format!("`{}`: {}", trouble.path.display(), trouble.why))
                .hint("`bt check --read-data` says what else is damaged")
        };
        let left_out = report.warnings.iter().filter(|_| report.incomplete);
        let left_out = left_out.map(|why| Problem::on(&ctx.source.hostname, why.clone()));
        Ok(report.troubles.iter().map(found).chain(left_out).collect())
    }

    /// The thread hears of the stop by itself, between two blocks of a file.
    async fn abort(&self, _: &ModuleContext, timeout: Duration) {
        tokio::time::timeout(timeout, self.busy.lock()).await.map(drop).unwrap_or_default();
    }
}
