"""`refrain audit` reads what kubectl prints, lists what is open, and says so by its exit code."""

import json
import subprocess

import yaml
from serving import BINARY, PODS


def audit(objects, *flags):
    pods = {"apiVersion": "v1", "kind": "List", "items": objects}
    ended = subprocess.run([BINARY, "audit", *flags], input=json.dumps(pods), capture_output=True, text=True, timeout=20)
    return ended.returncode, ended.stdout, ended.stderr


def pod(name):
    return yaml.safe_load((PODS / f"{name}.yaml").read_text())


def test_protected_pods_are_counted():
    assert audit([pod("triton.patched"), pod("tfserving.patched")]) == (0, "2 pods asked to be protected, 0 open\n", "")


def test_open_pods_are_listed():
    code, said, _ = audit([pod("triton.patched"), pod("triton")])
    assert code == 1
    assert said.splitlines() == [
        "vision/resnet: has no sidecar",
        "vision/resnet: container triton: gRPC port 8001 is open to the network",
        "vision/resnet: container triton: REST port 8000 is open to the network",
        "vision/resnet: container triton: metrics port 8002 is open to the network",
        "2 pods asked to be protected, 1 open",
    ]


def test_namespaces_ask_for_all_of_their_pods(tmp_path):
    unlabelled = pod("triton")
    del unlabelled["metadata"]["labels"]
    assert audit([unlabelled])[0] == 0
    namespace = {"kind": "Namespace", "metadata": {"name": "vision", "labels": {"refrain.dev/injection": "enabled"}}}
    file = tmp_path / "namespaces.json"
    file.write_text(json.dumps({"kind": "List", "items": [namespace]}))
    assert audit([unlabelled], "--namespaces", file)[0] == 1


def test_what_is_no_list_of_pods_is_told():
    code, _, said = audit([{"kind": "Service"}])
    assert code == 64 and 'expected a list of Pods, found "Service" in it' in said
    ended = subprocess.run([BINARY, "audit", "/no/such/file"], capture_output=True, text=True, timeout=20)
    assert ended.returncode == 64 and "/no/such/file" in ended.stderr
