//! What the host knows of the two modules before they exist.

use std::sync::Arc;

use pc_switcher_contract::{ModuleName, ModuleSpec, Place};
use serde::Deserialize;
use serde_json::json;

use crate::config::{FailConfig, SuccessConfig};
use crate::fail::DummyFail;
use crate::success::DummySuccess;

/// Returns the spec of `dummy-success`.
pub fn success() -> ModuleSpec {
    ModuleSpec {
        name: ModuleName::literal("dummy-success"),
        description: "test module: works for a while and changes nothing",
        first_sync: None,
        place: Place::Sequential,
        required: false,
        default_enabled: false,
        table: "dummy-success",
        schema: SuccessConfig::schema(),
        defaults: json!(SuccessConfig::default()),
        build: Arc::new(|table| {
            let config = SuccessConfig::deserialize(table).map_err(|error| error.to_string())?;
            Ok(Arc::new(DummySuccess::new(config)))
        }),
        build_bracket: None,
    }
}

/// Returns the spec of `dummy-fail`.
pub fn fail() -> ModuleSpec {
    ModuleSpec {
        name: ModuleName::literal("dummy-fail"),
        description: "test module: fails where and how it is told to",
        first_sync: None,
        place: Place::Sequential,
        required: false,
        default_enabled: false,
        table: "dummy-fail",
        schema: FailConfig::schema(),
        defaults: json!(FailConfig::default()),
        build: Arc::new(|table| {
            let config = FailConfig::deserialize(table).map_err(|error| error.to_string())?;
            Ok(Arc::new(DummyFail::new(config)))
        }),
        build_bracket: None,
    }
}
