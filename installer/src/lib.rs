//! Brings pc-switcher onto a machine and keeps it current.
//!
//! A target is probed in one round trip, a pure function decides, and our own binary travels over the session that is
//! there already: no network, no interpreter and no package manager is needed on the other side. A pushed binary is
//! inert: it lies in a runtime directory until the agent that runs from it is asked to install it.
//! `install.sh` beside this crate does the same for the first machine.

mod decide;
mod places;
mod probe;
mod push;

pub use decide::{Decision, Own, decide};
pub use places::{LIB_DIR, STABLE_PATH, sudoers_file, sudoers_line, versioned_path};
pub use probe::{Installed, Probe, ProbeError, SudoState, probe, probe_command};
pub use push::{PushError, Pushed, digest, push, remove_pushed};
