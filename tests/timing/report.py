"""Runs of `measure.py` into a table and a plot: `report.py FOLDER INTO` reads every .npz of the folder."""

import argparse
import datetime
import os
import pathlib
import platform
import subprocess

import matplotlib
import numpy as np
from distinguish import judge, load

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

MODES = ["off", "mean", "sample", "bucket", "shadow"]
CONTROLS = [0.0001, 0.0003]
HEAD = (
    "| mode | load | beside it | replies each | KS D (chance) | AUC | N* (least) | audit rejects | p50 / p95 / p99 | looks AUC | deadlines missed, forwarded / replayed |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|\n"
)


def number(value):
    return "not reached" if not np.isfinite(value) else f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def row(about, verdict, name=None):
    late = [f"{100 * about[key] / about['deadlines']:.1f} %" if about["deadlines"] else "-" for key in ("late_forwarded", "late_replayed")]
    cells = [
        name or about["mode"],
        about["load"],
        about["disturb"],
        f"{verdict.replies:,}",
        f"{verdict.ks:.3f} ({verdict.ks_by_chance:.3f})",
        f"{verdict.auc:.3f} ± {verdict.auc_error:.3f}",
        f"{number(verdict.n_star)} ({number(verdict.n_star_least)})",
        f"{100 * verdict.audit:.1f} %",
        " / ".join(f"{ratio:.3f}" for ratio in verdict.ratios),
        f"{verdict.looks:.3f}",
        " / ".join(late) if name is None else "-",
    ]
    return "| " + " | ".join(cells) + " |\n"


def plot(runs, into):
    figure, axes = pyplot.subplots(len(runs), 1, figsize=(8, 2.1 * len(runs)), squeeze=False)
    for (about, run), axis in zip(runs, axes[:, 0], strict=True):
        replayed, latency = run["replayed"].astype(bool), 1000 * run["latency"]
        edges = np.linspace(0, np.percentile(latency, 99), 120)
        axis.hist(latency[~replayed], edges, density=True, histtype="step", label="forwarded")
        axis.hist(latency[replayed], edges, density=True, histtype="step", label="replayed")
        axis.set_title(f"{about['mode']}, {about['load']}, beside it: {about['disturb']}", fontsize=9)
        axis.set_yticks([])
    axes[0, 0].legend(fontsize=8)
    axes[-1, 0].set_xlabel("latency, ms")
    figure.tight_layout()
    figure.savefig(into)


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} x {cpu}"


def main(folder, into):
    runs = []
    for path in sorted(folder.glob("*.npz")):
        run, about = load(path)
        runs.append((about, run))
    runs.sort(key=lambda pair: (pair[0]["disturb"] != "none", ["idle", "half", "most", "ramp"].index(pair[0]["load"]), MODES.index(pair[0]["mode"])))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    a_call = np.median([about["a_call"] for about, _ in runs])
    text = (
        "# Replayed against forwarded replies, as one caller sees them\n\n"
        f"{datetime.date.today()}, commit {commit}, {machine()}; client, Refrain, Triton and the other callers on the same cores. "
        f"The model answers one call in {1000 * a_call:.1f} ms. Made by `tests/timing/run`; README.md says what each column is.\n\n" + HEAD
    )
    for about, run in runs:
        text += row(about, judge(run))
        if about["mode"] == "sample" and about["load"] == "idle" and about["disturb"] == "none":
            for added in CONTROLS:
                text += row(about, judge(run, added), f"sample, forwarded + {1000 * added:.1f} ms (control)")
    into.mkdir(parents=True, exist_ok=True)
    (into / "RESULTS.md").write_text(text)
    plot(runs, into / "latencies.svg")
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("into", type=pathlib.Path)
    asked = parser.parse_args()
    main(asked.folder, asked.into)
