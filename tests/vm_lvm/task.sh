# What the machine does: a thin pool with ext4 and XFS in it, and all that people do with sets of them. Says FAILED where
# something is not as it is to be.

fail() { echo "FAILED: $*"; }

# must CODE TEXT COMMAND…: it ends so, and says that.
must() {
  code=$1 text=$2
  shift 2
  echo "\$ $*"
  "$@" >/run/out 2>&1
  is=$?
  cat /run/out
  [ "$is" = "$code" ] || fail "it ended with $is, not $code"
  grep -qF -- "$text" /run/out || fail "it does not say \`$text\`"
}

same() { [ "$1" = "$2" ] || fail "\`$1\` is not \`$2\`"; }

# Volumes of ours, and those of them that have a device.
ours() { lvs --noheadings -o lv_name @pc-switcher | wc -l; }
awake() { lvs --noheadings -o lv_name,lv_active @pc-switcher | grep -c active; }
nobody_reads() {
  same "$(awake)" 0
  grep -E 'pc-switcher|-manual-' /proc/self/mountinfo && fail "something is mounted"
}
snaps() { pc-switcher snapshots "$@"; }
wait_for() {
  for _ in $(seq 300); do
    "$@" && return
    sleep 0.2
  done
  fail "it never came: $*"
}

echo "=== a pool"
pvcreate -q /dev/vdb
vgcreate -q vg0 /dev/vdb
lvcreate -q -L 900M --poolmetadatasize 8M -T vg0/pool
lvcreate -q -V 500M -T vg0/pool -n home
lvcreate -q -V 400M -T vg0/pool -n data
lvcreate -q -y -L 64M -n thick vg0
mkfs.ext4 -q /dev/vg0/home
mkfs.ext4 -q /dev/vg0/thick
mkfs.xfs -q /dev/vg0/data
mkdir -p /srv/data /mnt/thick
mount /dev/vg0/home /home
mount /dev/vg0/data /srv/data
mount /dev/vg0/thick /mnt/thick
mkdir -p /home/ann/notes /srv/data/box
echo "write to ann" >/home/ann/notes/today
echo one >/srv/data/box/one
head -c 3000000 /dev/urandom >/home/ann/big
ln -s notes/today /home/ann/link
ln /home/ann/big /home/ann/hard
chmod 640 /home/ann/notes/today
lvcreate -q -s -n backup-of-home vg0/home
by_uuid=/dev/disk/by-uuid/$(blkid -s UUID -o value /dev/vg0/home)
udevadm settle
same "$(readlink -f "$by_uuid")" "$(readlink -f /dev/vg0/home)"

echo "=== doctor"
pc-switcher doctor 2>&1 | tee /run/out
grep -qF '`/home`, `/srv/data` lie in thin' /run/out || fail "doctor says nothing of them"

mkdir -p /root/.config/pc-switcher
config() {
  cat >/root/.config/pc-switcher/config.toml <<END
[disk]
min_free = 0.01
reserve_minimum = "1MiB"
[snapshots]
backend = "lvm"
[snapshots.components]
home = [$1]
END
}

echo "=== what is refused"
config '"/home", "/etc"'
must 1 'cannot take a snapshot of `/etc`: `/` (ext4) is no logical volume of LVM; `backend = "hardlink"`' snaps create
config '"/mnt/thick"'
must 1 'volume `vg0/thick` at `/mnt/thick` lies in no thin pool (linear)' snaps create
same "$(ours)" 0
config '"/home", "/srv/data"'

echo "=== taking"
must 0 "is taken of /home /srv/data" snaps create first
same "$(ours)" 2
nobody_reads
lvs -o lv_name,lv_attr,lv_permissions,lv_skip_activation,lv_tags
same "$(lvs --noheadings -o lv_permissions,lv_skip_activation @pc-switcher | tr -s ' ' | sort -u)" " read-only skip activation"
echo "write to bob" >/home/ann/notes/today
echo two >/srv/data/box/two
rm /srv/data/box/one
must 0 "is taken of" snaps create second
must 0 "volumes" snaps list
must 0 '"backend": "lvm"' snaps list --json
must 0 "none, the volumes were taken one after the other" snaps show first
must 0 "Volume    /.snapshots/%2Fhome-manual-" snaps show first

echo "=== looking"
must 0 "/home/ann/notes/today" snaps diff first..second
must 0 "/srv/data/box/one" snaps diff first..second
must 0 "/home/ann/notes/today" snaps diff first
must 0 "now, 1 set" snaps versions /home/ann/notes/today
same "$(ours)" 4
nobody_reads

