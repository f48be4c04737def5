//! Which modules run: `[sync_modules]`, then `--only`, then `--skip`.

use pc_switcher_contract::{ModuleName, ModuleSpec};
use serde_json::Value;

use super::effective::{Origin, Table};
use super::nearest::suggest;
use super::problem::{ConfigErrors, ConfigProblem};
use super::request::Overrides;

/// Applies `--only` and `--skip` to `[sync_modules]`; returns what is wrong with the flags.
pub fn apply_flags(table: &mut Table, specs: &[ModuleSpec], overrides: &Overrides) -> Vec<ConfigProblem> {
    let (only, mut problems) = named("--only", &overrides.only, specs);
    let (skip, more) = named("--skip", &overrides.skip, specs);
    problems.extend(more);
    for spec in &skip {
        if spec.required {
            let message = format!("`{}` in --skip cannot be left out: it belongs to every sync", spec.name);
            problems.push(ConfigProblem::general(message));
        }
    }
    for entry in &mut table.entries {
        let is_in = |list: &[&ModuleSpec]| list.iter().any(|spec| spec.name.as_str() == entry.key);
        if !overrides.only.is_empty() {
            (entry.value, entry.origin) = (Value::Bool(is_in(&only)), Origin::Flag("--only"));
        }
        if is_in(&skip) {
            (entry.value, entry.origin) = (Value::Bool(false), Origin::Flag("--skip"));
        }
    }
    if problems.is_empty() && !(overrides.only.is_empty() && skip.is_empty()) && enabled(table).is_empty() {
        problems.push(ConfigProblem::general("--only and --skip leave no module to run"));
    }
    problems
}

/// Returns the modules that are on, in order.
pub fn enabled(table: &Table) -> Vec<ModuleName> {
    let on = table.entries.iter().filter(|entry| entry.value == Value::Bool(true));
    on.filter_map(|entry| entry.key.parse().ok()).collect()
}

/// Finds the modules that a flag names.
fn named<'a>(
    flag: &str,
    texts: &[String],
    specs: &'a [ModuleSpec],
) -> (Vec<&'a ModuleSpec>, Vec<ConfigProblem>) {
    let mut found = Vec::new();
    let mut problems = Vec::new();
    for text in texts {
        match find(text, specs) {
            Ok(spec) => found.push(spec),
            Err(help) => {
                let message = format!("unknown module `{}` in {flag}", text.escape_debug());
                problems.push(ConfigProblem::general(message).help(help));
            }
        }
    }
    (found, problems)
}

/// Finds a module by its name or the name of its table.
///
/// # Errors
/// If there is none of that name; the nearest is named.
pub fn find_module<'a>(text: &str, specs: &'a [ModuleSpec]) -> Result<&'a ModuleSpec, ConfigErrors> {
    let table = specs.iter().find(|spec| spec.table == text).ok_or(());
    table.or_else(|()| find(text, specs)).map_err(|help| {
        let message = format!("unknown module `{}`", text.escape_debug());
        ConfigErrors(vec![ConfigProblem::general(message).help(help)])
    })
}

/// Finds a module by its name, in which `_` is read as `-`; the error is a help.
fn find<'a>(text: &str, specs: &'a [ModuleSpec]) -> Result<&'a ModuleSpec, String> {
    let dashed = text.trim().replace('_', "-");
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    specs.iter().find(|spec| spec.name.as_str() == dashed).ok_or_else(|| suggest(&dashed, &names))
}
