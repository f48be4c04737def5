//! The reference page of the command line.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command};

/// Returns `docs/reference/cli.md`.
pub fn page(command: &mut Command) -> String {
    command.build();
    let mut page = String::from(
        "# Commands\n\n\
         <!-- Made by `pc-switcher util markdown-help`; a test compares it. -->\n\n\
         Data goes to standard output, everything else to standard error. `NO_COLOR` is honoured.\n\
         Exit codes: [exit-codes.md](../exit-codes.md).\n\n\
         ## Options of every command\n\n",
    );
    options(&mut page, command.get_arguments().filter(|arg| arg.is_global_set()));
    for sub in command.get_subcommands() {
        section(&mut page, "pc-switcher", sub);
    }
    page
}

fn section(page: &mut String, parent: &str, command: &Command) {
    if command.is_hide_set() {
        return;
    }
    let name = format!("{parent} {}", command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let own: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| {
            !arg.is_global_set() && !matches!(arg.get_action(), ArgAction::Help | ArgAction::Version)
        })
        .collect();
    // One that does nothing by itself is only the way to those below it.
    if !command.has_subcommands() || !own.is_empty() {
        describe(page, &name, &about, &own);
    }
    command.get_subcommands().for_each(|sub| section(page, &name, sub));
}

fn describe(page: &mut String, name: &str, about: &str, own: &[&Arg]) {
    let mut usage = name.to_owned();
    for arg in own.iter().filter(|arg| arg.is_positional()) {
        let _ = write!(usage, " {arg}");
    }
    if own.iter().any(|arg| !arg.is_positional()) {
        usage.push_str(" [OPTIONS]");
    }
    let _ = write!(page, "\n## {name}\n\n{about}.\n\n```\n{usage}\n```\n");
    if !own.is_empty() {
        page.push('\n');
        options(page, own.iter().copied());
    }
}

fn options<'a>(page: &mut String, args: impl Iterator<Item = &'a Arg>) {
    for arg in args {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let values: Vec<String> =
            arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
        let choice = match (arg.get_action(), values.is_empty()) {
            (ArgAction::Set | ArgAction::Append, false) => format!(" ({})", values.join(", ")),
            _ => String::new(),
        };
        let _ = writeln!(page, "- `{arg}`: {help}{choice}");
    }
}
