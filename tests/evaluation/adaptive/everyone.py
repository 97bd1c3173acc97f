"""All attackers that the paper ignores, one after another: a table of what came off."""

import argparse
import dataclasses
import importlib
import sys

from report import Section, percent, share, table

from adaptive.ground import Ground, World

ATTACKERS = ["two_queries", "blinding", "drift", "packing", "spreading", "outside", "at_home", "decoys", "identities", "patience"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=ATTACKERS, choices=ATTACKERS)
    parser.add_argument("--name", default="adaptive")
    args = parser.parse_args()
    with (
        Section(args.name, "The attackers that the paper ignores", args.seed) as section,
        World("cifar", "cifar-float", "cropped", "picked") as world,
    ):
        section.data["figures"] = []
        for name in args.only:
            attacker = importlib.import_module(f"adaptive.{name}")
            section.text += f"### {attacker.NAME}\n\n{attacker.__doc__}\n\n"
            found = []
            for figure in attacker.measure(Ground(world, args.images, args.seed)):
                print(figure, file=sys.stderr, flush=True)
                found.append(figure)
            section.text += table(["variant", "profile", "counted", "came off", "goal"], [row_of(figure) for figure in found]) + "\n"
            section.data["figures"] += [dataclasses.asdict(figure) for figure in found]
            section.write()


def row_of(figure):
    goal = ""
    if figure.goal is not None:
        goal = f"≤ {percent(figure.goal)} " + ("met" if figure.hits <= figure.goal * figure.of else "**missed**")
    return [figure.variant, figure.profile, figure.counted, share(figure.hits, figure.of), goal]


if __name__ == "__main__":
    main()
