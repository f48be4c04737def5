//! Backs up whole directories: one thread walks, several read, cut, compress and encrypt, one puts trees together.
//!
//! What is in flight is bounded by channels, so memory does not grow with the number of files.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};
use pc_switcher_contract::ModuleError;

use super::assemble::{Assembler, Step, Trail};
use super::facts::{Names, node_of};
use super::{Observer, Progress, Sparse, Stoppable, Trouble, check_cancelled, trouble, workers};
use crate::error::Result;
use crate::format::{BlobKind, Id, Node, NodeKind, Tree};
use crate::repo::{Packer, Repository, Stored, Writer};

/// Entries that may wait for their content.
const AHEAD: usize = 2048;

/// What is to be backed up.
pub struct TreeBackup<'a> {
    /// Where to.
    pub repo: &'a Repository,
    /// Absolute paths; none inside another.
    pub roots: &'a [PathBuf],
    /// The tree of an earlier snapshot of the same paths: what is unchanged since is not read.
    pub parent: Option<Id>,
    /// Names of owners.
    pub names: &'a Names,
    /// Hears how it goes on.
    pub observer: &'a dyn Observer,
}

/// What was backed up.
#[derive(Debug, Clone, Default)]
pub struct BackupSummary {
    /// The root of what was stored; the snapshot is the caller's to write.
    pub tree: Id,
    /// Files in it.
    pub files: u64,
    /// Files that were read.
    pub read_files: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// What the repository grew by.
    pub stored: Stored,
    /// Paths that are missing in it, or that changed while they were read.
    pub troubles: Vec<Trouble>,
}

struct Job {
    path: PathBuf,
    node: Node,
    facts: Metadata,
    reply: Sender<Option<Node>>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "most are steps; a box for each would cost more than the space"
)]
enum Planned {
    Step(Step),
    /// The entry comes when it was read; none if it could not be.
    Awaited(Receiver<Option<Node>>),
}

struct Shared<'a> {
    observer: &'a dyn Observer,
    stop: AtomicBool,
    fatal: Mutex<Option<ModuleError>>,
    troubles: Mutex<Vec<Trouble>>,
    files: AtomicU64,
    read_files: AtomicU64,
    bytes: AtomicU64,
}

impl Shared<'_> {
    fn fail(&self, error: ModuleError) {
        self.stop.store(true, Ordering::Relaxed);
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn report(&self, path: &Path, why: impl ToString) {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).push(trouble(path, why));
    }

    fn done(&self, path: &Path, bytes: u64) {
        let files = self.files.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.observer.progress(Progress { files, bytes, total_bytes: 0, item: path.to_owned() });
    }

    fn must_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.observer.is_cancelled()
    }
}

impl TreeBackup<'_> {
    /// Stores packs and index. A repository is valid after each of its writes; without a snapshot nothing refers to them.
    ///
    /// # Errors
    /// If the vault cannot be written or the run was cancelled. Paths that cannot be read are no error but troubles.
    pub fn run(&self) -> Result<BackupSummary> {
        let writer = Writer::new(self.repo)?;
        let shared = Shared {
            observer: self.observer,
            stop: AtomicBool::new(false),
            fatal: Mutex::new(None),
            troubles: Mutex::default(),
            files: AtomicU64::new(0),
            read_files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        };
        let (plan, planned) = bounded(AHEAD);
        let (send_job, jobs) = bounded::<Job>(AHEAD);
        let tree = std::thread::scope(|scope| {
            for _ in 0..workers() {
                let (jobs, writer, shared) = (jobs.clone(), &writer, &shared);
                scope.spawn(move || {
                    match writer.packer(BlobKind::Data).and_then(|packer| read_files(packer, jobs, shared)) {
                        Ok(()) => {}
                        Err(error) => shared.fail(error),
                    }
                });
            }
            drop(jobs);
            let (writer, shared) = (&writer, &shared);
            let assembled = scope.spawn(move || assemble(writer, planned, shared));
            let mut walk = Walk { backup: self, shared, plan, jobs: send_job };
            let walked = walk.run();
            drop(walk);
            let tree = assembled
                .join()
                .unwrap_or_else(|_| Err(ModuleError::failed("the thread that makes trees ended")));
            tree.and_then(|tree| walked.map(|()| tree))
        });
        // What is packed stays known to the index, also after a cancel: the next run does not store it again.
        let stored = writer.index();
        check_cancelled(self.observer)?;
        if let Some(error) = shared.fatal.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut troubles = shared.troubles.into_inner().unwrap_or_else(PoisonError::into_inner);
        troubles.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(BackupSummary {
            tree: tree?,
            files: shared.files.into_inner(),
            read_files: shared.read_files.into_inner(),
            bytes: shared.bytes.into_inner(),
            stored: stored?,
            troubles,
        })
    }
}

