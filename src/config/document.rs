//! A config file as values with the place of every key: parsed once, all syntax errors in one pass.
//!
//! Places are kept beside the values under their JSON pointers, since that is how the schema check names
//! what it found. `_` is read as `-` in the names of modules and of their tables.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::ConfigProblem;
use super::source::Source;

/// The place of a key and of its value, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    key: Range<usize>,
    value: Range<usize>,
}

/// Values and places of one file.
#[derive(Debug, Clone, Default)]
pub struct Document {
    /// The values, in the order of the file.
    pub root: Map<String, Value>,
    /// The line from which on a bracket that is never closed makes all values unreliable.
    pub lost_from: Option<usize>,
    places: BTreeMap<String, Place>,
}

impl Document {
    /// Returns where the key of that pointer stands.
    pub fn key(&self, pointer: &str) -> Option<usize> {
        self.places.get(pointer).map(|place| place.key.start)
    }

    /// Returns where the value of that pointer stands; for a table its header.
    pub fn value(&self, pointer: &str) -> Option<usize> {
        self.places.get(pointer).map(|place| place.value.start)
    }
}

/// Returns the pointer of a member.
pub fn child(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// Returns the last part of a pointer as it was written.
pub fn last_part(pointer: &str) -> String {
    pointer.rsplit('/').next().unwrap_or_default().replace("~1", "/").replace("~0", "~")
}

/// Parses a file; `names` are the tables and modules whose `-` may be written `_`.
pub fn parse(source: &Source, names: &[&str]) -> (Document, Vec<ConfigProblem>) {
    let (root, errors) = DeTable::parse_recoverable(&source.text);
    let mut syntax: Vec<ConfigProblem> = errors.iter().map(|error| syntax_problem(source, error)).collect();
    let mut reader = Reader { source, names, document: Document::default(), problems: Vec::new() };
    reader.document.root = reader.table(root.get_ref(), "");
    reader.document.lost_from = errors
        .iter()
        .filter(|error| error.message().starts_with("unclosed"))
        .filter_map(|error| Some(source.spot(error.span()?.start).line))
        .min();
    let broken: Vec<_> = syntax.iter().filter_map(|problem| problem.spot).map(|spot| spot.line).collect();
    reader.problems.retain(|problem| !problem.spot.is_some_and(|spot| broken.contains(&spot.line)));
    syntax.extend(reader.problems);
    (reader.document, syntax)
}

fn syntax_problem(source: &Source, error: &toml::de::Error) -> ConfigProblem {
    let span = error.span().unwrap_or(0..0);
    let written = source.text.get(span.clone()).unwrap_or_default().trim();
    let rest = source.text.get(span.start..).unwrap_or_default();
    let word: String = rest.chars().take_while(is_bare).collect();
    let line = rest.split(['\n', '#']).next().unwrap_or_default().trim();
    let (message, help) = match error.message() {
        "duplicate key" => {
            (format!("duplicate key `{written}`"), Some("it is set above; keep one of the two".to_owned()))
        }
        said if said.starts_with("string values must be quoted") || said.starts_with("invalid float") => {
            let quoted = word.starts_with(char::is_alphabetic).then(|| format!("write `\"{word}\"`"));
            match (word.as_str(), quoted) {
                ("", _) => ("not valid TOML: a value is missing".to_owned(), None),
                (_, Some(help)) => ("not valid TOML: text stands in quotes".to_owned(), Some(help)),
                (_, None) => (format!("not valid TOML: `{line}` is no value"), None),
            }
        }
        said => (format!("not valid TOML: {said}"), None),
    };
    ConfigProblem { help, ..source.problem(Some(span.start), message) }
}

fn is_bare(c: &char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

struct Reader<'a> {
    source: &'a Source,
    names: &'a [&'a str],
    document: Document,
    problems: Vec<ConfigProblem>,
}

