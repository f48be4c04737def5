//! A modelled machine: a directory is its disk, threads are its agent, no root and no network.
//!
//! The agent is the real one where it reads, compares, stages and commits ([`pc_switcher_agent::data`]), keeps state, takes
//! the lock and talks ([`pc_switcher_agent::server`]). Modelled are subvolumes, snapshots (copies that remember the inodes
//! they were taken of), free space and processes. Time is the runtime's: while an agent works a paused clock stands still,
//! so that waits cost nothing and nothing times out because a test machine is slow.
//!
//! [`Script`] numbers the calls to such machines and makes one of them fail, hang or lose its machine.

mod copy;
mod disk;
mod executor;
mod faulty;
mod link;
mod pipe;
mod script;
mod services;

pub use disk::Disk;
pub use executor::ModelExecutor;
pub use faulty::{Cut, FaultyExecutor, FaultyLink};
pub use link::ModelLink;
pub use script::{At, CallKey, Fault, How, Script, Seen};

use std::sync::{Mutex, MutexGuard, PoisonError};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
