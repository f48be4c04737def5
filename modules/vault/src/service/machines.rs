//! The machines of which vaults hold something, for whoever looks for one of them.

use jiff::Timestamp;
use pc_switcher_contract::{ErrorKind, ModuleError};

use super::{copies, forget};
use crate::error::{Result, usage};
use crate::repo::Repository;

/// A shorter beginning of an id names nobody.
const LEAST: usize = 4;

/// A machine.
struct Machine {
    id: String,
    /// When its last snapshot was taken, and what that calls it; of one that has only a copy of its catalogue there nobody knows.
    last: Option<(Timestamp, String)>,
}

impl Machine {
    fn described(&self) -> String {
        match &self.last {
            Some((at, name)) => {
                format!("{} (`{name}`, last backup {})", self.id, at.strftime("%Y-%m-%d %H:%M"))
            }
            None => self.id.clone(),
        }
    }
}

/// Returns the machines that back up to these vaults, as far as these can be read, and why one of them cannot be.
fn machines(repos: &[&Repository]) -> (Vec<Machine>, Option<ModuleError>) {
    let (mut all, mut unread): (Vec<Machine>, _) = (Vec::new(), None);
    for repo in repos {
        let mut noted = |error: ModuleError| {
            unread.get_or_insert(error);
        };
        let (snapshots, _) = repo.snapshots_found().map_err(&mut noted).unwrap_or_default();
        let mut ids = copies::hosts(repo.store()).map_err(&mut noted).unwrap_or_default();
        ids.extend(snapshots.iter().filter_map(|(_, one)| forget::host_of(one).map(ToOwned::to_owned)));
        for id in ids {
            let own = snapshots.iter().filter(|(_, one)| forget::is_of(one, &id));
            let last = own.map(|(_, one)| (one.time.parse().unwrap_or_default(), one.hostname.clone())).max();
            match all.iter_mut().find(|one| one.id == id) {
                Some(known) => known.last = last.max(known.last.take()),
                None => all.push(Machine { id, last }),
            }
        }
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    (all, unread)
}

/// Returns the id of the machine that somebody means: by its id, the beginning of that, or its name.
///
/// # Errors
/// If several are meant, or may be as far as can be read.
pub(super) fn resolve(repos: &[&Repository], said: &str) -> Result<String> {
    let is_id = |repo: &&Repository| copies::hosts(repo.store()).is_ok_and(|hosts| hosts.contains(said));
    if repos.iter().any(is_id) {
        return Ok(said.to_owned());
    }
    let (mut all, unread) = machines(repos);
    if let Some(error) = unread {
        let id = "--from with the whole id of the machine asks for no other; --vault names one vault that can be read";
        return Err(error.hint(id));
    }
    let begins = |one: &Machine| said.len() >= LEAST && one.id.starts_with(said);
    let is_called = |one: &Machine| one.last.as_ref().is_some_and(|(_, name)| name == said);
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
    let known: Vec<String> = machines(repos).0.iter().map(Machine::described).collect();
    match known.is_empty() {
        true => error.hint("`bt list --snapshots` shows what others wrote; `restic` restores it"),
        false => error.hint(format!(
            "--from takes one of these: {}; with --take-over this machine is that one from now on",
            known.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::format::keyfile::Cost;
    use crate::format::{Id, Snapshot};
    use crate::repo::Who;
    use crate::store::faults::Faults;
    use crate::store::{Kind, MemoryStore};

    /// Returns a vault with these snapshots: of which machine, what it is called then, and when.
    fn vault(snapshots: &[(&str, &str, &str)]) -> Arc<MemoryStore> {
        let store = Arc::new(MemoryStore::default());
        let repo = Repository::init(store.clone(), b"x", Cost::TINY, &Who::default(), Timestamp::UNIX_EPOCH)
            .unwrap();
        for (id, name, time) in snapshots {
            let snapshot = Snapshot {
                time: (*time).into(),
                parent: None,
                tree: Id::of(b""),
                paths: vec![],
                hostname: (*name).into(),
                username: String::new(),
                uid: 0,
                gid: 0,
                tags: forget::tags(id),
                original: None,
                program_version: String::new(),
            };
            repo.save(Kind::Snapshot, &snapshot).unwrap();
        }
        store
    }

    fn open(store: &Arc<MemoryStore>) -> Repository {
        Repository::open(store.clone(), b"x").unwrap()
    }

    #[test]
    fn of_several_vaults_the_newest_backup_says_what_a_machine_is_called() {
        let newer = vault(&[
            ("aaaa-1", "desk", "2026-03-01T12:00:00+02:00"),
            ("bbbb-2", "desk", "2026-01-01T00:00:00Z"),
        ]);
        let older = vault(&[("aaaa-1", "old-desk", "2026-03-01T09:59:59Z")]);
        let (newer, older) = (open(&newer), open(&older));
        for repos in [[&newer, &older], [&older, &newer]] {
            let error = resolve(&repos, "desk").unwrap_err();
            let text = format!("{error:?}");
            assert!(
                text.contains("may be several")
                    && text.contains("aaaa-1 (`desk`, last backup 2026-03-01 10:00)"),
                "{text}"
            );
            assert_eq!(resolve(&repos, "old-desk").unwrap(), "old-desk", "it is not called so any more");
        }
    }

    #[test]
    fn a_vault_that_cannot_be_read_may_know_another_machine_of_that_name() {
        let (one, other) = (vault(&[("aaaa-1", "desk", "2026-03-01T12:00:00Z")]), vault(&[]));
        let faults = Faults::on(&other).that_fails(|call| {
            let is_list = call.what == "list" && call.kind == Kind::Snapshot;
            is_list.then(|| ModuleError::new(ErrorKind::Unreachable, "the line is cut"))
        });
        let unread = Repository::open(Arc::new(faults), b"x").unwrap();
        let one = open(&one);
        assert_eq!(resolve(&[&one], "desk").unwrap(), "aaaa-1");
        for repos in [[&one, &unread], [&unread, &one]] {
            let error = resolve(&repos, "desk").unwrap_err();
            assert!(
                error.kind == ErrorKind::Unreachable && format!("{error:?}").contains("--vault"),
                "{error:?}"
            );
        }
        // What is known of the others is named all the same where none is meant.
        assert!(format!("{:?}", nothing(&[&unread, &one], None, true)).contains("aaaa-1"));
    }
}
