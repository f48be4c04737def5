//! What applies, written down: TOML with the origin of each key, JSON, and a digest.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json as object};
use sha2::{Digest, Sha256};

use super::effective::Table;

/// Returns the tables as TOML that can be read back; with `origins`, each key says where it comes from.
pub fn toml(tables: &[Table], origins: bool) -> String {
    let mut text = String::new();
    for table in tables.iter().filter(|table| !table.entries.is_empty()) {
        let _ = match (table.name.as_str(), table.index) {
            ("", _) => Ok(()),
            (name, None) => writeln!(text, "\n[{name}]"),
            (name, Some(_)) => writeln!(text, "\n[[{name}]]"),
        };
        let lines: Vec<(String, String)> = table
            .entries
            .iter()
            .map(|entry| (format!("{} = {}", entry.key, literal(&entry.value)), entry.origin.to_string()))
            .collect();
        let width = lines.iter().map(|(line, _)| line.chars().count()).filter(|width| *width <= 50).max();
        for (line, origin) in lines {
            let _ = match origins {
                true => writeln!(text, "{line:width$}  # {origin}", width = width.unwrap_or_default()),
                false => writeln!(text, "{line}"),
            };
        }
    }
    text
}

/// Returns the tables as JSON: values and origins side by side.
pub fn json(tables: &[Table]) -> Value {
    let mut values = serde_json::Map::new();
    let mut origins = serde_json::Map::new();
    for table in tables {
        for entry in &table.entries {
            let name = if table.name.is_empty() {
                entry.key.clone()
            } else {
                format!("{}.{}", title(table), entry.key)
            };
            origins.insert(name, entry.origin.to_string().into());
        }
        match (table.name.as_str(), table.value()) {
            ("", Value::Object(top)) => values.extend(top),
            (name, value) if table.index.is_some() => {
                let list = values.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                list.as_array_mut().into_iter().for_each(|list| list.push(value.clone()));
            }
            (name, value) => {
                values.insert(name.to_owned(), value);
            }
        }
    }
    object!({ "values": values, "origins": origins })
}

/// Returns the name of a table, with its place among several.
fn title(table: &Table) -> String {
    match table.index {
        Some(index) => format!("{}[{index}]", table.name),
        None => table.name.clone(),
    }
}

/// Returns a digest of all values; neither order of keys nor origin changes it, the order of modules does.
pub fn hash(tables: &[Table]) -> String {
    let mut sorted: BTreeMap<(String, &str), (usize, &Value)> = BTreeMap::new();
    for table in tables {
        for (at, entry) in table.entries.iter().enumerate() {
            let place = if table.name == super::SYNC_MODULES { at } else { 0 };
            sorted.insert((title(table), &entry.key), (place, &entry.value));
        }
    }
    let mut digest = Sha256::new();
    for ((table, key), (place, value)) in sorted {
        digest.update(format!("{table}\0{key}\0{place}\0{value}\n"));
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns a value as it stands behind `=`.
pub fn literal(value: &Value) -> String {
    match toml::Value::try_from(value) {
        Ok(value) => value.to_string(),
        Err(_) => value.to_string(),
    }
}
