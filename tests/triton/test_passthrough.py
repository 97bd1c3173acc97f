"""What Refrain does not judge it hands on untouched, and what it does not hand on it closes."""

import health
import pytest
import wire
from asking import FORMS, SERVICE, finished, question
from pictures import photo
from tritonclient.grpc import InferenceServerClient
from tritonclient.grpc import service_pb2 as pb

RELAYED = [
    ("ServerLive", pb.ServerLiveRequest()),
    ("ServerReady", pb.ServerReadyRequest()),
    ("ServerMetadata", pb.ServerMetadataRequest()),
    *(("ModelReady", pb.ModelReadyRequest(name=name, version=v)) for name, v in (("clf", ""), ("nope", ""), ("clf", "9"), ("clf", "x"), ("", ""))),
    *(
        (method, kind(name=name, version=v))
        for method, kind in (("ModelMetadata", pb.ModelMetadataRequest), ("ModelConfig", pb.ModelConfigRequest))
        for name, v in (("clf", ""), ("two", "1"), ("versioned", "2"), ("text", ""), ("nope", ""), ("clf", "9"), ("clf", "x"), ("", ""))
    ),
    ("ModelReady", b"\xff\xff\xff"),
    ("ModelMetadata", b"\x0a\x05clf"),
]

CLOSED = [
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
    "LogSettings",
]


@pytest.mark.parametrize("method, request_", RELAYED, ids=lambda value: str(value).replace("\n", " "))
def test_an_allowed_call_gets_the_servers_own_reply(direct, proxied, method, request_):
    assert proxied.call(method, request_) == direct.call(method, request_)


@pytest.mark.parametrize("model", FORMS)
def test_a_new_picture_gets_the_servers_own_reply(direct, proxied, model):
    assert proxied.ask(model, photo(0), id="one") == direct.ask(model, photo(0), id="one")


def test_text_to_a_model_without_pictures_gets_the_servers_own_reply_every_time(direct, proxied, asked):
    request = pb.ModelInferRequest(model_name="text")
    request.inputs.add(name="text", datatype="BYTES", shape=[1, 1]).contents.bytes_contents.append(b"hello")
    expected = direct.infer(request)
    with asked("text") as reached:
        assert [proxied.infer(request), proxied.infer(request)] == [expected, expected]
    assert reached.requests == 2


@pytest.mark.parametrize("method", CLOSED)
def test_a_method_that_is_not_allowed_is_denied(proxied, method):
    assert proxied.call(method, b"").code == "PERMISSION_DENIED"


@pytest.mark.parametrize("method", ["NoSuch", "modelinfer", "/foo.Bar/Baz", "/inference.Other/ModelInfer", "/grpc.health.v1.Health/List"])
def test_a_method_that_nobody_knows_is_unimplemented(proxied, method):
    assert proxied.call(method, b"").code == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    "path",
    [
        "inference.GRPCInferenceService/ModelStatistics",
        "//inference.GRPCInferenceService/ModelStatistics",
        SERVICE + "ModelStatistics/",
        SERVICE + "ModelStatistics?x=y",
        SERVICE + "Model%53tatistics",
        SERVICE.upper() + "ModelStatistics",
        "/",
        "*",
    ],
)
def test_no_other_spelling_of_a_path_reaches_the_server(proxied, asked, path):
    reply = wire.call(proxied.port, path, wire.message(b""), seconds=5)
    assert reply.data == b""
    assert reply.status in (None, 7, 12)


@pytest.mark.parametrize(
    "path", ["inference.GRPCInferenceService/ModelInfer", SERVICE + "ModelInfer/", SERVICE + "ModelInfer?x=y", "/" + SERVICE + "ModelInfer"]
)
def test_no_other_spelling_of_model_infer_reaches_the_model(proxied, asked, path):
    with asked("clf_u8") as reached:
        reply = wire.call(proxied.port, path, wire.message(question("clf_u8", photo(1)).SerializeToString()), seconds=5)
    assert reply.status != 0 and reached.requests == 0


def test_an_operator_can_open_a_method(refrain, clients, direct):
    proxy = refrain(tables='[rpc]\nallow = ["inference.GRPCInferenceService/ModelStatistics"]')
    client = clients(proxy, user="alice")
    request = pb.ModelStatisticsRequest(name="text")
    assert client.call("ModelStatistics", request) == direct.call("ModelStatistics", request)
    assert client.call("RepositoryIndex", b"").code == "PERMISSION_DENIED"


def test_health_can_be_watched_and_asked(proxied):
    for service in ("", "inference.GRPCInferenceService"):
        health.once_serving(proxied, service)
        assert health.of(proxied, service) == "SERVING"


def test_the_ordinary_client_library_works_as_before(proxied, direct):
    with InferenceServerClient(f"127.0.0.1:{proxied.port}") as through, InferenceServerClient(f"127.0.0.1:{direct.port}") as past:
        for client in (through, past):
            assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("clf")
        assert through.get_model_metadata("clf", as_json=True) == past.get_model_metadata("clf", as_json=True)
        assert through.get_model_config("clf", as_json=True) == past.get_model_config("clf", as_json=True)


def test_many_calls_at_once_on_one_connection_each_get_their_own_reply(direct, proxied):
    models = ["clf_u8", "two", "clf", "aux"] * 8
    calls = [proxied.start("ModelInfer", question(model, photo(0), id=str(index))) for index, model in enumerate(models)]
    for index, (model, call) in enumerate(zip(models, calls, strict=True)):
        reply = finished(call)
        assert reply.body == direct.ask(model, photo(0), id=str(index)).body


def test_a_reply_has_the_servers_own_frames_and_headers_and_so_has_a_replay(proxied, direct):
    user = [("x-user", "wire")]
    new = wire.message(question("clf_u8", photo(2), id="1").SerializeToString())
    expected = wire.call(direct.port, SERVICE + "ModelInfer", new)
    for _ in range(2):
        reply = wire.call(proxied.port, SERVICE + "ModelInfer", new, headers=user)
        assert [sorted(block) for block in reply.blocks] == [sorted(block) for block in expected.blocks]
        assert reply.data == expected.data
        assert [name.rstrip(".") for name in reply.frames if name != "data."] == [name.rstrip(".") for name in expected.frames]


def test_an_error_has_the_servers_own_headers(proxied, direct):
    body = wire.message(question("nope", photo(2)).SerializeToString())
    reply, expected = (wire.call(port, SERVICE + "ModelInfer", body) for port in (proxied.port, direct.port))
    assert sorted(sum(reply.blocks, [])) == sorted(sum(expected.blocks, []))
