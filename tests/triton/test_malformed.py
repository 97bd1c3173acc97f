"""Requests that Triton refuses are refused alike: on a picture that would be forwarded, and on one that would be replayed.

A hit must not succeed where a miss would fail, or its success tells that the model was not asked.
"""

import concurrent.futures

import numpy as np
import pytest
import wire
from asking import SERVICE, pb, question, typed
from pictures import drawn, one_pixel, photo

CASES = {}


def case(request):
    CASES[request.__name__] = request
    return request


def changed(field, *values):
    """A change of a part of the request's first input."""

    def change(request):
        target = getattr(request.inputs[0], field)
        target[:] = values

    return change


# Which model


@case
def unknown_model(request):
    request.model_name = "nope"


@case
def empty_model_name(request):
    request.model_name = ""


@case
def unknown_version(request):
    request.model_version = "9"


@case
def version_zero(request):
    request.model_version = "0"


@case
def version_that_is_no_number(request):
    request.model_version = "x"


@case
def negative_version(request):
    request.model_version = "-1"


@case
def version_too_large(request):
    request.model_version = str(2**63)


# Shape and type

for name, shape in {
    "too_few_lines": [1, 16, 32, 3],
    "no_batch_dimension": [32, 32, 3],
    "one_dimension_more": [1, 1, 32, 32, 3],
    "no_shape": [],
    "rank_one": [1],
    "channels_first": [1, 3, 32, 32],
    "a_billion_rows": [10**9, 32, 32, 3],
    "shape_that_overflows": [2**32, 2**32, 32, 3],
    "rows_that_overflow": [2**63 - 1, 32, 32, 3],
    "rows_whose_bytes_overflow": [2**64 // 3072 + 1, 32, 32, 3],
    "minus_one_row": [-1, 32, 32, 3],
    "minus_two_rows": [-2, 32, 32, 3],
    "negative_sides": [1, -32, -32, 3],
    "negative_channels": [1, 32, 32, -3],
    "two_negatives": [-1, -32, 32, 3],
    "open_dimensions": [1, -1, -1, -1],
    "no_rows_but_data": [0, 32, 32, 3],
    "two_rows_but_data_of_one": [2, 32, 32, 3],
    "least_rows": [-(2**63), 32, 32, 3],
}.items():
    CASES[name] = changed("shape", *shape)

for name, dtype in {
    "other_datatype": "FP32",
    "same_size_datatype": "INT8",
    "bool_datatype": "BOOL",
    "lower_case_datatype": "uint8",
    "unknown_datatype": "FOO",
    "no_datatype": "",
    "config_spelling_of_datatype": "TYPE_UINT8",
}.items():
    CASES[name] = lambda request, dtype=dtype: setattr(request.inputs[0], "datatype", dtype)


@case
def one_row_too_many(request):
    request.inputs[0].shape[0] = 17
    request.raw_input_contents[0] *= 17


# Data


@case
def zero_rows(request):
    request.inputs[0].shape[0] = 0
    request.raw_input_contents[0] = b""


@case
def zero_rows_without_data(request):
    request.inputs[0].shape[0] = 0
    del request.raw_input_contents[:]


@case
def data_too_short(request):
    request.raw_input_contents[0] = request.raw_input_contents[0][:100]


@case
def data_too_long(request):
    request.raw_input_contents[0] += b"x"


@case
def empty_data(request):
    request.raw_input_contents[0] = b""


@case
def no_data(request):
    del request.raw_input_contents[:]


@case
def the_data_comes_second(request):
    request.raw_input_contents.insert(0, b"")


@case
def raw_and_typed(request):
    request.inputs[0].contents.uint_contents.extend(request.raw_input_contents[0])


@case
def raw_and_empty_typed(request):
    request.inputs[0].contents.SetInParent()


def in_typed_contents(change):
    def make(request):
        request.CopyFrom(typed(request))
        change(request.inputs[0].contents)

    return make


def move(field):
    def change(contents):
        values = [type(getattr(pb.InferTensorContents(**{field: [1]}), field)[0])(each) for each in contents.uint_contents]
        del contents.uint_contents[:]
        getattr(contents, field).extend(values)

    return in_typed_contents(change)


CASES |= {
    "too_many_values": in_typed_contents(lambda contents: contents.uint_contents.append(1)),
    "too_few_values": in_typed_contents(lambda contents: contents.uint_contents.pop()),
    "no_values": in_typed_contents(lambda contents: contents.ClearField("uint_contents")),
    "empty_contents": in_typed_contents(lambda contents: (contents.Clear(), contents.SetInParent())),
    "values_of_two_types": in_typed_contents(lambda contents: contents.int_contents.append(3)),
    "values_and_a_float": in_typed_contents(lambda contents: contents.fp32_contents.append(3)),
    "values_and_bytes": in_typed_contents(lambda contents: contents.bytes_contents.append(b"3")),
    "signed_values": move("int_contents"),
    "wide_values": move("int64_contents"),
    "wide_unsigned_values": move("uint64_contents"),
    "float_values": move("fp32_contents"),
    "double_values": move("fp64_contents"),
    "bool_values": move("bool_contents"),
    "bytes_values": in_typed_contents(
        lambda contents: (contents.bytes_contents.append(bytes(contents.uint_contents)), contents.ClearField("uint_contents"))
    ),
}


# Inputs and outputs


@case
def no_inputs(request):
    del request.inputs[:]


@case
def unknown_input(request):
    request.inputs[0].name = "imag"


@case
def nameless_input(request):
    request.inputs[0].name = ""


@case
def extra_input(request):
    request.inputs.add(name="other", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(bytes(4))


@case
def extra_input_without_data(request):
    request.inputs.add(name="other", datatype="FP32", shape=[1, 1])


@case
def the_input_twice(request):
    request.inputs.add().CopyFrom(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])


@case
def the_input_twice_with_data_once(request):
    request.inputs.add().CopyFrom(request.inputs[0])


@case
def unknown_output(request):
    request.outputs.add(name="nope")


@case
def a_known_and_an_unknown_output(request):
    request.outputs.add(name="probabilities")
    request.outputs.add(name="nope")


@case
def nameless_output(request):
    request.outputs.add(name="")


def classification(**value):
    def change(request):
        parameter = request.outputs.add(name="probabilities").parameters["classification"]
        for field, each in value.items():
            setattr(parameter, field, each)

    return change


CASES |= {
    "no_classes": classification(int64_param=0),
    "minus_one_class": classification(int64_param=-1),
    "classes_as_text": classification(string_param="3"),
    "classes_as_bool": classification(bool_param=True),
    "classes_unsigned": classification(uint64_param=3),
}


# Shared memory, whose pixels a sidecar cannot see


@case
def shared_memory_that_is_not_there(request):
    no_data(request)
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    request.inputs[0].parameters["shared_memory_byte_size"].int64_param = 3072


@case
def shared_memory_without_size(request):
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"


@case
def shared_memory_size_without_region(request):
    request.inputs[0].parameters["shared_memory_byte_size"].int64_param = 3072


@case
def shared_memory_offset_without_region(request):
    request.inputs[0].parameters["shared_memory_offset"].int64_param = 0


@case
def shared_memory_for_the_output(request):
    parameters = request.outputs.add(name="probabilities").parameters
    parameters["shared_memory_region"].string_param = "r"
    parameters["shared_memory_byte_size"].int64_param = 40


# Parameters


def parameter(key, **value):
    def change(request):
        for field, each in value.items():
            setattr(request.parameters[key], field, each)
        if not value:
            request.parameters[key].SetInParent()

    return change


CASES |= {
    "reserved_parameter": parameter("triton_x", string_param="x"),
    "reserved_parameter_of_another_type": parameter("triton_enable_empty_final_response", int64_param=1),
    "unsigned_parameter": parameter("foo", uint64_param=3),
    "parameter_without_value": parameter("foo"),
    "unsigned_sequence": parameter("sequence_id", uint64_param=7),
    "bool_sequence": parameter("sequence_id", bool_param=True),
    "sequence_start_as_number": parameter("sequence_start", int64_param=1),
    "sequence_end_as_text": parameter("sequence_end", string_param="1"),
    "negative_priority": parameter("priority", int64_param=-1),
    "priority_as_text": parameter("priority", string_param="1"),
    "unsigned_timeout": parameter("timeout", uint64_param=5),
    "timeout_as_text": parameter("timeout", string_param="1"),
}

# What is no request at all

BROKEN = {
    "truncated": lambda body: body[:-5],
    "cut_in_the_first_field": lambda body: body[:3],
    "garbage": lambda body: b"\xff" * 20,
    "field_number_zero": lambda body: body + b"\x00\x01",
    "text_that_is_not_utf8": lambda body: body + b"\x1a\x02\xff\xfe",
    "endless_varint": lambda body: body + b"\x08" + b"\xff" * 11,
}

# Refrain refuses these itself, in its own words. It cannot see shared memory; it reads protobuf with another library; and
# Triton cuts the number of rows to 32 bits and takes 0 for "no batch", so a count out of range must never reach it.
ROWS_OUT_OF_RANGE = {
    *("shape_that_overflows", "rows_that_overflow", "rows_whose_bytes_overflow", "minus_one_row", "minus_two_rows"),
    *("two_negatives", "no_rows_but_data", "least_rows", "zero_rows", "zero_rows_without_data"),
}
OWN_WORDS = {"shared_memory_that_is_not_there", "shared_memory_for_the_output", *BROKEN, *ROWS_OUT_OF_RANGE}
OWN_CODE = {"no_rows_but_data": "INVALID_ARGUMENT", "least_rows": "INVALID_ARGUMENT"}  # these fail inside Triton's model


def request_of(name, picture):
    if name in BROKEN:
        return BROKEN[name](question("clf_u8", picture).SerializeToString())
    request = question("clf_u8", picture, id="q")
    CASES[name](request)
    return request


# What Triton refuses before it looks at the question, by the call's headers or since its decoder reads less than ours: how the
# call differs from an ordinary one.
ODD = {
    "truncated": {"change": BROKEN["truncated"]},
    "a_key_of_six_bytes": {"change": lambda body: body + b"\xa0\x86\x80\x80\x80\x00\x05"},
    "a_length_of_six_bytes": {"change": lambda body: body + b"\xa2\x06\x81\x80\x80\x80\x80\x00x"},
    "a_timeout_that_is_none": {"headers": [("grpc-timeout", "abc")]},
    "no_base64": {"headers": [("x-a-bin", "!!!")]},
    "base64_with_bits_left_over": {"headers": [("x-a-bin", "YR==")]},
    "a_name_that_grpc_does_not_allow": {"headers": [("x!", "a")]},
    "a_cost_of_its_own": {"headers": [("lb-cost-bin", "AAAA")]},
    "attempts_that_are_no_number": {"headers": [("grpc-previous-rpc-attempts", "x")]},
    "no_te": {"te": None},
    "another_content_type": {"content_type": "application/json"},
}


def odd_call(port, picture, user, change=lambda body: body, headers=(), **options):
    body = wire.message(change(question("clf_u8", picture).SerializeToString()))
    return wire.call(port, SERVICE + "ModelInfer", body, headers=[("x-user", user), *headers], **options)


@pytest.mark.parametrize("name", ODD)
def test_calls_that_the_server_refuses_unread_break_no_other_callers_calls(refrain, clients, name):
    """Triton ends such a call several times over, which HTTP/2 takes for an error of the whole connection to it."""
    proxy = refrain()
    alice = clients(proxy, user="alice")

    def pester(caller):
        return [odd_call(proxy.port, photo(0), f"mallory-{caller}", **ODD[name]).status for _ in range(20)]

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        pestering = [pool.submit(pester, caller) for caller in range(2)]
        codes = [alice.ask("clf_u8", drawn(number)).code for number in range(75)]
        refused = {status for pestered in pestering for status in pestered.result()}
    assert set(codes) == {"OK"}
    assert 0 not in refused


@pytest.mark.parametrize("name", ODD)
def test_what_the_server_refuses_unread_is_refused_for_known_pictures_too(proxied, direct, name):
    assert proxied.ask("clf_u8", photo(0)).code == "OK"
    expected = odd_call(direct.port, photo(1), "alice", **ODD[name])
    new, known = (odd_call(proxied.port, picture, "alice", **ODD[name]) for picture in (photo(1), one_pixel(photo(0))))
    assert expected.status != 0
    assert known.status == new.status and known.data == b""
    assert (known.text, known.frames) == (new.text, new.frames)


def test_only_what_it_cannot_parse_does_the_server_end_more_than_once(direct):
    """Refrain sends only that over a connection apart. Triton 2.51 was seen to end it six times."""

    def endings(name):
        request = request_of(name, photo(0))
        body = request if isinstance(request, bytes) else request.SerializeToString()
        with wire.Call(direct.port, SERVICE + "ModelInfer") as call:
            call.send(wire.message(body), end=True)
            call.read()
            return call.read(lambda _: False, seconds=0.1, beyond=True).endings

    readable = [name for name in CASES if name not in OWN_WORDS]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert dict(zip(readable, pool.map(endings, readable), strict=True)) == dict.fromkeys(readable, 1)
        assert min(pool.map(endings, BROKEN)) > 1


@pytest.mark.parametrize("known", [False, True], ids=["new_picture", "known_picture"])
@pytest.mark.parametrize("name", [*CASES, *BROKEN])
def test_a_malformed_request_is_refused_as_the_server_refuses_it(proxied, direct, asked, name, known):
    picture = photo(0)
    if known:
        assert proxied.ask("clf_u8", picture).code == "OK"
        picture = one_pixel(picture)
    request = request_of(name, picture)
    expected = direct.infer(request)
    assert expected.code != "OK"
    with asked("clf_u8") as reached:
        reply = proxied.infer(request)
    assert (reply.code, reply.body) == (OWN_CODE.get(name, expected.code), None), reply.message
    if name not in OWN_WORDS:
        assert reply == expected
    assert reached.rows == 0


@pytest.mark.parametrize("known", [False, True], ids=["new_picture", "known_picture"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda r: r.raw_input_contents.pop(), id="data_for_one_input_of_two"),
        pytest.param(lambda r: (r.inputs.pop(), r.raw_input_contents.pop()), id="input_missing"),
        pytest.param(lambda r: r.inputs.pop(), id="input_missing_but_its_data_there"),
        pytest.param(lambda r: r.inputs[1].shape.__setitem__(slice(None), [1]), id="other_inputs_shape"),
        pytest.param(lambda r: r.inputs[1].__setattr__("datatype", "INT32"), id="other_inputs_datatype"),
        pytest.param(
            lambda r: (r.inputs[1].shape.__setitem__(0, 2), r.raw_input_contents.__setitem__(1, bytes(8))), id="batches_differ"
        ),
        pytest.param(
            lambda r: (r.raw_input_contents.pop(), r.inputs[1].contents.fp32_contents.append(0.05)), id="one_raw_one_typed"
        ),
    ],
)
def test_a_malformed_second_input_is_refused_as_the_server_refuses_it(proxied, direct, change, known):
    picture = photo(0)
    if known:
        assert proxied.ask("aux", picture).code == "OK"
        picture = one_pixel(picture)
    request = question("aux", picture, id="q")
    change(request)
    expected = direct.infer(request)
    assert expected.code != "OK"
    assert proxied.infer(request) == expected


