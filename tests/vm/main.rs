//! Boot protection in a machine with a kernel of its own: from the initramfs to a start that is found healthy, and not.
//!
//! Takes root, qemu and some minutes, or half an hour each without KVM: `tests/full vm`.

mod loader;
mod locked;
mod scene;

use scene::{BREAK, HEALTHY, Scene, has};

#[test]
#[ignore = "takes qemu and minutes: `tests/full vm`"]
fn a_machine_that_does_not_start_any_more_comes_back_to_its_last_good_state_once() {
    let Some(scene) = Scene::make() else { return };

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
         systemctl reset-failed\n\
         until systemctl is-active -q pc-switcher-boot.service; do sleep 0.2; done\n\
         pc-switcher snapshots auto on\n\
         pc-switcher snapshots auto on\n\
         grep -x 'starts .*' /.snapshots/.pc-switcher/boot-count\n",
    );
    has(&said, "nothing to change");
    // It may have been looked at before the timer was stopped.
    assert!(said.contains("\nstarts 1\n") || said.contains("\nstarts 0\n"), "{said}");
    assert_eq!(scene.count().0, 0);

    scene.well("broken", &format!("{HEALTHY}{BREAK}"));
    assert_eq!(scene.count(), (0, "-".into()));
    for number in 1..=3 {
        scene.fails(&format!("failed start {number}"));
        assert_eq!(scene.count(), (number, "-".into()));
    }
    let ruin = scene.vm.copy("ruin").unwrap();

    let said = scene.well(
        "the fourth start",
        &format!(
            "cat /home/state\npc-switcher status\npc-switcher history\npc-switcher rollback status\npc-switcher doctor\n\
             dmesg | grep pc-switcher:\n{HEALTHY}pc-switcher snapshots list\n"
        ),
    );
    has(&said, "pc-switcher: 3 starts in a row were not found healthy");
    has(&said, "pc-switcher: press Enter within 10 s");
    has(&said, "pc-switcher: this machine goes back to set");
    has(&said, "this machine went back to set");
    // What people work on did not go back.
    has(&said, "\nbroken\n");
    has(&said, "\nstarts 0\n");
    has(&said, "pre-rollback");
    assert_eq!(scene.count(), (0, "-".into()));
    assert!(scene.names().iter().any(|name| name.starts_with("@.replaced-")), "{:?}", scene.names());

    let said = scene.well(
        "confirmed and switched off",
        &format!(
            "{HEALTHY}pc-switcher rollback confirm\n\
             sed -i 's/^enabled = true/enabled = false/' /root/.config/pc-switcher/config.toml\n\
             pc-switcher snapshots auto on && echo SWITCHED OFF\n\
             lsinitramfs /boot/initrd.img-* | grep -c pc-switcher\n\
             ls /etc/initramfs-tools/hooks\n"
        ),
    );
    has(&said, "SWITCHED OFF\n0\n");
    assert!(!scene.names().iter().any(|name| name.contains('.')), "{:?}", scene.names());
    let said = scene.well("off", "ls /.snapshots/.pc-switcher\n");
    assert!(!said.contains("pc-switcher:") && !said.contains("boot-count"), "{said}");

    // The same machine, whose good state does not start either.
    // It ends before it could be looked at, however slow the machine is.
    let scene = Scene { vm: ruin, words: "systemd.mask=pc-switcher-good.service" };
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
    let scene = Scene { words: "", ..scene };
    let said = scene.well("mended", HEALTHY);
    has(&said, "\nstarts 0\n");
    assert_eq!(scene.count(), (0, "-".into()));
}
