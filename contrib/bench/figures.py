"""What is measured. Each function takes one sample of its figures with one monitor: {figure: [values]}."""
import os
import socket
import statistics
import subprocess
import time

from container import Broken, Container, settle
import podman

START, LIFE = "start-up: spawn to report, ms", "life of a container that exits at once, ms"
BLOCK = 64 * 1024
JOURNAL = "/run/systemd/journal/socket"


class Unavailable(Exception):
    """This machine can't do it; the text says why."""


class Scale:
    """How much work a sample is: 1 normally."""

    def __init__(self, factor, full):
        self.factor = factor
        self.full = full

    def of(self, count, least=1):
        return max(int(count * self.factor), least)


def start(place, program, scale):
    found = {START: [], LIFE: []}
    for _ in range(scale.of(6)):
        container = Container(place, program, "exit 0")
        found[LIFE].append(container.wait()[0] * 1e3)
        found[START].append(container.started * 1e3)
        container.remove()
    return found


def exit_latency(place, program, scale):
    found = []
    for _ in range(scale.of(4)):
        container = Container(place, program, "idle")
        time.sleep(0.05)
        killed = time.perf_counter()
        container.kill()
        found.append((container.begin + container.wait_exit_file() - killed) * 1e3)
        container.wait()
        container.remove()
    return {"exit latency: death to exit file, ms": found}


def _bulk(place, program, name, lines, length, chunk=BLOCK, log="k8s-file", both=""):
    container = Container(place, program, "lines %d %d %d %s" % (lines, length, chunk, both), log=log)
    seconds, used = container.wait()
    if log == "k8s-file" and os.path.getsize(container.log) < lines * length:
        raise Broken("the log is not complete")
    container.remove()
    megabytes = lines * length / 1e6
    return {name + ", MB/s": [megabytes / seconds], name + ", CPU s/GB": [used / megabytes * 1e3]}


def lines_200(place, program, scale):
    return _bulk(place, program, "lines of 200 bytes", scale.of(2_000_000), 200)


def lines_20(place, program, scale):
    return _bulk(place, program, "lines of 20 bytes", scale.of(3_000_000), 20)


def single_lines(place, program, scale):
    return _bulk(place, program, "lines of 100 bytes, each its own write", scale.of(500_000), 100, chunk=0)


def long_lines(place, program, scale):
    return _bulk(place, program, "lines of 50 KB", scale.of(8_000), 50_000)


def both_streams(place, program, scale):
    return _bulk(place, program, "stdout and stderr in turn", scale.of(1_000_000), 200, both="both")


def no_log(place, program, scale):
    return _bulk(place, program, "no log, lines of 200 bytes", scale.of(2_000_000), 200, log="none")


def million(place, program, scale):
    count = scale.of(1_000_000)
    container = Container(place, program, "lines %d 10 4096" % count)
    seconds, _ = container.wait()
    container.remove()
    return {"%d short lines, start to end, s" % count: [seconds]}


def journald(place, program, scale):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(JOURNAL)
        except OSError as error:
            raise Unavailable("no journal here: %s" % error) from error
    count = scale.of(10_000)
    container = Container(place, program, "lines %d 100 4096" % count, log="journald")
    seconds, used = container.wait()
    container.remove()
    return {"journald, lines/s": [count / seconds], "journald, CPU µs/line": [used / count * 1e6]}


def attach_round_trip(place, program, scale):
    container = Container(place, program, "echo", options=("-i", "--leave-stdin-open"))
    found = []
    with container.attach() as client:
        for _ in range(scale.of(2000)):
            sent = time.perf_counter()
            client.send(b"ping\n")
            client.recv(1 << 16)
            found.append((time.perf_counter() - sent) * 1e6)
    container.kill()
    container.wait()
    container.remove()
    return {"attach round trip, µs": [statistics.median(found)]}


