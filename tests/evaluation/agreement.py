"""Does rule.py rule as the sidecar does? Pairs and whole sequences, put to both; `sweep.py` and `adaptive/at_home.py` rest on it."""

import argparse
import sys

import data
import numpy as np
from asking import Asker, Refused
from decisions import ADMIN, Decisions
from entries import World
from honest.kinds import augmentations, faded
from report import Section, table
from rule import FORWARD, REFUSE, REPLAY, Likenesses, Rules, Session

WORDS = {"forward": FORWARD, "replay": REPLAY, "refuse": REFUSE}


def copies(picture, random):
    """Near-copies of all sorts, from what no rule could miss to what none could catch."""
    noise = lambda deviation: np.clip(picture + random.normal(0, deviation, picture.shape), 0, 255).astype(np.uint8)  # noqa: E731
    pixel, patch = picture.copy(), picture.copy()
    pixel[random.integers(0, 32), random.integers(0, 32)] = random.integers(0, 256, 3)
    top, left, side = *random.integers(0, 24, 2), random.integers(3, 9)
    patch[top : top + side, left : left + side] = random.integers(0, 256, 3)
    shift = np.roll(picture, tuple(random.integers(-2, 3, 2)), (0, 1))
    made = [pixel, patch, shift, noise(3), noise(10), noise(25), *augmentations(picture, random)]
    return made + [copy[0] for copy in faded([picture], random.uniform(0.2, 0.9), random.integers(0, 256))]


def sequence(pictures, random, rows):
    """What one caller asks: new pictures and near-copies of a few, repeats among them."""
    asked = [pictures[0]]
    for _ in range(rows - 1):
        draw = random.random()
        if draw < 0.3:
            asked.append(pictures[random.integers(0, len(pictures))])
        elif draw < 0.4:
            asked.append(asked[random.integers(0, len(asked))])
        else:
            made = copies(pictures[random.integers(0, 6)], random)
            asked.append(made[random.integers(0, len(made))])
    return np.stack(asked)


def sequences(args):
    """Pairs first, then longer pasts: each an array of pictures."""
    random = np.random.default_rng(args.seed)
    pictures, _ = data.split("tuning")
    for number in range(args.images):
        picture = pictures[random.integers(0, len(pictures))]
        made = copies(picture, random)
        yield np.stack([picture, made[number % len(made)]])
    for _ in range(4):
        chosen = pictures[random.permutation(len(pictures))[:400]]
        yield sequence(chosen, random, 500)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=360)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rows, wrong = [], 0
    title = "Does the numpy copy of the rule agree with the sidecar?"
    with Section("agreement", title, args.seed) as section, World("cifar") as world:
        for profile in ("hardened", "paper"):
            address = world.configured(f'profile = "{profile}"\n', ADMIN)
            says = Decisions(world.proxies.started[-1])
            asked = agreed = same_reason = 0
            for pictures in sequences(args):
                rules = Rules(profile=profile)
                session, asker = Session(Likenesses(pictures, rules), rules), Asker(address, "cifar")
                for number, picture in enumerate(pictures):
                    ours = session.judge(number)
                    try:
                        asker.ask(picture)
                    except Refused:
                        pass
                    ((ruling, reason),) = says.since()
                    asked += 1
                    agreed += WORDS[ruling] == ours.ruling
                    same_reason += (WORDS[ruling], reason) == (ours.ruling, ours.reason)
                    if WORDS[ruling] != ours.ruling or reason != ours.reason:
                        print("differs:", profile, number, len(pictures), ruling, reason, ours, file=sys.stderr)
            wrong += asked - agreed
            rows.append([profile, f"{asked:,}", f"{agreed:,}", f"{same_reason:,}"])
            section.data[profile] = {"rows": asked, "same ruling": agreed, "same reason": same_reason}
        section.text = table(["profile", "rows", "same ruling", "same ruling and reason"], rows)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
