"""Third-party load generators on some of the ways: h2load, and Triton's own perf_analyzer."""

import base64
import json
import os
import re
import subprocess
import urllib.request

from world import PARTS, ROOT, libraries

SECONDS = 3


def h2load(world):
    """One request again and again, which Refrain replays: passed through unread (`off`) it is the hop that is compared, `unheld` the replay."""
    ways = [way for way in ("direct", "off", "unheld", "envoy", "nginx") if way in world.ways]
    found = []
    for payload in ("3KiB", "147KiB"):
        request = world.folder / f"{payload}.request"
        with open(request, "wb") as into:
            subprocess.run([world.load, "request", payload], stdout=into, check=True)
        for way in ways:
            address = world.ways[way]["address"]
            command = [PARTS / "usr/bin/h2load", "-D", str(SECONDS), "--warm-up-time", "1", "-c", "4", "-m", "2", "-d", request]
            command += ["-H", "content-type: application/grpc", "-H", "te: trailers", "-H", "x-caller: h2load"]
            command += [f"http://{address}/inference.GRPCInferenceService/ModelInfer"]
            done = subprocess.run(command, env=os.environ | {"LD_LIBRARY_PATH": libraries()}, capture_output=True, text=True, check=False)
            rate = re.search(r"finished in [\d.]+s, ([\d.]+) req/s", done.stdout)
            mean = re.search(r"time for request:\s+\S+\s+\S+\s+(\S+)", done.stdout)
            if not rate or not re.search(r" 0 failed, 0 errored", done.stdout):
                raise RuntimeError(f"h2load through {way}: {done.stdout[-600:]} {done.stderr[-600:]}")
            found.append({"by": "h2load", "payload": payload, "way": way, "a_second": float(rate[1]), "mean": mean and mean[1]})
    return found


def decided(world, way):
    """Rows that a way's Refrain has forwarded and replayed so far; none of another proxy."""
    admin = world.ways[way]["admin"]
    if not admin:
        return None
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    found = [line for line in lines if line.startswith("refrain_decisions_total{")]
    return [sum(float(line.rsplit(" ", 1)[1]) for line in found if f'decision="{decision}"' in line) for decision in ("forwarded", "short_circuited")]


def perf_analyzer(world):
    """Pictures that differ, 1,536 of them in turn, to the cheap model."""
    pictures = world.folder / "pictures.json"
    requests = subprocess.run([world.load, "pictures", "3KiB"], stdout=subprocess.PIPE, check=True).stdout
    size = 32 * 32 * 3
    each = [base64.b64encode(requests[at : at + size]).decode() for at in range(0, len(requests), size)]
    pictures.write_text(json.dumps({"data": [{"image": {"b64": picture}} for picture in each]}))
    (bundled,) = (ROOT / "target/test-venv-server").glob("lib/python3*/site-packages/nvidia_pytriton.libs")
    for name, pattern in (("libb64.so.0d", "libb64-*.so.0d"), ("libcudart.so.12", "libcudart-*.so.12*")):
        (library,) = bundled.glob(pattern)
        (world.folder / name).symlink_to(library)
    found = []
    for way in ("triton", "triton-off", "triton-enforce", "triton-envoy", "triton-nginx"):
        command = [ROOT / "target/test-venv-benches/bin/perf_analyzer", "-m", "clf_u8", "-i", "grpc", "-u", world.ways[way]["address"]]
        command += ["--async", "--concurrency-range", "8", "--measurement-interval", "1000", "--max-trials", str(SECONDS), "-s", "999"]
        command += ["--input-data", pictures]
        done = subprocess.run(
            command, env=os.environ | {"LD_LIBRARY_PATH": str(world.folder)}, cwd=world.folder, capture_output=True, text=True, check=False
        )
        told = done.stdout + done.stderr
        rate, median, tail = (
            re.search(pattern, told) for pattern in (r"Throughput: ([\d.]+) infer/sec", r"p50 latency: (\d+) usec", r"p99 latency: (\d+) usec")
        )
        if not rate or not median:
            raise RuntimeError(f"perf_analyzer through {way}: {told[-1500:]}")
        found.append({
            "by": "perf_analyzer", "payload": "3KiB", "way": way, "a_second": float(rate[1]), "p50": float(median[1]), "p99": tail and float(tail[1]),
            "decided": decided(world, way),
        })  # fmt: skip
    return found
