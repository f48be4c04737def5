//! The layers laid over each other: every key with its value and with the layer it comes from.

use std::fmt;

use pc_switcher_contract::{LogLevel, ModuleSpec};
use serde_json::{Map, Value};

use super::document::{Document, child};
use super::schema::SYNC_MODULES;
use super::source::Source;

/// The layer a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The built-in defaults.
    Default,
    /// The config file, with the line.
    File(usize),
    /// The file below it, with the line: `bt.toml`.
    Below(usize),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(line) => write!(f, "file, line {line}"),
            Origin::Below(line) => write!(f, "bt.toml, line {line}"),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A key that applies.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// Where the value comes from.
    pub origin: Origin,
}

/// A table that applies; the keys before the first table have an empty name.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its keys, in order.
    pub entries: Vec<Entry>,
    /// Which one it is of several tables of that name.
    pub index: Option<usize>,
}

impl Table {
    /// Returns the table as a value.
    pub fn value(&self) -> Value {
        Value::Object(self.entries.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect())
    }

    /// Replaces a value, if the key is there.
    pub fn set(&mut self, key: &str, value: Value, origin: Origin) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.key == key) {
            (entry.value, entry.origin) = (value, origin);
        }
    }
}

/// A file that was parsed.
#[derive(Clone, Copy)]
pub struct File<'a> {
    /// Its text.
    pub source: &'a Source,
    /// Its values.
    pub document: &'a Document,
    /// Whether it lies below the config file.
    pub is_below: bool,
}

impl<'a> File<'a> {
    fn table(self, name: &str) -> Option<&'a Map<String, Value>> {
        if name.is_empty() { Some(&self.document.root) } else { self.document.root.get(name)?.as_object() }
    }

    fn origin(self, table: &str, key: &str) -> Origin {
        let base = if table.is_empty() { String::new() } else { child("", table) };
        self.origin_at(&child(&base, key))
    }

    fn origin_at(self, pointer: &str) -> Origin {
        let line = self.source.spot(self.document.key(pointer).unwrap_or_default()).line;
        if self.is_below { Origin::Below(line) } else { Origin::File(line) }
    }
}

/// Lays files over the defaults of one table, the first above the others; the keys keep the order of the defaults.
pub fn merge(name: &str, defaults: &Map<String, Value>, files: &[File<'_>]) -> Table {
    let entries = defaults.iter().map(|(key, default)| {
        let given =
            files.iter().find_map(|file| Some((file.table(name)?.get(key)?.clone(), file.origin(name, key))));
        let (value, origin) = given.unwrap_or_else(|| (default.clone(), Origin::Default));
        Entry { key: key.clone(), value, origin }
    });
    Table { name: name.to_owned(), entries: entries.collect(), index: None }
}

/// Returns the tables of a list: those of the lower files first, each in the place of the one of its name that an upper file
/// has, and then what only upper files have.
pub fn merge_list(name: &str, defaults: &Map<String, Value>, files: &[File<'_>]) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for file in files.iter().rev() {
        let items = file.document.root.get(name).and_then(Value::as_array).into_iter().flatten();
        for (at, item) in items.enumerate() {
            let base = child(&child("", name), &at.to_string());
            let given = item.as_object().into_iter().flatten().map(|(key, value)| Entry {
                key: key.clone(),
                value: value.clone(),
                origin: file.origin_at(&child(&base, key)),
            });
            let mut entries: Vec<Entry> = given.collect();
            let rest = defaults.iter().filter(|(key, _)| item.get(key.as_str()).is_none());
            let rest: Vec<Entry> = rest
                .map(|(key, value)| Entry { key: key.clone(), value: value.clone(), origin: Origin::Default })
                .collect();
            entries.extend(rest);
            let called = |table: &Table| table.entries.iter().find(|entry| entry.key == "name").cloned();
            let own = Table { name: name.to_owned(), entries, index: None };
            let same = |other: &&mut Table| {
                called(other).map(|entry| entry.value) == called(&own).map(|entry| entry.value)
            };
            match tables.iter_mut().find(same) {
                Some(other) => *other = own,
                None => tables.push(own),
            }
        }
    }
    tables.iter_mut().enumerate().for_each(|(at, table)| table.index = Some(at));
    tables
}

/// Returns `[sync_modules]`: the file's list in the file's order if it has one, then what it does not list, off.
pub fn merge_sync_modules(specs: &[ModuleSpec], file: Option<File<'_>>) -> Table {
    let listed = file.and_then(|file| Some((file, file.table(SYNC_MODULES)?)));
    let mut entries: Vec<Entry> = Vec::new();
    if let Some((file, table)) = listed {
        entries.extend(table.iter().map(|(key, value)| Entry {
            key: key.clone(),
            value: value.clone(),
            origin: file.origin(SYNC_MODULES, key),
        }));
    }
    entries.retain(|entry| specs.iter().any(|spec| !spec.required && spec.name.as_str() == entry.key));
    for spec in specs.iter().filter(|spec| !spec.required) {
        if !entries.iter().any(|entry| entry.key == spec.name.as_str()) {
            let on = listed.is_none() && spec.default_enabled;
            let key = spec.name.to_string();
            entries.push(Entry { key, value: Value::Bool(on), origin: Origin::Default });
        }
    }
    Table { name: SYNC_MODULES.to_owned(), entries, index: None }
}

/// Writes log levels the way the schema lists them: they are read in any case.
pub fn canonical_levels(root: &mut Map<String, Value>) {
    for key in ["log_file_level", "log_cli_level"] {
        let level = root.get(key).and_then(Value::as_str).and_then(|text| text.parse::<LogLevel>().ok());
        if let Some(level) = level {
            root.insert(key.to_owned(), Value::String(level.as_str().to_owned()));
        }
    }
}
