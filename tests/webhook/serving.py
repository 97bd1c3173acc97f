"""Starts `refrain webhook` as a cluster does, and asks it as an API server does: HTTPS, a checked certificate, AdmissionReview v1."""

import base64
import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import time
import tomllib
import uuid

import jsonpatch
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("REFRAIN_BIN", ROOT / "target" / "release" / "refrain"))
PODS = ROOT / "tests" / "fixtures" / "pods"
HOST = "refrain-webhook.refrain.svc"
START_SECONDS = 20
STOP_SECONDS = 20


class Case:
    """A pod from a file, and the settings that the file asks for."""

    def __init__(self, file):
        self.name, self.file = file.stem, file
        text = file.read_text()
        self.pod = yaml.safe_load(text)
        self.overrides = [line.removeprefix("# setting: ") for line in text.splitlines() if line.startswith("# setting: ")]
        self.is_known_to_others = "# unknown to others: yes" not in text

    def settings(self, **further):
        table = tomllib.loads((PODS / "settings.toml").read_text())
        for override in self.overrides:
            merge(table, tomllib.loads(override))
        merge(table, further)
        return table

    def expected(self):
        return yaml.safe_load((PODS / f"{self.name}.patched.yaml").read_text())

    def sentence(self):
        return self.file.with_suffix(".txt").read_text().strip()


def cases(folder=PODS):
    return [Case(file) for file in sorted(folder.glob("*.yaml")) if not file.name.endswith(".patched.yaml")]


def merge(into, table):
    for key, value in table.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def toml(table, prefix=""):
    """A table of tables as TOML."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += [f"[{prefix}{key}]", toml(value, f"{prefix}{key}.")]
    return "\n".join(lines)


class Webhook:
    """One running webhook, ended by its own process id."""

    def __init__(self, folder, settings, authority, certificate, key):
        folder.mkdir(parents=True)
        merge(settings, {"certificates": {"certificate": str(certificate), "key": str(key)}})
        file = folder / "webhook.toml"
        file.write_text(toml(settings))
        self.authority, self.log = authority, folder / "log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("REFRAIN_", "OTEL_"))}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [BINARY, "webhook", "--settings", file], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.port, self.admin = self._listening()

    def _listening(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if found := re.search(r"listening on 127\.0\.0\.1:(\d+), admin on 127\.0\.0\.1:(\d+)", self.said()):
                return int(found[1]), int(found[2])
            if self.process.poll() is not None:
                pytest.fail(f"the webhook ended with {self.process.returncode}:\n{self.said()}")
            time.sleep(0.01)
        self.process.kill()
        self.process.wait()
        pytest.fail(f"the webhook did not listen within {START_SECONDS} s:\n{self.said()}")

    def said(self):
        return self.log.read_text(errors="replace")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"the webhook did not end within {STOP_SECONDS} s of SIGTERM:\n{self.said()}")

    def context(self):
        """TLS as an API server's: the caBundle alone is trusted, and the Service's name is checked."""
        return ssl.create_default_context(cafile=str(self.authority.certificate))

    def connect(self, source="127.0.0.1", timeout=30):
        raw = socket.create_connection(("127.0.0.1", self.port), timeout, source_address=(source, 0))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.context().wrap_socket(raw, server_hostname=HOST)

    def post(self, body, path="/mutate?timeout=5s", method="POST", headers=None, source="127.0.0.1"):
        """Status, headers and body of one request."""
        connection = http.client.HTTPConnection(HOST)
        connection.sock = self.connect(source)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"content-type": "application/json"} | (headers or {}))
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()

    def ask(self, pod, source="127.0.0.1", **request):
        """What an API server is told of a pod."""
        review = admission_review(pod, **request)
        status, headers, body = self.post(json.dumps(review).encode(), source=source)
        assert status == 200, body
        assert headers["content-type"] == "application/json"
        answer = json.loads(body)
        assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
        assert answer["response"]["uid"] == review["request"]["uid"]
        return answer["response"]

    def patch(self, pod, **request):
        """The pod as the API server would store it; fails where it is refused."""
        response = self.ask(pod, **request)
        assert response["allowed"], response
        if "patch" not in response:
            assert "patchType" not in response
            return pod
        assert response["patchType"] == "JSONPatch"
        return jsonpatch.apply_patch(pod, json.loads(base64.b64decode(response["patch"], validate=True)))

    def tell(self, path):
        """Status and text of a page of the admin port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()

    def metric(self, name):
        _, page = self.tell("/metrics")
        lines = [line for line in page.splitlines() if line.rsplit(" ", 1)[0] == name]
        assert len(lines) == 1, page
        return float(lines[0].rsplit(" ", 1)[1])


def admission_review(pod, operation="CREATE", kind=("", "v1", "Pod")):
    """As an API server sends it for a pod that a ReplicaSet creates."""
    group, version, name = kind
    what = {"group": group, "version": version, "kind": name}
    which = {"group": group, "version": version, "resource": "pods"}
    return {
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": str(uuid.uuid4()),
            "kind": what,
            "resource": which,
            "requestKind": what,
            "requestResource": which,
            "namespace": "vision",
            "operation": operation,
            "userInfo": {
                "username": "system:serviceaccount:kube-system:replicaset-controller",
                "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
            },
            "object": pod,
            "oldObject": None,
            "dryRun": False,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    }
