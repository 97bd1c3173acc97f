"""How a result is written down: results/NAME.md, .json and .png, each with what made it, and how sure a rate is."""

import datetime
import json
import pathlib
import subprocess
import sys
import time

from scipy.stats import beta

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "evaluation" / "results"
MACHINE = "2-core virtual machine, x86-64, 24 GiB"
_began = time.monotonic()


def upper(hits, of):
    """The upper 95 % bound of a rate (Clopper-Pearson, one-sided); nothing asked is nothing known."""
    return 1.0 if of == 0 or hits >= of else float(beta.ppf(0.95, hits + 1, of - hits))


def rate(hits, of):
    """A rate with its bound, as tables show it."""
    if of == 0:
        return "-"
    return f"{percent(hits / of)} ({hits:,} of {of:,}; ≤ {percent(upper(hits, of))})"


def percent(share):
    """Two digits that say something: 12 %, 1.2 %, 0.012 %."""
    value = 100 * share
    digits = 0 if value == 0 or value >= 10 else 1 if value >= 1 else 2 if value >= 0.1 else 3
    return f"{value:.{digits}f} %"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]) + "\n"


def write(name, title, text, figures, seed, figure=None):
    """Writes the three files; `figures` is everything that the text says, for machines."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    command = "tests/evaluation/run " + " ".join([pathlib.Path(sys.argv[0]).stem, *sys.argv[1:]])
    about = {
        "command": command,
        "seed": seed,
        "commit": commit,
        "date": str(datetime.date.today()),
        "machine": MACHINE,
        "minutes": round((time.monotonic() - _began) / 60, 1),
    }
    said = f"`{command}`, seed {seed}, commit {commit}, {about['date']}, {MACHINE}, {about['minutes']} min."
    picture = f"\n![{title}]({name}.png)\n" if figure is not None else ""
    (RESULTS / f"{name}.md").write_text(f"## {title}\n\n{said}\n\n{text.strip()}\n{picture}")
    (RESULTS / f"{name}.json").write_text(json.dumps({"about": about, "figures": figures}, indent=1) + "\n")
    if figure is not None:
        figure.savefig(RESULTS / f"{name}.png", dpi=110)
