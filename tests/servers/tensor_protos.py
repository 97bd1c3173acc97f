"""A TensorProto into numbers as TensorFlow reads it (`Tensor::FromProto`), and numbers into a TensorProto; in numpy alone.

The rules, each of which a sidecar that reads otherwise could be tricked with:

- `tensor_content`, where it is not empty, wins over every typed field, and must be exactly as long as the shape says;
- else the type's own typed field counts and no other: values beyond the shape are ignored, the last one is repeated
  where there are fewer, and zeros (or empty strings) stand where there are none;
- narrow integers travel in `int_val` and halves in `half_val`, of which the low bits count;
- a bool in `tensor_content` is a byte of 0 or 1;
- strings in `tensor_content` are all their lengths as varints and then all their bytes;
- `unknown_rank` changes nothing: the dimensions written count, and none is a scalar.
"""

import ml_dtypes
import numpy as np
from tensorflow_messages import tensor_pb2, types_pb2

# Each numeric type's numpy type, the field that its values travel in, and the type that the low bits of a value are read as.
FORMS = {
    types_pb2.DT_FLOAT: (np.float32, "float_val", None),
    types_pb2.DT_DOUBLE: (np.float64, "double_val", None),
    types_pb2.DT_HALF: (np.float16, "half_val", np.uint16),
    types_pb2.DT_BFLOAT16: (ml_dtypes.bfloat16, "half_val", np.uint16),
    types_pb2.DT_UINT8: (np.uint8, "int_val", np.uint8),
    types_pb2.DT_INT8: (np.int8, "int_val", np.uint8),
    types_pb2.DT_UINT16: (np.uint16, "int_val", np.uint16),
    types_pb2.DT_INT16: (np.int16, "int_val", np.uint16),
    types_pb2.DT_INT32: (np.int32, "int_val", None),
    types_pb2.DT_UINT32: (np.uint32, "uint32_val", None),
    types_pb2.DT_INT64: (np.int64, "int64_val", None),
    types_pb2.DT_UINT64: (np.uint64, "uint64_val", None),
    types_pb2.DT_BOOL: (np.bool_, "bool_val", None),
}
DTYPES = {np.dtype(form): number for number, (form, _, _) in FORMS.items()} | {np.dtype(object): types_pb2.DT_STRING}

MOST_DIMENSIONS = 254
STRING_BYTES = 32  # of an empty string, in memory
MOST_BYTES = 1 << 30  # the stand-in's own limit: a size that a caller chose is never allocated unseen


def names(kinds):
    """TensorFlow's names of the number types of these kinds, as numpy has them: `ui` are integers, `fV` are floats."""
    return [types_pb2.DataType.Name(number) for number, (form, _, _) in sorted(FORMS.items()) if np.dtype(form).kind in kinds]


class Unreadable(Exception):
    """TensorFlow does not read this message either."""


class TooLarge(Exception):
    """TensorFlow would try to allocate it."""


def read(proto):
    """The array that TensorFlow makes of `proto`; strings become an array of `bytes` objects."""
    shape, count = measured(proto)
    if proto.dtype == types_pb2.DT_STRING:
        return _strings(proto, count).reshape(shape)
    form, field, bits = FORMS[proto.dtype]
    size = np.dtype(form).itemsize
    if count and proto.tensor_content:
        if len(proto.tensor_content) != count * size:
            raise Unreadable(f"expected {count * size} bytes and found {len(proto.tensor_content)}")
        if form is np.bool_ and max(proto.tensor_content) > 1:
            raise Unreadable("a byte of it is neither true nor false")
        return np.frombuffer(proto.tensor_content, form).reshape(shape)
    given = getattr(proto, field)[:count]
    if bits:
        low = np.array([value & np.iinfo(bits).max for value in given], bits)
        values = low.view(form)
    else:
        values = np.array(list(given), form)
    return _filled(values, count, form).reshape(shape)


def measured(proto):
    """The shape and its number of elements, which are neither impossible nor more than the stand-in would hold."""
    if proto.dtype != types_pb2.DT_STRING and proto.dtype not in FORMS:
        raise Unreadable(f"no tensor of a model here has the type {proto.dtype}")
    shape, count = tuple(dim.size for dim in proto.tensor_shape.dim), 1
    if len(shape) > MOST_DIMENSIONS or any(size < 0 for size in shape):
        raise Unreadable(f"no tensor has the shape {list(shape)}")
    for size in shape:  # as TensorFlow multiplies: an overflow is one even where a later dimension is 0
        count *= size
        if count >= 1 << 63:
            raise Unreadable(f"shape {list(shape)} has too many elements")
    each = STRING_BYTES if proto.dtype == types_pb2.DT_STRING else np.dtype(FORMS[proto.dtype][0]).itemsize
    if count * each > MOST_BYTES:
        raise TooLarge(f"shape {list(shape)} asks for {count * each} bytes")
    return shape, count


def write(array, content=False):
    """`array` as TensorFlow Serving replies it: in the typed field, or with `content` in tensor_content."""
    proto = tensor_pb2.TensorProto(dtype=DTYPES[array.dtype])
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if array.dtype == object:
        strings = list(array.ravel())
        if content:
            proto.tensor_content = b"".join(varint(len(each)) for each in strings) + b"".join(strings)
        else:
            proto.string_val.extend(strings)
    elif content:
        proto.tensor_content = array.tobytes()
    else:
        form, field, bits = FORMS[proto.dtype]
        values = array.ravel()
        values = values.view(np.uint16) if bits and field == "half_val" else values
        getattr(proto, field).extend(values.tolist())
    return proto


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _filled(values, count, form):
    if len(values) == count:
        return values
    last = values[-1] if len(values) else np.zeros(1, form)[0]
    return np.concatenate([values, np.full(count - len(values), last, form)])


def _strings(proto, count):
    if count and proto.tensor_content:
        strings = _string_list(proto.tensor_content, count)
    else:
        strings = list(proto.string_val[:count])
        strings += [strings[-1] if strings else b""] * (count - len(strings))
    array = np.empty(count, object)
    array[:] = strings
    return array


def _string_list(content, count):
    at, sizes = 0, []
    for _ in range(count):
        size, at = _varint(content, at)
        sizes.append(size)
    if sum(sizes) != len(content) - at:
        raise Unreadable(f"expected {sum(sizes)} bytes of strings and found {len(content) - at}")
    strings = []
    for size in sizes:
        strings.append(content[at : at + size])
        at += size
    return strings


def _varint(content, at):
    """A varint of at most five bytes, cut to 32 bits."""
    value = 0
    for index in range(5):
        if at + index >= len(content):
            break
        byte = content[at + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value & 0xFFFFFFFF, at + index + 1
    raise Unreadable("a length does not end")
