"""KServe v2 servers beside Triton: MLServer, which answers as it is asked, and the KServe SDK's, which checks next to nothing.

Neither has ModelConfig, a health service, or a check of names and shapes. What a server does not check must not be a way
round: a picture under another input name or an invented version is judged like any other, or refused.
"""

import threading
import time

import grpc
import health
import numpy as np
import pytest
from asking import SERVICE, finished, pb, question, typed
from kserve_v2 import KserveV2
from pictures import drawn, one_pixel, photo, photos

PICTURE = photo(2)
NEAR = one_pixel(PICTURE, seed=4)
REFUSED = ("INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "PERMISSION_DENIED", "FAILED_PRECONDITION")


@pytest.fixture(scope="module", params=["mlserver", "kserve"])
def server(request):
    with KserveV2(request.param) as running:
        yield running


@pytest.fixture
def direct(server, clients):
    return clients(server.grpc)


@pytest.fixture
def proxied(server, refrain, clients):
    return clients(refrain(server.grpc).port, user="alice")


def asks(pictures, model="linear", **form):
    request = question("clf_u8", pictures, **form)
    request.model_name = model
    return request


def probabilities(reply):
    """The one output, raw or typed."""
    raw, tensor = reply.parsed.raw_output_contents, reply.parsed.outputs[0]
    values = np.frombuffer(raw[0], np.float32) if raw else np.array(tensor.contents.fp32_contents, np.float32)
    return values.reshape(tensor.shape)


def test_the_model_itself_tells_the_copy_from_the_picture(direct):
    assert direct.infer(asks(PICTURE)).body != direct.infer(asks(NEAR)).body


@pytest.mark.parametrize("form", [lambda request: request, typed], ids=["raw", "typed"])
def test_a_new_picture_gets_the_servers_own_reply_and_a_near_copy_the_first_answer(server, proxied, direct, form):
    expected = direct.infer(form(asks(PICTURE, id="one")))
    assert proxied.infer(form(asks(PICTURE, id="one"))) == expected
    before = server.reached()
    assert proxied.infer(form(asks(NEAR, id="one"))) == expected
    assert proxied.infer(form(asks(NEAR, id="two"))).body == expected.with_id("two")
    assert server.reached() == before


def test_an_answer_is_replayed_in_the_form_that_the_server_would_give_it(server, proxied, direct):
    """MLServer replies raw to raw requests and typed to typed ones; the SDK's server always replies typed."""
    expected = direct.infer(typed(asks(PICTURE)))
    proxied.infer(asks(PICTURE)), proxied.infer(typed(asks(photo(3))))
    before = server.reached()
    answer = proxied.infer(typed(asks(NEAR)))
    assert server.reached() == before
    assert np.array_equal(probabilities(answer), probabilities(expected))
    assert answer == expected


def test_of_a_batch_with_near_copies_only_the_others_are_forwarded(server, proxied, direct):
    """That the server takes a batch is in no configuration that it tells: it is seen once, with other pictures."""
    assert proxied.infer(asks([drawn(index) for index in range(3)])).code == "OK"
    pictures = photos(4)
    first = proxied.infer(asks(pictures[0]))
    fresh = direct.infer(asks([pictures[1], one_pixel(pictures[0]), pictures[2]]))
    before = server.reached()
    answer = proxied.infer(asks([pictures[1], one_pixel(pictures[0]), pictures[2]]))
    assert np.array_equal(probabilities(answer)[1], probabilities(first)[0])
    assert np.array_equal(probabilities(answer)[[0, 2]], probabilities(fresh)[[0, 2]])
    assert sum(server.reached()[len(before) :]) == 2


RELAYED = [
    ("ServerLive", pb.ServerLiveRequest()),
    ("ServerReady", pb.ServerReadyRequest()),
    ("ServerMetadata", pb.ServerMetadataRequest()),
    ("ModelReady", pb.ModelReadyRequest(name="linear")),
    ("ModelReady", pb.ModelReadyRequest(name="nope")),
    ("ModelMetadata", pb.ModelMetadataRequest(name="linear")),
    ("ModelMetadata", pb.ModelMetadataRequest(name="nope")),
    ("ModelConfig", pb.ModelConfigRequest(name="linear")),
]


@pytest.mark.parametrize("method, request_", RELAYED, ids=lambda value: str(value).replace("\n", " "))
def test_an_allowed_call_gets_the_servers_own_reply(proxied, direct, method, request_):
    assert proxied.call(method, request_) == direct.call(method, request_)


def test_health_is_serving_though_the_server_has_no_health_service(proxied, direct):
    assert direct.call(health.CHECK, b"").code == "UNIMPLEMENTED"
    health.once_serving(proxied)
    assert health.of(proxied) == "SERVING"


# What these servers let pass

LOOSE = {
    "another_input_name": lambda request: setattr(request.inputs[0], "name", "x"),
    "an_invented_version": lambda request: setattr(request, "model_version", "9"),
    "an_unknown_output": lambda request: request.outputs.add(name="nope"),
    "extra_data": lambda request: request.raw_input_contents.append(bytes(3072)),
    "a_second_input": lambda request: (request.inputs.add().CopyFrom(request.inputs[0]), request.raw_input_contents.append(bytes(3072))),
    "no_batch": lambda request: request.inputs[0].shape.__delitem__(0),
    "sides_swapped": lambda request: request.inputs[0].shape.__setitem__(slice(None), [1, 16, 64, 3]),
    "another_type": lambda request: setattr(request.inputs[0], "datatype", "INT8"),
    "data_too_short": lambda request: request.raw_input_contents.__setitem__(0, b"x"),
    "no_inputs": lambda request: (request.inputs.pop(), request.raw_input_contents.pop()),
    "unknown_model": lambda request: setattr(request, "model_name", "nope"),
}


@pytest.mark.parametrize("name", LOOSE)
def test_no_loose_request_about_a_near_copy_gets_an_answer_of_its_own(server, proxied, direct, name):
    request = asks(NEAR)
    LOOSE[name](request)
    expected = direct.infer(request)
    first = proxied.infer(asks(PICTURE))
    reply = proxied.infer(request)
    if reply.code == "OK":
        assert expected.code == "OK"
        assert np.array_equal(probabilities(reply), probabilities(first))
    else:
        assert reply.code in (expected.code, *REFUSED)


@pytest.mark.parametrize("version", ["2", "-1", "01", "x"])
def test_no_invented_version_is_a_second_past(server, proxied, version):
    """The SDK's server ignores the version: one that a caller may vary freely must not open a fresh start."""
    first = proxied.infer(asks(PICTURE))
    for near in (NEAR, one_pixel(PICTURE, seed=8)):
        before = server.reached()
        reply = proxied.infer(asks(near, version=version))
        assert reply.code in REFUSED or reply == first
    assert server.reached() == before, "asked once, to see whether the server takes it"


# Streams, and calls given up


def streamed(client, picture):
    """What a stream of one message comes to: the replies' bytes, or the name of its status."""
    call = client.channel.stream_stream(SERVICE + "ModelStreamInfer")
    metadata = [("x-user", client.user)] if client.user else []
    try:
        return list(call(iter([asks(picture).SerializeToString()]), metadata=metadata, timeout=10))
    except grpc.RpcError as error:
        return error.code().name


def out_of_envelope(message):
    response = pb.ModelStreamInferResponse.FromString(message).infer_response
    del response.parameters["triton_final_response"]
    return response


def test_a_stream_ends_as_the_servers_own_or_is_refused_and_harms_nothing(proxied, direct):
    """MLServer streams plain replies; through Refrain they come in Triton's envelope. The SDK's server has no streams at all."""
    expected, found = streamed(direct, photo(5)), streamed(proxied, photo(5))
    assert found == expected or [out_of_envelope(each) for each in found] == [pb.ModelInferResponse.FromString(each) for each in expected]
    assert proxied.infer(asks(PICTURE)) == direct.infer(asks(PICTURE))


def test_a_stream_gives_a_near_copy_no_answer_of_its_own(server, proxied):
    proxied.infer(asks(PICTURE))
    before = server.reached()
    found = streamed(proxied, NEAR)
    assert server.reached() == before or isinstance(found, str)


def test_a_stream_that_is_left_open_and_given_up_harms_nothing(proxied, direct):
    left = threading.Event()

    def messages():
        yield asks(photo(6)).SerializeToString()
        left.wait(10)

    call = proxied.channel.stream_stream(SERVICE + "ModelStreamInfer")(messages(), timeout=10)
    call.cancel()
    left.set()
    assert proxied.infer(asks(PICTURE)) == direct.infer(asks(PICTURE))


def test_a_server_that_never_answers_after_a_cancelled_call_holds_nobody_beyond_its_deadline(server, proxied, direct):
    """MLServer's gathering of batches loses the call after one that its caller gave up; then it recovers."""
    given_up = proxied.start("ModelInfer", asks(photo(7), model="batched"))
    given_up.cancel()
    began = time.monotonic()
    reply = proxied.infer(asks(photo(8), model="batched"), timeout=3)
    assert reply.code in ("OK", "DEADLINE_EXCEEDED") and time.monotonic() - began < 4
    assert proxied.infer(asks(PICTURE)) == direct.infer(asks(PICTURE))
    expected = finished(direct.start("ModelInfer", asks(photo(9), model="batched"), timeout=10))
    assert proxied.infer(asks(photo(9), model="batched"), timeout=10) == expected
