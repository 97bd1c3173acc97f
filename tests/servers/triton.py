"""Starts the real Triton server (the C++ binary inside the nvidia-pytriton wheel) on the loopback interface.

Standard library only. Used by the tests as a context manager; by hand it runs until interrupted and prints its ports:

    python3 tests/servers/triton.py [--flag-for-tritonserver ...]
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import digests

ROOT = pathlib.Path(__file__).resolve().parents[2]
VENV = ROOT / "target" / "test-venv-server"
MODELS = ROOT / "tests" / "servers" / "models"
NETWORK = pathlib.Path(os.environ.get("REFRAIN_TEST_MODEL", ROOT / "src/demo/model/lenet-cifar10.onnx"))
VERSIONS = {"versioned": ("1", "2")}
START_SECONDS = 120
STOP_SECONDS = 30


def free_ports(count):
    """Ports that nothing listened on a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def write_repository(into, only=None):
    """The model repository: each entry's config.pbtxt and labels, and the one program under every version."""
    for name, form in digests.FORMS.items():
        if not only or name in only:
            (into / name).mkdir()
            (into / name / "config.pbtxt").write_text(digests.config(form))
    for entry in sorted(MODELS.iterdir()):
        if entry.is_dir() and not entry.name.startswith("__") and (not only or entry.name in only):
            shutil.copytree(entry, into / entry.name)
    for entry in sorted(into.iterdir()):
        for version in VERSIONS.get(entry.name, ("1",)):
            (entry / version).mkdir()
            for program in ("model.py", "received.py"):
                shutil.copy(MODELS / program, entry / version / program)


class Triton:
    """One running tritonserver. `flags` are added to its command line; `only` names the models to serve (default: all);
    `grpc` fixes the gRPC port. With `prepare_only` it is not started: somebody else runs `program()` in `environment()`."""

    def __init__(self, *flags, only=None, grpc=None, prepare_only=False):
        self.flags, self.only, self.fixed, self.prepare_only = flags, only, grpc, prepare_only
        self.process = None

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="refrain-triton-")
        folder = pathlib.Path(self.folder.name)
        self.repository, self.log = folder / "models", folder / "log"
        self.repository.mkdir()
        self.write_models()
        self.backends = self._backends(folder / "backends")
        if self.prepare_only:
            return self
        for _ in range(3):  # somebody else may take a free port before Triton does
            try:
                self._start()
                return self
            except RuntimeError as failure:
                reason = failure
                self.stop()
        self.folder.cleanup()
        raise reason

    def __exit__(self, *_):
        self.stop()
        self.folder.cleanup()

    def write_models(self):
        """What it serves; who serves other models writes them instead."""
        write_repository(self.repository, self.only)

    def _backends(self, into):
        """The python backend beside the stub for the Python that the environment was made with."""
        python = self._ask_python("import sys; print('%d.%d' % sys.version_info[:2])")
        self.site = VENV / "lib" / f"python{python}" / "site-packages"
        self.server = self.site / "pytriton" / "tritonserver"
        shutil.copytree(self.server / "backends" / "python", into / "python", symlinks=True)
        shutil.copy(self.server / "python_backend_stubs" / python / "triton_python_backend_stub", into / "python")
        return into

    def _ask_python(self, code):
        return subprocess.run([VENV / "bin/python", "-c", code], check=True, capture_output=True, text=True).stdout.strip()

    def program(self):
        """The server and the flags that it needs whatever else it is told."""
        return [
            self.server / "bin" / "tritonserver",
            f"--model-repository={self.repository}",
            f"--backend-directory={self.backends}",
            f"--cache-directory={self.server}/caches",
            *("--allow-gpu-metrics=false", "--model-control-mode=explicit", "--load-model=*", "--exit-timeout-secs=10"),
        ]

    def environment(self):
        # The stub finds libpython by the linker's path: that of the environment's own Python must come first, since
        # another build of the same version breaks it.
        libpython = self._ask_python("import sysconfig; print(sysconfig.get_config_var('LIBDIR'))")
        return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
            "LD_LIBRARY_PATH": f"{self.site}/nvidia_pytriton.libs:{libpython}",
            "PYTHONPATH": str(self.site),
            "PATH": f"{VENV}/bin:{os.environ['PATH']}",
            "REFRAIN_TEST_MODEL": str(NETWORK),
        }

    def _start(self):
        self.grpc, self.http, self.metrics = free_ports(3)
        self.grpc = self.fixed or self.grpc
        command = [
            *self.program(),
            *("--grpc-address=127.0.0.1", "--http-address=127.0.0.1", "--metrics-address=127.0.0.1"),
            *(f"--grpc-port={self.grpc}", f"--http-port={self.http}", f"--metrics-port={self.metrics}"),
            *self.flags,
        ]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._wait_until_ready()

    def _wait_until_ready(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"tritonserver ended with {self.process.returncode}:\n{self.tail()}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/v2/health/ready", timeout=2) as reply:
                    if reply.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.1)
        raise RuntimeError(f"tritonserver was not ready after {START_SECONDS} s:\n{self.tail()}")

    def tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def stop(self):
        """Ends this server and no other, by its own process id."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(STOP_SECONDS)
        self.process = None


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with Triton(*sys.argv[1:]) as triton:
        print(json.dumps({"grpc": triton.grpc, "http": triton.http, "metrics": triton.metrics, "pid": triton.process.pid}), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            triton.process.wait()
