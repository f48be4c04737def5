//! Moves content from the source's agent to the target's and lets the target commit.

mod content;
mod pace;
mod packing;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use pc_switcher_agent::data::apply::undo_of;
use pc_switcher_agent::proto::{ApplyNews, ApplyReport, ApplyRequest, Op, PartRoot, StreamFrame, encode};
use pc_switcher_agent::typed::{Agent, ApplySink, ApplyStream, Applying};
use pc_switcher_contract::{
    BytePath, ExecError, Fraction, LogLevel, ModuleContext, ModuleError, Progress, Role, SnapshotKind,
};

use crate::config::Compress;
use crate::full::Places;
use crate::notes;
use crate::parts::PartPair;
use crate::steps::Steps;

use content::{send_built, send_content, send_patches, send_rough};
use packing::Packing;

pub use packing::PackedBytes;

/// Share of the module's work that is done when the transfer begins, and when it ends.
const TRANSFER: (f64, f64) = (0.15, 0.95);

/// Steps of one frame, at most.
const STEPS: usize = 500;
/// Bytes of one frame after which another begins: it stays below the largest frame.
const LONG: usize = 256 << 10;

/// One part to move.
pub struct Load {
    /// Where it lies.
    pub part: PartPair,
    /// Where the source's snapshot of it lies.
    pub source_root: BytePath,
    /// Where the source has the versions that files are patched from.
    pub source_base: Option<BytePath>,
    /// Where the target's files lie as they were planned with.
    pub target_root: BytePath,
    /// What to do.
    pub steps: Steps,
    /// Paths where a version of the target loses that nobody has asked it to lose.
    pub conflicts: HashSet<BytePath>,
}

/// What went over.
pub struct Transferred {
    /// What the commit did.
    pub report: ApplyReport,
    /// Paths that were left out, by part's root and path in it: they changed on the source while they were read.
    pub unsent: Vec<(BytePath, BytePath)>,
    /// Where conflicts keep the target's version, if it is in no snapshot: absolute paths and places.
    pub losers: Vec<(BytePath, BytePath)>,
    /// Bytes that were planned and need not be sent: the target had the same there.
    pub same_bytes: u64,
    /// What was compressed on its way, if anything was.
    pub packed: Option<PackedBytes>,
}

/// What was sent, when all was.
struct Sent {
    sink: ApplySink,
    ops: u64,
    contents: u64,
    unsent: Vec<(BytePath, BytePath)>,
    losers: Vec<(BytePath, BytePath)>,
    same_bytes: u64,
    packed: Option<PackedBytes>,
}

/// Counts what went over and reports it at most four times a second.
struct Meter<'a> {
    ctx: &'a ModuleContext,
    total: u64,
    done: u64,
    same_bytes: u64,
    /// What `chattr` protects on the source.
    frozen: Vec<BytePath>,
    packing: Packing,
    began: Instant,
    last: Option<Instant>,
}

impl Meter<'_> {
    /// Passes content on, compressed if that helps, and counts it.
    async fn pass(&mut self, sink: &mut ApplySink, frame: Vec<u8>, item: &str) -> Result<(), Broken> {
        let bytes = StreamFrame::plain_len(&frame);
        up(sink, self.packing.pack(frame).await).await?;
        self.add(bytes, item);
        Ok(())
    }

    fn add(&mut self, bytes: u64, item: &str) {
        self.done += bytes;
        if self.last.is_some_and(|last| last.elapsed() < Duration::from_millis(250)) {
            return;
        }
        self.last = Some(Instant::now());
        let share = Fraction::of(self.done, self.total).get();
        let spent = self.began.elapsed().as_secs_f64();
        let eta = (share > 0.01).then(|| Duration::from_secs_f64(spent * (1.0 - share) / share));
        self.ctx.reporter.progress(Progress {
            fraction: Fraction::new(TRANSFER.0 + share * (TRANSFER.1 - TRANSFER.0)),
            item: item.to_owned(),
            eta,
            bytes: Some((self.done.min(self.total), self.total)),
        });
    }
}

