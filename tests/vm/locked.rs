//! The same where `/` lies on an encrypted disk, with kernel and initramfs beside it: the early part comes after the key.

use crate::scene::{BREAK, HEALTHY, Scene, has};

/// Puts the system on the third disk, encrypted, with its `/boot` on the first one.
const MOVE: &str = r#"
set -e
trap "sync; systemctl poweroff" EXIT
dd if=/dev/urandom of=/root/key bs=32 count=1 status=none
cryptsetup -q luksFormat --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --cipher aes-xts-plain64 -s 256 /dev/vdc /root/key
cryptsetup open --key-file /root/key /dev/vdc locked
mkfs.btrfs -q /dev/mapper/locked
mkdir /run/new /run/plain
mount /dev/mapper/locked /run/new
mount -o subvolid=5 /dev/vda1 /run/plain
for name in new/@ new/@home new/@snapshots plain/@boot; do btrfs -q subvolume create /run/$name; done
cp -ax /. /run/new/@
rm -rf /run/new/@/boot/*
cp -a /boot/. /run/plain/@boot
uuid() { blkid -s UUID -o value "$1"; }
for at in "/ @" "/home @home" "/.snapshots @snapshots"; do
  echo "/dev/mapper/locked ${at% *} btrfs subvol=${at#* } 0 0"
done >/run/new/@/etc/fstab
echo "UUID=$(uuid /dev/vda1) /boot btrfs subvol=@boot 0 0" >>/run/new/@/etc/fstab
mkdir /run/new/@/etc/keys
cp /root/key /run/new/@/etc/keys/locked.key
echo "locked UUID=$(uuid /dev/vdc) /etc/keys/locked.key luks,initramfs" >/run/new/@/etc/crypttab
echo 'KEYFILE_PATTERN="/etc/keys/*.key"' >>/run/new/@/etc/cryptsetup-initramfs/conf-hook
for dir in dev proc sys; do mount --bind /$dir /run/new/@/$dir; done
mount --bind /run/plain/@boot /run/new/@/boot
chroot /run/new/@ update-initramfs -u -k all
for dir in boot dev proc sys; do umount /run/new/@/$dir; done
echo MOVED
"#;

/// Where starts are counted.
const COUNT: &str = "grep -x 'starts .*' /.snapshots/.pc-switcher/boot-count\n";

#[test]
#[ignore = "takes qemu and minutes: `tests/full vm`"]
fn a_machine_with_an_encrypted_root_comes_back_to_its_last_good_state() {
    let Some(mut scene) = Scene::make() else { return };
    scene.vm.add_disk().unwrap();
    has(&scene.start("moved to an encrypted disk", MOVE), "\nMOVED\n");
    scene.vm.start_on("/dev/mapper/locked", "@boot");
    let said = scene.well(
        "switched on",
        "findmnt -no SOURCE /\n\
         pc-switcher snapshots auto on && echo SWITCHED ON\n\
         pc-switcher snapshots create\n\
         pc-switcher snapshots good\n\
         pc-switcher doctor | grep boot-protection\n",
    );
    has(&said, "cryptsetup: locked: set up successfully");
    has(&said, "/dev/dm-0[/@]");
    has(&said, "SWITCHED ON");
    let said = scene.well("healthy and then broken", &format!("{COUNT}{HEALTHY}{BREAK}"));
    has(&said, "\nstarts 1\n");
    has(&said, "\nstarts 0\n");
    for number in 1..=3 {
        scene.fails(&format!("failed start {number}"));
    }
    let said =
        scene.well("the fourth start", &format!("cat /home/state\npc-switcher rollback status\n{HEALTHY}"));
    has(&said, "pc-switcher: 3 starts in a row were not found healthy");
    has(&said, "pc-switcher: this machine goes back to set");
    has(&said, "\nbroken\n");
    has(&said, "this machine went back to set");
    has(&said, "\nstarts 0\n");
}
