"""A replay is wrapped as a forwarded reply is: headers, trailers, frames and lengths, whatever compression is spoken."""

import gzip

import pytest
import triton as servers
import wire
from asking import SERVICE, pb, question
from pictures import one_pixel, photo

SPOKEN = {
    "plain": (False, []),
    "gzip_accepted": (False, [("grpc-accept-encoding", "identity,deflate,gzip")]),
    "gzip_sent_and_accepted": (True, [("grpc-encoding", "gzip"), ("grpc-accept-encoding", "gzip")]),
}


@pytest.fixture(scope="module")
def compressing():
    """A Triton that compresses its replies where that is accepted."""
    with servers.Triton("--grpc-infer-response-compression-level=high", only=["clf_u8"]) as server:
        yield server


@pytest.fixture(params=["as_it_comes", "compressing"])
def server(request):
    return request.getfixturevalue("triton" if request.param == "as_it_comes" else "compressing")


def ask(port, picture, spoken, user="alice"):
    packed, headers = SPOKEN[spoken]
    body = question("clf_u8", picture, id="1").SerializeToString()
    body = wire.message(gzip.compress(body), flag=1) if packed else wire.message(body)
    return wire.call(port, SERVICE + "ModelInfer", body, headers=[("x-user", user), *headers])


def without_times(reply):
    """All but when: who reads sees whole frames, however many reads they took."""
    return reply.blocks, len(reply.data), reply.data[:5], reply.frames, reply.reset, reply.ended


def message(reply):
    (body,) = reply.messages
    packed = reply.data[0] == 1
    return pb.ModelInferResponse.FromString(gzip.decompress(body) if packed else body)


@pytest.mark.parametrize("spoken", SPOKEN)
def test_a_replay_is_wrapped_as_a_forwarded_reply_is(refrain, server, spoken):
    proxy = refrain(upstream=f"http://127.0.0.1:{server.grpc}")
    direct = ask(server.grpc, photo(0), spoken)
    forwarded = [ask(proxy.port, photo(turn), spoken) for turn in range(3)]
    replayed = [ask(proxy.port, one_pixel(photo(turn), seed=turn), spoken) for turn in range(3)]
    assert [reply.status for reply in forwarded + replayed] == [0] * 6
    assert [reply.data for reply in replayed] == [reply.data for reply in forwarded], "the earlier answers"
    for reply in forwarded + replayed:
        assert without_times(reply) == without_times(forwarded[0])
    assert message(forwarded[0]) == message(direct)
    names = {name for block in forwarded[0].blocks for name, _ in block}
    assert names == {name for block in direct.blocks for name, _ in block} - {"grpc-encoding"}, "and nothing names us"
