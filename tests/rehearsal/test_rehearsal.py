"""A patched pod in a network of its own, with the real Triton: no way round, probes that pass, an end without a failed call."""

import json
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
POD = HERE / "triton.yaml"
SECONDS = 300


@pytest.fixture(scope="module")
def allowed():
    if subprocess.run(["unshare", "--user", "--map-root-user", "--net", "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let a user make a network namespace")


def rehearse(*flags):
    done = subprocess.run([sys.executable, HERE / "rehearse.py", POD, *flags], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_a_patched_pod_serves_through_refrain_alone_and_ends_without_a_failed_call(allowed):
    said = rehearse("--drain", "3")
    assert said["ready_without_model_server"] is False, "the sidecar starts before the model server, and says so"
    assert all(said["probes"].values()), said["probes"]
    assert said["answers_past_us"] == [] and said["answers_on_loopback"] == [9000, 9001, 9002]
    assert said["answers_on_the_callers_port"] and said["forwarded"] > 0
    assert said["operator_pages_from_outside"] == [403, 403]
    assert said["exposed"] == 0

    assert said["off_after"] < 10, "a changed ConfigMap is taken up while calls go on"

    events = said["events"]
    assert said["failures"] == [] and said["answers"] > 200
    assert events["served_while_draining"] > 0, "calls are served between the order to leave and the end"
    assert events["not_ready"] < events["out_of_service"] < events["drained"] < events["model_told"]
    assert events["model_ended"] <= events["sidecar_ended"] < said["grace"]
    assert said["drained_with"] == 0 and said["exit_codes"] == [0, 0] and not said["panicked"]


def test_a_model_server_that_listens_on_all_addresses_is_seen(allowed):
    said = rehearse("--exposed")
    status, why = said["readiness"]
    assert status == 503 and "the model server can be reached past us at 10.244.1.7:9001" in why
    assert said["exposed"] == 1
