"""Radii and window by measurement, on the tuning split: probes that slip through against wrong answers to honest callers.

The rule is rule.py's copy, which `agreement.py` holds against the sidecar; what is chosen here is confirmed through the sidecar on the report split.
"""

import argparse
import collections
import dataclasses
import sys

import matplotlib
import numpy as np
from adaptive import at_home
from adaptive.ground import Ground
from recordings import attacks, blinded, honest, kept
from report import RESULTS, Section, percent, share, table
from rule import FORWARD, REFUSE, REPLAY, Likenesses, Rules, Session

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

OFF = {
    "bits": {"reuse_bits": -1, "suspect_bits": -1},
    "positions": {"reuse_positions": -1024, "suspect_positions": -1024},
    "cells": {"reuse_cells": 65, "suspect_cells": 17},
    "relief": {"suspect_correlation": 2.0},
    "palette": {"suspect_palette": 0.0},
}
SUBSETS = [(name,) for name in OFF]
SUBSETS += [("bits", "positions"), ("bits", "cells"), ("positions", "cells"), ("bits", "positions", "cells"), tuple(OFF)]
# One setting at a time, the others at their defaults.
ONE = {
    "reuse_bits": [0, 5, 10, 15, 25],
    "reuse_positions": [0, 10, 30, 60, 102],
    "reuse_cells": [56, 60, 62, 63, 64, 65],
    "cell_level": [8, 12, 16, 20, 24],
    "cell_contrast": [0.2, 0.35, 0.5, 0.75, 1.0],
    "bits_share": [0.1, 0.15, 0.2, 1.0],
    "guard_level": [10, 15, 20, 30, 60],
    "guard_share": [0.9, 0.95, 0.98, 0.99],
    "guard_cell": [10, 20, 24, 32, 40],
    "suspect_bits": [10, 18, 25, 32, 40],
    "suspect_positions": [30, 60, 102, 150],
    "suspect_cells": [10, 11, 12, 13, 14, 17],
    "suspect_level": [5, 8, 10, 12, 16],
    "suspect_cast_level": [0, 4, 6, 8, 10],
    "suspect_contrast": [0.2, 0.3, 0.4, 0.6],
    "suspect_correlation": [0.8, 0.85, 0.9, 0.93, 0.95, 2],
    "suspect_palette": [0, 0.04, 0.06, 0.07, 0.08, 0.1],
    "palette_chroma": [4, 8, 12, 16],
    "suspicions": [0, 1, 2, 4, 8, 32, 1_000_000],
    "anchors_never_hit": [1, 8, 32, 128, 512],
}
# The rule as it was first written, and what each part that the figures asked for does on top of the ones before it.
FIRST = {
    "bits_share": 1.0,
    "suspect_contrast": 0.0,
    "plain": False,
    "suspect_palette": 0.0,
    "suspect_correlation": 2.0,
    "guard_share": 0.95,
    "guard_cell": 40,
    "suspicions": 8,
}
STEPS = {
    "as first written": set(),
    "+ bits by share": {"bits_share"},
    "+ suspicion by contrast": {"suspect_contrast"},
    "+ no evidence in plain grounds": {"plain"},
    "+ no suspect is forwarded": {"suspicions"},
    "+ palette": {"suspect_palette"},
    "+ a narrower guard": {"guard_share", "guard_cell"},
    "+ correlation (as it is)": {"suspect_correlation"},
}


def steps():
    """Each step's name and settings; what a step adds stays."""
    kept = set()
    for name, added in STEPS.items():
        kept |= added
        yield name, {setting: value for setting, value in FIRST.items() if setting not in kept}


PROPOSED = dict(steps())


class Tried:
    """Every recording under any rules; what is measured is measured once."""

    def __init__(self, probes, blinds, traffic):
        self.probes, self.blinds, self.traffic, self.made = probes, blinds, traffic, {}

    def likenesses(self, name, number, pictures, rules):
        key = name, number, rules.plain
        if key not in self.made:
            self.made[key] = Likenesses(pictures, rules), {}
        return self.made[key]

    def attack(self, name, rules):
        """(forwarded, replayed, refused) of the probes after the first."""
        count = collections.Counter()
        for number, pictures in enumerate((self.probes | self.blinds)[name]):
            likenesses, measured = self.likenesses(name, number, pictures, rules)
            session = Session(likenesses, rules, measured)
            count += collections.Counter([session.judge(row).ruling for row in range(len(pictures))][1:])
        return count

    def caller(self, name, rules):
        """Rulings of an honest kind, wrong answers and suspects among them."""
        count = collections.Counter(rows=0)
        for number, (pictures, labels) in enumerate(zip(*self.traffic[name], strict=True)):
            likenesses, measured = self.likenesses(name, number, pictures, rules)
            session = Session(likenesses, rules, measured)
            for row in range(len(pictures)):
                ruled = session.judge(row)
                count["rows"] += 1
                count[ruled.ruling] += 1
                count["suspect"] += ruled.suspect
                count["wrong"] += ruled.ruling == REPLAY and labels[ruled.anchor] != labels[row]
        return count

    def all_of(self, rules, traffic=True):
        found = {"attacks": {name: dict(self.attack(name, rules)) for name in self.probes}}
        found["blinded"] = {name: dict(self.attack(name, rules)) for name in self.blinds}
        if traffic:
            found["honest"] = {name: dict(self.caller(name, rules)) for name in self.traffic}
        return found


