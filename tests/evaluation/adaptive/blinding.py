"""A search whose every probe is turned, shifted or noised at random, so that it does not look like the others. How many probes does the model answer?"""

import numpy as np
from PIL import Image, ImageEnhance

from adaptive.ground import Figure, ask, noisy, probe

NAME = "blinding"
PROBES = 30


def flipped(picture, random):
    return np.ascontiguousarray(picture[:, ::-1])


def upside_down(picture, random):
    return np.ascontiguousarray(picture[::-1])


def turned(most):
    return lambda picture, random: np.asarray(Image.fromarray(picture).rotate(random.uniform(-most, most), Image.BILINEAR))


def shifted(most):
    return lambda picture, random: np.roll(picture, tuple(random.integers(-most, most + 1, 2)), (0, 1))


def cropped(least):
    def crop(picture, random):
        side = int(round(picture.shape[0] * random.uniform(least, 1)))
        left, top = random.integers(0, picture.shape[0] - side + 1, 2)
        return np.asarray(Image.fromarray(picture).crop((left, top, left + side, top + side)).resize(picture.shape[1::-1], Image.BILINEAR))

    return crop


def lit(most):
    return lambda picture, random: np.asarray(ImageEnhance.Brightness(Image.fromarray(picture)).enhance(random.uniform(1 - most, 1 + most)))


def noised(deviation):
    return lambda picture, random: noisy(picture, deviation, random)


def drowned(share):
    """A share of uniform noise in place of the picture, as HopSkipJump begins."""

    def drown(picture, random):
        blend = (1 - share) * picture + share * random.uniform(0, 255, picture.shape)
        return np.rint(blend).astype(np.uint8)

    return drown


def chain(*parts):
    def all_of(picture, random):
        for part in parts:
            picture = part(picture, random)
        return picture

    return all_of


def maybe(part):
    return lambda picture, random: part(picture, random) if random.random() < 0.5 else picture


TRANSFORMS = {
    "none": lambda picture, random: picture,
    "flip": flipped,
    "upside down": upside_down,
    "rotation ≤ 5°": turned(5),
    "rotation ≤ 10°": turned(10),
    "rotation ≤ 20°": turned(20),
    "shift ≤ 2 px": shifted(2),
    "shift ≤ 4 px": shifted(4),
    "crop ≥ 90 %": cropped(0.9),
    "crop ≥ 80 %": cropped(0.8),
    "brightness ± 20 %": lit(0.2),
    "brightness ± 50 %": lit(0.5),
    "noise 10": noised(10),
    "noise 20": noised(20),
    "noise 40": noised(40),
    "a fifth of noise": drowned(0.2),
    "a third of noise": drowned(1 / 3),
    "shift ≤ 3 px and flip at random": chain(shifted(3), maybe(flipped)),
    "rotation ≤ 15°, crop ≥ 80 %, flip at random": chain(turned(15), cropped(0.8), maybe(flipped)),
}


def measure(ground):
    """The clean picture first; then probes whose label survives the transform: the others tell a search nothing."""
    for profile in ("hardened", "paper"):
        for name, transform in TRANSFORMS.items():
            random, true, of, first, firsts = np.random.default_rng(ground.seed), 0, 0, 0, 0
            for picture, label in zip(ground.pictures[: ground.count], ground.labels, strict=False):
                asker = ground.asker(profile)
                ask(asker, picture)
                for number in range(PROBES):
                    sent = transform(probe(picture, random), random)
                    if ground.label(sent) != label:
                        continue
                    answered = ask(asker, sent).asked_the_model
                    true, of = true + answered, of + 1
                    if number == 0:
                        first, firsts = first + answered, firsts + 1
            yield Figure(
                NAME,
                f"{name}, {PROBES} probes a picture",
                profile,
                "probes answered by the model",
                true,
                of,
                0.02 if profile == "hardened" else None,
            )
            yield Figure(NAME, f"{name}, the first probe", profile, "probes answered by the model", first, firsts)