fn assemble(writer: &Writer<'_>, planned: Receiver<Planned>, shared: &Shared<'_>) -> Result<Id> {
    let mut packer = writer.packer(BlobKind::Tree)?;
    let mut assembler = Assembler::new(&mut packer);
    for next in planned {
        let step = match next {
            Planned::Step(step) => Some(step),
            Planned::Awaited(node) => node.recv().ok().flatten().map(Step::Leaf),
        };
        if let Some(step) = step
            && let Err(error) = assembler.take(step)
        {
            shared.stop.store(true, Ordering::Relaxed);
            return Err(error);
        }
    }
    let tree = assembler.finish()?;
    packer.flush()?;
    Ok(tree)
}

fn read_files(mut packer: Packer<'_, '_>, jobs: Receiver<Job>, shared: &Shared<'_>) -> Result<()> {
    use crate::repo::FileTrouble;
    for Job { path, mut node, facts, reply } in jobs {
        if shared.must_stop() {
            continue;
        }
        let content = open(&path, &facts).map_err(FileTrouble::Read).and_then(|file| {
            let reader = Stoppable { reader: Sparse::new(&file), observer: shared.observer };
            let content = packer.add_file(reader)?;
            Ok((content, file.metadata().map_err(FileTrouble::Read)?))
        });
        match content {
            Ok((content, after)) => {
                if !same_file(&facts, &after) || content.size != after.len() {
                    shared.report(&path, "changed while it was read");
                }
                node.size = content.size;
                node.content = Some(content.chunks.into_iter().map(|(id, _)| id).collect());
                shared.read_files.fetch_add(1, Ordering::Relaxed);
                shared.done(&path, node.size);
                reply.send(Some(node)).ok();
            }
            Err(FileTrouble::Read(error)) => {
                shared.report(&path, error);
                reply.send(None).ok();
            }
            Err(FileTrouble::Store(error)) => return Err(error),
        }
    }
    packer.flush()
}

/// Opens the file that was listed and no other.
pub(crate) fn open(path: &Path, listed: &Metadata) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits() as i32).open(path)?;
    let facts = file.metadata()?;
    if (facts.dev(), facts.ino()) == (listed.dev(), listed.ino()) && facts.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("was replaced while it was read"))
    }
}

/// Whether nothing but the time of the last access differs.
pub(crate) fn same_file(a: &Metadata, b: &Metadata) -> bool {
    let of = |facts: &Metadata| {
        let times = (facts.mtime(), facts.mtime_nsec(), facts.ctime(), facts.ctime_nsec());
        (facts.dev(), facts.ino(), facts.size(), facts.mode(), facts.uid(), facts.gid(), times)
    };
    of(a) == of(b)
}

