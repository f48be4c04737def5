//! People and programs on the target: who works there, who could not log in any more, what is being written.

use std::collections::HashMap;

use pc_switcher_agent::proto::{Diagnosis, LoginPath, Meta, Op, UserFact, Writer};
use pc_switcher_contract::{BytePath, Gate, GateKind};

use crate::compare::Walk;
use crate::guards::Hosts;
use crate::parts::PartPair;
use crate::survey::Survey;

/// Permission bits that make sshd distrust a path.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Whether a person of the synced folders works on the target at a desktop.
pub fn active_session(
    hosts: Hosts,
    folders: &[BytePath],
    diagnosis: &Diagnosis,
    users: &[UserFact],
) -> Option<Gate> {
    let concerned = |user: &&UserFact| {
        folders.iter().any(|folder| user.home.is_within(folder) || folder.is_within(&user.home))
    };
    let mut findings = Vec::new();
    for session in &diagnosis.sessions {
        if let Some(user) = users.iter().filter(concerned).find(|user| user.uid == session.uid) {
            findings
                .push(format!("{} is logged in on {} ({} desktop)", user.name, hosts.target, session.kind));
        }
    }
    findings.dedup();
    (!findings.is_empty()).then(|| Gate {
        kind: GateKind::ActiveSession,
        summary: None,
        findings,
        consequence: format!(
            "programs that run on {} may overwrite what arrives with what they remember",
            hosts.target
        ),
    })
}

/// Whether somebody who logs in to the target by key could not do so after this plan: sshd does not believe keys below a
/// directory that others may write to. No flag opens this gate.
pub fn lock_out(hosts: Hosts, logins: &[LoginPath], surveys: &[(&PartPair, &Survey)]) -> Option<Gate> {
    let mut after: HashMap<BytePath, Option<&Meta>> = HashMap::new();
    let mut leaving: Vec<BytePath> = Vec::new();
    for (part, survey) in surveys {
        for op in &survey.steps.ops {
            let (path, meta) = match op {
                Op::SetMeta { path, meta, .. } | Op::SetDir { path, meta, .. } => (path, Some(meta)),
                // Something else than the directory or file that is there now.
                Op::Put { path, .. }
                | Op::Link { path, .. }
                | Op::Remove { path, .. }
                | Op::RemoveDir { path } => (path, None),
                Op::Move { path, from: left, .. } | Op::Swap { path, with: left, .. } => {
                    leaving.extend([path, left].map(|path| part.root.join(path.as_bytes())));
                    continue;
                }
                Op::Aside { .. } => continue,
            };
            after.insert(part.root.join(path.as_bytes()), meta);
        }
    }
    let mut findings = Vec::new();
    for login in logins.iter().filter(|login| is_trusted(login.user, login.owner, login.mode)) {
        if leaving.iter().any(|left| login.path.is_within(left)) {
            findings.push(format!("`{}` would be moved away", login.path));
            continue;
        }
        match after.get(&login.path) {
            Some(None) => findings.push(format!("`{}` would be replaced or removed", login.path)),
            Some(Some(meta)) if !is_trusted(login.user, meta.uid, meta.mode) => findings
                .push(format!("`{}` would belong to {} with mode {:04o}", login.path, meta.uid, meta.mode)),
            _ => {}
        }
    }
    (!findings.is_empty()).then(|| Gate {
        kind: GateKind::LockOut,
        summary: None,
        findings,
        consequence: format!("ssh would not let you in on {} any more", hosts.target),
    })
}

/// Whether sshd believes keys at or below a path with this owner and mode (its `StrictModes`).
fn is_trusted(user: u32, owner: u32, mode: u32) -> bool {
    (owner == user || owner == 0) && mode & WRITABLE_BY_OTHERS == 0
}

/// Returns a line per program of the target that holds a file open for writing which this plan replaces or removes.
pub fn writers_of(writers: &[Writer], surveys: &[(&PartPair, &Survey)]) -> Vec<String> {
    let mut touched: HashMap<BytePath, ()> = HashMap::new();
    for (part, survey) in surveys {
        for op in &survey.steps.ops {
            if let Op::Put { path, replaces: Some(_), .. } | Op::Link { path, .. } | Op::Remove { path, .. } =
                op
            {
                let stands = survey.moves.stands(Walk::Target, path);
                touched.insert(part.root.join(stands.as_bytes()), ());
            }
        }
    }
    let hit = writers.iter().filter(|writer| touched.contains_key(&writer.path));
    hit.map(|writer| {
        format!(
            "`{}` is open for writing in `{}` (process {}): what it writes from now on goes to the old version",
            writer.path, writer.program, writer.pid
        )
    })
    .collect()
}

/// What runs virtual machines, by the beginning of its short name, of which the kernel keeps 15 bytes.
const MACHINES: [&str; 7] =
    ["qemu-", "kvm", "VBoxHeadless", "VirtualBoxVM", "vmware-vmx", "cloud-hyperviso", "firecracker"];

/// Returns a line per virtual machine of the source that runs on a file which this plan sends: the file arrives as of one
/// instant, and what the guest had not written by then is not in it.
pub fn running_on(writers: &[Writer], surveys: &[(&PartPair, &Survey)]) -> Vec<String> {
    let is_sent = |path: &BytePath| {
        surveys.iter().any(|(part, survey)| {
            survey.steps.ops.iter().any(|op| {
                matches!(op, Op::Put { path: sent, .. } | Op::Link { path: sent, .. }
                    if part.root.join(sent.as_bytes()) == *path)
            })
        })
    };
    let machines =
        writers.iter().filter(|writer| MACHINES.iter().any(|name| writer.program.starts_with(name)));
    let mut hit: Vec<&Writer> = machines.filter(|writer| is_sent(&writer.path)).collect();
    hit.dedup_by_key(|writer| (&writer.path, writer.pid));
    hit.into_iter()
        .map(|writer| {
            format!(
                "`{}` is the disk of a virtual machine that runs (`{}`, process {}): it arrives as after a power cut; shut \
                 it down first for a clean copy",
                writer.path, writer.program, writer.pid
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use pc_switcher_agent::proto::Session;
    use pc_switcher_contract::Hostname;

    use super::*;

    fn hosts() -> (Hostname, Hostname) {
        ("laptop".parse().unwrap(), "desk".parse().unwrap())
    }

    fn alice() -> UserFact {
        UserFact { name: "alice".into(), uid: 1000, gid: 1000, home: "/home/alice".into() }
    }

    #[test]
    fn a_desktop_of_a_synced_person_asks_and_one_of_somebody_else_does_not() {
        let (source, target) = hosts();
        let hosts = Hosts { source: &source, target: &target };
        let seat =
            |uid| Diagnosis { sessions: vec![Session { uid, kind: "x11".into() }], ..Diagnosis::default() };
        let gate = |uid, folder: &str| active_session(hosts, &[folder.into()], &seat(uid), &[alice()]);
        assert_eq!(gate(1000, "/home").unwrap().findings, ["alice is logged in on desk (x11 desktop)"]);
        assert!(gate(1000, "/home/alice/work").is_some());
        assert_eq!(gate(1001, "/home"), None);
        assert_eq!(gate(1000, "/srv"), None);
    }

    #[test]
    fn sshd_trusts_the_owners_and_roots_own_paths_only() {
        assert!(is_trusted(1000, 1000, 0o755) && is_trusted(1000, 0, 0o700));
        for (owner, mode) in [(1000, 0o775), (1000, 0o757), (1001, 0o700)] {
            assert!(!is_trusted(1000, owner, mode), "{owner} {mode:o}");
        }
    }
}
