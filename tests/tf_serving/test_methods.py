"""What Refrain does not judge it hands on untouched, and what it does not hand on it closes."""

import health
import pytest
from pictures import photo
from predicting import Classify, GetModelMetadata, GetModelStatus, HandleReloadConfigRequest, Predict, Regress, question, spec
from tensorflow_messages import METHODS, MODEL, PREDICTION


def metadata(*fields, **which):
    return METHODS[GetModelMetadata][0](model_spec=spec(which.pop("model", "clf"), **which), metadata_field=fields)


def status(**which):
    return METHODS[GetModelStatus][0](model_spec=spec(which.pop("model", "clf"), **which))


RELAYED = {
    "metadata": (GetModelMetadata, metadata("signature_def")),
    "metadata_of_a_version": (GetModelMetadata, metadata("signature_def", version=1)),
    "metadata_of_a_label": (GetModelMetadata, metadata("signature_def", label="stable")),
    "metadata_of_a_bytes_model": (GetModelMetadata, metadata("signature_def", model="jpeg")),
    "metadata_of_no_model": (GetModelMetadata, metadata("signature_def", model="nope")),
    "metadata_without_a_name": (GetModelMetadata, metadata("signature_def", model="")),
    "metadata_without_a_field": (GetModelMetadata, metadata()),
    "metadata_of_an_unknown_field": (GetModelMetadata, metadata("nope")),
    "metadata_without_a_spec": (GetModelMetadata, METHODS[GetModelMetadata][0](metadata_field=["signature_def"])),
    "status": (GetModelStatus, status()),
    "status_of_a_version": (GetModelStatus, status(version=1)),
    "status_of_no_version": (GetModelStatus, status(version=9)),
    "status_of_no_model": (GetModelStatus, status(model="nope")),
    "status_without_a_spec": (GetModelStatus, METHODS[GetModelStatus][0]()),
}

CLOSED = [
    HandleReloadConfigRequest,
    "/tensorflow.serving.SessionService/SessionRun",
    "/tensorflow.ProfilerService/Profile",
    "/tensorflow.ProfilerService/Terminate",
    "/tensorflow.ProfilerService/Monitor",
]

UNKNOWN = [
    PREDICTION + "PredictStreamed",
    PREDICTION + "predict",
    PREDICTION + "NoSuch",
    MODEL + "NoSuch",
    "/tensorflow.serving.PredictionServices/Predict",
    "/tensorflow.Serving.PredictionService/Predict",
    "/foo.Bar/Baz",
    "/refrain.test.StandIn/Counts",
]


@pytest.mark.parametrize("name", RELAYED)
def test_an_allowed_call_gets_the_servers_own_reply(proxied, direct, name):
    method, request = RELAYED[name]
    assert proxied.call(method, request) == direct.call(method, request)


@pytest.mark.parametrize("method", CLOSED)
def test_a_method_that_administers_the_server_is_never_reached(proxied, direct, method):
    before = reloads(direct)
    reply = proxied.call(method, b"")
    assert reply.code == "PERMISSION_DENIED" or reply.code == "UNIMPLEMENTED" and method != HandleReloadConfigRequest
    assert reloads(direct) == before


def reloads(direct):
    return direct.counts().get("reload requests", 0)


@pytest.mark.parametrize("method", UNKNOWN)
def test_a_method_that_nobody_knows_is_unimplemented(proxied, method):
    assert proxied.call(method, question("clf_u8", photo(0))).code == "UNIMPLEMENTED"


def test_health_is_serving_though_the_server_has_no_health_service(proxied, direct):
    assert direct.call(health.CHECK, b"").code == "UNIMPLEMENTED"
    for service in ("", "tensorflow.serving.PredictionService"):
        health.once_serving(proxied, service)
        assert health.of(proxied, service) == "SERVING"


@pytest.mark.parametrize("method", [Predict, Classify, Regress])
def test_a_message_that_is_none_is_refused(proxied, direct, method):
    for body in (b"\xff" * 20, b"\x0a\x05clf", question("clf_u8", photo(0)).SerializeToString()[:-5]):
        expected = direct.call(method, body)
        assert expected.code != "OK"
        assert proxied.call(method, body).code == expected.code


def test_an_operator_can_open_a_method(refrain, clients, direct):
    before = reloads(direct)
    client = clients(refrain(tables=f'[rpc]\nallow = ["{HandleReloadConfigRequest[1:]}"]'), user="alice")
    assert client.call(HandleReloadConfigRequest, b"").code == "OK"
    assert reloads(direct) == before + 1
