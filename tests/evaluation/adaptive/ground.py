"""What every attacker here stands on: the served model, Refrain in a profile, the pictures, and the model's own word on each."""

import dataclasses
import functools

import classifiers
import data
import numpy as np
from asking import Asker, Refused
from entries import World

PROFILES = {"hardened": 'profile = "hardened"\n', "paper": 'profile = "paper"\n'}


@dataclasses.dataclass
class Figure:
    """One line of the table: of so many tries so many came off."""

    attacker: str
    variant: str
    profile: str
    counted: str
    hits: int
    of: int
    goal: float | None = None  # the most that may come off


@dataclasses.dataclass
class Reply:
    """What one question brought: no label if it was refused."""

    label: int | None
    asked_the_model: bool
    answer: object = None


class Ground:
    """Pictures of one split that the model gets right, in an order drawn from the seed."""

    def __init__(self, world, count, seed, split="report"):
        self.world, self.count, self.seed = world, count, seed
        self.random = np.random.default_rng(seed)
        self.network = classifiers.local(classifiers.CONVERTED)
        pictures, labels = data.split(split)
        order = self.random.permutation(len(pictures))
        pictures, labels = pictures[order], labels[order]
        right = self.says(pictures) == labels
        self.pictures, self.labels = pictures[right], labels[right]

    def says(self, pictures):
        """The model's own labels."""
        return np.concatenate([self.network(pictures[start : start + 256]).argmax(1) for start in range(0, len(pictures), 256)])

    def label(self, picture):
        return int(self.network(picture[np.newaxis])[0].argmax())

    def of_other_class(self, at):
        """The next picture of another class than that at `at`."""
        others = np.flatnonzero(self.labels != self.labels[at])
        return int(others[(at * 7919 + 13) % len(others)])

    @functools.cached_property
    def strangers(self):
        """Pictures that have nothing to do with any of those asked about: decoys."""
        return data.cifar("train")[0]

    def asker(self, profile, model="cifar", **more):
        return Asker(self.world.address(PROFILES.get(profile, profile)), model, **more)

    def suspected(self, profile):
        """A caller who is suspected already: he asked for near-copies of a picture outside the reuse radius until he was refused."""
        asker = self.asker(profile)
        for _ in range(400):
            if profile == "paper" or not ask(asker, noisy(self.strangers[-1], 30, self.random)).label is not None:
                return asker
        raise AssertionError("no suspicion after 400 near-copies")


def ask(asker, picture):
    try:
        answer = asker.ask(picture)
    except Refused:
        return Reply(None, False)
    return Reply(answer.label, not answer.replayed, answer)


def noisy(picture, deviation, random):
    return np.clip(np.rint(picture + random.normal(0, deviation, picture.shape)), 0, 255).astype(np.uint8)


def stripes(picture, levels, random):
    """What a Square attack begins with: vertical stripes of plus or minus so many levels in each channel."""
    signs = random.choice([-levels, levels], (1, picture.shape[1], 3))
    return np.clip(picture.astype(int) + signs, 0, 255).astype(np.uint8)


def probe(picture, random, levels=8):
    """A candidate of a score-based search within `levels` of the picture: stripes, and a square upon them."""
    made = stripes(picture, levels, random).astype(int)
    side = int(random.integers(2, 12))
    top, left = random.integers(0, picture.shape[0] - side + 1), random.integers(0, picture.shape[1] - side + 1)
    made[top : top + side, left : left + side] = picture[top : top + side, left : left + side] + random.choice([-levels, levels], 3)
    return np.clip(made, 0, 255).astype(np.uint8)


__all__ = ["PROFILES", "Figure", "Ground", "Reply", "World", "ask", "noisy", "probe", "stripes"]
