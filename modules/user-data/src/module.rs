//! The module itself: validate, plan, execute, verify, in terms of the pure parts.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pc_switcher_agent::data::rules::Rules;
use pc_switcher_agent::proto::{Layout, LayoutRequest, RuleSet, Standing, UserFact};
use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{
    BytePath, ErrorKind, Hostname, LogLevel, Module, ModuleContext, ModuleError, ModuleName, Outcome,
    PairRecord, Plan, Problem, ProvenFile, Role, SnapshotKind,
};

use crate::config::{Compare, NestedPolicy, UserDataConfig};
use crate::fill::{Done, load, record_of};
use crate::guards::{self, Hosts};
use crate::mounts;
use crate::need::Need;
use crate::nested;
use crate::notes;
use crate::parts::{PartPair, pair_nested, pair_parts, relative};
use crate::people;
use crate::proven;
use crate::roots::{Roots, held_by, roots};
use crate::ruled;
use crate::rules::{rule_hash, rule_of_nested, rules_for};
use crate::said::{describe, plan_items, total};
use crate::survey::{Survey, survey};
use crate::told::Heard;
use crate::vital;
use crate::written::Written;

/// So many paths may change on the target during a sync before it counts as failed: the record of the pair names them.
const MEANWHILE: usize = 10_000;

/// Mirrors folders from the source's pre set to the target.
pub struct UserData {
    name: ModuleName,
    pub(crate) config: UserDataConfig,
    /// Directories of our own state and configuration on the source.
    own: Vec<BytePath>,
    /// What `execute` wrote, for `verify`.
    pub(crate) written: Mutex<Written>,
    /// What the source told, likewise.
    pub(crate) heard: Heard,
}

impl UserData {
    /// Makes the module. `own` are directories of our own state and configuration.
    pub fn new(config: UserDataConfig, own: Vec<BytePath>) -> Self {
        Self {
            name: ModuleName::literal("user-data"),
            config,
            own,
            written: Mutex::default(),
            heard: Heard::default(),
        }
    }

    fn folders(&self) -> Vec<BytePath> {
        self.config.folders.as_slice().iter().map(|folder| BytePath::from(folder.as_str())).collect()
    }

    /// Asks how the folders, and nested subvolumes at these roots, lie on the machine of that role.
    pub(crate) async fn layout(
        &self,
        ctx: &ModuleContext,
        role: Role,
        nested: &[BytePath],
    ) -> Result<Layout, ModuleError> {
        let request = LayoutRequest {
            folders: self.folders(),
            subvolumes: Vec::new(),
            snapshot_dir: BytePath::from("/"),
            nested: nested.to_vec(),
        };
        Ok(Agent::new(ctx.agent(role)).layout(request).await?)
    }

    async fn layouts(
        &self,
        ctx: &ModuleContext,
        nested: &[BytePath],
    ) -> Result<(Layout, Layout), ModuleError> {
        tokio::try_join!(self.layout(ctx, Role::Source, nested), self.layout(ctx, Role::Target, nested))
    }

    /// Returns the roots of nested subvolumes that this run follows. The first who asks decides it for the whole run, and names
    /// the others.
    async fn nested(
        &self,
        ctx: &ModuleContext,
        (source, target): (&Layout, &Layout),
        rules: impl Fn(&BytePath, &[BytePath]) -> RuleSet,
    ) -> Result<Vec<BytePath>, ModuleError> {
        if let Some(roots) = ctx.board.nested() {
            return Ok(roots);
        }
        let mut compiled = HashMap::new();
        for folder in self.folders() {
            let rules = Rules::compile(&rules(&folder, &[]), &BytePath::default());
            let rules =
                rules.map_err(|why| ModuleError::failed(format!("the rules of `{folder}`: {why}")))?;
            compiled.insert(folder, rules);
        }
        let is_out = |folder: &BytePath, path: &BytePath| {
            compiled.get(folder).is_some_and(|rules| ruled::is_left_out(rules, path.as_bytes(), true))
        };
        let follow = self.config.nested == NestedPolicy::Follow;
        let mut found = nested::candidates(source, target, follow, is_out);
        if !found.roots.is_empty() {
            let (source, target) = self.layouts(ctx, &found.roots).await?;
            let pair = ctx.board.pair();
            let was_followed = |root: &BytePath| {
                let root = root.to_string();
                pair.as_ref().is_some_and(|pair| pair.parts.iter().any(|then| then.root == root))
            };
            found = nested::judge(found, [&source, &target], was_followed);
        }
        notes::nested(ctx, &found.left);
        ctx.board.want_nested(found.roots.clone());
        Ok(found.roots)
    }

