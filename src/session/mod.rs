//! The state of one sync and its report.
