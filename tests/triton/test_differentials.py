"""One picture can be written in many ways. However Triton reads it, Refrain reads the same: none is a way round.

Each writing below holds a near-copy of a picture that the caller asked about. It gets the first answer, or it is refused
where no honest client writes so; never does it get the answer that the model would give to the copy.
"""

import gzip
import zlib

import pytest
import wire
from asking import SERVICE, pb, question, typed
from pictures import one_pixel, photo

PICTURE = photo(3)
NEAR = one_pixel(PICTURE, seed=5)
USER = [("x-user", "alice")]


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(message, name, payload):
    """One length-delimited field as protobuf writes it."""
    return varint(message.DESCRIPTOR.fields_by_name[name].number << 3 | 2) + varint(len(payload)) + payload


def edited(change, model="clf_u8"):
    def write():
        request = question(model, NEAR)
        change(request)
        return request.SerializeToString()

    return write


def values_plus(offset):
    def change(request):
        request.CopyFrom(typed(request))
        values = request.inputs[0].contents.uint_contents
        values[:] = [value + offset for value in values]

    return edited(change)


def sixty_four_bit_values():
    request = question("clf_u8", NEAR)
    values = b"".join(varint(value + 2**40) for value in request.raw_input_contents[0])
    contents = field(pb.InferTensorContents, "uint_contents", values)
    tensor = request.inputs[0].SerializeToString() + field(pb.ModelInferRequest.InferInputTensor, "contents", contents)
    return pb.ModelInferRequest(model_name="clf_u8").SerializeToString() + field(pb.ModelInferRequest, "inputs", tensor)


def contents_in_two_parts():
    """Two occurrences of one embedded message are merged."""
    request = question("clf_u8", NEAR)
    raw = request.raw_input_contents[0]
    parts = [field(pb.InferTensorContents, "uint_contents", b"".join(map(varint, part))) for part in (raw[:1000], raw[1000:])]
    tensor = request.inputs[0].SerializeToString() + b"".join(
        field(pb.ModelInferRequest.InferInputTensor, "contents", part) for part in parts
    )
    return pb.ModelInferRequest(model_name="clf_u8").SerializeToString() + field(pb.ModelInferRequest, "inputs", tensor)


def unpacked_values():
    request = question("clf_u8", NEAR)
    number = pb.InferTensorContents.DESCRIPTOR.fields_by_name["uint_contents"].number
    contents = b"".join(varint(number << 3) + varint(value) for value in request.raw_input_contents[0])
    tensor = request.inputs[0].SerializeToString() + field(pb.ModelInferRequest.InferInputTensor, "contents", contents)
    return pb.ModelInferRequest(model_name="clf_u8").SerializeToString() + field(pb.ModelInferRequest, "inputs", tensor)


def shape_first(dimension):
    return edited(lambda request: request.inputs[0].shape.__setitem__(0, dimension))


def plain():
    return question("clf_u8", NEAR).SerializeToString()


