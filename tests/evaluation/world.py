"""The real Triton with the classifiers under attack, and Refrain in front of it in any number of configurations."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: two cores carry the server, the sidecar and the attacker

import pathlib  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import threading  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / part) for part in ("servers", "evaluation")]

import classifiers  # noqa: E402
import triton as servers  # noqa: E402
from refrain import BINARY, CALLERS, Refrains  # noqa: E402

PROGRAM = BINARY  # under test
SERVED = ROOT / "tests" / "evaluation" / "classifiers" / "served"

CONFIG = """backend: "python"
max_batch_size: 16
input {{ name: "image" data_type: TYPE_UINT8 format: FORMAT_NHWC dims: [ 32, 32, 3 ] }}
output {{ name: "probabilities" data_type: TYPE_FP32 dims: [ 10 ] }}
output {{ name: "serial" data_type: TYPE_INT64 dims: [ 1 ] }}
parameters {{ key: "file" value {{ string_value: "{file}" }} }}
"""

# What an attacker meets, by the name that the tables use: nothing, or Refrain in one of its profiles.
GUARDS = {
    "bare": "",
    "off": 'mode = "off"\n',
    "paper": 'profile = "paper"\n',
    "hardened": 'profile = "hardened"\n',
}

# Replies are not held: time is tests/timing's matter, and these measurements would take days. The store has room for every
# session of a run, so that none is evicted for want of memory.
TIMING = '[timing]\nmode = "off"\n'
SETTINGS = TIMING + '[store]\nbytes = "1GiB"\n'


class Triton(servers.Triton):
    """The server with the classifiers `names`."""

    def __init__(self, names):
        super().__init__()
        self.names = names

    def write_models(self):
        for name in self.names:
            entry = self.repository / name
            (entry / "1").mkdir(parents=True)
            (entry / "config.pbtxt").write_text(CONFIG.format(file=classifiers.path(name)))
            shutil.copy(SERVED / "model.py", entry / "1")


class World:
    """One server; `address(guard)` is where it is asked, past Refrain (`bare`) or through it."""

    def __init__(self, names):
        self.triton = Triton(names)

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
        self.folder = tempfile.TemporaryDirectory(prefix="refrain-evaluation-")
        self.proxies = Refrains(pathlib.Path(self.folder.name))
        self.known = {}
        try:
            self.triton.__enter__()
        except BaseException:
            self.folder.cleanup()
            raise
        return self

    def __exit__(self, *_):
        try:
            self.proxies.stop()
        finally:
            self.triton.__exit__()
            self.folder.cleanup()

    def again(self):
        """Ends all and starts it anew: Triton gives a model up for good whose process stood still for a while."""
        self.__exit__()
        self.triton = Triton(self.triton.names)
        self.__enter__()

    def address(self, guard):
        """Where to ask: `guard` is a name of GUARDS, or the text of a configuration (TOML, top-level keys first)."""
        if guard == "bare":
            return f"127.0.0.1:{self.triton.grpc}"
        if guard not in self.known:
            self.known[guard] = self.configured(self.text(guard), settings="")
        return self.known[guard]

    @staticmethod
    def text(guard):
        """The configuration behind a guard, but for what names the callers: empty for none."""
        text = GUARDS.get(guard, guard)
        return text and text + (TIMING if "[store]" in text else SETTINGS)

    def configured(self, top="", rest="", settings=SETTINGS):
        """The address of a new Refrain: `top` are top-level keys, `rest` more sections, `settings` those of this evaluation."""
        proxy = self.proxies.start(top + settings + rest + CALLERS, f"http://127.0.0.1:{self.triton.grpc}")
        return f"127.0.0.1:{proxy.port}"
