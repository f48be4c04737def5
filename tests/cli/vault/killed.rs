//! What a killed restore leaves, and what the next one makes of it.

use rustix::fs::{CWD, Mode, mkfifoat};

use super::*;

/// Returns the open files of a process that lie in a directory and have no name, or have one that is not theirs yet.
fn unfinished(pid: u32, directory: &Path) -> usize {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    let is_unfinished = |open: PathBuf| {
        let at = open.to_string_lossy().into_owned();
        open.starts_with(directory) && (at.ends_with(" (deleted)") || at.contains(".pc-switcher-restore-"))
    };
    open.flatten().filter(|entry| fs::read_link(entry.path()).is_ok_and(is_unfinished)).count()
}

#[test]
fn a_restore_that_is_killed_leaves_nothing_and_the_same_command_brings_everything() {
    let home = Home::ready();
    let packs =
        || walk(&home.state().join("local/data")).into_iter().collect::<std::collections::BTreeSet<_>>();
    let names: Vec<String> = (0..40).map(|number| format!("a{number:02}")).collect();
    for name in &names {
        home.put(name, &name.repeat(50));
    }
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let first = packs();
    home.put("z", "what lies in another pack");
    home.bt(&["add"]);
    home.bt(&["backup"]);
    let to = home.path("back");
    fs::create_dir(&to).unwrap();
    let theirs = [".pc-switcher-restore-mine", ".pc-switcher-restore-0123456789abcdef-Ab3dEf9x"];
    for name in theirs {
        fs::write(to.join(name), "somebody's").unwrap();
    }
    // A pack that nobody writes into the pipe: who reads it waits.
    let last = packs().difference(&first).cloned().collect::<Vec<_>>();
    let aside = |pack: &Path| home.path(pack.file_name().unwrap().to_str().unwrap());
    for pack in &last {
        fs::rename(pack, aside(pack)).unwrap();
        mkfifoat(CWD, pack, Mode::RWXU).unwrap();
    }
    let args = ["restore", ".", "--to", to.to_str().unwrap()];
    let mut restoring = home.command(&args).stderr(std::process::Stdio::null()).spawn().unwrap();
    while unfinished(restoring.id(), &to) < names.len() {
        assert_eq!(restoring.try_wait().unwrap(), None, "it ended before all others were complete");
        std::thread::yield_now();
    }
    restoring.kill().unwrap();
    restoring.wait().unwrap();
    let there = |directory: &Path| {
        let mut names = Vec::from_iter(directory.read_dir().unwrap().map(|entry| entry.unwrap().file_name()));
        names.sort_unstable();
        names
    };
    assert_eq!(there(&to), [theirs[1], theirs[0]], "a killed restore leaves nothing");
    for pack in &last {
        fs::rename(aside(pack), pack).unwrap();
    }
    home.bt(&args);
    let expected: Vec<&str> =
        theirs.iter().rev().copied().chain(names.iter().map(String::as_str)).chain(["z"]).collect();
    assert_eq!(there(&to), expected);
    for name in names.iter().map(String::as_str).chain(["z"]) {
        assert_eq!(fs::read(to.join(name)).unwrap(), fs::read(home.path("docs").join(name)).unwrap());
    }
    for name in theirs {
        assert_eq!(fs::read(to.join(name)).unwrap(), b"somebody's");
    }
}
