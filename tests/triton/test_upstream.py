"""The model server: absent, late, slow, reloaded, behind TLS; and calls that are too large, too late, or given up."""

import gzip
import time
from concurrent import futures

import grpc
import health
import pytest
import wire
from asking import SERVICE, UNLIMITED, finished, pb, question
from certificates import Authority
from google.protobuf import json_format
from pictures import drawn, one_pixel, photo

import triton as servers

PICTURE = photo(5)
NEAR = one_pixel(PICTURE, seed=3)


def eventually(holds, seconds=30):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


class Relay(grpc.GenericRpcHandler):
    """A model server that comes and goes: a gRPC server on a port of its choice that hands each call on to Triton."""

    def __init__(self, port, upstream):
        self.channel = grpc.insecure_channel(f"127.0.0.1:{upstream}", UNLIMITED)
        self.server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[self], options=[*UNLIMITED, ("grpc.so_reuseport", 0)])
        assert self.server.add_insecure_port(f"127.0.0.1:{port}") == port

    def service(self, details):
        def hand_on(body, context):
            try:
                return self.channel.unary_unary(details.method)(body, timeout=min(context.time_remaining() or 60, 60))
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())

        return grpc.unary_unary_rpc_method_handler(hand_on)

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *_):
        self.server.stop(0).wait()
        self.channel.close()


def test_a_server_that_is_not_there_yet_is_said_to_be_away_and_then_served(refrain, clients, triton, direct):
    (port,) = servers.free_ports(1)
    client = clients(refrain(upstream=f"http://127.0.0.1:{port}"), user="alice")
    assert health.of(client) == "NOT_SERVING"
    assert client.ask("clf_u8", PICTURE).code == "UNAVAILABLE"
    with Relay(port, triton.grpc):
        eventually(lambda: health.of(client) == "SERVING")
        assert client.ask("clf_u8", PICTURE) == direct.ask("clf_u8", PICTURE)
    eventually(lambda: health.of(client) == "NOT_SERVING")
    assert client.ask("clf_u8", photo(6)).code == "UNAVAILABLE"
    with Relay(port, triton.grpc):
        eventually(lambda: health.of(client) == "SERVING")
        assert client.ask("clf_u8", photo(7)) == direct.ask("clf_u8", photo(7))


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def test_a_server_behind_mutual_tls_is_reached(refrain, clients, authority, direct):
    certificate, key = authority.server()
    mine, my_key = authority.caller("refrain")
    flags = ["--grpc-use-ssl=true", "--grpc-use-ssl-mutual=true", f"--grpc-root-cert={authority.certificate}"]
    flags += [f"--grpc-server-cert={certificate}", f"--grpc-server-key={key}"]
    with servers.Triton(*flags, only=["clf_u8"]) as secure:
        tables = (
            f"[upstream_tls]\nca = {str(authority.certificate)!r}\ncertificate = {str(mine)!r}\n"
            f'key = {str(my_key)!r}\nserver_name = "localhost"\n'
        )
        client = clients(refrain(tables=tables, upstream=f"https://127.0.0.1:{secure.grpc}"), user="alice")
        first = client.ask("clf_u8", PICTURE)
        assert first == direct.ask("clf_u8", PICTURE)
        assert client.ask("clf_u8", NEAR) == first
        wrong = tables.replace("localhost", "elsewhere.example")
        client = clients(refrain(tables=wrong, upstream=f"https://127.0.0.1:{secure.grpc}"), user="alice")
        assert client.ask("clf_u8", PICTURE).code == "UNAVAILABLE"


def test_a_deadline_ends_a_forwarded_call_and_a_held_one_alike(proxied, direct):
    def late(port, picture):
        body = wire.message(question("slow_u8", picture).SerializeToString())
        return wire.call(port, SERVICE + "ModelInfer", body, headers=[("x-user", "alice"), ("grpc-timeout", "25m")])

    expected = late(direct.port, PICTURE)
    forwarded = late(proxied.port, PICTURE)
    assert proxied.ask("slow_u8", PICTURE).code == "OK"
    held = late(proxied.port, NEAR)
    for reply in (expected, forwarded, held):
        assert reply.status == 4 and reply.data == b""
        assert reply.text == expected.text
        assert reply.seconds < 0.075  # the model alone takes 80 ms


def test_a_deadline_that_passes_breaks_nobody_elses_call(proxied):
    """Triton ends a call whose time is up with several blocks of trailers: to an HTTP/2 client an error of the whole connection."""

    def asked(model, user, *headers):
        body = wire.message(question(model, PICTURE).SerializeToString())
        return wire.call(proxied.port, SERVICE + "ModelInfer", body, headers=[("x-user", user), *headers]).status

    with futures.ThreadPoolExecutor(5) as pool:
        hurried = [pool.submit(asked, "slow_u8", f"hurried {turn}", ("grpc-timeout", "40m")) for turn in range(40)]
        patient = {asked("clf_u8", f"patient {turn}") for turn in range(60)}
    assert {reply.result() for reply in hurried} == {4}
    assert patient == {0}
    # What was given up is still worked on, one after another: the next test finds the model at rest.
    assert asked("slow_u8", "last") == 0


