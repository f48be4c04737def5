//! A machine with this program, and what is asked of it between two starts.

use std::path::{Path, PathBuf};
use std::process::Command;

use pc_switcher_testkit::vm::{Ended, Vm, why_not};

/// What root has of settings in the machine. Its disk is small.
const CONFIG: &str = "\
[disk]
min_free = 0.01
reserve_minimum = \"1MiB\"
[btrfs-snapshots]
subvolumes = [\"@\", \"@home\"]
[snapshots]
auto_update = false
auto_boot = false
[boot-protection]
enabled = true
max_failed_boots = 3
healthy_after = \"2s\"
";

/// Waits until this start was found healthy, and says so.
pub const HEALTHY: &str = "\
for n in $(seq 600); do grep -qx 'starts 0' /.snapshots/.pc-switcher/boot-count && break; sleep 0.5; done
grep -x 'starts .*' /.snapshots/.pc-switcher/boot-count
";

/// Leaves a system whose first program is none.
pub const BREAK: &str = "\
rm /sbin/init
printf '#!/bin/sh\\nexit 1\\n' >/sbin/init
chmod 755 /sbin/init
echo broken >/home/state
";

const OFF: &str = "echo TASK DONE; sync; systemctl poweroff\n";

/// The program to be tried.
fn program() -> PathBuf {
    std::env::var_os("PC_SWITCHER_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_pc-switcher").into(), PathBuf::from)
}

pub struct Scene {
    pub vm: Vm,
    /// More words for its kernel.
    pub words: &'static str,
}

impl Scene {
    /// Makes one, or says why there can be none.
    pub fn make() -> Option<Self> {
        if let Some(why) = why_not() {
            assert!(std::env::var_os("LAB_REQUIRED").is_none(), "no machine: {why}");
            eprintln!("skipped: no machine can be made here: {why}");
            return None;
        }
        let vm = Vm::make().unwrap();
        let root = vm.mount("subvol=@").unwrap();
        let install = Path::new(env!("CARGO_MANIFEST_DIR")).join("installer/install.sh");
        let installed =
            Command::new("sh").arg(install).arg(program()).env("DESTDIR", root.at("")).status().unwrap();
        assert!(installed.success());
        root.write("root/.config/pc-switcher/config.toml", CONFIG).unwrap();
        drop(root);
        Some(Self { vm, words: "" })
    }

    /// Starts it once, whatever comes of it.
    pub fn start(&self, what: &str, task: &str) -> String {
        let Ended { said, by_itself, took } =
            self.vm.start(&format!("exec 2>&1\n{task}"), self.words).unwrap();
        let ours = said.lines().filter(|line| line.contains("pc-switcher") || line.starts_with("starts "));
        eprintln!("--- {what}: {} s\n{}", took.as_secs(), ours.collect::<Vec<_>>().join("\n"));
        assert!(by_itself, "{what}: it hung:\n{said}");
        said
    }

    /// A start that comes to its last unit.
    pub fn well(&self, what: &str, task: &str) -> String {
        let said = self.start(what, &format!("{task}{OFF}"));
        assert!(said.contains("TASK DONE"), "{what}: it did not come so far:\n{said}");
        said
    }

    /// A start that does not.
    pub fn fails(&self, what: &str) -> String {
        let said = self.start(what, OFF);
        assert!(!said.contains("TASK DONE") && said.contains("Kernel panic"), "{what}:\n{said}");
        said
    }

    /// The count on the disk: `starts`, and where the machine went.
    pub fn count(&self) -> (u32, String) {
        let top = self.vm.mount("subvolid=5").unwrap();
        let text = std::fs::read_to_string(top.at("@snapshots/.pc-switcher/boot-count")).unwrap();
        let value =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
        (value("starts").parse().unwrap(), value("went-to"))
    }

    /// The names at the top level of the disk.
    pub fn names(&self) -> Vec<String> {
        let top = self.vm.mount("subvolid=5").unwrap();
        let entries = std::fs::read_dir(top.at("")).unwrap().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

pub fn has(said: &str, what: &str) {
    assert!(said.contains(what), "`{what}` is not in:\n{said}");
}
