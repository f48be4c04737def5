//! The reference page of the config file, made from the schemas.

use std::fmt::Write as _;

use pc_switcher_contract::ModuleSpec;
use serde_json::{Map, Value};

use super::check::allowed_values;
use super::schema::{self, SYNC_MODULES};
use super::show::literal;
use super::tables;

/// Returns `docs/reference/config.md`.
pub fn markdown(specs: &[ModuleSpec]) -> String {
    let shipped = super::Shipped::read(specs);
    let mut page = String::from(
        "# Configuration\n\n\
         <!-- Made by `pc-switcher config schema --markdown`; a test compares it. -->\n\n\
         `$XDG_CONFIG_HOME/pc-switcher/config.toml`, usually `~/.config/pc-switcher/config.toml`. Without a file\n\
         the defaults below apply. Every mistake is reported with its line, all in one pass, with exit code 2,\n\
         before any machine is contacted. In the names of modules and of their tables `_` is read as `-`.\n\n\
         ## Before the first table\n\n",
    );
    rows(&mut page, &schema::top_level(), &shipped.top);
    let _ = write!(
        page,
        "\n## [{SYNC_MODULES}]\n\n\
         `name = true` or `false`; the order is the order of work. If the table is there, what it does not list\n\
         is off; without the table the defaults apply. Modules that belong to every sync may be listed, without\n\
         effect.\n\n| module | default | |\n|---|---|---|\n"
    );
    for spec in specs {
        let state = if spec.required { "always" } else { literal_bool(spec.default_enabled) };
        let _ = writeln!(page, "| `{}` | {state} | {} |", spec.name, spec.description);
    }
    for spec in specs {
        let _ = write!(page, "\n## [{}]\n\n", spec.table);
        if spec.name.as_str() != spec.table {
            let _ = write!(page, "The table of `{}`.\n\n", spec.name);
        }
        rows(&mut page, &spec.schema, &shipped.tables.get(spec.table).cloned().unwrap_or_default());
    }
    for spec in tables::own() {
        let _ = write!(page, "\n## [{}]\n\n", spec.name);
        rows(&mut page, &spec.schema, &shipped.tables.get(spec.name).cloned().unwrap_or_default());
    }
    let vault = tables::vault();
    page.push_str(
        "\nEach key of [vault] holds before the same key of `bt.toml`, which `bt config init` writes.\n\n\
         ## [[vaults]]\n\nA vault each, as often as there are some; one takes the place of that of the same name in `bt.toml`.\n\n",
    );
    rows(&mut page, &vault.schema, &vault.defaults.as_object().cloned().unwrap_or_default());
    page
}

fn literal_bool(on: bool) -> &'static str {
    if on { "`true`" } else { "`false`" }
}

fn rows(page: &mut String, schema: &Value, defaults: &Map<String, Value>) {
    page.push_str("| key | value | default | |\n|---|---|---|---|\n");
    for (key, node) in schema["properties"].as_object().into_iter().flatten() {
        let default = defaults.get(key).map(|value| format!("`{}`", literal(value))).unwrap_or_default();
        let words = node["description"].as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|");
        let _ = writeln!(page, "| `{key}` | {} | {default} | {words} |", kind(node));
    }
}

fn kind(node: &Value) -> String {
    let allowed = allowed_values(node);
    if !allowed.is_empty() {
        return allowed.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" ");
    }
    match node["type"].as_str() {
        Some("array") => "list of strings".into(),
        Some("number") => "number".into(),
        Some("object") if node.get("properties").is_some() => "table".into(),
        Some("object") => "table of lists".into(),
        Some(kind) => kind.into(),
        None => "number or size".into(),
    }
}
