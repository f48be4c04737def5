//! Takes pictures whenever it comes, in the middle of steps too, while a commit goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use pc_switcher_agent::data::apply::Watch;
use pc_switcher_testkit::seed::Random;
use rustix::io::Errno;

use super::camera::{Camera, End, Written};

/// Pictures of one commit; more of them differ little.
const MOST: usize = 60;

/// A thread with a camera.
pub struct Racer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Racer {
    pub fn start(camera: &Camera, mut random: Random) -> Racer {
        let stop = Arc::new(AtomicBool::new(false));
        let (camera, ended) = (camera.clone(), Arc::clone(&stop));
        let thread = spawn(move || {
            let mut taken = 0;
            while !ended.load(Ordering::SeqCst) && taken < MOST {
                sleep(Duration::from_micros(random.below(3000)));
                taken += usize::from(shoot(&camera));
            }
        });
        Racer { stop, thread }
    }

    pub fn join(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
    }
}

/// Has somebody write something and takes a picture; the commit goes on meanwhile.
fn shoot(camera: &Camera) -> bool {
    let mut other = camera.shelf().beside();
    let [before, decisive] = camera.shelf().decides;
    let was_committed = camera.shelf().has_seen(decisive);
    other.disturb();
    other.take("a step", Written::Between);
    // The record is on the disk a moment before its step is told.
    let end = match (was_committed, camera.shelf().has_seen(before)) {
        (true, _) => End::New,
        (false, false) => End::Old,
        (false, true) => End::Either,
    };
    camera.shelf().keep(other, end)
}

/// Lets a commit take its time, so that there is something to see of it.
pub struct Slowly(pub Camera);

impl Watch for Slowly {
    fn after(&self, step: &'static str) -> Result<(), Errno> {
        let pause = {
            let mut shelf = self.0.shelf();
            shelf.note(step);
            shelf.random.below(2000)
        };
        sleep(Duration::from_micros(pause));
        Ok(())
    }
}
