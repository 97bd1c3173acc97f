"""The budget of suspicion over time: how many true answers near one picture a caller gets in a day. Days of a few seconds here, all lives in proportion."""

import time

import numpy as np
from asking import Asker

from adaptive.ground import Figure, ask, noisy, probe

NAME = "patience"
HOUR = 0.5  # seconds
DAYS = 2
TOP = 'profile = "hardened"\n'
# 1 h, 24 h and 3 h, as by default.
STORE = f'[timing]\nmode = "off"\n[store]\nbytes = "1GiB"\nttl = "{int(1000 * HOUR)}ms"\nghost_ttl = "{int(24_000 * HOUR)}ms"\nsuspicion_decay = "{int(3000 * HOUR)}ms"\n'

WAYS = {
    "near-copies within 8/255": lambda picture, random: probe(picture, random),
    "noise 30": lambda picture, random: noisy(picture, 30, random),
}


def measure(ground):
    for name, way in WAYS.items():
        address = ground.world.configured(TOP, settings=STORE)
        random, pictures = np.random.default_rng(ground.seed), ground.pictures[: min(12, ground.count)]
        askers = [Asker(address, "cifar") for _ in pictures]
        true, of = np.zeros(DAYS + 1, int), np.zeros(DAYS + 1, int)
        began = time.monotonic()
        while (day := int((time.monotonic() - began) / (24 * HOUR))) < DAYS:
            for asker, picture in zip(askers, pictures, strict=True):
                true[day] += ask(asker, way(picture, random)).asked_the_model
                of[day] += 1
            time.sleep(HOUR / 20)
        for day in range(DAYS):
            a_day = true[day] / len(pictures)
            what = f"{name}, day {day + 1}: {a_day:.1f} true answers a picture"
            yield Figure(NAME, what, "hardened", "probes answered by the model", int(true[day]), int(of[day]))
