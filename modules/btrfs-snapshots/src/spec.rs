//! What the host knows of the bracket before it exists.

use std::sync::Arc;

use pc_switcher_contract::module::Build;
use pc_switcher_contract::{BracketPhase, Module, ModuleName, ModuleSpec, Place};
use serde_json::{Value, json};

use crate::config::BtrfsSnapshotsConfig;

/// Makes the instance of one phase from the checked table.
pub type BuildPhase = Arc<dyn Fn(&Value, BracketPhase) -> Result<Arc<dyn Module>, String> + Send + Sync>;

/// Returns the spec; `build` makes the instance of either phase.
pub fn spec(build: BuildPhase) -> ModuleSpec {
    let phases = build.clone();
    let first: Build = Arc::new(move |table| build(table, BracketPhase::Pre));
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
        build: first,
        build_bracket: Some(phases),
    }
}
