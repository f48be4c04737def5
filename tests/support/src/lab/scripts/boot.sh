# First process of a machine: builds its network, disks and /proc, /sys, /dev, then becomes its init.
#
# LAB_MACHINE  LAB_IMAGE  LAB_FORMAT (btrfs|ext4)  LAB_UNCACHED (yes or empty)  LAB_ROOT (mount point)  LAB_ADDRESS  LAB_MAC
# LAB_HOME (file system of the homes' own in LAB_HOME_IMAGE, or empty)
# LAB_INIT (tiny|systemd)  LAB_MOUNTS (subvolume:path …)  LAB_TINY (path of the tiny init)
set -eu
root=$LAB_ROOT
quiet=nosuid,nodev,noexec

# Cable: one end here, the other in the hub's bridge.
hub() { nsenter --net=/proc/self/fd/9 "$@"; }
hub ip link del "$LAB_MACHINE" 2>/dev/null || true
hub ip link add "$LAB_MACHINE" type veth peer name eth0 address "$LAB_MAC" netns $$
if [ -e /proc/sys/net/ipv6/conf/all/disable_ipv6 ]; then echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; fi
hub ip link set "$LAB_MACHINE" master br0 up
exec 9<&-
ip link set lo up
ip addr add "$LAB_ADDRESS/24" dev eth0
ip link set eth0 up
echo "$LAB_MACHINE" >/proc/sys/kernel/hostname

# Disk. An uncached one has the block size of the pool's XFS; once it is in use, detaching waits for its last mount.
options=defaults
[ "$LAB_FORMAT" = ext4 ] || options=subvol=@
if [ -n "$LAB_UNCACHED" ]; then
    disk=$(losetup --find --show --direct-io=on --sector-size 4096 "$LAB_IMAGE")
    mount -t "$LAB_FORMAT" -o "$options" "$disk" "$root" || { losetup --detach "$disk"; exit 1; }
    losetup --detach "$disk"
else
    mount -t "$LAB_FORMAT" -o "loop,$options" "$LAB_IMAGE" "$root"
    disk=$(findmnt --noheadings --nofsroot --output SOURCE --mountpoint "$root")
fi
# This setting stays with a loop device from one use to the next. "write through" would mean that nothing is ever
# flushed, and that a synced file does not survive a power cut.
echo 'write back' >"/sys/block/${disk#/dev/}/queue/write_cache"
for pair in $LAB_MOUNTS; do
    mount -t btrfs -o "subvol=${pair%%:*}" "$disk" "$root${pair#*:}"
done

if [ -n "$LAB_HOME" ]; then
    options=loop
    [ "$LAB_HOME" != btrfs ] || options=loop,subvol=@home
    mount -t "$LAB_HOME" -o "$options" "$LAB_HOME_IMAGE" "$root/home"
    home=$(findmnt --noheadings --nofsroot --output SOURCE --mountpoint "$root/home")
    echo 'write back' >"/sys/block/${home#/dev/}/queue/write_cache"
    [ "$LAB_HOME" != btrfs ] || mount -t btrfs -o subvol=@snapshots "$home" "$root/.snapshots-home"
fi

# Kernel file systems. The second, bare proc is what rootless containers look for; it is not for users.
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"
mkdir -m 700 "$root/run/host" "$root/run/host/proc" "$root/run/host/old"
mount -t proc -o $quiet proc "$root/run/host/proc"
mount -t proc -o $quiet proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro,$quiet "$root/proc/sys"
mount --bind "$root/run/host/proc/sys/net" "$root/proc/sys/net"
if [ -e "$root/proc/sysrq-trigger" ]; then
    mount --bind "$root/proc/sysrq-trigger" "$root/proc/sysrq-trigger"
    mount -o remount,bind,ro,$quiet "$root/proc/sysrq-trigger"
fi
cat /proc/sys/kernel/random/uuid >"$root/run/host/boot_id"
chmod 444 "$root/run/host/boot_id"
mount --bind "$root/run/host/boot_id" "$root/proc/sys/kernel/random/boot_id"
mount -t sysfs -o ro,$quiet sysfs "$root/sys"
mount -t cgroup2 -o $quiet cgroup2 "$root/sys/fs/cgroup"

# Devices: the harmless ones and the machine's own disk.
mount -t tmpfs -o mode=755,nosuid,strictatime tmpfs "$root/dev"
device() { mknod -m "$2" "$root/dev/$1" "$3" "$4" "$5"; }
device null 666 c 1 3
device zero 666 c 1 5
device full 666 c 1 7
device random 666 c 1 8
device urandom 666 c 1 9
device tty 666 c 5 0
device fuse 666 c 10 229
device btrfs-control 600 c 10 234
device "${disk#/dev/}" 660 b 7 "${disk#/dev/loop}"
[ "$LAB_HOME" != btrfs ] || device "${home#/dev/}" 660 b 7 "${home#/dev/loop}"
mkdir "$root/dev/net" "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue" "$root/dev/disk" "$root/dev/disk/by-uuid"
device net/tun 666 c 10 200
mount -t devpts -o newinstance,mode=620,ptmxmode=666,gid=5,nosuid,noexec devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
mount -t mqueue -o $quiet mqueue "$root/dev/mqueue"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
ln -s "../../${disk#/dev/}" "$root/dev/disk/by-uuid/$(findmnt --noheadings --output UUID --mountpoint "$root")"

cp "$LAB_TINY" "$root/run/host/init"
init=/sbin/init
[ "$LAB_INIT" = systemd ] || init='/bin/bash /run/host/init'

cd "$root"
pivot_root . run/host/old
umount -l /run/host/old
mount --make-rshared /
# One clock, one kernel: a machine must never be able to change the host's.
# shellcheck disable=SC2086 # the tiny init is two words
exec env -i container=pc-switcher-lab PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    setpriv --bounding-set=-sys_time,-sys_module,-sys_rawio $init
