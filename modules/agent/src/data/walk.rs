//! Lists a tree with several threads.
//!
//! Directories wait on one stack, and the children of a directory are pushed in reverse order of their names. So every walk
//! goes down first and in the order of names, as far as threads allow: two machines stay about in step, and the stack holds
//! no more than the siblings along one path for each thread. Listings wait in the outbox of their thread, so one may be sent
//! before that of its parent.
//!
//! A directory that cannot be opened or read to its end has a listing all the same: with what was seen and one skip whose
//! name is empty, [`SkipReason::Unreadable`], which stands for the directory itself. So the caller never waits for a
//! listing that does not come. What vanishes between two looks is left out, or has an empty listing.

use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::fs::{OFlags, fstatfs, readlinkat};
use rustix::io::Errno;

use pc_switcher_contract::BytePath;

use super::rules::{Decision, Rules};
use super::seen::Seen;
use super::{manifest, open};
use crate::linux::state::StateDir;
use crate::proto::{AgentError, DirListing, ListWant, Skip, SkipReason, WalkRequest, WalkSummary, decode};
use crate::server::Call;

mod digests;
#[doc(hidden)]
pub mod fuzzing;
mod items;
mod list;
mod outbox;

pub(super) use items::is_sealed;

/// The magic number of btrfs.
const BTRFS: u64 = 0x9123_683e;

/// Directories that a thread takes at once, at most.
const BATCH: usize = 16;

/// Answers [`crate::proto::Request::Walk`].
///
/// # Errors
/// If a rule is invalid, the root cannot be opened, or the caller gave up.
pub fn run(request: &WalkRequest, call: &Call) -> Result<WalkSummary, AgentError> {
    walk(request, call, How::Listings)
}

/// Answers [`crate::proto::Request::Digests`].
///
/// # Errors
/// As [`run`].
pub fn run_digests(request: &WalkRequest, call: &Call) -> Result<WalkSummary, AgentError> {
    walk(request, call, How::Digests)
}

/// Answers [`crate::proto::Request::WalkKept`].
///
/// # Errors
/// As [`run`], or if the manifest cannot be written.
pub fn run_kept(
    request: &WalkRequest,
    key: &str,
    call: &Call,
    state: &StateDir,
) -> Result<WalkSummary, AgentError> {
    let manifest = Mutex::new(manifest::Writer::create(state, key)?);
    let summary = walk(request, call, How::Kept(&manifest))?;
    manifest.into_inner().unwrap_or_else(PoisonError::into_inner).finish(summary)?;
    Ok(summary)
}

/// Answers [`crate::proto::Request::List`]: the directories that the caller asks for, while it asks.
///
/// # Errors
/// As [`run`].
pub fn list(request: &WalkRequest, call: &Call) -> Result<WalkSummary, AgentError> {
    walk(request, call, How::Asked)
}

/// What a walk tells, and of which directories.
#[derive(Clone, Copy)]
enum How<'a> {
    /// The listings of all.
    Listings,
    /// These, and they are kept as well.
    Kept(&'a Mutex<manifest::Writer>),
    /// The digests of all.
    Digests,
    /// The listings of those that the caller asks for.
    Asked,
}

fn walk(request: &WalkRequest, call: &Call, how: How<'_>) -> Result<WalkSummary, AgentError> {
    let on_demand = matches!(how, How::Asked);
    let tree = &request.tree;
    let failed = |error: Errno| AgentError::io(format!("`{}`", tree.root), &error.into());
    let rules = Rules::compile(&tree.rules, &tree.prefix).map_err(AgentError::failed)?;
    let root = open::root(&tree.root).map_err(failed)?;
    if readlinkat(rustix::fs::CWD, c"/proc/self/exe", Vec::new()).is_err() {
        return Err(AgentError::failed("`/proc` is not mounted"));
    }
    let threads = thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    let is_btrfs = fstatfs(&root).map_err(failed)?.f_type as u64 == BTRFS;
    let walk = Walk {
        call,
        rules,
        is_btrfs,
        is_sealed: is_btrfs && items::is_sealed(&root),
        unprivileged: !rustix::process::geteuid().is_root(),
        seen: Seen::of(&root).map_err(failed)?,
        root,
        on_demand,
        how,
        queue: Mutex::new(Queue {
            stack: if on_demand { Vec::new() } else { vec![Todo::all(BytePath::default())] },
            is_open: on_demand,
            busy: 0,
            asleep: 0,
            failed: None,
        }),
        wake: Condvar::new(),
        ended: bounded(1),
        totals: Mutex::default(),
        threads,
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| walk.work());
        }
        if on_demand {
            walk.feed();
        }
    });
    match walk.queue().failed.take() {
        Some(error) => Err(error),
        None => Ok(*walk.totals.lock().unwrap_or_else(PoisonError::into_inner)),
    }
}

