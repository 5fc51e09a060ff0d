"""Where the benchmark runs: a fresh directory in memory, if there is room, and everything that is started from it."""
import os
import shutil
import signal
import tempfile
import time


class Place:
    """A context manager: at its end nothing that was started is running and nothing is left on disk."""

    def __init__(self, runtime, needed):
        """`needed`: bytes that the logs may take."""
        base = "/dev/shm" if _room("/dev/shm") >= needed else tempfile.gettempdir()
        if _room(base) < needed:
            raise SystemExit("bench: %s has less than %d MB free" % (base, needed // 1_000_000))
        self.base = base
        self.runtime = runtime
        self.dir = None

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix="fmbench-", dir=self.base)
        return self

    def __exit__(self, *_):
        # A second Ctrl-C must not leave anything behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.end_all()
        shutil.rmtree(self.dir, ignore_errors=True)

    def end_all(self):
        """Ends every process that names this directory: monitors, runtimes, payloads, podman and its containers."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            left = self.processes()
            if not left:
                return
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            _reap()
            time.sleep(0.01)
        print("bench: can't end the processes", *self.processes())

    def processes(self):
        found = []
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            try:
                with open("/proc/%s/cmdline" % name, "rb") as file:
                    if self.dir.encode() in file.read():
                        found.append(int(name))
            except (FileNotFoundError, ProcessLookupError):
                pass
        return found

    def remove_rest(self):
        """Ends what a figure that failed has left, and empties the directory."""
        self.end_all()
        for name in os.listdir(self.dir):
            shutil.rmtree(os.path.join(self.dir, name), ignore_errors=True)


def _reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _room(directory):
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return 0
