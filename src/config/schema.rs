//! The JSON Schema of the whole file, put together from the schemas that the modules declare.

use pc_switcher_contract::{LogLevel, ModuleSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::tables;

/// The name of the table that switches modules on.
pub const SYNC_MODULES: &str = "sync_modules";

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
        let own = tables::own();
        for spec in tables::all(specs, &own) {
            let mut table = spec.schema.clone();
            if let Some(table) = table.as_object_mut() {
                table.remove("$schema");
            }
            properties.insert(spec.name.into(), table);
        }
        let mut vault = tables::vault().schema;
        if let Some(vault) = vault.as_object_mut() {
            vault.remove("$schema");
        }
        let words = "Places that keep versions of files; each stands below [[vaults]].";
        let list = json!({ "type": "array", "description": words, "items": vault });
        properties.insert(tables::VAULTS.into(), list);
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("title".into(), "pc-switcher configuration".into());
        schema.insert("description".into(), "The file `config.toml` of pc-switcher.".into());
    }
    schema
}
