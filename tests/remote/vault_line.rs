//! A vault over a private sshd: `vault serve` at the other end, for real.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pc_switcher::remote::RemoteEnv;
use pc_switcher::vault::line::dial;
use pc_switcher_contract::ErrorKind;
use pc_switcher_vault::store::ssh::{Hope, SshPlace, SshStore};
use pc_switcher_vault::store::{Kind, Stop, Store};
use rustix::process::{Pid, Signal, kill_process};

use crate::sshd::{Sshd, start};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pc-switcher");

fn store(env: RemoteEnv, root: &Path, program: &str) -> SshStore {
    let place = SshPlace::parse(&format!("ssh://desk{}", root.display())).unwrap();
    let program = PathBuf::from(program);
    let dial = dial(move || RemoteEnv { stable_path: program.clone(), ..env.clone() });
    let hope = Hope { first: Duration::from_millis(50), ..Hope::default() };
    SshStore::at(place, dial, Stop::default(), hope)
}

/// Returns the programs that serve a directory.
fn serving(root: &Path) -> Vec<i32> {
    let names = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let serves = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.starts_with(PROGRAM) && line.contains(&*root.to_string_lossy())
    };
    names.filter_map(|name| name.parse().ok()).filter(serves).collect()
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn vault(sshd: &Sshd) -> PathBuf {
    // A blank and a quotation mark, which a login shell must not see as such.
    sshd.dir().join("my alice's vault")
}

#[test]
fn a_vault_behind_sshd_keeps_what_it_is_given_and_nothing_stays_behind() {
    let Some(sshd) = start("") else { return };
    let root = vault(&sshd);
    let store = store(sshd.env(), &root, PROGRAM);
    assert!(store.is_vacant().unwrap());
    store.make_ready().unwrap();
    let (name, pack) = ("ab".repeat(32), vec![7; 17 << 20]);
    assert!(store.put(Kind::Pack, &name, &pack).unwrap());
    assert!(fs::read(root.join("data/ab").join(&name)).unwrap() == pack);
    assert_eq!(store.get_range(Kind::Pack, &name, 5, 3).unwrap(), [7, 7, 7]);
    assert_eq!(store.list(Kind::Pack).unwrap(), [(name, 17 << 20)]);
    assert_eq!((serving(&root).len(), sshd.sessions().is_empty()), (1, false));
    drop(store);
    until("the end of all that served it", || serving(&root).is_empty() && sshd.sessions().is_empty());
}

#[test]
fn a_login_that_dies_is_made_anew_and_one_that_cannot_be_made_is_named() {
    let Some(sshd) = start("") else { return };
    let root = vault(&sshd);
    let store = store(sshd.env(), &root, PROGRAM);
    store.make_ready().unwrap();
    for pid in sshd.sessions() {
        let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
    }
    let name = "cd".repeat(32);
    assert!(store.put(Kind::Snapshot, &name, b"x").unwrap());
    // Logins outlive the sshd that took them.
    let (env, sessions) = (sshd.env(), sshd.sessions());
    drop(sshd);
    for pid in sessions {
        let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
    }
    let error = store.list(Kind::Pack).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
    // Its keys are gone with it, so this is about the name alone.
    let error = self::store(env, &root, PROGRAM).list(Kind::Pack).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
    assert!(error.hints.concat().contains("ssh desk"), "{:?}", error.hints);
}

#[test]
fn a_machine_without_the_program_is_told_from_one_that_does_not_answer() {
    let Some(sshd) = start("") else { return };
    let root = vault(&sshd);
    let error = store(sshd.env(), &root, "/nonexistent/pc-switcher").list(Kind::Pack).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    assert!(
        error.message.contains("`desk` serves no vault")
            && error.message.contains("/nonexistent/pc-switcher: "),
        "{error}"
    );
    assert!(error.hints.concat().contains("pc-switcher must be installed there"), "{:?}", error.hints);
}

#[test]
fn a_key_that_may_only_add_does_that_and_nothing_else() {
    let Some(sshd) = start("") else { return };
    let root = sshd.dir().join("vault");
    let keys = sshd.dir().join("authorized_keys");
    let key = fs::read_to_string(&keys).unwrap();
    let order = format!("{PROGRAM} vault serve --append-only {}", root.display());
    fs::write(&keys, format!("restrict,command=\"{order}\" {key}")).unwrap();
    // Whatever the other machine asks for, this is what it gets.
    let store = store(sshd.env(), Path::new("/etc"), PROGRAM);
    store.make_ready().unwrap();
    let name = "ef".repeat(32);
    assert!(store.put(Kind::Pack, &name, b"x").unwrap() && store.put(Kind::Lock, &name, b"x").unwrap());
    store.delete(Kind::Lock, &name).unwrap();
    let error = store.delete(Kind::Pack, &name).unwrap_err();
    assert!(error.to_string().contains("append-only"), "{error}");
    assert!(!store.removes_freely() && root.join("data/ef").join(&name).exists());
}
