"""The classifiers under attack, each one file target/evaluation/models/NAME.onnx: `image` UINT8 [N,32,32,3] to `probabilities` FLOAT [N,10]."""

import json
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[3]
MODELS = ROOT / "target" / "evaluation" / "models"

# Trained by train.py, in the order of what they cost; the first name is the trained one that a package holds.
CONVERTED = "cifar-10-model"
PART = "lenet_part"  # a LeNet that never saw the training images from 34,000 on
TRAINED = ["lenet", PART, "cnn", "net_in_net", "resnet", "pure_cnn", "wide_resnet", "densenet"]


def path(name):
    """The file of a classifier, made now where that takes no training."""
    file = MODELS / f"{name}.onnx"
    if not file.exists():
        if name != CONVERTED:
            raise SystemExit(f"tests/evaluation: {file} is missing: `tests/evaluation/run train {name}` makes it")
        from classifiers import cifar_10_model

        MODELS.mkdir(parents=True, exist_ok=True)
        part = MODELS / f"{name}.part"
        part.write_bytes(cifar_10_model.converted().SerializeToString())
        os.rename(part, file)
    return file


def made():
    """The names of the classifiers that are there."""
    return [CONVERTED, *(name for name in TRAINED if (MODELS / f"{name}.onnx").exists())]


def about(name):
    """What is known of a classifier: its accuracy, and how it was trained."""
    file = MODELS / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def local(name):
    """The classifier in this process, on one thread: a function of pictures (N x 32 x 32 x 3, 8-bit) to probabilities."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path(name)), options, providers=["CPUExecutionProvider"])
    return lambda pictures: session.run(["probabilities"], {"image": pictures})[0]