def attach_stream(place, program, scale):
    lines = scale.of(5_000_000 if scale.full else 1_000_000)
    payload = "input then lines %d 200 %d" % (lines, BLOCK)
    container = Container(place, program, payload, log="none", options=("-i", "--leave-stdin-open"))
    received, buffer = 0, bytearray(1 << 18)
    with container.attach() as client:
        began = time.perf_counter()
        client.send(b"go\n")
        while received < lines * 200:
            count = client.recv_into(buffer)
            if count == 0:
                raise Broken("attach ended after %d bytes" % received)
            received += count - 1
        seconds = time.perf_counter() - began
    _, used = container.wait()
    container.remove()
    name, megabytes = "attach stream of %d MB" % (lines * 200 // 1_000_000), lines * 200 / 1e6
    return {name + ", MB/s": [megabytes / seconds], name + ", CPU s/GB": [used / megabytes * 1e3]}


def quiet(place, program, scale):
    containers = [Container(place, program, "drip 20 600") for _ in range(20)]
    time.sleep(1)
    before, sizes = sum(c.cpu() for c in containers), sum(_lines(c) for c in containers)
    time.sleep(scale.of(5))
    used, lines = sum(c.cpu() for c in containers) - before, sum(_lines(c) for c in containers) - sizes
    _end(containers)
    return {"20 quiet containers, CPU µs/line": [used / lines * 1e6]}


def _lines(container):
    with open(container.log, "rb") as file:
        return file.read().count(b"\n")


def _end(containers):
    for container in containers:
        container.kill()
    for container in containers:
        container.wait()
        container.remove()


def _memory(containers, what):
    """Figures of monitors that all have come to rest."""
    settle(containers)
    found = [container.memory() for container in containers]
    _end(containers)
    names = ("private", "PSS", "RSS")
    return {"%s of %d monitors, %s" % (name, len(found), what): [sizes[index] for sizes in found]
            for index, name in enumerate(names)}


def idle(place, program, scale):
    del scale
    return _memory([Container(place, program, "idle") for _ in range(20)], "idle, KiB")


def after_log(place, program, scale):
    lines = scale.of(200_000)
    containers = [Container(place, program, "lines %d 200 %d then idle" % (lines, BLOCK)) for _ in range(5)]
    for container in containers:
        while os.path.getsize(container.log) < lines * 200:
            time.sleep(0.01)
    return _memory(containers, "after %d MB of log, KiB" % (lines * 200 // 1_000_000))


def after_attach(place, program, scale):
    options = ("-i", "--leave-stdin-open")
    containers = [Container(place, program, "echo", options=options) for _ in range(5)]
    for container in containers:
        with container.attach() as client:
            for _ in range(scale.of(1000)):
                client.send(b"a line that somebody types\n")
                client.recv(1 << 16)
    return _memory(containers, "after an attach session, KiB")


def many(place, program, scale):
    if not scale.full:
        raise Unavailable("only with --full")
    return _memory([Container(place, program, "idle") for _ in range(scale.of(500))], "idle, KiB")


def size(place, program, scale):
    del place, scale
    return {"size of the binary, KiB": [os.path.getsize(program) / 1024]}


def podman_exec(place, program, scale):
    reason = podman.missing()
    if reason:
        raise Unavailable(reason)
    with podman.Podman(place, program) as engine:
        return {"podman exec, ms": [engine.exec_seconds() * 1e3 for _ in range(scale.of(5))]}


# Name, samples of each monitor, function.
FIGURES = (
    ("start", 5, start),
    ("exit", 5, exit_latency),
    ("lines-200", 5, lines_200),
    ("lines-20", 5, lines_20),
    ("single-lines", 5, single_lines),
    ("long-lines", 5, long_lines),
    ("both-streams", 3, both_streams),
    ("no-log", 3, no_log),
    ("million", 3, million),
    ("journald", 3, journald),
    ("attach", 5, attach_round_trip),
    ("attach-stream", 3, attach_stream),
    ("quiet", 2, quiet),
    ("idle", 1, idle),
    ("after-log", 1, after_log),
    ("after-attach", 1, after_attach),
    ("many", 1, many),
    ("size", 1, size),
    ("podman", 2, podman_exec),
)


def cat(place, scale):
    """The least that any monitor can need for `lines-200`: cat, from the same pipe to the same file. MB/s, CPU s/GB."""
    lines = scale.of(2_000_000)
    words = [place.runtime, "payload", "lines", str(lines), "200", str(BLOCK)]
    began = time.perf_counter()
    with open(os.path.join(place.dir, "cat"), "wb") as target:
        with subprocess.Popen(words, stdout=subprocess.PIPE) as payload:
            copy = os.posix_spawnp("cat", ["cat"], os.environ, file_actions=[
                (os.POSIX_SPAWN_DUP2, payload.stdout.fileno(), 0), (os.POSIX_SPAWN_DUP2, target.fileno(), 1)])
            payload.stdout.close()
            _, _, usage = os.wait4(copy, 0)
    seconds = time.perf_counter() - began
    megabytes = lines * 200 / 1e6
    return megabytes / seconds, (usage.ru_utime + usage.ru_stime) / megabytes * 1e3
