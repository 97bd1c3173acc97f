"""Honest callers by kind: each is a list of sessions, each session the pictures that one caller asks about, in order."""

import dataclasses
import functools
import io
from collections.abc import Callable

import data
import numpy as np
from honest.drawn import SIDE, blank, drawn, gradient, icon, page
from PIL import Image, ImageEnhance

TAKEN = 34_000  # of the training images, by `lenet_part`
SESSION = 1_024  # rows of one caller where nothing else limits them


@dataclasses.dataclass(frozen=True)
class Kind:
    """`made(count, seed)` gives sessions of about so many rows in all; `model` is who is asked; `goal` the share of wrong answers allowed."""

    name: str
    model: str
    goal: float | None
    about: str
    made: Callable


def sessions(pictures, rows=SESSION):
    return [pictures[start : start + rows] for start in range(0, len(pictures), rows)]


# CIFAR-10, 32 x 32


def in_order(count, seed, split="report"):
    return sessions(data.split(split)[0][:count], 2_500)


def shuffled(count, seed, split="report"):
    """Every session is another order of the split, cut off after `SESSION` rows."""
    pictures, _ = data.split(split)
    orders = [
        np.random.default_rng([seed, number]).permutation(len(pictures))[:SESSION] for number in range(max(1, round(count / SESSION)))
    ]
    return [pictures[order] for order in orders]


def training(count, seed):
    pictures, _ = data.cifar("train")
    order = np.random.default_rng(seed).permutation(len(pictures))[:count]
    return sessions(pictures[order])


def held_out(count, seed):
    """Training images that `lenet_part` was not trained on."""
    pictures = data.cifar("train")[0][TAKEN:]
    return sessions(pictures[np.random.default_rng(seed).permutation(len(pictures))[:count]])


def dimmed(share, towards):
    """Pictures at a share of their contrast, drawn towards one level: night towards 8, fog towards 200."""

    def made(count, seed):
        return sessions(np.concatenate(faded(data.split("report")[0][:count], share, towards)))

    return made


def faded(pictures, share, towards):
    return [np.round(picture * share + towards * (1 - share)).astype(np.uint8)[None] for picture in pictures]


# Photographs, 224 x 224


@functools.cache
def photographs():
    """Every photograph once, to the last byte."""
    found = [data.squared(picture, SIDE) for _, picture in sorted(data.photos().items())] + labelled()
    return list({picture.tobytes(): picture for picture in found}.values())


def labelled():
    folder = data._package("foolbox") / "data"
    return [data.squared(np.asarray(Image.open(file).convert("RGB")), SIDE) for file in sorted(folder.glob("imagenet_*.jpg"))]


