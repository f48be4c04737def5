//! Boots an image and judges it: before the redo each path, after it the whole tree.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pc_switcher_agent::data::apply::{Record, Unwatched, Watch, list_of, read_list};
use pc_switcher_agent::linux::services::{AgentOptions, HistoryKeeper, redo_alone};
use pc_switcher_agent::proto::{Redone, RedoneHow};
use pc_switcher_testkit::seed::Random;

use super::camera::{Camera, End, Photo, Shelf, Written};
use super::machine::{Machine, Running};
use super::push::{SESSION, pre_set};
use super::trees::{Change, Trees, check_leaks};

/// Nobody asks for the history.
struct NoHistory;

impl HistoryKeeper for NoHistory {
    fn put(&self, _: &Path, _: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn list(&self, _: &Path, _: usize) -> Result<Vec<Vec<u8>>, String> {
        Ok(Vec::new())
    }
}

/// What there is to be judged against.
pub struct Court {
    pub change: Change,
    /// Steps of the plan.
    pub ops: usize,
    /// Paths that programs sync.
    pub paths: Arc<Vec<PathBuf>>,
}

/// What became of an image.
pub struct Verdict {
    pub end: End,
    /// Whether the redo found something to do.
    pub was_pending: bool,
    /// Pictures of the redo, if they were asked for.
    pub photos: Vec<Photo>,
}

impl Court {
    /// Judges a machine that has just been booted from `photo`. With `luck` the redo is watched by a camera, too.
    pub fn judge(
        &self,
        machine: &Machine,
        photo: &Photo,
        luck: Option<(Random, String)>,
    ) -> Result<Verdict, String> {
        let running = machine.running();
        let now = Trees::read(running.parts());
        let is_between = photo.written == Written::Between;
        self.change
            .check_paths(&now, photo.end, is_between)
            .map_err(|why| format!("before the redo: {why}"))?;
        let was_pending = !running.state().list("commits").unwrap().is_empty();
        let camera = luck.filter(|_| was_pending).map(|(random, name)| {
            let mut shelf = Shelf::new(running.clone(), random, Arc::clone(&self.paths), name, 12);
            // Whatever the image was, a redo that is cut off leads to the same end.
            shelf.end = Some(photo.end);
            Camera::new(shelf)
        });
        let watch: Box<dyn Watch> = match &camera {
            Some(camera) => Box::new(camera.clone()),
            None => Box::new(Unwatched),
        };
        let results = redo(running, watch)?;
        let photos = camera.map(|camera| camera.finish()).unwrap_or_default();
        let now = Trees::read(running.parts());
        let end = self
            .change
            .check_end(&now, photo.end)
            .map_err(|why| format!("after the redo: {why}, {results:?}"))?;
        check_results(&results, end, was_pending)?;
        for result in &results {
            running.state().put(&result.key(), None).map_err(|error| error.message)?;
        }
        for part in running.parts() {
            let undo = format!("undo-{SESSION}");
            // Without a pre set displaced versions stay until the next sync.
            let may_stay = (end == End::New && !running.layout.is_btrfs()).then_some(undo.as_str());
            check_leaks(&part, running.state().root(), may_stay)?;
        }
        if end == End::New && running.layout.is_btrfs() {
            self.check_list(running)?;
        }
        match redo(running, Box::new(Unwatched))?.as_slice() {
            [] => Ok(Verdict { end, was_pending, photos }),
            again => Err(format!("a second redo found something to do: {again:?}")),
        }
    }

    /// The list of steps lies whole with the pre set.
    fn check_list(&self, running: &Running) -> Result<(), String> {
        let dir = list_of(&pre_set(running)).unwrap();
        let records =
            read_list(dir.as_path()).unwrap().ok_or(format!("there is no list of steps in `{dir}`"))?;
        let (mut ops, mut ended) = (0, false);
        for record in records {
            match record.map_err(|error| error.to_string())? {
                Record::Ops { ops: more, .. } => ops += more.len(),
                Record::Left(_) => ended = true,
                _ => {}
            }
        }
        match ended && ops == self.ops {
            true => Ok(()),
            false => Err(format!("the list of steps has {ops} of {}, ended: {ended}", self.ops)),
        }
    }
}

/// Runs what the unit runs at boot.
fn redo(running: &Running, watch: Box<dyn Watch>) -> Result<Vec<Redone>, String> {
    let mut options = AgentOptions::new("0", Box::new(NoHistory));
    options.state_dir = running.state().root().to_owned();
    options.lock_path = running.root.with_file_name("lock");
    options.watch = watch;
    let results = redo_alone(&options).map_err(|error| format!("the redo failed: {}", error.message))?;
    results.ok_or("somebody holds the machine's lock".into())
}

fn check_results(results: &[Redone], end: End, was_pending: bool) -> Result<(), String> {
    for result in results {
        let fits = match end {
            End::New => result.how == RedoneHow::Finished,
            _ => result.how == RedoneHow::Dropped,
        };
        if !fits || !result.report.conflicts.is_empty() || !result.report.kept.is_empty() {
            return Err(format!("the redo says: {result:?}"));
        }
    }
    match was_pending && results.is_empty() {
        true => Err("the redo says nothing".into()),
        false => Ok(()),
    }
}
