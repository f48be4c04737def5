//! Every written file, read back from the target's post set and held against what the source's pre set holds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use pc_switcher_agent::proto::{ApplyReport, Body, Op, ReadWant};
use pc_switcher_contract::{
    BytePath, LogLevel, ModuleContext, ModuleError, Problem, ProvenFile, Role, SnapshotKind,
};

use crate::parts::PartPair;
use crate::proven::{self, Patched};
use crate::roots::{Roots, roots};
use crate::survey::digests;
use crate::transfer::Load;

/// So many files are compared at once: memory is bounded by it.
const BATCH: usize = 20_000;

/// What a run touched.
#[derive(Debug, Default)]
pub struct Written {
    /// The files that it wrote: per part's root, paths relative to it.
    files: BTreeMap<BytePath, Vec<BytePath>>,
    /// The sizes of those that are large, and lie in snapshots on both machines.
    large: BTreeMap<BytePath, HashMap<BytePath, u64>>,
    /// Those of which only what changed was sent and read.
    patched: BTreeMap<BytePath, Patched>,
    /// Every path of its plan, as a hash: there may be millions.
    planned: HashSet<u64>,
    /// What of it was left for the next sync, likewise.
    left: HashSet<u64>,
    /// Parts for which the plan was made and is empty.
    nothing: HashSet<BytePath>,
}

fn hash(root: &BytePath, path: &BytePath) -> u64 {
    let mut hasher = DefaultHasher::new();
    (root.as_bytes(), path.as_bytes()).hash(&mut hasher);
    hasher.finish()
}

impl Written {
    /// Notes what is going to be written.
    pub fn planned(loads: &[Load]) -> Self {
        let mut written = Self::default();
        for load in loads {
            let root = &load.part.root;
            written.planned.extend(load.steps.differing().map(|path| hash(root, path)));
            let files = || load.steps.ops.iter().filter_map(file);
            written.files.insert(root.clone(), files().map(|(path, ..)| path.clone()).collect());
            if ![Role::Source, Role::Target].into_iter().any(|role| load.part.is_live(role)) {
                let large = files().filter(|(_, size, _)| *size >= ProvenFile::LARGE);
                let large = large.map(|(path, size, _)| (path.clone(), size)).collect();
                written.large.insert(root.clone(), large);
            }
            if let Some(source_base) = &load.source_base {
                let patched = files().filter(|(.., body)| matches!(body, Body::Proven { .. }));
                let paths = patched.map(|(path, ..)| path.clone()).collect();
                let (source_base, target_pre) = (source_base.clone(), load.target_root.clone());
                written.patched.insert(root.clone(), Patched { source_base, target_pre, paths });
            }
            if load.steps.ops.is_empty() {
                written.nothing.insert(root.clone());
            }
        }
        written
    }

    /// Adds what was planned later.
    pub fn absorb(&mut self, other: Self) {
        self.nothing.extend(other.nothing);
        self.files.extend(other.files);
        self.large.extend(other.large);
        self.patched.extend(other.patched);
        self.planned.extend(other.planned);
        self.left.extend(other.left);
    }

    /// Notes that there was nothing to do.
    pub fn nothing(parts: &[PartPair]) -> Self {
        Self { nothing: parts.iter().map(|part| part.root.clone()).collect(), ..Self::default() }
    }

    /// Whether there was nothing to do in this part.
    pub fn had_nothing_for(&self, root: &BytePath) -> bool {
        self.nothing.contains(root)
    }

    /// Whether the plan was to change this path.
    pub fn has_planned(&self, root: &BytePath, path: &BytePath) -> bool {
        self.planned.contains(&hash(root, path))
    }

    /// Whether this path was planned and is left for the next sync.
    pub fn has_left(&self, root: &BytePath, path: &BytePath) -> bool {
        self.left.contains(&hash(root, path))
    }

    /// Leaves out what was not sent.
    #[must_use]
    pub fn without(mut self, unsent: &[(BytePath, BytePath)]) -> Self {
        self.left.extend(unsent.iter().map(|(root, path)| hash(root, path)));
        if !unsent.is_empty() {
            for (root, paths) in &mut self.files {
                paths.retain(|path| !self.left.contains(&hash(root, path)));
            }
        }
        self
    }

