//! What this machine says of itself.

use std::path::Path;

use pc_switcher_contract::{BytePath, Hostname};

use crate::proto::{AgentError, MachineFacts, UserFact};

/// User ids of people; below are services, above containers and nobody.
const PEOPLE: std::ops::RangeInclusive<u32> = 1000..=59999;

/// Collects the facts.
///
/// # Errors
/// If `/proc` or `/etc/passwd` cannot be read or the machine has no usable name.
pub fn facts() -> Result<MachineFacts, AgentError> {
    Ok(MachineFacts {
        hostname: hostname()?,
        machine_id: machine_id(),
        boot_id: line("/proc/sys/kernel/random/boot_id")?,
        arch: std::env::consts::ARCH.to_owned(),
        kernel: line("/proc/sys/kernel/osrelease")?,
        users: users(Path::new("/etc/passwd"))?,
        clock_seconds: jiff::Timestamp::now().as_second(),
        elevated: is_elevated(),
    })
}

/// Whether this process is root.
pub fn is_elevated() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns the name that the machine gives itself.
///
/// # Errors
/// If it is none of ours: empty or with odd characters.
pub fn hostname() -> Result<Hostname, AgentError> {
    line("/proc/sys/kernel/hostname")?.parse().map_err(|error| AgentError::failed(format!("{error}")))
}

/// Returns the machine's id, empty if it has none.
pub fn machine_id() -> String {
    line("/etc/machine-id").unwrap_or_default()
}

/// Where the program that this process runs can be read, even if its file was replaced meanwhile.
pub const OWN_IMAGE: &str = "/proc/self/exe";

/// Returns the BLAKE3 digest of a program.
///
/// # Errors
/// If it cannot be read.
pub fn program_digest(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open(path)?)?;
    Ok(hasher.finalize().into())
}

/// Returns root and the people of a passwd file.
///
/// # Errors
/// If it cannot be read.
pub fn users(passwd: &Path) -> Result<Vec<UserFact>, AgentError> {
    let text = std::fs::read(passwd)
        .map_err(|error| AgentError::io(format!("cannot read `{}`", passwd.display()), &error))?;
    Ok(parse_users(&text))
}

fn parse_users(passwd: &[u8]) -> Vec<UserFact> {
    let user = |line: &[u8]| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let [name, _, uid, gid, _, home, _] = fields[..] else { return None };
        let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<u32>().ok();
        let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?.to_owned();
        Some(UserFact { name, uid: number(uid)?, gid: number(gid)?, home: BytePath::new(home) })
    };
    passwd
        .split(|byte| *byte == b'\n')
        .filter_map(user)
        .filter(|user| user.uid == 0 || PEOPLE.contains(&user.uid))
        .collect()
}

fn line(path: &str) -> Result<String, AgentError> {
    std::fs::read_to_string(path)
        .map(|text| text.trim_end().to_owned())
        .map_err(|error| AgentError::io(format!("cannot read `{path}`"), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_people_are_users_and_services_are_not() {
        let passwd = b"root:x:0:0:root:/root:/bin/bash\n\
            daemon:x:1:1::/usr/sbin:/usr/sbin/nologin\n\
            alice:x:1000:1000:A,,,:/home/alice:/bin/zsh\n\
            bob:x:60000:1:::\nbroken\nodd:x:one:1:::\n\
            nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n";
        let users = parse_users(passwd);
        let names: Vec<_> = users.iter().map(|user| user.name.as_str()).collect();
        assert_eq!(names, ["root", "alice"]);
        assert_eq!(users[1].home, "/home/alice".into());
    }

    #[test]
    fn this_machine_has_facts() {
        let facts = facts().unwrap();
        assert!(!facts.boot_id.is_empty() && !facts.kernel.is_empty() && facts.clock_seconds > 0);
        assert!(facts.users.iter().any(|user| user.uid == 0));
    }
}
