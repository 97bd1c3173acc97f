"""What the operator sees, seen by what operators use: an OTLP receiver, Triton's own tracing, Prometheus and promtool."""

import json
import pathlib
import re
import statistics
import subprocess
import time
import urllib.error
import urllib.request

import pytest
import triton as servers
import wire
from asking import question
from observers import PROMTOOL, ROOT, Prometheus, Rotel
from pictures import one_pixel, photo
from refrain import BINARY

METHOD = "inference.GRPCInferenceService/ModelInfer"
ADMIN = ("--admin", "127.0.0.1:0")


@pytest.fixture
def rotel():
    with Rotel() as receiver:
        yield receiver


def exporting(rotel, protocol, **more):
    """The environment of a process that exports to rotel, and soon."""
    port = rotel.grpc if protocol == "grpc" else rotel.http
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
        "OTEL_SERVICE_NAME": "guard",
        **more,
    }


def page(proxy, path, **headers):
    request = urllib.request.Request(f"http://127.0.0.1:{proxy.admin}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as reply:
        return reply.read().decode()


def of_refrain(spans):
    return [span for span in spans if span["attributes"].get("rpc.method") == METHOD or span["name"] in ("read", "judge", "settle", "hold")]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_forwarded_and_a_short_circuited_call_reach_a_real_receiver_whole(rotel, refrain, clients, protocol):
    alice = clients(refrain(variables=exporting(rotel, protocol)), user="alice")
    first = alice.ask("clf_u8", photo(0))
    assert alice.ask("clf_u8", one_pixel(photo(0), seed=1)) == first
    servers_of = lambda spans: [span for span in spans if span["kind"] == "Server"]  # noqa: E731
    spans = rotel.until(lambda spans: len(servers_of(spans)) == 2)
    said = {span["attributes"]["refrain.decision"]: span for span in servers_of(spans)}
    forwarded, replayed = said["forwarded"], said["short_circuited"]
    parts = lambda call: sorted(  # noqa: E731
        (span["name"], span["kind"], span["status"]) for span in spans if span["parent"] == call["span"]
    )
    inner = lambda name: (name, "Internal", "Unset")  # noqa: E731
    assert parts(forwarded) == sorted([inner("read"), inner("judge"), (METHOD, "Client", "Unset"), inner("settle")])
    assert [part for part in parts(replayed) if part[0] != "hold"] == sorted([inner("read"), inner("judge")])
    for call in (forwarded, replayed):
        assert (call["name"], call["status"], call["parent"]) == (METHOD, "Unset", "")
        wanted = {"rpc.system.name": "grpc", "rpc.method": METHOD, "rpc.status_code": "OK", "refrain.model.name": "clf_u8"}
        wanted |= {"refrain.session.key_source": "metadata", "refrain.batch.size": "1"}
        assert {name: call["attributes"].get(name) for name in wanted} == wanted
    assert forwarded["links"] == [] and replayed["links"] == [(forwarded["trace"], forwarded["span"])]
    assert "alice" not in rotel.said() and "guard" in rotel.said()


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_real_receiver_is_pushed_what_the_page_shows(rotel, refrain, clients, protocol):
    proxy = refrain("", "", *ADMIN, variables=exporting(rotel, protocol))
    alice = clients(proxy, user="alice")
    for picture in (photo(0), one_pixel(photo(0), seed=1), photo(1)):
        assert alice.ask("clf_u8", picture).code == "OK"
    call = (("rpc.method", METHOD), ("rpc.status_code", "OK"), ("rpc.system.name", "grpc"))
    decided = lambda decision, reason, ruling: (  # noqa: E731
        "refrain.decisions",
        (("decision", decision), ("model", "clf_u8"), ("reason", reason), ("ruling", ruling)),
    )
    wanted = {
        ("rpc.server.call.duration", call): ("s", "Histogram", 3),
        ("rpc.client.call.duration", call): ("s", "Histogram", 2),
        ("refrain.match.distance", (("exact", "false"), ("model", "clf_u8"))): ("{bit}", "Histogram", 2),
        decided("forwarded", "new", "forward"): ("{row}", "Sum", 2),
        ("refrain.sessions.active", ()): ("{session}", "Sum", 1),
        ("refrain.upstream.ready", ()): ("", "Gauge", 1),
    }
    points = rotel.until_metrics(lambda points: all(points.get(series) == point for series, point in wanted.items()))
    shown = page(proxy, "/metrics")
    for (name, attributes), (_, _, number) in points.items():
        if name == "refrain.decisions":
            labels = ",".join(f'{label}="{value}"' for label, value in attributes)
            assert f"refrain_decisions_total{{{labels}}} {number:g}\n" in shown
    assert sum(number for (name, _), (_, _, number) in points.items() if name == "refrain.decisions") == 3
    assert "alice" not in rotel.said() and "service.name: Str(guard)" in rotel.said()


def test_the_last_push_is_at_the_end(rotel, refrain, clients):
    proxy = refrain(variables=exporting(rotel, "grpc", OTEL_METRIC_EXPORT_INTERVAL="3600000"))
    assert clients(proxy, user="alice").ask("clf_u8", photo(0)).code == "OK"
    assert rotel.metrics() == {}
    proxy.stop()
    assert rotel.until_metrics(bool)[("refrain.forwarded_rows", ())] == ("{row}", "Sum", 1)


def test_metrics_that_nobody_takes_cost_a_warning_and_counters(refrain, clients):
    """To a port where nobody listens, every 50 ms: no call fails or waits, and what is kept does not grow."""
    (nobody,) = servers.free_ports(1)
    dead = {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"http://127.0.0.1:{nobody}", "OTEL_METRIC_EXPORT_INTERVAL": "50"}
    took, kept = {}, {}
    for name, variables in (("dead", dead), ("none", {})):
        proxy = refrain("", "", *ADMIN, variables=variables)
        alice = clients(proxy, user="alice")
        took[name] = []
        for turn in range(400):
            began = time.perf_counter()
            assert alice.ask("clf_u8", photo(turn % 8)).code == "OK"
            took[name].append(time.perf_counter() - began)
            if turn in (100, 399):
                kept.setdefault(name, []).append(resident(proxy.process.pid))
        if name == "dead":
            failed = lambda: int(re.search(r'failed_exports_total\{signal="metrics"\} (\d+)', page(proxy, "/metrics"))[1])  # noqa: E731
            deadline = time.monotonic() + 30
            while failed() < 3:
                assert time.monotonic() < deadline, page(proxy, "/metrics")
                time.sleep(0.05)
            assert re.search(r'telemetry_dropped_total\{signal="metrics"\} [1-9]', page(proxy, "/metrics"))
            assert proxy.said().count("the collector does not take telemetry") == 1
    dead, none = (statistics.median(took[name]) for name in ("dead", "none"))
    assert dead < 2 * none + 0.001, (dead, none)
    assert kept["dead"][1] < kept["dead"][0] + (8 << 20), kept


def resident(pid):
    """The memory of a process, in bytes."""
    return int(re.search(r"VmRSS:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) << 10


def test_triton_continues_our_trace(rotel, refrain, clients):
    url = f"http://127.0.0.1:{rotel.http}/v1/traces"
    flags = ("mode=opentelemetry", f"opentelemetry,url={url}", "level=TIMESTAMPS", "rate=1")
    with servers.Triton(*(f"--trace-config={flag}" for flag in flags), only=("clf_u8",)) as traced:
        proxy = refrain(upstream=f"http://127.0.0.1:{traced.grpc}", variables=exporting(rotel, "http/protobuf"))
        # One call at a time: Triton 2.51 dies of tracing two at once. And several, since it begins a trace of its own for some, as it does for
        # some of those that a client sends it without us.
        pictures = range(12)
        for each in pictures:
            assert clients(proxy, user=f"caller {each}").ask("clf_u8", photo(each)).code == "OK"
        theirs_of = lambda spans: [span for span in spans if span["name"] == "InferRequest"]  # noqa: E731
        spans = rotel.until(lambda spans: len(theirs_of(spans)) == len(pictures))
        ours = {(span["trace"], span["span"]) for span in spans if span["kind"] == "Client" and span["name"] == METHOD}
        assert len(ours) == len(pictures)
        continued = [(span["trace"], span["parent"]) for span in theirs_of(spans) if span["parent"]]
        assert continued and set(continued) <= ours
        assert len(set(continued)) == len(continued)


def test_callers_get_the_same_with_telemetry_and_without(rotel, refrain, clients):
    """Header by header, trailer by trailer, byte by byte; questions that fail among them."""
    from asking import question

    said = []
    for proxy in (refrain(), refrain("", "", *ADMIN, variables=exporting(rotel, "grpc"))):
        alice = clients(proxy, user="alice")
        metadata = (("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), ("baggage", "a=b"))
        replies = [alice.ask("clf_u8", picture, metadata=metadata) for picture in (photo(0), one_pixel(photo(0), seed=1), photo(1))]
        replies.append(alice.ask("clf_u8", [photo(0), photo(2)], id="two"))
        unknown = question("clf_u8", photo(0))
        unknown.model_name = "nobody"
        wrong = question("clf_u8", photo(0))
        wrong.inputs[0].shape[1] = 7
        replies += [alice.infer(unknown), alice.infer(wrong), alice.call("ModelStatistics", b""), alice.call("/a.B/C", b"")]
        said.append(replies)
    assert said[0] == said[1]


def test_prometheus_scrapes_us_and_promtool_has_nothing_to_find(refrain, clients):
    proxy = refrain("", "", *ADMIN)
    alice = clients(proxy, user="alice")
    for picture in (photo(0), one_pixel(photo(0), seed=1), photo(1)):
        alice.ask("clf_u8", picture)
    metrics = page(proxy, "/metrics")
    checked = subprocess.run([PROMTOOL, "check", "metrics"], input=metrics, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    assert "alice" not in metrics and "127.0.0.1" not in metrics
    asked_for_another = page(proxy, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert "# EOF" not in asked_for_another and "# TYPE refrain_decisions_total counter" in asked_for_another
    with Prometheus(f"127.0.0.1:{proxy.admin}") as prometheus:
        (series,) = prometheus.until('refrain_decisions_total{decision="short_circuited",model="clf_u8"}')
        assert series["value"][1] == "1"


@pytest.mark.parametrize("command", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts.test.yaml")])
def test_promtool_accepts_the_alerts_and_each_fires_when_it_should(command):
    checked = subprocess.run([PROMTOOL, *command], cwd=ROOT / "telemetry", capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_has_a_paragraph_and_a_test():
    alerts = re.findall(r"(?m)^\s+- alert: (\w+)$", (ROOT / "telemetry/alerts.yaml").read_text())
    guide, tests = (ROOT / "telemetry/README.md").read_text(), (ROOT / "telemetry/alerts.test.yaml").read_text()
    assert len(alerts) == 5
    for alert in alerts:
        assert f"### {alert}\n" in guide and f"alertname: {alert}\n" in tests


def expressions():
    dashboard = json.loads((ROOT / "telemetry/dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$job", ".*").replace("$__rate_interval", "30s")
            assert "$" not in expression, f"{panel['title']}: {expression}"
            yield panel["title"], expression


def test_every_query_of_the_dashboard_returns_series_from_a_running_instance(refrain, clients):
    # Memory for so little that something leaves it.
    tables = '[store]\nanchors_never_hit = 2\nsuspicions = 2\n[timing]\nmode = "sample"\n'
    proxy = refrain("", tables, *ADMIN)
    alice = clients(proxy, user="alice")
    with Prometheus(f"127.0.0.1:{proxy.admin}") as prometheus:
        prometheus.until("refrain_build_info")
        for turn in range(12):
            # A patch is too much for an earlier answer, and near enough to be suspect.
            patched = photo(turn).copy()
            patched[4:12, 4:12] = 255 - patched[4:12, 4:12]
            for picture in (photo(turn), one_pixel(photo(turn), seed=turn), photo(turn), patched):
                alice.ask("clf_u8", picture)
            alice.call("/a.B/C", b"")
            prometheus.until(f"refrain_forwarded_rows_total >= {turn + 1}")
        # How far the paths are apart is said once 128 replies of each are known.
        for turn in range(130):
            for picture in (photo(0), one_pixel(photo(0), seed=1)):
                body = wire.message(question("clf_u8", picture).SerializeToString())
                assert wire.call(proxy.port, f"/{METHOD}", body, headers=[("x-user", f"caller {turn}")]).status == 0
        prometheus.until("refrain_hiding_gap")
        empty = [(title, expression) for title, expression in expressions() if not prometheus.query(expression)]
        assert empty == []


def test_tune_reads_what_a_sidecar_measured(refrain, clients):
    proxy = refrain('mode = "observe"', "", *ADMIN)
    alice = clients(proxy, user="alice")
    for turn in range(6):
        alice.ask("clf_u8", photo(turn))
    run = lambda *words: subprocess.run([BINARY, "tune", *words], capture_output=True, text=True)  # noqa: E731
    tuned = run(f"http://127.0.0.1:{proxy.admin}/metrics")
    assert tuned.returncode == 0 and "reuse_bits = 10" in tuned.stdout, tuned
    assert run(f"http://127.0.0.1:{proxy.admin}/nothing").returncode == 1


def test_what_is_logged_changes_while_it_runs(refrain, clients):
    proxy = refrain("", "", *ADMIN, "--log-json")
    alice = clients(proxy, user="alice")
    put = lambda filter: urllib.request.urlopen(  # noqa: E731
        urllib.request.Request(f"http://127.0.0.1:{proxy.admin}/log", data=filter.encode(), method="PUT"), timeout=10
    )
    pair = [photo(0), one_pixel(photo(0), seed=1)]
    short_circuits = lambda: proxy.said().count("rows short-circuited")  # noqa: E731
    for picture in pair:
        alice.ask("clf_u8", picture)
    assert short_circuits() == 1
    assert put("error").read() == b"error\n"
    alice.ask("clf_u8", pair[0])
    assert short_circuits() == 1
    put("info")
    alice.ask("clf_u8", pair[0])
    assert short_circuits() == 2
    with pytest.raises(urllib.error.HTTPError, match="400"):
        put("refrain=loud")
