"""Starts the real receivers of telemetry on the loopback interface: rotel for OTLP, Prometheus for metrics.

Standard library only. Each is a context manager that ends its own process and no other.
"""

import json
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

from triton import ROOT, free_ports

ROTEL = next(iter((ROOT / "target/test-venv-telemetry/lib").glob("python3*/site-packages/rotel/rotel-agent")), None)
PROMETHEUS = ROOT / "target/test-prometheus/usr/bin/prometheus"
PROMTOOL = ROOT / "target/test-prometheus/usr/bin/promtool"
START_SECONDS = 20
STOP_SECONDS = 20


class Program:
    """A program that runs as long as the context; its output is kept."""

    def command(self, folder):
        raise NotImplementedError

    def is_up(self):
        raise NotImplementedError

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="refrain-observer-")
        folder = pathlib.Path(self.folder.name)
        self.output = folder / "output"
        command = self.command(folder)
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder)
        deadline = time.monotonic() + START_SECONDS
        while not self.is_up():
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = self.said()
                self.__exit__()
                raise RuntimeError(f"{command[0]} did not come up:\n{said}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.folder.cleanup()

    def said(self):
        return self.output.read_text(errors="replace")


class Rotel(Program):
    """An OTLP receiver over gRPC and HTTP that prints what it is sent."""

    def __init__(self):
        self.grpc, self.http = free_ports(2)

    def command(self, folder):
        if ROTEL is None:
            raise RuntimeError("rotel is not there: run tests/servers/install")
        return [
            *(str(ROTEL), "start", "--exporter", "blackhole"),
            *("--otlp-grpc-endpoint", f"127.0.0.1:{self.grpc}", "--otlp-http-endpoint", f"127.0.0.1:{self.http}"),
            *("--debug-log", "traces", "--debug-log", "logs", "--debug-log", "metrics", "--debug-log-verbosity", "detailed"),
            *("--pid-file", str(folder / "pid"), "--log-file", str(folder / "log")),
        ]

    def is_up(self):
        for port in (self.grpc, self.http):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1)
            except urllib.error.HTTPError:
                pass
            except (urllib.error.URLError, OSError) as error:
                if "refused" in str(error):
                    return False
            except Exception:  # the gRPC port does not speak HTTP/1.1
                pass
        return True

    def spans(self):
        """The spans printed so far, each a dictionary."""
        return list(spans_in(self.said()))

    def until(self, enough, seconds=20):
        """The spans, once `enough(spans)`."""
        return self._once(self.spans, enough, seconds)

    def metrics(self):
        """The points printed so far, the latest of each series: name and sorted attributes to unit, kind and value or count."""
        return dict(points_in(self.said()))

    def until_metrics(self, enough, seconds=20):
        """The points, once `enough(points)`."""
        return self._once(self.metrics, enough, seconds)

    def _once(self, look, enough, seconds):
        deadline = time.monotonic() + seconds
        while not enough(seen := look()):
            assert time.monotonic() < deadline, f"not in {seconds} s:\n{self.said()}"
            time.sleep(0.2)
        return seen


def points_in(text):
    """rotel's text into points of metrics."""
    for block in re.split(r"(?m)^Metric #\d+\s*$", text)[1:]:
        block = re.split(r"(?m)^(?:Resource|Scope)(?:Spans|Logs|Metrics) ?#?", block)[0]
        head, *points = re.split(r"(?m)^\w*DataPoints? #\d+\s*$", block)
        field = lambda name: re.search(rf"(?m)^ *-> {name}: *(.*?)\s*$", head)[1]  # noqa: E731
        for point in points:
            attributes = tuple(sorted(re.findall(r"(?m)^\s+-> ([\w.]+): \w+\((.*)\)\s*$", point)))
            value = re.search(r"(?m)^(?:Value|Count): *([\d.]+)\s*$", point)
            yield (field("Name"), attributes), (field("Unit"), field("DataType"), float(value[1]))


def spans_in(text):
    """rotel's text into spans: name, kind, ids, status, attributes, links."""
    for block in re.split(r"(?m)^Span #\d+\s*$", text)[1:]:
        block = re.split(r"(?m)^(?:ResourceSpans|ResourceLogs|ResourceMetrics|ScopeSpans|Resource SchemaURL|ScopeLogs) ?#?", block)[0]
        links = re.split(r"(?m)^Links:\s*$", block)
        field = lambda name, part=links[0]: (re.search(rf"(?m)^ *{name} *: *(.*?)\s*$", part) or [None, ""])[1]  # noqa: E731
        yield {
            "name": field("Name"),
            "kind": field("Kind").removeprefix("SPAN_KIND_").capitalize(),
            "trace": field("Trace ID"),
            "span": field("ID"),
            "parent": field("Parent ID"),
            "status": field("Status code").removeprefix("STATUS_CODE_").capitalize(),
            "attributes": dict(re.findall(r"(?m)^\s+-> ([\w.]+): \w+\((.*)\)\s*$", links[0])),
            "links": re.findall(r"(?m)^ *(?:-> )?Trace ID *: *(\w+)\s*\n *(?:-> )?(?:Span )?ID *: *(\w+)", links[1]) if len(links) > 1 else [],
        }


class Prometheus(Program):
    """A Prometheus that scrapes one target every second."""

    def __init__(self, target, rules=None):
        (self.port,) = free_ports(1)
        self.target, self.rules = target, rules

    def command(self, folder):
        if not PROMETHEUS.exists():
            raise RuntimeError("Prometheus is not there: run tests/servers/install")
        config = "global: { scrape_interval: 1s, evaluation_interval: 1s }\n"
        config += f"rule_files: [{json.dumps(str(self.rules))}]\n" if self.rules else ""
        config += f"scrape_configs: [{{ job_name: refrain, static_configs: [{{ targets: ['{self.target}'] }}] }}]\n"
        (folder / "prometheus.yml").write_text(config)
        return [
            *(str(PROMETHEUS), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
            *(f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"),
        ]

    def is_up(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=1).status == 200
        except (urllib.error.URLError, OSError):
            return False

    def query(self, expression):
        """The series that an expression comes to."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/query?{query}", timeout=10) as reply:
            return json.load(reply)["data"]["result"]

    def until(self, expression, seconds=30):
        """The series, once there are any."""
        deadline = time.monotonic() + seconds
        while not (series := self.query(expression)):
            assert time.monotonic() < deadline, f"no series of {expression} in {seconds} s:\n{self.said()}"
            time.sleep(0.5)
        return series
