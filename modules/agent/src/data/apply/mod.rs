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
//! A session that is cut off has an entry in the machine state, and [`redo`] brings it to its end: docs/adr/0005.

mod aside;
pub(in crate::data) mod clone;
mod coming;
mod commit;
mod entry;
mod finish;
#[doc(hidden)]
pub mod fuzzing;
mod held;
mod journal;
mod links;
pub(super) mod local;
mod moves;
mod origins;
mod part;
mod plan;
mod planner;
mod redo;
pub(in crate::data) mod remove;
mod resume;
mod retire;
mod stage;
mod touched;
mod valid;
mod watch;
mod writer;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::thread;

pub use entry::{PENDING, RESULTS, list_of};
pub use journal::{Reader, Record, has_list, read_journal, read_list};
pub use part::undo_of;
pub use redo::redo;
pub use watch::{Unwatched, Watch};

pub(super) use clone::clone as clone_file;
#[cfg(test)]
pub(super) use clone::range as clone_range;
pub(super) use remove::{list as list_names, tree as remove_tree};

pub(super) use valid::about as odd_meta;

use commit::{Committed, Committer};
use entry::{Entry, Phase};
use part::Part;
use plan::Step;
use stage::Stager;
use writer::{Tally, Writers};

use crate::linux::state::StateDir;
use crate::proto::{
    AgentError, ApplyNews, ApplyReport, ApplyRequest, Coding, Piece, StreamFrame, decode, unpack,
};
use crate::server::{Call, Shield};

/// Files that are handed to the threads at once: each that begins holds its directory open, and the version that it is made of,
/// until a thread comes to it, and a frame may hold thousands.
const AT_ONCE: usize = 32;

/// Threads that write: of a file that is made of an older version they read that, and wait for the disk.
const WRITERS: usize = 8;

/// Numbers in one [`Record::Staged`].
const INODES: usize = 64 << 10;

/// Answers [`crate::proto::Request::Apply`].
///
/// # Errors
/// Whatever stopped staging; nothing visible has changed then. What goes wrong after the commit record is in the report:
/// each path is old or new then, and a redo tries the rest once more.
pub fn run(
    request: &ApplyRequest,
    call: &Call,
    state: &StateDir,
    watch: &dyn Watch,
) -> Result<ApplyReport, AgentError> {
    run_from(&Source::Stream, request, call, state, watch)
}

/// Where steps and contents come from.
pub(super) enum Source<'a> {
    /// Through the front, from another machine.
    Stream,
    /// From trees of this machine.
    Here(&'a [local::Share]),
}

/// Stages and commits what `source` has.
///
/// # Errors
/// As [`run`].
pub(super) fn run_from(
    source: &Source<'_>,
    request: &ApplyRequest,
    call: &Call,
    state: &StateDir,
    watch: &dyn Watch,
) -> Result<ApplyReport, AgentError> {
    redo::make_way(state)?;
    let mut entry = Entry {
        session: request.session.clone(),
        parts: Vec::with_capacity(request.parts.len()),
        list: request.pre_set.as_ref().and_then(list_of),
        phase: Phase::Staging,
    };
    for wanted in &request.parts {
        entry.parts.push((wanted.clone(), Part::look(wanted)?));
    }
    entry.put(state)?;
    let mut parts = Vec::with_capacity(request.parts.len());
    let tally = Tally::default();
    let staged = open(&entry, &mut parts, watch).and_then(|()| {
        let mut decide = || {
            entry.phase = Phase::Open;
            entry.put(state)
        };
        stage(source, request, &parts, call, (&tally, watch), &mut decide)
    });
    let staged = match staged {
        Ok(staged) => staged,
        Err(mut error) => {
            let parts: Vec<(usize, &Part)> = parts.iter().enumerate().collect();
            let dropped = finish::drop_all(&parts, &HashMap::new(), &mut entry, state)
                .and_then(|_| entry.remove(state));
            if let Err(left) = dropped {
                error
                    .message
                    .push_str(&format!("; the next sync tidies up after this one: {}", left.message));
            }
            return Err(error);
        }
    };
    let tell = |news| match source {
        // Who has gone away meanwhile does not hear it, and the commit goes on.
        Source::Stream => drop(call.item(&news)),
        Source::Here(_) => {}
    };
    tell(ApplyNews::Staged);
    parts.iter().for_each(Part::free_reserve);
    let news = |done| tell(ApplyNews::Committed(done));
    let committed = Committer::new(&parts, &staged.inodes, false, watch).run(&staged.steps, &news);
    let Committed { mut report, roots } = committed;
    report.bytes = tally.bytes.load(Ordering::Relaxed);
    report.refused.put_first(tally.take_refused());
    if report.failed.is_none() {
        let expected = retire::expected(&staged.steps);
        let parts: Vec<(usize, &Part)> = parts.iter().enumerate().collect();
        let ended = finish::finish(&parts, &expected, &mut entry, roots, state, watch, &mut report);
        report.failed = ended.err();
    }
    Ok(report)
}

