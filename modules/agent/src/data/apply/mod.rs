//! Staging and committing on the target.
//!
//! **Invariant: at each moment every live path is its old or its new version, whole.** Phase 1 builds all that is new in
//! staging on the same subvolume and changes nothing that can be seen (but for our own directory at the root, and the
//! root's times, which are put back). When everything is on the disk, a commit record is written and synced. Phase 2 then
//! brings each path over by one rename or exchange, which the kernel does at once or not at all.
//!
//! Before the commit record a cancelled call, a lost connection or a full disk removes staging and that is all. After it
//! the commit goes on to its end, whoever listens.
//!
//! Nothing that somebody changed since the plan is lost: each path is compared with the plan before it is touched; what is
//! displaced is compared once more when nobody can reach it by its name, and is put back if it differs. Such a path is
//! left alone and reported, and the others go on.
//!
//! [`read_journal`] is what a redo after a crash begins with.

mod aside;
mod commit;
mod journal;
mod links;
mod part;
mod plan;
mod remove;
mod stage;
mod touched;
mod valid;
mod writer;

use std::sync::atomic::Ordering;
use std::thread;

pub use journal::{Reader, Record, read_journal};

use commit::Committer;
use part::Part;
use plan::Step;
use stage::Stager;
use writer::{Tally, Writers};

use crate::proto::{AgentError, ApplyNews, ApplyReport, ApplyRequest, StreamFrame, decode};
use crate::server::{Call, Shield};

/// Numbers in one [`Record::Staged`].
const INODES: usize = 64 << 10;

/// Answers [`crate::proto::Request::Apply`].
///
/// # Errors
/// Before the commit record: whatever stopped staging; nothing visible has changed then. After it: only what no other step
/// could do anything about, such as a full disk; each path is old or new then, and the next plan heals the rest.
pub fn run(request: &ApplyRequest, call: &Call) -> Result<ApplyReport, AgentError> {
    let mut parts: Vec<Part> = Vec::with_capacity(request.parts.len());
    for wanted in &request.parts {
        match Part::open(wanted, &request.session) {
            Ok(part) => parts.push(part),
            Err(error) => {
                parts.iter().for_each(Part::remove_all);
                return Err(error);
            }
        }
    }
    let tally = Tally::default();
    let (steps, _shield) =
        stage(request, &parts, call, &tally).inspect_err(|_| parts.iter().for_each(Part::remove_all))?;
    // Who has gone away meanwhile does not hear it, and the commit goes on.
    let _ = call.item(&ApplyNews::Staged);
    parts.iter().for_each(Part::free_reserve);
    let mut report = Committer::new(&parts, call).run(steps)?;
    report.bytes = tally.bytes.load(Ordering::Relaxed);
    report.warnings.splice(0..0, tally.take_warnings());
    Ok(report)
}

/// Phase 1, up to the synced commit record. Returns the steps of the commit, and what keeps the agent alive for them.
fn stage(
    request: &ApplyRequest,
    parts: &[Part],
    call: &Call,
    tally: &Tally,
) -> Result<(Vec<Step>, Shield), AgentError> {
    let journal_failed = |error: std::io::Error| AgentError::io("journal", &error);
    let mut journal = match parts.first() {
        Some(first) => journal::Writer::create(&first.stage).map_err(journal_failed)?,
        None => return Err(AgentError::protocol("nothing to apply to")),
    };
    let begin = Record::Begin { session: request.session.clone(), parts: request.parts.clone() };
    journal.append(&begin).map_err(journal_failed)?;
    let mut stager = Stager::new(parts, tally);
    let threads = thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4));
    thread::scope(|scope| {
        let writers = Writers::start(scope, threads, tally);
        let fed = feed(&mut stager, &mut journal, parts.len(), &writers, call);
        // The reason of a thread that has given up comes before the consequence.
        writers.finish().and(fed)
    })?;
    if tally.files.load(Ordering::Relaxed) != stager.contents {
        return Err(AgentError::protocol("some content never came or never ended"));
    }
    let ops = stager.ops;
    let steps = stager.finish()?;
    for inodes in Stager::inodes(parts, &steps)?.chunks(INODES) {
        journal.append(&Record::Staged(inodes.to_vec())).map_err(journal_failed)?;
    }
    journal.sync().map_err(journal_failed)?;
    parts.iter().try_for_each(Part::sync)?;
    let shield = call.shield();
    if call.is_cancelled() {
        return Err(AgentError::cancelled());
    }
    journal.append(&Record::Commit { ops }).map_err(journal_failed)?;
    journal.sync().map_err(journal_failed)?;
    Ok((steps, shield))
}

/// Takes in the stream until its commit frame.
fn feed(
    stager: &mut Stager<'_>,
    journal: &mut journal::Writer,
    parts: usize,
    writers: &Writers<'_>,
    call: &Call,
) -> Result<(), AgentError> {
    while let Some(body) = call.next_upload()? {
        match decode(&body).map_err(AgentError::protocol)? {
            StreamFrame::Ops { part, ops } => {
                if usize::from(part) >= parts {
                    return Err(AgentError::protocol(format!("part {part} was not announced")));
                }
                let record = Record::Ops { first: stager.ops, part, ops };
                journal.append(&record).map_err(|error| AgentError::io("journal", &error))?;
                let Record::Ops { ops, .. } = record else { unreachable!("made two lines above") };
                ops.into_iter().try_for_each(|op| stager.step(part.into(), op))?;
            }
            StreamFrame::Content(pieces) => {
                let jobs = pieces.into_iter().map(|piece| stager.job(piece)).collect::<Result<_, _>>()?;
                if !writers.give(jobs) {
                    return Err(AgentError::failed("a writing thread gave up"));
                }
            }
            StreamFrame::Unreadable { content, .. } => {
                return Err(AgentError::protocol(format!(
                    "content {content} was announced and is unreadable"
                )));
            }
            StreamFrame::Commit { ops, contents } if (ops, contents) == (stager.ops, stager.contents) => {
                return Ok(());
            }
            StreamFrame::Commit { ops, contents } => {
                return Err(AgentError::protocol(format!(
                    "{ops} steps with {contents} contents were announced, {} with {} came",
                    stager.ops, stager.contents
                )));
            }
        }
    }
    Err(AgentError::protocol("the stream ended without a commit"))
}
