//! What is recorded of the system that a set is of.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use pc_switcher_contract::SnapshotSet;

use super::system::LIST;
use super::tests::Bench;
use super::*;
use crate::proto::{PackageChange, System, SystemChange};

/// A root with packages, and sets of it.
struct Machine {
    bench: Bench,
    root: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { bench: Bench::new(), root: tempfile::tempdir().unwrap() };
        fs::create_dir_all(machine.root.path().join("var/lib/dpkg")).unwrap();
        machine
    }

    /// Installs packages as dpkg does: the database is a new file each time.
    fn install(&self, packages: &[(&str, &str)]) {
        let paragraph = |(name, version): &(&str, &str)| {
            format!(
                "Package: {name}\nStatus: install ok installed\nArchitecture: all\nVersion: {version}\n\n"
            )
        };
        let dir = self.root.path().join("var/lib/dpkg");
        fs::write(dir.join("status-new"), packages.iter().map(paragraph).collect::<String>()).unwrap();
        fs::rename(dir.join("status-new"), dir.join("status")).unwrap();
    }

    fn store(&self) -> Store<'_> {
        Store { root: self.root.path().to_owned(), ..self.bench.store() }
    }

    fn take(&self, session: &str) -> SnapshotSet {
        self.bench.take_in(&self.store(), session).unwrap().0
    }

    fn system(&self, set: &SnapshotSet) -> Option<System> {
        let (sets, _) = self.bench.list();
        sets.into_iter().find(|stored| stored.set == *set).unwrap().system
    }

    fn list(&self, set: &SnapshotSet) -> PathBuf {
        self.store().sidecar(&set.id()).dir().join(LIST)
    }

    fn change(&self, from: &SnapshotSet, to: &SnapshotSet) -> SystemChange {
        self.store().system_change(&from.id(), &to.id())
    }
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn a_set_says_which_kernel_ran_and_what_was_installed_and_two_say_what_differs() {
    let machine = Machine::new();
    machine.install(&[("curl", "8.1"), ("zsh", "5.9")]);
    let (first, second) = (machine.take("00000001"), machine.take("00000002"));
    let system = machine.system(&first).unwrap();
    let running = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!((system.kernel.as_str(), machine.system(&second)), (running.trim(), Some(system.clone())));
    assert_eq!(system.packages.unwrap().count, Some(2));
    assert_eq!(inode(&machine.list(&first)), inode(&machine.list(&second)), "the list takes no space again");
    assert_eq!(machine.change(&first, &second).packages, Some(Vec::new()));
    let system = machine.system(&first).unwrap();
    assert_eq!((system.boot_kernel, system.fstab), (None, None), "there is neither");

    for dir in ["etc", "boot", "lib/modules/6.9.1-x"] {
        fs::create_dir_all(machine.root.path().join(dir)).unwrap();
    }
    fs::write(machine.root.path().join("boot/vmlinuz-6.9.1-x"), "").unwrap();
    fs::write(machine.root.path().join("etc/fstab"), "UUID=x / btrfs subvol=@ 0 0\n").unwrap();
    let mounted = machine.take("00000005");
    let system = machine.system(&mounted).unwrap();
    assert_eq!(system.boot_kernel.as_deref(), Some("6.9.1-x"));
    let digest = crate::linux::packages::digest(b"UUID=x / btrfs subvol=@ 0 0\n");
    assert_eq!(system.fstab.as_ref(), Some(&digest));

    machine.install(&[("curl", "8.2"), ("zsh", "5.9")]);
    let third = machine.take("00000003");
    let changed = PackageChange { name: "curl:all".into(), from: Some("8.1".into()), to: Some("8.2".into()) };
    assert_eq!(machine.change(&second, &third).packages, Some(vec![changed]));
    assert_ne!(machine.system(&second), machine.system(&third));

    // A file in which the power failed says nothing; the next set has a list of its own again.
    fs::write(machine.list(&third), "curl:all 8.").unwrap();
    assert_eq!(machine.change(&second, &third).packages, None);
    fs::remove_file(machine.list(&third)).unwrap();
    let fourth = machine.take("00000004");
    assert_eq!(machine.change(&third, &fourth).packages, Some(Vec::new()), "their digests are the same");
    assert_eq!(fs::read_to_string(machine.list(&fourth)).unwrap(), "curl:all 8.2\nzsh:all 5.9\n");
}

#[test]
fn a_system_without_known_packages_has_sets_and_sets_of_no_system_say_nothing() {
    let machine = Machine::new();
    let plain = machine.take("00000001");
    assert_eq!(machine.system(&plain).unwrap().packages, None);
    assert!(!machine.list(&plain).exists());
    let request = super::tests::request(&machine.bench.dir(), "00000002", &[]);
    let mounts = Mounts::parse(
        format!(
            "20 1 8:1 / / rw - ext4 x rw\n21 20 0:30 / {} rw - btrfs x rw\n",
            machine.bench.top.display()
        )
        .as_bytes(),
    );
    let asked = TakeSet { subvolumes: vec!["@".parse().unwrap()], ..request };
    let trees = set::sources(&machine.bench.model, &mounts, &asked).unwrap();
    let hostname = "laptop".parse().unwrap();
    let (aside, _) = set::take_of(&machine.store(), &trees, hostname, &asked, &Said::default()).unwrap();
    assert_eq!(machine.system(&aside), None, "whose it is nobody knows");
    assert_eq!(machine.change(&plain, &aside), SystemChange::default());
    // Records from before say nothing of it either, and are read.
    let path = machine.store().sidecar(&plain.id()).dir().join("meta.json");
    let mut meta: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert!(meta.as_object_mut().unwrap().remove("system").is_some());
    fs::write(&path, meta.to_string()).unwrap();
    assert_eq!(machine.system(&plain), None);
}
