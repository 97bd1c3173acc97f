"""Two queries, no search: a doctored copy first, then the picture itself. Is the doctored copy's label given for it? And the other way round."""

import colorsys

import numpy as np
from PIL import Image

from adaptive.ground import PROFILES, Figure, ask, noisy

NAME = "two queries"
PATCHES = [0.01, 0.02, 0.029, 0.05, 0.09]


def patch(share, other):
    """A square of that share of the picture: of one colour, or cut out of a picture of another class."""

    def doctored(picture, stranger, random):
        side = max(1, round(np.sqrt(share * picture.shape[0] * picture.shape[1])))
        top, left = random.integers(0, picture.shape[0] - side + 1, 2)
        made = picture.copy()
        middle = (picture.shape[0] - side) // 2
        fill = stranger[middle : middle + side, middle : middle + side] if other else random.integers(0, 256, 3)
        made[top : top + side, left : left + side] = fill
        return made

    return doctored


def mosaic(picture, stranger, random):
    small = Image.fromarray(picture).resize((8, 8), Image.BOX)
    return np.asarray(small.resize(picture.shape[1::-1], Image.NEAREST))


def noise(deviation):
    return lambda picture, stranger, random: noisy(picture, deviation, random)


def grey(picture, stranger, random):
    return np.asarray(Image.fromarray(picture).convert("L").convert("RGB"))


def contrast(share):
    def doctored(picture, stranger, random):
        return np.rint(picture.mean() + (picture - picture.mean()) * share).astype(np.uint8)

    return doctored


def hue(picture, stranger, random):
    """Every colour replaced by the opposite one of the same lightness."""
    turned = [
        colorsys.hls_to_rgb((h + 0.5) % 1, lightness, s)
        for h, lightness, s in (colorsys.rgb_to_hls(*p) for p in picture.reshape(-1, 3) / 255)
    ]
    return np.rint(np.array(turned) * 255).astype(np.uint8).reshape(picture.shape)


TRICKS = {
    f"{100 * share:g} % patch, {'another class' if other else 'flat'}": patch(share, other) for share in PATCHES for other in (False, True)
}
TRICKS |= {
    "8 x 8 mosaic": mosaic,
    "noise 15": noise(15),
    "noise 30": noise(30),
    "grey": grey,
    "contrast 1/2": contrast(0.5),
    "contrast 1/4": contrast(0.25),
    "hue": hue,
}


def measure(ground):
    for profile in PROFILES:
        for suspected in [False, True] if profile == "hardened" else [False]:
            for name, trick in TRICKS.items():
                yield from doctor(ground, profile, suspected, name, trick)


def doctor(ground, profile, suspected, name, trick):
    """The better order of the two. Asked are only those pictures whose doctored copy the model sees as something else: elsewhere no other label is to be had."""
    random = np.random.default_rng(ground.seed)
    hits, of, tried = {"doctored first": 0, "clean first": 0}, 0, 0
    shared = {order: ground.suspected(profile) for order in hits} if suspected else {}
    for at in range(min(len(ground.pictures), 40 * ground.count)):
        if of >= ground.count:
            break
        picture, label, tried = ground.pictures[at], ground.labels[at], at + 1
        doctored = trick(picture, ground.pictures[ground.of_other_class(at)], random)
        if ground.label(doctored) == label:
            continue
        of += 1
        for order, (first, second) in {"doctored first": (doctored, picture), "clean first": (picture, doctored)}.items():
            asker = shared.get(order) or ground.asker(profile)
            given = ask(asker, first)
            got = ask(asker, second)
            hits[order] += got.label is not None and not got.asked_the_model and got.label == given.label != ground.label(second)
    meets = profile if profile == "paper" else f"{profile}, {'suspected' if suspected else 'before suspicion'}"
    yield Figure(NAME, name, meets, "wrong label obtained, of all pictures", max(hits.values()), tried, 0.01)
    yield Figure(NAME, name, meets, "of those whose doctored copy has another label", max(hits.values()), of)
