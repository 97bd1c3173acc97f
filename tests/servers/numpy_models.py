"""The stand-in's models in numpy: a fixed linear classifier of 32 x 32 RGB pictures under many signatures.

Each row is computed on its own, so that an answer never depends on who shares the batch and replies can be compared byte
for byte. The output `digest` tells what a model received: a hash of the row's type, shape and bytes.
"""

import hashlib
import io

import numpy as np
import tensor_protos
from linear import CLASSES, PICTURE, SIDE, mirrored, normal, scores
from PIL import Image
from tensorflow_messages import example_pb2, meta_graph_pb2, types_pb2
from tf_serving import CLASSIFY, DEFAULT_SIGNATURE, PREDICT, REGRESS, Model, Refused

LABELS = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]
FEATURE = "image/encoded"
SCORES = {"scores": ("DT_FLOAT", [-1, CLASSES]), "classes": ("DT_INT64", [-1]), "digest": ("DT_STRING", [-1])}


def decoded(encoded):
    try:
        picture = Image.open(io.BytesIO(encoded)).convert("RGB")
    except Exception as failure:
        raise Refused("INVALID_ARGUMENT", "Unknown image file format. One of JPEG, PNG, GIF, BMP required.") from failure
    return normal(np.array(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST)))


def digest(row):
    kind = "string" if isinstance(row, bytes) else f"{row.dtype} {list(row.shape)}"
    data = row if isinstance(row, bytes) else np.ascontiguousarray(row).tobytes()
    return f"{kind} {hashlib.sha256(data).hexdigest()}".encode()


def objects(values, shape):
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


def answers(rows, pictures):
    """All outputs of a classifier: what was received, and the pictures made of it."""
    found = np.stack([scores(picture) for picture in pictures]) if len(rows) else np.zeros((0, CLASSES), np.float32)
    return {
        "scores": found,
        "classes": found.argmax(axis=1).astype(np.int64),
        "digest": objects([digest(row) for row in rows], [len(rows)]),
    }


class Servable:
    """Signatures, and for each a function of its inputs that gives all outputs."""

    def __init__(self, content=False):
        self.content = content
        self.signatures, self.functions = {}, {}

    def add(self, name, inputs, outputs, function, method=PREDICT):
        signature = meta_graph_pb2.SignatureDef(method_name=method)
        for tensors, given in ((signature.inputs, inputs), (signature.outputs, outputs)):
            for alias, (dtype, shape) in given.items():
                tensors[alias].name, tensors[alias].dtype = f"{name}_{alias}:0", types_pb2.DataType.Value(dtype)
                tensors[alias].tensor_shape.SetInParent()
                for size in shape:
                    tensors[alias].tensor_shape.dim.add(size=size)
        self.signatures[name], self.functions[name] = signature, function
        return self

    def tensor(self, alias, proto):
        try:
            return tensor_protos.read(proto)
        except tensor_protos.Unreadable as unreadable:
            raise Refused("INVALID_ARGUMENT", f"tensor parsing error: {alias}") from unreadable
        except tensor_protos.TooLarge as large:
            raise Refused("RESOURCE_EXHAUSTED", f"OOM when allocating tensor: {large}") from large

    def write(self, array):
        return tensor_protos.write(array, self.content)

    def examples(self, pairs):
        return objects([features(*pair) for pair in pairs], [len(pairs)])

    def run(self, name, inputs, aliases):
        signature = self.signatures[name]
        for alias, array in inputs.items():
            expected = signature.inputs[alias]
            sizes = [dim.size for dim in expected.tensor_shape.dim]
            dtype = tensor_protos.DTYPES[array.dtype]
            if dtype != expected.dtype:
                wanted, given = (types_pb2.DataType.Name(each)[3:].lower() for each in (expected.dtype, dtype))
                raise Refused("INVALID_ARGUMENT", f"Expects arg[0] to be {wanted} but {given} is provided")
            if len(sizes) != array.ndim or any(size not in (-1, found) for size, found in zip(sizes, array.shape)):
                raise Refused("INVALID_ARGUMENT", f"Incompatible shapes: {sizes} vs. {list(array.shape)}")
        outputs = self.functions[name](**inputs)
        return {alias: outputs[alias] for alias in aliases}


def classifier(view=lambda picture: picture):
    return lambda images: answers(images, [view(normal(row)) for row in images])


