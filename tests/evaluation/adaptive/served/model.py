"""Triton's python backend around one classifier, as `classifiers/served` has it, behind what servers do to a picture first:
`crop` it, or `pick` every so-many-th pixel of a larger one (nearest neighbour, without a filter)."""

import json
import zlib

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        parameters = {key: value["string_value"] for key, value in json.loads(args["model_config"])["parameters"].items()}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.network = onnxruntime.InferenceSession(parameters["file"], options, providers=["CPUExecutionProvider"])
        self.border, self.every = int(parameters["border"]), int(parameters["every"])
        # No two models or versions of one server answer with the same number.
        self.computed = (zlib.crc32(args["model_name"].encode()) % 1000 * 1000 + int(args["model_version"])) * 10**12

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        pictures = pb.get_input_tensor_by_name(request, "image").as_numpy()
        height, width = pictures.shape[1:3]
        cut = pictures[:, self.border : height - self.border, self.border : width - self.border]
        seen = np.ascontiguousarray(cut[:, self.every // 2 :: self.every, self.every // 2 :: self.every]).astype(np.uint8)
        probabilities = self.network.run(["probabilities"], {"image": seen})[0]
        serial = self.computed + np.arange(1, len(seen) + 1, dtype=np.int64)[:, None]
        self.computed += len(seen)
        return pb.InferenceResponse([pb.Tensor("probabilities", probabilities), pb.Tensor("serial", serial)])