echo "=== bringing back"
must 0 "" snaps restore first /home/ann --to /root
cmp /root/ann/big /home/ann/big || fail "not the same"
same "$(cat /root/ann/link)" "write to ann"
same "$(stat -c %h,%a /root/ann/big /root/ann/notes/today | tr '\n' ' ')" "2,644 1,640 "
must 0 "" snaps restore first /srv/data/box /home/ann/notes/today --in-place
same "$(cat /home/ann/notes/today)" "write to ann"
same "$(ls /srv/data/box)" one
ls -d /home/ann/notes/*displaced* /srv/data/*displaced* 2>/dev/null && fail "what a set holds was kept"
must 2 "the nearest that has it is" snaps restore first /srv/data/box/two
must 0 "" snaps verify
must 0 "" snaps verify --deep
nobody_reads

echo "=== keeping and removing"
must 0 "" snaps pin first
must 7 "pinned" snaps delete first
must 0 "" snaps unpin first
must 2 "can be gone back to as a whole" pc-switcher rollback first --plan
for _ in 1 2 3; do must 0 "" snaps create --kind scheduled; done
before=$(ours)
must 0 "" snaps prune --keep 1 --explain
same "$(ours)" $((before - 2))
must 0 "" pc-switcher space
must 0 " ? " snaps list --sizes

echo "=== while somebody reads"
reader() {
  for dir in /proc/[0-9]*; do
    cat "$dir/cmdline" 2>/dev/null | tr '\0' ' ' | grep -q '^[^ ]*pc-switcher agent' && echo "${dir#/proc/}"
  done
}
is_open() { lvs --noheadings -o lv_device_open @pc-switcher | grep -qw open; }
# Let go on in small steps until it has its volume open, and stopped there.
caught=
for _ in $(seq 5); do
  snaps verify --deep >/dev/null 2>&1 &
  wait_for sh -c '[ "$(lvs --noheadings -o lv_active @pc-switcher | grep -c active)" -gt 0 ]'
  pid=$(reader)
  echo "stopped: $pid"
  while kill -STOP $pid 2>/dev/null; do
    # Whoever else looks into a new volume is done by then.
    udevadm settle
    if is_open; then
      caught=1
      break 2
    fi
    kill -CONT $pid
    sleep 0.2
  done
  wait
done
[ "$caught" ] || fail "nobody reads"
is_open || fail "nobody reads"
lvs -o lv_name,lv_active,lv_device_open @pc-switcher
grep -E 'pc-switcher|-manual-' /proc/self/mountinfo && fail "it can be seen"
same "$(readlink -f "$by_uuid")" "$(readlink -f /dev/vg0/home)"
kill -9 $pid
wait
wait_for sh -c '! lvs --noheadings -o lv_device_open @pc-switcher | grep -qw open'
same "$(awake)" 1
must 0 "" snaps verify
must 0 "" snaps create third
nobody_reads
udevadm settle
same "$(readlink -f "$by_uuid")" "$(readlink -f /dev/vg0/home)"
must 0 "" snaps verify

echo "=== who takes one dies"
before=$(ours)
real=$(command -v lvcreate)
printf '#!/bin/sh\n%s "$@"\nkill -9 $PPID\n' "$real" >/usr/local/sbin/lvcreate
chmod 755 /usr/local/sbin/lvcreate
snaps create killed
rm /usr/local/sbin/lvcreate
[ "$(ours)" -gt "$before" ] || fail "there is nothing to be removed"
must 0 "" snaps create fourth
same "$(ours)" $((before + 2))
printf '#!/bin/sh\nkill -9 $PPID\nsleep 10\n%s "$@"\ntouch /run/slow\n' "$real" >/usr/local/sbin/lvcreate
chmod 755 /usr/local/sbin/lvcreate
snaps create slow
rm /usr/local/sbin/lvcreate
[ -e /run/slow ] && fail "it did not outlive who asked for it"
must 0 "" snaps create fifth
[ -e /run/slow ] || fail "it was not waited for"
same "$(ours)" $((before + 4))
must 0 "" snaps verify
nobody_reads

echo "=== who tampers"
name=$(lvs --noheadings -o lv_name @pc-switcher | grep home-manual | head -n 1 | tr -d ' ')
lvchange -q -p rw "vg0/$name"
must 1 "is writable" snaps verify
lvchange -q -p r "vg0/$name"
must 0 "" snaps verify
lvremove -q -y "vg0/$name"
must 0 "incomplete" snaps list
must 1 "is gone" snaps verify
must 0 "" snaps delete first
must 0 "" snaps verify

echo "=== a start"
umount /home /srv/data /mnt/thick
vgchange -q -a n vg0 || fail "something holds a volume"
vgchange -q -a y vg0
mount /dev/vg0/home /home
mount /dev/vg0/data /srv/data
nobody_reads
must 0 "/home/ann" snaps diff second

echo "=== who mounts one by hand"
name=$(lvs --noheadings -o lv_name @pc-switcher | grep home-manual | tail -n 1 | tr -d ' ')
lvchange -q -ay -K "vg0/$name"
mkdir -p /mnt/hand
mount -o ro "/dev/vg0/$name" /mnt/hand
before=$(ours)
must 1 "volume \`vg0/$name\` is open" snaps delete fifth
same "$(ours)" "$before"
must 0 "" snaps verify
umount /mnt/hand
lvchange -q -an "vg0/$name"

echo "=== who has the lock"
flock -x /run/lock/lvm/V_vg0 -c 'touch /run/locked; sleep 5' &
wait_for [ -e /run/locked ]
must 5 "Can't get lock for vg0" lvs --config global/wait_for_locks=0 vg0
must 0 "is taken of" snaps create patient
wait

echo "=== a group that is not always attached, and a copy of it"
modprobe loop
disk() { losetup -f --show "$1"; }
truncate -s 160M /run/disk
stick=$(disk /run/disk)
pvcreate -q "$stick"
vgcreate -q vg1 "$stick"
lvcreate -q -L 100M --poolmetadatasize 4M -T vg1/pool
lvcreate -q -V 60M -T vg1/pool -n box
mkfs.ext4 -q /dev/vg1/box
mkdir -p /mnt/box
mount /dev/vg1/box /mnt/box
echo inside >/mnt/box/file
config '"/mnt/box"'
must 0 "is taken of /mnt/box" snaps create stick
umount /mnt/box
vgchange -q -a n vg1
losetup -d "$stick"
# A table as narrow as this console breaks the words of a state.
must 0 'volume group `vg1` is not attached' snaps list --json
must 1 'volume group `vg1` is not attached' snaps verify
must 1 'volume group `vg1` is not attached' snaps delete stick
must 1 'volume group `vg1` is not attached' snaps restore stick /mnt/box/file --to /root
cp /run/disk /run/copy
copy=$(disk /run/copy)
vgimportclone -n copy "$copy" || fail "it cannot be copied"
vgs -o vg_name,vg_uuid
lvs -o vg_name,lv_name,lv_uuid,lv_tags copy
must 0 "volume of no set here: copy/box-manual-" snaps list
must 1 'volume group `vg1` is not attached' snaps delete stick
stick=$(disk /run/disk)
vgchange -q -a y vg1
mount /dev/vg1/box /mnt/box
must 0 "now, 1 set" snaps versions /mnt/box/file
must 0 "" snaps restore stick /mnt/box/file --to /root
same "$(cat /root/file)" inside
must 0 "" snaps delete stick
same "$(lvs --noheadings -o lv_name vg1 | tr -d ' ' | tr '\n' ' ')" "box pool "
lvs --noheadings -o lv_name copy | grep -q box-manual- || fail "the copy lost its volume"
umount /mnt/box
vgchange -q -a n vg1 copy
losetup -d "$stick" "$copy"
config '"/home", "/srv/data"'

echo "=== where records may not lie"
must 1 "lies in volume" sh -c 'printf "[btrfs-snapshots]\nsnapshot_dir = \"/home/.snapshots\"\n" >>/root/.config/pc-switcher/config.toml; pc-switcher snapshots create'
[ -e /home/.snapshots ] && fail "a directory was made"
config '"/home", "/srv/data"'
config '"/home", "/nowhere"'
must 1 '`/nowhere`: it is not there' snaps create
config '"/home", "/srv/data"'

echo "=== a pool that is full"
used() { lvs --noheadings -o data_percent vg0/pool | tr -d ' ' | cut -d. -f1; }
for n in $(seq 30); do
  [ "$(used)" -lt 91 ] || break
  dd if=/dev/zero of=/home/fill$n bs=1M count=13 conv=fsync 2>/dev/null
  dd if=/dev/zero of=/srv/data/fill$n bs=1M count=11 conv=fsync 2>/dev/null
done
lvs -o lv_name,data_percent,metadata_percent vg0/pool
before=$(ours)
must 6 'of the data of thin pool `vg0/pool` is used' snaps create full
must 6 'nothing is restored to' snaps restore second /home/ann/notes --in-place
must 6 'nothing is restored to' snaps restore second /home/ann/notes
same "$(ours)" "$before"
must 0 "" snaps restore second /home/ann/notes --to /tmp
rm /home/fill* /srv/data/fill*
fstrim /home
fstrim /srv/data
must 0 "" snaps create emptied

echo "=== all of them go"
for name in second third fourth fifth patient emptied; do must 0 "" snaps delete "$name"; done
snaps list
for set in $(snaps list --json | grep -o '"set": "[^"]*"' | cut -d'"' -f4); do must 0 "" snaps delete "$set"; done
same "$(ours)" 0
same "$(lvs --noheadings -o lv_name vg0 | tr -d ' ' | tr '\n' ' ')" "backup-of-home data home pool thick "
same "$(ls /.snapshots)" ""
umount /home /srv/data
fsck.ext4 -n -f /dev/vg0/home || fail "/home is damaged"
xfs_repair -n /dev/vg0/data >/dev/null 2>&1 || fail "/srv/data is damaged"
vgchange -q -a n vg0 || fail "something holds a volume"
echo "TASK DONE"
