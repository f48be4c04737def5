//! What the host knows of the module before it exists.

use pc_switcher_contract::module::Build;
use pc_switcher_contract::{ModuleName, ModuleSpec, Place};
use serde_json::json;

use crate::config::UserDataConfig;

/// Returns the spec; `build` makes the module from its checked table.
pub fn spec(build: Build) -> ModuleSpec {
    ModuleSpec {
        name: ModuleName::literal("user-data"),
        description: "mirrors folders such as /home from a snapshot",
        first_sync: Some("the folders of [user-data] become what they are on the machine you come from"),
        place: Place::Sequential,
        required: false,
        default_enabled: true,
        table: "user-data",
        schema: UserDataConfig::schema(),
        defaults: json!(UserDataConfig::default()),
        build,
        build_bracket: None,
    }
}
