"""One cell of a table: an attack on so many pictures, through one guard, each attempt by a caller of its own."""

import dataclasses
import time

import classifiers
import data
import numpy as np
import pytest
from asking import Asker
from report import percent, share, upper
from tritonclient.utils import InferenceServerException

from attacks.attempt import Attempt, Outcome, judged, seeded
from attacks.kept import Kept


@dataclasses.dataclass
class Cell:
    """All attempts of one attack through one guard."""

    outcomes: list

    def hits(self, way):
        return sum(getattr(outcome, way) for outcome in self.outcomes)

    def rate(self, way):
        return share(self.hits(way), len(self.outcomes))

    def three(self):
        """The three counts of success, as the tables write them: seen / bare / fresh, and the upper bound of the first."""
        of = len(self.outcomes)
        seen = self.hits("seen")
        ways = " / ".join(percent(self.hits(way) / of) for way in ("seen", "bare", "fresh"))
        told = f"; {self.at_once()} at once, median {self.forwards()} forwarded" if seen else ""
        return f"**{ways}** (≤ {percent(upper(seen, of))}{told})"

    def at_once(self):
        """How many were seen wrong at the attack's first picture, before it had learnt anything."""
        return sum(outcome.seen and outcome.tries <= 1 and outcome.queries <= 1 + outcome.tries for outcome in self.outcomes)

    def forwards(self):
        """The median number of forwarded queries of the attempts that were seen to succeed."""
        told = [outcome.forwarded for outcome in self.outcomes if outcome.seen]
        return f"{np.median(told):.0f}" if told else "-"

    def queries(self):
        """The median number of queries of the attempts that were seen to succeed."""
        spent = [outcome.queries for outcome in self.outcomes if outcome.seen]
        return f"{np.median(spent):.0f}" if spent else "-"

    def rows(self):
        return [dataclasses.astuple(outcome) for outcome in self.outcomes]


# What a server says that stood still for too long, or that did not come up: none of it is an attack's outcome.
BROKEN = (InferenceServerException, RuntimeError, pytest.fail.Exception)
MOST_FAILURES = 5  # in one cell

FIELDS = ["index", "seen", "bare", "fresh", "queries", "tries", "forwarded", "refused"]


class Recorded:
    """Stands where a `Ground` stood: its cells are those of an earlier run, in their order."""

    def __init__(self, cells):
        self.cells = cells

    def cell(self, *_, **__):
        return Cell([Outcome(*row) for row in next(self.cells)["outcomes"]])


class Ground:
    """A classifier, and pictures of a split that it gets right, chosen by the seed."""

    def __init__(self, world, model, images, seed, split="report"):
        self.world, self.model, self.seed = world, model, seed
        self.kept_seconds = 0.0  # what the attempts took that were made before
        self.local = classifiers.local(model)
        self.pictures, self.labels = data.split(split)
        found = np.concatenate([self.local(part).argmax(1) for part in np.array_split(self.pictures, 10)])
        right = np.flatnonzero(found == self.labels)
        self.chosen = np.random.default_rng(seed).permutation(right)[:images]

    def target(self, index):
        """Another class than the picture's own, by the seed."""
        return int((self.labels[index] + 1 + np.random.default_rng([self.seed, int(index)]).integers(9)) % 10)

    def cell(self, named, guard, attack, within, budget, clean=True, targeted=False):
        """All attempts of the attack that is `named` so; one during which the server broke is made again on a new one."""
        text = self.world.text(guard)
        kept = Kept(self.model, guard, text, attack=named, budget=budget, clean=clean, targeted=targeted, seed=self.seed)
        outcomes, failures = [], 0
        while len(outcomes) < len(self.chosen):
            index = int(self.chosen[len(outcomes)])
            if index in kept.known:
                row, seconds = kept.known[index]
                outcomes.append(Outcome(*row))
                self.kept_seconds += seconds
                continue
            began = time.monotonic()
            try:
                outcomes.append(self.attempted(index, guard, attack, within, budget, clean, targeted))
            except BROKEN as failure:
                failures += 1
                if failures > MOST_FAILURES or "mistake in the configuration" in str(failure):
                    raise
                print(f"starting again after: {failure}", flush=True)
                self.world.again()
                continue
            kept.add(dataclasses.astuple(outcomes[-1]), time.monotonic() - began)
        return Cell(outcomes)

    def attempted(self, index, guard, attack, within, budget, clean, targeted):
        seeded(self.seed, index)
        address = self.world.address(guard)
        asker = Asker(address, self.model, budget=budget)
        target = self.target(index) if targeted else None
        attempt = Attempt(asker, self.pictures[index], self.labels[index], within, target, clean)
        ended = attempt.run(attack)
        return judged(attempt, index, ended, self.local, address)
