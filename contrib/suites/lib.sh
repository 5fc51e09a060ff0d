# What the two suites share: a place of their own to run in, a root file system, a journal, a local registry.
#
# Everything happens in namespaces of its own (mounts, processes, network): the suites use podman's and the journal's
# usual paths, but find private directories there; the monitor under test lies on /usr/bin/conmon; and whatever the
# tests leave running ends with the last process of this script. Nothing of the machine is changed; empty control groups
# may stay behind.
# shellcheck shell=bash
SUITE_SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || fail "$tool is missing; see docs/compatibility.md for the packages"
    done
}

# enter ARGUMENTS…: runs this script again, with its arguments, as the first process of new namespaces.
enter() {
    [ "$(id -u)" = 0 ] || fail "must be root"
    [ -z "${SUITE_INSIDE:-}" ] || return 0
    need unshare bats jq socat podman runc busybox
    # Short, because podman takes no path of more than 50 characters for some of its directories.
    SUITE_WORK=$(mktemp -d /tmp/s.XXXX)
    export SUITE_WORK SUITE_INSIDE=1
    local status=0
    unshare --mount --net --pid --fork --mount-proc --kill-child "$BASH" "$0" "$@" || status=$?
    rm -rf "$SUITE_WORK"
    exit "$status"
}

# private PATH…: an empty directory in the place of each; those that don't exist are made.
private() {
    local path mine
    for path in "$@"; do
        mine=$SUITE_WORK/private$path
        mkdir -p "$mine" "$path"
        mount --bind "$mine" "$path"
    done
}

# replace FILE TARGET: FILE is seen at TARGET.
replace() {
    [ -e "$2" ] || fail "$2 is not there"
    mount --bind "$1" "$2"
}

# Packages unpacked below SUITE_EXTRA (dpkg -x) serve as if they were installed.
use_extra() {
    [ -n "${SUITE_EXTRA:-}" ] || return 0
    export PATH=$PATH:$SUITE_EXTRA/usr/bin
    LD_LIBRARY_PATH=$SUITE_EXTRA/usr/lib/$(uname -m)-linux-gnu
    export LD_LIBRARY_PATH
}

start_journal() {
    local daemon=/usr/lib/systemd/systemd-journald
    [ -x $daemon ] || daemon=/lib/systemd/systemd-journald
    [ -x $daemon ] || fail "systemd-journald is missing"
    mount -t tmpfs -o size=16m tmpfs /run/systemd
    mkdir -p /run/log
    mount -t tmpfs -o size=512m tmpfs /run/log
    mkdir -p /run/systemd/journal /run/systemd/journald.conf.d
    cat >/run/systemd/journald.conf.d/suite.conf <<'CONF'
[Journal]
Storage=volatile
ReadKMsg=no
Audit=no
RateLimitIntervalSec=0
RuntimeMaxUse=400M
ForwardToWall=no
ForwardToSyslog=no
MaxLevelStore=debug
CONF
    env -u LD_LIBRARY_PATH $daemon </dev/null >/dev/null 2>&1 3>&- &
    local tries=100
    until [ -S /run/systemd/journal/socket ]; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || fail "the journal does not start"
        sleep 0.1
    done
}

# add_program NAME TARGET ROOT: a program of this machine and its libraries.
add_program() {
    local source library
    source=$(command -v "$1") || fail "$1 is missing"
    mkdir -p "$3/${2%/*}"
    rm -f "$3/$2"
    cp -L "$source" "$3/$2"
    for library in $(env -u LD_LIBRARY_PATH ldd "$source" 2>/dev/null | grep -o '/[^ )]*'); do
        mkdir -p "$3${library%/*}"
        cp -L "$library" "$3$library"
    done
}

