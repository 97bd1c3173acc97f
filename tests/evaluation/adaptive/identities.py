"""Many identities: each probe, or every few, by a caller without a past. What Refrain does not stop, and what it costs the attacker."""

import numpy as np
from asking import Asker, Spent
from attacks import library, norms
from attacks.attempt import Attempt

from adaptive.ground import Figure

NAME = "identities"
BUDGET = 1_000


class Many(Asker):
    """A caller who takes another name after every so many questions; the budget is that of all his names."""

    def __init__(self, *about, each, **more):
        super().__init__(*about, **more)
        self.each, self.first, self.names = each, self.caller, 1

    def ask(self, picture):
        if self.budget is not None and self.asked >= self.budget:
            raise Spent
        if self.asked and self.asked % self.each == 0:
            self.caller, self.names = f"{self.first}-{self.names}", self.names + 1
        return super().ask(picture)


def measure(ground):
    for profile in ("hardened", "paper"):
        for each in (1, 2, 10, 100):
            success = forwarded = asked = names = 0
            pictures = ground.pictures[: max(2, ground.count // 4)]
            for picture, label in zip(pictures, ground.labels, strict=False):
                np.random.seed(ground.seed)
                asker = Many(ground.world.address(f'profile = "{profile}"\n'), "cifar", each=each, budget=BUDGET)
                attempt = Attempt(asker, picture, label, norms.linf(8))
                attempt.run(library.square(8))
                success += attempt.adversary is not None
                forwarded, asked, names = forwarded + asker.forwarded, asked + asker.asked, names + asker.names
            what = f"Square 8/255, {BUDGET:,} probes, another caller after {each}"
            yield Figure(NAME, f"{what} ({names / len(pictures):.0f} names a picture)", profile, "attack succeeds", success, len(pictures))
            yield Figure(NAME, what, profile, "probes answered by the model", forwarded, asked)
