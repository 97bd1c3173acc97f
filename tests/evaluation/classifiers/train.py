"""Trains classifiers and writes each as ONNX: `train.py NAME...`, with Debian's torch on one thread, always from the same seed.

Trained on the 50,000 training images; the accuracy written down is that on the report split, which nothing was chosen by.
"""

import argparse
import json
import os
import pathlib
import sys
import time

import numpy as np
import torch

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import architectures  # noqa: E402

INTO = ROOT / "target" / "evaluation" / "models"
CIFAR = ROOT / "target" / "evaluation" / "cifar-10.npz"
REPORT = slice(2_500, 5_000)
BATCH, SEED = 128, 1
EPOCHS = {"lenet": 8, "lenet_part": 8, "resnet": 6, "net_in_net": 4, "cnn": 4, "pure_cnn": 3, "wide_resnet": 3, "densenet": 3}
RATES = {"lenet": 0.05, "lenet_part": 0.05, "cnn": 0.05}
# A network that has not seen all of them: the rest are new to it, 16,000 pictures that honest callers ask about.
TAKES = {"lenet_part": 34_000}


def augmented(pictures, dice):
    """Flipped by halves, moved by up to two pixels."""
    flips = dice.random(len(pictures)) < 0.5
    pictures = np.where(flips[:, None, None, None], pictures[:, :, ::-1], pictures)
    padded = np.pad(pictures, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    down, right = dice.integers(0, 5, 2)
    return np.ascontiguousarray(padded[:, down : down + 32, right : right + 32])


def right(network, pictures, labels):
    """The share of pictures whose most probable class is theirs."""
    network.eval()
    with torch.no_grad():
        found = [network(architectures.prepared(torch.from_numpy(part))).argmax(1) for part in np.array_split(pictures, 10)]
    return float((torch.cat(found).numpy() == labels).mean())


def train(name, epochs):
    with np.load(CIFAR) as file:
        pictures, labels = file["train"], file["train_labels"].astype(np.int64)
        held, held_labels = file["test"][REPORT], file["test_labels"][REPORT]
    pictures, labels = pictures[: TAKES.get(name)], labels[: TAKES.get(name)]
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    dice = np.random.default_rng(SEED)
    network = getattr(architectures, name.removesuffix("_part"))()
    steps = epochs * (len(pictures) // BATCH)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATES.get(name, 0.1), total_steps=steps, pct_start=0.25)
    loss, began = torch.nn.CrossEntropyLoss(), time.process_time()
    for epoch in range(epochs):
        network.train()
        order, total = dice.permutation(len(pictures)), 0.0
        for at in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[at : at + BATCH]
            found = loss(network(architectures.prepared(torch.from_numpy(augmented(pictures[chosen], dice)))), torch.from_numpy(labels[chosen]))
            optimiser.zero_grad()
            found.backward()
            optimiser.step()
            schedule.step()
            total += found.item()
        print(f"{name}: epoch {epoch + 1} of {epochs}, loss {total / (len(order) // BATCH):.3f}, {time.process_time() - began:.0f} s", flush=True)
    write(name, network, {
        "name": name,
        "accuracy": right(network, held, held_labels),
        "parameters": sum(each.numel() for each in network.parameters()),
        "epochs": epochs,
        "seed": SEED,
        "seconds": round(time.process_time() - began),
    })  # fmt: skip


def write(name, network, about):
    INTO.mkdir(parents=True, exist_ok=True)
    part = INTO / f"{name}.part"
    served = architectures.Served(network).eval()
    names = {"input_names": ["image"], "output_names": ["probabilities"]}
    free = {"image": {0: "N"}, "probabilities": {0: "N"}}
    torch.onnx.export(served, torch.zeros(1, 32, 32, 3, dtype=torch.uint8), str(part), opset_version=13, dynamic_axes=free, **names)
    torch.save(network.state_dict(), INTO / f"{name}.pt")
    (INTO / f"{name}.json").write_text(json.dumps(about))
    os.rename(part, INTO / f"{name}.onnx")
    print(about, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(EPOCHS))
    parser.add_argument("--epochs", type=int)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for each in asked.names:
        if (INTO / f"{each}.onnx").exists():
            print(f"{each}: trained already")
        else:
            train(each, asked.epochs or EPOCHS[each])