def with_threshold(images, threshold):
    if len(images) != len(threshold):
        raise Refused("INVALID_ARGUMENT", f"Incompatible shapes: [{len(images)},{CLASSES}] vs. [{len(threshold)},1]")
    found = classifier()(images)
    return found | {"scores": np.where(found["scores"] >= threshold, found["scores"], np.float32(0))}


def encoded(image_bytes):
    strings = list(image_bytes)
    return answers(strings, [decoded(each) for each in strings])


def features(context, example):
    """The features of an Example after its context, by TensorFlow's own parser of Examples.

    Of two features of one name the last counts, whole, but an empty one (of no kind) counts as not being there: unlike
    protobuf's own merging, it does not hide the one before it.
    """
    found = {}
    for part in (context, example):
        for name, feature in example_pb2.Example.FromString(part).features.feature.items():
            if feature.WhichOneof("kind"):
                found[name] = feature
    return found


def pictures_of(examples):
    for found in examples:
        values = found[FEATURE].bytes_list.value if FEATURE in found else []
        if len(values) != 1:
            problem = "is required but could not be found" if not values else f"has {len(values)} values, expected 1"
            raise Refused("INVALID_ARGUMENT", f"Name: <unknown>, Feature: {FEATURE} (data type: string) {problem}.")
        yield decoded(values[0])


def classified(inputs):
    found = np.stack([scores(picture) for picture in pictures_of(inputs)])
    return {"scores": found, "classes": objects(LABELS * len(found), [len(found), CLASSES])}


def regressed(inputs):
    return {"outputs": np.array([scores(picture).max() for picture in pictures_of(inputs)], np.float32)}


def upper(text):
    return {"upper": objects([each.upper() for each in text.ravel()], text.shape)}


def batch(dtype, shape=PICTURE):
    return dtype, [-1, *shape]


def of_images(dtype, content=False, view=lambda picture: picture):
    return Servable(content).add(DEFAULT_SIGNATURE, {"images": batch(dtype)}, SCORES, classifier(view))


def pictures_classifier(view):
    """Version 1 and, with `mirrored`, version 2 of `clf`."""
    servable = of_images("DT_FLOAT", view=view).add(
        "mirrored", {"images": batch("DT_FLOAT")}, SCORES, classifier(lambda picture: mirrored(view(picture)))
    )
    labels = {"scores": ("DT_FLOAT", [-1, CLASSES]), "classes": ("DT_STRING", [-1, CLASSES])}
    servable.add("classify", {"inputs": ("DT_STRING", [-1])}, labels, classified, CLASSIFY)
    return servable.add("regress", {"inputs": ("DT_STRING", [-1])}, {"outputs": ("DT_FLOAT", [-1])}, regressed, REGRESS)


def of_types(kinds):
    """A signature for each number type of these kinds, named as TensorFlow names the type."""
    servable = Servable()
    for name in tensor_protos.names(kinds):
        servable.add(name, {"images": batch(name)}, SCORES, classifier())
    return servable


def load():
    plain = lambda picture: picture  # noqa: E731
    threshold = {"images": batch("DT_UINT8"), "threshold": ("DT_FLOAT", [-1, 1])}
    one = {"scores": ("DT_FLOAT", [CLASSES]), "digest": ("DT_STRING", [1])}

    def single(image):
        return {"scores": scores(normal(image)), "digest": objects([digest(image)], [1])}

    return {
        "clf": Model({1: pictures_classifier(plain), 2: pictures_classifier(mirrored)}, {"stable": 1, "canary": 2}),
        "clf_u8": Model({1: of_images("DT_UINT8")}),
        "content": Model({1: of_images("DT_UINT8", content=True)}),
        "floats": Model({1: of_types("fV")}),
        "integers": Model({1: of_types("ui")}),
        "aux": Model({1: Servable().add(DEFAULT_SIGNATURE, threshold, SCORES, with_threshold)}),
        "single": Model({1: Servable().add(DEFAULT_SIGNATURE, {"image": ("DT_FLOAT", list(PICTURE))}, one, single)}),
        "jpeg": Model({1: Servable().add(DEFAULT_SIGNATURE, {"image_bytes": ("DT_STRING", [-1])}, SCORES, encoded)}),
        "text": Model(
            {1: Servable().add(DEFAULT_SIGNATURE, {"text": ("DT_STRING", [-1])}, {"upper": ("DT_STRING", [-1])}, upper)}
        ),
    }
