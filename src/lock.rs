//! The front's own lock.
