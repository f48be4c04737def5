//! Installs below a temporary root.

use std::cell::Cell;

use super::*;

struct Machine {
    _dir: tempfile::TempDir,
    root: PathBuf,
    places: Places,
    own: PathBuf,
    checks: Cell<u32>,
}

fn machine() -> Machine {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("etc/sudoers.d")).unwrap();
    let own = dir.path().join("own");
    fs::write(&own, "binary").unwrap();
    Machine { places: Places::new(&root), root, own, checks: Cell::new(0), _dir: dir }
}

impl Machine {
    fn activate(&self, user: Option<&str>, version: &str) -> Result<Activated, AgentError> {
        self.activate_if(user, version, Ok(()))
    }

    fn activate_if(
        &self,
        user: Option<&str>,
        version: &str,
        verdict: Result<(), AgentError>,
    ) -> Result<Activated, AgentError> {
        let request = ActivateRequest { user: user.map(str::to_owned) };
        let check = |file: &Path| {
            self.checks.set(self.checks.get() + 1);
            assert!(!file.starts_with(self.root.join("etc/sudoers.d")), "sudo would read it there");
            assert!(fs::read_to_string(file).unwrap().ends_with(" agent\n"));
            verdict.clone()
        };
        activate_checked(&self.places, &request, version, &self.own, &check)
    }

    /// All files and links below the root, sorted.
    fn files(&self) -> Vec<String> {
        fn collect(dir: &Path, root: &Path, out: &mut Vec<String>) {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap().is_dir() {
                    true => collect(&entry.path(), root, out),
                    false => out.push(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned()),
                }
            }
        }
        let mut out = Vec::new();
        collect(&self.root, &self.root, &mut out);
        out.sort();
        out
    }
}

#[test]
fn a_first_activation_installs_all_and_a_second_nothing() {
    let machine = machine();
    let done = machine.activate(Some("alice.b"), "1.2.0").unwrap();
    let path = machine.root.join("usr/local/lib/pc-switcher/1.2.0/pc-switcher");
    assert_eq!(done.path, BytePath::from(path.as_path()));
    assert_eq!(done.changes.len(), 4, "{:?}", done.changes);
    assert_eq!(fs::read(&path).unwrap(), b"binary");
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o755, 0o755));
    assert_eq!(
        fs::read_link(machine.root.join("usr/local/bin/pc-switcher")).unwrap(),
        Path::new("/usr/local/lib/pc-switcher/1.2.0/pc-switcher")
    );
    assert_eq!(fs::read(machine.root.join("usr/local/bin/bt")).ok(), None,);
    assert_eq!(fs::read_link(machine.root.join("usr/local/bin/bt")).unwrap(), Path::new("pc-switcher"));
    let line = machine.root.join("etc/sudoers.d/pc-switcher-alice+b");
    assert_eq!(
        fs::read_to_string(&line).unwrap(),
        "alice.b ALL=(root) NOPASSWD: /usr/local/bin/pc-switcher agent\n"
    );
    assert_eq!(mode(&line), 0o440);

    let (files, inode) = (machine.files(), fs::metadata(&path).unwrap().ino());
    assert_eq!(files.len(), 4, "{files:?}");
    assert_eq!(machine.activate(Some("alice.b"), "1.2.0").unwrap().changes, [""; 0]);
    assert_eq!((machine.files(), fs::metadata(&path).unwrap().ino()), (files, inode));
    assert_eq!(machine.checks.get(), 1, "a line in place is not checked again");
}

#[test]
fn what_is_not_as_it_should_be_is_mended() {
    let machine = machine();
    let path = machine.activate(None, "1.0.0").unwrap().path;
    fs::set_permissions(path.as_path(), Permissions::from_mode(0o777)).unwrap();
    assert_eq!(machine.activate(None, "1.0.0").unwrap().changes.len(), 1);
    fs::write(path.as_path(), "other").unwrap();
    assert_eq!(machine.activate(None, "1.0.0").unwrap().changes.len(), 1);
    let bin = machine.root.join("usr/local/bin/pc-switcher");
    fs::remove_file(&bin).unwrap();
    fs::write(&bin, "by hand").unwrap();
    fs::write(machine.root.join("usr/local/bin").join(UNFINISHED), "left over").unwrap();
    assert_eq!(machine.activate(None, "1.0.0").unwrap().changes.len(), 1);
    assert!(fs::read_link(&bin).is_ok());
    assert_eq!(machine.files().len(), 3);
    // Another program of that name stays.
    let short = machine.root.join("usr/local/bin/bt");
    fs::remove_file(&short).unwrap();
    fs::write(&short, "a BitTorrent client").unwrap();
    assert_eq!(machine.activate(None, "1.0.0").unwrap().changes, [""; 0]);
    assert_eq!(fs::read(&short).unwrap(), b"a BitTorrent client");
}

