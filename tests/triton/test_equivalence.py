"""A table of requests, each a writing of one picture that Triton reads: Refrain reads the same.

The digest models answer with what they received. So for each row: Triton itself receives what it receives from the plain
writing; as a new picture the request gets Triton's own reply through Refrain; as a near-copy of what was asked plainly it
gets the first answer, and the model is not asked; and another picture so written is forwarded.
Requests that Triton refuses stand in a second table, and in `test_malformed.py`.
"""

import pathlib
import re

import digests
import forms
import numpy as np
import pytest
import test_differentials
import test_malformed
from asking import pb
from pictures import one_pixel, photo
from test_differentials import field, varint

PICTURE = photo(3)
NEAR = one_pixel(PICTURE, seed=5)
OTHER = photo(7)
TENSOR = pb.ModelInferRequest.InferInputTensor
NARROW = {"UINT8": 2**8, "UINT16": 2**16, "INT8": 2**8, "INT16": 2**16}
VARINTS = ("UINT8", "UINT16", "UINT32", "INT8", "INT16", "INT32", "UINT64", "INT64")


def edited(change):
    def write(request):
        change(request)
        return request.SerializeToString()

    return write


def plain(request):
    return request.SerializeToString()


def typed(request):
    copy = forms.typed(request)
    return copy and copy.SerializeToString()


def with_contents(request, *parts):
    """The request with `parts` as the occurrences of `contents`."""
    shell = TENSOR(name="image", datatype=request.inputs[0].datatype, shape=request.inputs[0].shape)
    tensor = shell.SerializeToString() + b"".join(field(TENSOR, "contents", part) for part in parts)
    return pb.ModelInferRequest(model_name=request.model_name, id=request.id).SerializeToString() + field(pb.ModelInferRequest, "inputs", tensor)


def values(request):
    """The typed values as Python numbers (or bytes), and the field that holds them."""
    copy = forms.typed(request)
    if copy is None:
        return None, None
    ((found, held),) = copy.inputs[0].contents.ListFields()
    return found, list(held)


