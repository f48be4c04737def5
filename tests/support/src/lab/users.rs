//! Looks users of a machine up in its own `/etc/passwd` and `/etc/group`, and gives them a clean environment.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use super::{
    enter::has_dir,
    error::{LabError, Result},
};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a process needs to become a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) directory: PathBuf,
    pub(super) environment: Vec<(OsString, OsString)>,
}

/// Returns what `user` is on the machine with this root.
pub(super) fn look_up(root: &Path, user: &str) -> Result<Credentials> {
    let read = |name: &str| {
        let path = root.join("etc").join(name);
        fs::read_to_string(&path).map_err(LabError::path("read", path))
    };
    let unknown = || LabError::Invalid { what: format!("the machine has no user `{user}`") };
    let account = parse_account(&read("passwd")?, user).ok_or_else(unknown)?;
    let groups = parse_groups(&read("group")?, user, account.gid);
    let home = PathBuf::from(&account.home);
    let runtime = format!("/run/user/{}", account.uid);
    let mut environment = vec![
        ("PATH".into(), PATH.into()),
        ("LANG".into(), "C.UTF-8".into()),
        ("USER".into(), user.into()),
        ("LOGNAME".into(), user.into()),
        ("HOME".into(), account.home.into()),
        ("SHELL".into(), account.shell.into()),
    ];
    if has_dir(root, Path::new(&runtime)) {
        if root.join(&runtime[1..]).join("bus").exists() {
            environment.push(("DBUS_SESSION_BUS_ADDRESS".into(), format!("unix:path={runtime}/bus").into()));
        }
        environment.push(("XDG_RUNTIME_DIR".into(), runtime.into()));
    }
    let directory = if has_dir(root, &home) { home } else { PathBuf::from("/") };
    Ok(Credentials { uid: account.uid, gid: account.gid, groups, directory, environment })
}

#[derive(Debug, PartialEq, Eq)]
struct Account {
    uid: u32,
    gid: u32,
    home: String,
    shell: String,
}

fn parse_account(passwd: &str, user: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let &[name, _, uid, gid, _, home, shell] = fields.as_slice() else { return None };
        (name == user).then_some(())?;
        Some(Account {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: home.into(),
            shell: shell.into(),
        })
    })
}

fn parse_groups(group: &str, user: &str, primary: u32) -> Vec<u32> {
    let listed = group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let &[_, _, gid, members] = fields.as_slice() else { return None };
        members.split(',').any(|member| member == user).then(|| gid.parse().ok())?
    });
    std::iter::once(primary).chain(listed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_the_groups_that_list_it() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nal:x:7:8::/home/al:/bin/sh\n";
        let account = parse_account(passwd, "al").unwrap();
        assert_eq!((account.uid, account.gid, account.home.as_str()), (7, 8, "/home/al"));
        assert_eq!(parse_groups("al:x:8:\nx:x:9:bob,al\ny:x:10:alf\n", "al", 8), [8, 9]);
        assert_eq!(parse_account(passwd, "alf"), None);
    }
}
