//! What the host knows of the module before it exists.

use std::sync::Arc;

use pc_switcher_contract::{Module, ModuleName, ModuleSpec, Place};
use serde::Deserialize;
use serde_json::json;

use super::config::VaultBackupConfig;
use super::module::{Given, VaultBackup};

/// Returns the spec. `given` is what the module works with on this machine.
pub fn spec(given: Given) -> ModuleSpec {
    ModuleSpec {
        name: ModuleName::literal("vault-backup"),
        description: "stores what changed in tracked directories in the vaults, as `bt add` and `bt backup` do",
        first_sync: None,
        place: Place::Sequential,
        required: false,
        default_enabled: false,
        table: "vault-backup",
        schema: VaultBackupConfig::schema(),
        defaults: json!(VaultBackupConfig::default()),
        build: Arc::new(move |table| {
            let config = VaultBackupConfig::deserialize(table).map_err(|error| error.to_string())?;
            Ok(Arc::new(VaultBackup::new(config, given.clone())) as Arc<dyn Module>)
        }),
        build_bracket: None,
    }
}
