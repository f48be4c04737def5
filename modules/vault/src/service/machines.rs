//! The machines of which vaults hold something, for whoever looks for one of them.

use pc_switcher_contract::{ErrorKind, ModuleError};

use super::{copies, forget};
use crate::error::{Result, usage};
use crate::repo::Repository;

/// A shorter beginning of an id names nobody.
const LEAST: usize = 4;

/// A machine.
struct Machine {
    id: String,
    /// What its last snapshot calls it, and when that was taken; of one that has only a copy of its catalogue there nobody knows.
    last: Option<(String, String)>,
}

impl Machine {
    fn described(&self) -> String {
        match &self.last {
            Some((name, at)) => {
                format!(
                    "{} (`{name}`, last backup {})",
                    self.id,
                    at.get(..16).unwrap_or(at).replace('T', " ")
                )
            }
            None => self.id.clone(),
        }
    }
}

/// Returns the machines that back up to these vaults, as far as these can be read.
fn machines(repos: &[&Repository]) -> Vec<Machine> {
    let mut all: Vec<Machine> = Vec::new();
    for repo in repos {
        let (snapshots, _) = repo.snapshots_found().unwrap_or_default();
        let mut ids = copies::hosts(repo.store()).unwrap_or_default();
        ids.extend(snapshots.iter().filter_map(|(_, one)| forget::host_of(one).map(ToOwned::to_owned)));
        for id in ids {
            let last = snapshots.iter().rev().find(|(_, one)| forget::is_of(one, &id));
            let last = last.map(|(_, last)| (last.hostname.clone(), last.time.clone()));
            match all.iter_mut().find(|one| one.id == id) {
                Some(known) => known.last = last.or(known.last.take()),
                None => all.push(Machine { id, last }),
            }
        }
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

/// Returns the id of the machine that somebody means: by its id, the beginning of that, or its name.
///
/// # Errors
/// If several are meant.
pub(super) fn resolve(repos: &[&Repository], said: &str) -> Result<String> {
    let is_id = |repo: &&Repository| copies::hosts(repo.store()).is_ok_and(|hosts| hosts.contains(said));
    if repos.iter().any(is_id) {
        return Ok(said.to_owned());
    }
    let mut all = machines(repos);
    let begins = |one: &Machine| said.len() >= LEAST && one.id.starts_with(said);
    let is_called = |one: &Machine| one.last.as_ref().is_some_and(|(name, _)| name == said);
    all.retain(|one| begins(one) || is_called(one));
    match all.as_slice() {
        [] => Ok(said.to_owned()),
        [one] => Ok(one.id.clone()),
        several => {
            let several: Vec<String> = several.iter().map(Machine::described).collect();
            Err(usage(format!("`{said}` may be several machines"))
                .hint(format!("--from takes the id of one of these: {}", several.join(", "))))
        }
    }
}

/// Makes the error of vaults without anything of a machine, if anybody knows which: it names those of which there is something.
pub(super) fn nothing(repos: &[&Repository], host: Option<&str>, is_own: bool) -> ModuleError {
    let message = match host {
        Some(host) if is_own => format!("no vault holds anything of this machine (`{host}`)"),
        Some(host) => format!("no vault holds anything of the machine `{host}`"),
        None => "nobody knows which machine this was".into(),
    };
    let error = ModuleError::new(ErrorKind::Invalid, message);
    let known: Vec<String> = machines(repos).iter().map(Machine::described).collect();
    match known.is_empty() {
        true => error.hint("`bt list --snapshots` shows what others wrote; `restic` restores it"),
        false => error.hint(format!(
            "--from takes one of these: {}; with --take-over this machine is that one from now on",
            known.join(", ")
        )),
    }
}
