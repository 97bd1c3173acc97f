"""Attempts and crafted pictures that were made before: kept under target/evaluation/ by all that they depend on, so that a run that was cut
short goes on where it ended, and a larger one adds to a smaller."""

import functools
import hashlib
import json

import numpy as np
from classifiers import ROOT, path
from world import PROGRAM

HERE = ROOT / "tests" / "evaluation"
FOLDER = ROOT / "target" / "evaluation" / "kept"

# What decides how an attempt goes, beside the program and the model.
SOURCES = [*(f"attacks/{name}.py" for name in ("attempt", "library", "norms", "saliency", "transfer")), "asking.py", "classifiers/served/model.py"]


@functools.cache
def digest(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def key(*about):
    return hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()[:24]


class Kept:
    """The outcomes of one cell by the picture's index: `None` where the attempt was not made yet."""

    def __init__(self, model, guard, text, **about):
        program = None if guard == "bare" else digest(PROGRAM)
        sources = [digest(HERE / source) for source in SOURCES]
        self.file = FOLDER / f"{key(digest(path(model)), program, text, sources, sorted(about.items()))}.jsonl"
        self.known = {}
        if self.file.exists():
            for line in self.file.read_text().splitlines():
                row, seconds = json.loads(line)
                self.known[row[0]] = row, seconds

    def add(self, row, seconds):
        FOLDER.mkdir(parents=True, exist_ok=True)
        with open(self.file, "a") as file:
            file.write(json.dumps([row, round(seconds, 3)]) + "\n")


def crafted(about, make):
    """A picture that took work to make and needed no query, or `None` where there is none."""
    file = FOLDER / f"{key(*about)}.npy"
    if not file.exists():
        made = make()
        FOLDER.mkdir(parents=True, exist_ok=True)
        np.save(file, np.zeros(0) if made is None else made)
    made = np.load(file)
    return made if made.size else None
