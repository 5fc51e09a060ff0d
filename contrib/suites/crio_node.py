"""A CRI-O with a directory and a monitor of its own, and its pods and containers, as crictl sees them.

What is different in every run (paths, ids, times, process numbers) is taken out of the texts, so that two of them can
be compared. crio.py has the scenarios.
"""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Every wait ends after this many seconds, whatever the machine is busy with.
LIMIT = 120
NODE_NETWORK = 2
IMAGE = "localhost/busybox:latest"
# A container that lives until it is asked to end.
IDLE = "trap 'exit 0' TERM; while :; do sleep 0.1; done"

CONFIG = """
[crio]
root = "{dir}/root"
runroot = "{dir}/runroot"
storage_driver = "vfs"
log_dir = "{dir}/logs"
version_file = "{dir}/version"
version_file_persist = ""
clean_shutdown_file = "{dir}/clean"
internal_repair = false
[crio.api]
listen = "{dir}/crio.sock"
stream_address = "127.0.0.1"
stream_port = "0"
[crio.runtime]
default_runtime = "runc"
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
log_level = "info"
container_exits_dir = "{dir}/exits"
container_attach_socket_dir = "{dir}/attach"
namespaces_dir = "{dir}/ns"
pinns_path = "{pinns}"
apparmor_profile = "unconfined"
hooks_dir = ["{dir}/hooks"]
cdi_spec_dirs = ["{dir}/cdi"]
drop_infra_ctr = false
irqbalance_config_file = ""
irqbalance_config_restore_file = "disable"
{runtime}
[crio.runtime.runtimes.runc]
runtime_path = "{runc}"
runtime_type = "oci"
runtime_root = "{dir}/runc"
monitor_path = "{monitor}"
monitor_cgroup = "pod"
monitor_env = ["PATH={path}"]
[crio.image]
pause_image = "localhost/busybox:latest"
pause_command = "/pause"
signature_policy = "{dir}/policy.json"
signature_policy_dir = "{dir}/policies"
namespaced_auth_dir = "{dir}/auth"
[crio.network]
network_dir = "{dir}/net.d"
plugin_dirs = ["{dir}/plugins"]
[crio.nri]
enable_nri = false
"""

# Without the right to lower it, runc fails where a specification asks for less than this process has.
RUNC_WITHOUT_OOM_SCORE = """#!/bin/sh
previous=
for word in "$@"; do
    case $previous in --bundle | -b) bundle=$word ;; esac
    previous=$word
done
case " $* " in
*" create "*) sed -i 's/"oomScoreAdj": *-[0-9]*/"oomScoreAdj": 0/' "$bundle/config.json" || exit 1 ;;
esac
exec {runc} "$@"
"""


def program(name):
    found = os.environ.get(name.upper()) or shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if not found:
        sys.exit(f"crio.py: {name} is not installed; put it into the PATH or name it with {name.upper()}=")
    return found


def until(what, look):
    """Calls `look` until it gives something."""
    end = time.monotonic() + LIMIT
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"gave up waiting for {what}")
        time.sleep(0.05)


class Outcome:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def text(self):
        return f"status {self.code}, stdout {self.out!r}, stderr {self.err!r}"


