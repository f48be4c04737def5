//! Everything that is wrong with a file, table by table, with the line of each.

use pc_switcher_contract::ModuleSpec;
use serde_json::{Map, Value};

use super::check::{Finding, against_schema};
use super::document::{child, last_part};
use super::effective::File;
use super::nearest::{nearest, suggest};
use super::probe::ask_module;
use super::problem::ConfigProblem;
use super::schema::{self, CoreTable, SYNC_MODULES};

/// Returns what is wrong with the values of a file; its syntax errors are known already.
pub fn problems_of(file: File<'_>, specs: &[ModuleSpec]) -> Vec<ConfigProblem> {
    let mut problems = Vec::new();
    let mut top = Map::new();
    let core_tables = schema::core_tables();
    for (key, value) in &file.document.root {
        let spec = specs.iter().find(|spec| spec.table == key);
        let core = core_tables.iter().find(|core| core.name == key);
        if spec.is_none() && core.is_none() && key != SYNC_MODULES {
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
        let found = match (spec, core) {
            (Some(spec), _) => of_module(spec, table),
            (None, Some(core)) => against_schema(core.name, &core.schema, table),
            (None, None) => of_sync_modules(specs, table),
        };
        problems.extend(found.into_iter().map(|finding| locate(file, &base, finding)));
    }
    let found = of_top_level(specs, &core_tables, &top);
    problems.extend(found.into_iter().map(|finding| locate(file, "", finding)));
    problems
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

fn of_module(spec: &ModuleSpec, table: &Map<String, Value>) -> Vec<Finding> {
    let found = against_schema(spec.table, &spec.schema, table);
    let known = |pointer: &str| {
        let inside = format!("{pointer}/");
        found.iter().any(|one| !one.vague && (one.pointer == pointer || one.pointer.starts_with(&inside)))
    };
    let itself = |key: &str| found.iter().any(|one| !one.vague && one.pointer == child("", key));
    let mut asked = ask_module(spec, table, itself);
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

fn of_top_level(specs: &[ModuleSpec], core: &[CoreTable], top: &Map<String, Value>) -> Vec<Finding> {
    let schema = schema::top_level();
    let mut found = against_schema("", &schema, top);
    let others = specs.iter().map(|spec| spec.table).chain(core.iter().map(|core| core.name));
    let tables: Vec<&str> = [SYNC_MODULES].into_iter().chain(others).collect();
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
        } else if let Some(owner) = owner_of(specs, core, &key) {
            finding.help = Some(format!("`{key}` belongs into [{owner}]"));
        }
    }
    found
}

/// Returns the table that has a key of that name.
fn owner_of<'a>(specs: &'a [ModuleSpec], core: &[CoreTable], key: &str) -> Option<&'a str> {
    let of_modules = specs.iter().map(|spec| (spec.table, &spec.schema));
    let mut all = of_modules.chain(core.iter().map(|core| (core.name, &core.schema)));
    all.find(|(_, schema)| schema["properties"].get(key).is_some()).map(|(name, _)| name)
}

fn locate(file: File<'_>, base: &str, finding: Finding) -> ConfigProblem {
    let pointer = format!("{base}{}", finding.pointer);
    let document = file.document;
    let at = if finding.about_key { document.key(&pointer) } else { document.value(&pointer) };
    let at = at.or_else(|| document.key(&pointer)).or_else(|| document.key(base));
    ConfigProblem { help: finding.help, ..file.source.problem(at, finding.message) }
}
