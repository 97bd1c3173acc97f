"""Webhooks of one test run: one certificate authority, and one process for each set of settings, started when it is first asked for."""

import json

import pytest
from certificates import Authority
from cryptography import x509
from serving import HOST, Case, PODS, Webhook


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def certificate(authority):
    """Chain and key of the Service."""
    return authority.issue("webhook", x509.DNSName(HOST))


@pytest.fixture(scope="session")
def webhooks(tmp_path_factory, authority, certificate):
    """`webhooks(settings)`: a webhook with these settings, shared by the tests that ask for the same."""
    started = {}

    def start(settings):
        key = json.dumps(settings, sort_keys=True)
        if key not in started:
            folder = tmp_path_factory.mktemp("webhook") / "run"
            started[key] = Webhook(folder, settings, authority, *certificate)
        return started[key]

    yield start
    for webhook in started.values():
        assert webhook.process.poll() is None, f"the webhook ended by itself:\n{webhook.said()}"
        assert webhook.stop() == 0, webhook.said()
        assert "panicked" not in webhook.said(), webhook.said()


@pytest.fixture
def webhook(tmp_path, authority, certificate):
    """A webhook of the test's own."""
    webhook = Webhook(tmp_path / "run", Case(PODS / "triton.yaml").settings(), authority, *certificate)
    yield webhook
    assert webhook.process.poll() is None, f"the webhook ended by itself:\n{webhook.said()}"
    assert webhook.stop() == 0, webhook.said()
    assert "panicked" not in webhook.said(), webhook.said()