class Node:
    """One CRI-O with one monitor."""

    def __init__(self, monitor, runtime=""):
        self.dir = Path(tempfile.mkdtemp(prefix="crio."))
        self.monitor, self.server, self.pods, self.count = monitor, None, [], 0
        self.ids = {}
        for name in ("logs", "exits", "attach", "ns", "net.d", "plugins", "hooks", "cdi", "policies", "conf.d", "tmp"):
            (self.dir / name).mkdir()
        (self.dir / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (self.dir / "crictl.yaml").write_text("")
        runc = program("runc")
        if not may_lower_oom_score():
            wrapper = self.dir / "runc-here"
            wrapper.write_text(RUNC_WITHOUT_OOM_SCORE.format(runc=runc))
            wrapper.chmod(0o755)
            runc = wrapper
        config = CONFIG.format(
            dir=self.dir, pinns=program("pinns"), runc=runc, monitor=monitor, path=os.environ["PATH"], runtime=runtime
        )
        (self.dir / "crio.conf").write_text(config)
        self.import_image()

    def import_image(self):
        root = self.dir / "rootfs"
        for name in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "sbin", "usr/bin", "usr/sbin"):
            (root / name).mkdir(parents=True)
        shutil.copy(program("busybox"), root / "bin/busybox")
        run(["chroot", root, "/bin/busybox", "--install", "-s"])
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\n")
        (root / "pause").write_text("#!/bin/sh\ntrap 'exit 0' TERM\nsleep 1000000 &\nwait\n")
        (root / "pause").chmod(0o755)
        run(["tar", "cf", self.dir / "rootfs.tar", "-C", root, "."])
        podman = [program("podman"), "--root", self.dir / "root", "--runroot", self.dir / "runroot"]
        podman += ["--tmpdir", self.dir / "podman", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]
        run(podman + ["import", "--quiet", "--change", "ENV PATH=/bin:/sbin:/usr/bin:/usr/sbin",
                      self.dir / "rootfs.tar", IMAGE])

    def start(self):
        log = open(self.dir / "crio.log", "ab")
        words = [program("crio"), "--config", self.dir / "crio.conf", "--config-dir", self.dir / "conf.d"]
        # What it makes there for its probes is counted.
        env = {**os.environ, "TMPDIR": str(self.dir / "tmp")}
        self.server = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        until("CRI-O to answer", self.answers)

    def answers(self):
        if self.server.poll() is not None:
            tail = "".join((self.dir / "crio.log").read_text().splitlines(True)[-20:])
            raise AssertionError(f"CRI-O ended with {self.server.returncode}:\n{tail}")
        return self.crictl("version").code == 0

    def stop(self, how=signal.SIGTERM):
        self.server.send_signal(how)
        self.server.wait(LIMIT)

    def crictl_words(self, *words):
        socket = f"unix://{self.dir}/crio.sock"
        own = ["--config", self.dir / "crictl.yaml", "-r", socket, "-i", socket, "-t", "60s"]
        return [str(word) for word in [program("crictl"), *own, *words]]

    def crictl(self, *words, stdin=b""):
        done = subprocess.run(self.crictl_words(*words), input=stdin, capture_output=True, timeout=LIMIT)
        return Outcome(done.returncode, self.plain(done.stdout), self.plain(done.stderr))

    def plain(self, data):
        """Without what is different in every run."""
        text = data.decode(errors="replace") if isinstance(data, bytes) else data
        text = text.replace(str(self.dir), "DIR").replace(self.dir.name, "PARENT")
        text = re.sub(r'time=\\*"[^"]*"', "TIME", text)
        text = re.sub(r"[EWI]\d{4} [\d:.]+ +\d+ (\w+\.go:)\d+\]", r"KLOG \1", text)
        text = re.sub(r"\b[0-9a-f]{64}\b", "ID", text)
        text = re.sub(r"nsexec\[\d+\]", "nsexec", text)
        text = re.sub(r"(/tmp/|\b)(exec-process-|pidfile|crio-log-)[0-9A-Za-z]+", r"\1\2X", text)
        return re.sub(r"id=[0-9a-f-]{36}|\bpid \d+|PID \d+", "MASKED", text)

    def ok(self, *words, stdin=b""):
        outcome = self.crictl(*words, stdin=stdin)
        assert outcome.code == 0, f"crictl {words}: {outcome.text()}"
        return outcome

    def raw(self, *words):
        done = subprocess.run(self.crictl_words(*words), capture_output=True, timeout=LIMIT, text=True)
        assert done.returncode == 0, f"crictl {words}: {done.stderr}"
        return done.stdout.strip()

    def json_file(self, name, content):
        path = self.dir / f"{name}.json"
        path.write_text(json.dumps(content))
        return path

    def pod(self):
        self.count += 1
        name = f"pod{self.count}"
        logs = self.dir / "logs" / name
        logs.mkdir()
        config = {
            "metadata": {"name": name, "namespace": "tests", "uid": name, "attempt": 1},
            "log_directory": str(logs),
            "linux": {
                "cgroup_parent": f"/{self.dir.name}",
                "security_context": {"namespace_options": {"network": NODE_NETWORK}},
            },
        }
        path = self.json_file(name, config)
        pod = Pod(self, path, self.raw("runp", path), logs)
        self.pods.append(pod)
        return pod

    def monitors(self):
        """The pids of all processes that run this node's monitor."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if words[0] == str(self.monitor).encode() and str(self.dir).encode() in b"\0".join(words):
                    found.append(int(entry.name))
        return sorted(found)

    def end(self, keep):
        try:
            for pod in self.pods:
                self.crictl("rmp", "-f", pod.id)
            self.stop()
        finally:
            if self.server.poll() is None:
                self.server.kill()
                self.server.wait()
            for pid in self.monitors():
                os.kill(pid, signal.SIGKILL)
            for path in [*(self.dir / "ns").glob("*/*"), *(self.dir / "root/vfs").glob("*")]:
                subprocess.run(["umount", "-q", path], stderr=subprocess.DEVNULL)
            # One in each hierarchy, or one in all. Deepest first; they are empty by now.
            for pattern in (self.dir.name, f"*/{self.dir.name}"):
                for top in Path("/sys/fs/cgroup").glob(pattern):
                    for group, _, _ in os.walk(top, topdown=False):
                        os.rmdir(group)
            mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
            for mount in sorted((m for m in mounts if m.startswith(f"{self.dir}/")), reverse=True):
                subprocess.run(["umount", mount], stderr=subprocess.DEVNULL)
            if keep:
                print(f"kept: {self.dir}")
            else:
                shutil.rmtree(self.dir, ignore_errors=True)


class Pod:
    def __init__(self, node, config, id, logs):
        self.node, self.config, self.id, self.logs = node, config, id, logs

    def container(self, script, **options):
        node = self.node
        node.count += 1
        name = f"c{node.count}"
        config = {
            "metadata": {"name": name, "attempt": 0},
            "image": {"image": IMAGE},
            "command": script if isinstance(script, list) else ["sh", "-c", script],
            "log_path": f"{name}.log",
            "linux": {},
            **options,
        }
        path = node.json_file(name, config)
        return Container(self, node.raw("create", self.id, path, self.config), self.logs / f"{name}.log")

    def started(self, script, **options):
        container = self.container(script, **options)
        container.start()
        return container


class Container:
    def __init__(self, pod, id, log_path):
        self.pod, self.node, self.id, self.log_path = pod, pod.node, id, log_path

    def start(self):
        self.node.ok("start", self.id)

    def inspect(self):
        return json.loads(self.node.raw("inspect", self.id))

    def status(self):
        return self.inspect()["status"]

    def wait(self):
        """What CRI-O says of it once it has ended."""

        def ended():
            status = self.status()
            return status if status["state"] == "CONTAINER_EXITED" else None

        status = until("the container to end", ended)
        return f"exit code {status['exitCode']}, reason {status.get('reason')}, message {status.get('message')!r}"

    def log(self, path=None):
        """Lines of `STREAM TEXT`, with the parts of a line joined: where it is cut depends on how it is read."""
        path = path or self.log_path
        if not path.exists():
            return "no log"
        lines, parts = [], {"stdout": "", "stderr": ""}
        for line in path.read_text(errors="backslashreplace").split("\n")[:-1]:
            time_, stream, tag, text = (line.split(" ", 3) + ["", "", ""])[:4]
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d)", time_), line
            parts[stream] += text
            if tag == "F":
                lines.append(f"{stream} {parts[stream]}")
                parts[stream] = ""
        return "\n".join(lines + [f"{stream} {text} (unfinished)" for stream, text in parts.items() if text])

    def by_stream(self):
        """The log where the order of the two streams is not fixed."""
        return "\n".join(sorted(self.log().splitlines(), key=lambda line: line.split(" ")[0]))

    def until_logged(self, text):
        until(f"{text!r} in the log", lambda: text in self.log())

    def exec_sync(self, *words, timeout=0):
        return self.node.crictl("exec", "--sync", "--timeout", timeout, self.id, *words)

    def monitor(self):
        return int((self.bundle() / "conmon-pidfile").read_text())

    def bundle(self):
        return self.node.dir / "runroot/vfs-containers" / self.id / "userdata"

    def exit_file(self):
        """The one that stays; the one in the exit directory is taken away by CRI-O."""
        return (self.node.dir / "root/vfs-containers" / self.id / "userdata/exit").read_bytes()


class Terminal:
    """A crictl command on a terminal of its own."""

    def __init__(self, words):
        self.pid, self.leader = pty.fork()
        if self.pid == 0:
            os.execv(words[0], words)
        self.seen = b""

    def read(self):
        if select.select([self.leader], [], [], 0.05)[0]:
            try:
                data = os.read(self.leader, 65536)
            except OSError:
                data = b""
            self.seen += data
            return data
        return None

    def expect(self, text):
        def look():
            self.read()
            return text.encode() in self.seen

        until(f"{text!r} on the terminal, which showed {self.seen!r}", look)
        self.seen = self.seen.split(text.encode(), 1)[1]

    def type(self, text):
        os.write(self.leader, text.encode())

    def finish(self):
        until("the end of the terminal", lambda: self.read() == b"")
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.leader)
        return status


def run(words):
    subprocess.run([str(word) for word in words], check=True, capture_output=True, timeout=LIMIT)


def may_lower_oom_score():
    path = Path("/proc/self/oom_score_adj")
    old = path.read_text()
    try:
        path.write_text("-998")
        path.write_text(old)
    except OSError:
        return False
    return True


def names(directory):
    return " ".join(sorted(re.sub(r"[0-9a-f]{64}", "ID", path.name) for path in directory.iterdir()))
