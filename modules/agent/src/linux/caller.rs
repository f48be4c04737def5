//! Work with the access rights of the person who asked, on a thread of its own.
//!
//! The agent is root; who asked it may not be. What comes out of a snapshot is read, and what is restored is written, with
//! that person's own ids, groups and no capability at all, so nobody gets at more than in the live tree. The ids of one
//! thread are changed by the kernel's own calls: the other threads stay what they are.

use std::path::Path;
use std::thread;

use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::proto::AgentError;

/// Ids of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Person {
    /// User id.
    pub(crate) uid: u32,
    /// Primary group.
    pub(crate) gid: u32,
    /// All groups.
    pub(crate) groups: Vec<u32>,
}

impl Person {
    /// Looks a person up.
    ///
    /// # Errors
    /// If `/etc/passwd` does not know the id.
    pub(crate) fn find(uid: u32) -> Result<Self, AgentError> {
        let read = |path: &str| {
            std::fs::read(Path::new(path))
                .map_err(|error| AgentError::io(format!("cannot read `{path}`"), &error))
        };
        if uid == 0 {
            return Ok(Self { uid, gid: 0, groups: vec![0] });
        }
        parse(uid, &read("/etc/passwd")?, &read("/etc/group")?).ok_or_else(|| {
            AgentError::failed(format!("user {uid} is not in `/etc/passwd`, so its groups are not known"))
        })
    }

    /// Whether these are the rights of this process anyway.
    fn is_us(&self) -> bool {
        geteuid().as_raw() == self.uid
    }

    /// Does `work` with the rights of this person.
    ///
    /// # Errors
    /// What the work says, or that the kernel refuses the ids.
    pub(crate) fn act<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, AgentError> + Send,
    ) -> Result<T, AgentError> {
        let run = || {
            if !self.is_us() {
                self.become_it().map_err(|error| {
                    AgentError::io(format!("cannot act as user {}", self.uid), &error.into())
                })?;
            }
            work()
        };
        thread::scope(|scope| {
            let done = scope.spawn(run).join();
            done.unwrap_or_else(|_| Err(AgentError::failed("the work with a person's rights panicked")))
        })
    }

    fn become_it(&self) -> Result<(), rustix::io::Errno> {
        let groups: Vec<Gid> = self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        // The last: from here on there is no way back, and no capability.
        set_thread_res_uid(uid, uid, uid)
    }
}

/// Finds a person in the two files.
fn parse(uid: u32, passwd: &[u8], group: &[u8]) -> Option<Person> {
    let fields =
        |line: &[u8]| -> Vec<Vec<u8>> { line.split(|byte| *byte == b':').map(<[u8]>::to_vec).collect() };
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<u32>().ok();
    let (name, gid) = passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let fields = fields(line);
        let is_it = fields.len() == 7 && number(&fields[2]) == Some(uid);
        is_it.then(|| Some((fields[0].clone(), number(&fields[3])?))).flatten()
    })?;
    let mut groups = vec![gid];
    groups.extend(group.split(|byte| *byte == b'\n').filter_map(|line| {
        let fields = fields(line);
        let is_member = fields.len() == 4 && fields[3].split(|byte| *byte == b',').any(|one| one == name);
        is_member.then(|| number(&fields[2])).flatten()
    }));
    groups.sort_unstable();
    groups.dedup();
    Some(Person { uid, gid, groups })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_person_has_the_groups_of_both_files() {
        let passwd = b"root:x:0:0::/:/bin/sh\nalice:x:1000:100:A,,,:/home/alice:/bin/sh\nbroken:x:1001\n";
        let group = b"sudo:x:27:bob,alice\nusers:x:100:\nal:x:5:alicex,xalice\nbroken\n";
        let alice = Person { uid: 1000, gid: 100, groups: vec![27, 100] };
        assert_eq!(parse(1000, passwd, group), Some(alice));
        assert_eq!(parse(1001, passwd, group), None);
    }

    #[test]
    fn a_person_gets_at_no_more_than_the_person_may_and_the_agent_stays_what_it_is() {
        if !geteuid().is_root() {
            eprintln!("skipped: root is needed to act as somebody else");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "x").unwrap();
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o640)).unwrap();
        let read = || std::fs::read(&secret).map_err(|error| AgentError::io("secret", &error));
        let nobody = Person { uid: 65_534, gid: 65_534, groups: vec![65_534] };
        assert!(nobody.act(read).unwrap_err().message.contains("denied"));
        let member = Person { groups: vec![0, 65_534], ..nobody };
        assert_eq!(member.act(read).unwrap(), b"x");
        assert!(geteuid().is_root() && read().is_ok());
    }
}
