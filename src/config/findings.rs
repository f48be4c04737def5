//! Everything that is wrong with a file, table by table, with the line of each.

use pc_switcher_contract::ModuleSpec;
use pc_switcher_vault::service::{Mistake, VaultSettings};
use serde_json::{Map, Value};

use super::check::{Finding, against_schema};
use super::document::{child, last_part};
use super::effective::File;
use super::nearest::{nearest, suggest};
use super::probe::ask_owner;
use super::problem::ConfigProblem;
use super::schema::{self, SYNC_MODULES};
use super::tables::{self, TableOf, TableSpec};

/// Returns what is wrong with the values of a file; its syntax errors are known already.
pub fn problems_of(file: File<'_>, specs: &[ModuleSpec]) -> Vec<ConfigProblem> {
    let own = tables::own();
    let all = tables::all(specs, &own);
    let mut problems = Vec::new();
    let mut top = Map::new();
    for (key, value) in &file.document.root {
        if key == tables::VAULTS {
            problems.extend(of_vaults(file, value));
            continue;
        }
        if file.is_below && !tables::BELOW.contains(&key.as_str()) {
            let message = format!("`{key}` is not for this file");
            let at = file.document.key(&child("", key));
            problems.push(file.source.problem(at, message).help("it holds [vault] and [[vaults]] alone"));
            continue;
        }
        let spec = all.iter().find(|spec| spec.name == key);
        if spec.is_none() && key != SYNC_MODULES {
            top.insert(key.clone(), value.clone());
            continue;
        }
        let base = child("", key);
        let Value::Object(table) = value else {
            let message = format!("`{key}` must be a table");
            let problem = file.source.problem(file.document.key(&base), message);
            problems.push(problem.help(format!("write [{key}] on a line of its own")));
            continue;
        };
        let found = match spec {
            Some(spec) => of_table(spec, table),
            None => of_sync_modules(specs, table),
        };
        problems.extend(found.into_iter().map(|finding| locate(file, &base, finding)));
    }
    let found = of_top_level(specs, &all, &top);
    problems.extend(found.into_iter().map(|finding| locate(file, "", finding)));
    problems
}

/// Returns what is wrong with what a file says of vaults, whatever else is.
pub fn problems_of_vaults(file: File<'_>) -> Vec<ConfigProblem> {
    let of_vaults = |(key, value): (&String, &Value)| (key.clone(), value.clone());
    let said = file.document.root.iter().filter(|(key, _)| tables::BELOW.contains(&key.as_str()));
    let mut document = file.document.clone();
    document.root = said.map(of_vaults).collect();
    problems_of(File { document: &document, ..file }, &[])
}

/// Returns what is wrong with the vaults, each by itself and all together.
fn of_vaults(file: File<'_>, value: &Value) -> Vec<ConfigProblem> {
    let base = child("", tables::VAULTS);
    let items = match value {
        Value::Array(items) if items.iter().all(Value::is_object) => items,
        _ => {
            let message = format!("`{}` must be a list of tables", tables::VAULTS);
            let problem = file.source.problem(file.document.key(&base), message);
            return vec![problem.help(format!("write [[{}]] above each of them", tables::VAULTS))];
        }
    };
    let spec = tables::vault();
    let mut problems = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let place = child(&base, &at.to_string());
        let found = item.as_object().map(|table| of_vault(&spec, table)).unwrap_or_default();
        problems.extend(found.into_iter().map(|finding| locate(file, &place, finding)));
        let name = item.get("name").filter(|name| name.is_string());
        if name.is_some() && items[..at].iter().any(|other| other.get("name") == name) {
            let message = format!("two vaults are called {}", name.unwrap_or(&Value::Null));
            problems.push(file.source.problem(file.document.value(&child(&place, "name")), message));
        }
    }
    problems
}

