//! What the host knows of the module before it exists.

use std::sync::Arc;

use pc_switcher_contract::{BytePath, Module, ModuleName, ModuleSpec, Place};
use serde::Deserialize;
use serde_json::json;

use crate::config::UserDataConfig;
use crate::module::UserData;

/// Returns the spec. `own` are directories of our own state and configuration, wherever they lie: never mirrored.
pub fn spec(own: Vec<BytePath>) -> ModuleSpec {
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
        build: Arc::new(move |table| {
            let config = UserDataConfig::deserialize(table).map_err(|error| error.to_string())?;
            Ok(Arc::new(UserData::new(config, own.clone())) as Arc<dyn Module>)
        }),
        build_bracket: None,
    }
}
