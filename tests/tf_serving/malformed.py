"""Requests that are refused: what is wrong with them, as changes of a plain request about one picture."""

import struct
import zlib

from pictures import photo
from predicting import png, question
from tensorflow_messages import types_pb2

# The server refuses these.
CASES = {}
# The server reads these; Refrain refuses what it cannot or will not see as a picture.
OURS = {}


def case(request):
    CASES[request.__name__] = request
    return request


def image(request):
    return request.inputs["images"]


def shaped(*sizes):
    def change(request):
        del image(request).tensor_shape.dim[:]
        for size in sizes:
            image(request).tensor_shape.dim.add(size=size)

    return change


def typed(change=lambda values: None):
    """The same picture in int_val, which `change` then edits."""

    def make(request):
        values = list(image(request).tensor_content)
        image(request).tensor_content = b""
        image(request).int_val.extend(values)
        change(image(request))

    return make


# Which model


@case
def no_model_spec(request):
    request.ClearField("model_spec")


@case
def no_model_name(request):
    request.model_spec.name = ""


@case
def unknown_model(request):
    request.model_spec.name = "nope"


@case
def unknown_version(request):
    request.model_spec.version.value = 9


@case
def version_zero(request):
    request.model_spec.version.SetInParent()


@case
def negative_version(request):
    request.model_spec.version.value = -1


@case
def unknown_label(request):
    request.model_spec.version_label = "nope"


@case
def empty_label(request):
    request.model_spec.version_label = ""


@case
def unknown_signature(request):
    request.model_spec.signature_name = "nope"


# Inputs and outputs


@case
def no_inputs(request):
    del request.inputs["images"]


@case
def unknown_input(request):
    request.inputs["imag"].CopyFrom(image(request))
    del request.inputs["images"]


@case
def an_input_too_many(request):
    request.inputs["other"].CopyFrom(image(request))


@case
def an_input_without_a_name(request):
    request.inputs[""].CopyFrom(image(request))
    del request.inputs["images"]


@case
def unknown_output(request):
    request.output_filter.append("nope")


@case
def a_known_and_an_unknown_output(request):
    request.output_filter.extend(["scores", "nope"])


@case
def an_output_twice(request):
    request.output_filter.extend(["scores", "scores"])


@case
def an_output_without_a_name(request):
    request.output_filter.append("")


# The tensor


@case
def no_tensor(request):
    image(request).Clear()


@case
def content_too_short(request):
    image(request).tensor_content = image(request).tensor_content[:-1]


@case
def content_too_long(request):
    image(request).tensor_content += b"x"


@case
def content_too_short_beside_all_values(request):
    typed()(request)
    image(request).tensor_content = b"x"


@case
def no_type(request):
    image(request).dtype = types_pb2.DT_INVALID


for number in (types_pb2.DT_FLOAT, types_pb2.DT_INT8, types_pb2.DT_BOOL, types_pb2.DT_QUINT8, types_pb2.DT_STRING, types_pb2.DT_UINT8_REF, 77):
    CASES[f"type_{number}"] = lambda request, number=number: setattr(image(request), "dtype", number)

CASES |= {
    "too_few_lines": shaped(1, 16, 32, 3),
    "no_batch_dimension": shaped(32, 32, 3),
    "one_dimension_more": shaped(1, 1, 32, 32, 3),
    "no_dimensions": shaped(),
    "channels_first": shaped(1, 3, 32, 32),
    "two_rows_but_data_of_one": shaped(2, 32, 32, 3),
    "an_open_batch": shaped(-1, 32, 32, 3),
    "all_open": shaped(-1, -1, -1, -1),
    "two_negatives": shaped(-1, -32, 32, 3),
    "negative_channels": shaped(1, 32, 32, -3),
    "a_shape_that_overflows": shaped(1 << 32, 1 << 32, 32, 3),
    "rows_that_overflow": shaped((1 << 63) - 1, 32, 32, 3),
    "least_rows": shaped(-(1 << 63), 32, 32, 3),
    "rows_whose_bytes_wrap_around": shaped((1 << 64) // 3072 + 1, 32, 32, 3),
    "more_dimensions_than_any_tensor": shaped(*[1] * 255),
}
OURS |= {
    "no_rows": lambda request: (shaped(0, 32, 32, 3)(request), image(request).ClearField("tensor_content")),
    "no_rows_but_data": shaped(0, 32, 32, 3),
}


# Bombs: a small message that stands for a large tensor


def bomb(dtype, field, value, *sizes):
    def make():
        request = question("clf_u8", photo(0))
        shaped(*sizes)(request)
        image(request).dtype, image(request).tensor_content = dtype, b""
        getattr(image(request), field).append(value)
        return request

    return make


def bomb_of_floats(*sizes):
    def make():
        request = bomb(types_pb2.DT_FLOAT, "float_val", 0.5, *sizes)()
        request.model_spec.name = "clf"
        return request

    return make


def encoded_bomb(data):
    def make():
        request = question("jpeg", photo(0))
        request.inputs["image_bytes"].string_val[0] = data
        return request

    return make


def png_of_size(width, height):
    """The photo's PNG with another size in its header, and the header's checksum mended."""
    data = bytearray(png(photo(0)))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def strings(count):
    def make():
        request = question("jpeg", photo(0))
        request.inputs["image_bytes"].tensor_shape.dim[0].size = count
        return request

    return make


BOMBS = {
    "one_float_and_a_plane": bomb_of_floats(100_000, 100_000),
    "one_float_and_many_rows": bomb_of_floats(1_000_000, 32, 32, 3),
    "one_float_and_a_large_picture": bomb_of_floats(1, 100_000, 100_000, 3),
    "one_byte_and_many_rows": bomb(types_pb2.DT_UINT8, "int_val", 5, 1 << 40, 32, 32, 3),
    "one_byte_and_the_most_that_can_be": bomb(types_pb2.DT_UINT8, "int_val", 5, (1 << 63) - 1),
    "one_string_and_many_rows": strings(1 << 40),
    "a_picture_of_60000_by_60000": encoded_bomb(png_of_size(60_000, 60_000)),
}