def missed(found, which="attacks"):
    """The share of all probes that the model answered."""
    counts = found[which].values()
    return sum(c.get(FORWARD, 0) for c in counts) / sum(sum(c.values()) for c in counts)


def asked(found, name):
    count = (found["attacks"] | found["blinded"])[name]
    return count.get(FORWARD, 0) / sum(count.values())


NATURAL = {"recompressed", "shots", "video, moving", "video, face", "CIFAR-10 augmented"}  # near-copies by nature


def harmed(found, what, names=None):
    """The share of distinct honest rows that were answered wrong, or refused."""
    counts = [c for name, c in found["honest"].items() if (name not in NATURAL if names is None else name in names)]
    return sum(c.get(what, 0) for c in counts) / sum(c["rows"] for c in counts)


def changed(settings):
    return dataclasses.replace(Rules(), **settings)


def line(name, found):
    near = harmed(found, "wrong", NATURAL)
    return [
        name,
        percent(missed(found)),
        percent(missed(found, "blinded")),
        percent(harmed(found, "wrong")),
        percent(harmed(found, REFUSE)),
        percent(harmed(found, "suspect")),
        percent(near),
    ]


HEAD = [
    "rules",
    "probes answered by the model",
    "blinded probes",
    "wrong, distinct pictures",
    "refused, distinct pictures",
    "suspect, distinct pictures",
    "wrong, near-copies by nature",
]


def contributions(tried):
    """Each subset of the distances: how many probes of each attack it keeps from the model, and what it does to each kind of honest traffic."""
    found = {}
    for subset in SUBSETS:
        off = [setting for name, settings in OFF.items() if name not in subset for setting in settings.items()]
        found[" + ".join(subset)] = tried.all_of(changed(dict(off)))
        print(subset, file=sys.stderr, flush=True)
    kept_from = [
        [
            name,
            *(
                share(sum(c.values()) - c.get(FORWARD, 0), sum(c.values())).split(" (")[0]
                for c in ((f["attacks"] | f["blinded"])[name] for f in found.values())
            ),
        ]
        for name in tried.probes | tried.blinds
    ]
    cost = [
        [
            name,
            *(
                " / ".join(
                    percent(f["honest"][name].get(what, 0) / f["honest"][name]["rows"]).removesuffix(" %")
                    for what in (REPLAY, REFUSE, "wrong")
                )
                for f in found.values()
            ),
        ]
        for name in tried.traffic
    ]
    text = "#### Probes kept from the model\n\n" + table(["attack", *found], kept_from)
    return found, text + "\n#### Honest rows replayed / refused / answered wrong, per cent\n\n" + table(["traffic", *found], cost)


def judged_at_home(images, seed):
    """Under each of the proposed rules: how many of the probes that an attacker picks at home, by those rules, the model answers."""
    rows = []
    for name, settings in PROPOSED.items():
        random, true, of = np.random.default_rng(seed), 0, 0
        ground = Ground(None, images, seed, "tuning")
        for picture, label in zip(ground.pictures[:images], ground.labels, strict=False):
            home = at_home.Home(picture, changed(settings))
            for _ in range(at_home.PROBES):
                chosen = at_home.choose(ground, home, picture, label, at_home.MILD, random)
                if chosen is not None:
                    true, of = true + (home.sent(chosen).ruling == FORWARD), of + 1
        rows.append([name, share(true, of)])
        print("at home", rows[-1], file=sys.stderr, flush=True)
    return table(["rules", f"of {at_home.PROBES} probes a picture, the best of {at_home.DRAWS} mild transforms each"], rows)


