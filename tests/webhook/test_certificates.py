"""Certificates that somebody else makes: read again when they change, and never replaced by what cannot be used."""

import contextlib
import json
import shutil
import signal
import ssl
import subprocess
import time

import pytest
from cryptography import x509
from serving import BINARY, HOST, PODS, Case, Webhook, admission_review, toml

CASE = Case(PODS / "triton.yaml")


@contextlib.contextmanager
def started(tmp_path, authority, certificate, key):
    webhook = Webhook(tmp_path / "run", CASE.settings(), authority, certificate, key)
    try:
        yield webhook
    finally:
        assert webhook.stop() == 0, webhook.said()


def serial(webhook):
    with webhook.connect() as connection:
        return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True)).serial_number


def is_so(condition, within=15):
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_reloaded_on_change(tmp_path, authority, certificate):
    files = [tmp_path / "tls.crt", tmp_path / "tls.key"]
    install = lambda pair: [shutil.copy(source, target) for source, target in zip(pair, files)]
    install(certificate)
    with started(tmp_path, authority, *files) as webhook:
        first = serial(webhook)
        assert webhook.tell("/readyz") == (200, "ready\n")
        # A certificate without its key, then with it.
        renewed = authority.issue("webhook", x509.DNSName(HOST))
        shutil.copy(renewed[0], files[0])
        is_so(lambda: "the old one stays" in webhook.said())
        assert serial(webhook) == first
        shutil.copy(renewed[1], files[1])
        is_so(lambda: serial(webhook) != first)
        loaded = x509.load_pem_x509_certificate(files[0].read_bytes())
        assert serial(webhook) == loaded.serial_number
        expiry = webhook.metric("refrain_webhook_certificate_expiry_timestamp_seconds")
        assert expiry == loaded.not_valid_after_utc.timestamp()
        # Gone, or no certificate at all: what is served stays.
        files[0].write_text("not a certificate")
        is_so(lambda: webhook.said().count("the old one stays") == 2)
        files[0].unlink()
        assert webhook.ask(CASE.pod)["allowed"]


def test_another_name_is_not_trusted(webhook):
    with pytest.raises(ssl.SSLCertVerificationError):
        raw = __import__("socket").create_connection(("127.0.0.1", webhook.port))
        webhook.context().wrap_socket(raw, server_hostname="other.refrain.svc")


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"certificates": {"certificate": "/no/such/file"}}, "/no/such/file: No such file"),
        ({"kubernetes": "new", "sidecar": {"imagine": 1}}, "sidecar.imagine: unknown key"),
        ({"listen": "everywhere"}, "listen: "),
    ],
)
def test_wrong_settings_are_told(tmp_path, certificate, change, sentence):
    settings = CASE.settings(certificates={"certificate": str(certificate[0]), "key": str(certificate[1])})
    for key, value in change.items():
        settings[key] = settings[key] | value if isinstance(value, dict) else value
    file = tmp_path / "webhook.toml"
    file.write_text(toml(settings))
    ended = subprocess.run([BINARY, "webhook", "--settings", file], capture_output=True, text=True, timeout=20)
    assert ended.returncode in (1, 64) and sentence in ended.stderr, ended


def test_outside_a_cluster_self_made_certificates_are_told_to_need_one(tmp_path):
    file = tmp_path / "webhook.toml"
    file.write_text(toml(CASE.settings(certificates={"mode": "self"})))
    environment = {"PATH": "/usr/bin", "HOME": str(tmp_path)}
    ended = subprocess.run([BINARY, "webhook", "--settings", file], env=environment, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1 and "needs to run in a cluster" in ended.stderr, ended


def test_a_review_in_flight_is_answered_before_the_end(tmp_path, authority, certificate):
    webhook = Webhook(tmp_path / "run", CASE.settings(), authority, *certificate)
    body = json.dumps(admission_review(CASE.pod)).encode()
    with webhook.connect() as connection:
        head = f"POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:100])
        is_so(lambda: webhook.tell("/readyz")[0] == 200)
        webhook.process.send_signal(signal.SIGTERM)
        is_so(lambda: "stopping" in webhook.said())
        connection.sendall(body[100:])
        reply = b""
        while b'"allowed":true' not in reply:
            part = connection.recv(1 << 16)
            assert part, reply
            reply += part
    assert webhook.stop() == 0 and "stopped" in webhook.said()
