"""The light stand-in reads tensors as TensorFlow does: its rules, on which the ordinary tests rest, are TensorFlow's own."""

import numpy as np
import numpy_models
import pytest
import tensor_protos
import tensorflow as tf
from malformed import CASES
from numpy_models import FEATURE
from pictures import photo
from predicting import METHODS, Predict, question
from tensorflow_messages import example_pb2, tensor_pb2, types_pb2
from writings import WRITINGS

REFUSED = "refused"
QUANTIZED = [types_pb2.DT_QUINT8]  # TensorFlow reads it, and refuses it at the model, which takes another type
FIELDS = ["float_val", "double_val", "int_val", "int64_val", "bool_val", "half_val", "uint32_val", "uint64_val", "string_val"]


def by_tensorflow(proto):
    """What `Tensor::FromProto` makes of it: type, shape and values; or that it refuses."""
    try:
        tensor = tf.io.parse_tensor(proto.SerializeToString(), tf.dtypes.as_dtype(proto.dtype)).numpy()
    except (tf.errors.OpError, TypeError):
        return REFUSED
    if proto.dtype == types_pb2.DT_STRING:
        array = np.array(tensor, object)
        return "string", array.shape, array.ravel().tolist()
    return REFUSED if proto.dtype in QUANTIZED else seen(tensor)


def by_the_stand_in(proto):
    try:
        tensor = tensor_protos.read(proto)
    except tensor_protos.Unreadable:
        return REFUSED
    return ("string", tensor.shape, tensor.ravel().tolist()) if tensor.dtype == object else seen(tensor)


def seen(tensor):
    return tensor.dtype.name, tensor.shape, tensor.tobytes()


@pytest.mark.parametrize("name", WRITINGS)
def test_both_read_every_writing_alike(name):
    request = METHODS[Predict][0].FromString(WRITINGS[name](photo(3)))
    for proto in request.inputs.values():
        assert by_the_stand_in(proto) == by_tensorflow(proto) != REFUSED


@pytest.mark.parametrize("name", CASES)
def test_both_read_or_refuse_every_malformed_tensor_alike(name):
    request = question("clf_u8", photo(3))
    CASES[name](request)
    for proto in request.inputs.values():
        assert by_the_stand_in(proto) == by_tensorflow(proto)


def random_tensor(random):
    """A small TensorProto in which anything may be missing, surplus, or at odds with the rest."""
    proto = tensor_pb2.TensorProto(dtype=int(random.choice([*tensor_protos.FORMS, types_pb2.DT_STRING])))
    for _ in range(random.integers(4)):
        proto.tensor_shape.dim.add(size=int(random.choice([0, 1, 2, 3, -1], p=[0.1, 0.3, 0.3, 0.28, 0.02])))
    proto.tensor_shape.unknown_rank = bool(random.random() < 0.1)
    for field in random.choice(FIELDS, random.integers(3), replace=False):
        add(proto, field, random)
    if proto.dtype in tensor_protos.FORMS and random.random() < 0.7:
        add(proto, tensor_protos.FORMS[proto.dtype][1], random)
    if random.random() < 0.4:
        proto.tensor_content = content(proto, random)
    return proto


def add(proto, field, random):
    numbers = [int(number) for number in random.integers(-(2**31), 2**31, random.integers(6))]
    make = {
        "string_val": lambda number: str(number).encode(),
        "bool_val": lambda number: number > 0,
        "uint32_val": abs,
        "uint64_val": abs,
        "float_val": lambda number: number / 7,
        "double_val": lambda number: number / 7,
    }
    getattr(proto, field).extend(make.get(field, lambda number: number)(number) for number in numbers)


def content(proto, random):
    """As long as the shape says, or not; for strings a list of lengths and bytes, whole or broken."""
    count = int(np.prod([dim.size for dim in proto.tensor_shape.dim]))
    if proto.dtype == types_pb2.DT_STRING:
        strings = [random.bytes(random.integers(5)) for _ in range(max(count, 0))]
        whole = b"".join(tensor_protos.varint(len(each)) for each in strings) + b"".join(strings)
    else:
        size = np.dtype(tensor_protos.FORMS[proto.dtype][0]).itemsize
        whole = random.bytes(max(count, 0) * size)
        if proto.dtype == types_pb2.DT_BOOL and random.random() < 0.7:
            whole = bytes(byte & 1 for byte in whole)
    return whole + b"x" if random.random() < 0.1 else whole[:-1] if random.random() < 0.1 else whole


def test_both_read_or_refuse_thousands_of_random_tensors_alike():
    random = np.random.default_rng(20)
    refused = 0
    for _ in range(5000):
        proto = random_tensor(random)
        expected = by_tensorflow(proto)
        assert by_the_stand_in(proto) == expected, proto
        refused += expected == REFUSED
    assert 100 < refused < 2500


PARTS = {
    "nothing": None,
    "empty": {},
    "empty_list": {"bytes_list": {}},
    "one": {"bytes_list": {"value": [b"one"]}},
    "another": {"bytes_list": {"value": [b"another"]}},
    "two": {"bytes_list": {"value": [b"one", b"another"]}},
    "a_number": {"float_list": {"value": [1.0]}},
}


def part(name):
    feature = {} if PARTS[name] is None else {FEATURE: PARTS[name]}
    return example_pb2.Example(features={"feature": feature}).SerializeToString()


@pytest.mark.parametrize("own", PARTS)
@pytest.mark.parametrize("context", PARTS)
def test_both_read_or_refuse_every_example_after_a_context_alike(context, own):
    """The stand-in takes exactly one value of bytes."""
    try:
        features = {FEATURE: tf.io.FixedLenFeature([], tf.string)}
        expected = tf.io.parse_example([part(context) + part(own)], features)[FEATURE].numpy().tolist()
    except tf.errors.OpError:
        expected = REFUSED
    found = numpy_models.features(part(context), part(own))
    values = list(found[FEATURE].bytes_list.value) if FEATURE in found else []
    assert (values if len(values) == 1 else REFUSED) == expected