/// What all threads of one walk share.
struct Walk<'a> {
    call: &'a Call,
    rules: Rules,
    root: OwnedFd,
    seen: Seen,
    is_btrfs: bool,
    /// Whether inodes may be read from the tree: see [`items`].
    is_sealed: bool,
    unprivileged: bool,
    /// Whether the caller names the directories: then one that is not there is an error.
    on_demand: bool,
    how: How<'a>,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Says that a thread gave up.
    ended: (Sender<()>, Receiver<()>),
    totals: Mutex<WalkSummary>,
    threads: usize,
}

/// A directory to be listed, with or without those below it.
struct Todo {
    path: BytePath,
    whole: bool,
    /// Only these names of it.
    names: Option<Vec<BytePath>>,
}

impl Todo {
    /// A directory with all below it.
    fn all(path: BytePath) -> Self {
        Self { path, whole: true, names: None }
    }
}

struct Queue {
    stack: Vec<Todo>,
    /// Whether the caller may name more.
    is_open: bool,
    /// Threads that are listing now and may push more.
    busy: usize,
    /// Threads that wait for something to do.
    asleep: usize,
    failed: Option<AgentError>,
}

/// Takes a thread out of the busy ones, also when it unwinds.
struct Turn<'a, 'b>(&'a Walk<'b>);

impl Turn<'_, '_> {
    /// Ends the turn with the directories that were found, in order of their names.
    fn end(self, children: &mut Vec<BytePath>) {
        if !children.is_empty() {
            let todo = children.drain(..).rev().map(Todo::all);
            self.0.queue().stack.extend(todo);
        }
    }
}

impl Drop for Turn<'_, '_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.busy -= 1;
        if thread::panicking() {
            queue.failed.get_or_insert_with(|| AgentError::failed("a walking thread panicked"));
            let _ = self.0.ended.0.try_send(());
        }
        if queue.asleep > 0 {
            self.0.wake.notify_all();
        }
    }
}