/// Stages everything on the target, then commits. Until the commit is asked for, dropping this leaves nothing behind;
/// after that the target finishes by itself.
///
/// # Errors
/// If a file cannot be read, the disk is full, or an agent is lost.
pub async fn transfer(
    ctx: &ModuleContext,
    loads: Vec<Load>,
    compress: Compress,
) -> Result<Transferred, ModuleError> {
    let parts = loads
        .iter()
        .map(|load| PartRoot {
            root: load.part.root.clone(),
            subvolume_uuid: load.part.target.subvolume_uuid.clone(),
        })
        .collect();
    let pre_set = ctx.board.set(Role::Target, SnapshotKind::PreSync);
    let places = Places::of(&ctx.target.hostname, &loads);
    let request = ApplyRequest { session: ctx.session.clone(), parts, pre_set };
    let (sink, mut stream) = Agent::new(&ctx.target.agent).apply(request).await?;
    ctx.reporter.stage("stage");
    let sent = {
        let send = send_all(ctx, loads, sink, compress);
        tokio::pin!(send);
        loop {
            tokio::select! {
                biased;
                () = ctx.cancel.cancelled() => return Err(ModuleError::cancelled()),
                news = stream.next() => match news.map_err(|error| places.ended_early(error))? {
                    Applying::News(_) => {}
                    Applying::Report(_) => return Err(ModuleError::failed("the target committed what was not sent whole")),
                },
                sent = &mut send => break sent,
            }
        }
    };
    let asked = async {
        let Sent { mut sink, ops, contents, unsent, losers, same_bytes, packed } = sent?;
        ctx.reporter.stage("commit");
        ctx.board.set_commit_pending(true);
        up(&mut sink, encode(&StreamFrame::Commit { ops, contents })).await?;
        sink.finish().await?;
        Ok((ops, unsent, losers, same_bytes, packed))
    };
    match asked.await {
        Ok((ops, unsent, losers, same_bytes, packed)) => {
            let report = committed(ctx, &mut stream, ops, &places).await?;
            Ok(Transferred { report, unsent, losers, same_bytes, packed })
        }
        // The target ended the call: its own words say why.
        Err(Broken::Sink) => match stream.next().await {
            Err(error) => Err(places.ended_early(error)),
            Ok(_) => Err(ModuleError::failed(format!("{}: the transfer ended early", ctx.target.hostname))),
        },
        Err(Broken::Other(error)) => Err(error),
    }
}

enum Broken {
    Sink,
    Other(ModuleError),
}

impl From<ExecError> for Broken {
    fn from(error: ExecError) -> Self {
        Broken::Other(error.into())
    }
}

async fn up(sink: &mut ApplySink, frame: Vec<u8>) -> Result<(), Broken> {
    sink.send_raw(frame).await.map_err(|error| match error {
        ExecError::Cancelled => Broken::Sink,
        other => Broken::Other(other.into()),
    })
}

/// Sends all steps, then all content. Content of live trees goes first: only then it is known which steps there are.
async fn send_all(
    ctx: &ModuleContext,
    mut loads: Vec<Load>,
    mut sink: ApplySink,
    compress: Compress,
) -> Result<Sent, Broken> {
    let total: u64 = loads.iter().map(|load| load.steps.stats.bytes).sum();
    let packing = Packing::new(compress, &ctx.target.agent);
    let (began, frozen) = (Instant::now(), Vec::new());
    let mut meter = Meter { ctx, total, done: 0, same_bytes: 0, frozen, packing, began, last: None };
    let (mut unsent, mut losers) = (Vec::new(), Vec::new());
    for (index, load) in loads.iter().enumerate() {
        if let Some(root) = sealed(load) {
            up(&mut sink, encode(&StreamFrame::Sealed { part: index as u16, root })).await?;
        }
    }
    for (index, load) in loads.iter_mut().enumerate().filter(|(_, load)| load.part.is_live(Role::Source)) {
        if load.steps.wants.is_empty() && load.steps.rough.is_empty() {
            continue;
        }
        up(&mut sink, encode(&StreamFrame::Ahead { part: index as u16 })).await?;
        let mut left = send_content(ctx, &mut sink, &mut meter, load).await?;
        left.extend(send_rough(ctx, &mut sink, &mut meter, load).await?);
        let left = load.steps.leave_out(&left).into_iter();
        unsent.extend(left.map(|path| (load.part.root.clone(), path)));
    }
    let (mut ops, mut contents) = (0, 0);
    for (index, load) in loads.iter_mut().enumerate() {
        losers.extend(losers_of(ctx, load, ops));
        let steps = std::mem::take(&mut load.steps.ops);
        ops += steps.len() as u64;
        contents += load.steps.contents();
        let part = index as u16;
        let mut steps = steps.into_iter().peekable();
        while steps.peek().is_some() {
            let frame = encode(&StreamFrame::Ops { part, ops: batch(&mut steps) });
            up(&mut sink, frame).await?;
        }
    }
    for load in loads.iter().filter(|load| !load.part.is_live(Role::Source)) {
        send_content(ctx, &mut sink, &mut meter, load).await?;
        send_rough(ctx, &mut sink, &mut meter, load).await?;
        if !load.steps.patches.is_empty() {
            send_patches(ctx, &mut sink, &mut meter, load).await?;
        }
        for built in &load.steps.built {
            up(&mut sink, encode(&StreamFrame::Settled)).await?;
            send_built(ctx, &mut sink, &mut meter, load, built).await?;
        }
    }
    notes::frozen(ctx, &meter.frozen);
    let (same_bytes, packed) = (meter.same_bytes, meter.packing.packed());
    Ok(Sent { sink, ops, contents, unsent, losers, same_bytes, packed })
}

/// Returns where the target's versions stand in its pre set, if files are made of them.
fn sealed(load: &Load) -> Option<BytePath> {
    let is_sealed = !load.part.is_live(Role::Target) && !load.part.is_late;
    let is_wanted = !load.steps.patches.is_empty() || !load.steps.rough.is_empty();
    (is_sealed && is_wanted).then(|| load.target_root.clone())
}

