"""A pod that asks to be protected comes up protected or not at all, asked over HTTPS; what comes up is a valid pod."""

import copy
import json

import kubernetes_validate
import pytest
from serving import PODS, cases

CASES = cases()
REFUSED = cases(PODS / "refused")
VERSIONS = [f"1.{minor}" for minor in range(28, 38)]
NAMES = [case.name for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_patched(webhooks, case):
    webhook = webhooks(case.settings())
    patched = webhook.patch(case.pod)
    assert patched == case.expected()
    second = webhook.ask(patched)
    assert second["allowed"] and "patch" not in second, "a second pass changes nothing"


@pytest.mark.parametrize("case", REFUSED, ids=[case.name for case in REFUSED])
def test_refused(webhooks, case):
    response = webhooks(case.settings()).ask(case.pod)
    assert not response["allowed"] and "patch" not in response
    status = response["status"]
    assert status["message"] == f"refrain: {case.sentence()}"
    assert (status["code"], status["reason"]) == (403, "Forbidden")


@pytest.mark.parametrize("version", VERSIONS)
def test_valid_for_every_kubernetes(webhooks, version):
    """By Kubernetes' own schemas, unknown fields refused: for each version the pods that its webhook makes."""
    for case in CASES:
        if not case.is_known_to_others:
            continue
        if case.name == "triton-drain" and version in ("1.28", "1.29"):
            continue  # its preStop sleep is not in those versions
        patched = webhooks(case.settings(kubernetes=version)).patch(case.pod)
        patched = {"apiVersion": "v1", "kind": "Pod"} | patched
        kubernetes_validate.validate(patched, version, strict=True)
        kubernetes_validate.validate(patched, VERSIONS[-1], strict=True)


def test_schemas_refuse_what_is_misspelt():
    pod = copy.deepcopy(next(case for case in CASES if case.name == "triton").expected())
    pod["spec"]["initContainers"][0]["restartPolicies"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, "1.33", strict=True)


def test_native_sidecars_where_there_are_any(webhooks):
    case = CASES[NAMES.index("triton")]
    for version in VERSIONS:
        spec = webhooks(case.settings(kubernetes=version)).patch(case.pod)["spec"]
        native = [each["name"] for each in spec.get("initContainers", [])]
        assert native == ([] if version == "1.28" else ["refrain"]), version


def test_other_operations_pass(webhooks):
    """What matters in a pod cannot be changed any more once it is there."""
    case = CASES[NAMES.index("triton")]
    webhook = webhooks(case.settings())
    assert "patch" not in webhook.ask(case.pod, operation="UPDATE")


def test_other_kinds_are_refused(webhooks):
    webhook = webhooks(CASES[0].settings())
    response = webhook.ask({}, kind=("apps", "v1", "Deployment"))
    assert not response["allowed"]
    assert "expected a Pod of v1, found Deployment of apps/v1" in response["status"]["message"]


def test_pods_that_cannot_be_read_are_refused_with_the_reason(webhooks):
    webhook = webhooks(CASES[0].settings())
    for pod, reason in [
        ({"metadata": {}, "spec": {"containers": "none"}}, "the pod cannot be read: invalid type: string"),
        ({"metadata": {}}, "the pod has no spec"),
        (None, "the pod cannot be read"),
    ]:
        response = webhook.ask(pod)
        assert not response["allowed"] and reason in response["status"]["message"], response


def test_large_pods_are_patched(webhooks):
    """Near what the API server takes at most."""
    case = CASES[NAMES.index("triton")]
    pod = copy.deepcopy(case.pod)
    pod["metadata"]["annotations"]["notes.example/text"] = "n" * (2 << 20)
    patched = webhooks(case.settings()).patch(pod)
    assert patched["spec"] == case.expected()["spec"]


def test_warnings_are_as_long_as_they_are_shown(webhooks):
    case = CASES[NAMES.index("triton")]
    warnings = webhooks(case.settings()).ask(case.pod)["warnings"]
    assert any("metrics port 8002 is closed" in warning for warning in warnings), warnings
    for case in CASES:
        for warning in webhooks(case.settings()).ask(case.pod).get("warnings", []):
            assert len(warning.encode()) <= 256, warning


def test_what_became_of_reviews_is_counted(webhook):
    case = CASES[NAMES.index("triton")]
    count = lambda outcome: webhook.metric(f'refrain_webhook_reviews_total{{outcome="{outcome}"}}')
    assert [count(outcome) for outcome in ("patched", "unchanged", "refused", "unreadable")] == [0, 0, 0, 0]
    webhook.patch(case.pod)
    webhook.ask(case.expected())
    webhook.ask(case.expected())
    webhook.ask({})
    webhook.post(b"{")
    assert [count(outcome) for outcome in ("patched", "unchanged", "refused", "unreadable")] == [1, 2, 1, 1]


@pytest.mark.parametrize(
    "body, reason",
    [
        (b"", "EOF while parsing"),
        (b"pod", "expected value"),
        (b"[]", "not one"),
        (b'{"apiVersion": "x", "kind": "y", "request": {"object": ' + b"[" * 1000, "recursion limit"),
        (b'{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}', "found AdmissionReview of admission.k8s.io/v1beta1"),
        (b'{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}', "expected a request"),
        (b"\xff\xfe", "expected value"),
    ],
)
def test_what_is_no_review_is_refused_with_the_reason(webhooks, body, reason):
    status, _, said = webhooks(CASES[0].settings()).post(body)
    assert status == 400 and reason in said.decode(), said


def test_other_requests_are_refused(webhooks):
    webhook = webhooks(CASES[0].settings())
    review = json.dumps({}).encode()
    assert webhook.post(review, path="/")[0] == 404
    assert webhook.post(None, method="GET")[0] == 405
    assert webhook.post(review, headers={"content-type": "text/plain"})[0] == 415
