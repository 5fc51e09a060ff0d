#!/usr/bin/env bash
# Runs the tests that depend on control groups, and those of restoring, in a virtual machine whose kernel has cgroup v2
# alone and works with CRIU: test-vm.sh [NAME…], with names of list_tests below.
#
# Everything is built here and only run there: virtme-ng boots a kernel of this machine with this machine's own root as
# a read-only file system, so containers are real and nothing they do reaches the host. What is missing is installed
# (qemu, CRIU and a kernel through apt-get, virtme-ng through pip into target/vm). The guest leaves its results in
# files; a guest that ends without them, or that takes longer than VM_TIMEOUT seconds, is a failure.
#
#   VM_ORIGINAL=1  compare with the original there, too (off: emulation is slow, and the host's tests compare)
#   VM_TIMEOUT   for all of it, boot included (1200)
#   VM_KERNEL    the kernel image (the newest of /boot that has its modules)
#   VM_KVM=1     use hardware virtualization (off: where it is half there it hangs instead of failing)
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin"

target=${CARGO_TARGET_DIR:-$PWD/target}
deadline=${VM_TIMEOUT:-1200}
# One emulated test program; each takes less than a minute on an idle machine.
program_deadline=800

# shellcheck source-path=SCRIPTDIR source=lib.sh
. contrib/lib.sh

# The newest kernel that has its modules: the root file system of the guest needs 9p and overlay.
kernel() {
    local image
    while read -r image; do
        if [ -d "/lib/modules/${image#/boot/vmlinuz-}" ]; then
            echo "$image"
            return
        fi
    done < <(find /boot -maxdepth 1 -name 'vmlinuz-*' 2>/dev/null | sort -rV)
}

install_kernel() {
    VM_KERNEL=${VM_KERNEL:-$(kernel)}
    if [ -z "$VM_KERNEL" ]; then
        apt linux-image-amd64 || apt linux-image-generic
        VM_KERNEL=$(kernel)
    fi
    [ -n "$VM_KERNEL" ] || fail "no kernel in /boot that has its modules in /lib/modules; set VM_KERNEL"
}

install_virtme() {
    has vng && return
    local venv=$target/vm/venv
    if [ ! -x "$venv/bin/vng" ]; then
        has python3 || apt python3
        python3 -m venv "$venv" >/dev/null 2>&1 || { apt python3-venv && python3 -m venv "$venv"; }
        "$venv/bin/pip" install --quiet --disable-pip-version-check virtme-ng==1.42 ||
            fail "virtme-ng could not be installed with pip; put vng into the PATH"
    fi
    PATH=$venv/bin:$PATH
}

install_all() {
    [ "$(uname -m)" = x86_64 ] || fail "only x86_64 is supported, this is $(uname -m)"
    contrib/setup.sh test
    has qemu-system-x86_64 || apt qemu-system-x86
    has criu || apt criu
    # virtme-ng asks it about the kernel and about busybox.
    has file || apt file
    install_kernel
    install_virtme
}

# programs PACKAGE CARGO-ARGS…: builds test programs and prints the path of each.
programs() {
    cargo test --no-run --message-format=json -p "$@" | python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("profile", {}).get("test") and message.get("executable"):
        print(message["executable"])'
}

# list_tests NAME…: what the guest runs, a name, the program and its arguments in each line. Not among them are tests that
# measure processor time, which emulation spends.
list_tests() {
    local name program words
    for name in "$@"; do
        words=
        case $name in
        oom | runc | restore) program=$(programs compat-tests --test "$name") ;;
        exit_files | ending) program=$(programs ferromon --test "$name") ;;
        unit) program=$(programs ferromon --lib) words="supervise::oom report::oom_files" ;;
        *) fail "no tests are named $name" ;;
        esac
        echo "$name $program $words"
    done
}

# In the guest. Temporary files are in memory, because the root is read-only.
guest() {
    local dir=$1 name command start status failed=0
    if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
        echo "$dir: /sys/fs/cgroup is not cgroup v2 in the guest" >"$dir/guest.log"
        echo "guest 1 0" >"$dir/results"
        echo "end 1" >>"$dir/results"
        return
    fi
    # CRIU connects to itself; virtme-ng does this only where iproute2 is installed.
    busybox ip link set lo up
    mkdir -p /run/test
    export TMPDIR=/run/test FERROMON_TEST_SLOW=12 CI=true
    [ -e "$dir/compare" ] || export OURS_ALONE=1
    while read -r -u 3 name command; do
        start=$SECONDS status=0
        # The words of the list are meant to be split.
        # shellcheck disable=SC2086
        timeout -k 10 "$program_deadline" $command --test-threads 2 --nocapture >"$dir/$name.log" 2>&1 </dev/null || status=$?
        [ "$status" = 0 ] || failed=1
        echo "$name $status $((SECONDS - start))" >>"$dir/results"
    done 3<"$dir/tests"
    echo "end $failed" >>"$dir/results"
}

# What the guest left in its files; its exit status is the last line.
results() {
    local dir=$1 name status seconds
    [ -s "$dir/results" ] || no_end "$dir" "the guest left no result"
    while read -r name status seconds; do
        [ "$name" != end ] || continue
        echo "$name: exit status $status after $seconds s"
        if [ "$status" = 0 ]; then
            grep '^test result: ' "$dir/$name.log" || fail "$name left no result"
        else
            cat "$dir/$name.log"
        fi
    done <"$dir/results"
    case $(tail -n 1 "$dir/results") in
    "end 0") echo "test-vm: ok in $SECONDS s" ;;
    end*) fail "failed in $SECONDS s" ;;
    *) no_end "$dir" "the guest ended early" ;;
    esac
}

# no_end DIRECTORY WHAT: fails with all there is to see of a guest that did not come to its end.
no_end() {
    local dir=$1 log
    for log in "$dir"/*.log; do
        [ ! -e "$log" ] || grep -qs "^$(basename "$log" .log) " "$dir/results" || cat "$log"
    done
    fail "$2, after $SECONDS of at most $deadline s; its console was:" "$(tail -n 60 "$dir/console")"
}

boot() {
    local dir=$1
    local options=(--verbose --run "$VM_KERNEL" --force-9p --cpus 2 --memory 2G --user root --rwdir "/mnt=$dir")
    [ "${VM_KVM:-}" = 1 ] || options+=(--disable-kvm)
    # vng wants a terminal for its console; a file does as well, and shows what went wrong.
    as_root env "PATH=$PATH" timeout -k 10 "$deadline" \
        vng "${options[@]}" -- "$PWD/contrib/test-vm.sh --guest /mnt" >"$dir/console" 2>&1 </dev/null ||
        echo "test-vm: the virtual machine ended with status $?"
}

if [ "${1:-}" = --guest ]; then
    guest "$2"
    exit
fi
names=("$@")
[ $# != 0 ] || names=(oom unit exit_files ending runc restore)
install_all
cargo build --workspace --bins
mkdir -p "$target/vm"
dir=$(mktemp -d "$target/vm/run.XXXXXX")
list_tests "${names[@]}" >"$dir/tests"
[ "${VM_ORIGINAL:-}" != 1 ] || touch "$dir/compare"
SECONDS=0
boot "$dir"
results "$dir"
as_root rm -rf "$dir"