WRITINGS = {
    "rows_plus_2_to_the_32": shape_first(2**32 + 1),
    "rows_minus_2_to_the_32": shape_first(1 - 2**32),
    "rows_near_the_largest": shape_first(2**63 - 2**32 + 1),
    "values_plus_256": values_plus(256),
    "values_plus_2_to_the_31": values_plus(2**31),
    "values_plus_almost_2_to_the_32": values_plus(2**32 - 256),
    "values_as_64_bit_varints": sixty_four_bit_values,
    "contents_in_two_parts": contents_in_two_parts,
    "values_unpacked": unpacked_values,
    "version_with_zero": edited(lambda request: setattr(request, "model_version", "01")),
    "version_with_space": edited(lambda request: setattr(request, "model_version", " 1")),
    "version_with_plus": edited(lambda request: setattr(request, "model_version", "+1")),
    "version_with_letters": edited(lambda request: setattr(request, "model_version", "1x")),
    "version_with_point": edited(lambda request: setattr(request, "model_version", "1.0")),
    "extra_data": edited(lambda request: request.raw_input_contents.append(bytes(3072))),
    "outputs_named": edited(lambda request: request.outputs.add(name="probabilities")),
    "outputs_named_twice": edited(lambda request: (request.outputs.add(name="probabilities"), request.outputs.add(name="probabilities"))),
    "output_with_parameter": edited(lambda request: request.outputs.add(name="probabilities").parameters["x"].MergeFrom(pb.InferParameter(int64_param=1))),
    "input_with_parameter": edited(lambda request: request.inputs[0].parameters["x"].MergeFrom(pb.InferParameter(int64_param=1))),
    "request_with_parameter": edited(lambda request: request.parameters[""].MergeFrom(pb.InferParameter(string_param="x"))),
    "sequence_on_a_model_without": edited(lambda request: request.parameters["sequence_id"].MergeFrom(pb.InferParameter(int64_param=9))),
    "empty_final_response": edited(
        lambda request: request.parameters["triton_enable_empty_final_response"].MergeFrom(pb.InferParameter(bool_param=True))
    ),
    "unknown_field": lambda: plain() + b"\xfa\x06\x03abc",
    "unknown_group": lambda: plain() + b"\xfb\x06\x08\x01\xfc\x06",
    "another_wire_type": lambda: plain() + b"\x38\x05",
    "model_name_twice": lambda: field(pb.ModelInferRequest, "model_name", b"two") + plain() + field(pb.ModelInferRequest, "model_name", b"clf_u8"),
    "fields_in_reverse": lambda: b"".join(
        field(pb.ModelInferRequest, name, payload)
        for name, payload in (
            ("raw_input_contents", NEAR.tobytes()),
            ("inputs", question("clf_u8", NEAR).inputs[0].SerializeToString()),
            ("model_name", b"clf_u8"),
        )
    ),
}

# What may be refused: Triton reads it, but no honest client writes it.
REFUSABLE = {"rows_plus_2_to_the_32", "rows_minus_2_to_the_32", "rows_near_the_largest", "another_wire_type"}

FRAMINGS = {
    "in_many_frames": lambda body: [wire.message(body)[:3], wire.message(body)[3:50], b"", wire.message(body)[50:]],
    "followed_by_another_message": lambda body: wire.message(body) * 2,
    "followed_by_junk": lambda body: wire.message(body) + b"junk",
    "flagged_compressed_but_plain": lambda body: wire.message(body, flag=1),
    "gzip": (lambda body: wire.message(gzip.compress(body), flag=1), "gzip"),
    "deflate": (lambda body: wire.message(zlib.compress(body), flag=1), "deflate"),
    "gzip_named_but_plain": (lambda body: wire.message(body), "gzip"),
    "gzip_and_junk": (lambda body: wire.message(gzip.compress(body) + b"xx", flag=1), "gzip"),
    "gzip_in_two_members": (lambda body: wire.message(gzip.compress(body[:90]) + gzip.compress(body[90:]), flag=1), "gzip"),
    "gzip_in_capitals": (lambda body: wire.message(gzip.compress(body), flag=1), "GZIP"),
    "unknown_encoding": (lambda body: wire.message(body), "zstd"),
    "flag_two": lambda body: wire.message(body, flag=2),
}


def ask(port, payload, encoding=None):
    headers = USER + ([("grpc-encoding", encoding)] if encoding else [])
    return wire.call(port, SERVICE + "ModelInfer", payload, headers=headers, seconds=5)


def first_answer(proxied):
    reply = proxied.ask("clf_u8", PICTURE)
    assert reply.code == "OK"
    return wire.message(reply.body)


def test_the_model_itself_tells_the_copy_from_the_picture(direct):
    assert direct.ask("clf_u8", PICTURE).body != direct.ask("clf_u8", NEAR).body


@pytest.mark.parametrize("name", WRITINGS)
def test_no_writing_of_a_near_copy_gets_an_answer_of_its_own(proxied, direct, name):
    body = WRITINGS[name]()
    assert direct.infer(body).code == "OK", "Triton reads this writing"
    first = first_answer(proxied)
    reply = ask(proxied.port, wire.message(body))
    if reply.status == 0 or name not in REFUSABLE:
        assert (reply.status, reply.data) == (0, first), reply.text


