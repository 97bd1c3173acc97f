"""What the larger set-up shares: proxies in front of any server, clients of both, and figures for the end of the run."""

import contextlib

import asking
import pytest
from refrain import CALLERS, SUSPICIONS, Refrains

FIGURES = []


@pytest.fixture
def refrain(tmp_path):
    """Starts proxies: `refrain(port)` in front of what listens there, with `tables` added to the ordinary configuration."""
    proxies = Refrains(tmp_path)
    yield lambda port, tables="": proxies.start(f"{CALLERS}\n{tables}\n", f"http://127.0.0.1:{port}", suspicions=SUSPICIONS)
    proxies.stop()


@pytest.fixture
def clients():
    """Makes clients: `clients(port, user="alice")`."""
    with contextlib.ExitStack() as stack:
        yield lambda port, user=None: stack.enter_context(contextlib.closing(asking.Client(port, user=user)))


@pytest.fixture
def figure():
    """Keeps a line of figures to be printed when all tests are done."""
    return FIGURES.append


def pytest_terminal_summary(terminalreporter):
    if FIGURES:
        terminalreporter.section("figures")
        for line in FIGURES:
            terminalreporter.write_line(line)
