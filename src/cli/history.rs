//! `history`: past sessions, newest first.

/// List past sessions, the newest first
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How many to show; 0 shows all
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
}
