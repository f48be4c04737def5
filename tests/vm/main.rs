//! Boot protection in a machine with a kernel of its own: from the initramfs to a start that is found healthy, and not.
//!
//! Takes root, qemu and some minutes, or half an hour without KVM: `tests/full vm`.

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
const HEALTHY: &str = "\
for n in $(seq 600); do grep -qx 'starts 0' /.snapshots/.pc-switcher/boot-count && break; sleep 0.5; done
grep -x 'starts .*' /.snapshots/.pc-switcher/boot-count
";

const OFF: &str = "echo TASK DONE; sync; systemctl poweroff\n";

/// The program to be tried.
fn program() -> PathBuf {
    std::env::var_os("PC_SWITCHER_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_pc-switcher").into(), PathBuf::from)
}

struct Scene {
    vm: Vm,
}

impl Scene {
    fn make() -> Self {
        let vm = Vm::make().unwrap();
        let root = vm.mount("subvol=@").unwrap();
        let install = Path::new(env!("CARGO_MANIFEST_DIR")).join("installer/install.sh");
        let installed =
            Command::new("sh").arg(install).arg(program()).env("DESTDIR", root.at("")).status().unwrap();
        assert!(installed.success());
        root.write("root/.config/pc-switcher/config.toml", CONFIG).unwrap();
        drop(root);
        Self { vm }
    }

    fn start(&self, what: &str, task: &str) -> String {
        let Ended { said, by_itself } = self.vm.start(&format!("exec 2>&1\n{task}")).unwrap();
        let ours = said.lines().filter(|line| line.contains("pc-switcher") || line.starts_with("starts "));
        eprintln!("--- {what}\n{}", ours.collect::<Vec<_>>().join("\n"));
        assert!(by_itself, "{what}: it hung:\n{said}");
        said
    }

    /// A start that comes to its last unit.
    fn well(&self, what: &str, task: &str) -> String {
        let said = self.start(what, &format!("{task}{OFF}"));
        assert!(said.contains("TASK DONE"), "{what}: it did not come so far:\n{said}");
        said
    }

    /// A start that does not.
    fn fails(&self, what: &str) -> String {
        let said = self.start(what, OFF);
        assert!(!said.contains("TASK DONE") && said.contains("Kernel panic"), "{what}:\n{said}");
        said
    }

    /// The count on the disk: `starts`, and where the machine went.
    fn count(&self) -> (u32, String) {
        let top = self.vm.mount("subvolid=5").unwrap();
        let text = std::fs::read_to_string(top.at("@snapshots/.pc-switcher/boot-count")).unwrap();
        let value =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
        (value("starts").parse().unwrap(), value("went-to"))
    }

