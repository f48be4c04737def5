//! Which machines are meant.

use pc_switcher_contract::{Hostname, Role};

use crate::cli::machine::Machine;
use crate::cli::{CliError, Context, engine};
use crate::history::SessionRow;

/// So many sessions are looked through.
const SESSIONS: usize = 10_000;

/// The machines of a rollback.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// This one.
    Here,
    /// Another one, as ssh knows it.
    There(String),
    /// Both, by one decision; the other one as ssh knows it.
    Both(String),
}

impl Which {
    /// Returns the other machine, if it is needed.
    pub(super) fn other(&self) -> Option<&str> {
        match self {
            Which::Here => None,
            Which::There(other) | Which::Both(other) => Some(other),
        }
    }
}

/// Finds out which machines are meant by what was asked for.
///
/// # Errors
/// If it is not known with which machine a sync was.
pub(super) fn which(what: &str, machine: Option<&str>, context: &Context<'_>) -> Result<Which, CliError> {
    let own = engine::own_name().map_err(CliError::Failed)?;
    if let Some(name) = machine.filter(|name| !matches!(*name, "both" | "source" | "target")) {
        return Ok(named(name, &own));
    }
    let rows = Machine::look(context, SESSIONS)?.rows;
    decide(what, machine, rows.iter().find(|row| row.id.as_str() == what))
}

fn named(name: &str, own: &Hostname) -> Which {
    match name.parse::<Hostname>() {
        Ok(hostname) if hostname.same_machine(own) => Which::Here,
        _ => Which::There(name.to_owned()),
    }
}

fn decide(what: &str, machine: Option<&str>, row: Option<&SessionRow>) -> Result<Which, CliError> {
    let Some(row) = row else {
        return match machine {
            None => Ok(Which::Here),
            Some(word) => Err(CliError::Usage {
                message: format!(
                    "it is not known here which machines sync `{what}` was between, so `{word}` says nothing"
                ),
                help: Some("name the machine: `--machine HOSTNAME`".into()),
            }),
        };
    };
    let other = match row.role {
        Role::Source => row.target_for_ssh().to_owned(),
        Role::Target => row.source_hostname.clone(),
    };
    Ok(match (machine, row.role) {
        (Some("source"), Role::Source) | (Some("target"), Role::Target) => Which::Here,
        (Some("source" | "target"), _) => Which::There(other),
        _ => Which::Both(other),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostname_of_our_own_is_this_machine() {
        let own = "Laptop".parse().unwrap();
        assert_eq!(named("laptop", &own), Which::Here);
        assert_eq!(named("me@laptop", &own), Which::There("me@laptop".into()));
    }

    #[test]
    fn without_a_sync_between_two_machines_this_one_is_meant() {
        assert_eq!(decide("x", None, None).unwrap(), Which::Here);
        assert!(decide("x", Some("both"), None).unwrap_err().to_string().contains("it is not known here"));
    }
}
