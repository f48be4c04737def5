//! The same where GRUB reads kernel and initramfs out of `@`, so that they go back with it.

use pc_switcher_testkit::vm::Vm;

use crate::scene::{BREAK, HEALTHY, Scene, has};

#[test]
#[ignore = "takes qemu and minutes: `tests/full vm`"]
fn a_machine_that_grub_starts_comes_back_with_the_kernel_of_its_good_state() {
    let Some(mut scene) = Scene::make() else { return };
    let settings = format!(
        "GRUB_TIMEOUT=0\nGRUB_TERMINAL=serial\nGRUB_DISABLE_OS_PROBER=true\nGRUB_CMDLINE_LINUX=\"{}\"\n",
        Vm::command_line()
    );
    scene.vm.mount("subvol=@").unwrap().write("etc/default/grub", &settings).unwrap();
    scene.well(
        "GRUB is installed",
        "grub-install --target=i386-pc /dev/vda && update-grub\ngrep -m1 rootflags= /boot/grub/grub.cfg\n",
    );
    scene.vm.start_by_its_loader();
    // What is known to be good has no modules for the kernel that runs when it does not start any more.
    let said = scene.well(
        "switched on",
        "cat /proc/cmdline\n\
         pc-switcher snapshots auto on && echo SWITCHED ON\n\
         mv /lib/modules /lib/modules.of-another\n\
         pc-switcher snapshots create\n\
         pc-switcher snapshots good\n\
         mv /lib/modules.of-another /lib/modules\n\
         pc-switcher doctor | grep boot-protection\n",
    );
    has(&said, "BOOT_IMAGE=/@/boot/vmlinuz");
    has(&said, "SWITCHED ON");
    scene.well("broken", &format!("{HEALTHY}{BREAK}"));
    for number in 1..=3 {
        scene.fails(&format!("failed start {number}"));
        assert_eq!(scene.count(), (number, "-".into()));
    }
    let said = scene.start("the fourth start", "echo TOO FAR\n");
    has(&said, "pc-switcher: this machine goes back to set");
    has(&said, "pc-switcher: the machine is started anew");
    assert!(!said.contains("TOO FAR"), "it goes on with another kernel:\n{said}");
    assert_eq!(scene.count().0, 1);
    let said = scene.well("the fifth start", &format!("cat /home/state\nls /lib\n{HEALTHY}"));
    has(&said, "\nbroken\n");
    has(&said, "modules.of-another");
    has(&said, "\nstarts 0\n");
    assert_eq!(scene.count(), (0, "-".into()));
}
