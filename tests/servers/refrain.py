"""Starts Refrain as its users do: the program, a configuration file, a log."""

import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("REFRAIN_BIN", ROOT / "target" / "release" / "refrain"))
START_SECONDS = 20
STOP_SECONDS = 30

# The callers of the tests name themselves.
CALLERS = '[caller]\nmetadata = "x-user"\ntrusted_peers = ["127.0.0.0/8"]\n'


# Replays are held from the first, so that what reached the model can be counted; under `sample` the first of a stratum are shadowed.
HELD = '[timing]\nmode = "mean"\n'

# Suspect rows of a session that are forwarded where a test asks about something else than suspicion; by default none is.
SUSPICIONS = 8


class Refrain:
    """One running `refrain proxy`, ended by its own process id."""

    def __init__(self, folder, config, upstream, *flags, variables=None):
        folder.mkdir()
        (folder / "refrain.toml").write_text(config)
        self.log = folder / "log"
        command = [BINARY, "proxy", "--config", folder / "refrain.toml", "--listen", "127.0.0.1:0", "--upstream", upstream]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("REFRAIN_", "OTEL_"))}
        environment |= variables or {}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*command, *flags], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.told_to_stop = False
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

    @property
    def admin(self):
        """The port of its admin pages, where it has them."""
        return int(re.search(r"admin on 127\.0\.0\.1:(\d+)", plain(self.said()))[1])

    def said(self):
        return self.log.read_text(errors="replace")

    def stop(self):
        """Asks it to end; returns its exit code."""
        if self.process.poll() is None:
            self.told_to_stop = True
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


class Refrains:
    """Any number of proxies for one test, each in a folder of its own, all ended and looked over when it is done."""

    def __init__(self, folder):
        self.folder, self.started = folder, []

    def start(self, config, upstream, *flags, variables=None, suspicions=None):
        if "[timing]" not in config:
            config += HELD
        if suspicions is not None and "suspicions" not in config:
            variables = {"REFRAIN_STORE__SUSPICIONS": str(suspicions)} | (variables or {})
        proxy = Refrain(self.folder / f"refrain-{len(self.started)}", config, upstream, *flags, variables=variables)
        self.started.append(proxy)
        return proxy

    def stop(self):
        for proxy in self.started:
            ended = proxy.process.poll()
            assert ended is None or proxy.told_to_stop, f"refrain ended by itself with {ended}:\n{proxy.said()}"
            assert proxy.stop() == 0, proxy.said()
            assert "panicked" not in proxy.said(), proxy.said()
