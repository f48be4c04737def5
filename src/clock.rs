//! The one source of the time.
