"""A real Triton with a model of some 10 ms of real work, Refrain in front of it, and other callers."""

import contextlib
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / part) for part in ("servers", "triton", "timing")]

import pictures  # noqa: E402
import triton as servers  # noqa: E402
from probe import Connection  # noqa: E402
from questions import MODEL, question  # noqa: E402
from refrain import CALLERS, Refrains  # noqa: E402

# Whoever measures asks for more new pictures than an honest caller has; being suspected is not what is measured.
CONFIG = '{top}\n[timing]\nmode = "{mode}"\n[store]\nsuspicions = 1000000\n[limits]\n{limits}\n' + CALLERS

# What a model server that answers one call at a time is asked for, as a share of what it can do.
LOADS = {"idle": 0.0, "half": 0.5, "most": 0.9}


@contextlib.contextmanager
def world(mode, limits="", top=""):
    """The port of a sidecar that hides by `mode`, and the port of the model server behind it."""
    with tempfile.TemporaryDirectory(prefix="refrain-timing-") as folder, servers.Triton(only=[MODEL]) as triton:
        proxies = Refrains(pathlib.Path(folder))
        try:
            proxy = proxies.start(CONFIG.format(mode=mode, limits=limits, top=top), f"http://127.0.0.1:{triton.grpc}")
            yield proxy.port, triton.grpc
        finally:
            proxies.stop()


def seconds_a_call(port, calls=100):
    """The median time of calls one after another, asked of the model server itself."""
    connection, took = Connection(port, "calibration"), []
    for number in range(calls):
        took.append(connection.ask(question(pictures.drawn(5_000_000 + number))).latency)
    connection.close()
    return sorted(took)[calls // 2]


@contextlib.contextmanager
def other_callers(port, seed):
    """A function that sets the rate of other callers' calls, in calls a second."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "tests/timing/others.py", str(port), str(seed)],
        stdin=subprocess.PIPE,
        env={"PYTHONPATH": ":".join(sys.path)},
    )

    def at(rate):
        process.stdin.write(f"{rate}\n".encode())
        process.stdin.flush()

    try:
        yield at
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def ramp(at, most, seconds):
    """A function that keeps the rate going up and down between nothing and `most`, once in so many seconds."""
    began, last = time.monotonic(), [0.0]

    def step():
        now = time.monotonic()
        if now - last[0] >= 0.5:
            last[0] = now
            at(most * (1 - abs(1 - 2 * ((now - began) / seconds % 1))) + 0.01)

    return step