#[test]
fn nothing_is_written_if_the_line_is_refused_or_cannot_be_checked() {
    let machine = machine();
    let error = machine.activate_if(Some("alice"), "1.0.0", Err(AgentError::failed("no"))).unwrap_err();
    assert_eq!(error.message, "no");
    for user in ["", "1a", "a b", "a\nb", "ALL", "ADMINS", "Defaults", "%wheel", "#0", "a$b", "../a"] {
        assert!(machine.activate(Some(user), "1.0.0").is_err(), "{user}");
    }
    assert!(machine.activate(None, "../../x").is_err());
    assert!(machine.activate(None, "").is_err());
    assert_eq!(machine.files(), [""; 0]);
    assert!(!machine.root.join("usr").exists());
}

#[test]
fn root_and_nobody_get_no_line() {
    let machine = machine();
    machine.activate(Some("root"), "1.0.0").unwrap();
    machine.activate(None, "1.0.0").unwrap();
    assert_eq!(machine.files().len(), 3);
    assert_eq!(machine.checks.get(), 0);
    for user in ["alice", "_x", "Al-ice.b", "machine$", "A.B"] {
        assert!(is_user_name(user), "{user}");
    }
}

#[test]
fn no_older_version_replaces_a_newer_one() {
    let machine = machine();
    machine.activate(None, "0.10.0").unwrap();
    let error = machine.activate(None, "0.9.0").unwrap_err();
    assert!(error.message.contains("`0.10.0`") && error.message.contains("`0.9.0`"), "{error}");
    fs::remove_dir_all(machine.root.join("usr/local/lib/pc-switcher")).unwrap();
    assert!(machine.activate(None, "0.9.0").is_err(), "the link alone tells it, too");
}

#[test]
fn two_versions_are_kept() {
    let machine = machine();
    for version in ["0.8.0", "0.9.0", "0.10.0"] {
        machine.activate(None, version).unwrap();
    }
    let lib = machine.places.at(LIB);
    assert_eq!(version_dirs(&lib).unwrap(), ["0.10.0", "0.9.0"]);
    fs::create_dir(lib.join("0.11.0")).unwrap();
    fs::create_dir(lib.join("notes")).unwrap();
    let done = machine.activate(None, "0.10.0").unwrap();
    assert_eq!(done.changes, ["removed version `0.11.0`"], "an interrupted installation blocks nothing");
    assert!(lib.join("notes").exists());
}

#[test]
fn versions_are_compared_by_number() {
    for (newer, older) in [
        ("0.10.0", "0.9.9"),
        ("1.0.0", "0.99.0"),
        ("1.2", "1.1.9"),
        ("2", "1.9.9"),
        ("1.0.0", "1.0.0-rc.1"),
        ("1.0.0-rc.10", "1.0.0-rc.9"),
    ] {
        assert!(is_newer(newer, older) && !is_newer(older, newer), "{newer} {older}");
    }
    for (one, other) in [("1.0.0", "1"), ("1.0.0+a", "1.0.0+b"), ("x", "1.0.0"), ("1.0.0", "x")] {
        assert!(!is_newer(one, other) && !is_newer(other, one), "{one} {other}");
    }
}

#[test]
fn where_there_is_systemd_each_boot_redoes_and_a_masked_unit_stays_masked() {
    let machine = machine();
    let system = machine.root.join("etc/systemd/system");
    fs::create_dir_all(&system).unwrap();
    assert_eq!(machine.activate(None, "1.0.0").unwrap().changes.len(), 3, "no systemd, no unit");
    fs::create_dir_all(machine.root.join("usr/lib/systemd")).unwrap();
    fs::write(machine.root.join("usr/lib/systemd/systemd"), "").unwrap();
    assert_eq!(machine.activate(None, "1.0.0").unwrap().changes.len(), 4);
    assert_eq!(machine.activate(None, "1.0.0").unwrap().changes, [""; 0]);
    let early = system.join("sysinit.target.wants/pc-switcher-rollback.service");
    assert_eq!(fs::read_to_string(&early).unwrap(), Unit::Rollback.text());
    let unit = system.join("pc-switcher-redo.service");
    let link = system.join("multi-user.target.wants/pc-switcher-redo.service");
    assert_eq!(fs::read(&link).unwrap(), fs::read(&unit).unwrap());
    assert!(
        fs::read_to_string(&link).unwrap().contains("ExecStart=/usr/local/bin/pc-switcher agent --redo\n")
    );
    fs::write(&unit, "of an older version").unwrap();
    assert_eq!(machine.activate(None, "1.1.0").unwrap().changes.len(), 3);
    fs::remove_file(&unit).unwrap();
    symlink("/dev/null", &unit).unwrap();
    assert_eq!(machine.activate(None, "1.1.0").unwrap().changes, [""; 0]);
    assert_eq!(fs::read_link(&unit).unwrap(), Path::new("/dev/null"));
}