@functools.cache
def cut():
    """Squares cut out of large photographs side by side."""
    found = []
    for _, picture in sorted(data.photos().items()):
        edge = max(SIDE, min(picture.shape[:2]) // 6)
        for top in range(0, picture.shape[0] - edge + 1, edge):
            for left in range(0, picture.shape[1] - edge + 1, edge):
                found.append(data.squared(picture[top : top + edge, left : left + edge], SIDE))
    return found


def tiles(count, seed):
    """Parts of one large picture, as maps and scans are asked about."""
    found = cut()
    order = np.random.default_rng(seed).permutation(len(found))[:count]
    return sessions(np.stack([found[at] for at in order]))


def all_photographs(count, seed):
    found = photographs()
    order = np.random.default_rng(seed).permutation(len(found))[:count]
    return [np.stack([found[at] for at in order])]


def each(changes):
    """Every photograph followed by what a caller makes of it."""

    def made(count, seed):
        random = np.random.default_rng(seed)
        rows = [row for picture in photographs() for row in (picture, *changes(picture, random))]
        return sessions(np.stack(rows)[:count])

    return made


def again(picture, random):
    return [picture, picture]


def _file(picture, kind, **options):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return np.asarray(Image.open(file).convert("RGB"))


def recompressed(picture, random):
    return [_file(picture, "JPEG", quality=quality) for quality in (95, 85, 70, 50, 30)] + [_file(picture, "WEBP", quality=75)]


def resized(picture, random):
    """Through another size and back, as a gateway or a thumbnailer does."""
    image = Image.fromarray(picture)
    through = [(256, Image.BILINEAR), (180, Image.BICUBIC), (112, Image.BILINEAR), (112, Image.NEAREST)]
    return [np.asarray(image.resize((side, side), how).resize((SIDE, SIDE), how)) for side, how in through]


def augmented(picture, random):
    """What test-time augmentation sends: the caller wants the model's own word on each."""
    return augmentations(picture, random)


def augmentations(picture, random):
    image, side = Image.fromarray(picture), picture.shape[0]
    inner = side - max(2, side // 10)
    left, top = random.integers(0, side - inner + 1, 2)
    return [
        np.asarray(image.transpose(Image.FLIP_LEFT_RIGHT)),
        np.asarray(image.crop((left, top, left + inner, top + inner)).resize((side, side), Image.BILINEAR)),
        np.asarray(image.rotate(random.uniform(-10, 10), Image.BILINEAR)),
        np.asarray(ImageEnhance.Brightness(image).enhance(random.uniform(0.7, 1.3))),
        np.asarray(ImageEnhance.Contrast(image).enhance(random.uniform(0.7, 1.3))),
    ]


def augmented_small(count, seed):
    random = np.random.default_rng(seed)
    rows = [row for picture in data.split("report")[0][: -(-count // 6)] for row in (picture, *augmentations(picture, random))]
    return sessions(np.stack(rows)[:count])


def shots(picture, random):
    """The same scene photographed again and again from a hand that shakes a little."""
    taken = []
    for _ in range(9):
        moved = np.roll(picture, tuple(random.integers(-3, 4, 2)), (0, 1))
        lit = moved * random.uniform(0.95, 1.05) + random.normal(0, 3, picture.shape)
        taken.append(np.clip(np.round(lit), 0, 255).astype(np.uint8))
    return taken


def video(name, every):
    """Every so many frames of one clip, one session."""

    def made(count, seed):
        return [np.stack([data.squared(frame, SIDE) for number, frame in enumerate(data.frames(name)) if number % every == 0][:count])]

    return made


def made_up(kind):
    def made(count, seed):
        return sessions(drawn(kind, count, seed))

    return made


def dimmed_photographs(share, towards):
    def made(count, seed):
        found = [*photographs(), *tiles(count, seed)[0]][:count]
        return sessions(np.concatenate(faded(found, share, towards)))

    return made


DISTINCT, VIDEO, EXACT = 0.0002, 0.005, 0.0

KINDS = [
    Kind("cifar-in-order", "cifar", DISTINCT, "CIFAR-10 test images 2,500-4,999 in order, one caller", in_order),
    Kind("cifar-shuffled", "cifar", DISTINCT, "the same shuffled, callers of 1,024 rows", shuffled),
    Kind(
        "cifar-training",
        "cifar",
        DISTINCT,
        "CIFAR-10 training images (the classifier did learn from them), callers of 1,024 rows",
        training,
    ),
    Kind("cifar-held-out", "held-out", DISTINCT, "training images that the classifier, a LeNet, did not learn from", held_out),
    Kind("cifar-night-1/2", "cifar", DISTINCT, "CIFAR-10 at half of its contrast, dark", dimmed(1 / 2, 8)),
    Kind("cifar-night-1/4", "cifar", DISTINCT, "at a quarter", dimmed(1 / 4, 8)),
    Kind("cifar-night-1/8", "cifar", DISTINCT, "at an eighth", dimmed(1 / 8, 8)),
    Kind("cifar-fog-1/2", "cifar", DISTINCT, "CIFAR-10 at half of its contrast, bright", dimmed(1 / 2, 200)),
    Kind("cifar-fog-1/4", "cifar", DISTINCT, "at a quarter", dimmed(1 / 4, 200)),
    Kind("cifar-fog-1/8", "cifar", DISTINCT, "at an eighth", dimmed(1 / 8, 200)),
    Kind("cifar-augmented", "cifar", None, "each followed by flip, crop, rotation, brightness, contrast", augmented_small),
    Kind("photos", "photos", DISTINCT, "distinct photographs", all_photographs),
    Kind("tiles", "photos", DISTINCT, "tiles of large photographs", tiles),
    Kind("retries", "photos", EXACT, "each photograph three times, to the last byte", each(again)),
    Kind("recompressed", "photos", None, "each photograph, then as JPEG 95, 85, 70, 50, 30 and WebP 75", each(recompressed)),
    Kind("resized", "photos", None, "each photograph, then through 256, 180 and 112 pixels and back", each(resized)),
    Kind("augmented", "photos", None, "each followed by flip, crop, rotation, brightness, contrast", each(augmented)),
    Kind("shots", "photos", None, "ten shots of each scene: 3 pixels of shake, 5 % of light, noise", each(shots)),
    Kind("video-bunny", "photos", VIDEO, "bigbuckbunny, 132 frames at full rate", video("bigbuckbunny", 1)),
    Kind("video-bikes", "photos", VIDEO, "bikes, 250 frames at full rate", video("bikes", 1)),
    Kind("video-phone", "photos", VIDEO, "carphone at full rate", video("carphone_pristine", 1)),
    Kind("video-fixed", "photos", VIDEO, "vtest, 795 frames of a camera that does not move", video("vtest", 1)),
    Kind("video-bikes-10", "photos", VIDEO, "bikes, every tenth frame", video("bikes", 10)),
    Kind("video-fixed-10", "photos", VIDEO, "vtest, every tenth frame", video("vtest", 10)),
    Kind("pages", "photos", DISTINCT, "pages of text", made_up(page)),
    Kind("icons", "photos", DISTINCT, "icons", made_up(icon)),
    Kind("blank", "photos", DISTINCT, "pictures of one colour each", made_up(blank)),
    Kind("gradients", "photos", DISTINCT, "smooth courses from one colour to another", made_up(gradient)),
    Kind("night-1/2", "photos", DISTINCT, "photographs and tiles at half of their contrast, dark", dimmed_photographs(1 / 2, 8)),
    Kind("night-1/4", "photos", DISTINCT, "the same at a quarter", dimmed_photographs(1 / 4, 8)),
    Kind("night-1/8", "photos", DISTINCT, "the same at an eighth", dimmed_photographs(1 / 8, 8)),
    Kind("fog-1/2", "photos", DISTINCT, "the same at half of their contrast, bright", dimmed_photographs(1 / 2, 200)),
    Kind("fog-1/4", "photos", DISTINCT, "at a quarter", dimmed_photographs(1 / 4, 200)),
    Kind("fog-1/8", "photos", DISTINCT, "at an eighth", dimmed_photographs(1 / 8, 200)),
]