def test_a_deadline_that_is_far_away_changes_nothing(proxied, direct):
    assert proxied.ask("clf_u8", PICTURE, timeout=3600) == direct.ask("clf_u8", PICTURE)


def arrived(client):
    """Calls that were started before on this client's connection have reached the proxy: a later one was answered."""
    assert client.ask("clf_u8", photo(8)).code == "OK"


def test_a_call_given_up_still_answers_the_near_copy_that_waits_for_it(proxied, asked):
    with asked("slow_u8") as reached:
        call = proxied.start("ModelInfer", question("slow_u8", PICTURE))
        arrived(proxied)
        call.cancel()
        assert proxied.ask("slow_u8", NEAR).code == "OK"
    assert reached.rows == 1


def test_held_calls_given_up_leave_the_proxy_as_it_was(proxied, direct):
    proxied.ask("slow_u8", PICTURE)
    calls = [proxied.start("ModelInfer", question("slow_u8", one_pixel(PICTURE, seed))) for seed in range(50)]
    arrived(proxied)
    for call in calls:
        call.cancel()
    assert proxied.ask("clf_u8", PICTURE) == direct.ask("clf_u8", PICTURE)


def test_a_message_larger_than_the_limit_is_refused(proxied, direct):
    request = question("clf_u8", PICTURE)
    request.raw_input_contents.append(bytes(65 << 20))
    assert proxied.infer(request).code == "RESOURCE_EXHAUSTED"
    assert proxied.ask("clf_u8", PICTURE) == direct.ask("clf_u8", PICTURE)


def test_a_message_far_larger_than_libraries_allow_by_default_passes(proxied, direct):
    request = question("clf_u8", PICTURE)
    request.raw_input_contents.append(bytes(40 << 20))
    assert proxied.infer(request) == direct.infer(request)


def test_a_message_that_unpacks_beyond_the_limit_is_refused(refrain, clients, direct):
    client = clients(refrain(tables='[limits]\nmessage_bytes = "1MiB"\n'), user="alice")
    packed = gzip.compress(bytes(16 << 20))
    reply = wire.call(
        client.port, SERVICE + "ModelInfer", wire.message(packed, flag=1), headers=[("grpc-encoding", "gzip"), ("x-user", "alice")]
    )
    assert reply.status == 8
    assert client.ask("clf_u8", PICTURE) == direct.ask("clf_u8", PICTURE)


@pytest.mark.parametrize("length", [(64 << 20) + 1, 2**32 - 1])
def test_a_length_beyond_the_limit_is_refused_before_its_bytes_come(proxied, length):
    reply = wire.call(
        proxied.port, SERVICE + "ModelInfer", wire.message(b"abc", length=length), headers=[("x-user", "alice")], end=False, seconds=5
    )
    assert reply.status == 8 and reply.seconds < 4


def test_a_model_loaded_anew_in_another_version_is_asked_again(proxied, direct):
    def load(config):
        request = pb.RepositoryModelLoadRequest(model_name="versioned")
        request.parameters["config"].string_param = json_format.MessageToJson(config, preserving_proto_field_name=True)
        assert direct.call("RepositoryModelLoad", request, timeout=60).code == "OK"

    both = pb.ModelConfigResponse.FromString(direct.call("ModelConfig", pb.ModelConfigRequest(name="versioned")).body).config
    first = type(both).FromString(both.SerializeToString())
    first.version_policy.specific.versions[:] = [1]
    older = direct.infer(question("versioned", PICTURE, version="1"))
    newer = proxied.ask("versioned", PICTURE)
    assert newer == direct.ask("versioned", PICTURE)
    try:
        load(first)
        assert direct.ask("versioned", PICTURE).body == older.body
        eventually(lambda: proxied.ask("versioned", PICTURE).body == older.body)
    finally:
        load(both)
    assert direct.ask("versioned", PICTURE) == newer


def test_a_replay_takes_as_long_as_the_model_would(proxied, asked):
    """Loosely: medians within a factor of two. How well times agree is measured elsewhere, on a quiet machine."""

    def seconds(picture):
        began = time.monotonic()
        assert proxied.ask("slow_u8", picture).code == "OK"
        return time.monotonic() - began

    def median(values):
        return sorted(values)[len(values) // 2]

    forwarded = [seconds(drawn(500 + index)) for index in range(20)]
    with asked("slow_u8") as reached:
        replayed = [seconds(one_pixel(drawn(500 + index))) for index in range(15)]
    assert reached.requests == 0
    assert 0.5 < median(replayed) / median(forwarded) < 2


def test_without_the_time_layer_a_replay_comes_at_once(refrain, clients):
    client = clients(refrain(tables='[timing]\nmode = "off"\n'), user="alice")
    client.ask("slow_u8", PICTURE)
    began = time.monotonic()
    assert finished(client.start("ModelInfer", question("slow_u8", NEAR))).code == "OK"
    assert time.monotonic() - began < 0.06
