//! `status`: where this machine stands.

/// Show the last sync, a running one, and what a dead one left behind
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {}
