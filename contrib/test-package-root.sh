#!/usr/bin/env bash
# Runs as root of a fresh Debian that contrib/test-package.sh has made: installs, uses and removes the packages.
#
# /opt/packages has the .deb, the .rpm, a static busybox and contrib/c-library. Every check prints a line; the first that
# fails ends it.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cd /opt/packages
ours=/usr/libexec/ferromon/conmon
original=/usr/bin/conmon
link=/usr/libexec/podman/conmon

say() { printf '\n== %s\n' "$*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }

# is WHAT EXPECTED FOUND
is() {
    [ "$2" = "$3" ] || fail "$1: expected '$2', found '$3'"
    echo "ok: $1: $3"
}

# quietly COMMAND…: its output only when it fails.
quietly() {
    "$@" >/tmp/quietly 2>&1 || { cat /tmp/quietly >&2; fail "$*"; }
}

# What a package could leave behind. The package manager's own records and caches are no such thing.
files() {
    find / -xdev \( -path /opt -o -path /tmp -o -path /root -o -path /run -o -path /var/lib/dpkg -o -path /var/cache \
        -o -path /var/log -o -path /var/lib/apt -o -path /var/lib/containers -o -path /var/lib/rpm -o -path /proc \
        -o -path /sys -o -path /dev \) -prune -o -print | sort
}

podman_conmon() { podman info --format '{{.Host.Conmon.Path}}'; }
podman_version() {
    case $(podman info --format '{{.Host.Conmon.Version}}') in
    *ferromon*) echo ferromon ;;
    *) echo conmon ;;
    esac
}

# It runs where there is nothing else, so it is static.
alone() {
    mkdir -p /tmp/alone
    cp $ours /tmp/alone/
    is "alone in a directory" 1 "$(chroot /tmp/alone /conmon --version | grep -c ferromon)"
    rm -r /tmp/alone
}

# A whole life: output, exit code, log, and the program that was the monitor.
container() {
    local code=0 pid
    is "podman run" "hello" "$(podman run --rm box echo hello)"
    podman run --name one box sh -c 'echo in the log; exit 7' >/dev/null || code=$?
    is "its exit code" 7 "$code"
    is "podman logs" "in the log" "$(podman logs one)"
    podman run -d --name two box sleep 600 >/dev/null
    pid=$(podman inspect --format '{{.State.ConmonPid}}' two)
    is "the monitor" "$1" "$(readlink "/proc/$pid/exe")"
    is "podman exec" "from exec" "$(podman exec two echo from exec)"
    quietly podman rm -f -t 0 one two
}

say "Debian's podman and conmon"
quietly apt-get update -q
quietly apt-get install -y -q --no-install-recommends podman runc conmon man-db bash-completion
# No network, no control groups of its own, few privileges: this runs in containers and virtual machines, too.
cat >/etc/containers/containers.conf <<'END'
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
END
printf '[storage]\ndriver = "vfs"\ngraphroot = "/var/lib/containers"\nrunroot = "/run/containers"\n' >/etc/containers/storage.conf
mkdir -p rootfs/bin rootfs/{dev,etc,proc,sys,tmp}
cp busybox rootfs/bin/
for applet in sh echo sleep; do ln -s busybox rootfs/bin/$applet; done
tar -C rootfs -c . | quietly podman import --change 'ENV PATH=/bin' - box
container $original
files >/tmp/before
sha256sum $original >/tmp/original

say "ours beside it: nothing changes yet"
quietly dpkg -i ./ferromon_*.deb
is "both are installed" "ii ii " "$(dpkg-query -W -f '${db:Status-Abbrev}' conmon ferromon)"
is "files of both packages" "" "$(comm -12 <(dpkg -L conmon | sort) <(dpkg -L ferromon | sort) | while read -r f; do [ -d "$f" ] || echo "$f"; done)"
quietly sha256sum --check /tmp/original
quietly dpkg --verify ferromon
alone
library=$(./c-library $ours)
is "its C library, by the bill of materials" "$library" "$(zcat /usr/share/doc/ferromon/ferromon.cdx.json.gz |
    sed -n '/"bom-ref": "libc"/,/}/s/.*"name": "\(.*\)".*/\1/p')"
