//! What the host knows of the bracket before it exists.

use std::sync::Arc;

use pc_switcher_contract::{BracketPhase, Module, ModuleName, ModuleSpec, Place};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::BtrfsSnapshotsConfig;
use crate::module::BtrfsSnapshots;

/// Makes the instance of one phase from the checked table.
fn build(table: &Value, phase: BracketPhase) -> Result<Arc<dyn Module>, String> {
    let config = BtrfsSnapshotsConfig::deserialize(table).map_err(|error| error.to_string())?;
    Ok(Arc::new(BtrfsSnapshots::new(config, phase)))
}

/// Returns the spec.
pub fn spec() -> ModuleSpec {
    ModuleSpec {
        name: ModuleName::literal("btrfs-snapshots"),
        description: "read-only snapshots before and after a sync, on both machines",
        first_sync: None,
        place: Place::Bracket,
        required: true,
        default_enabled: true,
        table: "btrfs-snapshots",
        schema: BtrfsSnapshotsConfig::schema(),
        defaults: json!(BtrfsSnapshotsConfig::default()),
        build: Arc::new(|table| build(table, BracketPhase::Pre)),
        build_bracket: Some(Arc::new(build)),
    }
}
