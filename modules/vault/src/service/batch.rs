//! Many files that are restored together: their content on several threads, on the disk with one wait for it, and then each under its
//! name. Nothing has its name before it is complete and durable, and nobody waits for the disk file by file. While one batch is restored
//! the next one is prepared and begun, so that no processor waits for the disk either.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

use pc_switcher_contract::{ErrorKind, ModuleError};

use crate::catalogue::CurrentFile;
use crate::engine::{
    Given, Lacking, Missed, Observer, Restorer, Swept, Unfinished, Way, complete, dress_again, set_metadata,
    there_already, workers,
};
use crate::error::{Result, again, at, damaged};
use crate::format::{Id, Node};
use crate::repo::Repository;

/// Files of one batch, at most, which are open until they have their names: each takes a descriptor.
const FILES: usize = if cfg!(test) { 5 } else { 4000 };
/// Directories of one batch, at most, which are held open for it, too.
const DIRECTORIES: usize = 4000;
/// Batches that are being restored at once: while one waits for its disk, the threads of the other read.
const AT_ONCE: usize = 2;
/// Bytes of one batch; one large file may be more.
const BYTES: u64 = 256 << 20;

/// What all names of one file have in common.
pub(super) type Family = (u64, i64, Id);

/// Returns what all names of one file have in common, if it has several.
pub(super) fn family(file: &CurrentFile) -> Option<Family> {
    let facts = &file.version.facts;
    let has_several = facts.is_file() && facts.links > 1;
    has_several.then_some((facts.inode, facts.changed_at, file.version.content_id))
}

/// A file that is to be restored, unless an earlier restore did it.
pub(super) struct Job {
    /// Where it comes to.
    pub(super) place: PathBuf,
    pub(super) holder: Arc<Way>,
    pub(super) name: OsString,
    pub(super) node: Node,
    pub(super) chunks: Vec<Id>,
    pub(super) content: Id,
    /// Whether something has its name, which may be itself.
    pub(super) is_taken: bool,
    /// The vault that holds it.
    pub(super) vault: usize,
    /// Its number among all that are wanted.
    pub(super) number: usize,
    /// What all its names have in common, if it has several.
    pub(super) family: Option<Family>,
}

/// What became of one.
pub(super) type Done = (Job, std::result::Result<Given, Missed>);

/// Files that wait to be restored together.
pub(super) struct Batch {
    jobs: Vec<Job>,
    bytes: u64,
    directories: usize,
    most: Most,
}

/// How large a batch may be.
#[derive(Clone, Copy)]
struct Most {
    files: usize,
    directories: usize,
}

/// A file on each disk, by which it is waited for.
type Disks = BTreeMap<u64, (File, PathBuf)>;

/// A complete file that is without its name yet if it was not there before, and what it lacks.
type Staged = std::result::Result<(Option<Unfinished>, Vec<Lacking>), Missed>;

/// What keeps the next file from being tried, once it was said.
type Ended = Mutex<Option<ModuleError>>;

/// What keeps files of all batches from being tried.
#[derive(Default)]
struct Ends {
    /// Vaults that are away since a moment ago.
    away: Mutex<BTreeMap<usize, ModuleError>>,
    /// The disk when it is full.
    full: Ended,
}

/// Returns how large a batch may be: with one more that is filled meanwhile their directories take half of all descriptors, and their
/// files a quarter.
fn most() -> Most {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // What a program may have at most is more than it is given at first: some take a number above 1023 for none.
    let wanted = maximum.unwrap_or(u64::MAX).min(1 << 16);
    let raised = current.is_some_and(|current| current < wanted)
        && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_ok();
    let all = if raised { wanted } else { current.unwrap_or(wanted) };
    let all = all as usize;
    Most {
        files: (all / 4 / AT_ONCE).clamp(1, FILES),
        directories: (all / 2 / (AT_ONCE + 1)).clamp(1, DIRECTORIES),
    }
}