    /// Pairs the parts of both machines under the rules of this run.
    async fn parts(&self, ctx: &ModuleContext) -> Result<Result<Vec<PartPair>, Vec<Problem>>, ModuleError> {
        let (source, target) = (Agent::new(&ctx.source.agent), Agent::new(&ctx.target.agent));
        let known = ctx.board.nested().unwrap_or_default();
        let ((mut ours, mut theirs), source_facts, target_facts) =
            tokio::try_join!(self.layouts(ctx, &known), async { Ok(source.facts().await?) }, async {
                Ok(target.facts().await?)
            })?;
        for (hostname, layout) in [(&ctx.source.hostname, &ours), (&ctx.target.hostname, &theirs)] {
            notes::left_out(ctx, hostname, layout);
        }
        let mut users: Vec<UserFact> = source_facts.users.into_iter().chain(target_facts.users).collect();
        users.sort_by(|a, b| (&a.home, &a.name).cmp(&(&b.home, &b.name)));
        users.dedup();
        let rules = |folder: &BytePath, prefixes: &[BytePath]| {
            rules_for(&folder.to_string(), &self.config, &users, prefixes, &self.own)
        };
        let mut pairs = pair_parts((&ctx.source.hostname, &ours), (&ctx.target.hostname, &theirs), rules);
        if let Ok(pairs) = &mut pairs {
            let nested = self.nested(ctx, (&ours, &theirs), rules).await?;
            if nested != known {
                (ours, theirs) = self.layouts(ctx, &nested).await?;
            }
            let sets: Vec<_> = pairs.iter().map(|part| (part.root.to_string(), part.rules.clone())).collect();
            ctx.board.put_rule_hash(rule_hash(&sets));
            pairs.extend(pair_nested(&ours, &theirs, &nested, rules));
            leave_to_nested(pairs);
            let problems = mounts::leave_alone(ctx, pairs, [&ours, &theirs]);
            if !problems.is_empty() {
                return Ok(Err(problems));
            }
        }
        Ok(pairs)
    }

    async fn parts_or_fail(&self, ctx: &ModuleContext) -> Result<Vec<PartPair>, ModuleError> {
        self.parts(ctx).await?.map_err(|problems| {
            let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
            ModuleError::new(ErrorKind::Invalid, text.join("; "))
        })
    }

    /// Finds what every part needs. Contents are numbered through all parts.
    async fn surveys(
        &self,
        ctx: &ModuleContext,
        parts: &[PartPair],
        target_kind: SnapshotKind,
    ) -> Result<Vec<Survey>, ModuleError> {
        let content = self.config.compare == Compare::Content;
        let mut surveys: Vec<Survey> = Vec::new();
        let mut first = 0;
        for part in parts {
            let mut roots = roots(ctx, part, target_kind)?;
            if target_kind == SnapshotKind::PostSync {
                // The second look asks whether both are the same, not what happened since.
                roots.base = None;
                roots.before = None;
                roots.source_after = None;
                // Whoever works on the target meanwhile moves the times of directories, by excluded files too.
                roots.ignore_dir_times = true;
            }
            // A live source is looked at once: what was sent is read back, whatever it has become since.
            let verifies_live = target_kind == SnapshotKind::PostSync && part.is_live(Role::Source);
            let mut found = survey(ctx, part, &roots, content && !verifies_live, first, &self.heard).await?;
            first += found.steps.contents() as u32;
            // The subvolume itself.
            found.steps.stats.created += u64::from(part.is_missing(Role::Target));
            found.steps.stats.deleted += u64::from(part.is_missing(Role::Source));
            surveys.push(found);
        }
        Ok(surveys)
    }

    /// Leaves out parts for which the plan was empty and the target's post set is known to be just as its pre set, which that
    /// plan was made of: a second plan is made of the same, and is empty.
    async fn to_be_looked_at_again(
        &self,
        ctx: &ModuleContext,
        parts: Vec<PartPair>,
        written: &Written,
    ) -> Result<Vec<PartPair>, ModuleError> {
        let mut again = Vec::new();
        for part in parts {
            if part.is_live(Role::Target) || !written.had_nothing_for(&part.root) {
                again.push(part);
                continue;
            }
            // One that came with a directory is in the pre set under its old name.
            let Ok(Roots { target: before, .. }) = roots(ctx, &part, SnapshotKind::PreSync) else {
                again.push(part);
                continue;
            };
            let after = roots(ctx, &part, SnapshotKind::PostSync)?.target;
            if !Agent::new(&ctx.target.agent).unchanged(before, after).await? {
                again.push(part);
            }
        }
        Ok(again)
    }

