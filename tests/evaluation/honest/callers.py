"""What Refrain costs honest callers: rows not forwarded, wrong answers, sessions suspected, by kind of traffic and profile.

A wrong answer is a replay whose top-1 class differs from what the model says, asked directly, for that very picture.
"""

import argparse
import collections
import itertools
import sys

from asking import Asker, Refused
from decisions import ADMIN, Decisions
from entries import World
from honest.kinds import DISTINCT, KINDS
from report import Section, percent, share, table

MODELS = ("cifar", "held-out", "photos")
HEAD = [
    *("traffic", "profile", "rows / callers", "replayed", "refused", "suspect, forwarded"),
    *("callers with refusals", "wrong answers", "goal", "model's own unrest"),
]
EXPLAINED = """

*The model's own unrest*: how often its answers to neighbouring rows differ, asked directly.

The CIFAR-10 classifier was trained on the training images, so its answers for them are surer than for new pictures; *cifar-held-out* goes to
a LeNet that was trained on the first 34,000 alone and is asked about the others. Photographs, clips and drawn pictures go to EfficientNet-lite0 (ImageNet, 224 x 224).
"""


class Truth:
    """What the model itself says, asked past Refrain; each picture once."""

    def __init__(self, world):
        self.askers = {model: Asker(world.address("bare"), model) for model in MODELS}
        self.known = {}

    def of(self, model, picture):
        key = hash((model, picture.tobytes()))
        if key not in self.known:
            self.known[key] = self.askers[model].ask(picture).label
        return self.known[key]


def caller(address, truth, model, pictures):
    """One session: what became of each row."""
    asker, seen = Asker(address, model), collections.Counter()
    for picture in pictures:
        seen["rows"] += 1
        try:
            answer = asker.ask(picture)
        except Refused:
            seen["refused"] += 1
            continue
        seen["replayed"] += answer.replayed
        seen["wrong"] += answer.replayed and answer.label != truth.of(model, picture)
    seen["sessions"], seen["refused_sessions"] = 1, int(seen["refused"] > 0)
    return seen


def measure(world, profiles, kinds, count, seed, truth):
    """Rows of figures, one for each kind and profile."""
    found = []
    addresses = {}
    for profile, top in profiles.items():
        address = world.configured(top, ADMIN)
        addresses[profile] = address, Decisions(world.proxies.started[-1])
    for kind in kinds:
        asked = kind.made(count(kind), seed)
        unrest = _unrest(truth, kind, asked)
        for profile, (address, says) in addresses.items():
            says.since()
            total = collections.Counter()
            for pictures in asked:
                total += caller(address, truth, kind.model, pictures)
            reasons = {f"{ruling} {reason}": rows for (ruling, reason), rows in sorted(says.since().items())}
            told = sum(rows for key, rows in reasons.items() if key.startswith("replay"))
            assert told == total["replayed"], f"{kind.name}: {total['replayed']} replays seen, Refrain tells of {told}"
            figures = {key: total[key] for key in ("rows", "sessions", "replayed", "refused", "wrong", "refused_sessions")}
            suspects = sum(rows for key, rows in reasons.items() if key.split()[0] == "forward" and key.split()[1] not in ("new", "exact"))
            found.append({"kind": kind.name, "profile": profile, "suspect": suspects, "unrest": unrest, **figures, "reasons": reasons})
            print(kind.name, profile, figures, reasons, file=sys.stderr, flush=True)
    return found


def _unrest(truth, kind, asked):
    """How often the model's own answers to neighbouring rows differ: what no memory can follow. Where rows are near-copies only."""
    if kind.goal == DISTINCT:
        return None
    labels = [[truth.of(kind.model, picture) for picture in pictures] for pictures in asked]
    pairs = [a != b for own in labels for a, b in itertools.pairwise(own)]
    return sum(pairs) / len(pairs)


def row_of(kind, figures):
    rows = figures["rows"]
    goal = "" if kind.goal is None else percent(kind.goal) + (" met" if figures["wrong"] <= kind.goal * rows else " **missed**")
    return [
        kind.name,
        figures["profile"],
        f"{rows:,} / {figures['sessions']}",
        percent(figures["replayed"] / rows),
        percent(figures["refused"] / rows),
        percent(figures["suspect"] / rows),
        f"{figures['refused_sessions']}",
        share(figures["wrong"], rows),
        goal,
        "" if figures["unrest"] is None else percent(figures["unrest"]),
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=2_500, help="rows of each kind on CIFAR-10; photographs: a quarter")
    parser.add_argument("--training", type=int, default=15_360, help="rows of CIFAR-10's training images, of each kind")
    parser.add_argument("--only", nargs="*", help="kinds by name")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    kinds = [kind for kind in KINDS if not args.only or kind.name in args.only]

    def count(kind):
        return args.training if kind.name in ("cifar-training", "cifar-held-out") else args.images if kind.model == "cifar" else max(40, args.images // 4)

    profiles = {"hardened": 'profile = "hardened"\n', "paper": 'profile = "paper"\n'}
    name = "honest" if not args.only else "honest-part"
    with Section(name, "What it costs honest callers", args.seed) as section, World(*MODELS) as world:
        found = measure(world, profiles, kinds, count, args.seed, Truth(world))
        section.data["rows"] = found
        section.text = told(kinds, found)


def told(kinds, found):
    by_name = {kind.name: kind for kind in kinds}
    rows = [row_of(by_name[figures["kind"]], figures) for figures in found]
    return table(HEAD, rows) + "\n" + "\n".join(f"* **{kind.name}**: {kind.about}." for kind in kinds) + EXPLAINED


if __name__ == "__main__":
    main()