case $library in glibc) with_glibc=1 ;; *) with_glibc=0 ;; esac
is "sources of glibc to keep" $with_glibc "$(dpkg-query -W -f '${Built-Using}\n' ferromon | grep -c '^glibc (= ' || true)"
is "the version of ours" "1" "$($ours --version | grep -c ferromon)"
is "the version of the original" "0" "$($original --version | grep -c ferromon || true)"
is "podman's monitor" "$link" "$(podman_conmon)"
is "which is" conmon "$(podman_version)"
container $original

say "selected"
quietly update-alternatives --set conmon $ours
is "podman's monitor" ferromon "$(podman_version)"
container $ours

say "and back"
quietly update-alternatives --auto conmon
is "podman's monitor" conmon "$(podman_version)"

say "by a drop-in for containers.conf instead, with the settings"
mkdir -p /etc/containers/containers.conf.d
sed 's/^#\(conmon_env_vars\|  "\|]\)/\1/' /usr/share/doc/ferromon/examples/podman/50-ferromon.conf \
    >/etc/containers/containers.conf.d/50-ferromon.conf
is "podman's monitor" $ours "$(podman_conmon)"
container $ours
podman run -d --name set box sleep 600 >/dev/null
pid=$(podman inspect --format '{{.State.ConmonPid}}' set)
is "a setting" CONMON_ATTACH_STALL_TIMEOUT=60 "$(tr '\0' '\n' <"/proc/$pid/environ" | grep STALL)"
quietly podman rm -f -t 0 set
rm -r /etc/containers/containers.conf.d
is "podman's monitor without it" conmon "$(podman_version)"

say "manual page and completion"
is "man" "/usr/share/man/man8/ferromon.8.gz" "$(man -w 8 ferromon)"
# Without a pipe: man would end by SIGPIPE.
man 8 ferromon >/tmp/page
grep -q -- '--log-path' /tmp/page || fail "the page is empty"
is "man of the original" "/usr/share/man/man8/conmon.8.gz" "$(man -w 8 conmon)"
is "bash loads" "complete -F _conmon conmon" "$(bash -c '
    source /usr/share/bash-completion/bash_completion; _completion_loader conmon; complete -p conmon')"

say "removed while one of its containers runs"
quietly update-alternatives --set conmon $ours
podman run -d --name rest box sh -c 'trap "exit 5" TERM; while :; do sleep 0.1; done' >/dev/null
quietly dpkg -r ferromon
is "podman's monitor" $original "$(podman_conmon)"
is "the container" running "$(podman inspect --format '{{.State.Status}}' rest)"
quietly podman stop -t 20 rest
is "its exit code" 5 "$(podman inspect --format '{{.State.ExitCode}}' rest)"
quietly podman rm rest
container $original
quietly dpkg -P ferromon
quietly sha256sum --check /tmp/original
files >/tmp/after
is "left behind" "" "$(comm -13 /tmp/before /tmp/after)"
is "gone" "" "$(comm -23 /tmp/before /tmp/after)"

say "before conmon, and without it"
quietly dpkg -r --force-depends conmon
quietly dpkg -i ./ferromon_*.deb
is "podman's monitor" ferromon "$(podman_version)"
quietly apt-get install -y -q --no-install-recommends conmon
is "podman's monitor with conmon there" conmon "$(podman_version)"
quietly dpkg -r --force-depends conmon
is "podman's monitor without it" ferromon "$(podman_version)"
quietly dpkg -P ferromon
is "the link" "gone" "$(test -L $link && echo there || echo gone)"
quietly apt-get install -y -q --no-install-recommends conmon

say "the RPM, on top of Debian"
quietly apt-get install -y -q --no-install-recommends rpm
files >/tmp/before
quietly rpm --install --nodeps --force-debian ./ferromon-*.rpm
alone
is "its C library" "$library" "$(./c-library $ours)"
is "licences of glibc" $with_glibc "$(rpm -q --qf '%{license}\n' ferromon | grep -c LGPL || true)"
is "podman's monitor" conmon "$(podman_version)"
quietly update-alternatives --set conmon $ours
container $ours
quietly rpm --erase ferromon
is "podman's monitor" $original "$(podman_conmon)"
# On systems with RPM this directory belongs to the file system's own package.
files | grep -vx /usr/share/licenses >/tmp/after
is "left behind" "" "$(comm -13 /tmp/before /tmp/after)"