/// Opens all parts with fresh staging.
fn open(entry: &Entry, parts: &mut Vec<Part>, watch: &dyn Watch) -> Result<(), AgentError> {
    watch.after("entry")?;
    for (wanted, mtime) in &entry.parts {
        parts.push(Part::open(wanted, *mtime, &entry.session)?);
        watch.after("open")?;
    }
    Ok(())
}

/// What stands ready to be committed.
struct Staged {
    steps: Vec<Step>,
    /// The inodes that stand staged for steps.
    inodes: HashMap<u64, u64>,
    /// Keeps the agent alive.
    _shield: Shield,
}

/// Phase 1, up to the synced commit record; `decide` is told before it.
fn stage(
    source: &Source<'_>,
    request: &ApplyRequest,
    parts: &[Part],
    call: &Call,
    (tally, watch): (&Tally, &dyn Watch),
    decide: &mut dyn FnMut() -> Result<(), AgentError>,
) -> Result<Staged, AgentError> {
    let journal_failed = |error: std::io::Error| AgentError::io("journal", &error);
    let mut journal = match parts.first() {
        Some(first) => journal::Writer::create(&first.stage).map_err(journal_failed)?,
        None => return Err(AgentError::protocol("nothing to apply to")),
    };
    let begin = Record::Begin { session: request.session.clone(), parts: request.parts.clone() };
    journal.append(&begin).map_err(journal_failed)?;
    let mut stager = Stager::new(parts, tally);
    match source {
        Source::Stream => stage_stream(&mut stager, &mut journal, call, tally)?,
        Source::Here(shares) => local::stage(shares, &mut stager, &mut journal, call)?,
    }
    if tally.files.load(Ordering::Relaxed) != stager.contents {
        return Err(AgentError::protocol("some content never came or never ended"));
    }
    let ops = stager.ops();
    let steps = stager.finish()?;
    watch.after("stage")?;
    let inodes = Stager::inodes(parts, &steps)?;
    for inodes in inodes.chunks(INODES) {
        journal.append(&Record::Staged(inodes.to_vec())).map_err(journal_failed)?;
    }
    journal.sync().map_err(journal_failed)?;
    watch.after("journal")?;
    parts.iter().try_for_each(Part::sync)?;
    watch.after("sync")?;
    let shield = call.shield();
    if call.is_cancelled() {
        return Err(AgentError::cancelled());
    }
    decide()?;
    watch.after("decide")?;
    journal.append(&Record::Commit { ops }).map_err(journal_failed)?;
    journal.sync().map_err(journal_failed)?;
    // Nothing that goes wrong from here on is an error of staging.
    let _ = watch.after("commit");
    Ok(Staged { steps, inodes: inodes.into_iter().collect(), _shield: shield })
}

/// Takes in the stream, with threads that write.
fn stage_stream(
    stager: &mut Stager<'_>,
    journal: &mut journal::Writer,
    call: &Call,
    tally: &Tally,
) -> Result<(), AgentError> {
    thread::scope(|scope| {
        let start = || Writers::start(scope, WRITERS, tally, call);
        let mut writers = start();
        let fed = feed(stager, journal, &mut writers, call, start);
        // The reason of a thread that has given up comes before the consequence.
        writers.finish().and(fed)
    })
}

