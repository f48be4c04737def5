//! Takes the disks at the steps of an apply or a redo, while others have the kernel write this or that to them.
//!
//! A picture is what the kernel has sent so far. What reaches a disk before a power cut is decided by whoever syncs: the
//! commit itself, the kernel in its own time, any program with its own files. Those others are played here.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pc_switcher_agent::data::apply::Watch;
use pc_switcher_testkit::seed::Random;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::machine::Running;

/// Steps that come once or a few times in a session.
const RARE: [&str; 13] = [
    "entry", "open", "stage", "journal", "sync", "decide", "commit", "list", "done", "retire", "clean up",
    "root", "result",
];

/// What was the last to be written to the disks before a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Written {
    /// What the product itself had synced.
    ByItself,
    /// All that was done so far, on one or all disks.
    Whole,
    /// A file or directory, by a program that synced it alone: btrfs writes a log, which knows nothing of other files.
    Alone,
    /// Whatever there was between two steps.
    Between,
}

/// Which tree must be there after the redo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Old,
    New,
    Either,
}

/// The disks at one moment.
pub struct Photo {
    pub images: Vec<PathBuf>,
    pub when: String,
    pub written: Written,
    pub end: End,
}

/// Stands where the commit can see it.
#[derive(Clone)]
pub struct Camera(Arc<Mutex<Shelf>>);

/// The pictures, and what is needed for the next one.
pub struct Shelf {
    pub running: Running,
    pub random: Random,
    /// Paths that programs may sync, absolute.
    pub paths: Arc<Vec<PathBuf>>,
    /// For the names of images.
    pub name: String,
    /// Percent of all steps of which a picture is taken.
    pub share: u64,
    /// The end whatever the step, or by the steps seen.
    pub end: Option<End>,
    /// The step that decides, and the one before it.
    pub decides: [&'static str; 2],
    seen: Vec<&'static str>,
    photos: Vec<Photo>,
    last: u64,
}

impl Shelf {
    pub fn new(
        running: Running,
        random: Random,
        paths: Arc<Vec<PathBuf>>,
        name: String,
        share: u64,
    ) -> Shelf {
        let last = running.written();
        Shelf {
            running,
            random,
            paths,
            name,
            share,
            end: None,
            decides: ["decide", "commit"],
            seen: Vec::new(),
            photos: Vec::new(),
            last,
        }
    }
}

impl Camera {
    pub fn new(shelf: Shelf) -> Camera {
        Camera(Arc::new(Mutex::new(shelf)))
    }

    pub fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one last picture and returns all.
    pub fn finish(&self) -> Vec<Photo> {
        let mut shelf = self.shelf();
        shelf.take("end", Written::ByItself);
        std::mem::take(&mut shelf.photos)
    }
}

impl Watch for Camera {
    fn after(&self, step: &'static str) -> Result<(), Errno> {
        let mut shelf = self.shelf();
        shelf.note(step);
        let written = shelf.disturb();
        let share = if RARE.contains(&step) { 80 } else { shelf.share };
        if shelf.random.below(100) < share {
            shelf.take(step, written);
        }
        Ok(())
    }
}

impl Shelf {
    pub fn note(&mut self, step: &'static str) {
        self.seen.push(step);
    }

    /// Whether the step was reached.
    pub fn has_seen(&self, step: &str) -> bool {
        self.seen.contains(&step)
    }

    /// Has somebody sync something.
    pub fn disturb(&mut self) -> Written {
        match self.random.below(10) {
            0..=3 => Written::ByItself,
            4..=5 => {
                let parts: Vec<PathBuf> = self.running.parts().collect();
                let all = self.random.below(2) == 0;
                let one = self.random.pick(&parts).clone();
                for part in parts.iter().filter(|part| all || **part == one) {
                    rustix::fs::syncfs(File::open(part).unwrap()).unwrap();
                }
                Written::Whole
            }
            6..=8 => {
                let paths = Arc::clone(&self.paths);
                let done = (0..4).any(|_| fsync(self.random.pick(&paths)));
                if done { Written::Alone } else { Written::ByItself }
            }
            _ => {
                if self.sync_held() {
                    Written::Alone
                } else {
                    Written::ByItself
                }
            }
        }
    }

    /// A program syncs a file that it has open and that was displaced.
    fn sync_held(&mut self) -> bool {
        let inside = |part: PathBuf| {
            let undo = part.join(".pc-switcher").join(format!("undo-{}", super::push::SESSION));
            let entries = std::fs::read_dir(undo).into_iter().flatten();
            entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
        };
        let mut held: Vec<PathBuf> = self.running.parts().flat_map(inside).collect();
        held.sort();
        !held.is_empty() && fsync(self.random.pick(&held))
    }

    /// Returns a shelf for one picture beside the steps.
    pub fn beside(&mut self) -> Shelf {
        let luck = Random::new(self.random.below(u64::MAX));
        let name = format!("{}-b{}", self.name, self.photos.len());
        let (seen, last, decides) = (self.seen.clone(), self.last, self.decides);
        Shelf {
            seen,
            last,
            decides,
            ..Shelf::new(self.running.clone(), luck, Arc::clone(&self.paths), name, 0)
        }
    }

    /// Takes over what was taken beside the steps; returns whether that was anything.
    pub fn keep(&mut self, other: Shelf, end: End) -> bool {
        let taken = !other.photos.is_empty();
        self.last = other.last;
        self.photos.extend(other.photos.into_iter().map(|photo| Photo { end, ..photo }));
        taken
    }

    /// Takes a picture, unless the disks are as in the last one.
    pub fn take(&mut self, step: &str, written: Written) {
        if self.running.written() != self.last {
            self.take_anyhow(step, written);
        }
    }

    /// Takes a picture.
    pub fn take_anyhow(&mut self, step: &str, written: Written) {
        self.last = self.running.written();
        let number = self.seen.len();
        let end = self.end.unwrap_or(if self.has_seen(self.decides[1]) { End::New } else { End::Old });
        let images = self.running.photograph(&format!("{}-{number}-{}", self.name, self.photos.len()));
        let when = format!("after {number} `{step}`, written {written:?}");
        self.photos.push(Photo { images, when, written, end });
    }
}

/// Syncs one file or directory, as a program with that file open does.
fn fsync(path: &PathBuf) -> bool {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(path);
    file.is_ok_and(|file| file.sync_all().is_ok())
}