# make_root DIRECTORY: a root file system of busybox, laid out like Alpine's, from which the real images are made.
make_root() {
    local root=$1 applet
    mkdir -p "$root"/{bin,dev,etc,home,proc,root,run,sbin,sys,tmp,usr/bin,usr/sbin,var/log,var/tmp,mnt,opt,srv}
    chmod 1777 "$root/tmp" "$root/var/tmp"
    cp -L "$(command -v busybox)" "$root/bin/busybox"
    while read -r applet; do
        # Not those that would be in the way: what a test looks for is at the place where Alpine has it.
        [ "$applet" = bin/busybox ] || [ -e "$root/$applet" ] || ln -s /bin/busybox "$root/$applet"
    done < <("$root/bin/busybox" --list-full | sed 's|^linuxrc$|sbin/linuxrc|')
    printf '%s\n' root:x:0:0:root:/root:/bin/sh daemon:x:2:2:daemon:/sbin:/sbin/nologin \
        nobody:x:65534:65534:nobody:/:/sbin/nologin >"$root/etc/passwd"
    printf '%s\n' root:x:0:root daemon:x:2:root tty:x:5: ping:x:999: nobody:x:65534: >"$root/etc/group"
    printf '%s\n' root:!::0::::: >"$root/etc/shadow"
    printf 'NAME="stand-in"\nID=alpine\n' >"$root/etc/os-release"
    ln -s /proc/mounts "$root/etc/mtab"
    chmod 555 "$root"
}

configure_podman() {
    private /var/lib/containers /run/containers /run/libpod /etc/containers /var/lib/cni /etc/cni/net.d \
        /run/netns /run/crun /run/runc /var/tmp
    chmod 1777 /var/tmp
    echo '{"default": [{"type": "insecureAcceptAnything"}]}' >/etc/containers/policy.json
    cat >/etc/containers/containers.conf <<CONF
[containers]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
conmon_path = ["/usr/bin/conmon"]
helper_binaries_dir = ["${SUITE_EXTRA:-}/usr/bin", "/usr/libexec/podman", "/usr/lib/podman", "/usr/bin"]
[engine.runtimes]
runc = ["$(command -v runc)"]
crun = ["$(command -v crun || true)"]
CONF
    printf '[storage]\ndriver = "%s"\ngraphroot = "/var/lib/containers/storage"\nrunroot = "/run/containers/storage"\n' \
        "${SUITE_STORAGE:-overlay}" >/etc/containers/storage.conf
    : >/etc/containers/registries.conf
    cat >/etc/cni/net.d/87-podman-bridge.conflist <<'CONF'
{
  "cniVersion": "0.4.0",
  "name": "podman",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni-podman0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "routes": [{ "dst": "0.0.0.0/0" }],
        "ranges": [[{ "subnet": "10.88.0.0/16", "gateway": "10.88.0.1" }]]
      }
    },
    { "type": "portmap", "capabilities": { "portMappings": true } },
    { "type": "firewall" },
    { "type": "tuning" }
  ]
}
CONF
    export TMPDIR=$SUITE_WORK/t BATS_TMPDIR=$SUITE_WORK/t
    mkdir -p "$TMPDIR"
    ip link set lo up
}

# Where the limits of this machine are lower than those podman asks for and may not be raised, a runtime that is told
# to raise them fails. The runtime that the tests see lowers what it is asked for to what there is.
limit_runtime() {
    prlimit --nofile=1048576:1048576 true 2>/dev/null && return
    local name path
    mkdir -p "$SUITE_WORK/runtime"
    for name in runc crun; do
        path=$(command -v $name) || continue
        cp -L "$path" "$SUITE_WORK/runtime/$name"
        sed -e "s|@RUNTIME@|$SUITE_WORK/runtime/$name|" -e "s|@LIBRARIES@|${LD_LIBRARY_PATH:-}|" \
            "$SUITE_SCRIPTS/limited-runtime" >"$SUITE_WORK/$name"
        chmod 755 "$SUITE_WORK/$name"
        replace "$SUITE_WORK/$name" "$path"
    done
}

# run_files DIRECTORY OUT FILE…: each file by itself, so that one that hangs takes only its own tests along.
run_files() {
    local directory=$1 out=$2 file
    shift 2
    cd "$directory" || fail "no $directory"
    for file in "$@"; do
        timeout --kill-after=10 "${SUITE_TIMEOUT:-900}" bats --tap ${SUITE_FILTER:+--filter "$SUITE_FILTER"} "$file" \
            >"$out/${file%.bats}.tap" 2>"$out/${file%.bats}.err" </dev/null || true
        [ -s "$out/${file%.bats}.err" ] || rm "$out/${file%.bats}.err"
        echo "${file%.bats}: $(grep -c '^ok' "$out/${file%.bats}.tap") of $(sed -n 's/^1\.\.//p' "$out/${file%.bats}.tap")"
    done
}
