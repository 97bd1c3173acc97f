"""Questions to a model server and their replies, as bytes: what was sent and what came back, nothing smoothed over."""

import dataclasses
import time

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb

SERVICE = "/inference.GRPCInferenceService/"
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

# Every model that takes pictures and answers alike when asked alike: dtype, layout, and whether a picture is a batch of one.
FORMS = {
    "clf": ("FP32", "NHWC", True),
    "clf_u8": ("UINT8", "NHWC", True),
    "clf_nchw": ("FP32", "NCHW", True),
    "clf_single": ("FP32", "NHWC", False),
    "two": ("UINT8", "NHWC", True),
    "aux": ("UINT8", "NHWC", True),
    "slow_u8": ("UINT8", "NHWC", True),
    "fails": ("UINT8", "NHWC", True),
    "versioned": ("UINT8", "NHWC", True),
}


@dataclasses.dataclass(frozen=True)
class Reply:
    """All of a reply that a caller can see. Two replies are equal when no caller could tell them apart but by time."""

    code: str
    message: str
    body: bytes | None
    initial: tuple
    trailing: tuple

    @property
    def parsed(self):
        assert self.code == "OK", f"{self.code}: {self.message}"
        return pb.ModelInferResponse.FromString(self.body)

    def output(self, name="probabilities"):
        """One output as numbers."""
        for tensor, raw in zip(self.parsed.outputs, self.parsed.raw_output_contents, strict=True):
            if tensor.name == name:
                return np.frombuffer(raw, np.float32).reshape(tensor.shape)
        raise AssertionError(f"the reply has no output {name}")

    @property
    def label(self):
        return int(self.output().reshape(-1).argmax())

    def with_id(self, new):
        """The bytes that this reply would have had for a request of another id."""
        parsed = self.parsed
        parsed.id = new
        return parsed.SerializeToString(deterministic=True)


class Client:
    """Asks one server as one caller, in bytes."""

    def __init__(self, port, user=None, credentials=None, options=()):
        target, options = f"127.0.0.1:{port}", [*UNLIMITED, ("grpc.use_local_subchannel_pool", 1), *options]
        self.port, self.user = port, user
        self.channel = (
            grpc.secure_channel(target, credentials, options) if credentials else grpc.insecure_channel(target, options)
        )

    def close(self):
        self.channel.close()

    def start(self, method, body, metadata=(), timeout=30, compression=None):
        """The call as a future, for what happens while it runs."""
        path = method if method.startswith("/") else SERVICE + method
        metadata = (*metadata, *((("x-user", self.user),) if self.user else ()))
        body = body if isinstance(body, bytes) else body.SerializeToString()
        return self.channel.unary_unary(path).future(body, metadata=metadata, timeout=timeout, compression=compression)

    def call(self, method, body, **options):
        return finished(self.start(method, body, **options))

    def infer(self, request, **options):
        return self.call("ModelInfer", request, **options)

    def ask(self, model, pictures, id="", **options):
        """One picture or a batch of them, in the form that the model takes, to its reply."""
        return self.infer(question(model, pictures, id=id), **options)


def finished(call):
    try:
        body, code, message = call.result(), "OK", call.details() or ""
    except grpc.RpcError as error:
        body, code, message = None, error.code().name, error.details() or ""
    pairs = lambda metadata: tuple(sorted((key, value) for key, value in metadata or ()))  # noqa: E731
    return Reply(code, message, body, pairs(call.initial_metadata()), pairs(call.trailing_metadata()))


def tensor(model, pictures):
    """Pictures in 8-bit RGB as the array that the model takes."""
    dtype, layout, batched = FORMS.get(model, ("UINT8", "NHWC", True))
    rows = np.asarray(pictures)
    rows = rows[None] if rows.ndim == 3 else rows
    if dtype == "FP32":
        rows = rows.astype(np.float32) / np.float32(255)
    if layout == "NCHW":
        rows = rows.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(rows if batched else rows[0])


def question(model, pictures, id="", outputs=(), version="", threshold=0.05):
    """A ModelInferRequest with raw contents."""
    array = tensor(model, pictures)
    request = pb.ModelInferRequest(model_name=model, model_version=version, id=id)
    request.inputs.add(name="image", datatype="FP32" if array.dtype == np.float32 else "UINT8", shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
    if model == "aux":
        request.inputs.add(name="threshold", datatype="FP32", shape=[len(array), 1])
        request.raw_input_contents.append(np.full((len(array), 1), threshold, np.float32).tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    return request


def typed(request):
    """The same request with its raw contents moved to the typed fields."""
    copy = pb.ModelInferRequest.FromString(request.SerializeToString())
    del copy.raw_input_contents[:]
    for tensor, raw in zip(copy.inputs, request.raw_input_contents, strict=True):
        if tensor.datatype == "FP32":
            tensor.contents.fp32_contents.extend(np.frombuffer(raw, np.float32).tolist())
        else:
            tensor.contents.uint_contents.extend(raw)
    return copy


@dataclasses.dataclass
class Asked:
    """How often a model was asked between two moments: requests, and rows in them."""

    requests: int = 0
    rows: int = 0


def counts(client, model):
    """The model's counters since it was loaded, once they have come to rest: Triton updates them after it replies."""
    previous, same = None, 0
    deadline = time.monotonic() + 5
    while same < 3 and time.monotonic() < deadline:
        reply = client.call("ModelStatistics", pb.ModelStatisticsRequest(name=model))
        assert reply.code == "OK", reply
        statistics = pb.ModelStatisticsResponse.FromString(reply.body).model_stats
        now = (
            sum(each.inference_stats.success.count + each.inference_stats.fail.count for each in statistics),
            sum(each.inference_count for each in statistics),
        )
        same = same + 1 if now == previous else 0
        previous = now
        time.sleep(0.005)
    return previous
