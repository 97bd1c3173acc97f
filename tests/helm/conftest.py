"""Renders the chart as its users do, with Helm 3 and Helm 4."""

import os
import pathlib
import subprocess
import tomllib

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm"
HELMS = {name: ROOT / "target" / "test-helm" / name / "helm" for name in ("3", "4")}
# The oldest and newest Kubernetes that the chart is for, and the steps between them that it makes a difference at.
LEVELS = ("1.28", "1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
LEVEL = "1.31"


class Rendered:
    """The manifests that came out."""

    def __init__(self, text):
        self.text = text
        self.documents = [document for document in yaml.safe_load_all(text) if document]

    def all(self, kind, name=None, namespace=None):
        return [
            document
            for document in self.documents
            if document["kind"] == kind
            and name in (None, document["metadata"]["name"])
            and namespace in (None, document["metadata"].get("namespace"))
        ]

    def one(self, kind, name=None, namespace=None):
        found = self.all(kind, name, namespace)
        assert len(found) == 1, f"{len(found)} of {kind} {name or ''}"
        return found[0]

    @property
    def deployment(self):
        return self.one("Deployment")

    @property
    def pod(self):
        return self.deployment["spec"]["template"]["spec"]

    @property
    def container(self):
        return self.pod["containers"][0]

    @property
    def webhooks(self):
        return self.one("MutatingWebhookConfiguration")["webhooks"]

    @property
    def config(self):
        """The proxy's configuration."""
        return tomllib.loads(self.one("ConfigMap", "refrain-proxy-config", "refrain")["data"]["config.toml"])

    @property
    def settings(self):
        """The webhook's settings."""
        return tomllib.loads(self.one("ConfigMap", "refrain-webhook")["data"]["webhook.toml"])


class Helm:
    """One version of Helm."""

    def __init__(self, program, folder):
        self.program = program
        home = {name: str(folder / name) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("HELM_")} | home

    def run(self, *arguments):
        return subprocess.run(
            [self.program, *arguments], env=self.environment, capture_output=True, text=True, timeout=60
        )

    def template(self, values=None, level=LEVEL, *flags):
        arguments = ["template", "refrain", str(CHART), "--namespace", "refrain", "--kube-version", level, *flags]
        if values is None:
            return self.run(*arguments)
        text = yaml.safe_dump(values)
        return subprocess.run(
            [self.program, *arguments, "--values", "-"],
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def render(self, values=None, level=LEVEL, *flags):
        done = self.template(values, level, *flags)
        assert done.returncode == 0, done.stderr
        return Rendered(done.stdout)

    def refusal(self, values, level=LEVEL):
        done = self.template(values, level)
        assert done.returncode != 0, "it was rendered"
        return done.stderr


@pytest.fixture(params=sorted(HELMS), ids=lambda name: f"helm{name}")
def helm(request, tmp_path):
    return Helm(HELMS[request.param], tmp_path)


@pytest.fixture
def refrain_binary():
    return pathlib.Path(os.environ.get("REFRAIN_BIN", ROOT / "target" / "release" / "refrain")).resolve()


@pytest.fixture
def refrain_check(tmp_path, refrain_binary):
    """`refrain check` of a text: None where it is accepted, else what it says."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("REFRAIN_")}

    def check(text):
        file = tmp_path / "config.toml"
        file.write_text(text)
        done = subprocess.run([refrain_binary, "check", "--config", file], env=clean, capture_output=True, text=True)
        return None if done.returncode == 0 else done.stderr

    return check
