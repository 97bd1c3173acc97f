"""Starts MLServer or the KServe SDK's server, KServe v2 servers beside Triton, on the loopback interface.

Both serve one small custom model under two names: `linear`, and `batched`, for which MLServer gathers calls into batches.
The models write a line for each call that reaches them, by which the tests know whether one did.
"""

import os
import pathlib
import subprocess
import tempfile
import time

import grpc
from triton import free_ports
from tritonclient.grpc import service_pb2 as pb

ROOT = pathlib.Path(__file__).resolve().parents[2]
START_SECONDS = 60
STOP_SECONDS = 5  # MLServer waits for ever for a call that it lost
REACHED = "REFRAIN_TEST_REACHED"  # names the file of those lines


class KserveV2:
    """One running server, in a process of its own: `kind` is `mlserver` or `kserve`."""

    def __init__(self, kind):
        self.kind = kind

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix=f"refrain-{self.kind}-")
        self.log, self.lines = (pathlib.Path(self.folder.name) / name for name in ("log", "reached"))
        self.lines.touch()
        self.grpc, http = free_ports(2)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [ROOT / "target" / f"test-venv-{self.kind}" / "bin" / "python", pathlib.Path(__file__).with_name(f"{self.kind}_model.py")]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*command, str(self.grpc), str(http)],
                env=environment | {REACHED: str(self.lines)},
                cwd=self.folder.name,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait_until_ready()
        return self

    def _wait_until_ready(self):
        deadline = time.monotonic() + START_SECONDS
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc}") as channel:
            ready = channel.unary_unary("/inference.GRPCInferenceService/ModelReady")
            while time.monotonic() < deadline and self.process.poll() is None:
                try:
                    for model in ("linear", "batched"):
                        reply = ready(pb.ModelReadyRequest(name=model).SerializeToString(), timeout=2)
                        assert pb.ModelReadyResponse.FromString(reply).ready
                    return
                except (grpc.RpcError, AssertionError):
                    time.sleep(0.1)
        text = self.log.read_text(errors="replace")
        self.__exit__()
        raise RuntimeError(f"{self.kind} was not ready within {START_SECONDS} s:\n{text}")

    def reached(self):
        """Rows of each call that has reached a model so far."""
        return [int(line) for line in self.lines.read_text().split()]

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()
