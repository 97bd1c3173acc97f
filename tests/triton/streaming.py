"""Streams of questions: many messages on one call, as raw frames where the frames matter and as a gRPC client's otherwise."""

import dataclasses
import queue

import grpc
import wire
from asking import SERVICE, pb

PATH = SERVICE + "ModelStreamInfer"
USER = ("x-user", "alice")


def message(request):
    return wire.message(request if isinstance(request, bytes) else request.SerializeToString())


def opened(port, *headers, user=USER, **options):
    """A stream with nothing sent on it yet."""
    return wire.Call(port, PATH, [user, *headers], **options)


def asked_at_once(port, requests, *headers, user=USER, tail=b"", seconds=10):
    """All requests in one go and half-closed; the whole reply."""
    with opened(port, *headers, user=user) as stream:
        for request in requests:
            stream.send(message(request))
        stream.send(tail, end=True)
        return stream.read(seconds=seconds)


def asked_in_turn(port, requests, *headers, user=USER):
    """Each request after the reply to the one before it, then half-closed."""
    with opened(port, *headers, user=user) as stream:
        for number, request in enumerate(requests, 1):
            stream.send(message(request))
            stream.read(lambda reply, number=number: len(reply.messages) >= number)
        if not stream.reply.ended:
            stream.send(end=True)
        return stream.read()


@dataclasses.dataclass(frozen=True)
class Said:
    """All of a stream's reply that a caller can see, but how its bytes were cut into frames."""

    messages: tuple
    blocks: tuple
    reset: int | None


def said(reply):
    assert reply.ended, f"the stream did not end: {reply}"
    return Said(tuple(reply.messages), tuple(tuple(sorted(block)) for block in reply.blocks), reply.reset)


def parsed(body):
    return pb.ModelStreamInferResponse.FromString(body)


def ids(reply):
    return [parsed(body).infer_response.id for body in reply.messages]


def of_id(reply, id):
    """The messages of one request, in their order."""
    return [body for body in reply.messages if parsed(body).infer_response.id == id]


def unary(body):
    """A stream's message as the reply to a unary call has it: less the flag that it is the last."""
    answer = parsed(body).infer_response
    del answer.parameters["triton_final_response"]
    return answer.SerializeToString(deterministic=True)


class Conversation:
    """A stream through a gRPC client: `ask` sends, `answer` waits for the next message."""

    def __init__(self, client, timeout=30, metadata=()):
        self.questions = queue.SimpleQueue()
        metadata = (*metadata, *((("x-user", client.user),) if client.user else ()))
        call = client.channel.stream_stream(PATH)
        self.call = call(iter(self.questions.get, None), timeout=timeout, metadata=metadata)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.questions.put(None)
        self.call.cancel()

    def ask(self, *requests):
        for request in requests:
            self.questions.put(request if isinstance(request, bytes) else request.SerializeToString())
        return self

    def answer(self):
        return next(self.call)

    def end(self):
        """Half-closes; what still comes, and the status."""
        self.questions.put(None)
        try:
            return list(self.call), "OK"
        except grpc.RpcError as error:
            return [], error.code().name