    /// Asks whether parts without snapshots may be synced, after it has said what that means.
    async fn pass_without_snapshots(
        &self,
        ctx: &ModuleContext,
        parts: &[PartPair],
    ) -> Result<(), ModuleError> {
        let hosts = Hosts { source: &ctx.source.hostname, target: &ctx.target.hostname };
        let Some(gate) = guards::no_snapshots(hosts, parts) else { return Ok(()) };
        for line in guards::weaker_promises(hosts, parts) {
            ctx.reporter.log(LogLevel::Warning, hosts.source, line);
        }
        // Noted first: what no set can hold is this gate's matter, and no problem besides.
        for part in parts {
            for role in [Role::Source, Role::Target].into_iter().filter(|role| part.is_live(*role)) {
                let fs_type = part.end(role).fs_type.clone();
                ctx.board.add_without_snapshots(role, part.root.clone(), fs_type);
            }
        }
        ctx.gates.pass(gate).await.map(drop)
    }

    /// Asks at the gates that need no comparison.
    async fn pass_early_gates(&self, ctx: &ModuleContext) -> Result<(), ModuleError> {
        let hosts = Hosts { source: &ctx.source.hostname, target: &ctx.target.hostname };
        let target = Agent::new(&ctx.target.agent);
        let (facts, diagnosis) = tokio::try_join!(target.facts(), target.diagnose())?;
        if let Some(gate) = people::active_session(hosts, &self.folders(), &diagnosis, &facts.users) {
            ctx.gates.pass(gate).await?;
        }
        Ok(())
    }

    /// Names programs of the target that write to what this plan replaces, and virtual machines of the source that run on what
    /// it sends.
    async fn writers(
        &self,
        ctx: &ModuleContext,
        parts: &[PartPair],
        surveys: &[Survey],
    ) -> Result<Vec<(Hostname, String)>, ModuleError> {
        if surveys.iter().all(|survey| survey.steps.ops.is_empty()) {
            return Ok(Vec::new());
        }
        let both: Vec<(&PartPair, &Survey)> = parts.iter().zip(surveys).collect();
        let [source, target] = [Agent::new(&ctx.source.agent), Agent::new(&ctx.target.agent)];
        let (ours, theirs) =
            tokio::try_join!(source.writers(self.folders()), target.writers(self.folders()))?;
        let said = |hostname: &Hostname, lines: Vec<String>| {
            lines.into_iter().map(|line| (hostname.clone(), line)).collect::<Vec<_>>()
        };
        let mut lines = said(&ctx.target.hostname, people::writers_of(&theirs, &both));
        lines.extend(said(&ctx.source.hostname, people::running_on(&ours, &both)));
        Ok(lines)
    }

