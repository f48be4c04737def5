//! Test support: modelling fakes, an S3 server, and the two-machine lab.

pub mod lab;
pub mod manifest;
pub mod model;
pub mod peak;
pub mod s3;
pub mod seed;
pub mod vm;
pub mod vm_thin;

/// The stages that a sync with `user-data` alone says, in their order.
pub const STAGES: [&str; 14] = [
    "start-agent",
    "connect",
    "history",
    "pre-snapshots",
    "module:user-data",
    "compare",
    "stage",
    "commit",
    "committing",
    "post-snapshots",
    "verify",
    "record",
    "tidy",
    "cleanup",
];
