"""The trained classifier inside the cifar-10-model package (Keras) as ONNX: six convolutions, three dense layers, 968,394 parameters.

Keras is not needed: the layers are those of the package's own model.py, and the weights are read from its HDF5 file.
"""

import importlib.util
import pathlib

import h5py
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NAME = "cifar-10-model"
EPSILON = 1e-3  # Keras' own for batch normalisation


def weights_file():
    spec = importlib.util.find_spec("cifar_10_model")
    return pathlib.Path(spec.submodule_search_locations[0]) / "trained_models" / "cnn_model.h5"


class Graph:
    """ONNX nodes one after another; `last` is the name of the newest value."""

    def __init__(self, last):
        self.nodes, self.constants, self.last = [], [], last

    def add(self, kind, *constants, **attributes):
        out = f"v{len(self.nodes)}"
        names = []
        for number, array in enumerate(constants):
            names.append(f"{out}_c{number}")
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), names[-1]))
        self.nodes.append(helper.make_node(kind, [self.last, *names], [out], **attributes))
        self.last = out


def converted():
    """The model: `image` UINT8 [N,32,32,3] to `probabilities` FLOAT [N,10]."""
    with h5py.File(weights_file()) as file:
        weights = file["model_weights"]

        def of(layer, name):
            return np.array(weights[layer][layer][f"{name}:0"], np.float32)

        def numbered(layer, number):
            return layer if number == 0 else f"{layer}_{number}"

        graph = Graph("image")
        graph.add("Cast", to=TensorProto.FLOAT)
        graph.add("Transpose", perm=[0, 3, 1, 2])
        for number in range(6):
            conv, norm = numbered("conv2d", number), numbered("batch_normalization", number)
            graph.add("Conv", of(conv, "kernel").transpose(3, 2, 0, 1), of(conv, "bias"))
            graph.add("Relu")
            statistics = [of(norm, name) for name in ("gamma", "beta", "moving_mean", "moving_variance")]
            graph.add("BatchNormalization", *statistics, epsilon=EPSILON)
            if number in (1, 3):  # the package's third pooling is of 1 x 1
                graph.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
        graph.add("Flatten")
        for number in range(3):
            dense = numbered("dense", number)
            graph.add("Gemm", of(dense, "kernel"), of(dense, "bias"))
            graph.add("Relu")  # the last one too: so it was trained
        graph.add("Softmax", axis=1)
        graph.nodes[-1].output[0] = "probabilities"
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 32, 32, 3])
    probabilities = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])
    body = helper.make_graph(graph.nodes, NAME, [image], [probabilities], graph.constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model
