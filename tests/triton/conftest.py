"""A real Triton for the whole run, a Refrain in front of it for each test, and clients of both."""

import contextlib
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "servers"), str(ROOT / "tests" / "triton")]

import asking  # noqa: E402
import triton as servers  # noqa: E402
from refrain import CALLERS, SUSPICIONS, Refrains  # noqa: E402

# The range of float models is said, not learned.
RANGES = "".join(f'[models."{model}"]\nrange = "0..1"\n' for model in ("clf", "clf_nchw", "clf_single", "summed"))


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
    """Starts proxies: `refrain()` with the tests' ordinary configuration, which `top` (top-level keys) and `tables` extend.

    `suspicions=None` leaves suspects to the program's own default.
    """
    proxies = Refrains(tmp_path)

    def start(top="", tables="", *flags, callers=CALLERS, upstream=None, variables=None, suspicions=SUSPICIONS):
        config = f"{top}\n{callers}\n{RANGES}\n{tables}\n"
        upstream = upstream or f"http://127.0.0.1:{triton.grpc}"
        return proxies.start(config, upstream, *flags, variables=variables, suspicions=suspicions)

    yield start
    proxies.stop()


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
