"""A small part of the evaluation that every `tests/run` makes: four attacks of 1,000 queries on a classifier that nobody here
trained, on 20 labelled pictures out of a package, over real gRPC. Nothing is fetched or trained for it.

Each bound fails where the defence is off: `REFRAIN_SMOKE_GUARD=off` shows it.
"""

import itertools
import os

import classifiers
import data
import numpy as np
import pytest
from asking import Asker, Refused
from attacks import library, norms
from attacks.attempt import Attempt, judged, seeded
from world import World

GUARD = os.environ.get("REFRAIN_SMOKE_GUARD", "hardened")
BUDGET, SEED = 1_000, 1
LEAST = 3  # pictures that the bare model loses to each attack; no more of them are tried than it takes to show it

# By name: the attack, its norm, the budget within which the bare model is to lose.
ATTACKS = {
    "Square": (library.square(8), norms.linf(8), 200),
    "SimBA": (library.simba, norms.l2(), 300),
    "one-pixel": (library.one_pixel(5), norms.pixels(5), 400),
    "Boundary": (library.boundary, norms.l2(), BUDGET),
}


@pytest.fixture(scope="module")
def world():
    with World([classifiers.CONVERTED]) as world:
        yield world


@pytest.fixture(scope="module")
def right():
    """The pictures that the bare model gets right, with their labels."""
    pictures, labels = data.samples()
    found = classifiers.local(classifiers.CONVERTED)(pictures).argmax(1)
    assert (found == labels).sum() >= 15, "the converted classifier is worse than it was"
    return [(picture, label) for picture, label, one in zip(pictures, labels, found, strict=True) if one == label]


def outcomes(world, right, guard, name, budget):
    """What came of each attempt, one after another."""
    attack, within, _ = ATTACKS[name]
    local = classifiers.local(classifiers.CONVERTED)
    for index, (picture, label) in enumerate(right):
        seeded(SEED, index)
        attempt = Attempt(Asker(world.address(guard), classifiers.CONVERTED, budget=budget), picture, label, within)
        yield judged(attempt, index, attempt.run(attack), local, world.address(guard))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_that_beats_the_bare_model_learns_nothing(world, right, name):
    guarded = list(outcomes(world, right, GUARD, name, BUDGET))
    assert sum(each.seen for each in guarded) == 0, guarded
    assert sum(each.forwarded for each in guarded) <= 0.02 * sum(each.queries for each in guarded), guarded
    seen = (each.seen for each in outcomes(world, right, "bare", name, ATTACKS[name][2]))
    assert sum(itertools.islice(filter(None, seen), LEAST)) == LEAST, f"the bare model withstands {name}"


def test_different_pictures_are_all_forwarded_and_answered_as_by_the_model(world, right):
    asker, local = Asker(world.address(GUARD), classifiers.CONVERTED), classifiers.local(classifiers.CONVERTED)
    for picture, _ in right:
        answer = asker.ask(picture)
        assert not answer.replayed and answer.label == local(picture[np.newaxis])[0].argmax()
    assert asker.refused == 0


def test_an_exact_retry_has_the_same_answer_and_the_model_is_not_asked(world, right):
    asker = Asker(world.address(GUARD), classifiers.CONVERTED)
    first = [asker.ask(picture) for picture, _ in right[:5]]
    again = [asker.ask(picture) for picture, _ in right[:5]]
    for one, two in zip(first, again, strict=True):
        assert two.replayed and np.array_equal(one.probabilities, two.probabilities)


def test_coarse_noise_around_a_known_picture_is_refused_at_once(world, right):
    """Too far to be answered from memory, too near to be another picture: one such call is a suspicion, and one is too many."""
    dice = np.random.default_rng(SEED)
    for picture, _ in right[:5]:
        asker = Asker(world.address(GUARD), classifiers.CONVERTED)
        asker.ask(picture)
        noisy = np.clip(picture + dice.normal(0, 20, picture.shape), 0, 255).astype(np.uint8)
        with pytest.raises(Refused):
            asker.ask(noisy)
