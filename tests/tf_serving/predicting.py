"""Questions to TensorFlow Serving: one picture, or a batch, in the form that a model takes."""

import io

import numpy as np
import tensor_protos
from PIL import Image
from tensorflow_messages import METHODS, MODEL, PREDICTION, example_pb2, model_pb2, types_pb2
from tf_serving import CLASSIFY, REGRESS

# The two that are not judged have their own place in the tests.
Predict, Classify, Regress, MultiInference = (PREDICTION + name for name in ("Predict", "Classify", "Regress", "MultiInference"))
GetModelMetadata, GetModelStatus = PREDICTION + "GetModelMetadata", MODEL + "GetModelStatus"
HandleReloadConfigRequest = MODEL + "HandleReloadConfigRequest"

# Models that take a batch of pictures: the input's name and type.
FORMS = {
    "clf": ("images", np.float32),
    "clf_u8": ("images", np.uint8),
    "content": ("images", np.uint8),
    "aux": ("images", np.uint8),
    "single": ("image", np.float32),
    "jpeg": ("image_bytes", bytes),
}
FEATURE = "image/encoded"


def png(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def array(model, pictures):
    """Pictures in 8-bit RGB as the array that the model takes."""
    rows = np.asarray(pictures)
    rows = rows[None] if rows.ndim == 3 else rows
    kind = FORMS[model][1]
    if kind is bytes:
        strings = np.empty(len(rows), object)
        strings[:] = [png(row) for row in rows]
        return strings
    found = valued(rows, kind)
    return found[0] if model == "single" else found


def valued(rows, kind):
    """8-bit pictures in another number type: floats in 0..1, integers as they are."""
    if np.dtype(kind).kind in "ui":
        return rows.astype(kind)
    return (rows.astype(np.float32) / np.float32(255)).astype(kind)


def spec(model, version=None, label=None, signature=""):
    found = model_pb2.ModelSpec(name=model, signature_name=signature)
    if version is not None:
        found.version.value = version
    if label is not None:
        found.version_label = label
    return found


def question(model, pictures, outputs=(), threshold=0.05, content=True, **which):
    """A PredictRequest, its pictures in tensor_content or in the typed field."""
    request = METHODS[Predict][0](model_spec=spec(model, **which), output_filter=outputs)
    pixels = array(model, pictures)
    name = FORMS[model][0]
    request.inputs[name].CopyFrom(tensor_protos.write(pixels, content and pixels.dtype != object))
    if model == "aux":
        values = np.full((len(pixels), 1), threshold, np.float32)
        request.inputs["threshold"].CopyFrom(tensor_protos.write(values, content))
    return request


def model_of(dtype):
    return "floats" if dtype in tensor_protos.names("fV") else "integers"


def of_type(dtype, picture, content=True):
    """One picture to the signature that takes it as `dtype`."""
    form = tensor_protos.FORMS[types_pb2.DataType.Value(dtype)][0]
    request = METHODS[Predict][0](model_spec=spec(model_of(dtype), signature=dtype))
    request.inputs["images"].CopyFrom(tensor_protos.write(valued(picture[None], form), content))
    return request


# DT_INT8 holds half of a picture's values and is no form of one.
TYPES = [name for name in tensor_protos.names("fVui") if name != "DT_INT8"]


def example(picture, **features):
    found = example_pb2.Example()
    if picture is not None:
        found.features.feature[FEATURE].bytes_list.value.append(png(picture))
    for name, value in features.items():
        found.features.feature[name].float_list.value.append(value)
    return found


def examples(method, pictures, signature=None, context=None, features=()):
    """A Classify, Regress or MultiInference request about these pictures, one Example for each."""
    request = METHODS[method][0]()
    if method == MultiInference:
        for name, task in (("classify", CLASSIFY), ("regress", REGRESS)):
            request.tasks.add(model_spec=spec("clf", signature=name), method_name=task)
    else:
        request.model_spec.CopyFrom(spec("clf", signature=signature or method.rpartition("/")[2].lower()))
    given = request.input.example_list if context is None else request.input.example_list_with_context
    given.SetInParent()
    if context is not None:
        given.context.CopyFrom(context)
    for picture in pictures:
        given.examples.add().CopyFrom(example(picture, **dict(features)))
    return request


def reply(method, answer):
    """The reply's message, which must be OK."""
    assert answer.code == "OK", f"{answer.code}: {answer.message}"
    return METHODS[method][1].FromString(answer.body)


def output(answer, alias="scores"):
    """One output of a Predict as an array."""
    return tensor_protos.read(reply(Predict, answer).outputs[alias])