@pytest.mark.parametrize("name", WRITINGS)
def test_every_writing_of_a_new_picture_is_answered_as_the_server_answers_it(proxied, direct, name):
    body = WRITINGS[name]()
    reply = proxied.infer(body)
    if reply.code == "OK" or name not in REFUSABLE:
        assert reply == direct.infer(body)


@pytest.mark.parametrize("name", FRAMINGS)
def test_no_framing_of_a_near_copy_gets_an_answer_of_its_own(proxied, direct, name):
    frame, *encoding = FRAMINGS[name] if isinstance(FRAMINGS[name], tuple) else (FRAMINGS[name],)
    payload = frame(plain())
    accepted = ask(direct.port, payload, *encoding).status == 0
    first = first_answer(proxied)
    reply = ask(proxied.port, payload, *encoding)
    if reply.status == 0:
        assert accepted and reply.data == first


@pytest.mark.parametrize("name", ["in_many_frames", "gzip", "deflate", "gzip_named_but_plain"])
def test_every_honest_framing_of_a_new_picture_is_answered(proxied, direct, name):
    frame, *encoding = FRAMINGS[name] if isinstance(FRAMINGS[name], tuple) else (FRAMINGS[name],)
    expected = ask(direct.port, frame(plain()), *encoding)
    assert expected.status == 0
    assert ask(proxied.port, frame(plain()), *encoding).data == expected.data


def test_a_batch_of_none_with_a_row_of_data_is_refused(proxied, direct, asked):
    """Triton takes `[0,3,32,32]` with one picture's bytes for one picture without a batch dimension, and answers it."""
    proxied.ask("clf_nchw", PICTURE)
    request = question("clf_nchw", NEAR)
    for rows in (0, 2**32):
        request.inputs[0].shape[0] = rows
        assert direct.infer(request).code == "OK"
        with asked("clf_nchw") as reached:
            assert proxied.infer(request).code == "INVALID_ARGUMENT"
        assert reached.rows == 0


def test_the_order_of_the_inputs_changes_nothing(proxied, direct):
    first = proxied.ask("aux", PICTURE)
    request = question("aux", NEAR)
    swapped = pb.ModelInferRequest(model_name="aux", inputs=request.inputs[::-1])
    swapped.raw_input_contents.extend(request.raw_input_contents[::-1])
    assert direct.infer(swapped).code == "OK"
    assert proxied.infer(swapped) == first


ALIASES = {
    "model": edited(lambda request: setattr(request, "model_name", request.model_name + "\0a")),
    "output": edited(lambda request: request.outputs.add(name="probabilities\0z")),
    "input": edited(lambda request: setattr(request.inputs[0], "name", request.inputs[0].name + "\0z")),
}


@pytest.mark.parametrize("name", ALIASES)
def test_a_name_that_goes_on_after_its_end_is_refused(proxied, direct, asked, name):
    body = ALIASES[name]()
    assert direct.infer(body).code == "OK", "Triton ends the name at the NUL"
    assert ask(proxied.port, wire.message(body)).status not in (None, 0)
    first_answer(proxied)
    assert ask(proxied.port, wire.message(body)).status not in (None, 0)


def test_a_message_under_two_encodings_is_refused(proxied, direct):
    payload = wire.message(zlib.compress(plain()), flag=1)
    headers = [*USER, ("grpc-encoding", "identity"), ("grpc-encoding", "deflate")]
    path = SERVICE + "ModelInfer"
    assert wire.call(direct.port, path, payload, headers=headers, seconds=5).status == 0, "Triton takes the last"
    reply = wire.call(proxied.port, path, payload, headers=headers, seconds=5)
    assert reply.status == 12 and reply.data == b""


def test_a_negative_dimension_whose_product_wraps_does_not_reach_the_model(proxied, asked):
    body = edited(lambda request: request.inputs[0].shape.__setitem__(slice(None), [1, -(2**62) + 1, 32, 3]))()
    with asked("clf_u8") as reached:
        assert ask(proxied.port, wire.message(body)).status == 3
    assert reached.requests == 0