    /// Asks at every gate that this plan meets.
    async fn pass_gates(
        &self,
        ctx: &ModuleContext,
        parts: &[PartPair],
        surveys: &[Survey],
    ) -> Result<(), ModuleError> {
        let hosts = Hosts { source: &ctx.source.hostname, target: &ctx.target.hostname };
        let both: Vec<(&PartPair, &Survey)> = parts.iter().zip(surveys).collect();
        let pair = ctx.board.pair();
        let end = pair.as_ref().and_then(|pair| {
            [&pair.source, &pair.target].into_iter().find(|end| end.hostname.same_machine(hosts.source))
        });
        let target_end = pair.as_ref().and_then(|pair| {
            [&pair.source, &pair.target].into_iter().find(|end| end.hostname.same_machine(hosts.target))
        });
        if let (Some(pair), Some(target_end)) = (&pair, target_end) {
            // Where the rules of then are known, what they left out is a matter of conflicts, path by path.
            let changed = ctx.board.rule_hash().as_deref() != Some(pair.rule_hash.as_str())
                && parts
                    .iter()
                    .any(|part| !part.is_nested && ruled::then(pair, part, hosts.target).is_none());
            let new = parts.iter().filter(|part| !part.is_nested && !held_by(target_end, part));
            let without: Vec<BytePath> = new.map(|part| part.root.clone()).collect();
            if let Some(gate) = guards::new_paths(hosts, changed, &without) {
                ctx.gates.pass(gate).await?;
            }
        }
        let (ours, theirs) =
            tokio::try_join!(async { Agent::new(&ctx.source.agent).facts().await }, async {
                Agent::new(&ctx.target.agent).facts().await
            })?;
        let logins = Agent::new(&ctx.target.agent).diagnose().await?.logins;
        if let Some(gate) = people::lock_out(hosts, &logins, &both) {
            ctx.gates.pass(gate).await?;
        }
        if let Some(gate) = guards::lost_vaults(hosts, &both) {
            ctx.gates.pass(gate).await?;
        }
        if let Some(gate) = guards::id_mismatch(hosts, &self.folders(), &ours.users, &theirs.users) {
            ctx.gates.pass(gate).await?;
        }
        for part in parts {
            let then = pair.as_ref().and_then(|pair| places_then(hosts, pair, part));
            if let Some(gate) = guards::replaced_source(hosts, part, end, then) {
                ctx.gates.pass(gate).await?;
            }
        }
        if let Some(gate) = guards::lost_homes(hosts, &theirs.users, &both) {
            ctx.gates.pass(gate).await?;
        }
        for folder in self.folders() {
            if let Some(gate) = guards::mass_deletion(hosts, &self.config, &folder, &both) {
                ctx.gates.pass(gate).await?;
            }
        }
        let now = (ctx.clock)().as_second();
        if let Some(gate) = guards::conflicts(hosts, &both, now) {
            for line in guards::conflict_lines(hosts, &both, now) {
                ctx.reporter.log(LogLevel::Full, hosts.target, format!("conflict: {line}"));
            }
            ctx.gates.pass(gate).await?;
            self.say_where_losers_are(ctx, &both);
        }
        Ok(())
    }

    /// Says where the target's version of every conflict can be found.
    fn say_where_losers_are(&self, ctx: &ModuleContext, both: &[(&PartPair, &Survey)]) {
        let Some(set) = ctx.board.set(Role::Target, SnapshotKind::PreSync) else { return };
        for (part, survey) in both {
            let member = part.target.subvolume.as_ref().and_then(|name| set.member(name));
            let Some(member) = member else { continue };
            for conflict in survey.conflicts.iter().filter(|conflict| conflict.theirs.is_some()) {
                let kept = member.path.join(part.target.inside.as_bytes()).join(conflict.stands.as_bytes());
                let path = part.root.join(conflict.path.as_bytes());
                let text = format!("`{path}`: the version of {} is kept as `{kept}`", ctx.target.hostname);
                ctx.reporter.log(LogLevel::Info, &ctx.target.hostname, text.clone());
                ctx.board.add_conflict(text);
            }
        }
    }

    /// Refuses a plan that the target's disk cannot hold.
    async fn forecast(
        &self,
        ctx: &ModuleContext,
        parts: &[PartPair],
        surveys: &[Survey],
    ) -> Result<(), ModuleError> {
        let there = parts.iter().filter(|part| !part.is_missing(Role::Target));
        let roots: Vec<BytePath> = there.map(|part| part.root.clone()).collect();
        let reports = Agent::new(&ctx.target.agent).space(roots).await?;
        for report in reports {
            let on_it = parts.iter().zip(surveys).filter(|(part, _)| part.target.fs_uuid == report.fs_uuid);
            let (mut need, mut entries) = (Need::default(), 0);
            for (_, survey) in on_it {
                need.add(survey.steps.need);
                entries += survey.target_entries;
            }
            let reserve = ctx.board.reserve().map_or(0, |reserve| reserve.bytes_of(report.size_bytes));
            if let Some(text) = need.shortage(entries, &report, reserve) {
                let text = format!("{}: {text}", ctx.target.hostname);
                return Err(ModuleError::new(ErrorKind::DiskSpace, text)
                    .hint(format!(
                        "free space there; `sudo btrfs balance start -dusage=50 {}` gives back what data does not fill",
                        report.path
                    ))
                    .hint("or leave something out with [user-data] exclude"));
            }
        }
        Ok(())
    }
}

