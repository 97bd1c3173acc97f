"""Where cargo put the programs of benches/, building them where they are not."""

import json
import os
import pathlib
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


def built(*names, profile=None):
    """The programs of these benches, in the profile that BENCH_PROFILE names unless told otherwise."""
    profile = profile or os.environ.get("BENCH_PROFILE", "bench")
    command = ["cargo", "bench", "--locked", "--profile", profile, "--no-run", "--message-format=json-render-diagnostics"]
    for name in names:
        command += ["--bench", name]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    found = {each["target"]["name"]: each["executable"] for each in messages if each.get("executable")}
    return [found[name] for name in names]


def valgrind():
    """The command that begins a run under valgrind: the machine's own, or the one that `benches/install` unpacked."""
    if own := shutil.which("valgrind"):
        return [own]
    parts = ROOT / "target/bench-parts/usr"
    return ["env", f"VALGRIND_LIB={parts}/libexec/valgrind", f"{parts}/bin/valgrind"]
