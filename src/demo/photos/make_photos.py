#!/usr/bin/python3
"""Makes the photographs of `refrain demo`: square crops of freely licensed pictures, 32 x 32.

Usage: /usr/bin/python3 src/demo/photos/make_photos.py [--notices]

Needs Debian 12's python3-pil. The pictures come out of Debian packages, fetched by apt-get into
target/demo-photos/ and unpacked there, not installed. Whose they are and under which licence is in
README.md; each was read in the package itself: --notices prints those texts and makes nothing.
"""

import hashlib
import io
import pathlib
import struct
import subprocess
import sys
import zlib

from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
TARGET = HERE.parents[2] / "target" / "demo-photos"
SIDE = 32

GCOMPRIS = "gcompris-qt-data=3.1-2"
LOMIRI = "lomiri-wallpapers-16.04=20.04.0-2"
FORENSICS = "forensics-samples-files=1.1.4-5"

RCC = "usr/share/gcompris-qt/rcc/"
FARM = RCC + "explore_farm_animals.rcc:src/activities/explore_farm_animals/resource/animals/"
WORLD = RCC + "explore_world_animals.rcc:src/activities/explore_world_animals/resource/animals/"
ERASE = RCC + "erase.rcc:src/activities/erase/resource/"
WALL = "usr/share/backgrounds/"
FRIENDS = "friends_by_Aitzol_Berasategi.jpg"
SAMPLES = "usr/share/forensics-samples/original-files/"
SAMOYEDS = "pic1/IMG-20191006-WA0002.jpg"

# Where a package states authors and licences.
NOTICES = [
    (GCOMPRIS, FARM + "README"),
    (GCOMPRIS, WORLD + "README"),
    (GCOMPRIS, ERASE + "README"),
    (LOMIRI, "usr/share/doc/lomiri-wallpapers-16.04/copyright"),
    (FORENSICS, "usr/share/doc/forensics-samples-files/copyright"),
]

# Our name, package, file, crop (left, top, side), start of the SHA-256 of the file.
PHOTOS = [
    ("bird-gosling", GCOMPRIS, ERASE + "gosling.webp", (420, 0, 1080), "dab7bc930f6fe4f7"),
    ("bird-heron", GCOMPRIS, ERASE + "heron.webp", (189, 0, 1080), "63006dabe8b74b82"),
    ("bird-kingfisher", GCOMPRIS, ERASE + "kingfisher.webp", (330, 110, 900), "b637658d7e0f8f55"),
    ("bird-penguin", GCOMPRIS, ERASE + "penguin.webp", (420, 0, 1080), "1c8be6df0a6ff161"),
    ("cat-kitten", GCOMPRIS, ERASE + "kitten.webp", (564, 204, 792), "c6f3a52585a3d617"),
    ("cat-wool", GCOMPRIS, FARM + "cat.webp", (280, 70, 560), "ab7c3e1b04e80bc5"),
    ("deer-moose", GCOMPRIS, WORLD + "moose.webp", (212, 92, 576), "2252a671c2e0ade9"),
    ("dog-samoyeds", FORENSICS, SAMPLES + SAMOYEDS, (360, 190, 360), "8f31fbc45826c8ea"),
    ("dog-shepherd", GCOMPRIS, FARM + "dog.webp", (253, 83, 614), "5e9d954449574010"),
    ("dog-spaniel", LOMIRI, WALL + FRIENDS, (590, 690, 520), "cc40e313c74e421e"),
    ("horse-nokota", GCOMPRIS, FARM + "horse.webp", (520, 140, 470), "87879a9644b71713"),
    ("horse-zaniskari", GCOMPRIS, ERASE + "horse.webp", (160, 40, 1040), "15b49393342bf7de"),
]


def unpacked(package):
    """Returns the folder of the package's files, fetching and unpacking it once."""
    name = package.split("=")[0]
    folder = TARGET / name
    if not folder.exists():
        TARGET.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", package], cwd=TARGET, check=True)
        (archive,) = TARGET.glob(name + "_*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
    return folder


def from_rcc(rcc, wanted):
    """Returns one file of a Qt resource collection (format 2 or later)."""
    version, tree, data, names = struct.unpack(">4i", rcc[4:20])
    assert rcc[:4] == b"qres" and version >= 2

    def find(node, parts):
        at = tree + node * 22
        name_at, flags = struct.unpack(">iH", rcc[at : at + 6])
        if not parts:
            assert flags in (0, 1), "a folder, or packed with zstd"
            (start,) = struct.unpack(">i", rcc[at + 10 : at + 14])
            (size,) = struct.unpack(">I", rcc[data + start : data + start + 4])
            content = rcc[data + start + 4 : data + start + 4 + size]
            return zlib.decompress(content[4:]) if flags else content
        count, first = struct.unpack(">2i", rcc[at + 6 : at + 14])
        for child in range(first, first + count):
            (name_at,) = struct.unpack(">i", rcc[tree + child * 22 : tree + child * 22 + 4])
            (length,) = struct.unpack(">H", rcc[names + name_at : names + name_at + 2])
            text = rcc[names + name_at + 6 : names + name_at + 6 + 2 * length]
            if text.decode("utf-16-be") == parts[0]:
                return find(child, parts[1:])
        raise KeyError(wanted)

    return find(0, ["gcompris"] + wanted.split("/"))


def read(package, path):
    """Returns the bytes of a file of a package; `A.rcc:B` is the file B inside the collection A."""
    outer, _, inner = path.partition(":")
    content = (unpacked(package) / outer).read_bytes()
    return from_rcc(content, inner) if inner else content


def main():
    if sys.argv[1:] == ["--notices"]:
        for package, path in NOTICES:
            print(f"===== {package} {path}\n{read(package, path).decode()}")
        return
    for name, package, path, (left, top, side), digest in PHOTOS:
        content = read(package, path)
        found = hashlib.sha256(content).hexdigest()
        if not found.startswith(digest):
            raise SystemExit(f"{path}: sha256 {found}, expected {digest}...")
        picture = Image.open(io.BytesIO(content)).convert("RGB")
        box = (left, top, left + side, top + side)
        assert box[2] <= picture.width and box[3] <= picture.height, (name, picture.size)
        small = picture.crop(box).resize((SIDE, SIDE), Image.BOX)
        small.info.clear()  # no colour profile, no metadata
        small.save(HERE / f"{name}.png", optimize=True)
        print(f"{name}.png")


if __name__ == "__main__":
    main()
