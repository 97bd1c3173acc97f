"""One picture in every writing that TensorFlow Serving's messages allow, honest ones and tricks.

`WRITINGS` names functions from an 8-bit RGB picture of 32 x 32 to the bytes of a PredictRequest. Most ask `clf_u8`, whose
picture is 3072 bytes; other types ask `floats` or `integers`, and encoded pictures `jpeg`.
"""

import numpy as np
from predicting import METHODS, TYPES, Predict, array, of_type, png, question
from tensor_protos import varint
from tensorflow_messages import tensor_pb2, types_pb2

PredictRequest = METHODS[Predict][0]
WRITINGS = {}

# Read by TensorFlow, but written by no honest client: a sidecar may refuse them.
REFUSABLE = set()

OTHER = np.full((32, 32, 3), 90, np.uint8)  # what a decoy field holds


def writing(function):
    WRITINGS[function.__name__] = function
    return function


def refusable(function):
    REFUSABLE.add(function.__name__)
    return writing(function)


def edited(change, content=True, model="clf_u8"):
    """The plain request after `change(tensor, picture)`."""

    def write(picture):
        request = question(model, picture, content=content)
        change(next(iter(request.inputs.values())), picture)
        return request.SerializeToString()

    return write


def field(message, name, payload):
    """One length-delimited field as protobuf writes it."""
    return varint(message.DESCRIPTOR.fields_by_name[name].number << 3 | 2) + varint(len(payload)) + payload


def of_tensor(tensor, key=b"images", model="clf_u8"):
    """A PredictRequest around a serialized TensorProto, all by hand."""
    entry = PredictRequest.InputsEntry
    inputs = field(entry, "key", key) + field(entry, "value", tensor)
    return PredictRequest(model_spec={"name": model}).SerializeToString() + field(PredictRequest, "inputs", inputs)


def tensor(picture, content=True):
    return question("clf_u8", picture, content=content).inputs["images"]


def shape(*sizes):
    return tensor_pb2.TensorProto(tensor_shape={"dim": [{"size": size} for size in sizes]}).SerializeToString()


# Which field counts


@writing
def content(picture):
    return question("clf_u8", picture).SerializeToString()


@writing
def typed(picture):
    return question("clf_u8", picture, content=False).SerializeToString()


@writing
def content_with_a_decoy_in_the_typed_field(picture):
    return edited(lambda tensor, _: tensor.int_val.extend(OTHER.ravel().tolist()))(picture)


@writing
def content_with_decoys_in_all_typed_fields(picture):
    def decoys(tensor, _):
        tensor.int_val.extend([1] * 3072)
        tensor.float_val.extend([1] * 3072)
        tensor.half_val.extend([1] * 3072)
        tensor.string_val.append(OTHER.tobytes())

    return edited(decoys)(picture)


@writing
def typed_with_a_decoy_in_another_typed_field(picture):
    return edited(lambda tensor, _: tensor.float_val.extend([0.5] * 3072), content=False)(picture)


@writing
def typed_with_empty_content(picture):
    whole = tensor(picture, content=False).SerializeToString()
    return of_tensor(whole + field(tensor_pb2.TensorProto, "tensor_content", b""))


@writing
def content_twice(picture):
    decoy = field(tensor_pb2.TensorProto, "tensor_content", OTHER.tobytes())
    return of_tensor(decoy + tensor(picture).SerializeToString())


@writing
def content_then_empty_content(picture):
    decoyed = tensor(picture, content=False)
    decoyed.tensor_content = OTHER.tobytes()
    return of_tensor(decoyed.SerializeToString() + field(tensor_pb2.TensorProto, "tensor_content", b""))


# How many values


@writing
def too_many_values(picture):
    return edited(lambda tensor, _: tensor.int_val.extend([7] * 100), content=False)(picture)


@writing
def the_last_value_left_to_the_fill_rule(picture):
    def cut(tensor, picture):
        values = picture.ravel().tolist()
        while len(values) > 1 and values[-1] == values[-2]:
            values.pop()
        tensor.int_val[:] = values

    return edited(cut, content=False)(picture)


def grey_ended(picture):
    """A near-copy whose last two pixels are of one grey, so that there is something which the fill rule can leave out."""
    copy = picture.copy()
    copy[-1, -2:] = copy[-1, -1, 0]
    return copy


# Which bits of a value


def values_plus(offset):
    def change(tensor, picture):
        tensor.int_val[:] = [value + offset for value in picture.ravel().tolist()]

    return edited(change, content=False)


WRITINGS |= {
    "values_plus_256": values_plus(256),
    "values_minus_256": values_plus(-256),
    "values_plus_2_to_the_30": values_plus(1 << 30),
    "values_minus_2_to_the_31": values_plus(-(1 << 31)),
}
REFUSABLE |= {"values_plus_256", "values_minus_256", "values_plus_2_to_the_30", "values_minus_2_to_the_31"}


def by_hand(values, unpacked=False):
    """int_val as varints of any size."""
    number = tensor_pb2.TensorProto.DESCRIPTOR.fields_by_name["int_val"].number
    if unpacked:
        return b"".join(varint(number << 3) + varint(value) for value in values)
    return field(tensor_pb2.TensorProto, "int_val", b"".join(map(varint, values)))


def without_values(picture):
    bare = tensor(picture, content=False)
    del bare.int_val[:]
    return bare.SerializeToString()


@writing
def values_unpacked(picture):
    return of_tensor(without_values(picture) + by_hand(picture.ravel().tolist(), unpacked=True))


@writing
def values_in_two_parts(picture):
    values = picture.ravel().tolist()
    return of_tensor(by_hand(values[:999]) + without_values(picture) + by_hand(values[999:], unpacked=True))


