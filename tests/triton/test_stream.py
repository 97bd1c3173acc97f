"""A stream of questions gets, message for message, what Triton itself says on a stream, and every message is judged."""

import asyncio
import gzip
import queue

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import wire
from asking import pb, question, typed
from pictures import drawn, one_pixel, photo
from streaming import Conversation, asked_at_once, asked_in_turn, ids, message, of_id, opened, parsed, said, unary
from test_differentials import REFUSABLE, WRITINGS
from test_malformed import BROKEN, CASES, OWN_WORDS, request_of

import triton as servers

PICTURE = photo(0)
NEAR = one_pixel(PICTURE, seed=1)
GRPC_ERRORS = ("triton_grpc_error", "true")


def several(count, id="several", picture=PICTURE, empty_final=None):
    """A question with as many responses as `count` says; a negative one ends in an error."""
    request = question("several", picture, id=id)
    request.inputs.add(name="count", datatype="INT32", shape=[1, 1])
    request.raw_input_contents.append(np.int32(count).tobytes())
    if empty_final is not None:
        request.parameters["triton_enable_empty_final_response"].bool_param = empty_final
    return request


def failing(id="failing"):
    picture = photo(9)
    picture[0, 0, 0] = 255
    return question("fails", picture, id=id)


def in_sequence(step, id="", last=3):
    request = question("seq", PICTURE, id=id)
    request.parameters["sequence_id"].int64_param = 1871
    request.parameters["sequence_start"].bool_param = step == 0
    request.parameters["sequence_end"].bool_param = step == last
    return request


def classified(picture, count, id=""):
    request = question("scores", picture, id=id, outputs=["probabilities"])
    request.outputs[0].parameters["classification"].int64_param = count
    return request


def text():
    request = pb.ModelInferRequest(model_name="text", id="text")
    request.inputs.add(name="text", datatype="BYTES", shape=[1, 1]).contents.bytes_contents.append(b"hello")
    return request


def empty_final(request):
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    return request


