"""Large bodies, slow clients and floods do not take the webhook down: others are answered meanwhile."""

import contextlib
import http.client
import json
import pathlib
import socket
import ssl
import threading
import time

import pytest
from serving import HOST, PODS, Case, admission_review

CASE = Case(PODS / "triton.yaml")
ELSEWHERE = "127.0.0.2"
PATIENCE = 10


def memory(webhook):
    """Resident bytes of the process."""
    lines = pathlib.Path(f"/proc/{webhook.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


def highest(webhook):
    """The most resident bytes that the process ever had."""
    lines = pathlib.Path(f"/proc/{webhook.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def is_well(webhook, source=ELSEWHERE):
    assert webhook.ask(CASE.pod, source=source)["allowed"]
    assert webhook.tell("/livez") == (200, "alive\n")


def test_ten_megabytes_are_refused_unread(webhook):
    before = memory(webhook)
    for _ in range(20):
        connection = http.client.HTTPConnection(HOST)
        connection.sock = webhook.connect()
        with contextlib.closing(connection):
            connection.putrequest("POST", "/mutate")
            connection.putheader("content-type", "application/json")
            connection.putheader("content-length", str(10 << 20))
            connection.endheaders()
            reply = connection.getresponse()
            assert reply.status == 413 and b"at most 4194304 bytes" in reply.read()
    assert memory(webhook) - before < 16 << 20
    is_well(webhook)


def test_ten_megabytes_without_a_length_are_refused(webhook):
    connection = http.client.HTTPConnection(HOST)
    connection.sock = webhook.connect()

    def body():
        for _ in range(160):
            yield b" " * (64 << 10)

    with contextlib.closing(connection):
        try:
            connection.request("POST", "/mutate", body(), {"content-type": "application/json"}, encode_chunked=True)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            pass  # it is refused while it is sent
        else:
            assert connection.getresponse().status == 413
    is_well(webhook)
    assert webhook.metric('refrain_webhook_reviews_total{outcome="unreadable"}') == 1


@pytest.mark.parametrize(
    "before, part, after",
    [("[", "[],", "[]]"), ('{"spec": {"containers": [', "{},", "{}]}}"), ('{"spec": {"tolerations": [', "{},", "{}]}}")],
    ids=["lists", "containers", "tolerations"],
)
def test_what_would_grow_in_memory_is_refused(webhook, before, part, after):
    """What takes 3 bytes on the wire and a thousand as a container."""
    review = json.dumps(admission_review(None))
    body = review.replace('"object": null', f'"object": {before}{part * 1_300_000}{after}').encode()
    start, statuses = memory(webhook), []

    def ask():
        # Without room for its bytes a connection is turned away while it sends.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            statuses.append(webhook.post(body)[0])

    with contextlib.ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(running(ask))
    assert set(statuses) <= {400, 503} and 400 in statuses, statuses
    assert highest(webhook) - start < 96 << 20, f"{highest(webhook) >> 20} MiB"
    is_well(webhook)


@contextlib.contextmanager
def running(work):
    thread = threading.Thread(target=work)
    thread.start()
    yield thread
    thread.join()


def ends(stream, within):
    """How long until the other side closes."""
    stream.settimeout(within)
    start = time.monotonic()
    try:
        while stream.recv(1 << 16):
            pass
    except (ConnectionResetError, ssl.SSLError):
        pass
    return time.monotonic() - start


def test_who_says_nothing_is_cut_off(webhook):
    silent = [socket.create_connection(("127.0.0.1", webhook.port)) for _ in range(8)]
    greeted = webhook.connect()
    begun = webhook.connect()
    begun.sendall(b"POST /mutate HTTP/1.1\r\nhost: x\r\n")
    with contextlib.ExitStack() as stack:
        for each in [*silent, greeted, begun]:
            stack.enter_context(each)
        is_well(webhook)
        for each in [*silent, greeted, begun]:
            assert ends(each, 3 * PATIENCE) < 3 * PATIENCE


def test_a_body_a_byte_at_a_time_runs_out_of_time(webhook):
    with webhook.connect() as slow:
        slow.sendall(b"POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n")
        slow.settimeout(0.25)
        start, reply = time.monotonic(), b""
        while not reply and time.monotonic() - start < 3 * PATIENCE:
            slow.sendall(b" ")
            with contextlib.suppress(TimeoutError):
                reply = slow.recv(4096)
        assert b" 408 " in reply, reply
    is_well(webhook)


def test_a_flood_of_connections_leaves_places_for_others(webhook):
    with contextlib.ExitStack() as stack:
        flood = [stack.enter_context(socket.create_connection(("127.0.0.1", webhook.port))) for _ in range(300)]
        assert len(flood) == 300
        is_well(webhook)
        deadline = time.monotonic() + 5
        while webhook.metric("refrain_webhook_connections_refused_total") < 300 - 64 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert webhook.metric("refrain_webhook_connections_refused_total") == 300 - 64
    is_well(webhook)


def test_a_flood_of_reviews_is_answered(webhook):
    outcomes = []

    def ask(source):
        for _ in range(25):
            outcomes.append(webhook.ask(CASE.pod, source=source)["allowed"])

    with contextlib.ExitStack() as stack:
        for caller in range(8):
            stack.enter_context(running(lambda source=f"127.0.0.{10 + caller}": ask(source)))
    assert outcomes == [True] * 200
    assert webhook.metric('refrain_webhook_reviews_total{outcome="patched"}') == 200


def test_many_reviews_on_one_connection(webhook):
    connection = http.client.HTTPConnection(HOST)
    connection.sock = webhook.connect()
    with contextlib.closing(connection):
        for _ in range(50):
            connection.request("POST", "/mutate", json.dumps(admission_review(CASE.pod)), {"content-type": "application/json"})
            reply = connection.getresponse()
            assert reply.status == 200 and b'"allowed":true' in reply.read()


def test_who_does_not_speak_tls_is_cut_off(webhook):
    with socket.create_connection(("127.0.0.1", webhook.port), timeout=20) as plain:
        plain.sendall(b"POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        assert ends(plain, 20) < 20
    old = webhook.context()
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        raw = socket.create_connection(("127.0.0.1", webhook.port), timeout=20)
        old.wrap_socket(raw, server_hostname=HOST)
    is_well(webhook)