def curve(tried):
    """All radii of reuse, or all of suspicion, drawn in or out together."""
    reuse, suspect, found = Rules(), Rules(), {"reuse": [], "suspect": []}
    for scale in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0):
        settings = {
            "reuse": {
                "reuse_bits": int(reuse.reuse_bits * scale),
                "reuse_positions": int(reuse.reuse_positions * scale),
                "cell_level": int(reuse.cell_level * scale),
                "cell_contrast": reuse.cell_contrast * scale,
            },
            "suspect": {
                name: int(getattr(suspect, name) * scale)
                for name in ("suspect_bits", "suspect_positions", "suspect_level", "suspect_cast_level")
            },
        }
        for which, changes in settings.items():
            found[which].append((scale, tried.all_of(changed(changes))))
        print("scale", scale, file=sys.stderr, flush=True)
    return found


def plot(curves, variants):
    """Searches against wrong answers, where the radii of reuse matter; blinded probes against refusals, where those of suspicion do."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.6))
    sides = [("attacks", "wrong", "answered wrong"), ("blinded", REFUSE, "refused")]
    for axis, (which, what, said) in zip(axes, sides, strict=True):
        for name, points in curves.items():
            x, y = [100 * harmed(f, what) for _, f in points], [100 * missed(f, which) for _, f in points]
            axis.plot(x, y, marker="o", markersize=3, label=f"radii of {name} × 0 … 3")
            for (scale, _), at in zip(points, zip(x, y, strict=True), strict=True):
                axis.annotate(f"{scale:g}", at, fontsize=7)
        for marker, (name, found) in zip("XsPD^v<>*", variants.items(), strict=False):
            axis.plot(100 * harmed(found, what), 100 * missed(found, which), marker=marker, linestyle="", label=name)
        axis.set_xlabel(f"distinct honest pictures {said}, %")
        axis.set_ylabel(
            "probes of searches that the model answered, %" if which == "attacks" else "blinded probes that the model answered, %"
        )
    axes[1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(RESULTS / "sweep.png", dpi=110)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=10, help="pictures that each attack is recorded on")
    parser.add_argument("--queries", type=int, default=300, help="queries of each attack")
    parser.add_argument("--rows", type=int, default=1_024, help="rows of CIFAR-10; less of the other kinds")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    tried = Tried(
        kept("attacks", attacks, args.images, args.queries, args.seed),
        kept("blinded", blinded, args.images, args.queries, args.seed),
        kept("honest", honest, args.rows, args.seed),
    )
    with Section("sweep", "Radii and window by measurement (tuning split)", args.seed) as section:
        variants = {name: tried.all_of(changed(settings)) for name, settings in PROPOSED.items()}
        section.data["proposed"] = variants
        section.text = "### The rule as it is, and as it could be\n\n" + table(
            HEAD, [line(name, found) for name, found in variants.items()]
        )
        section.text += "\nHonest rows refused / answered wrong, per cent:\n\n" + table(
            ["traffic", *variants],
            [
                [
                    name,
                    *(
                        " / ".join(
                            percent(f["honest"][name].get(w, 0) / f["honest"][name]["rows"]).removesuffix(" %") for w in (REFUSE, "wrong")
                        )
                        for f in variants.values()
                    ),
                ]
                for name in tried.traffic
            ],
        )
        section.write()
        section.text += "\nProbes that the model answered:\n\n" + table(
            ["attack", *variants],
            [[name, *(percent(asked(f, name)) for f in variants.values())] for name in tried.probes | tried.blinds],
        )
        section.write()
        print(section.text, file=sys.stderr, flush=True)
        section.text += "\n### The judge at home, under each\n\n" + judged_at_home(args.images, args.seed)
        section.write()
        section.data["subsets"], text = contributions(tried)
        section.text += f"\n### What each distance contributes\n\n{text}"
        section.write()
        curves = curve(tried)
        section.data["curves"] = curves
        plot(curves, variants)
        section.text += "\n### Missed probes against harm to honest callers\n\n![missed probes against wrong answers](sweep.png)\n"
        section.text += "\n" + table(
            HEAD, [line(f"{which} radii × {scale:g}", found) for which, points in curves.items() for scale, found in points]
        )
        section.write()
        rows, section.data["one"] = [], {}
        for name, values in ONE.items():
            for value in values:
                found = tried.all_of(changed({name: value}))
                section.data["one"][f"{name} = {value}"] = found
                rows.append(line(f"`{name} = {value}`" + (" (default)" if value == getattr(Rules(), name) else ""), found))
            print(name, file=sys.stderr, flush=True)
        section.text += "\n### One setting at a time\n\n" + table(HEAD, rows)
        section.text += (
            f"\nAttacks: {args.images} pictures, {args.queries} queries each, the clean picture first, recorded on the bare classifier: "
            + ", ".join(tried.probes)
            + ".\n"
        )


if __name__ == "__main__":
    np.seterr(all="raise")
    main()