    /// The names at the top level of the disk.
    fn names(&self) -> Vec<String> {
        let top = self.vm.mount("subvolid=5").unwrap();
        let entries = std::fs::read_dir(top.at("")).unwrap().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

fn has(said: &str, what: &str) {
    assert!(said.contains(what), "`{what}` is not in:\n{said}");
}

#[test]
#[ignore = "takes qemu and minutes: `tests/full vm`"]
fn a_machine_that_does_not_start_any_more_comes_back_to_its_last_good_state_once() {
    if let Some(why) = why_not() {
        assert!(std::env::var_os("LAB_REQUIRED").is_none(), "no machine: {why}");
        eprintln!("skipped: no machine can be made here: {why}");
        return;
    }
    let scene = Scene::make();

    let said = scene.well(
        "switched on",
        "cat /proc/cmdline\n\
         pc-switcher snapshots auto on --dry-run\n\
         ls /etc/initramfs-tools/hooks/ /.snapshots/.pc-switcher\n\
         lsinitramfs /boot/initrd.img-* | grep -c pc-switcher\n\
         ls -l /boot/initrd.img-*\n\
         pc-switcher snapshots auto on && echo SWITCHED ON\n\
         ls -l /boot/initrd.img-*\n\
         lsinitramfs /boot/initrd.img-* | grep pc-switcher\n\
         pc-switcher snapshots auto on\n\
         pc-switcher snapshots create\n\
         pc-switcher snapshots good\n\
         pc-switcher snapshots auto status\n",
    );
    has(&said, "would make the initramfs of every kernel anew");
    has(&said, "as it stands it would not: no set of these subvolumes is marked as good");
    has(&said, "SWITCHED ON");
    has(&said, "usr/lib/pc-switcher/pc-switcher");
    has(&said, "nothing to change");
    has(&said, "Boot protection  on: the last start was healthy");
    assert_eq!(scene.count().0, 0);

    let said = scene
        .well("healthy", &format!("cat /.snapshots/.pc-switcher/boot-count\n{HEALTHY}pc-switcher doctor\n"));
    has(&said, "\nstarts 1\n");
    has(&said, "\nstarts 0\n");
    has(&said, "it is on: the last start was healthy");

    let said = scene.well(
        "ended in order before it is looked at",
        "systemctl stop pc-switcher-good.timer pc-switcher-good.service\n\
         until systemctl is-active -q pc-switcher-boot.service; do sleep 0.2; done\n\
         grep -x 'starts .*' /.snapshots/.pc-switcher/boot-count\n",
    );
    // It may have been looked at before the timer was stopped.
    assert!(said.contains("\nstarts 1\n") || said.contains("\nstarts 0\n"), "{said}");
    assert_eq!(scene.count().0, 0);

    scene.well(
        "broken",
        &format!("{HEALTHY}rm /sbin/init\nprintf '#!/bin/sh\\nexit 1\\n' >/sbin/init\nchmod 755 /sbin/init\necho broken >/home/state\n"),
    );
    assert_eq!(scene.count(), (0, "-".into()));
    for number in 1..=3 {
        scene.fails(&format!("failed start {number}"));
        assert_eq!(scene.count(), (number, "-".into()));
    }
    let ruin = scene.vm.copy().unwrap();

    let said = scene.well(
        "the fourth start",
        &format!(
            "cat /home/state\npc-switcher status\npc-switcher history\npc-switcher rollback status\npc-switcher doctor\n\
             dmesg | grep pc-switcher:\n{HEALTHY}pc-switcher snapshots list\n"
        ),
    );
    has(&said, "pc-switcher: 3 starts in a row were not found healthy");
    has(&said, "pc-switcher: this machine goes back to set");
    has(&said, "this machine went back to set");
    // What people work on did not go back.
    has(&said, "\nbroken\n");
    has(&said, "\nstarts 0\n");
    has(&said, "prerollback");
    assert_eq!(scene.count(), (0, "-".into()));
    assert!(scene.names().iter().any(|name| name.starts_with("@.replaced-")), "{:?}", scene.names());

    let said = scene.well("confirmed and switched off", &format!("{HEALTHY}pc-switcher rollback confirm\npc-switcher snapshots auto off && echo SWITCHED OFF\nlsinitramfs /boot/initrd.img-* | grep -c pc-switcher\nls /etc/initramfs-tools/hooks\n"));
    has(&said, "SWITCHED OFF\n0\n");
    assert!(!scene.names().iter().any(|name| name.contains('.')), "{:?}", scene.names());
    let said = scene.well("off", "ls /.snapshots/.pc-switcher\n");
    assert!(!said.contains("pc-switcher:") && !said.contains("boot-count"), "{said}");

    // The same machine, whose good state does not start either.
    let scene = Scene { vm: ruin };
    let crash = "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 60\n";
    for number in 1..=3 {
        let said = scene.start(&format!("failed start {number} of the good state"), crash);
        has(&said, "Kernel panic");
        assert_eq!(said.contains("goes back to set"), number == 1, "{said}");
        assert_eq!(scene.count().0, number);
        assert_ne!(scene.count().1, "-");
    }
    let before = scene.names();
    for number in 4..=5 {
        let said = scene.start("it stops", crash);
        has(&said, "it stops there");
        assert_eq!((scene.count().0, scene.names()), (number, before.clone()), "nothing is exchanged");
    }
    let said = scene.well("mended", HEALTHY);
    has(&said, "\nstarts 0\n");
    assert_eq!(scene.count(), (0, "-".into()));
}
