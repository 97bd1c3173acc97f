"""A stand-in for TensorFlow Serving for the whole run, a Refrain in front of it for each test, and clients of both."""

import contextlib
import dataclasses
import json
import os

import pytest
from asking import Client
from predicting import Predict, question
from refrain import CALLERS, SUSPICIONS, Refrains
from tf_serving import COUNTS, TfServing

# Which models stand behind it: `numpy` in the ordinary run, `tensorflow` for the larger set-up.
KIND = os.environ.get("REFRAIN_TEST_MODELS", "numpy")

# The range of models is said, not learned.
SAID = {"clf": "0..1", "single": "0..1", "floats": "0..1", "integers": "0..255"}
RANGES = "".join(f'[models."{model}"]\nrange = "{span}"\n' for model, span in SAID.items())


class Tfs(Client):
    """Asks one server as one caller, in bytes."""

    def predict(self, request, **options):
        return self.call(Predict, request, **options)

    def ask(self, model, pictures, **form):
        return self.predict(question(model, pictures, **form))

    def counts(self):
        """What has reached the stand-in so far, by model and by method."""
        return json.loads(self.call(COUNTS, b"").body)


@pytest.fixture(scope="session")
def server():
    with TfServing(KIND) as running:
        yield running


@pytest.fixture(scope="session")
def direct(server):
    """Asks the stand-in itself."""
    with contextlib.closing(Tfs(server.grpc)) as client:
        yield client


@pytest.fixture
def refrain(server, tmp_path):
    """Starts proxies: `refrain()` with the tests' ordinary configuration, which `top` (top-level keys) and `tables` extend."""
    proxies = Refrains(tmp_path)

    def start(top="", tables="", *flags):
        config = f"{top}\n{CALLERS}\n{RANGES}\n{tables}\n"
        return proxies.start(config, f"http://127.0.0.1:{server.grpc}", *flags, suspicions=SUSPICIONS)

    yield start
    proxies.stop()


@pytest.fixture
def clients(refrain):
    """Makes clients: `clients(proxy, user="alice")`; they are closed before any proxy is told to end."""
    with contextlib.ExitStack() as stack:

        def make(proxy, user=None):
            return stack.enter_context(contextlib.closing(Tfs(proxy.port, user=user)))

        yield make


@pytest.fixture
def proxied(refrain, clients):
    """Asks through a fresh Refrain, as the caller alice."""
    return clients(refrain(), user="alice")


@dataclasses.dataclass
class Reached:
    requests: int = 0
    rows: int = 0


@pytest.fixture
def asked(direct):
    """Counts what reaches a model: `with asked("clf_u8") as reached: ...`, then `reached.requests`, `reached.rows`."""

    @contextlib.contextmanager
    def count(model):
        before = direct.counts()
        reached = Reached()
        yield reached
        after = direct.counts()
        reached.requests, reached.rows = (after.get(f"{model} {what}", 0) - before.get(f"{model} {what}", 0) for what in ("requests", "rows"))

    return count
