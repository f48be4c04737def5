//! `modules list`: what can take part in a sync.

use comfy_table::{ContentArrangement, Table, presets};
use pc_switcher_contract::{ModuleSpec, Place};
use serde_json::json;

use super::{CliError, Context, Exit};
use crate::config::Config;

/// Show the modules of this build
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List all modules and whether the config switches them on
    List,
}

/// Prints the list, in the order in which the modules run.
///
/// # Errors
/// If the config is wrong.
pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let Command::List = args.command;
    let config = context.load_config(&[], &[])?;
    let specs = in_order(context.specs(), &config);
    if context.global.json {
        let list: Vec<_> = specs.iter().map(|spec| as_json(spec, &config)).collect();
        context.print_json(&json!(list))?;
    } else {
        writeln!(context.out, "{}", as_table(&specs, &config))?;
    }
    Ok(Exit::Completed)
}

fn in_order(mut specs: Vec<ModuleSpec>, config: &Config) -> Vec<ModuleSpec> {
    let turn = |spec: &ModuleSpec| config.modules.iter().position(|name| *name == spec.name);
    specs.sort_by_key(|spec| (!spec.required, turn(spec).unwrap_or(usize::MAX)));
    specs
}

fn enabled(spec: &ModuleSpec, config: &Config) -> bool {
    spec.required || config.modules.contains(&spec.name)
}

fn place(spec: &ModuleSpec) -> &'static str {
    match spec.place {
        Place::Bracket => "bracket",
        Place::Sequential => "sequential",
        Place::Background => "background",
    }
}

fn as_json(spec: &ModuleSpec, config: &Config) -> serde_json::Value {
    json!({
        "name": spec.name,
        "place": place(spec),
        "required": spec.required,
        "enabled": enabled(spec, config),
        "table": spec.table,
        "description": spec.description,
    })
}

fn as_table(specs: &[ModuleSpec], config: &Config) -> String {
    let word = |yes| if yes { "yes" } else { "no" };
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if table.width().is_none() {
        table.set_width(80);
    }
    table.set_header(["MODULE", "PLACE", "REQUIRED", "ENABLED", "DESCRIPTION"]);
    for spec in specs {
        let on = word(enabled(spec, config));
        table.add_row([spec.name.as_str(), place(spec), word(spec.required), on, spec.description]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}
