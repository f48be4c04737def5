//! Finds what a schema cannot say: asks whoever reads the table, key by key, so that its answer has a line.
//!
//! A module refuses a table with one text. To know which keys it is about, it is asked again with
//! one of the user's keys over its defaults at a time, and with one entry of a list or of a table at a time.

use serde_json::{Map, Value};

use super::check::{Finding, label};
use super::document::child;
use super::tables::TableOf;

/// Returns what whoever reads `table` refuses in it; keys for which `skip` is true are known to be wrong already.
pub fn ask_owner(
    spec: &TableOf<'_>,
    table: &Map<String, Value>,
    skip: impl Fn(&str) -> bool,
) -> Vec<Finding> {
    let known: Map<String, Value> =
        table.iter().filter(|(key, _)| !skip(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
    let Err(whole) = ask(spec, &known) else { return Vec::new() };
    let mut findings = Vec::new();
    for (key, value) in &known {
        let pointer = child("", key);
        let Err(why) = ask(spec, &single(key, value.clone())) else { continue };
        let before = findings.len();
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            if let Err(why) = ask(spec, &single(key, Value::Array(vec![item.clone()]))) {
                findings.push(finding(spec, &child(&pointer, &index.to_string()), &pointer, &why));
            }
        }
        for (name, inner) in value.as_object().into_iter().flatten() {
            let one = Value::Object(single(name, inner.clone()));
            if let Err(why) = ask(spec, &single(key, one)) {
                findings.push(finding(spec, &child(&pointer, name), &pointer, &why));
            }
        }
        if findings.len() == before {
            findings.push(finding(spec, &pointer, &pointer, &why));
        }
    }
    if findings.is_empty() {
        let message = format!("[{}]: {whole}", spec.name);
        findings.push(Finding {
            pointer: String::new(),
            about_key: false,
            vague: false,
            message,
            help: None,
        });
    }
    findings
}

fn single(key: &str, value: Value) -> Map<String, Value> {
    [(key.to_owned(), value)].into_iter().collect()
}

/// Asks with the given keys over the defaults.
fn ask(spec: &TableOf<'_>, over: &Map<String, Value>) -> Result<(), String> {
    let mut table = spec.defaults.clone();
    if let Some(table) = table.as_object_mut() {
        table.extend(over.clone());
    }
    (spec.check)(&table)
}

fn finding(spec: &TableOf<'_>, pointer: &str, key: &str, why: &str) -> Finding {
    let message = format!("{}: {why}", label(spec.name, key));
    Finding { pointer: pointer.into(), about_key: false, vague: false, message, help: None }
}
