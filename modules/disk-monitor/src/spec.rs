//! What the host knows of the monitor before it exists.

use std::sync::Arc;

use pc_switcher_contract::{Module, ModuleName, ModuleSpec, Place};
use serde::Deserialize;
use serde_json::json;

use crate::config::DiskConfig;
use crate::module::DiskMonitor;

/// Returns the spec.
pub fn spec() -> ModuleSpec {
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
        build: Arc::new(|table| {
            let config = DiskConfig::deserialize(table).map_err(|error| error.to_string())?;
            Ok(Arc::new(DiskMonitor::new(config)) as Arc<dyn Module>)
        }),
        build_bracket: None,
    }
}
