//! A unit of work and how the host learns about it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::context::{ModuleContext, Role};
use crate::error::{ErrorKind, ModuleError, Problem};
use crate::ids::ModuleName;
use crate::path::BytePath;
use crate::threshold::Threshold;

/// Where a module stands in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Around all sequential modules; placed by the orchestrator.
    Bracket,
    /// One after the other, in the order of the config file.
    Sequential,
    /// Beside the run, from before the first change to cleanup.
    Background,
}

/// Which part of a bracket an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BracketPhase {
    /// Before the first change, on both machines.
    Pre,
    /// After the last change, on one machine.
    Post(Role),
}

/// One line of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanItem {
    /// What happens, a kebab-case word: `create`, `update`, `delete`, `metadata`, `conflict`.
    pub action: String,
    /// To which path.
    pub path: BytePath,
    /// How many bytes it moves.
    pub bytes: u64,
}

/// What a module would do; the same code serves the dry run and the real run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// A line for people.
    pub summary: String,
    /// Counts by action, in the order of importance.
    pub counts: Vec<(String, u64)>,
    /// Bytes to move.
    pub bytes: u64,
    /// Every change.
    pub items: Vec<PlanItem>,
    /// What a person should know before it runs.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// How a module that ended well ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It did its work; the text is for the report.
    Done(String),
    /// It did its work, but for things that it named one by one. The run goes on and fails in the end; what the two machines
    /// have in common is recorded all the same. The sort of failure decides the exit code.
    Partly(String, ErrorKind),
    /// It wrote nothing; the text says why. Claimed before the first write only.
    Skipped(String),
}

/// What came of making room, from the least on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// Nothing was removed.
    Nothing,
    /// Something was, and it is not enough.
    Some,
    /// Something was, and there is enough now.
    Enough,
}

/// A unit of work. It keeps no state between calls: only their order matters.
#[async_trait]
pub trait Module: Send + Sync {
    /// Returns its unique name.
    fn name(&self) -> &ModuleName;

    /// Looks for all problems on both machines; changes nothing.
    ///
    /// # Errors
    /// Only if it could not look.
    async fn validate(&self, ctx: &ModuleContext) -> Result<Vec<Problem>, ModuleError>;

    /// Removes what it keeps on either machine and can spare, since less than `wanted` is available: to begin, or to go on.
    /// Never called in a dry run.
    ///
    /// # Errors
    /// If it could not look.
    async fn make_room(&self, _ctx: &ModuleContext, _wanted: Threshold) -> Result<Room, ModuleError> {
        Ok(Room::Nothing)
    }

    /// Says what a real run would do; changes nothing.
    async fn plan(&self, ctx: &ModuleContext) -> Result<Plan, ModuleError>;

    /// Does the work. Never called in a dry run.
    async fn execute(&self, ctx: &ModuleContext) -> Result<Outcome, ModuleError>;

    /// Reads the result again and compares it with what was wanted. Called after the target's post set.
    async fn verify(&self, ctx: &ModuleContext) -> Result<Vec<Problem>, ModuleError>;

    /// Tidies up after a sync that completed and was recorded, within half a minute. What fails here is a warning.
    ///
    /// # Errors
    /// If it could not look.
    async fn tidy(&self, _ctx: &ModuleContext) -> Result<(), ModuleError> {
        Ok(())
    }

    /// Ends what it started and frees what it holds, within `timeout`. Called on the running module alone.
    async fn abort(&self, ctx: &ModuleContext, timeout: Duration);
}

/// Builds a module from its checked table.
pub type Build = Arc<dyn Fn(&Value) -> Result<Arc<dyn Module>, String> + Send + Sync>;

/// Builds one phase of a bracket from its checked table.
pub type BuildBracket = Arc<dyn Fn(&Value, BracketPhase) -> Result<Arc<dyn Module>, String> + Send + Sync>;

/// What the host knows of a module before it exists.
#[derive(Clone)]
pub struct ModuleSpec {
    /// Its name.
    pub name: ModuleName,
    /// One line for `modules list`.
    pub description: &'static str,
    /// What its first sync overwrites, one line for the gate; `None` if nothing.
    pub first_sync: Option<&'static str>,
    /// Where it stands in a run.
    pub place: Place,
    /// Whether config cannot switch it off.
    pub required: bool,
    /// Whether it is on when the config does not say.
    pub default_enabled: bool,
    /// The name of its table, usually its own.
    pub table: &'static str,
    /// The JSON Schema of its table.
    pub schema: Value,
    /// Its table with all defaults filled in.
    pub defaults: Value,
    /// Makes it from its checked table.
    pub build: Build,
    /// For a bracket: makes the instance of one phase; `build` makes [`BracketPhase::Pre`].
    pub build_bracket: Option<BuildBracket>,
}
