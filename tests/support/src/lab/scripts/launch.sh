# Starts one machine in the background, inside the hub's namespaces.
#
# $1 cgroup of the machine  $2 console log  $3 boot script; LAB_* as in the boot script
set -eu
umask 022
echo $$ >"$1/cgroup.procs"
# Descriptor 9 leads the boot script back to the hub's network, to make its cable.
exec 9</proc/self/ns/net
setsid unshare --mount --uts --ipc --net --pid --cgroup --fork --propagation private -- \
    bash "$3" "$LAB_MACHINE" </dev/null >>"$2" 2>&1 &
