"""The stand-in's models as SavedModels that TensorFlow itself made, loads, feeds and runs: its reading is the judge.

The same classifier under the same signatures as in `numpy_models`, the answers' last bits apart. `digest` is in the graph
too: TensorFlow's fingerprint of the row as its own serialization of it.
"""

import tempfile

import grpc
import tensor_protos
import tensorflow as tf
from linear import CLASSES, PICTURE, SIDE, WEIGHTS
from numpy_models import FEATURE, LABELS
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_messages import types_pb2
from tf_serving import CLASSIFY, DEFAULT_SIGNATURE, REGRESS, Model, Refused

SCORE = tf.TensorSpec([CLASSES], tf.float32)
DIGEST = tf.TensorSpec([8], tf.uint8)
IMAGE = tf.TensorSpec(PICTURE, tf.float32)
CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def scores(picture):
    return tf.nn.softmax(tf.reduce_sum(tf.reshape(picture, [-1, 1]) * WEIGHTS, axis=0))


def normal(row):
    return tf.cast(row, tf.float32) / tf.constant(255 if row.dtype.is_integer else 1, tf.float32)


def decoded(encoded):
    picture = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    picture = tf.image.resize(picture, [SIDE, SIDE], "nearest")
    return tf.ensure_shape(normal(picture), PICTURE)


def mirrored(picture):
    return picture[:, ::-1]


def digest(row):
    return tf.reshape(tf.raw_ops.Fingerprint(data=tf.io.serialize_tensor(row)[None, None], method="farmhash64"), [8])


def each(rows, function, spec):
    """Row by row, so that an answer never depends on who shares the batch."""
    return tf.map_fn(function, rows, fn_output_signature=spec)


def answers(rows, picture_of):
    found = each(rows, lambda row: scores(picture_of(row)), SCORE)
    return {"scores": found, "classes": tf.argmax(found, axis=1), "digest": each(rows, digest, DIGEST)}


def signature(function, **inputs):
    specs = {name: tf.TensorSpec(shape, dtype, name=name) for name, (dtype, shape) in inputs.items()}
    return tf.function(function).get_concrete_function(**specs)


def classifier(dtype, view=lambda picture: picture):
    return signature(lambda images: answers(images, lambda row: view(normal(row))), images=(dtype, [None, *PICTURE]))


def with_threshold(images, threshold):
    found = answers(images, normal)
    return found | {"scores": tf.where(found["scores"] >= threshold, found["scores"], 0.0)}


def pictures_of(serialized):
    features = tf.io.parse_example(serialized, {FEATURE: tf.io.FixedLenFeature([], tf.string)})
    return each(features[FEATURE], decoded, IMAGE)


def classified(inputs):
    found = each(pictures_of(inputs), scores, SCORE)
    return {"scores": found, "classes": tf.tile(tf.constant([LABELS]), [tf.shape(found)[0], 1])}


def regressed(inputs):
    return {"outputs": each(pictures_of(inputs), lambda picture: tf.reduce_max(scores(picture)), tf.TensorSpec([], tf.float32))}


class Servable:
    """One SavedModel, written by TensorFlow, its methods named as in a model for Classify and Regress, loaded again."""

    def __init__(self, folder, functions, methods=None, content=False):
        self.content = content
        tf.saved_model.save(tf.Module(), folder, signatures=functions)
        file = f"{folder}/saved_model.pb"
        with open(file, "rb") as written:
            saved = saved_model_pb2.SavedModel.FromString(written.read())
        self.signatures = dict(saved.meta_graphs[0].signature_def)
        for name, method in (methods or {}).items():
            saved.meta_graphs[0].signature_def[name].method_name = method
        with open(file, "wb") as rewritten:
            rewritten.write(saved.SerializeToString())
        self.loaded = tf.saved_model.load(folder)

    def tensor(self, alias, proto):
        try:
            tensor_protos.measured(proto)  # no more than a test machine holds
            return tf.io.parse_tensor(proto.SerializeToString(), tf.dtypes.as_dtype(proto.dtype))
        except tensor_protos.TooLarge as large:
            raise Refused("RESOURCE_EXHAUSTED", f"OOM when allocating tensor: {large}") from large
        except (tensor_protos.Unreadable, tf.errors.OpError, TypeError) as unreadable:
            raise Refused("INVALID_ARGUMENT", f"tensor parsing error: {alias}") from unreadable

    def write(self, array):
        return tensor_protos.write(array, self.content)

    def examples(self, pairs):
        return tf.constant([context + example for context, example in pairs], tf.string)

    def run(self, name, inputs, aliases):
        for alias, tensor in inputs.items():
            expected = self.signatures[name].inputs[alias].dtype
            if tensor.dtype.as_datatype_enum != expected:
                wanted, given = (types_pb2.DataType.Name(each)[3:].lower() for each in (expected, tensor.dtype.as_datatype_enum))
                raise Refused("INVALID_ARGUMENT", f"Expects arg[0] to be {wanted} but {given} is provided")
        try:
            outputs = self.loaded.signatures[name](**inputs)
        except tf.errors.OpError as failure:
            raise Refused(CODES[failure.error_code], failure.message) from failure
        except (TypeError, ValueError) as failure:  # a shape that the signature does not take
            raise Refused("INVALID_ARGUMENT", str(failure)) from failure
        return {alias: outputs[alias].numpy() for alias in aliases}


def load():
    folder = tempfile.mkdtemp(prefix="refrain-saved-models-")
    made = []

    def servable(functions, **options):
        made.append(Servable(f"{folder}/{len(made)}", functions, **options))
        return made[-1]

    def default(function, **options):
        return Model({1: servable({DEFAULT_SIGNATURE: function}, **options)})

    def pictures_classifier(view):
        functions = {
            DEFAULT_SIGNATURE: classifier(tf.float32, view),
            "mirrored": classifier(tf.float32, lambda picture: mirrored(view(picture))),
            "classify": signature(classified, inputs=(tf.string, [None])),
            "regress": signature(regressed, inputs=(tf.string, [None])),
        }
        return servable(functions, methods={"classify": CLASSIFY, "regress": REGRESS})

    def single(image):
        return {"scores": scores(normal(image)), "digest": digest(image)}

    def of_types(kinds):
        return Model({1: servable({name: classifier(tf.dtypes.as_dtype(types_pb2.DataType.Value(name))) for name in tensor_protos.names(kinds)})})

    strings = (tf.string, [None])
    return {
        "clf": Model({1: pictures_classifier(lambda picture: picture), 2: pictures_classifier(mirrored)}, {"stable": 1, "canary": 2}),
        "clf_u8": default(classifier(tf.uint8)),
        "content": default(classifier(tf.uint8), content=True),
        "floats": of_types("fV"),
        "integers": of_types("ui"),
        "aux": default(signature(with_threshold, images=(tf.uint8, [None, *PICTURE]), threshold=(tf.float32, [None, 1]))),
        "single": default(signature(single, image=(tf.float32, PICTURE))),
        "jpeg": default(signature(lambda image_bytes: answers(image_bytes, decoded), image_bytes=strings)),
        "text": default(signature(lambda text: {"upper": tf.strings.upper(text)}, text=strings)),
    }
