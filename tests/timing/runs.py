"""Which runs are made, one after another, and what is made of them: `tests/timing/run`, which sets up what this needs."""

import os

# One core judges as fast as two that wait for each other. Said before numpy is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse  # noqa: E402
import pathlib  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

import measure  # noqa: E402
import report  # noqa: E402
import world  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
MODES = ["off", "mean", "sample", "bucket", "shadow"]
MOST = 10_000
# Of as many at idle: what the time allows. An N* of 1,000 takes 10,000 replies of each kind to be shown.
SHARES = {"90": 0.5}
SHARE_BESIDE = 0.3
DEADLINES = 0.2


def matrix():
    for load in world.LOADS:
        for mode in MODES:
            yield mode, load, "none"
    for beside in ("cap", "cancels", "companion", "couples", "turns"):
        yield "sample", "idle", beside
    yield "shadow", "idle", "companion"
    for mode in ("sample", "shadow"):
        yield mode, "idle", "apart"


def name(mode, load, beside, seed, top):
    parts = [mode, load, beside] + ([f"seed{seed}"] if seed != 1 else []) + ([top.replace('"', "").replace(" ", "")] if top else [])
    return "-".join(parts) + ".jsonl"


def main():
    # Whoever stops a run stops its servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(prog="tests/timing/run", description=__doc__)
    parser.add_argument("what", choices=[*MODES, "matrix", "report"])
    parser.add_argument("--load", choices=list(world.LOADS), default="idle")
    parser.add_argument("--beside", choices=list(measure.BESIDE), default="none")
    parser.add_argument("--n", type=int, default=MOST, help="replies of each kind at idle; elsewhere a share of it")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--top", default="", help="a line more of Refrain's configuration, such as 'scores = \"decoy\"'")
    parser.add_argument("--into", type=pathlib.Path, default=world.ROOT / "target/timing", help="where replies are kept")
    parser.add_argument("--results", type=pathlib.Path, default=HERE, help="where RESULTS.md and latencies.svg are written")
    asked = parser.parse_args()
    chosen = [] if asked.what == "report" else list(matrix()) if asked.what == "matrix" else [(asked.what, asked.load, asked.beside)]
    for mode, load, beside in chosen:
        count = int(asked.n * (SHARES.get(load, 1) if beside in ("none", "apart") else SHARE_BESIDE))
        path = asked.into / name(mode, load, beside, asked.seed, asked.top)
        began = time.monotonic()
        measure.run(path, mode, load, beside, count, int(count * DEADLINES), asked.seed, asked.top)
        print(f"tests/timing: {path.name}: {count} replies of each kind, {time.monotonic() - began:.0f} s", flush=True)
    wrong = report.write(asked.into, asked.results, "tests/timing/run " + " ".join(sys.argv[1:]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
