//! Holds one table against its JSON Schema and says in plain words what does not fit.

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind as Kind;
use serde_json::{Map, Value};

use super::document::{child, last_part};
use super::nearest::{nearest, one_of, suggest};

/// Something in a table that does not fit, by its JSON pointer within the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The member it is about.
    pub pointer: String,
    /// Whether the key itself is wrong, not its value.
    pub about_key: bool,
    /// Whether the module's own words about the same member are better.
    pub vague: bool,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

/// Returns everything in `table` that does not fit `schema`; `title` is the table's name, empty for the top level.
pub fn against_schema(title: &str, schema: &Value, table: &Map<String, Value>) -> Vec<Finding> {
    let instance = Value::Object(table.clone());
    let mut findings: Vec<Finding> = floats_for_integers(title, schema, table);
    match jsonschema::validator_for(schema) {
        Ok(validator) => {
            for error in validator.iter_errors(&instance) {
                findings.extend(findings_of(title, schema, &error));
            }
        }
        Err(error) => findings.push(value_finding("", format!("the schema of [{title}] is broken: {error}"))),
    }
    let mut seen = std::collections::BTreeSet::new();
    findings.retain(|finding| seen.insert(finding.pointer.clone()));
    findings
}

/// Returns the name of a member for people: `` `min_free` in [disk] ``.
pub fn label(title: &str, pointer: &str) -> String {
    let mut parts = pointer.split('/').skip(1);
    let mut name = parts.next().unwrap_or_default().replace("~1", "/").replace("~0", "~");
    for part in parts {
        match part.parse::<usize>() {
            Ok(index) => name.push_str(&format!("[{index}]")),
            Err(_) => name.push_str(&format!(".{part}")),
        }
    }
    if title.is_empty() { format!("`{name}`") } else { format!("`{name}` in [{title}]") }
}

/// A float without a fraction passes as an integer in JSON Schema; here it is a slip.
fn floats_for_integers(title: &str, schema: &Value, table: &Map<String, Value>) -> Vec<Finding> {
    let wants_integer = |key: &str| schema["properties"][key]["type"] == "integer";
    table
        .iter()
        .filter(|(key, value)| value.is_f64() && wants_integer(key))
        .map(|(key, value)| {
            let pointer = child("", key);
            let message = format!("{} must be an integer, not the float {value}", label(title, &pointer));
            value_finding(&pointer, message)
        })
        .collect()
}

fn value_finding(pointer: &str, message: String) -> Finding {
    Finding { pointer: pointer.into(), about_key: false, vague: false, message, help: None }
}

fn findings_of(title: &str, schema: &Value, error: &ValidationError<'_>) -> Vec<Finding> {
    let pointer = error.instance_path().as_str();
    let at = error.schema_path().as_str();
    let node = schema.pointer(at.rsplit_once('/').map_or("", |(node, _)| node)).unwrap_or(&Value::Null);
    let name = label(title, pointer);
    let value = error.instance().as_ref();
    let say = |message: String| value_finding(pointer, message);
    let finding = match error.kind() {
        Kind::AdditionalProperties { unexpected } => {
            let keys: Vec<&str> = node["properties"]
                .as_object()
                .map(|keys| keys.keys().map(String::as_str).collect())
                .unwrap_or_default();
            return unexpected.iter().map(|key| unknown_key(title, &child(pointer, key), &keys)).collect();
        }
        Kind::Type { .. } => say(format!("{name} must be {}, not {}", wanted(node), article(kind_of(value)))),
        Kind::Enum { .. } | Kind::OneOfNotValid { .. } | Kind::AnyOf { .. } => {
            let allowed = allowed_values(node);
            let mut finding =
                Finding { vague: allowed.is_empty(), ..say(format!("{name} cannot be {value}")) };
            finding.help = Some(match (allowed.as_slice(), value) {
                ([], _) => format!("expected {}", wanted(node)),
                (allowed, Value::String(text)) => match nearest(text, allowed.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`? {}", one_of(allowed)),
                    None => one_of(allowed),
                },
                (allowed, _) => one_of(allowed),
            });
            finding
        }
        Kind::Minimum { limit } => say(format!("{name} must be at least {limit}, not {value}")),
        Kind::ExclusiveMinimum { limit } => say(format!("{name} must be more than {limit}, not {value}")),
        Kind::Maximum { limit } => say(format!("{name} must be at most {limit}, not {value}")),
        Kind::ExclusiveMaximum { limit } => say(format!("{name} must be less than {limit}, not {value}")),
        Kind::MinItems { limit } => say(format!("{name} needs at least {limit} entry, and is empty")),
        Kind::MinLength { .. } => say(format!("{name} must not be empty")),
        Kind::Required { property } => {
            let wanted = property.as_str().unwrap_or_default();
            value_finding(pointer, format!("a table of [{title}] lacks `{wanted}`"))
        }
        Kind::UniqueItems => {
            let (index, item) = repeated(value);
            value_finding(&child(pointer, &index.to_string()), format!("{name} names {item} twice"))
        }
        Kind::Pattern { .. } => Finding { vague: true, ..say(format!("{name} cannot be {value}")) },
        _ => Finding { vague: true, ..say(format!("{name}: {error}")) },
    };
    vec![finding]
}

fn unknown_key(title: &str, pointer: &str, keys: &[&str]) -> Finding {
    let message = format!("unknown key {}", label(title, pointer));
    let help = Some(suggest(&last_part(pointer), keys));
    Finding { pointer: pointer.into(), about_key: true, vague: false, message, help }
}

/// Returns what a schema wants, in words.
fn wanted(node: &Value) -> String {
    match (&node["type"], &node["description"]) {
        (Value::String(kind), _) => article(kind),
        (_, Value::String(words)) => words.trim_end_matches('.').to_owned(),
        _ => "another value".into(),
    }
}

/// Returns the words that a schema allows, if it is a list of words.
pub fn allowed_values(node: &Value) -> Vec<&str> {
    let listed = node["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let described = node["oneOf"].as_array().into_iter().flatten().filter_map(|one| one["const"].as_str());
    listed.chain(described).collect()
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "table",
    }
}

fn article(kind: &str) -> String {
    match kind {
        "integer" | "array" => format!("an {kind}"),
        "object" => "a table".into(),
        _ => format!("a {kind}"),
    }
}

/// Returns the first item that stands in the list before.
fn repeated(list: &Value) -> (usize, &Value) {
    let items = list.as_array().map_or(&[][..], Vec::as_slice);
    let again = items.iter().enumerate().find(|(at, item)| items[..*at].contains(item));
    again.unwrap_or((0, &Value::Null))
}
