"""What Refrain itself says it ruled, read from its admin page: the judge of our counting, and the reasons that no reply shows."""

import re
import time
import urllib.request

SECONDS = 20  # for it to say where its admin page is
ADMIN = '[admin]\nlisten = "127.0.0.1:0"\n'
LINE = re.compile(r"^refrain_decisions_total\{([^}]*)\} (\d+)", re.M)


class Decisions:
    """Counts of a sidecar's rulings and reasons since the last look."""

    def __init__(self, proxy):
        deadline = time.monotonic() + SECONDS
        while "admin on" not in proxy.said() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.url, self.known = f"http://127.0.0.1:{proxy.admin}/metrics", {}

    def since(self):
        """{(ruling, reason): rows} since the last call."""
        with urllib.request.urlopen(self.url, timeout=10) as reply:
            page = reply.read().decode()
        now = {}
        for labels, count in LINE.findall(page):
            named = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            key = (named["ruling"], named["reason"])
            now[key] = now.get(key, 0) + int(count)
        passed = {key: count - self.known.get(key, 0) for key, count in now.items() if count > self.known.get(key, 0)}
        self.known = now
        return passed
