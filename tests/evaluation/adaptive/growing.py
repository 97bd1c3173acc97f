"""A search that tells replays from answers by itself (a replay repeats scores that were seen) and makes its next step larger until it is answered."""

import numpy as np

from adaptive.ground import Figure, ask

NAME = "growing steps"
BUDGET = 300
LEVELS = (8, 16, 24)
GROWS, SHRINKS = 1.5, 0.8


def proposal(picture, change, share, levels, random):
    """The change so far, with squares over about such a share of the picture drawn anew; all of it from 1 on."""
    side = picture.shape[0]
    if share >= 1:
        return random.choice([-levels, levels], (1, side, 3)) * np.ones((side, 1, 1), int)
    made = change.copy()
    for _ in range(max(1, round(share * 16))):
        edge = max(2, side // 4)
        top, left = random.integers(0, side - edge + 1, 2)
        made[top : top + edge, left : left + edge] = random.choice([-levels, levels], 3)
    return made


def margin(scores, label):
    logs = np.log(np.maximum(scores, 1e-12))
    return float(logs[label] - np.delete(logs, label).max())


def search(asker, picture, label, levels, random):
    """Whether a wrong label was seen within the norm, and how many answers were the model's as the attacker counts them."""
    known, change, best, share = set(), np.zeros(picture.shape, int), np.inf, 0.1
    known.add(ask(asker, picture).answer.probabilities.tobytes())
    for _ in range(BUDGET):
        tried = proposal(picture, change, share, levels, random)
        reply = ask(asker, np.clip(picture + tried, 0, 255).astype(np.uint8))
        if reply.label is not None and reply.label != label:
            return True
        if reply.answer is None or reply.answer.probabilities.tobytes() in known:
            share = min(1.0, share * GROWS)
            continue
        known.add(reply.answer.probabilities.tobytes())
        share = max(1 / 16, share * SHRINKS)
        if (here := margin(reply.answer.probabilities, label)) < best:
            change, best = tried, here
    return False


def measure(ground):
    for profile in ("bare", "hardened", "paper"):
        for levels in LEVELS:
            random, success, answered, asked = np.random.default_rng(ground.seed), 0, 0, 0
            for picture, label in zip(ground.pictures[: ground.count], ground.labels, strict=False):
                asker = ground.asker(profile)
                success += search(asker, picture, label, levels, random)
                answered, asked = answered + asker.forwarded - 1, asked + asker.asked - 1
            what = f"within {levels}/255, {BUDGET} probes"
            yield Figure(NAME, what, profile, "attack succeeds", success, ground.count, 0.02 if profile == "hardened" else None)
            yield Figure(NAME, what, profile, "probes answered by the model", answered, asked)
