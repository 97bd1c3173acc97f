"""Replayed and forwarded replies of equal form, in random order, as one caller sees them."""

import argparse
import contextlib
import json
import pathlib
import random
import threading

import numpy as np
from world import LOADS, other_callers, ramp, seconds_a_call, world  # first: it says where the others are

import pictures  # isort: skip
from probe import Connection  # isort: skip
from questions import question  # isort: skip

ANCHORS = 16
USER = "measures"
# Forwarded calls before the count begins: more than a stratum remembers.
WARM_UP = 64
RAMP_SECONDS = 60


class Asker:
    """Asks for pictures that were never seen, and for near-copies of a few that were."""

    def __init__(self, port, seed, user=USER):
        self.connection, self.dice = Connection(port, user), random.Random(seed)
        self.number = seed * 10_000_000
        self.anchors = [pictures.drawn(seed * 10_000_000 + 9_000_000 + at) for at in range(ANCHORS)]
        self.answers = [self.connection.ask(question(anchor)).body for anchor in self.anchors]

    def forwarded(self, timeout=None):
        self.number += 1
        seen = self.connection.ask(question(pictures.drawn(self.number)), timeout)
        assert seen.status != "0" or seen.body not in self.answers, "a new picture was answered from memory"
        return seen

    def replayed(self, timeout=None):
        self.number += 1
        at = self.dice.randrange(ANCHORS)
        seen = self.connection.ask(question(pictures.one_pixel(self.anchors[at], self.number)), timeout)
        assert seen.status != "0" or seen.body == self.answers[at], "a near-copy was answered by the model"
        return seen


@contextlib.contextmanager
def disturbance(kind, port, seed):
    """Near-copies of the same caller beside the measured calls: waiting all the time (`cap`), or taken back (`cancels`)."""
    if kind == "none":
        yield
        return
    stop, asker = threading.Event(), Asker(port, seed + 1)

    def run():
        while not stop.is_set():
            if kind == "cap":
                asker.replayed()
            else:
                asker.number += 1
                copy = pictures.one_pixel(asker.anchors[0], asker.number)
                asker.connection.cancel_after(question(copy), asker.dice.uniform(0, 0.01))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def measure(mode, load, count, seed=1, disturb="none", deadlines=None):
    """`count` replies of each path, and `deadlines` more of each (default: a tenth) that half of all miss."""
    deadlines = count // 10 if deadlines is None else deadlines
    limits = "held_per_caller = 1" if disturb == "cap" else ""
    with world(mode, limits) as (port, upstream), other_callers(port, seed) as others:
        a_call = seconds_a_call(upstream)
        rate = LOADS.get(load, 0.9) / a_call
        step = lambda: None  # noqa: E731
        if load == "ramp":
            step = ramp(others, rate, RAMP_SECONDS)
        elif rate:
            others(rate)
        asker = Asker(port, seed)
        for _ in range(WARM_UP):
            asker.forwarded()
        dice = random.Random(seed)
        with disturbance(disturb, port, seed):
            order = dice.sample([False] * count + [True] * count, 2 * count)
            replies = []
            for replayed in order:
                step()
                replies.append(asker.replayed() if replayed else asker.forwarded())
            half = np.median([seen.latency for seen in replies[-200:]])
            timeout = f"{int(half * 1e6)}u"
            late = {False: 0, True: 0}
            for replayed in dice.sample([False] * deadlines + [True] * deadlines, 2 * deadlines):
                step()
                seen = asker.replayed(timeout) if replayed else asker.forwarded(timeout)
                late[replayed] += seen.status == "4"
    about = {
        "mode": mode,
        "load": load,
        "disturb": disturb,
        "seed": seed,
        "a_call": a_call,
        "rate": rate,
        "deadlines": deadlines,
        "late_forwarded": late[False],
        "late_replayed": late[True],
    }
    return {
        "about": np.array(json.dumps(about)),
        "replayed": np.array(order),
        "latency": np.array([seen.latency for seen in replies]),
        "first": np.array([seen.first for seen in replies]),
        "size": np.array([seen.size for seen in replies]),
        "looks": np.array([seen.frames + " " + seen.headers + " " + seen.status for seen in replies]),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", default="sample", choices=["sample", "bucket", "shadow", "mean", "off"])
    parser.add_argument("--load", default="idle", choices=[*LOADS, "ramp"])
    parser.add_argument("--disturb", default="none", choices=["none", "cap", "cancels"])
    parser.add_argument("--count", type=int, default=10_000, help="replies of each path")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--into", type=pathlib.Path, required=True, help="the .npz file to write")
    asked = parser.parse_args()
    asked.into.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(asked.into, **measure(asked.mode, asked.load, asked.count, asked.seed, asked.disturb))
