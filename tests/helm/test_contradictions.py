"""Values that contradict each other, or that nobody knows, are refused before anything is installed."""

import pytest

PEER = [{"podSelector": {}}]

CONTRADICTIONS = {
    "enforce with a memory per pod": ({"config": {"mode": "enforce"}}, "set perPodMemoryAcknowledged to true, or stay with observe"),
    "the same for one model": ({"config": {"models": {"a": {"mode": "enforce"}}}}, "set perPodMemoryAcknowledged to true"),
    "a secret in a ConfigMap": ({"config": {"telemetry": {"digest_key": "0123456789abcdef"}}}, "name it in sidecar.digestKeySecret"),
    "a secret in the environment": ({"sidecar": {"env": {"REFRAIN_TELEMETRY__DIGEST_KEY": "0123456789abcdef"}}}, "name it in sidecar.digestKeySecret"),
    "a setting in the environment": ({"sidecar": {"env": {"REFRAIN_MODE": "off"}}}, "belong into config"),
    "a variable of the webhook's": ({"sidecar": {"env": {"POD_IP": "1"}}}, "is set for each pod by the webhook"),
    "more requested than allowed": ({"sidecar": {"memoryRequest": "1Gi"}}, "sidecar.memoryRequest (1Gi) is above sidecar.memoryLimit (512Mi)"),
    "more in flight than memory": ({"config": {"limits": {"bytes_in_flight": "400MiB"}}}, "Raise it to 1376Mi or lower one of the two"),
    "more remembered than memory": ({"config": {"store": {"bytes": 536870912}}}, "the sidecar would be killed under load"),
    "less memory than anything takes": ({"sidecar": {"memoryLimit": "128Mi"}}, "48 MiB for all the rest"),
    "a message above its caller's share": ({"config": {"limits": {"message_bytes": "80MiB"}}}, "must fit one caller's share"),
    "a size that is none": ({"config": {"store": {"bytes": "much"}}}, 'expected a size such as 64MiB or 512Mi, found "much"'),
    "two ports in one": ({"sidecar": {"adminPort": 15991}}, "are one and the same"),
    "callers on our own port": ({"networkPolicy": {"servingPorts": [8001, 15990]}}, "15990 is the sidecar's own port"),
    "a protected namespace that is excluded": ({"namespaces": ["a"], "webhook": {"excludedNamespaces": ["a"]}}, "nothing is injected in a"),
    "the release's own namespace": ({"namespaces": ["refrain"]}, "nothing is injected in refrain"),
    "nobody refuses": ({"webhook": {"failurePolicy": "Ignore"}, "admissionPolicy": {"enabled": False}}, "no admission policy would refuse them"),
    "a Secret without its name": ({"certificates": {"mode": "existingSecret", "caBundle": "Q0E="}}, "existingSecret needs secretName"),
    "a Secret without its CA": ({"certificates": {"mode": "existingSecret", "secretName": "a"}}, "and caBundle for the API server"),
    "a CA that would be ignored": ({"certificates": {"caBundle": "Q0E="}}, "under self they would be ignored"),
    "an issuer that would be ignored": ({"certificates": {"mode": "helm", "issuerRef": {"name": "a"}}}, "under helm it would be ignored"),
    "metrics that nobody reaches": ({"monitoring": {"podMonitor": True}}, "networkPolicy.metricsFrom"),
    "metrics of the webhook that nobody reaches": ({"monitoring": {"serviceMonitor": True}}, "networkPolicy.metricsFrom"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_is_refused_in_a_sentence(helm, name):
    values, sentence = CONTRADICTIONS[name]
    said = helm.refusal(values)
    assert sentence in said, said


def test_what_the_cluster_cannot_do_is_refused(helm):
    assert "native sidecars need Kubernetes 1.29, and this is v1.28" in helm.refusal({"sidecar": {"native": "always"}}, "1.28")
    assert "Use Fail" in helm.refusal({"webhook": {"failurePolicy": "Ignore"}}, "1.29")
    helm.render({"sidecar": {"native": "always"}}, "1.29")
    helm.render({"webhook": {"failurePolicy": "Ignore"}}, "1.30")


# What the schema says no to: a key that nobody knows, at each depth, and a value of another kind.
UNKNOWN = [
    {"colour": "blue"},
    {"image": {"name": "x"}},
    {"config": {"colour": "blue"}},
    {"config": {"listen": "0.0.0.0:1"}},
    {"config": {"bypass": {"check": "off"}}},
    {"webhook": {"replica": 3}},
    {"sidecar": {"enforce": True}},
    {"certificates": {"mode": "selfSigned"}},
    {"certificates": {"issuerRef": {"nome": "x"}}},
    {"webhook": {"replicas": 0}},
    {"webhook": {"timeoutSeconds": 31}},
    {"webhook": {"failurePolicy": "fail"}},
    {"sidecar": {"memoryLimit": "much"}},
    {"sidecar": {"memoryLimit": 512}},
    {"sidecar": {"env": {"A": 1}}},
    {"config": {"mode": False}},
    {"config": {"mode": "perhaps"}},
    {"namespaces": ["A b"]},
    {"networkPolicy": {"servingPorts": []}},
    {"image": {"digest": "sha256:1"}},
    {"monitoring": {"interval": "often"}},
]


@pytest.mark.parametrize("values", UNKNOWN, ids=str)
def test_what_nobody_knows_is_refused(helm, values):
    said = helm.refusal(values)
    assert "schema" in said, said
