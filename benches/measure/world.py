"""Everything that a comparison runs between: a free upstream, the real Triton, and each proxy in front of them, all on loopback."""

import contextlib
import getpass
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "servers"))

from triton import Triton, free_ports  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
PARTS = ROOT / "target" / "bench-parts"
ENVOY = next(iter(ROOT.glob("target/test-venv-benches/lib/python3*/site-packages/envoy/_bin/envoy")), None)
REFRAIN = pathlib.Path(os.environ.get("REFRAIN_BIN", ROOT / "target/release/refrain"))
READY_SECONDS, STOP_SECONDS = 60, 10

# What became of rows, in the order of `counted` in what the load generator tells; then comes what a part watches beside.
DECIDED = [("refrain_decisions_total", f'decision="{decision}"') for decision in ("forwarded", "short_circuited", "rejected")]

# Pictures are made at random, so that now and then one is suspect; that a session be suspected is not what is measured.
SETTINGS = """
[caller]
metadata = "x-caller"
trusted_peers = ["127.0.0.0/8"]
[store]
suspicions = 1000000
[rpc]
allow = ["inference.GRPCInferenceService/ModelConfig", "inference.GRPCInferenceService/ModelStatistics"]
[limits]
connections_per_peer = 4096
[models."f32-*"]
range = "0..1"
"""


def libraries():
    """Where programs unpacked from Debian's packages find what they were linked with."""
    return f"{PARTS}/usr/lib/x86_64-linux-gnu:{PARTS}/lib/x86_64-linux-gnu"


class World:
    """Processes by name, each ended by its own id when the world ends."""

    def __init__(self, load):
        self.load, self.stack, self.ways = load, contextlib.ExitStack(), {}

    def __enter__(self):
        self.folder = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="refrain-compare-")))
        return self

    def __exit__(self, *_):
        self.stack.close()

    def start(self, name, command, processors=None, stdin=subprocess.DEVNULL, **variables):
        """A process, and the file with what it says. It starts on these processors alone, where some are named."""
        log = self.folder / f"{name}.log"
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("REFRAIN_", "OTEL_"))}
        with open(log, "wb") as into:
            process = subprocess.Popen(
                list(map(str, command)), env=clean | variables, stdin=stdin, stdout=into, stderr=into,
                preexec_fn=processors and (lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: len(processors)])),
            )  # fmt: skip
        self.stack.callback(stop, process)
        return process, log

    def upstream(self):
        """Our own upstream, on a port and on a socket."""
        self.socket = self.folder / "model.sock"
        process, log = self.start("upstream", [self.load, "upstream", self.socket])
        self.port = json.loads(said(process, log, r"\{.*\}")[0])["port"]
        self.upstream_pid = process.pid

    def triton(self, *models):
        """The real server with these models of the tests; it runs until the world ends."""
        return self.stack.enter_context(Triton(only=models))

    def refrain(self, name, upstream, top="", workers=2, listen=None, binary=REFRAIN, under=(), stdin=subprocess.DEVNULL):
        """One `refrain proxy`, `under` another program if one is named; its way is `name`."""
        settings = self.folder / f"{name}.toml"
        settings.write_text(f"{top}\n{SETTINGS}")
        listen = listen or "127.0.0.1:0"
        command = [*under, binary, "proxy", "--config", settings, "--listen", listen, "--upstream", upstream, "--admin", "127.0.0.1:0"]
        # It makes as many threads as there are processors that it may use when it starts.
        process, log = self.start(name, command, processors=range(workers), stdin=stdin, NO_COLOR="1")
        address = said(process, log, r"listening on (unix:\S+|127\.0\.0\.1:\d+)")[1].strip('"')
        admin = said(process, log, r"admin on (127\.0\.0\.1:\d+)")[1]
        for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), os.sched_getaffinity(0))
        self.way(name, address, [process.pid], admin)
        return process

    def envoy(self, name, upstream, workers=2, listen=None):
        port, admin = free_ports(2)
        listen = listen or f"127.0.0.1:{port}"
        config = self.folder / f"{name}.yaml"
        text = (HERE / "envoy.yaml").read_text()
        config.write_text(filled(text, LISTEN=envoy_address(listen), UPSTREAM=envoy_address(upstream), ADMIN=str(admin)))
        command = [ENVOY, "-c", config, "--concurrency", workers, "--disable-hot-restart", "--log-level", "warning"]
        process, log = self.start(name, command)
        answers(process, log, listen)
        self.way(name, listen, [process.pid])

    def nginx(self, name, upstream, workers=2, listen=None):
        folder = self.folder / name
        folder.mkdir()
        listen = listen or f"127.0.0.1:{free_ports(1)[0]}"
        text = (HERE / "nginx.conf").read_text()
        (folder / "nginx.conf").write_text(
            filled(text, USER=getpass.getuser(), FOLDER=str(folder), WORKERS=str(workers), UPSTREAM=upstream, LISTEN=listen)
        )
        command = [PARTS / "usr/sbin/nginx", "-c", folder / "nginx.conf", "-p", folder]
        process, log = self.start(name, command, LD_LIBRARY_PATH=libraries())
        answers(process, log, listen)
        deadline = time.monotonic() + READY_SECONDS
        while len(children(process.pid)) < workers and time.monotonic() < deadline:
            time.sleep(0.01)
        self.way(name, listen, [process.pid, *children(process.pid)])

    def way(self, name, address, pids=(), admin=None):
        self.ways[name] = {"address": address, "pids": list(pids), "admin": admin}

    def drive(self, cells, seed, watched=()):
        """Carries out the cells with every way that they name; what was seen, as `drive.rs` writes it."""
        plan = self.folder / "plan.json"
        used = {way for cell in cells for way in cell["ways"]}
        ways = {way: self.ways[way] for way in used}
        plan.write_text(json.dumps({"ways": ways, "cells": cells, "seed": seed, "watched": [*DECIDED, *watched]}))
        done = subprocess.run([self.load, "drive", plan], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the load generator ended with {done.returncode}; {self.tails()}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def tails(self):
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-600:]}" for log in sorted(self.folder.glob("*.log")))


def filled(text, **words):
    for word, value in words.items():
        text = re.sub(rf"\b{word}\b", lambda _: value, text)  # noqa: B023
    return text


def envoy_address(address):
    if address.startswith("unix:"):
        return "{ pipe: { path: %s } }" % address.removeprefix("unix:")
    host, port = address.rsplit(":", 1)
    return "{ socket_address: { address: %s, port_value: %s } }" % (host, port)


def said(process, log, pattern):
    """Waits until the process says something like `pattern`."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
        if found := re.search(pattern, text):
            return found
        if process.poll() is not None:
            break
        time.sleep(0.01)
    raise RuntimeError(f"{process.args[0]} never said {pattern}:\n{log.read_text(errors='replace')[-2000:]}")


def answers(process, log, address):
    """Waits until somebody listens at `address`."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            if address.startswith("unix:"):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(address.removeprefix("unix:"))
            else:
                host, port = address.rsplit(":", 1)
                socket.create_connection((host, int(port)), 1).close()
            return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args[0]} does not listen on {address}:\n{log.read_text(errors='replace')[-2000:]}")


def children(pid):
    tasks = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in tasks.read_text().split()]


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