@refusable
def values_as_64_bit_varints(picture):
    return of_tensor(without_values(picture) + by_hand([value + (1 << 40) for value in picture.ravel().tolist()]))


# Shape and type


@writing
def named_dimensions(picture):
    return edited(lambda tensor, _: [setattr(dim, "name", "x") for dim in tensor.tensor_shape.dim])(picture)


@refusable
def unknown_rank_beside_dimensions(picture):
    return edited(lambda tensor, _: setattr(tensor.tensor_shape, "unknown_rank", True))(picture)


@writing
def shape_in_two_parts(picture):
    pixels = tensor_pb2.TensorProto(dtype=types_pb2.DT_UINT8, tensor_content=picture.tobytes()).SerializeToString()
    return of_tensor(shape(1, 32) + pixels + shape(32, 3))


@writing
def type_twice(picture):
    return of_tensor(tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT).SerializeToString() + tensor(picture).SerializeToString())


@writing
def a_version_number(picture):
    return edited(lambda tensor, _: setattr(tensor, "version_number", 77))(picture)


# Around the tensor


@writing
def the_input_twice(picture):
    """Of two entries of a map with one key the last counts, whole."""
    entry = PredictRequest(inputs={"images": tensor(picture)}).SerializeToString()
    return of_tensor(tensor(OTHER, content=False).SerializeToString()) + entry


@writing
def the_input_in_two_values(picture):
    """Two values in one entry of a map are merged."""
    entry = PredictRequest.InputsEntry
    parts = (without_values(picture), by_hand(picture.ravel().tolist()))
    inputs = field(entry, "key", b"images") + b"".join(field(entry, "value", part) for part in parts)
    return PredictRequest(model_spec={"name": "clf_u8"}).SerializeToString() + field(PredictRequest, "inputs", inputs)


@writing
def the_name_after_the_tensor(picture):
    entry = PredictRequest.InputsEntry
    inputs = field(entry, "value", tensor(picture).SerializeToString()) + field(entry, "key", b"images")
    return field(PredictRequest, "inputs", inputs) + PredictRequest(model_spec={"name": "clf_u8"}).SerializeToString()


@writing
def the_model_twice(picture):
    return PredictRequest(model_spec={"name": "clf"}).SerializeToString() + content(picture)


@writing
def the_version_said(picture):
    return question("clf_u8", picture, version=1).SerializeToString()


@writing
def the_default_signature_said(picture):
    return question("clf_u8", picture, signature="serving_default").SerializeToString()


@writing
def the_outputs_said(picture):
    return question("clf_u8", picture, outputs=["scores", "classes", "digest"]).SerializeToString()


@writing
def fields_for_the_servers_own_use(picture):
    """`predict_streamed_options` and `client_id`, which newer servers know and older ones ignore."""
    return content(picture) + b"\x2a\x02\x08\x01" + b"\x32\x01x"


@writing
def an_unknown_field(picture):
    return content(picture) + b"\xfa\x06\x03abc"


@writing
def an_unknown_group(picture):
    return content(picture) + b"\xfb\x06\x08\x01\xfc\x06"


# Every type, in both fields


def both_fields(dtype):
    WRITINGS[f"{dtype}_content"] = lambda picture: of_type(dtype, picture).SerializeToString()
    WRITINGS[f"{dtype}_typed"] = lambda picture: of_type(dtype, picture, content=False).SerializeToString()


for each in TYPES:
    both_fields(each)


def high_bits(dtype):
    def write(picture):
        request = of_type(dtype, picture, content=False)
        values = request.inputs["images"].half_val
        values[:] = [value | 5 << 16 for value in values]
        return request.SerializeToString()

    return write


WRITINGS |= {f"{dtype}_with_high_bits": high_bits(dtype) for dtype in ("DT_HALF", "DT_BFLOAT16")}
REFUSABLE |= {"DT_HALF_with_high_bits", "DT_BFLOAT16_with_high_bits"}


# Encoded pictures


@writing
def string_value(picture):
    return question("jpeg", picture).SerializeToString()


@writing
def string_value_and_more_of_them(picture):
    return edited(lambda tensor, _: tensor.string_val.append(png(OTHER)), model="jpeg")(picture)


def string_list(length):
    def change(tensor, picture):
        encoded = array("jpeg", picture)[0]
        del tensor.string_val[:]
        tensor.tensor_content = length(len(encoded)) + encoded

    return edited(change, model="jpeg")


def padded(value):
    plain = varint(value)
    return plain[:-1] + bytes([plain[-1] | 128, 0])


def beyond_32_bits(value):
    groups = [value >> 7 * index & 127 for index in range(5)]
    return bytes(group | 128 for group in groups[:4]) + bytes([groups[4] | 0x10])


WRITINGS |= {
    "string_in_content": string_list(varint),
    "string_in_content_of_padded_length": string_list(padded),
    "string_in_content_of_length_beyond_32_bits": string_list(beyond_32_bits),
}
REFUSABLE |= {"string_in_content_of_padded_length", "string_in_content_of_length_beyond_32_bits"}


@writing
def string_in_content_with_a_decoy(picture):
    def change(tensor, picture):
        encoded = tensor.string_val.pop()
        tensor.tensor_content = varint(len(encoded)) + encoded
        tensor.string_val.append(png(OTHER))

    return edited(change, model="jpeg")(picture)


def plain_of(name, picture):
    """The plain request that holds the same picture for the same model and signature."""
    request = PredictRequest.FromString(WRITINGS[name](picture))
    if request.model_spec.name in ("floats", "integers"):
        return of_type(request.model_spec.signature_name, picture)
    return question(request.model_spec.name, picture)