/// Hands pieces to the threads that write.
fn take_in(
    stager: &mut Stager<'_>,
    writers: &Writers<'_>,
    pieces: Vec<Piece>,
    codings: &[Coding],
) -> Result<(), AgentError> {
    // Before anything of the frame is taken in.
    let is_in_order = codings.windows(2).all(|two| two[0].piece < two[1].piece);
    if !is_in_order || codings.last().is_some_and(|last| last.piece as usize >= pieces.len()) {
        return Err(AgentError::protocol("a piece that is compressed is missing"));
    }
    let mut codings = codings.iter().peekable();
    let mut pieces = (0..).zip(pieces).peekable();
    while pieces.peek().is_some() {
        let mut jobs = Vec::with_capacity(AT_ONCE);
        for (at, piece) in pieces.by_ref().take(AT_ONCE) {
            let job = stager.job(piece)?;
            jobs.push(match codings.next_if(|coding| coding.piece == at) {
                Some(coding) => job.coded(*coding),
                None => job,
            });
        }
        if !writers.give(jobs) {
            return Err(AgentError::failed("a writing thread gave up"));
        }
    }
    Ok(())
}

/// Takes in the stream until its commit frame. `start` makes new writing threads, once those before have ended.
fn feed<'scope>(
    stager: &mut Stager<'_>,
    journal: &mut journal::Writer,
    writers: &mut Writers<'scope>,
    call: &Call,
    start: impl Fn() -> Writers<'scope>,
) -> Result<(), AgentError> {
    while let Some(body) = call.next_upload()? {
        match decode(&body).map_err(AgentError::protocol)? {
            StreamFrame::Ahead { part } => stager.set_ahead(part.into())?,
            StreamFrame::Ops { part, ops } => {
                if stager.end_ahead() {
                    // What came ahead is complete when its steps ask for it.
                    writers.finish()?;
                    *writers = start();
                }
                let record = Record::Ops { first: stager.ops(), part, ops };
                journal.append(&record).map_err(|error| AgentError::io("journal", &error))?;
                let Record::Ops { ops, .. } = record else { unreachable!("made two lines above") };
                ops.into_iter().try_for_each(|op| stager.step(part.into(), op))?;
            }
            StreamFrame::Content(pieces) => take_in(stager, writers, pieces, &[])?,
            StreamFrame::Packed { plain, data } => {
                take_in(stager, writers, unpack(plain, &data).map_err(AgentError::protocol)?, &[])?;
            }
            StreamFrame::Coded { codings, pieces, .. } => take_in(stager, writers, pieces, &codings)?,
            StreamFrame::Hole { content, at, end } => {
                if !writers.give(vec![stager.hole(content, at, end)?]) {
                    return Err(AgentError::failed("a writing thread gave up"));
                }
            }
            StreamFrame::Clones { content, from, ranges } => {
                if !writers.give(vec![stager.clones(content, from, ranges)?]) {
                    return Err(AgentError::failed("a writing thread gave up"));
                }
            }
            StreamFrame::InPlace { content } => stager.set_in_place(content)?,
            StreamFrame::Settled => {
                writers.finish()?;
                *writers = start();
                if !stager.is_settled() {
                    return Err(AgentError::protocol("some content is not whole when it should be"));
                }
            }
            StreamFrame::Unreadable { content, .. } => {
                return Err(AgentError::protocol(format!(
                    "content {content} was announced and is unreadable"
                )));
            }
            StreamFrame::Over { content, path, expected } => stager.set_over(content, path, expected)?,
            StreamFrame::Sealed { part, root } => stager.set_sealed(part.into(), &root)?,
            StreamFrame::Same(_) => {
                return Err(AgentError::protocol("what is the same on the source is nothing to apply"));
            }
            StreamFrame::Frozen { .. } => {
                return Err(AgentError::protocol("what `chattr` says on the source is nothing to apply"));
            }
            StreamFrame::Whole(_) => {
                return Err(AgentError::protocol("what was whole on the source is nothing to apply"));
            }
            StreamFrame::Commit { ops, contents } if (ops, contents) == (stager.ops(), stager.contents) => {
                return Ok(());
            }
            StreamFrame::Commit { ops, contents } => {
                return Err(AgentError::protocol(format!(
                    "{ops} steps with {contents} contents were announced, {} with {} came",
                    stager.ops(),
                    stager.contents
                )));
            }
        }
    }
    Err(AgentError::protocol("the stream ended without a commit"))
}