struct Walk<'a> {
    backup: &'a TreeBackup<'a>,
    shared: &'a Shared<'a>,
    plan: Sender<Planned>,
    jobs: Sender<Job>,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<()> {
        let mut roots: Vec<&PathBuf> = self.backup.roots.iter().collect();
        roots.sort();
        let parent = self.backup.parent.map(|id| self.backup.repo.tree(id)).transpose()?;
        let names = self.backup.names;
        let mut trail = Trail::new(|path: &Path| bare_directory(path, names));
        for root in roots {
            let plan = &self.plan;
            let mut feed = |step| {
                plan.send(Planned::Step(step)).map_err(|_| ModuleError::failed("no trees are made any more"))
            };
            trail.go(root.parent().unwrap_or(Path::new("/")), &mut feed)?;
            let before = parent.clone().and_then(|tree| self.tree_at(tree, root.parent()?));
            self.entry(root, root.file_name().unwrap_or(OsStr::new("/")), before.as_ref())?;
        }
        Ok(())
    }

    /// Goes down to a directory of an earlier snapshot.
    fn tree_at(&self, mut tree: Tree, directory: &Path) -> Option<Tree> {
        for part in directory.iter().skip(1) {
            tree = self.backup.repo.tree(tree.find(part)?.subtree?).ok()?;
        }
        Some(tree)
    }

    fn send(&self, planned: Planned) -> Result<()> {
        self.plan.send(planned).map_err(|_| ModuleError::failed("no trees are made any more"))
    }

    fn entry(&mut self, path: &Path, name: &OsStr, siblings: Option<&Tree>) -> Result<()> {
        if self.shared.must_stop() {
            return Err(ModuleError::cancelled());
        }
        let facts = match fs::symlink_metadata(path) {
            Ok(facts) => facts,
            Err(error) => {
                self.shared.report(path, error);
                return Ok(());
            }
        };
        let mut node = match node_of(path, name, &facts, self.backup.names) {
            Ok(node) => node,
            Err(error) => {
                self.shared.report(path, error);
                return Ok(());
            }
        };
        let before = siblings.and_then(|tree| tree.find(name));
        match node.kind {
            NodeKind::Dir => self.directory(path, node, before),
            NodeKind::File => match before.filter(|before| unchanged(before, &node)) {
                Some(before) if self.is_stored(before) => {
                    node.content = before.content.clone();
                    self.shared.done(path, node.size);
                    self.send(Planned::Step(Step::Leaf(node)))
                }
                _ => {
                    let (reply, answer) = bounded(1);
                    self.send(Planned::Awaited(answer))?;
                    let job = Job { path: path.to_owned(), node, facts, reply };
                    self.jobs.send(job).map_err(|_| ModuleError::failed("no files are read any more"))
                }
            },
            // A socket is an appointment of two processes, not content.
            NodeKind::Socket => Ok(()),
            _ => self.send(Planned::Step(Step::Leaf(node))),
        }
    }

    fn is_stored(&self, before: &Node) -> bool {
        before.content.iter().flatten().all(|id| self.backup.repo.find(BlobKind::Data, id).is_some())
    }

    fn directory(&mut self, path: &Path, node: Node, before: Option<&Node>) -> Result<()> {
        let mut names = Vec::new();
        match fs::read_dir(path) {
            Ok(entries) => {
                for entry in entries {
                    match entry {
                        Ok(entry) => names.push(entry.file_name()),
                        Err(error) => self.shared.report(path, error),
                    }
                }
            }
            Err(error) => self.shared.report(path, error),
        }
        names.sort();
        // An earlier tree that cannot be read only costs reading more files.
        let before = before.and_then(|before| self.backup.repo.tree(before.subtree?).ok());
        self.send(Planned::Step(Step::Enter(node)))?;
        for name in names {
            self.entry(&path.join(&name), &name, before.as_ref())?;
        }
        self.send(Planned::Step(Step::Leave))
    }
}

fn unchanged(before: &Node, now: &Node) -> bool {
    let of = |node: &Node| (node.kind, node.size, node.mtime, node.ctime, node.inode);
    of(before) == of(now)
}

/// Returns what is known of a directory on the way to what is backed up.
pub(crate) fn bare_directory(path: &Path, names: &Names) -> Node {
    let name = path.file_name().unwrap_or(OsStr::new("/"));
    let live = fs::symlink_metadata(path).and_then(|facts| node_of(path, name, &facts, names));
    live.ok().filter(|node| node.kind == NodeKind::Dir).unwrap_or_else(|| {
        let mut node = Node::new(name.to_owned(), NodeKind::Dir);
        node.mode = crate::format::node::go_mode(NodeKind::Dir, 0o755);
        node
    })
}
