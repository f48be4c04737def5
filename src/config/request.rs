//! What the command line asks for, as values that the layers below understand.

use pc_switcher_contract::{GateKind, LogLevel, ModuleName};

/// What the command line says about the config.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--only`: these modules alone, as they were typed.
    pub only: Vec<String>,
    /// `--skip`: all but these modules, as they were typed.
    pub skip: Vec<String>,
    /// `--log-level`.
    pub log_cli_level: Option<LogLevel>,
}

/// One sync as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncRequest {
    /// What the user typed for the target: an ssh alias or a host name.
    pub target: String,
    /// Whether nothing is written on either machine.
    pub dry_run: bool,
    /// Whether harmless questions are answered with yes; never a gate.
    pub yes: bool,
    /// The gates that a flag or the config opens.
    pub open_gates: Vec<GateKind>,
    /// Whether events go to standard output as JSON lines.
    pub json: bool,
    /// Whether bars are shown if there is a terminal.
    pub progress: bool,
    /// The modules that run, in order; the brackets are not among them.
    pub modules: Vec<ModuleName>,
}