    /// Leaves out what the commit left as it was.
    #[must_use]
    pub fn without_conflicts(mut self, report: &ApplyReport) -> Self {
        let left: HashSet<&BytePath> = report.conflicts.iter().map(|conflict| &conflict.path).collect();
        if !left.is_empty() {
            for (root, paths) in &mut self.files {
                paths.retain(|path| !left.contains(&root.join(path.as_bytes())));
            }
        }
        self
    }

    /// Returns how many there are.
    pub fn count(&self) -> usize {
        self.files.values().map(Vec::len).sum()
    }

    /// Holds the files of all parts on both machines against one another: the source's pre set against the target's post set.
    ///
    /// # Errors
    /// If an agent fails or the run is stopped.
    pub async fn check_all(
        &self,
        ctx: &ModuleContext,
        parts: &[PartPair],
    ) -> Result<Vec<Checked>, ModuleError> {
        let mut all = Vec::with_capacity(parts.len());
        for part in parts {
            let roots = roots(ctx, part, SnapshotKind::PostSync)?;
            all.push(self.check(ctx, &part.root, &roots).await?);
        }
        Ok(all)
    }

    /// Does so for one part.
    async fn check(
        &self,
        ctx: &ModuleContext,
        root: &BytePath,
        roots: &Roots,
    ) -> Result<Checked, ModuleError> {
        let mut checked = Checked::default();
        let (mut whole, now) = (0, (ctx.clock)().as_second());
        for batch in self.files.get(root).map(Vec::as_slice).unwrap_or_default().chunks(BATCH) {
            let by_ranges = match self.patched.get(root) {
                Some(patched) => proven::reread(ctx, roots, patched, batch).await?,
                None => HashSet::new(),
            };
            checked.by_ranges += by_ranges.len();
            checked.proven.extend(by_ranges.iter().filter_map(|path| {
                let then = ctx.board.proven_then();
                let then = then.iter().find(|then| (&then.root, &then.path) == (root, path))?;
                self.proven(root, path, then.patches + 1, then.whole)
            }));
            let others = batch.iter().filter(|path| !by_ranges.contains(*path));
            let want = |(content, path): (u32, &BytePath)| ReadWant { content, path: path.clone() };
            let wants: Vec<ReadWant> = (0..).zip(others).map(want).collect();
            let (sent, arrived) = tokio::try_join!(
                digests(ctx, Role::Source, &roots.source, &wants),
                digests(ctx, Role::Target, &roots.target, &wants)
            )?;
            whole += wants.len();
            for want in &wants {
                let pair = (sent.get(&want.content), arrived.get(&want.content));
                if matches!(pair, (Some(sent), Some(arrived)) if sent == arrived) {
                    checked.proven.extend(self.proven(root, &want.path, 0, now));
                } else {
                    let text =
                        format!("`{}` reads back other than it was sent", root.join(want.path.as_bytes()));
                    checked.problems.push(Problem::on(&ctx.target.hostname, text));
                }
            }
        }
        if whole + checked.by_ranges > 0 {
            let text = format!(
                "of what was written below `{root}`, {whole} were compared whole, {} by what changed in them",
                checked.by_ranges
            );
            ctx.reporter.log(LogLevel::Full, &ctx.target.hostname, text);
        }
        Ok(checked)
    }

    /// Returns what is kept of a file that is the same on both machines, if it is large.
    fn proven(&self, root: &BytePath, path: &BytePath, patches: u32, whole: i64) -> Option<ProvenFile> {
        let size = *self.large.get(root)?.get(path)?;
        Some(ProvenFile { root: root.clone(), path: path.clone(), size, patches, whole })
    }
}

/// What came of a check.
#[derive(Debug, Default)]
pub struct Checked {
    /// One for each file that is not what was sent.
    pub problems: Vec<Problem>,
    /// The large files that are.
    pub proven: Vec<ProvenFile>,
    /// How many files were proven by what changed in them and where the rest lies.
    pub by_ranges: usize,
}

/// Returns path, size and body of a file that a step writes.
fn file(op: &Op) -> Option<(&BytePath, u64, &Body)> {
    match op {
        Op::Put { path, body, .. } => size(body).map(|size| (path, size, body)),
        _ => None,
    }
}

/// Returns the size of what is a file.
fn size(body: &Body) -> Option<u64> {
    match body {
        Body::File { size, .. }
        | Body::Patched { size, .. }
        | Body::Built { size, .. }
        | Body::Proven { size, .. } => Some(*size),
        Body::Dir | Body::Bare | Body::Symlink(_) | Body::Fifo => None,
    }
}
