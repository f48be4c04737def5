//! Puts the files of `snapshots auto` in place, or takes them away. What starts something goes first and comes last.

use std::path::Path;
use std::time::Duration;

use pc_switcher_agent::proto::{BootOrder, Counted};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{BytePath, Cmd, Machine, ModuleError, Mutation, Output, WriteLicence};

use super::boot::{BOOT_HOOK, BOOT_SCRIPT, BOOT_SERVICE};
use super::files::{self, CONFIG, Files, GOOD_SERVICE, GOOD_TIMER, HOOK, SERVICE, TIMER};

/// For so long systemd may take over one step.
const PATIENCE: Duration = Duration::from_secs(60);

/// For so long the initramfs of every kernel may take.
const LONG_PATIENCE: Duration = Duration::from_secs(1800);

/// The directory that systemd makes when it runs the machine.
const BOOTED: &str = "/run/systemd/system";

/// Makes the initramfs of every kernel anew.
const UPDATE_INITRAMFS: &str = "/usr/sbin/update-initramfs";

/// Where things are put.
pub struct Applier<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// Where starts are counted.
    pub snapshot_dir: &'a BytePath,
    /// Whether it is only said what would be done.
    pub is_dry: bool,
}

impl Applier<'_> {
    /// Puts files in place and takes away what is not among them; returns what was done.
    pub async fn apply(&self, files: &Files) -> Result<Vec<String>, ModuleError> {
        let agent = Agent::new(&self.machine.agent);
        let is_booted = Path::new(BOOTED).is_dir();
        let units = [
            (TIMER, files.timer.is_some()),
            (GOOD_TIMER, files.good_timer.is_some()),
            (BOOT_SERVICE, files.boot_service.is_some()),
        ];
        let is_protected = files.boot_service.is_some();
        let was_protected = [BOOT_HOOK, BOOT_SCRIPT, BOOT_SERVICE].iter().any(|path| is_ours(path));
        if is_protected {
            self.refuse_others(files)?;
        }
        let mut changes = Vec::new();
        let mut counted = match is_protected || was_protected {
            true => agent.boot(self.snapshot_dir.clone(), BootOrder::Count).await?.counted,
            false => Counted::Off,
        };
        if !is_protected && counted != Counted::Off {
            // From here on what an initramfs still has does nothing.
            self.order(&agent, BootOrder::Off).await?;
            changes.push(self.said("stop", "stopped", "counting starts"));
        }
        let differs = |path: &str, wanted: &Option<String>| {
            there(path).as_deref() != wanted.as_ref().map(|text| text.as_bytes())
        };
        if is_protected
            && counted != Counted::Off
            && (differs(BOOT_HOOK, &files.boot_hook) || differs(BOOT_SCRIPT, &files.boot_script))
        {
            // Nothing is counted by an initramfs that is not made yet; if it cannot be, the next time makes up for it.
            self.order(&agent, BootOrder::Off).await?;
            counted = Counted::Off;
        }
        for (path, is_wanted) in units {
            if !is_wanted && Path::new(path).exists() {
                let now = is_booted.then_some("--now");
                self.elevated(Cmd::new("systemctl").arg("disable").args(now).arg(files::unit_name(path)))
                    .await?;
            }
        }
        for (path, content, mode) in [
            (CONFIG, &files.config, 0o644),
            (SERVICE, &files.service, 0o644),
            (TIMER, &files.timer, 0o644),
            (GOOD_SERVICE, &files.good_service, 0o644),
            (GOOD_TIMER, &files.good_timer, 0o644),
            (HOOK, &files.hook, 0o644),
            (BOOT_HOOK, &files.boot_hook, 0o755),
            (BOOT_SCRIPT, &files.boot_script, 0o755),
        ] {
            changes.extend(self.file(&agent, path, content.as_deref(), mode).await?);
        }
        let is_changed = changes.iter().any(|line| line.contains(BOOT_HOOK) || line.contains(BOOT_SCRIPT));
        // One that failed the last time is made up for: starts are counted only when all is in place, and the unit goes last.
        let is_due = if is_protected { counted == Counted::Off } else { was_protected };
        if is_changed || is_due {
            self.initramfs().await?;
            changes.push(self.said("make", "made", "the initramfs of every kernel anew"));
        }
        changes.extend(self.file(&agent, BOOT_SERVICE, files.boot_service.as_deref(), 0o644).await?);
        let named = [SERVICE, TIMER, GOOD_SERVICE, GOOD_TIMER, BOOT_SERVICE].map(|path| format!("`{path}`"));
        if is_booted && changes.iter().any(|line| named.iter().any(|unit| line.contains(unit))) {
            self.elevated(Cmd::new("systemctl").arg("daemon-reload")).await?;
        }
        for (path, _) in units.into_iter().filter(|(_, is_wanted)| *is_wanted) {
            let unit = files::unit_name(path);
            // Started anew, so that a new time counts from now on.
            self.elevated(Cmd::new("systemctl").args(["enable", "--quiet", unit])).await?;
            let how = match path {
                // It counts from the start: begun now it would be over at once, and mark what stands there weeks later.
                GOOD_TIMER => continue,
                // To end it means to leave the machine in order.
                BOOT_SERVICE => "start",
                _ => "restart",
            };
            if is_booted {
                self.elevated(Cmd::new("systemctl").args([how, unit])).await?;
            }
        }
        if is_protected && !matches!(counted, Counted::So(_)) {
            self.order(&agent, BootOrder::On).await?;
            changes.push(self.said("count", "counting", "starts from the next one on"));
        }
        Ok(changes)
    }

    /// Without one of its files boot protection would count starts that nobody ever finds healthy.
    fn refuse_others(&self, files: &Files) -> Result<(), ModuleError> {
        let wanted = [
            (CONFIG, files.config.is_some()),
            (GOOD_SERVICE, files.good_service.is_some()),
            (GOOD_TIMER, files.good_timer.is_some()),
            (BOOT_HOOK, files.boot_hook.is_some()),
            (BOOT_SCRIPT, files.boot_script.is_some()),
            (BOOT_SERVICE, files.boot_service.is_some()),
        ];
        let is_other = |path: &str| there(path).is_some_and(|content| !files::is_ours(&content));
        match wanted.into_iter().find(|(path, is_wanted)| *is_wanted && is_other(path)) {
            None => Ok(()),
            Some((path, _)) => Err(ModuleError::failed(format!(
                "{}: [boot-protection] cannot be switched on: `{path}` was not written by pc-switcher, and it needs one of its own \
                 there; move yours aside, or switch `enabled` off",
                self.machine.hostname
            ))),
        }
    }

    /// Writes or removes one file; says what was done, if anything.
    async fn file(
        &self,
        agent: &Agent,
        path: &str,
        content: Option<&str>,
        mode: u32,
    ) -> Result<Option<String>, ModuleError> {
        let there = there(path);
        let is_ours = there.as_deref().is_none_or(files::is_ours);
        Ok(match content {
            _ if !is_ours => Some(format!("`{path}` was not written by pc-switcher and stays as it is")),
            Some(content) if there.as_deref() == Some(content.as_bytes()) => None,
            Some(content) => {
                if let Some(dir) = Path::new(path).parent() {
                    self.elevated(Cmd::new("mkdir").arg("-p").arg("-m755").arg(dir)).await?;
                }
                if !self.is_dry {
                    agent.put_file(BytePath::from(path), mode, content.as_bytes()).await?;
                }
                Some(self.said("write", "wrote", &format!("`{path}`")))
            }
            None if there.is_none() => None,
            None => {
                self.elevated(Cmd::new("rm").arg("-f").arg(path)).await?;
                Some(self.said("remove", "removed", &format!("`{path}`")))
            }
        })
    }

    fn said(&self, would: &str, did: &str, what: &str) -> String {
        match self.is_dry {
            true => format!("would {would} {what}"),
            false => format!("{did} {what}"),
        }
    }

    async fn order(&self, agent: &Agent, order: BootOrder) -> Result<(), ModuleError> {
        if !self.is_dry {
            agent.boot(self.snapshot_dir.clone(), order).await?;
        }
        Ok(())
    }

    async fn initramfs(&self) -> Result<(), ModuleError> {
        let cmd = Cmd::new(UPDATE_INITRAMFS).args(["-u", "-k", "all"]).timeout(LONG_PATIENCE);
        match Path::new(UPDATE_INITRAMFS).exists() {
            true => self.run(cmd).await.map(drop),
            // Nobody makes one that could hold anything of ours.
            false => Ok(()),
        }
    }

    async fn elevated(&self, cmd: Cmd) -> Result<(), ModuleError> {
        self.run(cmd.timeout(PATIENCE)).await.map(drop)
    }

    async fn run(&self, cmd: Cmd) -> Result<Option<Output>, ModuleError> {
        if self.is_dry {
            return Ok(None);
        }
        let action = Mutation::new(cmd.sudo(), &WriteLicence::grant());
        let output = self.machine.executor.run(action.into()).await?;
        match output.ok() {
            true => Ok(Some(output)),
            false => Err(ModuleError::failed(format!(
                "{}: `{}` ended with {}: {}",
                self.machine.hostname,
                output.command,
                output.code,
                output.stderr_text().trim()
            ))),
        }
    }
}

fn there(path: &str) -> Option<Vec<u8>> {
    match std::fs::read(path) {
        Ok(there) => Some(there),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        // What cannot be read is not ours: ours can be read by everybody.
        Err(_) => Some(Vec::new()),
    }
}

fn is_ours(path: &str) -> bool {
    there(path).as_deref().is_some_and(files::is_ours)
}
