//! What every module of pc-switcher and its host agree on.
//!
//! Traits, newtypes, events, session states and errors; no I/O, no environment, no clock of its own.
//! A module is written against this crate alone (and the agent's protocol types), and is handed everything
//! it may touch in a [`ModuleContext`].

pub mod agent;
pub mod context;
pub mod error;
pub mod event;
pub mod exec;
pub mod gate;
pub mod ids;
pub mod keep;
pub mod module;
pub mod pair;
pub mod path;
pub mod proven;
pub mod set_id;
pub mod size;
pub mod snapshot;
pub mod state;
pub mod threshold;
pub mod time;
pub mod vital;

pub use agent::{AgentCall, AgentLink, AgentSink, AgentStream, Reply, Uplink};
pub use context::{Clock, Machine, ModuleContext, Role, RunMode, SessionBoard, TargetMachine, WriteLicence};
pub use error::{ErrorKind, ExecError, ModuleError, Problem};
pub use event::{Event, EventKind, LogLevel, Progress, Reporter, Sink};
pub use exec::{Action, Cmd, Executor, Mutation, Output, OutputLine, RemoteExecutor, SendFile, Spawned};
pub use gate::{Answer, Gate, GateKind, Gatekeeper};
pub use ids::{Hostname, IdError, ModuleName, SessionId, SubvolumeName};
pub use module::{
    BracketPhase, Build, BuildBracket, Module, ModuleSpec, Outcome, Place, Plan, PlanItem, Room,
};
pub use pair::{Attempt, Lacking, Manifest, PairEnd, PairRecord, PartRecord, PartRules};
pub use path::BytePath;
pub use proven::{ProvenFile, ProvenList};
pub use set_id::SetId;
pub use size::human_bytes;
pub use snapshot::{Apart, SnapshotKind, SnapshotMember, SnapshotName, SnapshotSet};
pub use state::{Ending, IllegalTransition, ModuleResult, SessionState, Step};
pub use threshold::{Fraction, Threshold};
pub use time::UtcStamp;
pub use vital::{Area, Sentinel, Vital};
