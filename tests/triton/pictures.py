"""Pictures in 8-bit RGB, of 32 x 32 where nothing else is said: the demo's photographs, larger ones, drawn ones in any number,
and changed copies of them."""

import functools
import importlib.util
import pathlib

import numpy as np
from PIL import Image

PHOTOS = pathlib.Path(__file__).resolve().parents[2] / "src" / "demo" / "photos"


def photos(count=12):
    """Real photographs where the demo has them, else drawn pictures; always the same ones in the same order."""
    files = sorted(PHOTOS.glob("*.png"))[:count]
    found = [np.array(Image.open(file).convert("RGB")) for file in files]
    found = [picture for picture in found if picture.shape == (32, 32, 3)]
    return found + [drawn(10_000 + index) for index in range(len(found), count)]


def photo(index=0):
    return photos(12)[index]


LARGE = ["astronaut.png", "camera.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png", "retina.jpg", "rocket.jpg"]


@functools.cache
def large_photos(side):
    """Real photographs, the largest square of each reduced to `side` x `side`; tests/fixtures/README.md says whose they are."""
    (folder,) = importlib.util.find_spec("skimage").submodule_search_locations
    found = []
    for name in LARGE:
        image = Image.open(pathlib.Path(folder) / "data" / name).convert("RGB")
        edge = min(image.size)
        found.append(np.asarray(image.crop((0, 0, edge, edge)).resize((side, side), Image.LANCZOS)))
    return found


def drawn(seed):
    """A cloudy, colourful picture unlike that of any other seed, as rich in detail as photographs are."""
    random = np.random.default_rng(seed)
    steps = np.arange(32)
    waves = random.standard_normal((3, 32, 32)) / (1 + np.add.outer(steps, steps)) ** 1.5
    waves = waves.mean(axis=0) + 0.5 * waves  # colours mostly agree
    basis = np.cos(np.outer(steps + 0.5, steps) * np.pi / 32)
    field = np.einsum("xu,cuv,yv->xyc", basis, waves, basis)
    field -= field.mean(axis=(0, 1))
    return np.clip(128 + field / field.std() * 55, 1, 254).astype(np.uint8)


def one_pixel(picture, seed=0):
    """A copy in which one pixel differs clearly."""
    random = np.random.default_rng(seed)
    copy = picture.copy()
    row, column = random.integers(2, min(picture.shape[:2]) - 2, 2)
    copy[row, column] = np.where(copy[row, column] < 128, 254, 1)
    return copy


# What an attacker sends first, so that the answer to it is later given for the picture it was made from.


def mosaic(picture):
    means = picture.reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
    return means.repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)


def patched(picture):
    copy = picture.copy()
    copy[10:22, 10:22] = 255 - copy[10:22, 10:22]
    return copy


def grey(picture):
    return (picture @ [0.299, 0.587, 0.114]).astype(np.uint8)[..., None].repeat(3, axis=2)


def noised(picture):
    noise = np.random.default_rng(1).normal(0, 24, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def low_contrast(picture):
    mean = picture.mean(axis=(0, 1))
    return np.clip(mean + (picture - mean) * 0.4, 0, 255).astype(np.uint8)


def inverted_hue(picture):
    luma = (picture @ [0.299, 0.587, 0.114])[..., None]
    return np.clip(2 * luma - picture, 0, 255).astype(np.uint8)


TRICKS = [mosaic, patched, grey, noised, low_contrast, inverted_hue]