/// A batch that is being restored, with what its files have in common with further names.
type Restoring<'scope> = (ScopedJoinHandle<'scope, Result<Vec<Done>>>, HashSet<Family>);

/// Batches that are being restored.
pub(super) struct Fleet<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    observer: &'env dyn Observer,
    content_only: bool,
    ended: Arc<Ends>,
    most: Most,
    swept: Swept,
    under_way: VecDeque<Restoring<'scope>>,
}

impl<'scope, 'env> Fleet<'scope, 'env> {
    /// With none under way.
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        content_only: bool,
        observer: &'env dyn Observer,
    ) -> Self {
        let (ended, swept, under_way) = Default::default();
        Self { scope, observer, content_only, ended, most: most(), swept, under_way }
    }

    /// Returns an empty batch.
    pub(super) fn batch(&self) -> Batch {
        Batch { jobs: Vec::new(), bytes: 0, directories: 0, most: self.most }
    }

    /// Begins to restore what waits in a batch; not before [`Fleet::is_full`] says that there is room.
    pub(super) fn begin(&mut self, batch: &mut Batch, repos: Vec<Arc<Repository>>) {
        let families = batch.jobs.iter().filter_map(|job| job.family).collect();
        let (batch, ended) = (std::mem::replace(batch, self.batch()), self.ended.clone());
        let (content_only, observer, swept) = (self.content_only, self.observer, self.swept.clone());
        let restoring =
            self.scope.spawn(move || batch.restore(&repos, (content_only, swept), &ended, observer));
        self.under_way.push_back((restoring, families));
    }

    /// Whether one has to end before another one begins.
    pub(super) fn is_full(&self) -> bool {
        self.under_way.len() >= AT_ONCE
    }

    /// Waits for the one that began first; `None` if there is none.
    pub(super) fn wait(&mut self) -> Option<Result<Vec<Done>>> {
        let (restoring, _) = self.under_way.pop_front()?;
        Some(restoring.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    /// Returns the vaults that are away since a moment ago, and why.
    pub(super) fn away(&self) -> Vec<(usize, ModuleError)> {
        let away = self.ended.away.lock().unwrap_or_else(PoisonError::into_inner);
        away.iter().map(|(vault, error)| (*vault, again(error))).collect()
    }

    /// Whether a name of such a file is under way.
    pub(super) fn holds(&self, family: Family) -> bool {
        self.under_way.iter().any(|(_, families)| families.contains(&family))
    }
}

impl Batch {
    /// Takes a file; whether it is time to restore what waits.
    pub(super) fn take(&mut self, job: Job) -> bool {
        let is_same = self.jobs.last().is_some_and(|last| Arc::ptr_eq(&last.holder, &job.holder));
        self.directories += usize::from(!is_same);
        self.bytes += job.node.size;
        self.jobs.push(job);
        let Most { files, directories } = self.most;
        self.jobs.len() >= files || self.directories >= directories || self.bytes >= BYTES
    }

    /// Returns the directory of the file that was taken last: what lies beside it needs no other one.
    pub(super) fn holder_of(&self, directory: &std::path::Path) -> Option<Arc<Way>> {
        let last = self.jobs.last().filter(|job| job.place.parent() == Some(directory))?;
        Some(last.holder.clone())
    }

    /// Whether a name of such a file waits: nobody knows yet whether it becomes what it should.
    pub(super) fn holds(&self, family: Family) -> bool {
        self.jobs.iter().rev().any(|job| job.family == Some(family))
    }

    /// Restores what waits. What fails stops no other, unless there is no room: then what is complete gets its name, and all others fail.
    ///
    /// # Errors
    /// If the run was cancelled: nothing of it has its name then.
    fn restore(
        self,
        repos: &[Arc<Repository>],
        (content_only, swept): (bool, Swept),
        ended: &Ends,
        observer: &dyn Observer,
    ) -> Result<Vec<Done>> {
        let jobs = self.jobs;
        let next = AtomicUsize::new(0);
        let staged: Vec<Mutex<Option<Staged>>> = jobs.iter().map(|_| Mutex::default()).collect();
        let disks: Mutex<Disks> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..workers().min(jobs.len()) {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(job) = jobs.get(at).filter(|_| !observer.is_cancelled()) else { return };
                        let (repo, swept) = (&*repos[job.vault], swept.clone());
                        let restorer = Restorer { repo, content_only, observer, swept };
                        let made = stage(&restorer, job, &disks, ended);
                        *staged[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
                    }
                });
            }
        });
        if observer.is_cancelled() {
            return Err(ModuleError::cancelled());
        }
        let disks = disks.into_inner().unwrap_or_else(PoisonError::into_inner);
        let waited = disks.into_values().try_for_each(|(file, place)| {
            rustix::fs::syncfs(&file).map_err(|error| at("write", &place, &error.into()))
        });
        let named = jobs.into_iter().zip(staged).map(|(job, staged)| {
            let staged = staged.into_inner().unwrap_or_else(PoisonError::into_inner);
            let done = staged.unwrap_or_else(|| Err(ModuleError::cancelled().into()));
            let done = done.and_then(|(made, lacking)| {
                let Some(file) = made else { return Ok(Given { was_there: true, lacking }) };
                if let Err(error) = &waited {
                    return Err(Missed::Place(again(error)));
                }
                match file.name(&job.holder, &job.name) {
                    Ok(()) => Ok(Given { was_there: false, lacking }),
                    Err(error) => Err(there_already(&error, &job.place).into()),
                }
            });
            (job, done)
        });
        Ok(named.collect())
    }
}

