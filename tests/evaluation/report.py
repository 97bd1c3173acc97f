"""What a command found, written as a section of its own: results/NAME.md, NAME.json, plots beside them; and RESULTS.md out of all sections."""

import datetime
import json
import os
import pathlib
import subprocess
import sys
import time

from scipy.stats import beta

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results"

MACHINE = "2-core virtual machine, x86-64, 24 GiB"

# The sections of RESULTS.md, in the order in which they are read.
ORDER = ["classifiers", "one_pixel", "one_pixel-others", "jsma", "searches", "searches-150", "searches-10000", "searches-others", "transfer", "suspicions", "scores"]
ORDER += ["adaptive", "honest", "sweep"]


def upper(hits, of):
    """The upper end of the 95 % interval of Clopper and Pearson, one-sided: with no hit in n some 3 / n."""
    return 1.0 if hits >= of else float(beta.ppf(0.95, hits + 1, of - hits))


def share(hits, of):
    """A share as the tables write it: per cent, counts, the upper bound."""
    if not of:
        return "-"
    return f"{percent(hits / of)} ({hits} of {of}; ≤ {percent(upper(hits, of))})"


def percent(value):
    """Per cent, with more digits the smaller it is."""
    if value == 0:
        return "0 %"
    digits = 0 if value >= 0.095 else 1 if value >= 0.0095 else 3
    return f"{100 * value:.{digits}f} %"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]) + "\n"


def commit():
    def git(*words):
        return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!results/*", ":!*.md")
    return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


class Section:
    """`with Section("name", "Title", seed) as section: section.text += ...; section.data[...] = ...` writes it at the end."""

    def __init__(self, name, title, seed):
        self.name, self.title, self.seed = name, title, seed
        self.text, self.data = "", {}
        self.places = []  # where attempts were made before, which count with the time that they took then
        self.about = None  # how it was made, where that was earlier

    def __enter__(self):
        self.began, self.date, self.commit = time.monotonic(), datetime.date.today(), commit()
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.write()

    def write(self):
        """Writes what is there so far; a long command may call it after each row."""
        RESULTS.mkdir(exist_ok=True)
        command = os.environ.get("EVALUATION_COMMAND") or " ".join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]])
        about = self.about or {
            "command": command,
            "seed": self.seed,
            "commit": self.commit,
            "date": str(self.date),
            "machine": MACHINE,
            "seconds": round(time.monotonic() - self.began + sum(place.kept_seconds for place in self.places)),
        }
        made = f"`{about['command']}`, seed {about['seed']}, commit {about['commit']}, {about['date']}, {about['machine']}, {about['seconds'] / 60:.0f} min"
        (RESULTS / f"{self.name}.md").write_text(f"## {self.title}\n\n{self.text.strip()}\n\n<sub>{made}</sub>\n")
        (RESULTS / f"{self.name}.json").write_text(json.dumps({"about": about, **self.data}, default=float) + "\n")
        compose()


def compose():
    """RESULTS.md: what goes before every figure, and then the sections."""
    parts = [(HERE / "INTRODUCTION.md").read_text()] if (HERE / "INTRODUCTION.md").exists() else ["# Does it defend, and what does it cost?\n"]
    names = [path.stem for path in RESULTS.glob("*.md")]
    for name in [*ORDER, *sorted(set(names) - set(ORDER))]:
        if name in names:
            parts.append((RESULTS / f"{name}.md").read_text().replace("](", "](results/"))
    (HERE / "RESULTS.md").write_text("\n".join(parts))


if __name__ == "__main__":
    compose()
