"""A podman of its own that uses the monitor under measurement: its own storage, no network, few privileges."""
import os
import shutil
import subprocess
import time

CONFIGURATION = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""
POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'


def missing():
    """Why podman can't be used here; empty if it can."""
    absent = [name for name in ("podman", "runc", "busybox") if not shutil.which(name)]
    if absent:
        return "not installed: " + ", ".join(absent)
    return "" if os.geteuid() == 0 else "needs root"


class Podman:
    """A context manager: one container that idles, in which commands can be run."""

    def __init__(self, place, program):
        self.dir = os.path.join(place.dir, "podman")
        home = os.path.join(self.dir, "home", ".config", "containers")
        os.makedirs(home)
        _write(os.path.join(home, "policy.json"), POLICY)
        _write(os.path.join(self.dir, "containers.conf"), CONFIGURATION)
        self._environment = {"PATH": os.environ["PATH"], "HOME": os.path.join(self.dir, "home"),
                             "CONTAINERS_CONF": os.path.join(self.dir, "containers.conf")}
        self._words = ["podman", "--root", self._path("root"), "--runroot", self._path("run"),
                       "--tmpdir", self._path("tmp"), "--storage-driver", "vfs", "--conmon", program]

    def _path(self, name):
        return os.path.join(self.dir, name)

    def __enter__(self):
        binaries = os.path.join(self._path("rootfs"), "bin")
        os.makedirs(binaries)
        shutil.copy(shutil.which("busybox"), os.path.join(binaries, "busybox"))
        for name in ("sleep", "true"):
            os.symlink("busybox", os.path.join(binaries, name))
        subprocess.run(["tar", "-C", self._path("rootfs"), "-cf", self._path("image.tar"), "."], check=True)
        try:
            self._call("import", "--quiet", self._path("image.tar"), "bench")
            self._call("run", "--detach", "--name", "bench", "bench", "/bin/sleep", "600")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        subprocess.run([*self._words, "rm", "--all", "--force", "--time", "0"], env=self._environment, check=False,
                       timeout=60, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open("/proc/self/mounts", encoding="utf-8") as mounts:
            targets = [line.split()[1] for line in mounts]
        for target in targets:
            if target.startswith(self.dir + "/"):
                subprocess.run(["umount", "--lazy", target], check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    def _call(self, *words):
        subprocess.run([*self._words, *words], env=self._environment, check=True, timeout=60,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def exec_seconds(self):
        """How long `podman exec` of a command that does nothing takes."""
        began = time.perf_counter()
        self._call("exec", "bench", "/bin/true")
        return time.perf_counter() - began


def _write(path, text):
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
