//! The commands: one `Args` and one `run` each.
