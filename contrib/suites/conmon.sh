#!/usr/bin/env bash
# Runs conmon's own tests on one monitor: conmon.sh SOURCES CONMON OUT [FILE.bats…]
#
# SOURCES is conmon's source tree (its test directory is used), CONMON the monitor, OUT the directory for the results:
# FILE.tap for each test file. The image that the tests pull is replaced by one of busybox with a shell and stty that
# behave as on other systems. docs/compatibility.md says which packages are needed.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

[ $# -ge 3 ] || fail "usage: conmon.sh SOURCES CONMON OUT [FILE.bats…]"
enter "$@"
tests=$(realpath "$1")/test
conmon=$(realpath "$2")
mkdir -p "$3"
out=$(realpath "$3")
shift 3
files=("$@")
[ $# -gt 0 ] || mapfile -t files < <(cd "$tests" && ls -- *.bats)

# As root, the messages that the tests look for are in the system's journal, not in a user's.
system_journal() {
    mkdir -p "$SUITE_WORK/bin"
    cat >"$SUITE_WORK/bin/journalctl" <<'JOURNAL'
#!/bin/bash
arguments=()
for argument in "$@"; do
    [ "$argument" = --user ] || arguments+=("$argument")
done
exec /usr/bin/journalctl "${arguments[@]}"
JOURNAL
    chmod 755 "$SUITE_WORK/bin/journalctl"
    export PATH=$SUITE_WORK/bin:$PATH
}

# The tests of OOM look only whether control groups are version 2, at the monitor's own text, and at files they write.
only_cgroup_v2() {
    [ ! -e /sys/fs/cgroup/cgroup.controllers ] || return 0
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    trap 'umount /sys/fs/cgroup' EXIT
}

make_image() {
    make_root "$SUITE_WORK/root"
    add_program bash bin/bash "$SUITE_WORK/root"
    add_program bash bin/sh "$SUITE_WORK/root"
    add_program stty bin/stty "$SUITE_WORK/root"
    tar -C "$SUITE_WORK/root" -cf "$SUITE_WORK/root.tar" .
    podman import -q -c 'CMD ["/bin/sh"]' "$SUITE_WORK/root.tar" localhost/rootfs:latest >/dev/null
    podman save -q -o "$SUITE_WORK/image.tar" localhost/rootfs:latest
    export UBI10_MICRO_IMAGE=docker-archive:$SUITE_WORK/image.tar
}

# What is skipped as root because root may do everything, as nobody. The image, which these don't use, comes from a
# podman that knows nothing else.
run_as_nobody() {
    local log=$out/as-nobody.tap
    mkdir "$SUITE_WORK/nobody"
    cat >"$SUITE_WORK/nobody/podman" <<'PODMAN'
#!/bin/sh
[ "$1" != export ] || tar -cf - -T /dev/null
PODMAN
    chmod 755 "$SUITE_WORK/nobody/podman"
    chmod 711 "$SUITE_WORK"
    chmod 1777 "$TMPDIR"
    (
        only_cgroup_v2
        cd "$tests"
        PATH=$SUITE_WORK/nobody:$PATH HOME=/ timeout 300 setpriv --reuid 65534 --regid 65534 --clear-groups \
            bats --tap --filter 'file system errors|permissions and accessibility' . >"$log" 2>&1 </dev/null || true
    )
    echo "as-nobody: $(grep -c '^ok' "$log") of $(sed -n 's/^1\.\.//p' "$log")"
}

use_extra
configure_podman
mkdir "$SUITE_WORK/monitor"
cp "$conmon" "$SUITE_WORK/monitor/conmon"
export CONMON_BINARY=$SUITE_WORK/monitor/conmon
RUNTIME_BINARY=$(command -v runc)
export RUNTIME_BINARY
limit_runtime
start_journal
make_image
system_journal
"$CONMON_BINARY" --version | tee "$out/version"
for file in "${files[@]}"; do
    case $file in
    *oom*) (only_cgroup_v2 && run_files "$tests" "$out" "$file") ;;
    *) run_files "$tests" "$out" "$file" ;;
    esac
done
[ $# -gt 0 ] || run_as_nobody
