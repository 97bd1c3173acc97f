"""A stand-in for TensorFlow Serving: its gRPC interface, its rules and its words, in front of small models.

The real server is in no package registry. What it says when it refuses is taken from its sources (predict_util.cc,
classifier.cc, regressor.cc, multi_inference.cc, server_core.cc), and how it reads tensors from TensorFlow's. Two kinds of
models stand behind it: `numpy`, for which nothing else is needed, and `tensorflow`, SavedModels in TensorFlow itself.

Used by the tests as a context manager; by hand it runs until interrupted and prints its port:

    PYTHON tests/servers/tf_serving.py numpy|tensorflow
"""

import collections
import dataclasses
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from concurrent import futures

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
PYTHONS = {
    "numpy": ROOT / "target" / "test-venv-client" / "bin" / "python",
    "tensorflow": ROOT / "target" / "test-venv-tensorflow" / "bin" / "python",
}
COUNTS = "/refrain.test.StandIn/Counts"  # what has reached it so far; a proxy knows no such method
STOP_SECONDS = 30

PREDICT, CLASSIFY, REGRESS = (f"tensorflow/serving/{name}" for name in ("predict", "classify", "regress"))
DEFAULT_SIGNATURE = "serving_default"


class Refused(Exception):
    """A status that is not OK: the code's name and the server's words."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code, self.text = code, text


@dataclasses.dataclass
class Model:
    """Versions of one model, each a servable, and names for some of them.

    A servable has `signatures` (name to SignatureDef), `tensor(proto)` (a TensorProto as its runtime reads it),
    `examples(pairs)` (serialized Examples as such a tensor), `run(signature, inputs, aliases)` (arrays by output alias), and
    `write(array)` (a TensorProto as the server replies it).
    """

    versions: dict
    labels: dict = dataclasses.field(default_factory=dict)


class Core:
    """What the methods of both services do with decoded messages. Each returns a reply or raises `Refused`."""

    def __init__(self, models, messages):
        self.models, self.messages = models, messages
        self.reached = collections.Counter()
        self.lock = threading.Lock()

    def count(self, name, requests=0, rows=0):
        with self.lock:
            self.reached[f"{name} requests"] += requests
            self.reached[f"{name} rows"] += rows

    def servable(self, spec):
        """The version that a model spec names, as (number, servable)."""
        if not spec.name:
            raise Refused("INVALID_ARGUMENT", "ModelSpec has no name specified.")
        model = self.models.get(spec.name)
        choice = spec.WhichOneof("version_choice")
        version = spec.version.value
        if choice == "version_label":
            if not model or spec.version_label not in model.labels:
                raise Refused("INVALID_ARGUMENT", f"Unrecognized servable version label: {spec.version_label}")
            version = model.labels[spec.version_label]
        elif choice is None:
            if not model:
                raise Refused("NOT_FOUND", f"Servable not found for request: Latest({spec.name})")
            version = max(model.versions)
        if not model or version not in model.versions:
            raise Refused("NOT_FOUND", f"Servable not found for request: Specific({spec.name}, {version})")
        return version, model.versions[version]

    def effective(self, spec, version):
        """The model spec of a reply."""
        effective = self.messages.model_pb2.ModelSpec(name=spec.name, signature_name=spec.signature_name or DEFAULT_SIGNATURE)
        effective.version.value = version
        return effective

    # PredictionService

    def predict(self, request, reply):
        self.count(request.model_spec.name, requests=1)
        version, servable = self.asked(request)
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        if name not in servable.signatures:
            raise Refused("FAILED_PRECONDITION", f'Serving signature key "{name}" not found.')
        signature = servable.signatures[name]
        inputs = inputs_of(signature, request, servable)
        aliases = outputs_of(signature, request)
        outputs = servable.run(name, inputs, aliases)
        self.count(request.model_spec.name, rows=rows_of(inputs))
        reply.model_spec.CopyFrom(self.effective(request.model_spec, version))
        for alias, array in outputs.items():
            reply.outputs[alias].CopyFrom(servable.write(array))

    def classify(self, request, reply):
        version, outputs = self.examples(request, "classification", CLASSIFY)
        classifications(outputs, reply.result)
        reply.model_spec.CopyFrom(self.effective(request.model_spec, version))

    def regress(self, request, reply):
        version, outputs = self.examples(request, "regression", REGRESS)
        regressions(outputs, reply.result)
        reply.model_spec.CopyFrom(self.effective(request.model_spec, version))

    def examples(self, request, kind, method):
        """The version that answers a Classify or Regress, and all outputs of the signature that it asks for."""
        self.count(request.model_spec.name, requests=1)
        version, servable = self.asked(request)
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        if name not in servable.signatures:
            raise Refused("INVALID_ARGUMENT", f"No signature was found with the name: {name}")
        check_method(servable.signatures[name], kind, method)
        return version, self.run_examples(request.model_spec.name, request.input, servable, name)

    def run_examples(self, model, given, servable, name):
        serialized = serialized_examples(given)
        outputs = servable.run(name, {"inputs": servable.examples(serialized)}, list(servable.signatures[name].outputs))
        self.count(model, rows=len(serialized))
        return outputs

    def multi_inference(self, request, reply):
        first = request.tasks[0].model_spec if request.tasks else self.messages.model_pb2.ModelSpec()
        self.count(first.name, requests=1)
        version, servable = self.servable(first)
        names = []
        for task in request.tasks:
            names.append(checked(task, first, names, servable))
        for task, name in zip(request.tasks, names, strict=True):
            outputs = self.run_examples(first.name, request.input, servable, name)
            result = reply.results.add()
            if task.method_name == CLASSIFY:
                classifications(outputs, result.classification_result)
            else:
                regressions(outputs, result.regression_result)
            result.model_spec.CopyFrom(self.effective(task.model_spec, version))

    def get_model_metadata(self, request, reply):
        if not request.HasField("model_spec"):
            raise Refused("INVALID_ARGUMENT", "Missing ModelSpec")
        if not request.metadata_field:
            raise Refused("INVALID_ARGUMENT", "GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise Refused("INVALID_ARGUMENT", f"Metadata field {field} is not supported")
        version, servable = self.servable(request.model_spec)
        signatures = self.messages.SignatureDefMap()
        for name, signature in servable.signatures.items():
            signatures.signature_def[name].CopyFrom(signature)
        reply.model_spec.name = request.model_spec.name
        reply.model_spec.version.value = version
        reply.metadata["signature_def"].Pack(signatures, deterministic=True)

    # ModelService

    def get_model_status(self, request, reply):
        if not request.HasField("model_spec"):
            raise Refused("INVALID_ARGUMENT", "Missing ModelSpec")
        spec = request.model_spec
        versions = sorted(self.models[spec.name].versions) if spec.name in self.models else []
        if spec.WhichOneof("version_choice") == "version":
            if spec.version.value not in versions:
                raise Refused("NOT_FOUND", f"Could not find version {spec.version.value} of model {spec.name}")
            versions = [spec.version.value]
        if not versions:
            raise Refused("NOT_FOUND", f"Could not find any versions of model {spec.name}")
        for version in versions:
            status = reply.model_version_status.add(version=version, state="AVAILABLE")
            status.status.SetInParent()

    def asked(self, request):
        if not request.HasField("model_spec"):
            raise Refused("INVALID_ARGUMENT", "Missing ModelSpec")
        return self.servable(request.model_spec)


# Checks of a request against a signature, in TensorFlow Serving's own order


def inputs_of(signature, request, servable):
    expected, given = sorted(signature.inputs), sorted(request.inputs)
    if len(given) != len(expected):
        raise Refused(
            "INVALID_ARGUMENT",
            f"input size does not match signature: {len(given)}!={len(expected)} len({{{','.join(given)}}}) != "
            f"len({{{','.join(expected)}}}). Sent extra: {{{','.join(sorted(set(given) - set(expected)))}}}. "
            f"Missing but required: {{{','.join(sorted(set(expected) - set(given)))}}}.",
        )
    inputs = {}
    for alias in expected:
        if alias not in request.inputs:
            raise Refused(
                "INVALID_ARGUMENT",
                f"Signature input alias: {alias}(feed name: {signature.inputs[alias].name}) not found in request and no "
                f"default value provided. Inputs expected to be in the request {{{','.join(given)}}}, or default input alias set: ",
            )
        inputs[alias] = servable.tensor(alias, request.inputs[alias])
    return inputs


def outputs_of(signature, request):
    seen = []
    for alias in request.output_filter:
        if alias not in signature.outputs:
            names = ",".join(sorted(signature.outputs))
            raise Refused(
                "INVALID_ARGUMENT", f"output tensor alias not found in signature: {alias} Outputs expected to be in the set {{{names}}}."
            )
        if alias in seen:
            raise Refused("INVALID_ARGUMENT", f"duplicate output tensor alias: {alias}")
        seen.append(alias)
    return seen or sorted(signature.outputs)


def rows_of(inputs):
    shape = next(iter(inputs.values())).shape
    return int(shape[0]) if len(shape) else 1


def checked(task, first, names, servable):
    """The signature that a task of a MultiInference asks for, beside those of `names`."""
    if not task.model_spec.name:
        raise Refused("INVALID_ARGUMENT", "Found ModelSpec with an empty model name.")
    if task.model_spec.name != first.name:
        raise Refused("INVALID_ARGUMENT", "All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    name = task.model_spec.signature_name or DEFAULT_SIGNATURE
    if name in names:
        raise Refused("INVALID_ARGUMENT", f"Duplicate evaluation of signature: {name}")
    if name not in servable.signatures:
        raise Refused("INVALID_ARGUMENT", f"Requested signature not found in model graph: {name}")
    if task.method_name not in (CLASSIFY, REGRESS):
        raise Refused("UNIMPLEMENTED", f"Unsupported signature method_name: {task.method_name}")
    check_method(servable.signatures[name], "classification" if task.method_name == CLASSIFY else "regression", task.method_name)
    return name


def check_method(signature, kind, method):
    if signature.method_name != method:
        raise Refused("INVALID_ARGUMENT", f"Expected {kind} signature method_name to be {method}. Was: {signature.method_name}")


def serialized_examples(given):
    """Every Example as two strings of bytes: the context that all share, and its own, which the server writes after it."""
    kind = given.WhichOneof("kind")
    parts = getattr(given, kind) if kind else given.example_list
    context = parts.context.SerializeToString() if kind == "example_list_with_context" else b""
    if not parts.examples:
        raise Refused("INVALID_ARGUMENT", "Input is empty.")
    return [(context, example.SerializeToString()) for example in parts.examples]


def classifications(outputs, result):
    for labels, scores in zip(outputs["classes"], outputs["scores"], strict=True):
        classes = result.classifications.add().classes
        for label, score in zip(labels, scores, strict=True):
            classes.add(label=label, score=score)


def regressions(outputs, result):
    for value in outputs["outputs"].reshape(-1):
        result.regressions.add(value=value)


# The server


class Methods(grpc.GenericRpcHandler):
    """The methods by their paths. Bytes that are no message are refused in the words of gRPC's C++ library."""

    def __init__(self, core):
        self.core, self.handlers = core, {}
        for path, (request, reply) in core.messages.METHODS.items():
            self.handlers[path] = self.answering(getattr(core, snake(path.rpartition("/")[2])), request, reply)
        self.handlers[core.messages.MODEL + "HandleReloadConfigRequest"] = grpc.unary_unary_rpc_method_handler(self.reload)
        self.handlers[COUNTS] = grpc.unary_unary_rpc_method_handler(self.counts)

    def service(self, details):
        return self.handlers.get(details.method)

    def answering(self, method, request, reply):
        def handle(body, context):
            answer = reply()
            try:
                method(request.FromString(body), answer)
            except Refused as refused:
                context.abort(grpc.StatusCode[refused.code], refused.text)
            except self.core.messages.DecodeError:
                context.abort(grpc.StatusCode.INTERNAL, "Unable to parse request")
            return answer.SerializeToString(deterministic=True)  # the real server's maps have no order

        return grpc.unary_unary_rpc_method_handler(handle)

    def reload(self, _body, _context):
        self.core.count("reload", requests=1)
        return b""

    def counts(self, _body, _context):
        with self.core.lock:
            return json.dumps(self.core.reached).encode()


def serve(core):
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[Methods(core)], options=unlimited)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def snake(name):
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("_")


class TfServing:
    """One running stand-in, in a process of its own."""

    def __init__(self, kind="numpy"):
        self.kind = kind

    def __enter__(self):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [PYTHONS[self.kind], str(pathlib.Path(__file__).resolve()), self.kind]
        environment |= {"TF_CPP_MIN_LOG_LEVEL": "3"}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the stand-in ended with {self.process.wait()} before it listened: run it by hand to see why")
        self.grpc = json.loads(line)["grpc"]
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def main(kind):
    import tensorflow_messages as messages  # whose import takes seconds where TensorFlow is

    models = importlib.import_module({"numpy": "numpy_models", "tensorflow": "saved_models"}[kind]).load()
    server, port = serve(Core(models, messages))
    ended = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: ended.set())
    print(json.dumps({"grpc": port, "pid": os.getpid()}), flush=True)
    ended.wait()
    server.stop(0).wait()


if __name__ == "__main__":
    import tf_serving  # the models know this file by its name, not as __main__

    tf_serving.main(sys.argv[1])
