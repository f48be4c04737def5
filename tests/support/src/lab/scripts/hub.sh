# The hub: pid 1 of the pid namespace that holds both machines, owner of the pools' mounts and of the bridge.
#
# $1 run directory  $2 cache directory  $3 cgroup of the hub
set -eu
umask 022
run=$1 cache=$2
echo 0 >"$3/cgroup.procs"

# Mounts of others that were copied into this namespace would keep their devices busy.
while read -r device point type _; do
    case $type in
    nsfs) umount -l "$point" ;;
    btrfs | xfs | overlay | fuse*)
        case "$run/" in "${point%/}"/*) continue ;; esac
        case "$cache/" in "${point%/}"/*) continue ;; esac
        case $point in /usr* | /etc* | /var | /var/cache* | /run | /home*) continue ;; esac
        umount -l "$point"
        ;;
    *) case $device in /dev/loop*) case $point in / | /usr* | /snap*) ;; *) umount -l "$point" ;; esac ;; esac ;;
    esac
done </proc/self/mounts 2>/dev/null || true

ip link set lo up
ip link add br0 type bridge stp_state 0 forward_delay 0
if [ -e /proc/sys/net/ipv6/conf/br0/disable_ipv6 ]; then echo 1 >/proc/sys/net/ipv6/conf/br0/disable_ipv6; fi
ip link set br0 up

# The first field is the pid as the host sees it: /proc is still the host's.
read -r pid _ </proc/self/stat
echo "$pid" >"$run/hub.pid.new"
mv "$run/hub.pid.new" "$run/hub.pid"

while :; do
    sleep infinity &
    wait $!
done
