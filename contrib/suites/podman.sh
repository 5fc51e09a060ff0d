#!/usr/bin/env bash
# Runs podman's own system tests with one monitor: podman.sh SOURCES CONMON OUT [FILE.bats…]
#
# SOURCES is the source tree of the podman that is installed (its test/system is used), CONMON the monitor, OUT the
# directory for the results: FILE.tap for each test file. docs/compatibility.md says how to get the sources and which
# packages are needed. The tests want images from registries; stand-ins of the same names, made of busybox, are served
# by a local registry. SUITE_RUNTIME=crun takes that runtime instead of runc, SUITE_FILTER only tests that match it.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

[ $# -ge 3 ] || fail "usage: podman.sh SOURCES CONMON OUT [FILE.bats…]"
enter "$@"
tests=$(realpath "$1")/test/system
conmon=$(realpath "$2")
mkdir -p "$3"
out=$(realpath "$3")
shift 3
# The files that start, watch, enter or end containers.
[ $# -gt 0 ] || set -- 001-basic 030-run 032-sig-proxy 035-logs 040-ps 045-start 050-stop 055-rm 065-cp 075-exec \
    080-pause 090-events 130-kill 200-pod 220-healthcheck 251-system-service 260-sdnotify 280-update 420-cgroups \
    450-interactive 700-play 160-volumes 170-run-userns 190-run-ipcns 400-unprivileged-access 500-networking
tag=$(sed -n 's/^PODMAN_TEST_IMAGE_TAG=.*:-"\(.*\)"}$/\1/p' "$tests/helpers.bash")
nonlocal=$(sed -n 's/^PODMAN_NONLOCAL_IMAGE_TAG=.*:-"\(.*\)"}$/\1/p' "$tests/helpers.bash")

# What podman's test/system/build-testimage makes of Alpine.
make_test_image() {
    local root=$SUITE_WORK/root
    make_root "$root"
    # Debian's busybox is without some that Alpine's has.
    add_program printenv bin/printenv "$root"
    add_program flock usr/bin/flock "$root"
    ln -s busybox "$root/bin/busybox-extras"
    mkdir "$root/home/podman"
    echo "$tag" >"$root/home/podman/testimage-id"
    touch --date=@1600000000 "$root/home/podman/testimage-id"
    cat >"$root/home/podman/pause" <<'PAUSE'
#!/bin/sh
echo "Confirmed: testimage pause invoked as $0"
while :; do
    sleep 0.1
done
PAUSE
    chmod 755 "$root/home/podman/pause"
    tar -C "$root" -cf "$SUITE_WORK/root.tar" .
    import "$tag" testimage
    # Others that single tests ask for: one to be pulled, a pause image, and one that has systemd-notify.
    import "$nonlocal" testimage -c 'LABEL nonlocal=1'
    import 3.5 pause -c 'ENTRYPOINT ["/home/podman/pause"]'
    add_program systemd-notify bin/systemd-notify "$root"
    tar -C "$root" -cf "$SUITE_WORK/root.tar" .
    import 31 fedora
}

# import TAG NAME OPTION…: an image of the root file system as it is now.
import() {
    local tag=$1 name=$2
    shift 2
    podman import -q -c 'WORKDIR /home/podman' -c 'LABEL created_by=test/system/build-testimage' \
        -c "LABEL created_at=$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
        -c 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        -c 'CMD ["/bin/echo", "This container is intended for podman CI testing"]' "$@" \
        "$SUITE_WORK/root.tar" "$image/$name:$tag" >/dev/null
}

# A registry on this side of the network, in the place of the one that the tests know.
serve_images() {
    if ! command -v docker-registry >/dev/null; then
        echo "no docker-registry: tests that pull images will fail"
        podman rmi -f "${others[@]}" >/dev/null
        return
    fi
    cat >"$SUITE_WORK/registry.yml" <<CONF
version: 0.1
log: { level: error }
storage: { filesystem: { rootdirectory: $SUITE_WORK/registry } }
http: { addr: "127.0.0.1:5999" }
CONF
    docker-registry serve "$SUITE_WORK/registry.yml" </dev/null >"$SUITE_WORK/registry.log" 2>&1 &
    cat >/etc/containers/registries.conf <<CONF
[[registry]]
prefix = "quay.io/libpod"
location = "127.0.0.1:5999/libpod"
insecure = true
[[registry]]
prefix = "k8s.gcr.io"
location = "127.0.0.1:5999/libpod"
insecure = true
CONF
    local name tries=50
    until (: </dev/tcp/127.0.0.1/5999) 2>/dev/null; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || fail "the registry does not start"
        sleep 0.1
    done
    for name in "testimage:$tag" "testimage:$nonlocal" pause:3.5 fedora:31; do
        podman push -q --tls-verify=false "$image/$name" "127.0.0.1:5999/libpod/$name"
    done
    podman rmi -f "${others[@]}" >/dev/null
}

# Some tests use nc on this side, too.
provide_nc() {
    command -v nc >/dev/null && return
    mkdir "$SUITE_WORK/nc"
    ln -s "$(command -v busybox)" "$SUITE_WORK/nc/nc"
    export PATH=$PATH:$SUITE_WORK/nc
}

# The tests of sd-notify begin by asking whether systemd runs, which they don't otherwise need.
pretend_systemd() {
    mkdir -p "$SUITE_WORK/bin"
    printf '#!/bin/sh\n[ "$*" = list-units ]\n' >"$SUITE_WORK/bin/systemctl"
    chmod 755 "$SUITE_WORK/bin/systemctl"
    export PATH=$SUITE_WORK/bin:$PATH
}

use_extra
configure_podman
# crun, which tests with a configuration of their own get, refuses to run where version 1 and 2 of control groups are
# both mounted.
! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
sed -i "s/^runtime = .*/runtime = \"${SUITE_RUNTIME:-runc}\"/" /etc/containers/containers.conf
cp "$conmon" "$SUITE_WORK/conmon"
replace "$SUITE_WORK/conmon" /usr/bin/conmon
limit_runtime
start_journal
provide_nc
image=quay.io/libpod
others=("$image/testimage:$nonlocal" "$image/pause:3.5" "$image/fedora:31")
make_test_image
serve_images
/usr/bin/conmon --version | tee "$out/version"
files=()
for file in "$@"; do
    [ -e "$tests/${file%.bats}.bats" ] || fail "no test file $file"
    files+=("${file%.bats}.bats")
done
for file in "${files[@]}"; do
    case $file in
    *sdnotify*) (pretend_systemd && run_files "$tests" "$out" "$file") ;;
    *) run_files "$tests" "$out" "$file" ;;
    esac
done
