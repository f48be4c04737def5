# Guardian of one lab: starts the hub, waits for the end of its owner, removes everything.
#
# stdin   `pipe`: held open by the owner, end of file means that the owner is gone
# stdout  the lab's lock file: locked for as long as this process lives, never written
# $1 mode (pipe|detached)  $2 cgroup of the lab  $3 run directory  $4 prefix of image names  $5 cache directory  $6 hub script
set -u
mode=$1 cgroup=$2 run=$3 prefix=$4 cache=$5 hub_script=$6
trap '' INT HUP TERM

mkdir -p "$cgroup/hub"
(
    trap - INT HUP TERM
    # The hub joins the cgroup by itself: its parent stays outside of what is killed, and reaps it.
    unshare --mount --net --pid --fork --propagation private -- bash "$hub_script" "$run" "$cache" "$cgroup/hub"
    echo "hub ended ($?)" >&2
) </dev/null >/dev/null &
hub=$!

if [ "$mode" = pipe ]; then
    read -r _
else
    wait "$hub"
fi

echo 1 >"$cgroup/cgroup.kill"
wait "$hub"
while grep -q 'populated 1' "$cgroup/cgroup.events"; do sleep 0.01; done
find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null
# Loop devices detach themselves once the last mount namespace is gone; the lock is kept until then.
for _ in $(seq 6000); do
    busy=
    for file in /sys/block/loop*/loop/backing_file; do
        [ -e "$file" ] || continue
        { read -r backing <"$file"; } 2>/dev/null || continue
        case ${backing##*/} in "$prefix"*) busy=yes ;; esac
    done
    [ -n "$busy" ] || break
    sleep 0.01
done
# A setting that would stay with the devices for their next user.
if [ -e "$run/unflushed" ]; then
    while read -r device; do echo 'write back' >"/sys/block/$device/queue/write_cache"; done <"$run/unflushed"
fi
rm -rf --one-file-system "$run"
