//! `snapshots verify`: whether sets are what was taken.

use pc_switcher_agent::proto::{Finding, Verified, VerifyRequest};
use pc_switcher_contract::{BytePath, Hostname, SetId};
use serde_json::json;

use super::{Found, Where, change, settings, with_agent};
use crate::cli::{CliError, Context, Exit};
use crate::session::text::{bytes, count};

/// Look whether sets are what was taken
///
/// Finds members that are gone, were replaced by another subvolume or written to, even if they were made read-only again,
/// and records that are lost. Exit code 1 if something is wrong.
#[derive(Debug, Clone, clap::Args)]
pub struct VerifyArgs {
    /// Sessions, names, or sets as `snapshots list --json` names them; all sets if there are none
    #[arg(value_name = "SESSION")]
    sets: Vec<String>,
    /// Read the content of every file too, so that the file system's checksums tell what is damaged
    #[arg(long)]
    deep: bool,
    #[command(flatten)]
    place: Where,
}

/// Looks, and prints what is wrong, a line each.
///
/// # Errors
/// If there is no such set, or the machine cannot be reached.
pub fn run(args: &VerifyArgs, context: &mut Context<'_>) -> Result<Exit, CliError> {
    let config = settings(context)?;
    let (hostname, outcome) = with_agent(&args.place, context, async |agent, _| {
        let found = Found::read(agent, &config).await?;
        let ids = match found.chosen(&args.sets).map(change::ids_of) {
            Ok(ids) => ids,
            Err(error) => return Ok((found.hostname, Err(error))),
        };
        let snapshot_dir = BytePath::from(config.snapshot_dir.as_path());
        let mut findings = Vec::new();
        let request = VerifyRequest { snapshot_dir, ids, deep: args.deep };
        let seen = agent.verify(request, |finding| findings.push(finding)).await?;
        Ok((found.hostname, Ok((seen, findings))))
    })?;
    let (seen, findings) = outcome?;
    match context.global.json {
        true => context.print_json(&as_json(&hostname, seen, &findings))?,
        false => {
            for finding in &findings {
                writeln!(context.out, "{}", line(&hostname, finding))?;
            }
            writeln!(context.out, "{}", summary(&hostname, args.deep, seen, &findings))?;
        }
    }
    Ok(if findings.is_empty() { Exit::Completed } else { Exit::Failed })
}

/// Returns a finding with machine, set, member and what is wrong.
fn line(hostname: &Hostname, finding: &Finding) -> String {
    let Finding { id, member, path, what } = finding;
    match (member, path.is_empty()) {
        (None, _) => format!("{hostname}: set `{id}`: {what}"),
        (Some(member), true) => format!("{hostname}: set `{id}`: `{member}` {what}"),
        (Some(member), false) => format!("{hostname}: set `{id}`: `{path}` in `{member}` {what}"),
    }
}

fn summary(hostname: &Hostname, deep: bool, seen: Verified, findings: &[Finding]) -> String {
    let sets: std::collections::BTreeSet<&SetId> = findings.iter().map(|finding| &finding.id).collect();
    let read = match deep {
        true => format!(", {} with {} read", count(seen.files, "file"), bytes(seen.bytes)),
        false => String::new(),
    };
    let looked = format!("{} with {}{read}", count(seen.sets, "set"), count(seen.members, "snapshot"));
    match sets.len() as u64 {
        0 => format!("{hostname}: {looked}: all as they were taken"),
        ill => format!("{hostname}: {looked}: something is wrong with {}", count(ill, "set")),
    }
}

fn as_json(hostname: &Hostname, seen: Verified, findings: &[Finding]) -> serde_json::Value {
    let finding = |finding: &Finding| {
        json!({
            "set": finding.id,
            "member": finding.member,
            "path": (!finding.path.is_empty()).then_some(&finding.path),
            "what": finding.what,
        })
    };
    json!({
        "machine": hostname,
        "sets": seen.sets,
        "members": seen.members,
        "files": seen.files,
        "bytes": seen.bytes,
        "findings": findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_names_machine_set_member_path_and_what() {
        let desk: Hostname = "desk".parse().unwrap();
        let finding = |member: Option<&str>, path: &str, what: &str| Finding {
            id: "20251115T120000Z-abc12345-manual".parse().unwrap(),
            member: member.map(str::to_owned),
            path: path.into(),
            what: what.into(),
        };
        let of_file =
            finding(Some("@home-manual-20251115T120000Z-abc12345"), "alice/x", "cannot be read: oh");
        assert_eq!(
            line(&desk, &of_file),
            "desk: set `20251115T120000Z-abc12345-manual`: `alice/x` in `@home-manual-20251115T120000Z-abc12345` cannot be \
             read: oh"
        );
        let of_set = finding(None, "", "its `toc` is gone");
        assert!(line(&desk, &of_set).ends_with("manual`: its `toc` is gone"));
        let seen = Verified { sets: 2, members: 4, ..Verified::default() };
        let said = summary(&desk, false, seen, &[of_file, of_set]);
        assert_eq!(said, "desk: 2 sets with 4 snapshots: something is wrong with 1 set");
        assert!(summary(&desk, true, seen, &[]).ends_with("all as they were taken"));
    }
}