impl Reader<'_> {
    fn table(&mut self, table: &DeTable<'_>, pointer: &str) -> Map<String, Value> {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut map = Map::new();
        for (key, value) in entries {
            let name = self.canonical(pointer, key.get_ref());
            let path = child(pointer, &name);
            if map.contains_key(&name) {
                let problem =
                    self.source.problem(Some(key.span().start), format!("duplicate key `{}`", key.get_ref()));
                self.problems.push(problem.help(format!("it is set above as `{name}`; keep one of the two")));
                continue;
            }
            self.document.places.insert(path.clone(), Place { key: key.span(), value: value.span() });
            if let Some(value) = self.value(value, &path) {
                map.insert(name, value);
            }
        }
        map
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>, pointer: &str) -> Option<Value> {
        let at = value.span().start;
        match value.get_ref() {
            DeValue::String(text) => Some(Value::String(text.clone().into_owned())),
            DeValue::Boolean(flag) => Some(Value::Bool(*flag)),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Some(Value::Number(number.into())),
                Err(_) => self.refuse(at, format!("`{number}` is too large a number")),
            },
            DeValue::Float(number) => match number.as_str().parse().ok().and_then(Number::from_f64) {
                Some(number) => Some(Value::Number(number)),
                None => self.refuse(at, format!("`{number}` is not a number that can be used here")),
            },
            DeValue::Datetime(date) => self.refuse(at, format!("a date such as `{date}` is not used here")),
            DeValue::Array(items) => Some(Value::Array(self.items(items, pointer))),
            DeValue::Table(table) => Some(Value::Object(self.table(table, pointer))),
        }
    }

    fn items(&mut self, items: &toml::de::DeArray<'_>, pointer: &str) -> Vec<Value> {
        let mut values = Vec::new();
        for item in items.iter() {
            let path = child(pointer, &values.len().to_string());
            self.document.places.insert(path.clone(), Place { key: item.span(), value: item.span() });
            values.extend(self.value(item, &path));
        }
        values
    }

    fn canonical(&self, pointer: &str, key: &str) -> String {
        let dashed = key.replace('_', "-");
        let named = matches!(pointer, "" | "/sync_modules") && self.names.contains(&dashed.as_str());
        if named { dashed } else { key.to_owned() }
    }

    fn refuse(&mut self, at: usize, message: String) -> Option<Value> {
        self.problems.push(self.source.problem(Some(at), message));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Document, Vec<ConfigProblem>) {
        parse(&Source { path: "c.toml".into(), text: text.into() }, &["btrfs-snapshots"])
    }

    #[test]
    fn several_syntax_errors_come_in_one_pass() {
        let (_, problems) = read("a = \nb = 1\nb = 2\n[c\nd = 'x\n");
        let lines: Vec<_> =
            problems.iter().filter_map(|problem| problem.spot).map(|spot| spot.line).collect();
        assert!(lines.contains(&1) && lines.contains(&3) && lines.contains(&4), "{problems:#?}");
    }

    #[test]
    fn keys_keep_the_order_of_the_file() {
        let (document, problems) = read("z = 1\na = 2\n[m]\nb = 1\na = 1\n");
        assert!(problems.is_empty());
        assert_eq!(document.root.keys().collect::<Vec<_>>(), ["z", "a", "m"]);
        assert_eq!(document.root["m"].as_object().unwrap().keys().collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(document.key("/m/a"), Some(22));
    }

    #[test]
    fn an_underscore_is_read_as_a_dash_in_names_of_modules() {
        let (document, _) =
            read("[btrfs_snapshots]\nsnapshot_dir = 'x'\n[sync_modules]\nbtrfs_snapshots = true\n");
        assert_eq!(document.root["btrfs-snapshots"]["snapshot_dir"], "x");
        assert_eq!(document.root["sync_modules"]["btrfs-snapshots"], true);
        let (_, problems) = read("[btrfs_snapshots]\n[btrfs-snapshots]\n");
        assert_eq!(problems.len(), 1);
    }
}