/// Tells the part around which nested subvolumes go, and keeps what one machine has in a directory, and the other in a nested
/// subvolume, out of it. That rule comes and goes with the subvolume, so it does not belong to the rules of which the record keeps a digest either.
fn leave_to_nested(parts: &mut [PartPair]) {
    let nested: Vec<PartPair> = parts.iter().filter(|part| part.is_nested).cloned().collect();
    for inner in nested {
        let around =
            parts.iter_mut().filter(|part| inner.root != part.root && inner.root.is_within(&part.root));
        let Some(part) = around.max_by_key(|part| part.root.as_bytes().len()) else { continue };
        let inside = relative(&inner.root, &part.root);
        if inner.is_mixed() {
            part.rules.forced.extend(rule_of_nested(&part.folder, &inner.root));
            part.is_torn |= inner.is_torn;
        } else if inner.is_missing(Role::Source) {
            part.leaving.push(inside);
        } else if inner.target.standing == Standing::File {
            part.coming.push(inside);
        }
    }
}

/// Returns where a part lay at the last sync, on the machines that are source and target now.
fn places_then<'a>(hosts: Hosts, pair: &'a PairRecord, part: &PartPair) -> Option<[&'a (String, String); 2]> {
    let root = part.root.to_string();
    let then = pair.parts.iter().find(|then| then.root == root)?;
    let is_same_way = pair.source.hostname.same_machine(hosts.source);
    Some(if is_same_way { [&then.source, &then.target] } else { [&then.target, &then.source] })
}

#[async_trait]
impl Module for UserData {
    fn name(&self) -> &ModuleName {
        &self.name
    }

    async fn validate(&self, ctx: &ModuleContext) -> Result<Vec<Problem>, ModuleError> {
        ctx.board.want_folders(self.folders());
        match self.parts(ctx).await? {
            Err(problems) => Ok(problems),
            Ok(parts) => self.pass_without_snapshots(ctx, &parts).await.map(|()| Vec::new()),
        }
    }

    async fn plan(&self, ctx: &ModuleContext) -> Result<Plan, ModuleError> {
        let parts = self.parts_or_fail(ctx).await?;
        self.pass_early_gates(ctx).await?;
        let surveys = self.surveys(ctx, &parts, SnapshotKind::PreSync).await?;
        self.pass_gates(ctx, &parts, &surveys).await?;
        let stats = total(&surveys);
        let counts = [
            ("create", stats.created),
            ("update", stats.updated),
            ("metadata", stats.metadata),
            ("move", stats.moved),
            ("delete", stats.deleted),
            ("conflict", surveys.iter().map(|survey| survey.conflicts.len() as u64).sum()),
        ];
        let items = parts.iter().zip(&surveys).flat_map(|(part, survey)| plan_items(part, survey)).collect();
        let writers = self.writers(ctx, &parts, &surveys).await?;
        let mut warnings: Vec<String> =
            writers.into_iter().map(|(hostname, line)| format!("{hostname}: {line}")).collect();
        for (part, survey) in parts.iter().zip(&surveys) {
            for path in survey.steps.kept.iter().chain(&survey.steps.blocked) {
                warnings.push(format!(
                    "`{}` stays: it holds files that are not mirrored",
                    part.root.join(path.as_bytes())
                ));
            }
        }
        Ok(Plan {
            summary: describe(stats),
            counts: counts.map(|(word, count)| (word.to_owned(), count)).to_vec(),
            bytes: stats.bytes,
            items,
            warnings,
        })
    }

