"""What the model never looks at: the border that it crops off, and the pixels that it skips when it makes a large picture small."""

import numpy as np
from asking import Asker
from entries import CROPPED, EVERY

from adaptive.ground import PROFILES, Figure, ask, probe

NAME = "outside the model's sight"
PROBES = 30
SEES = '\n[models."cropped"]\nsees = { crop = [32, 32] }\n'
assert CROPPED > 0


def framed(picture, random):
    """The picture inside a border that is another every time."""
    side = picture.shape[0] + 2 * CROPPED
    made = np.broadcast_to(random.integers(0, 256, 3).astype(np.uint8), (side, side, 3)).copy()
    made[:CROPPED] = random.integers(0, 256, (CROPPED, side, 3))
    made[:, -CROPPED:] = random.integers(0, 256, (side, CROPPED, 3))
    made[CROPPED:-CROPPED, CROPPED:-CROPPED] = picture
    return made


def hidden(picture, around):
    """A large picture that shows `around` to everyone but the model, which picks the pixels of `picture`."""
    made = np.repeat(np.repeat(around, EVERY, axis=0), EVERY, axis=1)
    made[EVERY // 2 :: EVERY, EVERY // 2 :: EVERY] = picture
    return made


def measure(ground):
    for profile, top in PROFILES.items():
        for name, models in {"the operator says what it sees": SEES, "nothing is said": ""}.items():
            true, of = bordered(ground, ground.world.configured(top, models))
            yield Figure(NAME, f"border drawn anew for each probe, {name}", profile, "probes answered by the model", true, of)
        address = ground.world.configured(top)
        yield Figure(
            NAME,
            "the model picks 1 of 25 pixels; the others are of another picture each time",
            profile,
            "probes answered by the model",
            *picked(ground, address),
        )
        yield Figure(
            NAME,
            "the model picks 1 of 25 pixels; the others are the first picture's",
            profile,
            "wrong label obtained",
            *swapped(ground, address),
        )


def bordered(ground, address):
    random, true, of = np.random.default_rng(ground.seed), 0, 0
    for picture in ground.pictures[: ground.count]:
        asker = Asker(address, "cropped")
        ask(asker, framed(picture, random))
        for _ in range(PROBES):
            true += ask(asker, framed(probe(picture, random), random)).asked_the_model
            of += 1
    return true, of


def picked(ground, address):
    random, true, of = np.random.default_rng(ground.seed), 0, 0
    for at, picture in enumerate(ground.pictures[: ground.count]):
        asker = Asker(address, "picked")
        ask(asker, hidden(picture, picture))
        for number in range(PROBES):
            around = ground.strangers[(at * PROBES + number) % len(ground.strangers)]
            true += ask(asker, hidden(probe(picture, random), around)).asked_the_model
            of += 1
    return true, of


def swapped(ground, address):
    """Two queries: a large picture as it is, then the same with the model's pixels out of a picture of another class."""
    wrong = of = 0
    for at, picture in enumerate(ground.pictures[: ground.count]):
        asker = Asker(address, "picked")
        other = ground.pictures[ground.of_other_class(at)]
        ask(asker, hidden(picture, picture))
        got = ask(asker, hidden(other, picture))
        wrong += got.label is not None and not got.asked_the_model and got.label != ground.label(other)
        of += 1
    return wrong, of
