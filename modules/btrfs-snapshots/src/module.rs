//! The bracket: a read-only set on each machine before the first change and after the last.

use std::time::Duration;

use async_trait::async_trait;
use pc_switcher_agent::proto::{Layout, LayoutRequest, TakeSet};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{
    BracketPhase, BytePath, LogLevel, Module, ModuleContext, ModuleError, ModuleName, Outcome, Plan, Problem,
    Role, Room, SnapshotKind, SnapshotSet, SubvolumeName, Threshold, UtcStamp, human_bytes,
};

use crate::config::BtrfsSnapshotsConfig;
use crate::prune::{self, Pruned};
use crate::thin::{self, Thinned, Wish};

/// How long a set may still take after a stop: less than a run waits for its modules, so that the other set can go.
const AFTER_STOP: Duration = Duration::from_secs(5);

/// One phase of the bracket. Invariant: a set is on the board only if every member of it was checked.
pub struct BtrfsSnapshots {
    name: ModuleName,
    config: BtrfsSnapshotsConfig,
    phase: BracketPhase,
}

impl BtrfsSnapshots {
    /// Makes the instance of one phase.
    pub fn new(config: BtrfsSnapshotsConfig, phase: BracketPhase) -> Self {
        Self { name: ModuleName::literal("btrfs-snapshots"), config, phase }
    }

    fn snapshot_dir(&self) -> BytePath {
        BytePath::from(self.config.snapshot_dir.as_path())
    }

    async fn layout(&self, ctx: &ModuleContext, role: Role) -> Result<Layout, ModuleError> {
        let request = LayoutRequest {
            folders: ctx.board.folders(),
            subvolumes: self.config.subvolumes.as_slice().to_vec(),
            snapshot_dir: self.snapshot_dir(),
            nested: ctx.board.nested().unwrap_or_default(),
        };
        Ok(Agent::new(ctx.agent(role)).layout(request).await?)
    }

    /// Returns what the set of that machine covers: the configured subvolumes and those that hold a folder.
    async fn subvolumes(&self, ctx: &ModuleContext, role: Role) -> Result<Vec<SubvolumeName>, ModuleError> {
        let layout = self.layout(ctx, role).await?;
        Ok(layout.subvolumes.into_iter().map(|fact| fact.name).collect())
    }

    async fn take(
        &self,
        ctx: &ModuleContext,
        role: Role,
        kind: SnapshotKind,
        stamp: UtcStamp,
    ) -> Result<Option<SnapshotSet>, ModuleError> {
        let subvolumes = self.subvolumes(ctx, role).await?;
        if subvolumes.is_empty() && has_parts_without(ctx, role) {
            return Ok(None);
        }
        let request = TakeSet {
            session: ctx.session.clone(),
            stamp,
            kind,
            snapshot_dir: self.snapshot_dir(),
            subvolumes,
        };
        let set = Agent::new(ctx.agent(role)).take_set(request).await?;
        if !set.consistent {
            let text = "the snapshots of this set were not taken in one instant; they are used nevertheless";
            ctx.reporter.log(LogLevel::Warning, &set.hostname, text);
        }
        Ok(Some(set))
    }

    /// Publishes what was taken, and says what it is and what was left out.
    fn outcome<const N: usize>(
        &self,
        ctx: &ModuleContext,
        taken: [(Role, Option<SnapshotSet>); N],
    ) -> Outcome {
        let roles = taken.each_ref().map(|(role, _)| *role);
        let mut words = Vec::new();
        for (role, set) in taken {
            if let Some(set) = set {
                self.publish(ctx, role, &set);
                words.push(describe(&set));
            }
        }
        let has_sets = !words.is_empty();
        words.extend(parts_without(ctx, &roles).into_iter().map(|(role, root, fs_type)| {
            let skipped = if has_sets { "SKIPPED on" } else { "on" };
            format!("{skipped} {}: `{root}` lies on {fs_type}", ctx.hostname(role))
        }));
        let text = words.join(", ");
        if has_sets { Outcome::Done(text) } else { Outcome::Skipped(text) }
    }

    fn publish(&self, ctx: &ModuleContext, role: Role, set: &SnapshotSet) {
        for member in &set.members {
            ctx.reporter.log(LogLevel::Full, &set.hostname, format!("snapshot `{}`", member.path));
        }
        ctx.reporter.snapshots(set.clone());
        ctx.board.add_set(role, set.clone());
    }