fn stage(restorer: &Restorer<'_>, job: &Job, disks: &Mutex<Disks>, ended: &Ends) -> Staged {
    let away = || ended.away.lock().unwrap_or_else(PoisonError::into_inner);
    let full = || ended.full.lock().unwrap_or_else(PoisonError::into_inner);
    // This takes no room.
    if job.is_taken {
        let (real, Restorer { repo, content_only, observer, .. }) = (job.holder.inside(&job.name), restorer);
        return match complete(repo, &real, &job.node, *content_only, *observer) {
            Some(_) if *content_only => Ok((None, Vec::new())),
            Some(there) => Ok((None, dress_again(&there, &job.node))),
            None => Err(there_already(&std::io::ErrorKind::AlreadyExists.into(), &job.place).into()),
        };
    }
    if let Some(why) = &*full() {
        return Err(Missed::Place(again(why)));
    }
    if let Some(why) = away().get(&job.vault) {
        return Err(Missed::Content(again(why)));
    }
    let made = restorer.staged(&job.holder, &job.place, &job.chunks);
    match &made {
        Err(Missed::Content(error)) if error.kind == ErrorKind::Unreachable => {
            away().entry(job.vault).or_insert_with(|| again(error));
        }
        Err(Missed::Place(error)) if error.kind == ErrorKind::DiskSpace => {
            full().get_or_insert_with(|| again(error));
        }
        _ => {}
    }
    let (file, sum) = made?;
    if sum != job.content {
        let what = format!("the content of `{}`", job.place.display());
        return Err(Missed::Content(damaged(what, "its checksum is another one")));
    }
    let lacking = if restorer.content_only { Vec::new() } else { set_metadata(file.as_file(), &job.node) };
    let unread = |error| at("read", &job.place, &error);
    let disk = file.as_file().metadata().map_err(unread)?.dev();
    if let Entry::Vacant(unknown) = disks.lock().unwrap_or_else(PoisonError::into_inner).entry(disk) {
        unknown.insert((file.as_file().try_clone().map_err(unread)?, job.place.clone()));
    }
    Ok((Some(file), lacking))
}