def in_two_parts(request):
    found, held = values(request)
    if found is None or len(held) < 2:
        return None
    halves = held[: len(held) // 3], held[len(held) // 3 :]
    return with_contents(request, *(pb.InferTensorContents(**{found.name: half}).SerializeToString() for half in halves))


def unpacked(request):
    found, held = values(request)
    if found is None:
        return None
    if request.inputs[0].datatype in VARINTS:
        return with_contents(request, b"".join(varint(found.number << 3) + varint(value % 2**64) for value in held))
    if request.inputs[0].datatype in ("FP32", "FP64"):
        wire_type, kind = (5, np.float32) if request.inputs[0].datatype == "FP32" else (1, np.float64)
        return with_contents(request, b"".join(varint(found.number << 3 | wire_type) + kind(value).tobytes() for value in held))
    return None


def plus(multiple):
    """Values that only their least significant bytes are read of."""

    def write(request):
        found, held = values(request)
        modulus = NARROW.get(request.inputs[0].datatype)
        if modulus is None:
            return None
        packed = b"".join(varint((value + multiple * modulus) % 2**64) for value in held)
        return with_contents(request, field(pb.InferTensorContents, found.name, packed))

    return write


def beyond_32_bits(request):
    """A varint may carry 64 bits where the field has 32: the upper ones are dropped."""
    found, held = values(request)
    if request.inputs[0].datatype not in ("UINT8", "UINT16", "UINT32", "INT8", "INT16", "INT32"):
        return None
    packed = b"".join(varint((value + 5 * 2**40) % 2**64) for value in held)
    return with_contents(request, field(pb.InferTensorContents, found.name, packed))


def rewritten(*changes):
    """The input's own fields written by hand: `changes` stand before the true ones, which come last and win."""

    def write(request):
        tensor = b"".join(changes) + request.inputs[0].SerializeToString()
        out = pb.ModelInferRequest(model_name=request.model_name, id=request.id).SerializeToString()
        return out + field(pb.ModelInferRequest, "inputs", tensor) + field(pb.ModelInferRequest, "raw_input_contents", request.raw_input_contents[0])

    return write


def shape_written(write_shape):
    def write(request):
        tensor = request.inputs[0]
        shell = TENSOR(name=tensor.name, datatype=tensor.datatype).SerializeToString() + write_shape(list(tensor.shape))
        out = pb.ModelInferRequest(model_name=request.model_name, id=request.id).SerializeToString()
        return out + field(pb.ModelInferRequest, "inputs", shell) + field(pb.ModelInferRequest, "raw_input_contents", request.raw_input_contents[0])

    return write


SHAPE = TENSOR.DESCRIPTOR.fields_by_name["shape"].number


def shape_unpacked(dims):
    return b"".join(varint(SHAPE << 3) + varint(each) for each in dims)


def shape_in_two_parts(dims):
    return shape_unpacked(dims[:1]) + field(TENSOR, "shape", b"".join(map(varint, dims[1:])))


def long_varints(dims):
    """Varints with zeros in front, as no writer writes them."""
    return field(TENSOR, "shape", b"".join(bytes([each & 127 | 128, each >> 7 | 128, 0]) for each in dims))


def parameters(*pairs):
    """Request parameters as given, the same key again where it stands again."""

    def write(request):
        entries = b""
        for key, value in pairs:
            entry = field(pb.ModelInferRequest.ParametersEntry, "key", key.encode())
            entry += field(pb.ModelInferRequest.ParametersEntry, "value", value.SerializeToString())
            entries += field(pb.ModelInferRequest, "parameters", entry)
        return request.SerializeToString() + entries

    return write


def number(value):
    return pb.InferParameter(int64_param=value)


def outputs(*names):
    return edited(lambda request: [request.outputs.add(name=name) for name in names])


def in_reverse(request):
    tensors = [field(pb.ModelInferRequest, "inputs", tensor.SerializeToString()) for tensor in request.inputs]
    raw = [field(pb.ModelInferRequest, "raw_input_contents", each) for each in request.raw_input_contents]
    name = field(pb.ModelInferRequest, "model_name", request.model_name.encode())
    return b"".join([*raw, *tensors, field(pb.ModelInferRequest, "id", request.id.encode()), name])


WRITINGS = {
    "raw": plain,
    "typed": typed,
    "typed_in_two_parts": in_two_parts,
    "typed_unpacked": unpacked,
    "values_beyond_their_type": plus(1),
    "values_far_beyond_their_type": plus(2**10),
    "values_below_their_type": plus(-3),
    "values_beyond_32_bits": beyond_32_bits,
    "extra_data": edited(lambda request: request.raw_input_contents.append(bytes(3072))),
    "extra_empty_data": edited(lambda request: request.raw_input_contents.append(b"")),
    "fields_in_reverse": in_reverse,
    "model_named_twice": lambda request: field(pb.ModelInferRequest, "model_name", b"two") + plain(request),
    "version_named_twice": lambda request: field(pb.ModelInferRequest, "model_version", b"9") + plain(request) + field(pb.ModelInferRequest, "model_version", b"1"),
    "id_twice": lambda request: field(pb.ModelInferRequest, "id", b"other") + plain(request),
    "version": edited(lambda request: setattr(request, "model_version", "1")),
    "version_with_zeros": edited(lambda request: setattr(request, "model_version", "001")),
    "version_with_letters": edited(lambda request: setattr(request, "model_version", "1x")),
    "input_named_twice": rewritten(field(TENSOR, "name", b"nope")),
    "datatype_named_twice": rewritten(field(TENSOR, "datatype", b"BOOL")),
    "unknown_field_in_the_input": rewritten(b"\xfa\x06\x03abc"),
    "unknown_group_in_the_input": rewritten(b"\xfb\x06\x08\x01\xfc\x06"),
    "shape_unpacked": shape_written(shape_unpacked),
    "shape_in_two_parts": shape_written(shape_in_two_parts),
    "shape_in_long_varints": shape_written(long_varints),
    "unknown_field": lambda request: plain(request) + b"\xfa\x06\x03abc",
    "unknown_group": lambda request: plain(request) + b"\xfb\x06\x08\x01\xfc\x06",
    "unknown_fixed_fields": lambda request: b"\xf9\x06" + bytes(8) + b"\xfd\x06" + bytes(4) + plain(request),
    "a_parameter_twice": parameters(("x", number(1)), ("x", pb.InferParameter(string_param="y"))),
    "a_wrong_parameter_made_good": parameters(("priority", number(-1)), ("priority", number(1))),
    "an_empty_key": parameters(("", number(1))),
    "a_sequence_on_a_model_without": parameters(("sequence_id", number(7)), ("sequence_start", pb.InferParameter(bool_param=True))),
    "every_output": outputs("probabilities", "digest", "pixels"),
    "one_output": outputs("digest"),
    "an_output_twice": outputs("digest", "digest"),
    "an_output_with_a_parameter": edited(lambda request: request.outputs.add(name="digest").parameters["x"].MergeFrom(number(1))),
    "an_input_with_a_parameter": edited(lambda request: request.inputs[0].parameters["x"].MergeFrom(number(1))),
}

# All writings for these, and those of the values for every other form.
THOROUGHLY = ("digest_uint8", "digest_fp32", "digest_chw", "encoded")
OF_VALUES = ("raw", "typed", "typed_in_two_parts", "typed_unpacked", "values_beyond_their_type", "values_below_their_type", "values_beyond_32_bits")


def asked_plainly(model, picture):
    if model == "encoded":
        return forms.files(forms.file(picture, "PNG"), id="q")
    return forms.question(model, picture, id="q")


ROWS = [
    (model, name)
    for model in [*digests.FORMS, "encoded"]
    for name, write in WRITINGS.items()
    if (model in THOROUGHLY or name in OF_VALUES) and write(asked_plainly(model, PICTURE)) is not None
]


@pytest.mark.parametrize("model, name", ROWS)
def test_a_writing_is_read_as_the_server_reads_it(refrain, clients, direct, asked, model, name):
    write = WRITINGS[name]
    expected = direct.infer(write(asked_plainly(model, PICTURE)))
    other = direct.infer(write(asked_plainly(model, OTHER)))
    received = forms.output(direct.infer(asked_plainly(model, PICTURE)), "digest")
    assert forms.output(expected, "digest") == received, "Triton reads what was meant"

    proxy = refrain(tables=digests.settings())
    fresh, known = (clients(proxy, user=user) for user in ("fresh", "known"))
    with asked(model) as reached:
        assert fresh.infer(write(asked_plainly(model, PICTURE))) == expected
        assert known.infer(asked_plainly(model, PICTURE)).code == "OK"
    assert reached.requests == 2
    with asked(model) as reached:
        assert known.infer(write(asked_plainly(model, NEAR))) == expected
        assert fresh.infer(asked_plainly(model, NEAR)).code == "OK"
    assert reached.requests == 0
    with asked(model) as reached:
        assert known.infer(write(asked_plainly(model, OTHER))) == other
    assert reached.requests == 1


# What Triton refuses


def raw(*parts):
    """A file's request with these bytes for its raw contents."""

    def write(request):
        contents = forms.elements(request.raw_input_contents[0])[0]
        request.raw_input_contents[0] = b"".join(part(contents) if callable(part) else part for part in parts)
        return request.SerializeToString()

    return write


def prefixed(by=0):
    return lambda contents: (len(contents) + by).to_bytes(4, "little") + contents


def repeated(times):
    def write(request):
        copy = forms.typed(request)
        copy.inputs[0].contents.bytes_contents[:] = list(copy.inputs[0].contents.bytes_contents) * times
        return copy.SerializeToString()

    return write


def shaped(*shape):
    return edited(lambda request: request.inputs[0].shape.__setitem__(slice(None), shape))


def in_field(name, values):
    def write(request):
        del request.raw_input_contents[:]
        getattr(request.inputs[0].contents, name).extend(values)
        return request.SerializeToString()

    return write


REFUSED = {
    ("encoded", "a_length_too_long"): raw(prefixed(1)),
    ("encoded", "a_length_too_short"): raw(prefixed(-1)),
    ("encoded", "the_longest_length"): raw(b"\xff\xff\xff\xff", lambda contents: contents),
    ("encoded", "no_length"): raw(lambda contents: contents),
    ("encoded", "half_a_length"): raw(b"\x05\0"),
    ("encoded", "nothing"): raw(b""),
    ("encoded", "two_elements_for_one_row"): raw(prefixed(), prefixed()),
    ("encoded", "an_element_and_junk"): raw(prefixed(), b"junk"),
    ("encoded", "an_element_and_an_empty_one"): raw(prefixed(), b"\0\0\0\0"),
    ("encoded", "two_typed_elements_for_one_row"): repeated(2),
    ("encoded", "no_typed_element"): repeated(0),
    ("encoded", "two_elements_in_a_row"): shaped(1, 2),
    ("encoded", "no_dimension_but_the_batch"): shaped(1),
    ("encoded", "too_many_rows"): shaped(17, 1),
    ("encoded", "numbers_for_a_file"): in_field("uint_contents", [1]),
    ("encoded", "another_type"): edited(lambda request: setattr(request.inputs[0], "datatype", "UINT8")),
    ("digest_fp16", "halves_as_floats"): in_field("fp32_contents", [0.5] * 3072),
    ("digest_bf16", "brain_floats_as_floats"): in_field("fp32_contents", [0.5] * 3072),
    ("digest_bf16", "halves_for_brain_floats"): edited(lambda request: setattr(request.inputs[0], "datatype", "FP16")),
    ("digest_int8", "signed_in_the_unsigned_field"): in_field("uint_contents", [1] * 3072),
    ("digest_uint16", "unsigned_in_the_signed_field"): in_field("int_contents", [1] * 3072),
    ("digest_int64", "wide_in_the_narrow_field"): in_field("int_contents", [1] * 3072),
    ("digest_uint64", "unsigned_in_the_signed_wide_field"): in_field("int64_contents", [1] * 3072),
    ("digest_fp64", "doubles_as_floats"): in_field("fp32_contents", [0.5] * 3072),
    ("digest_fp32", "too_few_values"): in_field("fp32_contents", [0.5]),
    ("digest_hw", "a_channel_too_many"): shaped(1, 32, 32, 1),
    ("digest_rgba", "three_channels"): shaped(1, 32, 32, 3),
    ("digest_chw", "a_batch_dimension_too_many"): shaped(1, 3, 32, 32),
    ("digest_any", "another_number_of_channels"): shaped(1, 32, 24, 4),
    ("digest_any", "more_lines_than_there_is_data"): shaped(1, 33, 32, 3),
    ("digest_any", "sides_that_overflow"): shaped(1, 2**31, 2**31, 3),
    ("digest_any", "no_lines"): shaped(1, 0, 32, 3),
    ("digest_uint8", "a_good_parameter_made_wrong"): parameters(("priority", number(1)), ("priority", number(-1))),
    ("digest_uint8", "a_wrong_model_last"): lambda request: plain(request) + field(pb.ModelInferRequest, "model_name", b"nope"),
    ("digest_uint8", "a_wrong_version_last"): lambda request: plain(request) + field(pb.ModelInferRequest, "model_version", b"9"),
}


@pytest.mark.parametrize("model, name", REFUSED)
def test_what_the_server_refuses_is_refused_alike_on_a_miss_and_on_a_hit(refrain, clients, direct, asked, model, name):
    write = REFUSED[model, name]
    expected = direct.infer(write(asked_plainly(model, NEAR)))
    assert expected.code != "OK"
    proxy = refrain(tables=digests.settings())
    fresh, known = (clients(proxy, user=user) for user in ("fresh", "known"))
    assert known.infer(asked_plainly(model, PICTURE)).code == "OK"
    with asked(model) as reached:
        replies = [client.infer(write(asked_plainly(model, NEAR))) for client in (fresh, known)]
    assert {reply.code for reply in replies} == {expected.code}, replies
    assert replies[0] == replies[1], "no reply tells whether the picture was known"
    assert reached.rows == 0


def test_the_readme_counts_the_rows():
    text = (pathlib.Path(__file__).resolve().parents[1] / "README.md").read_text()
    said = re.search(r"\*\*(\d+) requests\*\*: (\d+) writings of a picture, and (\d+) that Triton refuses", text)
    assert [int(number) for number in said.groups()] == [len(ROWS) + len(REFUSED), len(ROWS), len(REFUSED)]
    more = re.search(r"(\d+) more that Triton refuses, and (\d+) more writings and framings", text)
    refused, writings = len(test_malformed.CASES) + len(test_malformed.BROKEN), len(test_differentials.WRITINGS) + len(test_differentials.FRAMINGS)
    assert [int(number) for number in more.groups()] == [refused, writings]
