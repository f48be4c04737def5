//! The JSON Schema of the whole file, put together from the schemas that the modules declare.

use pc_switcher_contract::{LogLevel, ModuleSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::rollback::RollbackConfig;

/// The name of the table that switches modules on.
pub const SYNC_MODULES: &str = "sync_modules";

/// The name of the table about going back.
pub const ROLLBACK: &str = "rollback";

/// A table that belongs to no module.
pub struct CoreTable {
    /// Its name.
    pub name: &'static str,
    /// Its JSON Schema.
    pub schema: Value,
    /// Its keys with their defaults.
    pub defaults: Value,
}

/// Returns the tables that belong to no module.
pub fn core_tables() -> [CoreTable; 1] {
    let rollback = RollbackConfig::default();
    [CoreTable { name: ROLLBACK, schema: RollbackConfig::schema(), defaults: json!(rollback) }]
}

/// The keys that stand before the first table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TopLevel {
    /// What the log file of a session holds: this level and graver ones.
    pub log_file_level: LogLevel,
    /// What the terminal shows: this level and graver ones.
    pub log_cli_level: LogLevel,
    /// Whether folders that do not lie on btrfs are synced, without snapshots and with weaker promises.
    pub allow_no_snapshots: bool,
}

/// Returns the schema of the keys before the first table.
pub fn top_level() -> Value {
    let mut schema = schemars::generate::SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<TopLevel>()
        .to_value();
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("required");
    }
    schema
}

/// Returns the schema of `[sync_modules]`: every registered module, true or false.
pub fn sync_modules(specs: &[ModuleSpec]) -> Value {
    let modules: Map<String, Value> = specs
        .iter()
        .map(|spec| {
            let always = if spec.required { " (always on: the value has no effect)" } else { "" };
            let description = format!("{}{always}", spec.description);
            (spec.name.to_string(), json!({ "type": "boolean", "description": description }))
        })
        .collect();
    json!({
        "type": "object",
        "description": "What a sync does; the order is the order of work. What is not listed is off.",
        "properties": modules,
        "additionalProperties": false,
    })
}

/// Returns the schema of the whole file.
pub fn whole(specs: &[ModuleSpec]) -> Value {
    let mut schema = top_level();
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert(SYNC_MODULES.into(), sync_modules(specs));
        let of_modules = specs.iter().map(|spec| (spec.table, spec.schema.clone()));
        let others = core_tables().into_iter().map(|core| (core.name, core.schema));
        for (name, mut table) in of_modules.chain(others) {
            if let Some(table) = table.as_object_mut() {
                table.remove("$schema");
            }
            properties.insert(name.into(), table);
        }
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("title".into(), "pc-switcher configuration".into());
        schema.insert("description".into(), "The file `config.toml` of pc-switcher.".into());
    }
    schema
}
