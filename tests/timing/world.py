"""A real Triton with a model of some 10 ms of real work, Refrain in front of it, and other callers."""

import contextlib
import hashlib
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / part) for part in ("servers", "triton", "timing")]

import grpc  # noqa: E402
import triton as servers  # noqa: E402
from probe import Connection  # noqa: E402
from questions import MODEL, Questions  # noqa: E402
from refrain import BINARY, CALLERS, Refrains  # noqa: E402
from tritonclient.grpc import service_pb2 as pb  # noqa: E402

# Whoever measures asks for more new pictures than an honest caller has; being suspected is not what is measured.
CONFIG = '{top}\n[timing]\nmode = "{mode}"\n[store]\nsuspicions = 1000000\n[limits]\n{limits}\n' + CALLERS

# What others ask for, as a share of what can be answered.
LOADS = {"idle": 0.0, "50": 0.5, "90": 0.9, "ramp": 0.9}
RAMP_SECONDS = 60
FLOOD = 4, 4  # callers, seconds


@contextlib.contextmanager
def sidecars(*configurations):
    """The port of a sidecar for each, and the port of the model server behind them all."""
    with tempfile.TemporaryDirectory(prefix="refrain-timing-") as folder, servers.Triton(only=[MODEL]) as triton:
        proxies = Refrains(pathlib.Path(folder))
        try:
            yield *(proxies.start(each, f"http://127.0.0.1:{triton.grpc}").port for each in configurations), triton.grpc
            assert triton.process.poll() is None, f"tritonserver ended with {triton.process.poll()}:\n{triton.tail()}"
        finally:
            proxies.stop()


def configured(mode, limits="", top=""):
    """The configuration of a sidecar that hides by `mode`."""
    return CONFIG.format(mode=mode, limits=limits, top=top)


def binary():
    """Which program is measured: the beginning of its digest."""
    return hashlib.sha256(BINARY.read_bytes()).hexdigest()[:12]


def seconds_a_call(port, calls=200):
    """The median time of calls one after another, asked of the model server itself."""
    connection, questions, took = Connection(port, "calibration"), Questions([0, 3]), []
    for _ in range(calls):
        took.append(connection.ask(questions.copy(questions.picture())).latency)
    connection.close()
    return sorted(took)[calls // 2]


def asked(port):
    """Calls that the model has answered, and the seconds that it worked on them."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelStatistics",
            request_serializer=pb.ModelStatisticsRequest.SerializeToString,
            response_deserializer=pb.ModelStatisticsResponse.FromString,
        )
        stats = ask(pb.ModelStatisticsRequest(name=MODEL)).model_stats[0]
    return stats.inference_count, stats.inference_stats.compute_infer.ns / 1e9


class Others:
    """The other callers; others.py says what they can be told."""

    def __init__(self, port, spare, seed):
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "tests/timing/others.py", str(port), str(spare), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": ":".join(sys.path)},
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process.stdout.close()

    def tell(self, *order):
        self.process.stdin.write((" ".join(map(str, order)) + "\n").encode())
        self.process.stdin.flush()

    def capacity(self):
        """Calls a second that are answered when more are always waiting: of this machine as it is, with all that runs on it."""
        self.tell("flood", *FLOOD)
        return float(self.process.stdout.readline())

    def count(self):
        """Calls that were answered, that were refused, and that were not made."""
        self.tell("count")
        return tuple(map(int, self.process.stdout.readline().split()))
