"""Other pictures between two probes, to flush the memory: each once, each twice, or each with a near-copy of its own, which makes it a hit anchor."""

import numpy as np
from asking import Asker, Refused, Spent
from attacks import library, norms
from attacks.attempt import Attempt

from adaptive.ground import Figure, ask, noisy, probe

NAME = "decoys"
BETWEEN = [0, 1, 10, 100, 128, 256]
FLUSH = 1_200  # beyond what the defaults remember: 128 anchors and 1,024 ghosts
PROBES = 16
# Searches with decoys before each probe: who is asked, decoys, probes, and the share of the pictures.
SEARCHES = [
    *(("bare", 0, 10_000, 1), ("hardened", 0, 10_000, 1), ("hardened", 1, 10_000, 1 / 2), ("hardened", 10, 1_000, 1 / 2)),
    *(("hardened", 128, 100, 1 / 2), ("paper", 0, 1_000, 1), ("paper", 1, 1_000, 1)),
]
TOGETHER = 16  # decoys go in batches: nobody waits for their answers


def send(asker, pictures):
    for start in range(0, len(pictures), TOGETHER):
        together = pictures[start : start + TOGETHER]
        try:
            asker.ask_together(together)
        except Refused:  # one of them was suspect, and the call was refused as a whole
            for picture in together:
                ask(asker, picture)


class Flushing(Asker):
    """A caller who sends so many decoys before each question; they do not count against his budget."""

    def __init__(self, *about, strangers, between, **more):
        super().__init__(*about, **more)
        self.decoys, self.between = Asker(self.address, self.model, caller=self.caller), between
        self.strangers, self.at = strangers, 0

    def ask(self, picture):
        if self.budget is not None and self.asked >= self.budget:
            raise Spent
        send(self.decoys, self.strangers[(self.at + np.arange(self.between)) % len(self.strangers)])
        self.at += self.between
        return super().ask(picture)


def searched(ground, profile, between, probes, pictures):
    """A Square attack of 8/255 with decoys before each of its probes, which alone count."""
    success = 0
    for picture, label in zip(ground.pictures[:pictures], ground.labels, strict=False):
        np.random.seed(ground.seed)
        address = ground.world.address("bare" if profile == "bare" else f'profile = "{profile}"\n')
        asker = Flushing(address, "cifar", strangers=ground.strangers, between=between, budget=probes)
        attempt = Attempt(asker, picture, label, norms.linf(8))
        attempt.run(library.square(8))
        success += attempt.adversary is not None
    return success, pictures


def measure(ground):
    for profile, between, probes, part in SEARCHES:
        pictures = max(2, int(part * ground.count / 5))
        what = f"Square 8/255, {probes:,} probes, {between} decoys before each"
        yield Figure(NAME, what, profile, "attack succeeds", *searched(ground, profile, between, probes, pictures))
    plans = [(between, way) for between in BETWEEN for way in (["once", "twice", "and a near-copy"] if between else ["once"])]
    plans += [(FLUSH, "once")]
    for profile in ("hardened", "paper"):
        for between, way in plans if profile == "hardened" else [(0, "once"), (1, "once")]:
            pictures = max(1, ground.count // (1 if between < 100 else 8 if between < FLUSH else 20))
            true, of = flushed(ground, profile, between, way, pictures)
            what = f"{between:,} decoys between probes, {way}" if between else "no decoys"
            yield Figure(NAME, what, profile, "probes answered by the model", true, of)


def flushed(ground, profile, between, way, pictures):
    random, true, of, at = np.random.default_rng(ground.seed), 0, 0, 0
    for picture in ground.pictures[:pictures]:
        asker = ground.asker(profile)
        ask(asker, picture)
        for _ in range(PROBES if between < FLUSH else 4):
            decoys = ground.strangers[(at + np.arange(between)) % len(ground.strangers)]
            at += between
            if way == "twice":
                decoys = np.repeat(decoys, 2, axis=0)
            elif way == "and a near-copy":
                decoys = np.stack([each for decoy in decoys for each in (decoy, noisy(decoy, 2, random))])
            send(asker, decoys)
            true += ask(asker, probe(picture, random)).asked_the_model
            of += 1
    return true, of
