"""What every table begins with, and where figures are kept."""

import datetime
import hashlib
import json
import os
import pathlib
import platform
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benches" / "results"
BEGAN = time.monotonic()


def machine():
    """What this runs on: figures of one kind of processor say little of another's."""
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{os.cpu_count()} processors ({cpu}), {memory:.0f} GiB"


def about(command):
    """When, what and where: taken before anything is measured."""
    commit = git("rev-parse", "--short", "HEAD")
    changed = any(not line.endswith(("benches/RESULTS.md", ".json", ".svg")) for line in git("status", "--porcelain").splitlines())
    binary = pathlib.Path(os.environ.get("REFRAIN_BIN", ROOT / "target/release/refrain"))
    if os.environ.get("BENCH_PROFILE") == "dev":
        command += " (development build: its figures say nothing)"
    return {
        "command": command,
        "commit": commit + (" and changes" if changed else ""),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "binary": hashlib.sha256(binary.read_bytes()).hexdigest()[:12] if binary.exists() else None,
        "load_before": round(os.getloadavg()[0], 1),
    }


def keep(name, told, figures):
    RESULTS.mkdir(exist_ok=True)
    told = told | {"seconds": round(time.monotonic() - BEGAN)}
    kept = {"about": told} | figures
    (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
    return kept


def git(*words):
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
