"""An attacker who runs our judge at home: he draws transforms of each probe until his copy of the rule says that it will be forwarded unsuspected."""

import numpy as np
from rule import FORWARD, Likenesses, Rules, Session

from adaptive.blinding import chain, cropped, flipped, lit, maybe, noised, shifted, turned
from adaptive.ground import Figure, ask, probe

NAME = "judge at home"
PROBES = 60
DRAWS = 16  # transforms tried at home for each probe

WILD = chain(maybe(flipped), maybe(turned(20)), maybe(cropped(0.75)), maybe(shifted(4)), maybe(lit(0.4)), maybe(noised(15)))
MILD = chain(maybe(turned(8)), maybe(cropped(0.88)), maybe(shifted(2)), maybe(lit(0.3)), maybe(noised(8)))


class Home:
    """His copy of the rule, with every picture that he asked about."""

    def __init__(self, first, rules=None):
        self.rules = rules or Rules()
        self.session = Session(self.seen(first), self.rules)
        self.session.judge(0)

    def seen(self, picture):
        return Likenesses(picture[np.newaxis], self.rules)

    def would_pass(self, picture):
        """Whether it would be forwarded unsuspected; nothing is remembered of the question."""
        kept = self.session.of
        self.session.of = Likenesses.joined([kept, self.seen(picture)])
        ruled = self.session._hardened(len(kept))
        self.session.of = kept
        return ruled.ruling == FORWARD and not ruled.suspect

    def sent(self, picture):
        """Remembers what he sent, and says how it will be ruled."""
        self.session.of = Likenesses.joined([self.session.of, self.seen(picture)])
        return self.session.judge(len(self.session.of) - 1)


def choose(ground, home, picture, label, transform, random):
    """The first draw whose label survives and that passes at home; else the first whose label survives."""
    fallback = None
    for _ in range(DRAWS):
        drawn = transform(probe(picture, random), random)
        if ground.label(drawn) != label:
            continue
        if home.would_pass(drawn):
            return drawn
        fallback = drawn if fallback is None else fallback
    return fallback


def measure(ground):
    for name, transform in {"mild": MILD, "wild (flips too)": WILD}.items():
        random = np.random.default_rng(ground.seed)
        true = kept = otherwise = 0
        late = np.zeros(2, int)
        for picture, label in zip(ground.pictures[: ground.count], ground.labels, strict=False):
            asker, home = ground.asker("hardened"), Home(picture)
            ask(asker, picture)
            for number in range(PROBES):
                chosen = choose(ground, home, picture, label, transform, random)
                if chosen is None:
                    continue
                expected, reply = home.sent(chosen), ask(asker, chosen)
                otherwise += (expected.ruling == FORWARD) != reply.asked_the_model
                true, kept = true + reply.asked_the_model, kept + 1
                if number >= PROBES // 2:
                    late += reply.asked_the_model, 1
        what = f"{name} transforms, {DRAWS} tried at home for each of {PROBES} probes"
        yield Figure(NAME, what, "hardened", "near-copies whose label survives, answered by the model", true, kept, 0.02)
        yield Figure(
            NAME,
            f"{what}: the last {PROBES // 2}",
            "hardened",
            "near-copies whose label survives, answered by the model",
            int(late[0]),
            int(late[1]),
        )
        yield Figure(NAME, f"{name}: what he foresaw at home", "hardened", "sidecar ruled otherwise", otherwise, kept, 0.0)
