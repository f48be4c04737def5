//! Every written file, read back from the target's post set and held against what the source's pre set holds.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use pc_switcher_agent::proto::{ApplyReport, Body, Op, ReadWant};
use pc_switcher_contract::{BytePath, ModuleContext, ModuleError, Problem, Role};

use crate::parts::PartPair;
use crate::roots::Roots;
use crate::survey::digests;
use crate::transfer::Load;

/// So many files are compared at once: memory is bounded by it.
const BATCH: usize = 20_000;

/// What a run touched.
#[derive(Debug, Default)]
pub struct Written {
    /// The files that it wrote: per part's root, paths relative to it.
    files: BTreeMap<BytePath, Vec<BytePath>>,
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
            let files = load.steps.ops.iter().filter_map(|op| match op {
                Op::Put {
                    path, body: Body::File { .. } | Body::Patched { .. } | Body::Built { .. }, ..
                } => Some(path.clone()),
                _ => None,
            });
            written.files.insert(root.clone(), files.collect());
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

    /// Reads the files of one part on both machines; returns a problem for each that is not what was sent.
    ///
    /// # Errors
    /// If an agent fails or the run is stopped.
    pub async fn check(
        &self,
        ctx: &ModuleContext,
        root: &BytePath,
        roots: &Roots,
    ) -> Result<Vec<Problem>, ModuleError> {
        let mut problems = Vec::new();
        for batch in self.files.get(root).map(Vec::as_slice).unwrap_or_default().chunks(BATCH) {
            let want = |(at, path): (usize, &BytePath)| ReadWant { content: at as u32, path: path.clone() };
            let wants: Vec<ReadWant> = batch.iter().enumerate().map(want).collect();
            let (sent, arrived) = tokio::try_join!(
                digests(ctx, Role::Source, &roots.source, &wants),
                digests(ctx, Role::Target, &roots.target, &wants)
            )?;
            for want in &wants {
                let pair = (sent.get(&want.content), arrived.get(&want.content));
                if !matches!(pair, (Some(sent), Some(arrived)) if sent == arrived) {
                    let text =
                        format!("`{}` reads back other than it was sent", root.join(want.path.as_bytes()));
                    problems.push(Problem::on(&ctx.target.hostname, text));
                }
            }
        }
        Ok(problems)
    }
}
