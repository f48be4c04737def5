//! Enough space before a sync, and a reserve while it runs.

use std::time::Duration;

use async_trait::async_trait;
use pc_switcher_agent::proto::SpaceReport;
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{
    BytePath, ErrorKind, Hostname, LogLevel, Module, ModuleContext, ModuleError, ModuleName, Outcome, Plan,
    Problem, Role, Threshold, human_bytes,
};

use crate::config::DiskConfig;
use crate::seen;

/// So many probes in a row may fail before the run stops (one lost answer is no full disk).
const TOLERATED_PROBES: u32 = 3;
/// How long one probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// Watches the file systems of both machines.
pub struct DiskMonitor {
    name: ModuleName,
    config: DiskConfig,
}

impl DiskMonitor {
    /// Makes the monitor.
    pub fn new(config: DiskConfig) -> Self {
        Self { name: ModuleName::literal("disk-monitor"), config }
    }

    async fn reports(&self, ctx: &ModuleContext, role: Role) -> Result<Vec<SpaceReport>, ModuleError> {
        let mut paths = vec![BytePath::from("/")];
        paths.extend(ctx.board.folders());
        Ok(Agent::new(ctx.agent(role)).space(paths).await?)
    }

    /// Returns a line per file system of both machines that is below `threshold`.
    async fn shortages(&self, ctx: &ModuleContext, threshold: Threshold) -> Result<Vec<String>, ModuleError> {
        let (source, target) = tokio::join!(self.reports(ctx, Role::Source), self.reports(ctx, Role::Target));
        let mut found = Vec::new();
        for (role, reports) in [(Role::Source, source?), (Role::Target, target?)] {
            found.extend(reports.iter().filter_map(|report| shortage(ctx.hostname(role), report, threshold)));
        }
        Ok(found)
    }

    /// Looks whether the reserve is still there; a look that hangs counts as one that failed, or nobody would watch.
    async fn look(&self, ctx: &ModuleContext) -> Result<Vec<String>, ModuleError> {
        let look = self.shortages(ctx, self.config.reserve_minimum);
        tokio::time::timeout(PROBE_LIMIT, look).await.unwrap_or_else(|_| {
            let text = format!("no answer within {} s", PROBE_LIMIT.as_secs());
            Err(ModuleError::failed(text)
                .hint("one of the file systems may hang; see `dmesg` on both machines"))
        })
    }
}

/// Returns what is wrong with one file system, if it is below the threshold.
fn shortage(hostname: &Hostname, report: &SpaceReport, threshold: Threshold) -> Option<String> {
    let wanted = threshold.bytes_of(report.size_bytes);
    (report.available_bytes < wanted).then(|| {
        format!(
            "{hostname}: `{}` has {} free, {} wanted (data {}, unallocated {}, metadata {})",
            report.path,
            human_bytes(report.available_bytes),
            human_bytes(wanted),
            human_bytes(report.data_free_bytes),
            human_bytes(report.unallocated_bytes),
            human_bytes(report.metadata_free_bytes),
        )
    })
}

fn disk_space(what: &str, shortages: Vec<String>) -> ModuleError {
    ModuleError::new(ErrorKind::DiskSpace, format!("{what}: {}", shortages.join("; ")))
        .hint("free space there, or lower [disk] min_free and reserve_minimum")
}

#[async_trait]
impl Module for DiskMonitor {
    fn name(&self) -> &ModuleName {
        &self.name
    }

    /// Too little space is an error of its own kind, so that it has its own exit code.
    async fn validate(&self, ctx: &ModuleContext) -> Result<Vec<Problem>, ModuleError> {
        ctx.board.put_reserve(self.config.reserve_minimum);
        ctx.board.put_min_free(self.config.min_free);
        let mut short = self.shortages(ctx, self.config.min_free).await?;
        if short.is_empty() {
            short = self.shortages(ctx, self.config.reserve_minimum).await?;
        }
        if short.is_empty() {
            Ok(Vec::new())
        } else {
            Err(disk_space("too little disk space to start", short))
        }
    }

    async fn plan(&self, _: &ModuleContext) -> Result<Plan, ModuleError> {
        Ok(Plan { summary: format!("stop below {} free", self.config.reserve_minimum), ..Plan::default() })
    }

    /// Runs until it is cancelled; ends early only with an error.
    async fn execute(&self, ctx: &ModuleContext) -> Result<Outcome, ModuleError> {
        let mut failed = 0;
        loop {
            let looked = tokio::select! {
                biased;
                () = ctx.cancel.cancelled() => return Ok(Outcome::Done("watched".into())),
                looked = self.look(ctx) => looked,
            };
            match looked {
                Ok(short) if short.is_empty() => failed = 0,
                Ok(short) => return Err(disk_space("the disk-space reserve is used up", short)),
                Err(error) => {
                    failed += 1;
                    let text =
                        format!("free space could not be read ({failed} of {TOLERATED_PROBES}): {error}");
                    ctx.reporter.log(LogLevel::Warning, &ctx.source.hostname, text);
                    if failed >= TOLERATED_PROBES {
                        return Err(error);
                    }
                }
            }
            tokio::select! {
                () = ctx.cancel.cancelled() => return Ok(Outcome::Done("watched".into())),
                () = tokio::time::sleep(Duration::from_secs(self.config.check_interval.get())) => {}
            }
        }
    }

    async fn verify(&self, _: &ModuleContext) -> Result<Vec<Problem>, ModuleError> {
        Ok(Vec::new())
    }

    /// Remembers how much is free on both machines, for the forecast.
    async fn tidy(&self, ctx: &ModuleContext) -> Result<(), ModuleError> {
        for role in [Role::Source, Role::Target] {
            let reports = self.reports(ctx, role).await?;
            seen::remember(&Agent::new(ctx.agent(role)), &reports, (ctx.clock)()).await?;
        }
        Ok(())
    }

    /// It starts nothing and holds nothing.
    async fn abort(&self, _: &ModuleContext, _: Duration) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(available_bytes: u64) -> SpaceReport {
        SpaceReport {
            path: BytePath::from("/home"),
            fs_uuid: "u".into(),
            fs_type: "btrfs".into(),
            size_bytes: 100 << 30,
            data_free_bytes: 1 << 30,
            unallocated_bytes: 0,
            metadata_free_bytes: 5 << 20,
            metadata_copies: 2,
            available_bytes,
        }
    }

    #[test]
    fn a_shortage_names_machine_path_and_the_numbers_it_was_judged_by() {
        let host: Hostname = "desk".parse().unwrap();
        let text = shortage(&host, &report(1 << 30), Threshold::Share(0.2)).unwrap();
        assert_eq!(
            text,
            "desk: `/home` has 1.0 GiB free, 20.0 GiB wanted (data 1.0 GiB, unallocated 0 B, metadata 5.0 MiB)"
        );
        assert_eq!(shortage(&host, &report(20 << 30), Threshold::Share(0.2)), None);
    }
}
