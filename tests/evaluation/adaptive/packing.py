"""Probes packed into one call: every row of a batch must be judged as if it came alone."""

import numpy as np
from asking import Refused

from adaptive.ground import Figure, ask, probe

NAME = "batch packing"
PROBES = 48


def measure(ground):
    for profile in ("hardened", "paper"):
        for together in (1, 4, 16):
            random, true, of = np.random.default_rng(ground.seed), 0, 0
            for picture in ground.pictures[: ground.count]:
                asker = ground.asker(profile)
                probes = np.stack([picture] + [probe(picture, random) for _ in range(PROBES - 1)])
                for start in range(0, PROBES, together):
                    true += answered(asker, probes[start : start + together])
                of += PROBES - 1
                true -= 1  # the picture itself
            yield Figure(
                NAME, f"{together} in a call", profile, "probes answered by the model", true, of, 0.02 if profile == "hardened" else None
            )


def answered(asker, probes):
    if len(probes) == 1:
        return ask(asker, probes[0]).asked_the_model
    try:
        return sum(not answer.replayed for answer in asker.ask_together(probes))
    except Refused:
        return 0
