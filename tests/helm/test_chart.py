"""The chart as it stands: linted, rendered by default, valid at every level, and what is generated is up to date."""

import os
import pathlib
import re
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml
from conftest import CHART, HELMS, LEVEL, LEVELS, ROOT, Helm, Rendered

SNAPSHOT = pathlib.Path(__file__).parent / "default.yaml"
# Kinds that are not Kubernetes' own.
FOREIGN = {"PodMonitor", "ServiceMonitor", "PrometheusRule", "Certificate", "Issuer"}
PROMETHEUS = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
# Everything that can be turned on.
EVERYTHING = {
    "namespaces": ["models", "more"],
    "imagePullSecrets": [{"name": "pull"}],
    "networkPolicy": {"metricsFrom": PROMETHEUS},
    "monitoring": {"podMonitor": True, "serviceMonitor": True, "prometheusRule": True, "dashboard": True},
    "webhook": {"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "priorityClassName": "high"},
}
CERTIFICATES = {
    "self": {},
    "certManager": {},
    "helm": {},
    "existingSecret": {"secretName": "mine", "caBundle": "Q0E="},
}


def test_it_is_linted_strictly(helm):
    done = helm.run("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout and "[ERROR]" not in done.stdout, done.stdout


def test_what_is_generated_is_up_to_date():
    done = subprocess.run([sys.executable, CHART / "generate", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_default_rendering_is_the_one_that_was_read(helm):
    """REFRAIN_UPDATE=1 writes it anew; then read the difference."""
    documents = sorted(helm.render().documents, key=lambda each: (each["kind"], each["metadata"]["name"]))
    text = yaml.safe_dump_all(documents, sort_keys=True, width=120)
    if os.environ.get("REFRAIN_UPDATE"):
        SNAPSHOT.write_text(text)
    assert SNAPSHOT.read_text() == text


def valid(rendered, level):
    """The kinds that there are, once each manifest was found valid."""
    for document in rendered.documents:
        if document["kind"] not in FOREIGN:
            kubernetes_validate.validate(document, level, strict=True)
    return {document["kind"] for document in rendered.documents}


@pytest.mark.parametrize("level", LEVELS)
def test_every_manifest_is_valid_at_every_level(helm, level):
    kinds = valid(helm.render({}, level), level) & valid(helm.render(EVERYTHING, level), level)
    assert {"Deployment", "MutatingWebhookConfiguration", "NetworkPolicy", "PodDisruptionBudget"} <= kinds
    assert ("ValidatingAdmissionPolicy" in kinds) == (level not in ("1.28", "1.29"))


@pytest.mark.parametrize("mode", CERTIFICATES)
def test_every_manifest_is_valid_with_every_certificate(helm, mode):
    kinds = valid(helm.render({"certificates": {"mode": mode, **CERTIFICATES[mode]}}), LEVEL)
    assert ("Certificate" in kinds) == (mode == "certManager")


def test_the_validator_finds_what_it_looks_for(helm):
    wrong = helm.render().deployment
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.31", strict=True)


def test_older_kubernetes_is_refused(helm):
    assert "1.28" in helm.refusal({}, "1.27")


def test_both_helms_say_the_same_of_everything(tmp_path):
    first, second = (Helm(program, tmp_path).render(EVERYTHING).documents for program in HELMS.values())
    for documents in (first, second):
        documents.sort(key=lambda each: (each["kind"], each["metadata"]["name"], each["metadata"].get("namespace", "")))
    assert first == second


def test_pods_are_fit_for_the_restricted_standard(helm):
    rendered = helm.render(EVERYTHING)
    for pod in (rendered.pod, rendered.one("Pod", "refrain-test")["spec"]):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] == 65532
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False and security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]
        assert {volume.keys() - {"name"} and next(iter(volume.keys() - {"name"})) for volume in pod["volumes"]} <= {"configMap", "secret"}


def test_rights_are_the_least(helm):
    rendered = helm.render()
    assert rendered.one("Role")["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": ["refrain-webhook-tls"],
            "verbs": ["get", "list", "watch", "update"],
        },
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
    ]
    assert rendered.one("ClusterRole")["rules"] == [
        {
            "apiGroups": ["admissionregistration.k8s.io"],
            "resources": ["mutatingwebhookconfigurations"],
            "resourceNames": ["refrain"],
            "verbs": ["get", "list", "watch", "patch"],
        }
    ]
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        assert rendered.one(kind)["subjects"] == [
            {"kind": "ServiceAccount", "name": "refrain-webhook", "namespace": "refrain"}
        ]


@pytest.mark.parametrize("mode", [mode for mode in CERTIFICATES if mode != "self"])
def test_a_webhook_that_is_given_its_certificate_has_no_rights(helm, mode):
    rendered = helm.render({"certificates": {"mode": mode, **CERTIFICATES[mode]}})
    for kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"):
        assert not rendered.all(kind)
    assert rendered.pod["automountServiceAccountToken"] is False


def test_opted_in_pods_are_asked_about_once_and_no_others(helm):
    by_pod, by_namespace = helm.render().webhooks
    for webhook in (by_pod, by_namespace):
        assert webhook["failurePolicy"] == "Fail" and webhook["reinvocationPolicy"] == "IfNeeded"
        assert webhook["sideEffects"] == "None" and webhook["timeoutSeconds"] == 5
        assert webhook["admissionReviewVersions"] == ["v1"]
        assert [(rule["operations"], rule["resources"]) for rule in webhook["rules"]] == [(["CREATE"], ["pods"])]
        excluded = webhook["namespaceSelector"]["matchExpressions"][0]
        assert excluded == {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", "refrain"]}
        assert "caBundle" not in webhook["clientConfig"], "in self mode it is the webhook's own"
        assert webhook["clientConfig"]["service"] == {
            "name": "refrain-webhook",
            "namespace": "refrain",
            "path": "/mutate",
            "port": 443,
        }
    assert by_pod["objectSelector"]["matchExpressions"] == [
        {"key": "refrain.dev/inject", "operator": "Exists"},
        {"key": "refrain.dev/inject", "operator": "NotIn", "values": ["false"]},
    ]
    assert by_namespace["objectSelector"]["matchExpressions"] == [{"key": "refrain.dev/inject", "operator": "DoesNotExist"}]
    assert by_namespace["namespaceSelector"]["matchExpressions"][1]["values"] == ["enabled"]


def test_names_follow_the_release_and_hang_together(helm):
    done = helm.run("template", "shield", str(CHART), "--namespace", "x", "--kube-version", "1.31")
    text = done.stdout
    assert "name: shield-refrain-webhook" in text and 'secret = "shield-refrain-webhook-tls"' in text
    assert 'configuration = "shield-refrain"' in text and "name: refrain-proxy-config" in text


def test_what_is_installed_is_accepted_by_the_program_that_runs_there(helm, refrain_check):
    for values in ({}, EVERYTHING, FULL_CONFIG):
        config = helm.render(values).one("ConfigMap", "refrain-proxy-config", "refrain")["data"]["config.toml"]
        assert refrain_check(config) is None, config
    assert "unknown key" in refrain_check('colour = "blue"'), "the check checks"


# Numbers of every kind: whole ones, broken ones, in lists, in tables in lists.
FULL_CONFIG = {
    "perPodMemoryAcknowledged": True,
    "sidecar": {"memoryLimit": "1Gi"},
    "config": {
        "mode": "enforce",
        "profile": "hardened",
        "caller": {"metadata": "x-user", "trusted_peers": ["10.0.0.0/8"]},
        "judgment": {"reuse_bits": 8, "guard_share": 0.9, "cell_contrast": 1},
        "limits": {"held": 4096, "linger": "5s", "message_bytes": "32MiB"},
        "store": {"bytes": "256MiB", "ttl": "2h"},
        "timing": {"mode": "sample"},
        "telemetry": {"sample": 0.01},
        "rpc": {"allow": ["inference.GRPCInferenceService/ModelStatistics"]},
        "models": {"resnet*": {"range": "imagenet", "sees": {"resize": 256, "crop": [224, 224]}}, "text": {"mode": "off"}},
    },
}


def test_the_webhook_accepts_its_settings(helm, refrain_binary, tmp_path):
    if "\n  webhook " not in subprocess.run([refrain_binary, "--help"], capture_output=True, text=True).stdout:
        pytest.skip("this refrain has no webhook yet")
    for values in ({}, EVERYTHING, {"sidecar": {"cpuLimit": "1", "env": {"OTEL_A": "b"}}}, {"sidecar": {"digestKeySecret": "keys"}}):
        # Files, so that it gets as far as their absence without asking a cluster.
        rendered = helm.render({**values, "certificates": {"mode": "certManager"}})
        file = tmp_path / "webhook.toml"
        file.write_text(rendered.one("ConfigMap", "refrain-webhook")["data"]["webhook.toml"])
        done = subprocess.run([refrain_binary, "webhook", "--settings", file], capture_output=True, text=True, timeout=20)
        assert "mistake" not in done.stderr and "/tls/tls.crt" in done.stderr, done.stderr


def test_promtool_accepts_the_rules(helm, tmp_path):
    rules = helm.render({"monitoring": {"prometheusRule": True}}).one("PrometheusRule")["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    promtool = ROOT / "target/test-prometheus/usr/bin/promtool"
    done = subprocess.run([promtool, "check", "rules", tmp_path / "rules.yaml"], capture_output=True, text=True)
    assert done.returncode == 0 and "8 rules found" in done.stdout, done.stdout + done.stderr
    guide = (CHART / "README.md").read_text()
    for rule in rules["groups"][1]["rules"]:
        title = rule["annotations"]["runbook"].removeprefix("helm/README.md#")
        titles = [re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-") for line in guide.splitlines() if line.startswith("## ")]
        assert title in titles, title


def test_numbers_stay_what_they_are(helm):
    config = helm.render(FULL_CONFIG).config
    assert config["limits"]["held"] == 4096 and isinstance(config["limits"]["held"], int)
    assert config["judgment"]["guard_share"] == 0.9
    assert config["models"]["resnet*"]["sees"] == {"resize": 256, "crop": [224, 224]}
    assert isinstance(config["models"]["resnet*"]["sees"]["crop"][0], int)


def test_sizes_fit_the_memory(helm):
    mib = 1 << 20
    for limit, whole in (("256Mi", 256), ("512Mi", 512), ("1Gi", 1024), ("4Gi", 4096)):
        config = helm.render({"sidecar": {"memoryLimit": limit}}).config
        limits, store = config["limits"], config["store"]
        assert 3 * limits["bytes_in_flight"] + store["bytes"] + 48 * mib <= whole * mib
        assert limits["message_bytes"] <= limits["bytes_in_flight_per_caller"] < limits["bytes_in_flight"]
    assert helm.render().config["limits"]["message_bytes"] == 64 * mib, "the ordinary limit stays what it is elsewhere"


def test_other_settings_mean_other_webhook_pods_and_another_config_does_not(helm):
    def checksum(values):
        return helm.render(values).deployment["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]

    assert checksum({}) == checksum({"config": {"mode": "off"}}), "a change of mode restarts nothing"
    assert checksum({}) != checksum({"sidecar": {"drainSeconds": 11}})


def test_the_notes_say_what_is_missing(tmp_path):
    helm = Helm(HELMS["4"], tmp_path)  # Helm 3 renders them for a cluster alone

    def notes(*flags):
        done = helm.run("install", "refrain", str(CHART), "--namespace", "refrain", "--dry-run=client", *flags)
        assert done.returncode == 0, done.stderr
        return done.stdout.split("NOTES:")[1]

    said = notes()
    assert "NO NAMESPACE IS PREPARED YET" in said and "refrain audit" in said and "observe" in said
    said = notes("--set", "namespaces={models},admissionPolicy.enabled=false")
    assert "Prepared namespaces: models" in said and "nothing refuses a pod that came up without" in said


def test_the_readme_names_only_what_is_there():
    """Values, annotations and labels that the guide mentions."""
    text = (CHART / "README.md").read_text()
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    sections = "|".join(re.escape(name) for name in values)
    mentioned = re.findall(rf"`((?:{sections})\.[A-Za-z_.]+)`", text)
    assert mentioned
    for name in mentioned:
        inside = values
        for part in name.split("."):
            if inside is values["config"] or inside == {} or name.startswith("config."):
                break
            assert part in inside, name
            inside = inside[part]
    known = set(re.findall(r"refrain\.dev/[a-z-]+", "".join(path.read_text() for path in (ROOT / "helm" / "templates").rglob("*.*"))))
    # What the webhook reads and writes itself.
    known |= {
        f"refrain.dev/{name}"
        for name in ("container runtime rest config mode cpu-request cpu-limit memory-request memory-limit log-level status").split()
    }
    for name in set(re.findall(r"refrain\.dev/[a-z-]+", text)):
        assert name in known, name


def test_an_upgrade_changes_nothing_that_cannot_change(helm, tmp_path):
    """Selectors, names and role references are fixed for good: an upgrade that changes one fails, and so does the way back."""
    packed = helm.run("package", str(CHART), "--version", "9.9.9", "--app-version", "9.9.9", "--destination", str(tmp_path))
    assert packed.returncode == 0, packed.stderr
    done = helm.run("template", "refrain", str(tmp_path / "refrain-9.9.9.tgz"), "--namespace", "refrain", "--kube-version", LEVEL)
    assert done.returncode == 0, done.stderr

    def fixed(rendered):
        of = lambda document: (document["apiVersion"], document["kind"], document["metadata"]["name"])
        return sorted(map(of, rendered.documents)), [
            rendered.deployment["spec"]["selector"],
            rendered.one("RoleBinding")["roleRef"],
            rendered.one("ClusterRoleBinding")["roleRef"],
            [webhook["name"] for webhook in rendered.webhooks],
            rendered.settings["certificates"],
            rendered.settings["sidecar"]["config_map"],
        ]

    newer = Rendered(done.stdout)
    assert fixed(newer) == fixed(helm.render())
    assert newer.container["image"] == "refrain:9.9.9" and newer.settings["sidecar"]["image"] == "refrain:9.9.9"
