"""One case for each value, in the order of values.yaml: what it changes, under both Helms."""

import base64

import pytest
import yaml
from conftest import CHART

PEERS = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
DIGEST = "sha256:" + "0123456789abcdef" * 4


def variables(container):
    return {each["name"]: each.get("value") for each in container["env"]}


def settings(key, value):
    return lambda rendered: rendered.settings["sidecar"][key] == value


# What is set, and what must be true of the rendering then and not by default.
CASES = {
    "image.repository": ({"image": {"repository": "here/refrain"}}, lambda r: r.container["image"] == "here/refrain:0.1.0" and r.settings["sidecar"]["image"] == "here/refrain:0.1.0"),
    "image.tag": ({"image": {"tag": "9"}}, lambda r: r.container["image"] == "refrain:9"),
    "image.digest": ({"image": {"tag": "9", "digest": DIGEST}}, lambda r: r.container["image"] == r.settings["sidecar"]["image"] == f"refrain@{DIGEST}"),
    "image.pullPolicy": ({"image": {"pullPolicy": "Always"}}, lambda r: r.container["imagePullPolicy"] == r.settings["sidecar"]["pull_policy"] == "Always"),
    "imagePullSecrets": ({"imagePullSecrets": [{"name": "pull"}]}, lambda r: r.pod.get("imagePullSecrets") == [{"name": "pull"}]),
    "namespaces": ({"namespaces": ["models"]}, lambda r: r.all("ConfigMap", "refrain-proxy-config", "models") and r.all("NetworkPolicy", "refrain", "models")),
    "config.mode": ({"config": {"mode": "off"}}, lambda r: r.config["mode"] == "off"),
    "perPodMemoryAcknowledged": ({"config": {"mode": "enforce"}, "perPodMemoryAcknowledged": True}, lambda r: r.config["mode"] == "enforce"),
    "sidecar.native": ({"sidecar": {"native": "never"}}, settings("native", "never")),
    "sidecar.cpuRequest": ({"sidecar": {"cpuRequest": "2"}}, settings("cpu_request", "2")),
    "sidecar.cpuLimit": ({"sidecar": {"cpuLimit": "500m"}}, lambda r: r.settings["sidecar"].get("cpu_limit") == "500m"),
    "sidecar.memoryRequest": ({"sidecar": {"memoryRequest": "64Mi"}}, settings("memory_request", "64Mi")),
    "sidecar.memoryLimit": ({"sidecar": {"memoryLimit": "1Gi"}}, lambda r: r.settings["sidecar"]["memory_limit"] == "1Gi" and r.config["store"]["bytes"] == 256 << 20),
    "sidecar.drainSeconds": ({"sidecar": {"drainSeconds": 30}}, settings("drain_seconds", 30)),
    "sidecar.adminPort": ({"sidecar": {"adminPort": 7000}}, settings("admin_port", 7000)),
    "sidecar.probePort": ({"sidecar": {"probePort": 7001}}, settings("probe_port", 7001)),
    "sidecar.probeRewrite": ({"sidecar": {"probeRewrite": False}}, settings("probe_rewrite", False)),
    "sidecar.bypassCheck": ({"sidecar": {"bypassCheck": "warn"}}, settings("bypass_check", "warn")),
    "sidecar.exposeModelMetrics": ({"sidecar": {"exposeModelMetrics": True}}, lambda r: r.settings["metrics"]["exposed"] is True),
    "sidecar.logLevel": ({"sidecar": {"logLevel": "debug"}}, settings("log_level", "debug")),
    "sidecar.digestKeySecret": ({"sidecar": {"digestKeySecret": "keys"}}, lambda r: r.settings["sidecar"].get("digest_key_secret") == "keys"),
    "sidecar.env": ({"sidecar": {"env": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}}}, settings("env", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"})),
    "webhook.replicas": ({"webhook": {"replicas": 1}}, lambda r: r.deployment["spec"]["replicas"] == 1 and not r.all("PodDisruptionBudget")),
    "webhook.failurePolicy": ({"webhook": {"failurePolicy": "Ignore"}}, lambda r: {each["failurePolicy"] for each in r.webhooks} == {"Ignore"}),
    "webhook.timeoutSeconds": ({"webhook": {"timeoutSeconds": 9}}, lambda r: {each["timeoutSeconds"] for each in r.webhooks} == {9}),
    "webhook.excludedNamespaces": (
        {"webhook": {"excludedNamespaces": ["istio-system"]}},
        lambda r: all(
            "istio-system" in selector["matchExpressions"][0]["values"]
            for selector in [each["namespaceSelector"] for each in r.webhooks]
            + [r.one("ValidatingAdmissionPolicy")["spec"]["matchConstraints"]["namespaceSelector"]]
        ),
    ),
    "webhook.logLevel": ({"webhook": {"logLevel": "debug"}}, lambda r: variables(r.container)["REFRAIN_LOG"] == "debug"),
    "webhook.resources": ({"webhook": {"resources": {"limits": {"memory": "1Gi"}}}}, lambda r: r.container["resources"]["limits"]["memory"] == "1Gi"),
    "webhook.nodeSelector": ({"webhook": {"nodeSelector": {"a": "b"}}}, lambda r: r.pod.get("nodeSelector") == {"a": "b"}),
    "webhook.tolerations": ({"webhook": {"tolerations": [{"operator": "Exists"}]}}, lambda r: r.pod.get("tolerations") == [{"operator": "Exists"}]),
    "webhook.priorityClassName": ({"webhook": {"priorityClassName": "high"}}, lambda r: r.pod.get("priorityClassName") == "high"),
    "certificates.mode": (
        {"certificates": {"mode": "certManager"}},
        lambda r: r.settings["certificates"] == {"mode": "files", "certificate": "/tls/tls.crt", "key": "/tls/tls.key"}
        and r.one("Certificate")["spec"]["secretName"] == r.pod["volumes"][1]["secret"]["secretName"] == "refrain-webhook-tls"
        and r.one("Certificate")["spec"]["issuerRef"]["name"] == r.one("Issuer")["metadata"]["name"]
        and r.one("MutatingWebhookConfiguration")["metadata"]["annotations"] == {"cert-manager.io/inject-ca-from": "refrain/refrain-webhook"},
    ),
    "certificates.days": ({"certificates": {"days": 30}}, lambda r: r.settings["certificates"]["days"] == 30),
    "certificates.secretName": (
        {"certificates": {"mode": "existingSecret", "secretName": "mine", "caBundle": "Q0E="}},
        lambda r: r.pod["volumes"][-1].get("secret") == {"secretName": "mine"} and not r.all("Secret"),
    ),
    "certificates.caBundle": (
        {"certificates": {"mode": "existingSecret", "secretName": "mine", "caBundle": "Q0E="}},
        lambda r: {each["clientConfig"].get("caBundle") for each in r.webhooks} == {"Q0E="},
    ),
    "certificates.issuerRef": (
        {"certificates": {"mode": "certManager", "issuerRef": {"name": "ca", "kind": "ClusterIssuer"}}},
        lambda r: bool(r.all("Certificate")) and r.one("Certificate")["spec"]["issuerRef"] == {"name": "ca", "kind": "ClusterIssuer"} and not r.all("Issuer"),
    ),
    "admissionPolicy.enabled": ({"admissionPolicy": {"enabled": False}}, lambda r: not r.all("ValidatingAdmissionPolicy") and not r.all("ValidatingAdmissionPolicyBinding")),
    "networkPolicy.enabled": ({"namespaces": ["models"], "networkPolicy": {"enabled": False}}, lambda r: not r.all("NetworkPolicy")),
    "networkPolicy.servingPorts": (
        {"namespaces": ["models"], "networkPolicy": {"servingPorts": [50051]}},
        lambda r: bool(r.all("NetworkPolicy", "refrain", "models")) and r.one("NetworkPolicy", "refrain", "models")["spec"]["ingress"] == [{"ports": [{"port": 50051}]}],
    ),
    "networkPolicy.metricsFrom": (
        {"namespaces": ["models"], "networkPolicy": {"metricsFrom": PEERS}},
        lambda r: all(policy["spec"]["ingress"][1:] == [{"ports": [{"port": 15990}], "from": PEERS}] for policy in r.all("NetworkPolicy")),
    ),
    "monitoring.podMonitor": (
        {"monitoring": {"podMonitor": True}, "networkPolicy": {"metricsFrom": PEERS}},
        lambda r: bool(r.all("PodMonitor")) and r.one("PodMonitor")["spec"]["podMetricsEndpoints"] == [{"port": "refrain-admin", "path": "/metrics", "interval": "30s"}],
    ),
    "monitoring.serviceMonitor": (
        {"monitoring": {"serviceMonitor": True}, "networkPolicy": {"metricsFrom": PEERS}},
        lambda r: bool(r.all("ServiceMonitor")) and r.one("ServiceMonitor")["spec"]["selector"]["matchLabels"].items() <= r.one("Service")["metadata"]["labels"].items(),
    ),
    "monitoring.prometheusRule": (
        {"monitoring": {"prometheusRule": True}},
        lambda r: bool(r.all("PrometheusRule"))
        and [group["name"] for group in r.one("PrometheusRule")["spec"]["groups"]] == ["refrain", "refrain-cluster"]
        and r.one("PrometheusRule")["spec"]["groups"][0] == yaml.safe_load((CHART / "../telemetry/alerts.yaml").read_text())["groups"][0],
    ),
    "monitoring.dashboard": (
        {"monitoring": {"dashboard": True}},
        lambda r: bool(r.all("ConfigMap", "refrain-dashboard"))
        and yaml.safe_load(r.one("ConfigMap", "refrain-dashboard")["data"]["refrain.json"]) == yaml.safe_load((CHART / "../telemetry/dashboard.json").read_text()),
    ),
    "monitoring.interval": (
        {"monitoring": {"podMonitor": True, "interval": "7s"}, "networkPolicy": {"metricsFrom": PEERS}},
        lambda r: bool(r.all("PodMonitor")) and r.one("PodMonitor")["spec"]["podMetricsEndpoints"][0]["interval"] == "7s",
    ),
    "monitoring.labels": ({"monitoring": {"dashboard": True, "labels": {"release": "p"}}}, lambda r: bool(r.all("ConfigMap", "refrain-dashboard")) and r.one("ConfigMap", "refrain-dashboard")["metadata"]["labels"]["release"] == "p"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_value_does_what_it_says(helm, name):
    values, holds = CASES[name]
    assert holds(helm.render(values))
    assert not holds(helm.render()), "true by default, so the case shows nothing"


def test_each_value_has_its_case_in_their_order():
    # Maps that are values as a whole.
    whole = {"sidecar.env", "webhook.resources", "webhook.nodeSelector", "certificates.issuerRef", "monitoring.labels"}

    def names(values, prefix=""):
        for key, value in values.items():
            name = prefix + key
            yield from names(value, f"{name}.") if isinstance(value, dict) and name not in whole else [name]

    assert list(CASES) == list(names(yaml.safe_load((CHART / "values.yaml").read_text())))


def test_a_certificate_of_helms_is_for_the_service_and_trusted(helm):
    from cryptography import x509

    rendered = helm.render({"certificates": {"mode": "helm"}})
    secret = rendered.one("Secret")["data"]
    read = lambda key: x509.load_pem_x509_certificate(base64.b64decode(secret[key]))
    certificate, authority = read("tls.crt"), read("ca.crt")
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["refrain-webhook.refrain.svc"]
    assert {each["clientConfig"]["caBundle"] for each in rendered.webhooks} == {secret["ca.crt"]}