@pytest.mark.parametrize("known", [False, True], ids=["new_picture", "known_picture"])
@pytest.mark.parametrize("shape", [[2**62 + 1, 32, 32, 3], [2**61 + 1, 32, 32, 3], [2**54, 32, 32, 3]], ids=str)
def test_a_shape_whose_bytes_wrap_around_never_reaches_the_server(proxied, direct, known, shape):
    """Triton accepts these, and they kill the model's process: only the proxy is asked."""

    def summed(picture):
        request = question("clf", picture)
        request.model_name = "summed"
        return request

    if known:
        assert proxied.infer(summed(photo(0))).code == "OK"
    request = summed(photo(0))
    request.inputs[0].shape[:] = shape
    if shape[0] == 2**54:
        request.raw_input_contents[0] = b""
    try:
        assert proxied.infer(request).code == "INVALID_ARGUMENT"
        assert direct.infer(summed(photo(0))).code == "OK"
    finally:
        if direct.infer(summed(photo(0))).code != "OK":  # give the other tests a model again
            for method, kind in (("Unload", pb.RepositoryModelUnloadRequest), ("Load", pb.RepositoryModelLoadRequest)):
                direct.call(f"RepositoryModel{method}", kind(model_name="summed"), timeout=60)


def test_pixels_that_are_no_numbers_are_never_replayed(proxied, asked):
    proxied.ask("clf", photo(0))
    request = question("clf", photo(0))
    values = np.frombuffer(request.raw_input_contents[0], np.float32).copy()
    values[5] = np.nan
    request.raw_input_contents[0] = values.tobytes()
    with asked("clf") as reached:
        assert proxied.infer(request).code == "INVALID_ARGUMENT"
    assert reached.rows == 0
