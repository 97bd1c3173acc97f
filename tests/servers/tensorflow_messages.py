"""TensorFlow's and TensorFlow Serving's official messages, with or without TensorFlow itself.

Where TensorFlow is installed they come with it and with its serving API; else from a package that holds the messages
alone, and leaves out one file that others name: the list of canonical codes, added here.
"""

import importlib.util
import sys
import types

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import DecodeError

CODES = "tensorflow.tsl.protobuf.error_codes_pb2"


def _add_the_codes():
    file = descriptor_pb2.FileDescriptorProto(name="tensorflow/tsl/protobuf/error_codes.proto", package="tensorflow.error")
    file.syntax = "proto3"
    enum = file.enum_type.add(name="Code")
    for code in grpc.StatusCode:
        enum.value.add(name=code.name, number=code.value[0])
    enum.value.sort(key=lambda value: value.number)
    descriptor_pool.Default().Add(file)
    for name in ("tensorflow.tsl", "tensorflow.tsl.protobuf", CODES):
        sys.modules[name] = types.ModuleType(name)


if importlib.util.find_spec("tensorflow.core.protobuf") and not importlib.util.find_spec("tensorflow.python"):
    _add_the_codes()

from tensorflow.core.example import example_pb2  # noqa: E402
from tensorflow.core.framework import tensor_pb2, types_pb2  # noqa: E402
from tensorflow.core.protobuf import meta_graph_pb2  # noqa: E402
from tensorflow_serving.apis import (  # noqa: E402
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

PREDICTION = "/tensorflow.serving.PredictionService/"
MODEL = "/tensorflow.serving.ModelService/"

# Each method with its request and reply. Changing the server's configuration has messages too, which no test needs.
METHODS = {
    PREDICTION + "Predict": (predict_pb2.PredictRequest, predict_pb2.PredictResponse),
    PREDICTION + "Classify": (classification_pb2.ClassificationRequest, classification_pb2.ClassificationResponse),
    PREDICTION + "Regress": (regression_pb2.RegressionRequest, regression_pb2.RegressionResponse),
    PREDICTION + "MultiInference": (inference_pb2.MultiInferenceRequest, inference_pb2.MultiInferenceResponse),
    PREDICTION + "GetModelMetadata": (
        get_model_metadata_pb2.GetModelMetadataRequest,
        get_model_metadata_pb2.GetModelMetadataResponse,
    ),
    MODEL + "GetModelStatus": (get_model_status_pb2.GetModelStatusRequest, get_model_status_pb2.GetModelStatusResponse),
}

SignatureDefMap = get_model_metadata_pb2.SignatureDefMap

__all__ = ["DecodeError", "METHODS", "MODEL", "PREDICTION", "SignatureDefMap", "example_pb2", "input_pb2", "meta_graph_pb2", "model_pb2", "tensor_pb2", "types_pb2"]