# Every stream here may be sent to Triton itself. Two kinds may not, since they end the server's process: a decoupled and a
# plain model in flight on one stream, and `triton_grpc_error` where another request is in flight when a model fails.
STREAMS = {
    "nothing": [],
    "one": [question("clf_u8", PICTURE, id="1")],
    "without_id": [question("clf_u8", PICTURE)],
    "the_same_id_twice": [question("clf_u8", PICTURE, id="x"), question("clf_u8", photo(1), id="x")],
    "slow_then_fast": [question("slow_u8", PICTURE, id="1"), question("clf_u8", PICTURE, id="2"), question("two", PICTURE, id="3")],
    "fast_slow_fast": [question("clf_u8", PICTURE, id="1"), question("slow_u8", PICTURE, id="2"), question("clf_u8", photo(1), id="3")],
    "slow_then_unknown": [question("slow_u8", PICTURE, id="1"), question("nope", PICTURE, id="2"), question("clf_u8", PICTURE, id="3")],
    "slow_then_failing": [question("slow_u8", PICTURE, id="1"), failing("2"), question("clf_u8", PICTURE, id="3")],
    "many": [question("clf_u8", photo(index), id=str(index)) for index in range(12)],
    "a_batch": [question("clf_u8", [photo(1), photo(2), photo(3)], id="1"), question("clf_u8", PICTURE, id="2")],
    "typed": [typed(question("clf", PICTURE, id="1")), typed(question("clf_u8", PICTURE, id="2"))],
    "one_output_of_two": [question("two", PICTURE, outputs=["logits"])],
    "classified": [classified(PICTURE, 3, id="1")],
    "empty_final_response_of_a_plain_model": [empty_final(question("clf_u8", PICTURE, id="1"))],
    "text": [text(), text()],
    "an_empty_message": [question("clf_u8", PICTURE, id="1"), b"", question("clf_u8", photo(1), id="2")],
    "sequence": [in_sequence(step, id=str(step)) for step in range(4)],
    "sequence_without_id": [question("seq", PICTURE, id="1"), question("clf_u8", PICTURE, id="2")],
    "decoupled": [question("decoupled", PICTURE, id="1")],
    "decoupled_without_response": [several(0)],
    "decoupled_with_five_responses": [several(5)],
    "decoupled_with_empty_final_response": [several(2, empty_final=True)],
    "decoupled_with_nothing_but_the_empty_final_response": [several(0, empty_final=True)],
    "decoupled_of_the_wrong_shape": [question("decoupled", np.zeros((16, 32, 3), np.uint8), id="1")],
    "decoupled_of_an_unknown_version": [question("decoupled", PICTURE, id="1", version="9")],
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_gets_what_the_server_says(proxied, direct, name):
    expected = said(asked_at_once(direct.port, STREAMS[name]))
    assert said(asked_at_once(proxied.port, STREAMS[name])) == expected


@pytest.mark.parametrize("name", ["many", "fast_slow_fast", "sequence", "sequence_without_id", "classified", "decoupled_with_five_responses"])
def test_a_stream_that_waits_for_each_reply_gets_what_the_server_says(proxied, direct, name):
    expected = said(asked_in_turn(direct.port, STREAMS[name]))
    assert said(asked_in_turn(proxied.port, STREAMS[name])) == expected


def test_a_plain_models_message_is_the_unary_reply_and_the_final_flag(proxied, direct):
    reply = asked_at_once(proxied.port, [question("clf_u8", PICTURE, id="1")])
    assert [unary(body) for body in reply.messages] == [direct.ask("clf_u8", PICTURE, id="1").body]


def test_replies_come_in_the_order_of_the_questions_however_long_each_takes(proxied):
    models = ["slow_u8", "clf_u8", "two", "slow_u8", "clf"]
    reply = asked_at_once(proxied.port, [question(model, photo(index), id=str(index)) for index, model in enumerate(models)])
    assert ids(reply) == ["0", "1", "2", "3", "4"]


def test_questions_in_flight_together_are_asked_together(proxied):
    requests = [question("slow_u8", photo(index), id=str(index)) for index in range(6)]
    reply = asked_at_once(proxied.port, requests)
    assert ids(reply) == [str(index) for index in range(6)]
    assert reply.seconds < 6 * 0.08, "six questions one after the other would take longer"


# Errors, in their places


@pytest.mark.parametrize("name", CASES)
def test_a_malformed_message_is_answered_in_its_place_and_the_stream_goes_on(proxied, direct, name):
    """Between good messages, once with a near-copy of a known picture and once with a new one."""
    requests = [
        question("clf_u8", PICTURE, id="1"),
        request_of(name, NEAR),
        request_of(name, photo(2)),
        question("clf_u8", photo(1), id="2"),
    ]
    expected = asked_in_turn(direct.port, requests)
    reply = asked_in_turn(proxied.port, requests)
    assert ids(reply) == ids(expected) == ["1", "q", "q", "2"]
    if name not in OWN_WORDS:
        assert said(reply) == said(expected)
    known, new = (parsed(body) for body in reply.messages[1:3])
    assert known.error_message and known == new
    assert (reply.messages[0], reply.messages[3]) == (expected.messages[0], expected.messages[3])


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_message_ends_what_is_read_of_the_stream(proxied, direct, name):
    requests = [question("clf_u8", PICTURE, id="1"), request_of(name, NEAR), question("clf_u8", photo(1), id="2")]
    expected = said(asked_at_once(direct.port, requests))
    assert len(expected.messages) == 1
    assert said(asked_at_once(proxied.port, requests)) == expected


def test_a_models_own_error_names_the_model_and_the_stream_goes_on(proxied, direct):
    requests = [question("clf_u8", PICTURE, id="1"), failing("2"), question("clf_u8", photo(1), id="3")]
    reply = asked_at_once(proxied.port, requests)
    assert said(reply) == said(asked_at_once(direct.port, requests))
    assert parsed(reply.messages[1]).infer_response.model_name == "fails"


@pytest.mark.parametrize("value", ["true", "True", "1", "false"])
def test_errors_end_the_stream_where_the_caller_wants_that(proxied, direct, value):
    """Only a model's own error does; what is wrong with a request is still told in a message."""
    header = ("triton_grpc_error", value)
    for requests in (
        [failing()],
        [question("clf_u8", PICTURE, id="1"), question("nope", PICTURE, id="2"), question("clf_u8", photo(1), id="3")],
        [question("clf_u8", PICTURE, id="1"), failing("2")],
    ):
        expected = said(asked_in_turn(direct.port, requests, header))
        assert said(asked_in_turn(proxied.port, requests, header, user=("x-user", str(len(requests))))) == expected


@pytest.fixture
def another(clients):
    """A Triton of the test's own, which may die of it."""
    with servers.Triton(only=["clf_u8", "slow_u8", "fails", "decoupled", "several"]) as server:
        yield server, clients(server.grpc)


def test_what_would_end_the_servers_process_does_not_reach_it(refrain, another):
    """Mixed streams, and errors that end a stream while it has more in flight: Triton 2.51 dies of both within ten or so."""
    server, past = another
    proxy = refrain(upstream=f"http://127.0.0.1:{server.grpc}")
    mixed = [question("decoupled", PICTURE, id="d"), question("clf_u8", PICTURE, id="p"), several(2), question("clf_u8", photo(1), id="q")]
    for round in range(30):
        reply = asked_at_once(proxy.port, mixed)
        assert len(of_id(reply, "d")) == 2 and len(of_id(reply, "several")) == 2, reply
        assert [id for id in ids(reply) if id in "pq"] == ["p", "q"]
        user = ("x-user", f"caller-{round}")
        reply = asked_at_once(proxy.port, [failing(), question("slow_u8", PICTURE, id="s")], GRPC_ERRORS, user=user)
        assert (reply.status, reply.text) == (3, "the first value is 255")
        assert past.ask("clf_u8", PICTURE).code == "OK"


# Judged


@pytest.mark.parametrize("how", [asked_at_once, asked_in_turn])
def test_a_near_copy_on_the_same_stream_gets_the_first_answer_under_its_own_id(proxied, asked, how):
    requests = [question("clf_u8", PICTURE, id="first"), question("clf_u8", NEAR, id="second"), question("clf_u8", PICTURE)]
    with asked("clf_u8") as reached:
        reply = how(proxied.port, requests)
    assert reached.rows == 1
    assert ids(reply) == ["first", "second", ""]
    first, *others = (parsed(body) for body in reply.messages)
    for other in others:
        other.infer_response.id = "first"
        assert other == first


@pytest.mark.parametrize("name", WRITINGS)
def test_no_writing_of_a_near_copy_gets_an_answer_of_its_own_on_a_stream(proxied, direct, name):
    known = question("clf_u8", photo(3), id="")
    expected = asked_in_turn(direct.port, [known]).messages
    reply = asked_in_turn(proxied.port, [known, WRITINGS[name]()])
    answers = [body for body in reply.messages if not parsed(body).error_message]
    assert answers == expected * (2 if name not in REFUSABLE else len(answers))


def test_what_was_asked_by_a_call_is_known_on_a_stream_and_the_other_way_round(proxied, asked):
    with asked("clf_u8") as reached:
        first = proxied.ask("clf_u8", PICTURE)
        (repeat,) = asked_in_turn(proxied.port, [question("clf_u8", NEAR)]).messages
        (new,) = asked_in_turn(proxied.port, [question("clf_u8", photo(1))]).messages
        again = proxied.ask("clf_u8", one_pixel(photo(1)))
    assert reached.rows == 2
    assert unary(repeat) == first.body and again.body == unary(new)


def test_a_stream_and_a_call_that_ask_alike_at_once_ask_once(proxied, asked):
    with asked("slow_u8") as reached, opened(proxied.port) as stream:
        stream.send(message(question("slow_u8", PICTURE)) + message(question("slow_u8", NEAR)), end=True)
        call = proxied.start("ModelInfer", question("slow_u8", one_pixel(PICTURE, seed=2)))
        reply = stream.read()
        body = call.result()
    assert reached.rows == 1
    assert [unary(each) for each in reply.messages] == [body, body]


def test_a_batch_on_a_stream_is_judged_row_by_row(proxied, direct, asked):
    proxied.ask("clf_u8", PICTURE)
    with asked("clf_u8") as reached:
        (reply,) = asked_in_turn(proxied.port, [question("clf_u8", [photo(1), NEAR, photo(2)], id="b")]).messages
    assert (reached.requests, reached.rows) == (1, 2)
    assert unary(reply) == direct.ask("clf_u8", [photo(1), PICTURE, photo(2)], id="b").body


def test_another_caller_on_a_stream_has_another_past(refrain, asked):
    proxy = refrain()
    with asked("clf_u8") as reached:
        for user in ("alice", "bob"):
            assert len(asked_in_turn(proxy.port, [question("clf_u8", PICTURE), question("clf_u8", NEAR)], user=("x-user", user)).messages) == 2
    assert reached.rows == 2


def test_a_decoupled_model_is_asked_every_time(proxied, asked):
    with asked("decoupled") as reached:
        for picture in (PICTURE, NEAR, PICTURE):
            assert len(asked_in_turn(proxied.port, [question("decoupled", picture, id="d")]).messages) >= 1
    assert reached.requests == 3


def test_two_decoupled_questions_on_one_stream_are_never_mixed_up(proxied, direct):
    requests = [several(4, id="a"), several(3, id="b", picture=photo(1))]
    expected, reply = (asked_at_once(client.port, requests) for client in (direct, proxied))
    for id in "ab":
        assert of_id(reply, id) == of_id(expected, id)
    assert len(reply.messages) == 7


def test_a_decoupled_question_that_fails_on_the_way_says_so_after_its_responses(proxied, direct):
    expected, reply = (asked_at_once(client.port, [several(-2)]) for client in (direct, proxied))
    assert said(reply) == said(expected)
    assert len(reply.messages) == 3 and parsed(reply.messages[2]).error_message == "no more turns"


# Beginnings and ends


def test_nothing_is_said_before_there_is_something_to_say(proxied, direct):
    for client in (direct, proxied):
        with opened(client.port) as stream:
            stream.send(message(question("slow_u8", PICTURE)))
            assert stream.read(seconds=0.04).frames == []
            stream.read(lambda reply: reply.messages)
            assert stream.reply.frames == ["headers", "data"]


@pytest.mark.parametrize("tail", [b"\0", b"\0\0\0\0\x05ab", b"junk"])
def test_half_a_message_at_the_end_is_ignored(proxied, direct, tail):
    requests = [question("clf_u8", PICTURE, id="1")]
    expected = said(asked_at_once(direct.port, requests, tail=tail))
    assert len(expected.messages) == 1
    assert said(asked_at_once(proxied.port, requests, tail=tail)) == expected


@pytest.mark.parametrize("sent", [[], [question("clf_u8", PICTURE, id="1")]], ids=["idle", "after_a_reply"])
def test_a_deadline_ends_a_stream_that_is_open(proxied, direct, sent):
    def late(port):
        with opened(port, ("grpc-timeout", "150m")) as stream:
            for request in sent:
                stream.send(message(request))
            return stream.read()

    expected, reply = late(direct.port), late(proxied.port)
    assert said(reply) == said(expected)
    assert reply.status == 4 and reply.seconds < 0.5


def test_a_deadline_ends_questions_that_are_forwarded_and_held_alike(proxied, direct):
    def late(port, picture):
        with opened(port, ("grpc-timeout", "25m")) as stream:
            stream.send(message(question("slow_u8", picture)))
            return stream.read()

    expected, forwarded = late(direct.port, PICTURE), late(proxied.port, PICTURE)
    assert proxied.ask("slow_u8", PICTURE).code == "OK"
    held = late(proxied.port, NEAR)
    assert said(forwarded) == said(held) == said(expected)
    assert max(forwarded.seconds, held.seconds) < 0.075


COMPRESSED = {
    "all": [(1, gzip.compress)],
    "some": [(1, gzip.compress), (0, bytes)],
    "not_decodable": [(1, lambda body: b"nonsense")],
    "with_a_second_member": [(1, lambda body: gzip.compress(body[:90]) + gzip.compress(body[90:]))],
    "with_junk": [(1, lambda body: gzip.compress(body) + b"xx")],
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_messages_are_taken_as_the_server_takes_them(proxied, direct, name):
    def reply(port):
        bodies = [question("clf_u8", photo(index), id=str(index)).SerializeToString() for index in range(3)]
        ways = [COMPRESSED[name][index % len(COMPRESSED[name])] for index in range(3)]
        with opened(port, ("grpc-encoding", "gzip")) as stream:
            stream.send(b"".join(wire.message(pack(body), flag=flag) for body, (flag, pack) in zip(bodies, ways)), end=True)
            return stream.read()

    expected, found = reply(direct.port), reply(proxied.port)
    if expected.status == 0:
        assert said(found) == said(expected)
    else:  # in our own words
        assert (found.status, found.messages) == (expected.status, []) == (13, expected.messages)


def test_a_stream_given_up_still_answers_the_near_copy_that_waits_for_it(proxied, asked):
    with asked("slow_u8") as reached:
        with opened(proxied.port) as stream:
            stream.send(message(question("clf_u8", photo(8))) + message(question("slow_u8", PICTURE)))
            stream.read(lambda reply: reply.messages)  # so the second has been read too
            stream.reset()
        assert proxied.ask("slow_u8", NEAR).code == "OK"
    assert reached.rows == 1


def test_a_caller_that_never_reads_harms_nobody(refrain, clients, direct):
    proxy = refrain()
    mallory, alice, bob = (clients(proxy, user=user) for user in ("mallory", "alice", "bob"))
    flood = [question("clf_u8", [drawn(index)] * 16, id=str(index)) for index in range(400)]
    floods = [Conversation(mallory).ask(*flood) for _ in range(3)]
    with opened(proxy.port, window=0) as shut:
        for index in range(15):
            shut.send(message(question("clf_u8", drawn(index), id=str(index))))
        for client in (alice, bob):
            assert client.ask("clf_u8", PICTURE) == direct.ask("clf_u8", PICTURE)
            assert said(asked_in_turn(proxy.port, [question("two", PICTURE, id="1")], user=("x-user", client.user)))
    for talk in floods:
        talk.call.cancel()
    assert bob.ask("clf_u8", photo(1)) == direct.ask("clf_u8", photo(1))


def test_a_stream_that_is_left_open_and_idle_keeps_nobody_from_anything(proxied, direct):
    with opened(proxied.port) as idle:
        idle.send(message(question("clf_u8", photo(4))))
        idle.read(lambda reply: reply.messages)
        for index in range(5):
            assert proxied.ask("two", photo(index)) == direct.ask("two", photo(index))
        idle.send(message(question("clf_u8", photo(5), id="5")), end=True)
        assert ids(idle.read())[-1] == "5"


# Real clients


def asked_by(client, pictures, model="clf_u8"):
    """tritonclient's own way: a callback for each reply, in whatever thread."""
    replies = queue.SimpleQueue()
    client.start_stream(callback=lambda result, error: replies.put((result, error)), headers={"x-user": "alice"})
    for index, picture in enumerate(pictures):
        image = tritonclient.grpc.InferInput("image", [1, 32, 32, 3], "UINT8")
        image.set_data_from_numpy(picture[None])
        client.async_stream_infer(model, [image], request_id=str(index))
    answers = [replies.get(timeout=10) for _ in pictures]
    client.stop_stream()
    assert [error for _, error in answers] == [None] * len(pictures)
    return [(result.get_response().id, result.as_numpy("probabilities").tobytes()) for result, _ in answers]


def test_the_ordinary_clients_stream_works_as_before(proxied, direct):
    pictures = [photo(index) for index in range(8)]
    with (
        tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{proxied.port}") as through,
        tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{direct.port}") as past,
    ):
        assert asked_by(through, pictures) == asked_by(past, pictures)
        repeats = asked_by(through, [one_pixel(picture) for picture in pictures])
        assert repeats == asked_by(past, pictures)


def test_the_ordinary_asynchronous_client_works_as_before(proxied, direct):
    def image(picture):
        tensor = tritonclient.grpc.aio.InferInput("image", [1, 32, 32, 3], "UINT8")
        tensor.set_data_from_numpy(picture[None])
        return tensor

    async def ask(port):
        async def questions():
            for index in range(6):
                yield {"model_name": "clf_u8", "inputs": [image(photo(index))], "request_id": str(index)}

        async with tritonclient.grpc.aio.InferenceServerClient(f"127.0.0.1:{port}") as client:
            headers = {"x-user": "alice"}
            assert await client.is_server_live()
            calls = [client.infer("two", [image(photo(index))], headers=headers) for index in range(6)]
            unary = [result.as_numpy("logits").tobytes() for result in await asyncio.gather(*calls)]
            streamed = []
            async for result, error in client.stream_infer(questions(), headers=headers):
                assert error is None
                streamed.append((result.get_response().id, result.as_numpy("probabilities").tobytes()))
            return unary, streamed

    assert asyncio.run(ask(proxied.port)) == asyncio.run(ask(direct.port))


def test_a_client_that_asks_for_an_empty_final_response_sees_the_end(proxied, direct):
    for client in (direct, proxied):
        with Conversation(client) as talk:
            talk.ask(several(3, id="n", empty_final=True))
            flags = [parsed(talk.answer()).infer_response.parameters["triton_final_response"].bool_param for _ in range(4)]
            assert flags == [False, False, False, True]
            assert talk.end() == ([], "OK")