    /// Takes the pre sets of both machines at once. If one fails, or a machine does not come to an end after a stop, the
    /// other is removed again.
    async fn take_both(&self, ctx: &ModuleContext) -> Result<Outcome, ModuleError> {
        let stamp = UtcStamp::new((ctx.clock)());
        let take = |role| until_stopped(ctx, self.take(ctx, role, SnapshotKind::PreSync, stamp));
        let (source, target) = tokio::join!(take(Role::Source), take(Role::Target));
        match (source, target) {
            (Ok(source), Ok(target)) => {
                let sets = [(Role::Source, source), (Role::Target, target)];
                for (role, root, fs_type) in parts_without(ctx, &[Role::Source, Role::Target]) {
                    let text = format!("SKIPPED: no snapshot of `{root}`, which lies on {fs_type}");
                    ctx.reporter.log(LogLevel::Warning, ctx.hostname(role), text);
                }
                Ok(self.outcome(ctx, sets))
            }
            (Ok(Some(set)), Err(error)) => Err(self.undo(ctx, Role::Source, set, error).await),
            (Err(error), Ok(Some(set))) => Err(self.undo(ctx, Role::Target, set, error).await),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    /// Removes from one machine the sets that no rule keeps; whether it lives on its battery, and so keeps them for later.
    async fn prune(&self, ctx: &ModuleContext, role: Role) -> bool {
        let (agent, hostname) = (Agent::new(ctx.agent(role)), ctx.hostname(role));
        let log = |level, text: String| ctx.reporter.log(level, hostname, text);
        let judged = match prune::look(&agent, &self.config, (ctx.clock)()).await {
            Ok(judged) => judged,
            Err(error) => {
                log(LogLevel::Warning, format!("old snapshots are not removed: {error}"));
                return false;
            }
        };
        let Pruned { removed, left, later, on_battery } =
            prune::remove_by_itself(&agent, &self.config, &judged, &ctx.cancel).await;
        for id in &removed {
            log(LogLevel::Full, format!("set of snapshots `{id}` is removed: no rule of `keep` keeps it"));
        }
        if !removed.is_empty() {
            let plural = if removed.len() == 1 { "" } else { "s" };
            log(LogLevel::Info, format!("{} old set{plural} of snapshots removed", removed.len()));
        }
        if !later.is_empty() {
            let plural = if later.len() == 1 { "" } else { "s" };
            let text = match on_battery {
                true => format!(
                    "{} old set{plural} of snapshots go after a sync on mains power: the machine lives on its battery",
                    later.len()
                ),
                false => format!(
                    "{} more old set{plural} of snapshots go after the next sync: the disk has enough to clear away",
                    later.len()
                ),
            };
            log(LogLevel::Info, text);
        }
        for (id, why) in left {
            log(LogLevel::Warning, format!("set of snapshots `{id}` is not removed: {why}"));
        }
        on_battery
    }

    /// Removes from one machine what `keep_min` can spare, and says so.
    async fn thin(
        &self,
        ctx: &ModuleContext,
        role: Role,
        wish: Wish,
        level: LogLevel,
    ) -> Result<Thinned, ModuleError> {
        let (agent, hostname) = (Agent::new(ctx.agent(role)), ctx.hostname(role));
        let thinned = thin::thin(&agent, &self.config, (ctx.clock)(), wish, &ctx.cancel).await?;
        let Pruned { removed, left, .. } = &thinned.pruned;
        let log = |level, text: String| ctx.reporter.log(level, hostname, text);
        for id in removed {
            log(LogLevel::Full, format!("set of snapshots `{id}` is removed: space was short"));
        }
        if !removed.is_empty() {
            let plural = if removed.len() == 1 { "" } else { "s" };
            let now = human_bytes(thinned.available_bytes);
            let text = format!(
                "{} old set{plural} of snapshots removed to make room: {now} free now",
                removed.len()
            );
            log(level, text);
        }
        for (id, why) in left {
            log(LogLevel::Warning, format!("set of snapshots `{id}` is not removed: {why}"));
        }
        Ok(thinned)
    }

    /// After a sync: above the red line whatever `keep_min` can spare for it, above the yellow one a session at a time, which waits
    /// while the machine lives on its battery.
    async fn stay_above(&self, ctx: &ModuleContext, role: Role, on_battery: bool) {
        let red = ctx.board.reserve().map(Wish::for_enough);
        let yellow = ctx.board.min_free().filter(|_| !on_battery);
        let yellow = yellow.map(|line| Wish { at_most: 1, ..Wish::for_enough(line) });
        for wish in [red, yellow].into_iter().flatten() {
            if let Err(error) = self.thin(ctx, role, wish, LogLevel::Info).await {
                let text = format!("no room is made for the next sync: {error}");
                ctx.reporter.log(LogLevel::Warning, ctx.hostname(role), text);
                return;
            }
        }
    }

    async fn tidy_one(&self, ctx: &ModuleContext, role: Role) {
        let on_battery = self.prune(ctx, role).await;
        self.stay_above(ctx, role, on_battery).await;
    }

    async fn undo(
        &self,
        ctx: &ModuleContext,
        role: Role,
        set: SnapshotSet,
        error: ModuleError,
    ) -> ModuleError {
        let hostname = set.hostname.clone();
        if let Err(left) = Agent::new(ctx.agent(role)).drop_set(set).await {
            ctx.reporter.log(
                LogLevel::Warning,
                &hostname,
                format!("the set of the other machine stays: {left}"),
            );
        }
        error
    }
}

/// Waits for a set; after a stop only as long as one takes that nothing holds up.
async fn until_stopped(
    ctx: &ModuleContext,
    take: impl Future<Output = Result<Option<SnapshotSet>, ModuleError>>,
) -> Result<Option<SnapshotSet>, ModuleError> {
    let stopped = async {
        ctx.cancel.cancelled().await;
        tokio::time::sleep(AFTER_STOP).await;
    };
    tokio::select! {
        set = take => set,
        () = stopped => Err(ModuleError::cancelled()),
    }
}

/// Returns words for the report, for example `3 presync on laptop`.
fn describe(set: &SnapshotSet) -> String {
    format!("{} {} on {}", set.members.len(), set.kind.in_name(), set.hostname)
}

/// Returns the parts of folders on these machines that no set can hold.
fn parts_without(ctx: &ModuleContext, roles: &[Role]) -> Vec<(Role, BytePath, String)> {
    let mut parts = ctx.board.without_snapshots();
    parts.retain(|(role, ..)| roles.contains(role));
    parts
}

/// Whether this machine has parts without snapshots: a gate asks whether they may be synced.
fn has_parts_without(ctx: &ModuleContext, role: Role) -> bool {
    !parts_without(ctx, &[role]).is_empty()
}

/// Looks for what keeps a set from being taken on one machine.
fn problems_of(layout: &Layout, ctx: &ModuleContext, role: Role, snapshot_dir: &BytePath) -> Vec<Problem> {
    let hostname = ctx.hostname(role);
    let mut problems = Vec::new();
    let is_asked = has_parts_without(ctx, role);
    for name in &layout.missing_subvolumes {
        if is_asked {
            let text = format!("there is no subvolume `{name}`, so no snapshot of it is taken");
            ctx.reporter.log(LogLevel::Info, hostname, text);
            continue;
        }
        let known: Vec<String> = layout.known_subvolumes.iter().map(|known| format!("`{known}`")).collect();
        let hint = if known.is_empty() {
            "there is no mounted btrfs with top-level subvolumes".to_owned()
        } else {
            format!(
                "top-level subvolumes are {}; name them in [btrfs-snapshots] subvolumes",
                known.join(", ")
            )
        };
        let (text, hint) = if layout.known_subvolumes.contains(name) {
            (format!("the subvolume `{name}` is not mounted"), "mount it".to_owned())
        } else {
            (format!("there is no subvolume `{name}`"), hint)
        };
        problems.push(Problem::on(hostname, text).hint(hint));
    }
    if layout.snapshot_fs_uuid.is_empty() && !layout.subvolumes.is_empty() {
        let text = format!("the snapshot directory `{snapshot_dir}` does not lie on btrfs");
        problems.push(
            Problem::on(hostname, text).hint("set [btrfs-snapshots] snapshot_dir to a directory on btrfs"),
        );
    }
    for place in layout.others.iter().filter(|place| place.dir.is_none()) {
        for fact in layout.subvolumes.iter().filter(|fact| fact.fs_uuid == place.fs_uuid) {
            let text = format!(
                "`{}` lies on another file system than `{snapshot_dir}`, and there no subvolume `@snapshots` is mounted that would \
                 hold its snapshots",
                fact.name.shown()
            );
            problems.push(
                Problem::on(hostname, text).hint("`pc-switcher doctor` prints the commands that make one"),
            );
        }
    }
    for fact in &layout.doubled {
        let text = format!(
            "two subvolumes on two file systems are called `{}`, and a set names its members by that",
            fact.name.shown()
        );
        let hint = format!("give the one at `{}` another name, or unmount the other", fact.mount_point);
        problems.push(Problem::on(hostname, text).hint(hint));
    }
    problems
}

#[async_trait]
impl Module for BtrfsSnapshots {
    fn name(&self) -> &ModuleName {
        &self.name
    }

    /// On both machines, as far as that is enough.
    async fn make_room(&self, ctx: &ModuleContext, wanted: Threshold) -> Result<Room, ModuleError> {
        let thin = |role| self.thin(ctx, role, Wish::for_enough(wanted), LogLevel::Warning);
        let (source, target) = tokio::join!(thin(Role::Source), thin(Role::Target));
        let both = [source?, target?];
        let has_made = both.iter().any(|thinned| !thinned.pruned.removed.is_empty());
        Ok(match (has_made, both.iter().all(|thinned| thinned.is_enough)) {
            (false, _) => Room::Nothing,
            (true, false) => Room::Some,
            (true, true) => Room::Enough,
        })
    }

    async fn validate(&self, ctx: &ModuleContext) -> Result<Vec<Problem>, ModuleError> {
        if self.phase != BracketPhase::Pre {
            return Ok(Vec::new());
        }
        let (source, target) = tokio::join!(self.layout(ctx, Role::Source), self.layout(ctx, Role::Target));
        let dir = self.snapshot_dir();
        let mut problems = Vec::new();
        for (role, layout) in [(Role::Source, source?), (Role::Target, target?)] {
            problems.extend(problems_of(&layout, ctx, role, &dir));
            if problems.is_empty() && !layout.subvolumes.is_empty() && !layout.snapshot_dir_own_subvolume {
                let text = format!(
                    "`{dir}` is no top-level subvolume of its own: a later rollback of `@` would lose it"
                );
                ctx.reporter.log(LogLevel::Warning, ctx.hostname(role), text);
            }
        }
        Ok(problems)
    }

    async fn plan(&self, _: &ModuleContext) -> Result<Plan, ModuleError> {
        let names: Vec<&str> = self.config.subvolumes.as_slice().iter().map(SubvolumeName::as_str).collect();
        Ok(Plan {
            summary: format!("read-only snapshots of {} on both machines", names.join(", ")),
            ..Plan::default()
        })
    }

    async fn execute(&self, ctx: &ModuleContext) -> Result<Outcome, ModuleError> {
        match self.phase {
            BracketPhase::Pre => self.take_both(ctx).await,
            BracketPhase::Post(role) => {
                let stamp = UtcStamp::new((ctx.clock)());
                let set = self.take(ctx, role, SnapshotKind::PostSync, stamp).await?;
                Ok(self.outcome(ctx, [(role, set)]))
            }
        }
    }

    /// Asks each agent whether its sets are whole and never changed.
    async fn verify(&self, ctx: &ModuleContext) -> Result<Vec<Problem>, ModuleError> {
        let mut problems = Vec::new();
        for (role, set) in ctx.board.sets() {
            let hostname = set.hostname.clone();
            if let Err(why) = Agent::new(ctx.agent(role)).check_set(set).await? {
                problems.push(Problem::on(&hostname, why));
            }
        }
        Ok(problems)
    }

    /// Removes from both machines the sets that no rule keeps any more, and more where space is short.
    async fn tidy(&self, ctx: &ModuleContext) -> Result<(), ModuleError> {
        if self.phase == BracketPhase::Pre {
            tokio::join!(self.tidy_one(ctx, Role::Source), self.tidy_one(ctx, Role::Target));
        }
        Ok(())
    }

    /// A set is taken in milliseconds and the agent removes what is incomplete.
    async fn abort(&self, _: &ModuleContext, _: Duration) {}
}
