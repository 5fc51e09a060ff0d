#!/usr/bin/env bash
# Shows a monitor at work: demo.sh PATH-OF-CONMON
#
# First it plays podman's part itself: it makes a bundle, starts the monitor with real runc, reads the report from the
# sync pipe, follows the log while the container runs and lists what is left at the end. Then, where podman is
# installed, podman runs a container with the same monitor. Everything happens in one temporary directory.
set -euo pipefail

conmon=$(realpath "${1:?usage: demo.sh PATH-OF-CONMON}")
export PATH="$PATH:/usr/sbin:/sbin"
if [ "$(id -u)" != 0 ]; then
    exec sudo "$0" "$conmon"
fi

id=demo-$$
dir=$(mktemp -d)
podman=(podman --root "$dir/storage" --runroot "$dir/run" --tmpdir "$dir/tmp" --storage-driver vfs
    --cgroup-manager cgroupfs --runtime runc --events-backend file --conmon "$conmon")

clean_up() {
    runc --root "$dir/runc" delete --force "$id" >/dev/null 2>&1 || true
    if [ -d "$dir/storage" ]; then
        "${podman[@]}" rm --all --force --time 0 >/dev/null 2>&1 || true
    fi
    rm -rf "$dir"
}
trap clean_up EXIT

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { sed 's/^/    /'; }

# The container is a static busybox with a script that writes to both streams, leaves a line unfinished and exits 3.
make_rootfs() {
    mkdir -p "$dir/bundle/rootfs"/{bin,dev,etc,proc,sys,tmp}
    cp "$(command -v busybox)" "$dir/bundle/rootfs/bin/busybox"
    for applet in sh sleep hostname; do
        ln -s busybox "$dir/bundle/rootfs/bin/$applet"
    done
    cat >"$dir/bundle/rootfs/bin/demo" <<'SCRIPT'
#!/bin/sh
echo "hello from process $$ of $(hostname)"
for i in 1 2 3; do echo "working on $i"; sleep 0.5; done
echo "something looks odd" >&2
printf "a line without an end"
exit 3
SCRIPT
    chmod +x "$dir/bundle/rootfs/bin/demo"
}

# runc's own template, with our command, without a terminal, and with limits that a restricted machine grants as well.
make_bundle() {
    (cd "$dir/bundle" && runc spec)
    sed -i -e 's/"terminal": true/"terminal": false/' \
        -e 's/"hostname": "runc"/"hostname": "container"/' \
        -e 's/"\(hard\|soft\)": *[0-9]*/"\1": 256/' \
        -e '/"args": \[/,/\]/ s/"sh"/"demo"/' "$dir/bundle/config.json"
}

# Starts the monitor as podman does. The sync pipe is descriptor 3 of the monitor.
start_monitor() {
    mkfifo "$dir/sync"
    mkdir "$dir/exits"
    # A reader and a writer are there first, so that neither side waits.
    exec 8<>"$dir/sync"
    env _OCI_SYNCPIPE=3 "$conmon" \
        --api-version 1 --cid "$id" --cuuid "$id" --name demo \
        --runtime "$(command -v runc)" --runtime-arg --root --runtime-arg "$dir/runc" \
        --bundle "$dir/bundle" --container-pidfile "$dir/pidfile" --conmon-pidfile "$dir/conmon.pid" \
        --log-path "k8s-file:$dir/ctr.log" --exit-dir "$dir/exits" --full-attach 3>"$dir/sync" 8<&-
    read -r -t 30 report <&8
    exec 8<&-
}

say "The monitor"
"$conmon" --version | show
stat --format '%s bytes' "$conmon" | show

say "A container under it: runc creates, the monitor stays"
make_rootfs
make_bundle
start_monitor
echo "report on the sync pipe: $report" | show
if [[ $report != *[0-9]* || $report == *-1* ]]; then
    echo "the container could not be created" >&2
    exit 1
fi
monitor=$(cat "$dir/conmon.pid")
for pid in "$monitor" "$(cat "$dir/pidfile")"; do
    awk -v pid="$pid" '
        /^Name:/ { name = $2 } /^PPid:/ { parent = $2 } /^VmRSS:/ { memory = $2 }
        END { printf "process %d (child of %d), %d KiB resident: %s\n", pid, parent, memory, name }' "/proc/$pid/status"
done | show

say "runc starts it; the log as it grows"
runc --root "$dir/runc" start "$id"
# tail ends with the monitor.
tail -n +1 -f --pid="$monitor" "$dir/ctr.log" 2>/dev/null | show

say "The exit code, in the exit directory"
show <"$dir/exits/$id"
echo

say "What is left on disk"
(cd "$dir" && find bundle exits conmon.pid pidfile ctr.log -path bundle/rootfs -prune -o -printf '%M %s\t%p\n') | show

if ! command -v podman >/dev/null; then
    say "podman is not installed, so this is all"
    exit 0
fi

say "The same through podman: podman --conmon $conmon run …"
tar -C "$dir/bundle/rootfs" -c . | "${podman[@]}" import --quiet --change 'ENV PATH=/bin' - demo >/dev/null
code=0
"${podman[@]}" run --name demo --network none --log-driver k8s-file \
    --ulimit nofile=256:256 --ulimit nproc=256:256 demo demo 2>&1 | show || code=$?
echo
say "podman run ended with $code; podman logs has it all"
"${podman[@]}" logs --timestamps demo 2>&1 | show
echo