/// Returns where the target's versions of conflicts go that are in no snapshot; `first` is the number of the first step.
fn losers_of(ctx: &ModuleContext, load: &Load, first: u64) -> Vec<(BytePath, BytePath)> {
    if !load.part.is_live(Role::Target) || load.conflicts.is_empty() {
        return Vec::new();
    }
    let undo = undo_of(&load.part.root, &ctx.session);
    let displaced = load.steps.ops.iter().zip(first..).filter_map(|(op, number)| match op {
        Op::Put { path, replaces: Some(_), .. }
        | Op::Link { path, replaces: Some(_), .. }
        | Op::Remove { path, .. } => Some((path, number)),
        _ => None,
    });
    let lost = displaced.filter(|(path, _)| load.conflicts.contains(*path));
    lost.map(|(path, number)| {
        (load.part.root.join(path.as_bytes()), undo.join(number.to_string().as_bytes()))
    })
    .collect()
}

/// Takes the steps of one frame: not many, and not many bytes.
fn batch(steps: &mut impl Iterator<Item = Op>) -> Vec<Op> {
    let (mut ops, mut bytes) = (Vec::new(), 0);
    while ops.len() < STEPS
        && bytes < LONG
        && let Some(op) = steps.next()
    {
        bytes += encode(&op).len();
        ops.push(op);
    }
    ops
}

/// Waits for the end of the commit: from here on the target finishes by itself, so a cancel does not stop the waiting.
async fn committed(
    ctx: &ModuleContext,
    stream: &mut ApplyStream,
    ops: u64,
    places: &Places,
) -> Result<ApplyReport, ModuleError> {
    loop {
        // What goes wrong after the commit has begun is in the report.
        match stream.next().await.map_err(|error| places.ended_early(error))? {
            Applying::Report(report) => {
                // What failed is tried again by a redo: until then the mark of this run stays.
                ctx.board.set_commit_pending(report.failed.is_some());
                return Ok(report);
            }
            Applying::News(ApplyNews::Staged) => ctx.reporter.stage("committing"),
            Applying::News(ApplyNews::Committed(done)) => {
                let share = Fraction::of(done, ops).get();
                ctx.reporter.progress(Progress {
                    fraction: Fraction::new(TRANSFER.1 + share * (1.0 - TRANSFER.1)),
                    item: format!("committing {done} of {ops} on {}", ctx.target.hostname),
                    eta: None,
                    bytes: None,
                });
            }
        }
    }
}

/// Turns a commit that could not do all of its steps into the end of the run.
///
/// # Errors
/// [`pc_switcher_contract::ErrorKind::DiskSpace`] if the target's disk is full, otherwise what the system said.
pub(crate) fn whole(ctx: &ModuleContext, report: &ApplyReport, places: &Places) -> Result<(), ModuleError> {
    const SO_FAR: &str =
        "every path there is its old or its new version, and the next sync brings it to its end";
    let Some(failed) = &report.failed else { return Ok(()) };
    let error = places.ended(failed.clone().into_exec(&ctx.target.hostname, "the commit"), SO_FAR);
    Err(if error.hints.is_empty() { error.hint(SO_FAR) } else { error })
}

/// Logs what the commit left alone; whether anything was a conflict.
pub fn log_report(ctx: &ModuleContext, report: &ApplyReport) -> bool {
    let target = &ctx.target.hostname;
    for conflict in &report.conflicts {
        let text = format!("`{}` was left as it is: {}", conflict.path, conflict.why);
        ctx.reporter.log(LogLevel::Error, target, text.clone());
        ctx.board.add_conflict(text);
    }
    for dir in &report.kept {
        ctx.reporter.log(
            LogLevel::Warning,
            target,
            format!("`{dir}` is kept: it holds something that is not mirrored"),
        );
    }
    for warning in &report.warnings {
        ctx.reporter.log(LogLevel::Warning, target, warning.clone());
    }
    notes::refused(ctx, &report.refused);
    !report.conflicts.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pc_switcher_agent::frame::MAX_BODY;
    use pc_switcher_agent::proto::Meta;

    #[test]
    fn steps_with_large_attributes_come_in_frames_that_an_agent_takes() {
        let xattrs = vec![(b"user.large".to_vec(), vec![7; 60_000])];
        let path = "d/".repeat(2000);
        let op = |at: usize| Op::SetMeta {
            path: format!("{path}{at}").as_str().into(),
            meta: Meta { xattrs: xattrs.clone(), ..Meta::default() },
            expect: None,
        };
        let mut steps = (0..700).map(op);
        let mut count = 0;
        loop {
            let ops = batch(&mut steps);
            if ops.is_empty() {
                break;
            }
            count += ops.len();
            assert!(encode(&StreamFrame::Ops { part: 0, ops }).len() < MAX_BODY);
        }
        let mut plain = (0..700).map(|at| Op::RemoveDir { path: format!("{at}").as_str().into() });
        assert_eq!((count, batch(&mut plain).len(), batch(&mut plain).len()), (700, STEPS, 200));
    }
}
