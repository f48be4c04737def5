//! What the host knows of the monitor before it exists.

use pc_switcher_contract::module::Build;
use pc_switcher_contract::{ModuleName, ModuleSpec, Place};
use serde_json::json;

use crate::config::DiskConfig;

/// Returns the spec; `build` makes the module from its checked table.
pub fn spec(build: Build) -> ModuleSpec {
    ModuleSpec {
        name: ModuleName::literal("disk-monitor"),
        description: "stops a sync before a disk of either machine is full",
        first_sync: None,
        place: Place::Background,
        required: true,
        default_enabled: true,
        table: "disk",
        schema: DiskConfig::schema(),
        defaults: json!(DiskConfig::default()),
        build,
        build_bracket: None,
    }
}
