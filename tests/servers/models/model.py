"""One python-backend model for every entry of the test repository; the entry's config.pbtxt says what it does.

The network is the demo's trained LeNet (`image` FLOAT [N,32,32,3] in 0..1 to `probabilities` FLOAT [N,10]). Each row is
computed on its own, so that an answer never depends on who shares the batch and replies can be compared byte for byte.
"""

import json
import os
import random
import time

import numpy as np
import triton_python_backend_utils as pb

OF_RECEIVED = ("digest", "decode")

# Copies of a picture that a heavy model looks at: some 10 ms of real work.
COPIES = 64


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.behaviour = parameters.get("behaviour", "plain")
        self.layout = parameters.get("layout", "NHWC")
        self.version = args["model_version"]
        self.outputs = [output["name"] for output in config["output"]]
        self.decoupled = pb.using_decoupled_model_transaction_policy(config)
        self.seen = {}
        if self.behaviour in OF_RECEIVED:
            self.received = self.receiver(config, parameters)
        else:
            self.network = self.lenet()

    def receiver(self, config, parameters):
        from received import Received

        datatype, batched = config["input"][0]["data_type"], config["max_batch_size"] > 0
        axes, meaning = parameters.get("axes", "HWC"), parameters.get("range", "0..255")
        return Received(datatype, batched, axes, meaning, parameters.get("bgr") == "yes")

    def lenet(self):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(os.environ["REFRAIN_TEST_MODEL"], options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        if self.behaviour == "slow":
            time.sleep(0.080 + random.uniform(0.0, 0.008))
        if self.decoupled:
            for request in requests:
                self.answer_several(request) if self.behaviour == "several" else self.answer_twice(request)
            return None
        return [self.answer(request) for request in requests]

    def answer(self, request):
        if self.behaviour == "upper":
            text = pb.get_input_tensor_by_name(request, "text").as_numpy()
            upper = np.array([element.upper() for element in text.ravel()], dtype=object).reshape(text.shape)
            return pb.InferenceResponse([pb.Tensor("upper", upper)])
        if self.behaviour in OF_RECEIVED:
            return self.answer_received(request)

        pixels = pb.get_input_tensor_by_name(request, "image").as_numpy()
        if self.behaviour == "fails" and pixels.reshape(-1)[0] == 255:
            return pb.InferenceResponse(error=pb.TritonError("the first value is 255", pb.TritonError.INVALID_ARG))

        probabilities = self.classify(pixels)
        if self.behaviour == "threshold":
            threshold = pb.get_input_tensor_by_name(request, "threshold").as_numpy().reshape(-1, 1)
            probabilities = np.where(probabilities >= threshold, probabilities, np.float32(0))
        answers = {"probabilities": probabilities, "logits": np.log(np.maximum(probabilities, np.float32(1e-12)))}
        if self.behaviour == "count":
            answers["seen"] = self.count(request)
        if self.behaviour == "scores":
            answers |= scores(probabilities)
        wanted = request.requested_output_names()
        return pb.InferenceResponse([pb.Tensor(name, answers[name]) for name in self.outputs if name in wanted])

    def answer_received(self, request):
        """What arrived; a file that cannot be decoded is the caller's mistake."""
        tensor = pb.get_input_tensor_by_name(request, "file" if self.behaviour == "decode" else "image")
        try:
            answers = self.received.answers(tensor)
        except Exception as error:  # whatever the decoder says
            return pb.InferenceResponse(error=pb.TritonError(f"cannot decode: {error}", pb.TritonError.INVALID_ARG))
        answers["picture"] = answers["pixels"]
        wanted = request.requested_output_names()
        return pb.InferenceResponse([pb.Tensor(name, answers[name]) for name in self.outputs if name in wanted])

    def answer_twice(self, request):
        sender = request.get_response_sender()
        probabilities = self.classify(pb.get_input_tensor_by_name(request, "image").as_numpy())
        for _ in range(2):
            sender.send(pb.InferenceResponse([pb.Tensor("probabilities", probabilities)]))
        sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def answer_several(self, request):
        """As many responses as the request says; where it says less than none, that many and then an error."""
        sender = request.get_response_sender()
        probabilities = self.classify(pb.get_input_tensor_by_name(request, "image").as_numpy())
        count = int(pb.get_input_tensor_by_name(request, "count").as_numpy().reshape(-1)[0])
        for turn in range(abs(count)):
            turns = np.full((len(probabilities), 1), turn, np.int32)
            sender.send(pb.InferenceResponse([pb.Tensor("probabilities", probabilities), pb.Tensor("turn", turns)]))
        if count < 0:
            sender.send(pb.InferenceResponse(error=pb.TritonError("no more turns", pb.TritonError.INVALID_ARG)))
        sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def classify(self, pixels):
        """Pixels in the entry's own dtype and layout to one row of probabilities per picture."""
        rows = pixels[np.newaxis] if pixels.ndim == 3 else pixels
        if rows.dtype == np.uint8:
            rows = rows.astype(np.float32) / np.float32(255)
        if self.layout == "NCHW":
            rows = np.ascontiguousarray(rows.transpose(0, 2, 3, 1))
        if self.behaviour == "mirrored" and self.version == "2":
            rows = np.ascontiguousarray(rows[:, :, ::-1])
        if self.behaviour == "heavy":
            self.network.run(["probabilities"], {"image": np.repeat(rows[:1], COPIES, axis=0)})
        each = [self.network.run(["probabilities"], {"image": row[np.newaxis]})[0][0] for row in rows]
        probabilities = np.stack(each).astype(np.float32) if each else np.zeros((0, 10), np.float32)
        if self.behaviour == "summed":
            return probabilities.sum(axis=0, dtype=np.float32)
        return probabilities[0] if pixels.ndim == 3 else probabilities

    def count(self, request):
        """How many requests this sequence has had: state that a request which was never forwarded would not change."""
        sequence = request.correlation_id()
        start = pb.get_input_tensor_by_name(request, "START").as_numpy().reshape(-1)[0]
        self.seen[sequence] = 1 if start else self.seen.get(sequence, 0) + 1
        return np.array([[self.seen[sequence]]], dtype=np.int32)


def scores(probabilities):
    """Probabilities as outputs of other types and ranks, among them one with many equal values."""
    rows = len(probabilities)
    return {
        "double": probabilities.astype(np.float64),
        "half": probabilities.astype(np.float16),
        "percent": (probabilities * 100).astype(np.int32),
        "small": (probabilities * 255).astype(np.uint8),
        "grid": probabilities.reshape(rows, 2, 5),
        "tied": np.round(probabilities, 1).repeat(4, axis=1),
        "words": np.array([[str(row.argmax()).encode()] for row in probabilities], dtype=object),
        "flags": probabilities > 0.1,
    }
