"""Triton's own load generator runs unchanged through Refrain: unary, asynchronous, streaming, in batches; and TensorFlow's kind.

Its figures are printed at the end of the run. They are orders of magnitude: generator, proxy and server share two cores.
It sends one random picture again and again, so through Refrain nearly all of its calls are repeats, held as long as the
model would take.
"""

import os
import pathlib
import re
import subprocess

import pytest
from tf_serving import TfServing
from triton import Triton

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "target" / "test-venv-perf" / "bin" / "perf_analyzer"
LIBRARIES = ROOT / "target" / "test-venv-server"
SECONDS = 60

# It asks for a model's configuration and statistics, the second of which a proxy that defends a model keeps to itself.
OPENED = '[rpc]\nallow = ["inference.GRPCInferenceService/ModelConfig", "inference.GRPCInferenceService/ModelStatistics"]\n'

KINDS = {
    "unary": ["-i", "grpc"],
    "async": ["-i", "grpc", "--async", "--concurrency-range", "4"],
    "streaming": ["-i", "grpc", "--streaming"],
    "streaming_async": ["-i", "grpc", "--streaming", "--async", "--concurrency-range", "4"],
    "batches_of_8": ["-i", "grpc", "-b", "8"],
}


@pytest.fixture(scope="module")
def triton():
    with Triton(only=["clf_u8"]) as server:
        yield server


@pytest.fixture(scope="module")
def stand_in():
    with TfServing("numpy") as server:
        yield server


@pytest.fixture
def perf_analyzer(tmp_path, figure):
    """Runs it to its end and keeps its figures; the libraries that it lacks lie in Triton's own package."""
    (bundled,) = LIBRARIES.glob("lib/python3*/site-packages/nvidia_pytriton.libs")
    for name, pattern in (("libb64.so.0d", "libb64-*.so.0d"), ("libcudart.so.12", "libcudart-*.so.12*")):
        (library,) = bundled.glob(pattern)
        (tmp_path / name).symlink_to(library)

    def run(what, port, *arguments):
        steady = ["--measurement-interval", "1000", "--max-trials", "3", "-s", "999"]
        done = subprocess.run(
            [PROGRAM, "-u", f"127.0.0.1:{port}", *steady, *arguments],
            env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        throughput, median, tail = (
            re.search(pattern, said) for pattern in (r"Throughput: ([\d.]+) infer/sec", r"p50 latency: (\d+) usec", r"p99 latency: (\d+) usec")
        )
        assert throughput and float(throughput[1]) > 0, said
        times = f", p50 {int(median[1]) / 1000:.2f} ms, p99 {int(tail[1]) / 1000:.2f} ms" if median and tail else ""
        figure(f"perf_analyzer {what}: {float(throughput[1]):.0f} infer/s{times}")

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_it_runs_against_triton(triton, refrain, perf_analyzer, kind):
    perf_analyzer(f"{kind}, direct", triton.grpc, "-m", "clf_u8", *KINDS[kind])
    perf_analyzer(f"{kind}, through", refrain(triton.grpc, OPENED).port, "-m", "clf_u8", *KINDS[kind])


def test_it_runs_against_tensorflow_serving(stand_in, refrain, perf_analyzer):
    asks = ["--service-kind", "tfserving", "-i", "grpc", "-m", "clf", "--model-signature-name", "serving_default"]
    asks += ["--shape", "images:1,32,32,3"]
    perf_analyzer("tfserving, direct", stand_in.grpc, *asks)
    perf_analyzer("tfserving, through", refrain(stand_in.grpc, '[models."clf"]\nrange = "0..1"\n').port, *asks)
