"""One container as a driver starts it: a monitor under measurement, with bench-runtime as runtime and payload.

The harness is a subreaper, so that a monitor that has put itself into the background can be waited for.
"""
import ctypes
import functools
import itertools
import json
import os
import resource
import select
import shutil
import signal
import socket
import time

LIMIT = 120  # seconds that any wait may last
FILE_CAP = 4 << 30  # bytes that no file written here may exceed
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count(1)
PR_SET_CHILD_SUBREAPER = 36
IN_MOVED_TO, IN_CLOSE_WRITE, IN_CLOEXEC = 0x80, 0x8, 0x80000


def prepare():
    """To be called once, before the first container."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_CAP, FILE_CAP))


class Broken(Exception):
    """The monitor did not do what it has to."""


class Container:
    """A started container; `started` is the time from spawn to the report on the sync pipe, in seconds."""

    def __init__(self, place, program, payload, log="k8s-file", options=()):
        number = next(_numbers)
        self.id = "%064x" % number
        self.dir = os.path.join(place.dir, str(number))
        self.exits = os.path.join(self.dir, "exits")
        os.makedirs(self.exits)
        with open(os.path.join(self.dir, "payload"), "w", encoding="ascii") as file:
            file.write(payload)
        self.log = os.path.join(self.dir, "log")
        drivers = {"k8s-file": "k8s-file:" + self.log, "none": "none", "journald": "journald"}
        words = [program, "--api-version", "1", "-c", self.id, "-u", self.id, "-r", place.runtime, "-b", self.dir,
                 "-n", "bench", "-p", os.path.join(self.dir, "pidfile"), "--exit-dir", self.exits, "--full-attach",
                 "--conmon-pidfile", os.path.join(self.dir, "conmon.pid"), "-l", drivers[log],
                 "--log-level", "error", *options]
        _watch(self.exits)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            theirs.set_inheritable(True)
            environment = dict(os.environ, _OCI_SYNCPIPE=str(theirs.fileno()))
            null = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in range(3)]
            self.begin = time.perf_counter()
            parent = os.posix_spawn(program, words, environment, file_actions=null, setpgroup=0)
            theirs.close()
            ours.settimeout(LIMIT)
            report = ours.recv(1 << 16)
            self.started = time.perf_counter() - self.begin
        os.waitpid(parent, 0)
        self.payload_pid = json.loads(report)["data"] if report else -1
        if self.payload_pid <= 0:
            raise Broken("no container: %r" % report)
        with open(os.path.join(self.dir, "conmon.pid"), encoding="ascii") as file:
            self.monitor = int(file.read())

    def wait_exit_file(self):
        """Waits for the file in the exit dir; the time since the spawn, in seconds."""
        path = os.path.join(self.exits, self.id)
        while not os.path.exists(path):
            if not select.select([_inotify()], [], [], LIMIT)[0]:
                raise Broken("no exit file")
            os.read(_inotify(), 1 << 16)
        return time.perf_counter() - self.begin

    def wait(self):
        """Waits for the end of the monitor; seconds since the spawn, and the processor time of the monitor alone."""
        self.wait_exit_file()
        _, _, usage = os.wait4(self.monitor, 0)
        seconds = time.perf_counter() - self.begin
        used = usage.ru_utime + usage.ru_stime
        try:
            with open(os.path.join(self.dir, "payload-cpu"), encoding="ascii") as file:
                used -= float(file.read())
        except FileNotFoundError:
            pass
        return seconds, max(used, 0.0)

    def kill(self):
        os.kill(self.payload_pid, signal.SIGKILL)

    def attach(self):
        """A client of the attach socket that the monitor has accepted."""
        before = self._sockets()
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.settimeout(LIMIT)
        client.connect(os.path.join(self.dir, "attach"))
        end = time.monotonic() + LIMIT
        while self._sockets() == before:
            if time.monotonic() > end:
                raise Broken("the client is not accepted")
            time.sleep(0.001)
        return client

    def _sockets(self):
        found = set()
        for fd in os.listdir("/proc/%d/fd" % self.monitor):
            try:
                found.add(os.readlink("/proc/%d/fd/%s" % (self.monitor, fd)))
            except FileNotFoundError:
                pass
        return {target for target in found if target.startswith("socket:")}

    def cpu(self):
        """Processor time of the monitor so far in seconds, of all its threads."""
        total = 0
        for thread in os.listdir("/proc/%d/task" % self.monitor):
            with open("/proc/%d/task/%s/schedstat" % (self.monitor, thread), encoding="ascii") as file:
                total += int(file.read().split()[0])
        return total / 1e9

    def memory(self):
        """Private memory, proportional and resident size of the monitor in KiB."""
        found = {}
        with open("/proc/%d/smaps_rollup" % self.monitor, encoding="ascii") as file:
            for line in file:
                words = line.split()
                if words[-1] == "kB":
                    found[words[0]] = int(words[1])
        return found["Private_Clean:"] + found["Private_Dirty:"], found["Pss:"], found["Rss:"]

    def remove(self):
        shutil.rmtree(self.dir, ignore_errors=True)


def settle(containers):
    """Waits until none of their monitors has run for a second."""
    end = time.monotonic() + LIMIT
    last, since = None, 0.0
    while last is None or time.monotonic() - since < 1:
        now = [container.cpu() for container in containers]
        if now != last:
            last, since = now, time.monotonic()
        if time.monotonic() > end:
            raise Broken("the monitors do not fall quiet")
        time.sleep(0.05)


@functools.cache
def _inotify():
    """One for all containers: a user may have 128. An event only says that it is time to look again."""
    fd = _libc.inotify_init1(IN_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "inotify")
    return fd


def _watch(directory):
    if _libc.inotify_add_watch(_inotify(), directory.encode(), IN_MOVED_TO | IN_CLOSE_WRITE) < 0:
        raise OSError(ctypes.get_errno(), "inotify")
