# Last step of the base tree, run by mmdebstrap with the new root as $1.
set -eu
root=$1
chroot "$root" useradd --create-home --uid 1000 --user-group --shell /bin/bash alice
echo 'alice:alice' | chroot "$root" chpasswd
for unit in systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udev-trigger.service \
    systemd-firstboot.service systemd-networkd-wait-online.service systemd-timesyncd.service \
    getty.target getty@tty1.service console-getty.service serial-getty@.service \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer e2scrub_reap.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
mkdir -p "$root/var/lib/systemd/linger" "$root/var/log/journal"
touch "$root/var/lib/systemd/linger/alice"
cat >"$root/etc/ssh/sshd_config.d/lab.conf" <<'CONF'
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
PrintLastLog no
MaxStartups 100:30:200
CONF
echo 'LANG=C.UTF-8' >"$root/etc/default/locale"
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/machine-id" "$root/var/lib/dbus/machine-id"
rm -f "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* "$root"/var/log/*.log "$root"/var/log/apt/*