fn of_vault(spec: &TableSpec, table: &Map<String, Value>) -> Vec<Finding> {
    let mut found = against_schema(spec.name, &spec.schema, table);
    // What does not fit the schema is left out for whoever looks at how the rest fits together; what then seems to be missing
    // is no mistake of its own.
    let known: Vec<&str> = found.iter().filter_map(|one| one.pointer.split('/').nth(1)).collect();
    let rest: Map<String, Value> = table
        .iter()
        .filter(|(key, _)| !known.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let is_whole = found.is_empty();
    if !["name", "type"].iter().all(|key| rest.contains_key(*key)) {
        return found;
    }
    let name = table.get("name").and_then(Value::as_str).unwrap_or_default();
    for Mistake { key, why } in VaultSettings::mistakes_of(&Value::Object(rest.clone())) {
        let is_by_itself =
            key.is_some_and(|key| rest.contains_key(key) && !["endpoint", "content"].contains(&key));
        if is_whole || is_by_itself {
            let pointer = key.filter(|key| rest.contains_key(*key)).map(|key| child("", key));
            let message = format!("the vault `{name}` {why}");
            let pointer = pointer.unwrap_or_default();
            found.push(Finding { pointer, about_key: false, vague: false, message, help: None });
        }
    }
    found
}

/// Returns what a person should know of a file that is right: required modules cannot be switched off.
pub fn warnings_of(file: File<'_>, specs: &[ModuleSpec]) -> Vec<ConfigProblem> {
    let table = file.document.root.get(SYNC_MODULES).and_then(Value::as_object);
    let off = table.into_iter().flatten().filter(|(_, value)| **value == Value::Bool(false));
    off.filter(|(key, _)| specs.iter().any(|spec| spec.required && spec.name.as_str() == *key))
        .map(|(key, _)| {
            let at = file.document.key(&child(&child("", SYNC_MODULES), key));
            let message = format!("`{key}` belongs to every sync; `false` has no effect");
            file.source.problem(at, message).help("remove the line")
        })
        .collect()
}

fn of_table(spec: &TableOf<'_>, table: &Map<String, Value>) -> Vec<Finding> {
    let found = against_schema(spec.name, spec.schema, table);
    let known = |pointer: &str| {
        let inside = format!("{pointer}/");
        found.iter().any(|one| !one.vague && (one.pointer == pointer || one.pointer.starts_with(&inside)))
    };
    let itself = |key: &str| found.iter().any(|one| !one.vague && one.pointer == child("", key));
    let mut asked = ask_owner(spec, table, itself);
    asked.retain(|one| !known(&one.pointer));
    let better = |one: &Finding| asked.iter().any(|other| one.pointer.starts_with(&other.pointer));
    let rest: Vec<Finding> = found.iter().filter(|one| !(one.vague && better(one))).cloned().collect();
    asked.extend(rest);
    asked
}

fn of_sync_modules(specs: &[ModuleSpec], table: &Map<String, Value>) -> Vec<Finding> {
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let top = schema::top_level();
    let mut found = against_schema(SYNC_MODULES, &schema::sync_modules(specs), table);
    for finding in found.iter_mut().filter(|finding| finding.about_key) {
        let key = last_part(&finding.pointer);
        finding.message = format!("unknown module `{key}` in [{SYNC_MODULES}]");
        finding.help = Some(if top["properties"].get(&key).is_some() {
            format!("`{key}` stands before the first table, not inside one")
        } else {
            suggest(&key, &names)
        });
    }
    found
}

fn of_top_level(specs: &[ModuleSpec], all: &[TableOf<'_>], top: &Map<String, Value>) -> Vec<Finding> {
    let schema = schema::top_level();
    let mut found = against_schema("", &schema, top);
    let tables = [SYNC_MODULES].into_iter().chain(all.iter().map(|spec| spec.name)).chain(["[vaults]"]);
    let tables: Vec<&str> = tables.collect();
    for finding in found.iter_mut().filter(|finding| finding.about_key) {
        let key = last_part(&finding.pointer);
        let dashed = key.replace('_', "-");
        if top.get(&key).is_some_and(|value| value.is_object() || value.is_array()) {
            finding.message = format!("unknown table [{key}]");
            finding.help = Some(match specs.iter().find(|spec| spec.name.as_str() == dashed) {
                Some(spec) => format!("the table of `{}` is [{}]", spec.name, spec.table),
                None => match nearest(&key, tables.iter().copied()) {
                    Some(near) => format!("did you mean [{near}]?"),
                    None => format!(
                        "the tables are {}",
                        tables.iter().map(|table| format!("[{table}]")).collect::<Vec<_>>().join(", ")
                    ),
                },
            });
        } else if let Some(owner) = owner_of(all, &key) {
            finding.help = Some(format!("`{key}` belongs into [{owner}]"));
        }
    }
    found
}

/// Returns the table that has a key of that name.
fn owner_of<'a>(all: &[TableOf<'a>], key: &str) -> Option<&'a str> {
    all.iter().find(|spec| spec.schema["properties"].get(key).is_some()).map(|spec| spec.name)
}

fn locate(file: File<'_>, base: &str, finding: Finding) -> ConfigProblem {
    let pointer = format!("{base}{}", finding.pointer);
    let document = file.document;
    let at = if finding.about_key { document.key(&pointer) } else { document.value(&pointer) };
    let at = at.or_else(|| document.key(&pointer)).or_else(|| document.key(base));
    ConfigProblem { help: finding.help, ..file.source.problem(at, finding.message) }
}
