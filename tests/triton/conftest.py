"""A real Triton for the whole run, a Refrain in front of it for each test, and clients of both."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "servers"), str(ROOT / "tests" / "triton")]

import asking  # noqa: E402
import triton as servers  # noqa: E402

BINARY = pathlib.Path(os.environ.get("REFRAIN_BIN", ROOT / "target" / "release" / "refrain"))
START_SECONDS = 20
STOP_SECONDS = 30

# The callers of the tests name themselves; the range of float models is said, not learned.
CALLERS = '[caller]\nmetadata = "x-user"\ntrusted_peers = ["127.0.0.0/8"]\n'
RANGES = "".join(f'[models."{model}"]\nrange = "0..1"\n' for model in ("clf", "clf_nchw", "clf_single", "summed"))


class Refrain:
    """One running `refrain proxy`, ended by its own process id."""

    def __init__(self, folder, config, upstream, *flags):
        folder.mkdir()
        (folder / "refrain.toml").write_text(config)
        self.log = folder / "log"
        command = [BINARY, "proxy", "--config", folder / "refrain.toml", "--listen", "127.0.0.1:0", "--upstream", upstream]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("REFRAIN_", "OTEL_"))}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*command, *flags], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.port = self._listening()

    def _listening(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if found := re.search(r"listening on 127\.0\.0\.1:(\d+)", plain(self.said())):
                return int(found[1])
            if self.process.poll() is not None:
                pytest.fail(f"refrain ended with {self.process.returncode} before it listened:\n{self.said()}")
            time.sleep(0.01)
        self.process.kill()
        self.process.wait()
        pytest.fail(f"refrain said no address within {START_SECONDS} s:\n{self.said()}")

    def said(self):
        return self.log.read_text(errors="replace")

    def stop(self):
        """Asks it to end; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"refrain did not end within {STOP_SECONDS} s of SIGTERM:\n{self.said()}")


def plain(text):
    """Text without the colours of a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


class Table:
    """Tables that are printed when all tests are done: `table(title, heads)` begins or goes on with one, `table.row(cells)` adds."""

    printed = {}

    def __call__(self, title, heads):
        self.title = title
        if title not in self.printed:
            self.row(heads)

    def row(self, cells):
        self.printed.setdefault(self.title, []).append("".join(f"{cell!s:>10}" for cell in cells))


@pytest.fixture
def table():
    return Table()


def pytest_terminal_summary(terminalreporter):
    for title, lines in Table.printed.items():
        terminalreporter.write_line("\n".join(["", title, *lines]))


@pytest.fixture(scope="session")
def triton():
    with servers.Triton() as server:
        yield server


@pytest.fixture(scope="session")
def direct(triton):
    """Asks Triton itself."""
    client = asking.Client(triton.grpc)
    yield client
    client.close()


@pytest.fixture
def refrain(triton, tmp_path):
    """Starts proxies: `refrain()` with the tests' ordinary configuration, which `top` (top-level keys) and `tables` extend."""
    started = []

    def start(top="", tables="", *flags, callers=CALLERS, upstream=None):
        config = f"{top}\n{callers}\n{RANGES}\n{tables}\n"
        upstream = upstream or f"http://127.0.0.1:{triton.grpc}"
        proxy = Refrain(tmp_path / f"refrain-{len(started)}", config, upstream, *flags)
        started.append(proxy)
        return proxy

    yield start
    for proxy in started:
        ended = proxy.process.poll()
        assert ended is None, f"refrain ended by itself with {ended}:\n{proxy.said()}"
        assert proxy.stop() == 0, proxy.said()
        assert "panicked" not in proxy.said(), proxy.said()


@pytest.fixture
def clients(refrain):
    """Makes clients: `clients(proxy, user="alice")`; they are closed before any proxy is told to end."""
    with contextlib.ExitStack() as stack:

        def make(port, **options):
            client = asking.Client(getattr(port, "port", port), **options)
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture
def proxied(refrain, clients):
    """Asks Triton through a fresh Refrain, as the caller alice."""
    return clients(refrain(), user="alice")


@pytest.fixture
def asked(direct):
    """Counts what reaches a model: `with asked("clf_u8") as reached: ...`, then `reached.requests`, `reached.rows`."""

    @contextlib.contextmanager
    def count(model):
        requests, rows = asking.counts(direct, model)
        reached = asking.Asked()
        yield reached
        after = asking.counts(direct, model)
        reached.requests, reached.rows = after[0] - requests, after[1] - rows

    return count
