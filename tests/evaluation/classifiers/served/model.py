"""Triton's python backend around one classifier. Beside the probabilities it answers `serial`, another number for every row that
was computed: a caller who gets one that he has had before was answered from memory, and no guess is needed."""

import json

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.network = onnxruntime.InferenceSession(parameters["file"]["string_value"], options, providers=["CPUExecutionProvider"])
        self.computed = 0

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        pictures = pb.get_input_tensor_by_name(request, "image").as_numpy()
        probabilities = self.network.run(["probabilities"], {"image": pictures})[0]
        serial = self.computed + np.arange(1, len(pictures) + 1, dtype=np.int64)[:, None]
        self.computed += len(pictures)
        return pb.InferenceResponse([pb.Tensor("probabilities", probabilities), pb.Tensor("serial", serial)])