    async fn execute(&self, ctx: &ModuleContext) -> Result<Outcome, ModuleError> {
        let parts = self.parts_or_fail(ctx).await?;
        self.pass_early_gates(ctx).await?;
        ctx.reporter.stage("compare");
        let surveys = self.surveys(ctx, &parts, SnapshotKind::PreSync).await?;
        for (part, survey) in parts.iter().zip(&surveys) {
            notes::kept(ctx, part, survey);
            let missed = survey.left_alone.iter().filter(|left| left.is_missed).count();
            ctx.board.add_left(survey.steps.blocked.len() + survey.steps.kept.len() + missed);
        }
        self.pass_gates(ctx, &parts, &surveys).await?;
        for (part, survey) in parts.iter().zip(&surveys) {
            if !part.is_missing(Role::Source) && !part.is_missing(Role::Target) {
                ctx.board.put_part(record_of(part, survey.source_entries));
            }
            notes::apart(ctx, part, survey);
            notes::lacked(ctx, survey);
        }
        let mut stats = total(&surveys);
        if stats.is_empty() && surveys.iter().all(|survey| survey.steps.ops.is_empty()) {
            *self.written.lock().unwrap_or_else(PoisonError::into_inner) = Written::nothing(&parts);
            ctx.board.note_idle(&self.name);
            return Ok(Outcome::Done(describe(stats)));
        }
        self.forecast(ctx, &parts, &surveys).await?;
        for (hostname, line) in self.writers(ctx, &parts, &surveys).await? {
            ctx.reporter.log(LogLevel::Warning, &hostname, line);
        }
        vital::forewarn(ctx, &parts, &surveys).await?;
        ctx.reporter.log(LogLevel::Info, &ctx.target.hostname, describe(stats));
        let (mut loads, mut gone, mut coming) = (Vec::new(), Vec::new(), Vec::new());
        for (part, survey) in parts.into_iter().zip(surveys) {
            if part.is_missing(Role::Target) {
                coming.push(part);
                continue;
            }
            let load = load(ctx, part, survey)?;
            match load.part.is_missing(Role::Source) {
                true => gone.push(load),
                false => loads.push(load),
            }
        }
        let mut done = Done::default();
        self.empty(ctx, gone, &mut done).await?;
        done.add(self.bring(ctx, loads).await?);
        self.fill(ctx, coming, &mut done).await?;
        stats.bytes = stats.bytes.saturating_sub(done.same_bytes);
        let mut text = describe(stats);
        if done.conflicts > 0 {
            text = format!("{text}; {} left as they are", done.conflicts);
        }
        if done.unsent > 0 {
            text = format!("{text}; {} left for the next sync", done.unsent);
        }
        Ok(Outcome::Done(text))
    }

    /// The source's pre set against the target's post set: a second plan must be empty, and what was written must read back
    /// as it was sent.
    async fn verify(&self, ctx: &ModuleContext) -> Result<Vec<Problem>, ModuleError> {
        let written = std::mem::take(&mut *self.written.lock().unwrap_or_else(PoisonError::into_inner));
        let mut parts = self.parts_or_fail(ctx).await?;
        // What could not be made or removed was named.
        parts.retain(|part| ![Role::Source, Role::Target].into_iter().any(|role| part.is_missing(role)));
        let all = parts.clone();
        let parts = self.to_be_looked_at_again(ctx, parts, &written).await?;
        // Neither needs the other, and each waits for disks.
        let (surveys, checked) = tokio::try_join!(
            self.surveys(ctx, &parts, SnapshotKind::PostSync),
            written.check_all(ctx, &parts)
        )?;
        let mut problems = Vec::new();
        let mut meanwhile = Vec::new();
        for (part, survey) in parts.iter().zip(&surveys) {
            notes::apart(ctx, part, survey);
            for path in survey.steps.differing() {
                let whole = part.root.join(path.as_bytes());
                if written.has_left(&part.root, path) {
                    continue;
                }
                if !written.has_planned(&part.root, path) && meanwhile.len() < MEANWHILE {
                    meanwhile.push(whole);
                } else if problems.len() < notes::NAMED {
                    problems.push(Problem::on(&ctx.target.hostname, format!("`{whole}` still differs")));
                }
            }
        }
        // Said whatever else is wrong: who worked there wants to know.
        notes::meanwhile(ctx, meanwhile);
        if problems.is_empty() {
            let (mut fresh, mut by_ranges) = (HashSet::new(), 0);
            for checked in checked {
                problems.extend(checked.problems);
                by_ranges += checked.by_ranges;
                let whole_path = |file: &ProvenFile| file.root.join(file.path.as_bytes());
                fresh.extend(checked.proven.iter().map(whole_path));
                ctx.board.add_proven(checked.proven);
            }
            if problems.is_empty() && written.count() > 0 {
                let some = match by_ranges {
                    0 => String::new(),
                    some => format!(", of {some} what changed in them"),
                };
                ctx.board.add_check(format!(
                    "{} written files read back from {} as they were sent{some}",
                    written.count(),
                    ctx.target.hostname
                ));
            }
            for part in all.iter().filter(|_| problems.is_empty()) {
                ctx.board.add_proven(proven::carry(ctx, part, &fresh).await?);
            }
        }
        Ok(problems)
    }

    /// Calls end with the futures that made them, and the agents remove what was staged.
    async fn abort(&self, _: &ModuleContext, _: Duration) {}
}