impl Walk<'_> {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut lister = list::Lister::new(self);
        let mut outbox = outbox::Outbox::new(
            self.call,
            match self.how {
                How::Kept(manifest) => Some(manifest),
                How::Listings | How::Digests | How::Asked => None,
            },
        );
        let mut children = Vec::new();
        while let Some((batch, turn)) = self.next(&mut outbox) {
            for todo in batch {
                let (before, whole) = (children.len(), todo.whole);
                if let Err(error) = self.visit(&mut lister, &mut outbox, todo, &mut children) {
                    self.fail(error);
                    break;
                }
                if !whole {
                    children.truncate(before);
                }
            }
            turn.end(&mut children);
        }
        if let Err(error) = outbox.send() {
            self.fail(error);
        }
    }

    fn fail(&self, error: AgentError) {
        self.queue().failed.get_or_insert(error);
        self.wake.notify_all();
        // Who waits for the caller's next wish need not any more.
        let _ = self.ended.0.try_send(());
    }

    /// Takes what the caller asks for until it has asked for everything.
    fn feed(&self) {
        loop {
            let wants = self.call.next_upload_or(&self.ended.1).and_then(|body| match body {
                Some(body) => decode::<Vec<ListWant>>(&body).map(Some).map_err(AgentError::protocol),
                None => Ok(None),
            });
            match wants {
                Ok(Some(wants)) => {
                    let todo =
                        |want: ListWant| Todo { path: want.path, whole: want.whole, names: want.names };
                    let todo = wants.into_iter().map(todo);
                    self.queue().stack.extend(todo);
                }
                Ok(None) => break,
                Err(error) => {
                    self.fail(error);
                    break;
                }
            }
            self.wake.notify_all();
        }
        self.queue().is_open = false;
        self.wake.notify_all();
    }

    /// Takes the next few directories, so that threads do not meet at the stack for each. Nothing waits in the outbox while
    /// the thread does.
    fn next(&self, outbox: &mut outbox::Outbox<'_>) -> Option<(Vec<Todo>, Turn<'_, '_>)> {
        let mut queue = self.queue();
        loop {
            if queue.failed.is_some() {
                return None;
            }
            if !queue.stack.is_empty() {
                let take = queue.stack.len().div_ceil(self.threads).min(BATCH);
                let rest = queue.stack.len() - take;
                let mut batch = queue.stack.split_off(rest);
                batch.reverse();
                queue.busy += 1;
                return Some((batch, Turn(self)));
            }
            if queue.busy == 0 && !queue.is_open {
                return None;
            }
            if !outbox.is_empty() {
                drop(queue);
                if let Err(error) = outbox.send() {
                    self.fail(error);
                }
                queue = self.queue();
                continue;
            }
            queue.asleep += 1;
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.asleep -= 1;
        }
    }

    fn visit(
        &self,
        lister: &mut list::Lister<'_, '_>,
        outbox: &mut outbox::Outbox<'_>,
        todo: Todo,
        children: &mut Vec<BytePath>,
    ) -> Result<(), AgentError> {
        let listing = self.listing(lister, todo, children)?;
        let unreadable = |skip: &&Skip| matches!(skip.reason, SkipReason::Unreadable(_));
        let seen = WalkSummary {
            directories: 1,
            entries: listing.entries.len() as u64,
            bytes: listing.entries.iter().map(|entry| entry.size).sum(),
            unreadable: listing.skipped.iter().filter(unreadable).count() as u64,
        };
        match self.how {
            How::Digests => outbox.add_digest(&digests::of(listing))?,
            How::Listings | How::Kept(_) | How::Asked => outbox.add(listing)?,
        }
        {
            let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
            totals.directories += seen.directories;
            totals.entries += seen.entries;
            totals.bytes += seen.bytes;
            totals.unreadable += seen.unreadable;
        }
        Ok(())
    }

    /// Returns a directory's listing; the directories to go on with are added to `children`, in order of their names.
    fn listing(
        &self,
        lister: &mut list::Lister<'_, '_>,
        Todo { path, names, .. }: Todo,
        children: &mut Vec<BytePath>,
    ) -> Result<DirListing, AgentError> {
        let mut listing =
            DirListing { path, root: None, entries: Vec::new(), skipped: Vec::new(), more: false };
        if listing.path.is_empty() {
            let root =
                lister.own(&self.root).map_err(|error| AgentError::io("the tree's root", &error.into()))?;
            listing.root = Some(root);
            if let Decision::Skip(reason) = self.rules.decide_root() {
                let reason = SkipReason::Rule(reason.to_owned());
                listing.skipped.push(Skip { name: BytePath::default(), reason });
                return Ok(listing);
            }
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let read = open::beneath_for_reading(&self.root, listing.path.as_bytes(), flags).and_then(|dir| {
            if self.on_demand && listing.root.is_none() {
                lister.refuse_other_trees(&dir)?;
                listing.root = Some(lister.own(&dir)?);
            }
            lister.fill(&dir, names.as_deref(), &mut listing, children)
        });
        match read {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !self.on_demand => {}
            Err(error) => {
                listing.skipped.push(Skip { name: BytePath::default(), reason: list::unreadable(error) });
            }
        }
        Ok(listing)
    }
}
